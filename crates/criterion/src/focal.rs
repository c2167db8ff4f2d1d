//! Sigmoid focal loss, [Lin et al. 2017](https://arxiv.org/abs/1708.02002), equation 5.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Tensor, TensorData};

use crate::alpha::Alpha;
use crate::extension::{FocalBackend, FocalCall};
use crate::focal_kernel::Focal;

/// Sigmoid focal loss.
///
/// ```text
/// p_t = p if y = 1, else 1 - p          where p = sigmoid(logit)
/// FL  = -alpha_t * (1 - p_t)^gamma * log(p_t)
/// ```
///
/// With `gamma = 0` and without `alpha` it is cross-entropy. With a shift it is FL*,
/// `-alpha_t * log(sigmoid(gamma * x_t + beta)) / gamma` with `x_t` the logit, or its negative where
/// `y = 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct FocalLoss {
    pub(crate) alpha: Alpha,
    pub(crate) gamma: f64,
    /// FL*'s β.
    pub(crate) shift: Option<f64>,
    /// Half of the labels' smoothing.
    pub(crate) smoothing: f64,
}

/// A summand of an anchor's loss, on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    pub(crate) loss: f32,
    /// What the loss is without `alpha` and focus: `-log p_t`.
    pub(crate) cross_entropy: f32,
    /// `1 - p_t`
    pub(crate) wrong: f32,
}

impl FocalLoss {
    /// Computes the loss of every element; the caller masks and reduces.
    ///
    /// # Shapes
    ///
    /// - `logits`: `[..dims]`, raw scores, the classes in the last dimension
    /// - `targets`: `[..dims]`, `0.0` or `1.0`
    /// - output: `[..dims]`; without label smoothing each at least 0
    pub fn forward<const D: usize>(&self, logits: Tensor<D>, targets: Tensor<D>) -> Tensor<D> {
        // With s = +1 for positives and -1 for negatives, p_t = sigmoid(s * logit): one
        // expression for both classes, and no log(0) however sure the model is.
        let signed = logits * (targets.clone() * 2.0 - 1.0);
        let loss = self.of_signed(signed);
        match &self.alpha {
            Alpha::Named(_) => loss,
            Alpha::Fixed(alpha) => {
                let alpha = alpha.get();
                loss * (targets * (2.0 * alpha - 1.0) + (1.0 - alpha))
            }
            Alpha::PerClass(alphas) => {
                let alphas: Vec<f32> = alphas.iter().map(|alpha| alpha.as_f32()).collect();
                let mut shape = [1; D];
                shape[D - 1] = alphas.len();
                let alphas = Tensor::from_data(TensorData::new(alphas, shape), &loss.device());
                loss * (targets * (alphas.clone() * 2.0 - 1.0) + (-alphas + 1.0))
            }
        }
    }

    /// The loss without alpha, of logits that should be high.
    fn of_signed<const D: usize>(&self, signed: Tensor<D>) -> Tensor<D> {
        if let Some(shift) = self.shift {
            return -log_sigmoid(signed * self.gamma + shift) / self.gamma;
        }
        let mut loss = -log_sigmoid(signed.clone());
        if self.smoothing > 0.0 {
            // -log(1 - p_t) is -log(p_t) + s.
            loss = loss + signed.clone() * self.smoothing;
        }
        if self.gamma > 0.0 {
            // (1 - p_t)^gamma through the logarithm: `powf` has a NaN gradient at saturated
            // logits for 0 < gamma < 1.
            loss = loss * (log_sigmoid(-signed) * self.gamma).exp();
        }
        loss
    }

