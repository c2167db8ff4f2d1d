//! The kernels of focal loss on GPUs, in `CubeCL`'s subset of Rust. A cube is a workgroup, a unit a thread.
#![expect(
    clippy::needless_pass_by_value,
    reason = "a kernel's arguments are its bindings"
)]

use cubecl::prelude::*;
use retinanet_gpu::{UNITS, sum_of_cube};

use crate::targets::IGNORED;

/// Logits that a unit adds up.
pub(super) const LOGITS_OF_UNIT: usize = 16;

/// Which power of `1 - p_t` the loss has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// Cross-entropy.
    None,
    Linear,
    Square,
    /// Another power.
    Power,
    /// FL*.
    Star,
}

/// The loss's numbers, as [`Focal`](crate::focal_kernel::Focal) has them.
#[derive(CubeLaunch, CubeType)]
pub(super) struct FocalArguments {
    /// α of negatives.
    pub(super) negative: f32,
    /// α of positives.
    pub(super) positive: f32,
    pub(super) gamma: f32,
    pub(super) shift: f32,
    pub(super) smoothing: f32,
}

/// The weighted losses of the logits, `[batch, anchors, classes]`, added up by each cube: `sums` is `[cubes]`.
/// `labels` is `[batch, anchors]`, `weights` `[batch]`.
#[cube(launch)]
pub(super) fn focal_sums(
    logits: &[f32],
    labels: &[i32],
    weights: &[f32],
    sums: &mut [f32],
    focal: FocalArguments,
    anchors: usize,
    classes: usize,
    #[comptime] form: Form,
) {
    let unit = UNIT_POS as usize;
    let cube = CUBE_POS;
    let mut sum = 0.0f32;
    for step in 0..LOGITS_OF_UNIT {
        let place = (cube * LOGITS_OF_UNIT + step) * UNITS + unit;
        if place < logits.len() {
            let label = labels[place / classes];
            if label != IGNORED {
                let positive = label == (place % classes) as i32;
                let logit = logits[place];
                let signed = select(positive, logit, -logit);
                let alpha = select(positive, focal.positive, focal.negative);
                let (loss, _slope) = element(signed, &focal, form);
                sum += weights[place / classes / anchors] * alpha * loss;
            }
        }
    }
    let total = sum_of_cube(sum);
    if unit == 0 && cube < sums.len() {
        sums[cube] = total;
    }
}

/// The gradient of the logits, times `above`, `[1]`.
#[cube(launch)]
pub(super) fn focal_gradient(
    logits: &[f32],
    labels: &[i32],
    weights: &[f32],
    above: &[f32],
    gradient: &mut [f32],
    focal: FocalArguments,
    anchors: usize,
    classes: usize,
    #[comptime] form: Form,
) {
    let place = ABSOLUTE_POS;
    if place < gradient.len() {
        let label = labels[place / classes];
        let mut value = 0.0f32;
        if label != IGNORED {
            let positive = label == (place % classes) as i32;
            let logit = logits[place];
            let signed = select(positive, logit, -logit);
            let alpha = select(positive, focal.positive, -focal.negative);
            let (_loss, slope) = element(signed, &focal, form);
            value = above[0] * weights[place / classes / anchors] * alpha * slope;
        }
        gradient[place] = value;
    }
}

/// Loss and derivative of an element, without alpha, as the CPU's kernel computes them. NaN stays NaN.
#[cube]
fn element(signed: f32, focal: &FocalArguments, #[comptime] form: Form) -> (f32, f32) {
    if comptime!(form == Form::Star) {
        let stretched = focal.gamma * signed + focal.shift;
        let (loss, slope) = focal_element(stretched, 0.0, 0.0, Form::None);
        (loss / focal.gamma, slope)
    } else {
        focal_element(signed, focal.gamma, focal.smoothing, form)
    }
}

#[cube]
fn focal_element(signed: f32, gamma: f32, smoothing: f32, #[comptime] form: Form) -> (f32, f32) {
    // Everything from e = exp(-|s|), which neither overflows nor cancels.
    let is_wrong = signed < 0.0;
    let size = select(is_wrong, -signed, signed);
    let small = exp_of_negative(-size);
    let inverse = 1.0 / (1.0 + small);
    let p = select(is_wrong, small * inverse, inverse);
    let q = select(is_wrong, inverse, small * inverse);
    let log = ln_1_plus(small);
    // -log(q) is -log(p) + s.
    let surprise = log + select(is_wrong, -signed, 0.0) + smoothing * signed;
    let mut focus = 1.0f32;
    if comptime!(form == Form::Linear) {
        focus = q;
    } else if comptime!(form == Form::Square) {
        focus = q * q;
    } else if comptime!(form == Form::Power) {
        // log(q) = -(log(1 + e) + max(s, 0))
        focus = exp_of_negative(-gamma * (log + select(is_wrong, 0.0, signed)));
    }
    (
        focus * surprise,
        focus * (smoothing - q - gamma * p * surprise),
    )
}

/// ln 2 in two parts, of which the first times a small integer is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// e^x for x ≤ 0, to one unit in the last place, where a device's own may be off by many; below the smallest normal
/// number that number.
#[cube]
fn exp_of_negative(x: f32) -> f32 {
    let kept = select(x < -87.0f32, -87.0f32, x);
    let power = (kept * LOG2_E + 0.5f32).floor();
    let rest = (kept - power * LN2_HIGH) - power * LN2_LOW;
    let mut series = SEVENTH_FACTORIAL.runtime();
    series = SIXTH_FACTORIAL + rest * series;
    series = FIFTH_FACTORIAL + rest * series;
    series = FOURTH_FACTORIAL + rest * series;
    series = THIRD_FACTORIAL + rest * series;
    series = 0.5f32 + rest * series;
    series = 1.0f32 + rest * series;
    series = 1.0f32 + rest * series;
    let exponent = u32::cast_from(i32::cast_from(power) + 127i32);
    series * f32::reinterpret(exponent << 23u32)
}

const THIRD_FACTORIAL: f32 = 1.0 / 6.0;
const FOURTH_FACTORIAL: f32 = 1.0 / 24.0;
const FIFTH_FACTORIAL: f32 = 1.0 / 120.0;
const SIXTH_FACTORIAL: f32 = 1.0 / 720.0;
const SEVENTH_FACTORIAL: f32 = 1.0 / 5040.0;

const THIRD: f32 = 1.0 / 3.0;
const FIFTH: f32 = 1.0 / 5.0;
const SEVENTH: f32 = 1.0 / 7.0;
const NINTH: f32 = 1.0 / 9.0;
const ELEVENTH: f32 = 1.0 / 11.0;
const THIRTEENTH: f32 = 1.0 / 13.0;

/// log(1 + x) for x in [0, 1], by the series of the area tangent: exact for small x, too.
#[cube]
fn ln_1_plus(x: f32) -> f32 {
    let z = x / (2.0f32 + x);
    let z2 = z * z;
    let mut series = THIRTEENTH.runtime();
    series = ELEVENTH + z2 * series;
    series = NINTH + z2 * series;
    series = SEVENTH + z2 * series;
    series = FIFTH + z2 * series;
    series = THIRD + z2 * series;
    2.0f32 * z * (1.0f32 + z2 * series)
}
