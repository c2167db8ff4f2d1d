//! Sigmoid focal loss, [Lin et al. 2017](https://arxiv.org/abs/1708.02002), equation 5.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use serde::{Deserialize, Serialize};

use crate::CriterionError;
use crate::extension::{FocalBackend, FocalCall};
use crate::focal_kernel::Focal;

/// Settings of the classification loss, `[criterion.class]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassLossConfig {
    /// Which loss.
    pub loss: ClassLossKind,
    /// Weight of the positive class, in `[0, 1]`; negatives weigh `1 - alpha`.
    pub alpha: f64,
    /// Focusing exponent, at least 0.
    pub gamma: f64,
}

impl Default for ClassLossConfig {
    /// The paper's best: α = 0.25, γ = 2 (table 1b).
    fn default() -> Self {
        Self {
            loss: ClassLossKind::Focal,
            alpha: 0.25,
            gamma: 2.0,
        }
    }
}

/// The classification losses that the paper compares, all sums over independent sigmoids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassLossKind {
    /// Focal loss with `alpha` and `gamma`.
    #[default]
    Focal,
    /// Cross-entropy; neither `alpha` nor `gamma` counts.
    CrossEntropy,
    /// Cross-entropy weighted by `alpha` (section 3.1); `gamma` does not count.
    BalancedCrossEntropy,
}

impl ClassLossConfig {
    /// Checks the settings and builds the loss.
    ///
    /// # Errors
    ///
    /// Returns an error where `alpha` is outside `[0, 1]` or `gamma` negative or not finite.
    pub fn init(&self) -> Result<FocalLoss, CriterionError> {
        let &Self { loss, alpha, gamma } = self;
        if !(0.0..=1.0).contains(&alpha) {
            return Err(CriterionError {
                key: "criterion.class.alpha",
                got: alpha,
                allowed: "in [0, 1]",
            });
        }
        if !(gamma.is_finite() && gamma >= 0.0) {
            return Err(CriterionError {
                key: "criterion.class.gamma",
                got: gamma,
                allowed: "finite and at least 0",
            });
        }
        Ok(match loss {
            ClassLossKind::Focal => FocalLoss {
                alpha: Some(alpha),
                gamma,
            },
            ClassLossKind::CrossEntropy => FocalLoss {
                alpha: None,
                gamma: 0.0,
            },
            ClassLossKind::BalancedCrossEntropy => FocalLoss {
                alpha: Some(alpha),
                gamma: 0.0,
            },
        })
    }
}

/// Sigmoid focal loss.
///
/// ```text
/// p_t = p if y = 1, else 1 - p          where p = sigmoid(logit)
/// FL  = -alpha_t * (1 - p_t)^gamma * log(p_t)
/// ```
///
/// With `gamma = 0` and without `alpha` it is cross-entropy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FocalLoss {
    alpha: Option<f64>,
    gamma: f64,
}

impl FocalLoss {
    /// Computes the loss of every element; the caller masks and reduces.
    ///
    /// # Shapes
    ///
    /// - `logits`: `[..dims]`, raw scores
    /// - `targets`: `[..dims]`, `0.0` or `1.0`
    /// - output: `[..dims]`, each at least 0
    pub fn forward<const D: usize>(&self, logits: Tensor<D>, targets: Tensor<D>) -> Tensor<D> {
        // With s = +1 for positives and -1 for negatives, p_t = sigmoid(s * logit): one
        // expression for both classes, and no log(0) however sure the model is.
        let signed = logits * (targets.clone() * 2.0 - 1.0);
        let mut loss = -log_sigmoid(signed.clone());
        if self.gamma > 0.0 {
            // (1 - p_t)^gamma through the logarithm: `powf` has a NaN gradient at saturated
            // logits for 0 < gamma < 1.
            loss = loss * (log_sigmoid(-signed) * self.gamma).exp();
        }
        match self.alpha {
            Some(alpha) => loss * (targets * (2.0 * alpha - 1.0) + (1.0 - alpha)),
            None => loss,
        }
    }

