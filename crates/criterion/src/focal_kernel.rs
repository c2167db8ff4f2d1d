//! Focal loss and its gradient in one pass over the logits, for the CPU: nearly all of a batch's
//! values are logits, and the chain of tensor operations makes some thirty passes.
#![expect(
    clippy::inline_always,
    reason = "what is not inlined is not compiled for the CPU at hand"
)]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::targets::{BACKGROUND, IGNORED};

/// The loss, `-alpha_t * (1 - p_t)^gamma * log(p_t)`, or FL*, `-alpha_t * log(p*_t) / gamma` with
/// `p*_t = sigmoid(gamma * x_t + shift)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Focal {
    /// Of negatives and positives.
    pub(crate) alphas: [f32; 2],
    pub(crate) gamma: f32,
    /// FL*'s β; where given, it is FL*.
    pub(crate) shift: Option<f32>,
    /// How much of `log(p_t)` is `log(1 - p_t)` instead: half of the labels' smoothing.
    pub(crate) smoothing: f32,
}

/// Logits that a thread takes at once.
const CHUNK: usize = 1 << 14;

/// The sum of the losses of an image's anchors, each class on its own, ignored anchors left out. The gradient takes the
/// place of the logits: they are the largest tensor of a step.
///
/// `logits` are `[anchors, classes]`, `labels` `[anchors]`. The blocks do not depend on the number of threads, so neither
/// does the sum.
pub(crate) fn loss_and_gradient(focal: Focal, logits: &mut [f32], labels: &[i32]) -> f64 {
    let classes = logits.len() / labels.len().max(1);
    let anchors = (CHUNK / classes.max(1)).max(1);
    let chunks = logits
        .par_chunks_mut(anchors * classes)
        .zip(labels.par_chunks(anchors));
    let sums = chunks.map_init(Vec::new, |logits, (gradient, labels)| {
        logits.clear();
        logits.extend_from_slice(gradient);
        match (focal.shift, focal.gamma) {
            (Some(_), _) => chunk::<STAR>(focal, logits, labels, gradient),
            (None, 0.0) => chunk::<0>(focal, logits, labels, gradient),
            (None, 1.0) => chunk::<1>(focal, logits, labels, gradient),
            (None, 2.0) => chunk::<2>(focal, logits, labels, gradient),
            (None, _) => chunk::<ANY>(focal, logits, labels, gradient),
        }
    });
    sums.collect::<Vec<f64>>().iter().sum()
}

/// Stands for an exponent that is not a small integer.
const ANY: u8 = u8::MAX;
/// Stands for FL*.
const STAR: u8 = u8::MAX - 1;

fn chunk<const GAMMA: u8>(
    focal: Focal,
    logits: &[f32],
    labels: &[i32],
    gradient: &mut [f32],
) -> f64 {
    let classes = logits.len() / labels.len();
    let mut sum = 0.0;
    let mut anchor = 0;
    for run in labels.chunk_by(|a, b| a == b) {
        let place = anchor * classes..(anchor + run.len()) * classes;
        anchor += run.len();
        let (logits, gradient) = (&logits[place.clone()], &mut gradient[place]);
        match run[0] {
            IGNORED => gradient.fill(0.0),
            BACKGROUND => sum += negatives::<GAMMA>(focal, logits, gradient),
            class => {
                let class = class as usize;
                let rows = logits
                    .chunks_exact(classes)
                    .zip(gradient.chunks_exact_mut(classes));
                for (logits, gradient) in rows {
                    let (before, after) = gradient.split_at_mut(class);
                    let (own, after) = after.split_at_mut(1);
                    sum += negatives::<GAMMA>(focal, &logits[..class], before);
                    sum += negatives::<GAMMA>(focal, &logits[class + 1..], after);
                    let (loss, slope) = element::<GAMMA>(logits[class], focal);
                    sum += f64::from(focal.alphas[1] * loss);
                    own[0] = focal.alphas[1] * slope;
                }
            }
        }
    }
    sum
}

/// Loss and gradient of logits that should be low.
fn negatives<const GAMMA: u8>(focal: Focal, logits: &[f32], gradient: &mut [f32]) -> f64 {
    Arch::new().dispatch(Negatives::<GAMMA> {
        focal,
        logits,
        gradient,
    })
}

