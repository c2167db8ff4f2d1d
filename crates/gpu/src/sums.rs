//! Sums in one order, as kernels in `CubeCL`'s subset of Rust.
#![expect(missing_docs, reason = "the macro makes a module of each function")]

use cubecl::prelude::*;

use crate::UNITS;

/// Halvings from a cube's units to one.
const STAGES: usize = 8;

/// The sum of all values, by one cube.
#[cube(launch)]
pub(crate) fn sum_kernel(values: &[f32], total: &mut [f32]) {
    let unit = UNIT_POS as usize;
    let mut sum = 0.0f32;
    for step in 0..values.len().div_ceil(UNITS) {
        let place = step * UNITS + unit;
        if place < values.len() {
            sum += values[place];
        }
    }
    let all = sum_of_cube(sum);
    if unit == 0 {
        total[0] = all;
    }
}

/// The sum of a value of each of a cube's [`UNITS`], in one order.
#[cube]
pub fn sum_of_cube(value: f32) -> f32 {
    let unit = UNIT_POS as usize;
    let mut sums = Shared::<[f32]>::new_slice(UNITS);
    sums[unit] = value;
    sync_cube();
    let mut reach = UNITS.runtime();
    for _ in 0..STAGES {
        reach /= 2;
        if unit < reach {
            let other = sums[unit + reach];
            sums[unit] += other;
        }
        sync_cube();
    }
    sums[0]
}
