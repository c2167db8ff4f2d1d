//! Distances of a box's sides as distributions (Li et al. 2020, [arXiv 2006.04388](https://arxiv.org/abs/2006.04388)).

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Int, Tensor};

/// How far below the last value a target stays at most, so that there is one on each side of it: mmdetection's
/// `bbox2distance`.
const BELOW_LAST: f64 = 0.1;

/// The mean of the values 0, 1, … under distributions (equation 4).
///
/// # Shapes
///
/// - `logits`: `[positives, 4, bins]`
/// - output: `[positives, 4]`
pub(crate) fn integral(logits: Tensor<3>) -> Tensor<2> {
    let [_, _, bins] = logits.dims();
    let values = Tensor::<1, Int>::arange(0..bins as i64, &logits.device()).float();
    let weighted = softmax(logits, 2) * values.reshape([1, 1, bins]);
    weighted.sum_dim(2).squeeze_dim(2)
}

/// Distribution focal loss (equation 6): cross-entropy of the two values around the target, each as much as the target is
/// near to it.
///
/// ```text
/// y_i <= y < y_(i+1)      DFL = -(y_(i+1) - y) * log(S_i) - (y - y_i) * log(S_(i+1))
/// ```
///
/// # Shapes
///
/// - `logits`: `[positives, 4, bins]`
/// - `targets` and output: `[positives, 4]`
pub(crate) fn distribution_focal_loss(logits: Tensor<3>, targets: Tensor<2>) -> Tensor<2> {
    let [_, _, bins] = logits.dims();
    let targets = targets.clamp(0.0, (bins - 1) as f64 - BELOW_LAST);
    let below = targets.clone().floor();
    let to_upper = targets - below.clone();
    let log_probabilities = log_softmax(logits, 2);
    let at = |place: Tensor<2, Int>| {
        let log_probability = log_probabilities.clone().gather(2, place.unsqueeze_dim(2));
        log_probability.squeeze_dim::<2>(2)
    };
    let place = below.int();
    let (lower, upper) = (at(place.clone()), at(place + 1));
    -(lower * (-to_upper.clone() + 1.0)) - upper * to_upper
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};
    use proptest::prelude::*;

    use super::*;

    /// The formula as it is written, in f64; the target between 0 and the last value.
    fn reference(logits: &[f64], target: f64) -> f64 {
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        let log_probability = |place: usize| logits[place] - total.ln();
        let below = target.floor() as usize;
        let to_upper = target - below as f64;
        -(1.0 - to_upper) * log_probability(below) - to_upper * log_probability(below + 1)
    }

    const BINS: usize = 5;

    fn sides(logits: &[f32]) -> Tensor<3> {
        let device = Device::flex().autodiff();
        Tensor::<1>::from_floats(logits, &device).reshape([1, 4, BINS])
    }

    proptest! {
        #[test]
        fn the_loss_and_its_gradient_are_the_formulas(
            logits in prop::collection::vec(-4_f32..4.0, 4 * BINS),
            targets in prop::array::uniform4(0_f32..3.85),
        ) {
            let tensor = sides(&logits).require_grad();
            let wanted = Tensor::<1>::from_floats(targets, &tensor.device()).reshape([1, 4]);
            let losses = distribution_focal_loss(tensor.clone(), wanted);
            let gradients = losses.clone().sum().backward();
            let found: Vec<f32> = losses.into_data().try_to_vec().unwrap();
            let slopes = tensor.grad(&gradients).unwrap().into_data();
            let slopes: Vec<f32> = slopes.try_to_vec().unwrap();
            for side in 0..4 {
                let logits: Vec<f64> = logits[side * BINS..][..BINS].iter().map(|it| f64::from(*it)).collect();
                let target = f64::from(targets[side]);
                let expected = reference(&logits, target);
                prop_assert!((f64::from(found[side]) - expected).abs() < 1e-5 * expected.abs().max(1.0));
                for bin in 0..BINS {
                    let moved = |step: f64| {
                        let mut logits = logits.clone();
                        logits[bin] += step;
                        reference(&logits, target)
                    };
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    prop_assert!((f64::from(slopes[side * BINS + bin]) - slope).abs() < 1e-4);
                }
            }
        }
    }

    /// Equal probabilities; nearly all on the value 2; 1/4 and 3/4 on 0 and 1; 3 and 4 alike.
    #[test]
    fn the_integral_is_the_mean() {
        let low = -80.0;
        let mut logits = [low; 4 * BINS];
        logits[..BINS].fill(1.0);
        logits[BINS + 2] = 10.0;
        (logits[2 * BINS], logits[2 * BINS + 1]) = (0.0, 3.0_f32.ln());
        (logits[3 * BINS + 3], logits[3 * BINS + 4]) = (7.0, 7.0);
        let expected = Tensor::<2>::from_floats([[2.0, 2.0, 0.75, 3.5]], &Device::flex());
        integral(sides(&logits))
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }

    /// What lies beyond the last value, or behind the centre, is taken for the nearest that can be said.
    #[test]
    fn targets_stay_between_the_first_and_the_last_value() {
        let logits: Vec<f32> = (0..4 * BINS).map(|it| (it as f32).sin()).collect();
        let of = |targets: [[f32; 4]; 1]| {
            let wanted = Tensor::<2>::from_floats(targets, &Device::flex().autodiff());
            distribution_focal_loss(sides(&logits), wanted).into_data()
        };
        of([[-3.0, 4.0, 100.0, 3.95]])
            .assert_approx_eq::<f32>(&of([[0.0, 3.9, 3.9, 3.9]]), Tolerance::absolute(1e-5));
    }
}