struct Negatives<'a, const GAMMA: u8> {
    focal: Focal,
    logits: &'a [f32],
    gradient: &'a mut [f32],
}

impl<const GAMMA: u8> WithSimd for Negatives<'_, GAMMA> {
    type Output = f64;

    /// Plain loops; the compiler vectorises what is inlined here for the CPU at hand.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        const LANES: usize = 16;
        let focal = self.focal;
        let alphas = focal.alphas;
        let mut sums = [0.0_f32; LANES];
        let (blocks, rest) = self.logits.as_chunks::<LANES>();
        let (gradient_blocks, gradient_rest) = self.gradient.as_chunks_mut::<LANES>();
        for (logits, gradient) in blocks.iter().zip(gradient_blocks) {
            for lane in 0..LANES {
                let (loss, slope) = element::<GAMMA>(-logits[lane], focal);
                sums[lane] += loss;
                gradient[lane] = -alphas[0] * slope;
            }
        }
        for (logit, gradient) in rest.iter().zip(gradient_rest) {
            let (loss, slope) = element::<GAMMA>(-logit, focal);
            sums[0] += loss;
            *gradient = -alphas[0] * slope;
        }
        let sum: f64 = sums.iter().map(|sum| f64::from(*sum)).sum();
        sum * f64::from(alphas[0])
    }
}

/// Loss and derivative of an element, without alpha. NaN stays NaN.
#[inline(always)]
fn element<const GAMMA: u8>(signed: f32, focal: Focal) -> (f32, f32) {
    let Focal {
        gamma,
        shift,
        smoothing,
        ..
    } = focal;
    if GAMMA == STAR {
        let (loss, slope) = focal_element::<0>(gamma * signed + shift.unwrap_or(0.0), 0.0, 0.0);
        return (loss / gamma, slope);
    }
    focal_element::<GAMMA>(signed, gamma, smoothing)
}

/// `q^gamma * l` with `p = sigmoid(signed)`, `q = 1 - p` and `l = -log(p)`, of which a share
/// `smoothing` is `-log(q)` instead; and its derivative
/// `q^gamma * (smoothing - q - gamma * p * l)`.
#[inline(always)]
fn focal_element<const GAMMA: u8>(signed: f32, gamma: f32, smoothing: f32) -> (f32, f32) {
    // Everything from e = exp(-|s|), which neither overflows nor cancels.
    let small = exp_of_negative(-signed.abs());
    let inverse = 1.0 / (1.0 + small);
    let [p, q] = if signed < 0.0 {
        [small * inverse, inverse]
    } else {
        [inverse, small * inverse]
    };
    let log = ln_1_plus(small);
    // -log(q) is -log(p) + s.
    let smoothed = if smoothing > 0.0 {
        smoothing * signed
    } else {
        0.0
    };
    let surprise = log + (if signed < 0.0 { -signed } else { 0.0 }) + smoothed;
    let focus = match GAMMA {
        0 => 1.0,
        1 => q,
        2 => q * q,
        // log(q) = -(log(1 + e) + max(s, 0))
        _ => exp_of_negative(-gamma * (log + if signed > 0.0 { signed } else { 0.0 })),
    };
    (
        focus * surprise,
        focus * (smoothing - q - gamma * p * surprise),
    )
}

/// e^x for x ≤ 0, to one unit in the last place; below the smallest normal number that number.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0;
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = if x < -87.0 { -87.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let power = rounded - ROUNDER;
    let r = (x - power * LN2[0]) - power * LN2[1];
    let series = 1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0));
    let series = 0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * series));
    let series = 1.0 + r * (1.0 + r * series);
    series * f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
}

