//! The kernels of updates on GPUs, in `CubeCL`'s subset of Rust. A cube is a workgroup, a unit a thread.
#![expect(
    clippy::needless_pass_by_value,
    reason = "a kernel's arguments are its bindings"
)]

use cubecl::prelude::*;
use retinanet_gpu::{UNITS, sum_of_cube};

/// The squares of all values, added up by each of `cubes` cubes, into `parts` from `first` on.
#[cube(launch)]
pub(super) fn sum_of_squares(values: &[f32], parts: &mut [f32], first: usize, cubes: usize) {
    let unit = UNIT_POS as usize;
    let cube = CUBE_POS;
    let mut sum = 0.0f32;
    for step in 0..values.len().div_ceil(cubes * UNITS) {
        let place = (step * cubes + cube) * UNITS + unit;
        if place < values.len() {
            sum += values[place] * values[place];
        }
    }
    let all = sum_of_cube(sum);
    if unit == 0 {
        parts[first + cube] = all;
    }
}

/// A step of SGD: the gradient becomes the new weights.
#[cube(launch)]
pub(super) fn sgd(
    weights: &[f32],
    gradient: &mut [f32],
    velocity: &mut [f32],
    rate: f32,
    momentum: f32,
    decay: f32,
) {
    let place = ABSOLUTE_POS;
    if place < weights.len() {
        let weight = weights[place];
        let moved = momentum * velocity[place] + (gradient[place] + decay * weight);
        velocity[place] = moved;
        gradient[place] = weight - rate * moved;
    }
}

/// The factors of a step of AdamW.
#[derive(CubeLaunch, CubeType)]
pub(super) struct AdamWArguments {
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) size: f32,
    pub(super) square_correction: f32,
    pub(super) keep: f32,
    pub(super) epsilon: f32,
}

/// A step of AdamW: the gradient becomes the new weights.
#[cube(launch)]
pub(super) fn adamw(
    weights: &[f32],
    gradient: &mut [f32],
    mean: &mut [f32],
    square: &mut [f32],
    factors: AdamWArguments,
) {
    let place = ABSOLUTE_POS;
    if place < weights.len() {
        let slope = gradient[place];
        let average = factors.beta1 * mean[place] + (1.0 - factors.beta1) * slope;
        let spread = factors.beta2 * square[place] + (1.0 - factors.beta2) * slope * slope;
        mean[place] = average;
        square[place] = spread;
        let deviation = spread.sqrt() * factors.square_correction + factors.epsilon;
        gradient[place] = factors.keep * weights[place] - factors.size * average / deviation;
    }
}