    /// The sum of the losses of all classes of all anchors that are not ignored, each image's
    /// times its weight, in one pass. Only on flex.
    pub(crate) fn weighted_sum(
        &self,
        logits: Tensor<3>,
        labels: &Arc<Vec<i32>>,
        weights: Vec<f32>,
    ) -> Tensor<1> {
        let alphas = self.alpha.map_or([1.0, 1.0], |alpha| [1.0 - alpha, alpha]);
        let call = FocalCall {
            focal: Focal {
                alphas: alphas.map(|alpha| alpha as f32),
                gamma: self.gamma as f32,
            },
            labels: Arc::clone(labels),
            weights,
        };
        Tensor::from_dispatch(<Dispatch as FocalBackend>::focal_sum(
            logits.into_dispatch(),
            call,
        ))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};
    use proptest::prelude::*;

    use super::*;

    const CROSS_ENTROPY: FocalLoss = FocalLoss {
        alpha: None,
        gamma: 0.0,
    };

    fn focal(alpha: Option<f64>, gamma: f64) -> FocalLoss {
        FocalLoss { alpha, gamma }
    }

    /// Loss and gradient of one element.
    fn evaluate(loss: FocalLoss, logit: f64, target: f64) -> (f64, f64) {
        let device = Device::flex().autodiff();
        let logits = Tensor::<1>::from_floats([logit as f32], &device).require_grad();
        let targets = Tensor::<1>::from_floats([target as f32], &device);
        let value = loss.forward(logits.clone(), targets);
        let gradients = value.clone().sum().backward();
        let gradient = logits.grad(&gradients).unwrap();
        (
            f64::from(value.into_scalar::<f32>()),
            f64::from(gradient.into_scalar::<f32>()),
        )
    }

    fn value(loss: FocalLoss, p_t: f64) -> f64 {
        evaluate(loss, logit(p_t), 1.0).0
    }

    fn logit(probability: f64) -> f64 {
        (probability / (1.0 - probability)).ln()
    }