    /// The loss of one element on the host: of the logit for a `class`, which the anchor should be
    /// of where it is `positive`.
    pub(crate) fn of_element(&self, logit: f32, class: usize, positive: bool) -> Term {
        let signed = if positive { logit } else { -logit };
        let of_positives = match &self.alpha {
            Alpha::Named(_) => None,
            Alpha::Fixed(alpha) => Some(alpha.get()),
            Alpha::PerClass(alphas) => Some(alphas[class].get()),
        };
        let alpha = match of_positives {
            None => 1.0,
            Some(alpha) if positive => alpha,
            Some(alpha) => 1.0 - alpha,
        };
        let gamma = self.gamma as f32;
        let (plain, wrong) = cross_entropy(signed);
        let loss = if let Some(shift) = self.shift {
            cross_entropy(gamma * signed + shift as f32).0 / gamma
        } else if self.smoothing > 0.0 {
            focus(wrong, gamma) * (plain + self.smoothing as f32 * signed)
        } else {
            focus(wrong, gamma) * plain
        };
        Term {
            loss: alpha as f32 * loss,
            cross_entropy: plain,
            wrong,
        }
    }

    /// Whether the kernels have it; else it is made of tensor operations.
    pub(crate) fn has_kernel(&self) -> bool {
        !matches!(self.alpha, Alpha::PerClass(_))
    }