/// log(1 + x) for x in [0, 1], by the series of the area tangent: exact for small x, too.
#[inline(always)]
fn ln_1_plus(x: f32) -> f32 {
    let z = x / (2.0 + x);
    let z2 = z * z;
    let series = 1.0 / 9.0 + z2 * (1.0 / 11.0 + z2 * (1.0 / 13.0));
    let series = 1.0 / 3.0 + z2 * (1.0 / 5.0 + z2 * (1.0 / 7.0 + z2 * series));
    2.0 * z * (1.0 + z2 * series)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exponentials_and_logarithms_are_exact_to_the_last_places() {
        for step in 0..=8_700 {
            let x = -f64::from(step) / 100.0;
            let exact = f64::from(x as f32).exp();
            let error = f64::from(exp_of_negative(x as f32)) / exact - 1.0;
            assert!(error.abs() < 2e-7, "exp({x}): {error:e}");
        }
        for step in 1..=1_000 {
            for scale in [1.0, 1e-3, 1e-9] {
                let x = (f64::from(step) / 1_000.0 * scale) as f32;
                let error = f64::from(ln_1_plus(x)) / f64::from(x).ln_1p() - 1.0;
                assert!(error.abs() < 3e-7, "log(1 + {x}): {error:e}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let mut gradient = [f32::NAN, 0.0];
        let focal = Focal {
            alphas: [0.75, 0.25],
            gamma: 2.0,
            shift: None,
            smoothing: 0.0,
        };
        let sum = loss_and_gradient(focal, &mut gradient, &[BACKGROUND]);
        assert!(sum.is_nan() && gradient[0].is_nan());
    }

    /// The formula in f64, and its derivative.
    fn reference(focal: Focal, logit: f64, positive: bool) -> (f64, f64) {
        let sign = if positive { 1.0 } else { -1.0 };
        let alpha = f64::from(focal.alphas[usize::from(positive)]);
        let (gamma, smoothing) = (f64::from(focal.gamma), f64::from(focal.smoothing));
        let loss = |logit: f64| {
            let signed = sign * logit;
            if let Some(shift) = focal.shift {
                return alpha * (-gamma * signed - f64::from(shift)).exp().ln_1p() / gamma;
            }
            let surprise =
                (1.0 - smoothing) * (-signed).exp().ln_1p() + smoothing * signed.exp().ln_1p();
            let q = 1.0 / (1.0 + signed.exp());
            alpha * q.powf(gamma) * surprise
        };
        let step = 1e-5;
        let slope = (loss(logit + step) - loss(logit - step)) / (2.0 * step);
        (loss(logit), slope)
    }

    proptest! {
        #[test]
        fn the_pass_agrees_with_the_formula_in_f64(
            gamma in prop::sample::select(vec![0.0_f32, 0.5, 1.0, 2.0, 5.0]),
            alpha in 0.05_f32..0.95,
            shift in prop::option::of(-2.0_f32..2.0),
            smoothing in prop::sample::select(vec![0.0_f32, 0.05]),
            classes in 1..40_usize,
            labels in prop::collection::vec(-2..3_i32, 1..30),
            seed in 0.1_f32..9.0,
        ) {
            let labels: Vec<i32> =
                labels.into_iter().map(|label| label.min(classes as i32 - 1)).collect();
            let logits: Vec<f32> = (0..labels.len() * classes)
                .map(|place| 12.0 * (seed * (place + 1) as f32).sin())
                .collect();
            // FL* divides by gamma, and has no smoothing.
            let shift = shift.filter(|_| gamma > 0.0);
            let smoothing = if shift.is_some() { 0.0 } else { smoothing };
            let focal = Focal { alphas: [1.0 - alpha, alpha], gamma, shift, smoothing };
            let mut gradient = logits.clone();
            let sum = loss_and_gradient(focal, &mut gradient, &labels);
            let mut expected_sum = 0.0;
            for (place, &logit) in logits.iter().enumerate() {
                let label = labels[place / classes];
                let (loss, slope) = match label {
                    IGNORED => (0.0, 0.0),
                    _ => reference(focal, f64::from(logit), label == (place % classes) as i32),
                };
                expected_sum += loss;
                let error = (f64::from(gradient[place]) - slope).abs();
                prop_assert!(error < 1e-6 + 1e-5 * slope.abs(), "{} {slope}", gradient[place]);
            }
            let error = (sum - expected_sum).abs();
            prop_assert!(error < 1e-12 + 1e-5 * expected_sum, "{sum} {expected_sum}");
        }
    }
}