    /// ```python
    /// for x, y in [(-3, 1), (-0.5, 0), (0, 1), (1.5, 0), (4, 1)]:
    ///     p = 1 / (1 + math.exp(-x))
    ///     p_t, alpha_t = (p, 0.25) if y else (1 - p, 0.75)
    ///     print(-alpha_t * (1 - p_t) ** 2 * math.log(p_t))
    /// ```
    #[test]
    fn values_agree_with_the_formula_in_f64() {
        let device = Device::flex();
        let logits = Tensor::<1>::from_floats([-3.0, -0.5, 0.0, 1.5, 4.0], &device);
        let targets = Tensor::<1>::from_floats([1.0, 0.0, 1.0, 0.0, 1.0], &device);
        let losses = focal(Some(0.25), 2.0).forward(logits, targets);
        let expected = Tensor::<1>::from_floats(
            [
                0.691_570_1,
                0.050_680_118,
                0.043_321_7,
                0.852_954_2,
                1.467_892_4e-6,
            ],
            &device,
        );
        losses
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::relative(2e-5));
    }

    #[test]
    fn easy_examples_lose_a_hundredfold_at_09_and_a_thousandfold_at_0968() {
        // Section 3.2, for gamma = 2.
        let fall = |p_t| value(CROSS_ENTROPY, p_t) / value(focal(None, 2.0), p_t);
        assert!((fall(0.9) / 100.0 - 1.0).abs() < 1e-4, "{}", fall(0.9));
        assert!((fall(0.968) / 1000.0 - 1.0).abs() < 0.03, "{}", fall(0.968));
        for step in 1..=50 {
            let p_t = f64::from(step) / 100.0;
            assert!(fall(p_t) <= 4.0 + 1e-4, "{} at {p_t}", fall(p_t));
        }
    }

    #[test]
    fn worked_examples_in_base_ten_keep_their_ratios() {
        // Often printed with base-10 logarithms: p = 0.9: 0.0457 and 0.000457; p = 0.99: 0.00436
        // and 4.36e-7.
        let decimal = |loss, p_t| value(loss, p_t) / std::f64::consts::LN_10;
        for (loss, p_t, expected) in [
            (CROSS_ENTROPY, 0.9, 0.045_757),
            (focal(None, 2.0), 0.9, 0.000_457_57),
            (CROSS_ENTROPY, 0.99, 0.004_364_8),
            (focal(None, 2.0), 0.99, 4.364_8e-7),
        ] {
            let got = decimal(loss, p_t);
            assert!(
                (got / expected - 1.0).abs() < 1e-3,
                "{got} against {expected}"
            );
        }
    }

    #[test]
    fn a_million_easy_negatives_drown_ten_positives_only_in_cross_entropy() {
        let share_of_negatives = |loss: FocalLoss| {
            let negative = evaluate(loss, -logit(0.99), 0.0).0 * 1e6;
            let positive = evaluate(loss, logit(0.01), 1.0).0 * 10.0;
            negative / (negative + positive)
        };
        let cross_entropy = share_of_negatives(CROSS_ENTROPY);
        assert!((cross_entropy - 0.9954).abs() < 5e-5, "{cross_entropy}");
        let positives = 1.0 - share_of_negatives(focal(Some(0.25), 2.0));
        assert!((positives - 0.9374).abs() < 5e-5, "{positives}");
    }

    #[test]
    fn loss_and_gradient_stay_finite_at_saturated_logits() {
        for gamma in [0.0, 0.5, 1.0, 2.0, 5.0] {
            for logit in [-200.0, -100.0, -30.0, 0.0, 30.0, 100.0, 200.0] {
                for target in [0.0, 1.0] {
                    let (loss, gradient) = evaluate(focal(Some(0.25), gamma), logit, target);
                    assert!(
                        loss.is_finite() && gradient.is_finite() && loss >= 0.0,
                        "loss {loss}, gradient {gradient} at {logit}, {target}, gamma {gamma}"
                    );
                }
            }
        }
        let (loss, gradient) = evaluate(focal(Some(0.25), 2.0), -100.0, 1.0);
        assert!((loss - 25.0).abs() < 1e-4 && (gradient + 0.25).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn without_gamma_and_alpha_it_is_cross_entropy(x in -20.0_f64..20.0, positive: bool) {
            let target = f64::from(u8::from(positive));
            let expected = x.max(0.0) - x * target + (-x.abs()).exp().ln_1p();
            let config = ClassLossConfig { loss: ClassLossKind::CrossEntropy, ..Default::default() };
            let (got, _) = evaluate(config.init().unwrap(), x, target);
            prop_assert!((got - expected).abs() <= 1e-6 + 1e-5 * expected, "{got} {expected}");
        }

        /// Appendix B: dFL/dx = y (1 - p_t)^γ (γ p_t log p_t + p_t - 1), y = ±1.
        #[test]
        fn the_gradient_is_that_of_appendix_b(
            x in -12.0_f64..12.0, positive: bool, gamma in 0.0_f64..5.0
        ) {
            let y = if positive { 1.0 } else { -1.0 };
            let p_t = 1.0 / (1.0 + (-y * x).exp());
            let not_p_t = 1.0 / (1.0 + (y * x).exp());
            let expected =
                y * not_p_t.powf(gamma) * (gamma * p_t * p_t.ln() - not_p_t);
            let target = f64::from(u8::from(positive));
            let (_, gradient) = evaluate(focal(None, gamma), x, target);
            prop_assert!(
                (gradient - expected).abs() <= 1e-7 + 2e-4 * expected.abs(),
                "{gradient} against {expected}"
            );
        }

        #[test]
        fn the_gradient_agrees_with_finite_differences(
            x in -6.0_f64..6.0, positive: bool, gamma in 0.0_f64..5.0
        ) {
            // In f64, so that the difference itself is exact enough.
            let in_f64 = |x: f64| {
                let signed = if positive { x } else { -x };
                let p_t = 1.0 / (1.0 + (-signed).exp());
                let alpha_t = if positive { 0.25 } else { 0.75 };
                -alpha_t * (1.0 - p_t).powf(gamma) * p_t.ln()
            };
            let step = 1e-5;
            let expected = (in_f64(x + step) - in_f64(x - step)) / (2.0 * step);
            let target = f64::from(u8::from(positive));
            let (_, gradient) = evaluate(focal(Some(0.25), gamma), x, target);
            prop_assert!(
                (gradient - expected).abs() <= 1e-6 + 2e-4 * expected.abs(),
                "{gradient} against {expected}"
            );
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let error = ClassLossConfig {
            alpha: 1.5,
            ..Default::default()
        }
        .init()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`criterion.class.alpha` must be in [0, 1], got 1.5"
        );
        let error = ClassLossConfig {
            gamma: f64::NAN,
            ..Default::default()
        }
        .init()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`criterion.class.gamma` must be finite and at least 0, got NaN"
        );
    }
}