    /// The sum of the losses of all classes of all anchors that are not ignored, each image's
    /// times its weight, in one pass. Only on devices with kernels, and only where [`has_kernel`](Self::has_kernel).
    pub(crate) fn weighted_sum(
        &self,
        logits: Tensor<3>,
        labels: &Arc<Vec<i32>>,
        weights: Vec<f32>,
    ) -> Tensor<1> {
        let alphas = match self.alpha {
            Alpha::Fixed(alpha) => [1.0 - alpha.get(), alpha.get()],
            _ => [1.0, 1.0],
        };
        let call = FocalCall {
            focal: Focal {
                alphas: alphas.map(|alpha| alpha as f32),
                gamma: self.gamma as f32,
                shift: self.shift.map(|shift| shift as f32),
                smoothing: self.smoothing as f32,
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

/// `(1 - p_t)^gamma`
pub(crate) fn focus(wrong: f32, gamma: f32) -> f32 {
    match gamma {
        0.0 => 1.0,
        2.0 => wrong * wrong,
        _ => wrong.powf(gamma),
    }
}

/// `-log p_t` and `1 - p_t`, where `p_t` is the sigmoid of `signed`.
pub(crate) fn cross_entropy(signed: f32) -> (f32, f32) {
    let small = (-signed.abs()).exp();
    let cross_entropy = (-signed).max(0.0) + small.ln_1p();
    let wrong = if signed >= 0.0 { small } else { 1.0 } / (1.0 + small);
    (cross_entropy, wrong)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ClassLossConfig, CrossEntropyConfig, FocalConfig, FocalStarConfig, Gamma, NamedAlpha,
        Shift, StarGamma,
    };
    use retinanet_settings::{Share, ShareBelowOne};

    const CROSS_ENTROPY: FocalLoss = FocalLoss {
        alpha: Alpha::Named(NamedAlpha::None),
        gamma: 0.0,
        shift: None,
        smoothing: 0.0,
    };

    const EFFECTIVE_ALPHAS: [f64; 3] = [0.75, 0.349_098_56, 0.220_746_59];

    fn focal(alpha: Option<f64>, gamma: f64) -> FocalLoss {
        FocalLoss {
            alpha: alpha.map_or(Alpha::Named(NamedAlpha::None), |alpha| {
                Alpha::Fixed(Share::new(alpha).unwrap())
            }),
            gamma,
            ..CROSS_ENTROPY
        }
    }

    /// Loss and gradient of one element.
    fn evaluate(loss: &FocalLoss, logit: f64, target: f64) -> (f64, f64) {
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

    fn value(loss: &FocalLoss, p_t: f64) -> f64 {
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
        let fall = |p_t| value(&CROSS_ENTROPY, p_t) / value(&focal(None, 2.0), p_t);
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
        let decimal = |loss: FocalLoss, p_t| value(&loss, p_t) / std::f64::consts::LN_10;
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
            let negative = evaluate(&loss, -logit(0.99), 0.0).0 * 1e6;
            let positive = evaluate(&loss, logit(0.01), 1.0).0 * 10.0;
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
                    let (loss, gradient) = evaluate(&focal(Some(0.25), gamma), logit, target);
                    assert!(
                        loss.is_finite() && gradient.is_finite() && loss >= 0.0,
                        "loss {loss}, gradient {gradient} at {logit}, {target}, gamma {gamma}"
                    );
                }
            }
        }
        let (loss, gradient) = evaluate(&focal(Some(0.25), 2.0), -100.0, 1.0);
        assert!((loss - 25.0).abs() < 1e-4 && (gradient + 0.25).abs() < 1e-6);
    }

    /// A loss of every kind, the kernel's and others.
    fn all_kinds() -> Vec<FocalLoss> {
        let per_class = Alpha::PerClass([0.1, 0.5, 0.9].map(Share::literal).into());
        let focal = FocalConfig::default();
        let star = |gamma, beta, alpha| {
            ClassLossConfig::FocalStar(FocalStarConfig {
                alpha,
                gamma: StarGamma::literal(gamma),
                beta: Shift::literal(beta),
            })
        };
        [
            ClassLossConfig::default(),
            ClassLossConfig::Focal(FocalConfig {
                alpha: Alpha::Named(NamedAlpha::None),
                ..focal.clone()
            }),
            ClassLossConfig::Focal(FocalConfig {
                alpha: per_class.clone(),
                gamma: Gamma::literal(0.7),
                ..focal.clone()
            }),
            ClassLossConfig::Focal(FocalConfig {
                label_smoothing: ShareBelowOne::literal(0.1),
                ..focal.clone()
            }),
            star(2.0, 1.0, focal.alpha),
            star(4.0, 0.0, per_class),
        ]
        .iter()
        .map(ClassLossConfig::over_sigmoids)
        .collect()
    }

    /// The formulas in f64: of class 2 of three.
    fn in_f64(loss: &FocalLoss, x: f64, positive: bool) -> f64 {
        let alpha = match &loss.alpha {
            Alpha::Named(_) => None,
            Alpha::Fixed(alpha) => Some(alpha.get()),
            Alpha::PerClass(alphas) => Some(alphas[2].get()),
        };
        let alpha_t = alpha.map_or(1.0, |alpha| if positive { alpha } else { 1.0 - alpha });
        let x_t = if positive { x } else { -x };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        if let Some(beta) = loss.shift {
            return -alpha_t * sigmoid(loss.gamma * x_t + beta).ln() / loss.gamma;
        }
        let p_t = sigmoid(x_t);
        let y = 1.0 - loss.smoothing;
        -alpha_t * (1.0 - p_t).powf(loss.gamma) * (y * p_t.ln() + (1.0 - y) * (1.0 - p_t).ln())
    }

    proptest! {
        #[test]
        fn every_kind_is_its_formula_and_its_gradient_agrees_with_finite_differences(
            x in -6.0_f64..6.0, positive: bool
        ) {
            let device = Device::flex().autodiff();
            for loss in all_kinds() {
                let logits = Tensor::<1>::from_floats([0.0, 0.0, x as f32], &device).require_grad();
                let label = f32::from(u8::from(positive));
                let labels = Tensor::<1>::from_floats([0.0, 0.0, label], &device);
                let values = loss.forward(logits.clone(), labels);
                let gradients = values.clone().sum().backward();
                let last = |tensor: Tensor<1>| {
                    tensor.into_data().iter::<f64>().last().unwrap()
                };
                let (value, slope) = (last(values), last(logits.grad(&gradients).unwrap()));
                let expected = in_f64(&loss, x, positive);
                prop_assert!((value - expected).abs() <= 1e-7 + 2e-5 * expected.abs(), "{loss:?}: {value}, not {expected}");
                let step = 1e-5;
                let expected = (in_f64(&loss, x + step, positive) - in_f64(&loss, x - step, positive))
                    / (2.0 * step);
                prop_assert!((slope - expected).abs() <= 1e-6 + 2e-4 * expected.abs(), "{loss:?}: {slope}, not {expected}");
                let on_host = f64::from(loss.of_element(x as f32, 2, positive).loss);
                prop_assert!((on_host - value).abs() <= 1e-7 + 2e-5 * value.abs(), "{loss:?}: {on_host}, not {value}");
            }
        }

        #[test]
        fn without_gamma_and_alpha_it_is_cross_entropy(x in -20.0_f64..20.0, positive: bool) {
            let target = f64::from(u8::from(positive));
            let expected = x.max(0.0) - x * target + (-x.abs()).exp().ln_1p();
            let config = ClassLossConfig::CrossEntropy(CrossEntropyConfig::default());
            let (got, _) = evaluate(&config.over_sigmoids(), x, target);
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
            let (_, gradient) = evaluate(&focal(None, gamma), x, target);
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
            let (_, gradient) = evaluate(&focal(Some(0.25), gamma), x, target);
            prop_assert!(
                (gradient - expected).abs() <= 1e-6 + 2e-4 * expected.abs(),
                "{gradient} against {expected}"
            );
        }
    }

    /// ```python
    /// n = (200, 1000, 10000)
    /// w = [(1 - 0.999) / (1 - 0.999 ** n) for n in n]
    /// mean = sum(n * w for n, w in zip(n, w)) / sum(n)
    /// print([min(0.75, 0.25 * w / mean) for w in w])
    /// ```
    #[test]
    fn rare_classes_weigh_more_by_the_effective_number() {
        let with = |alpha| {
            ClassLossConfig::Focal(FocalConfig {
                alpha,
                ..FocalConfig::default()
            })
        };
        let by_number = with(Alpha::Named(NamedAlpha::EffectiveNumber));
        let config = by_number.for_objects(&[200, 1_000, 10_000]).unwrap();
        let Alpha::PerClass(alphas) = config.over_sigmoids().alpha else {
            panic!("{config:?}")
        };
        for (found, expected) in alphas.iter().zip(EFFECTIVE_ALPHAS) {
            assert!((found.get() - expected).abs() < 1e-6, "{alphas:?}");
        }
        let given = with(Alpha::PerClass(vec![Share::literal(0.5); 2]));
        let error = given.for_objects(&[1, 2, 3]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`alpha` must be as many numbers as there are classes, got 2"
        );
    }

    #[test]
    fn alpha_is_a_number_a_list_or_a_name() {
        let read = |json: &str| serde_json::from_str::<FocalConfig>(json);
        let [half, tenth] = [0.5, 0.1].map(Share::literal);
        for (json, alpha) in [
            (r#"{"alpha": 0.5}"#, Alpha::Fixed(half)),
            (
                r#"{"alpha": [0.5, 0.1]}"#,
                Alpha::PerClass(vec![half, tenth]),
            ),
            (r#"{"alpha": "none"}"#, Alpha::Named(NamedAlpha::None)),
            (
                r#"{"alpha": "effective_number"}"#,
                Alpha::Named(NamedAlpha::EffectiveNumber),
            ),
        ] {
            assert_eq!(read(json).unwrap().alpha, alpha);
        }
        for wrong in [r#"{"alpha": "some"}"#, r#"{"alpha": 1.5}"#] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(
                error.contains("must be a number in [0, 1], a list"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_means_nothing_beside_a_kind_is_refused() {
        for wrong in [
            r#"{"kind": "cross_entropy", "gamma": 2}"#,
            r#"{"kind": "focal", "beta": 1}"#,
            r#"{"kind": "focal_star", "label_smoothing": 0.1}"#,
        ] {
            let error = serde_json::from_str::<ClassLossConfig>(wrong).unwrap_err();
            assert!(error.to_string().contains("unknown field"), "{error}");
        }
    }
}
