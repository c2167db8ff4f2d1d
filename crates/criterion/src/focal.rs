//! Sigmoid focal loss, [Lin et al. 2017](https://arxiv.org/abs/1708.02002), equation 5.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Tensor, TensorData};
use retinanet_boxes::AnchorLabel;
use serde::{Deserialize, Serialize};

use crate::CriterionError;
use crate::extension::{FocalBackend, FocalCall};
use crate::focal_kernel::Focal;

/// Settings of the classification loss, `[criterion.class]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassLossConfig {
    /// Which loss.
    pub loss: ClassLossKind,
    /// How positives and negatives are weighted against each other.
    pub alpha: Alpha,
    /// Focusing exponent, at least 0; above 0 for FL*.
    pub gamma: f64,
    /// FL*'s shift β.
    pub beta: f64,
    /// Label smoothing ε, in `[0, 1)`: labels become `y (1 - ε) + ε / 2`, the focus stays that of
    /// the plain label, as in TensorFlow's RetinaNet. With thousands of negatives to a positive, try
    /// 0.01 before more.
    pub label_smoothing: f64,
}

impl Default for ClassLossConfig {
    /// The paper's best: α = 0.25, γ = 2 (table 1b).
    fn default() -> Self {
        Self {
            loss: ClassLossKind::Focal,
            alpha: Alpha::Fixed(0.25),
            gamma: 2.0,
            beta: 0.0,
            label_smoothing: 0.0,
        }
    }
}

/// The classification losses that the paper compares, all sums over independent sigmoids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassLossKind {
    /// Focal loss with `alpha` and `gamma`, equation 5: the one to start with.
    #[default]
    Focal,
    /// FL* of appendix A: `-alpha_t * log(sigmoid(gamma * x_t + beta)) / gamma`. As good as focal
    /// loss for γ = 2, β = 1 and γ = 4, β = 0 (table 3).
    FocalStar,
    /// Cross-entropy; neither `alpha` nor `gamma` counts. For comparison: it needs the prior to be
    /// stable at all.
    CrossEntropy,
    /// Cross-entropy weighted by `alpha` (equation 3); `gamma` does not count. For comparison: best
    /// with α = 0.75 (table 1a).
    BalancedCrossEntropy,
}

/// Weight of positives, in `[0, 1]`; negatives weigh one minus it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a number, a list with a number for each class, \"none\" or \"effective_number\""
)]
pub enum Alpha {
    /// The same for all classes.
    Fixed(f64),
    /// One for each class, by class index: for classes that are rare.
    PerClass(Vec<f64>),
    /// By name.
    Named(NamedAlpha),
}

/// Weights with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedAlpha {
    /// Positives and negatives weigh 1.
    None,
    /// One for each class, larger for those with fewer objects: 0.25 times the inverse of the
    /// effective number of objects, `(1 - 0.999) / (1 - 0.999^n)` (Cui et al. 2019), scaled to a
    /// mean over objects of 1, and at most 0.75 in all, so that negatives of rare classes still
    /// count. For data sets whose classes differ by more than ten times; counts beyond some
    /// thousands are all the same to it.
    EffectiveNumber,
}

/// β of the effective number.
const EFFECTIVE: f64 = 0.999;
/// The effective number's weight of an average object: the paper's best α for γ = 2.
const MEAN_ALPHA: f64 = 0.25;
/// The most that it gives: the paper's best α for cross-entropy.
const MOST_ALPHA: f64 = 0.75;

fn by_effective_number(objects: &[usize]) -> Vec<f64> {
    // A class without objects is as one with a single one.
    let objects = || objects.iter().map(|&count| count.max(1) as f64);
    let weight = |count: f64| (1.0 - EFFECTIVE) / (1.0 - EFFECTIVE.powf(count));
    let all: f64 = objects().sum();
    let mean = objects().map(|count| count * weight(count)).sum::<f64>() / all;
    let alpha = |count| (MEAN_ALPHA * weight(count) / mean).min(MOST_ALPHA);
    objects().map(alpha).collect()
}

impl ClassLossConfig {
    /// The same for a data set whose classes have so many objects: with weights where they are to
    /// come from that.
    ///
    /// # Errors
    ///
    /// Returns an error where weights are given for another number of classes.
    pub fn for_objects(mut self, objects: &[usize]) -> Result<Self, CriterionError> {
        match &self.alpha {
            Alpha::PerClass(alphas) if alphas.len() != objects.len() => {
                return Err(CriterionError {
                    key: "criterion.class.alpha",
                    got: alphas.len() as f64,
                    allowed: "as many numbers as there are classes",
                });
            }
            Alpha::Named(NamedAlpha::EffectiveNumber) => {
                self.alpha = Alpha::PerClass(by_effective_number(objects));
            }
            _ => {}
        }
        Ok(self)
    }

    /// Checks the settings and builds the loss. Weights that are to come from a data set do so by
    /// [`for_objects`](Self::for_objects); without it all weigh 1.
    ///
    /// # Errors
    ///
    /// Returns an error where a setting is out of its range.
    pub fn init(&self) -> Result<FocalLoss, CriterionError> {
        let Self {
            gamma,
            beta,
            label_smoothing,
            ..
        } = *self;
        let out_of_range = |key, got, allowed| Err(CriterionError { key, got, allowed });
        let alphas = match &self.alpha {
            Alpha::Fixed(alpha) => std::slice::from_ref(alpha),
            Alpha::PerClass(alphas) => alphas,
            Alpha::Named(_) => &[],
        };
        if let Some(&alpha) = alphas.iter().find(|alpha| !(0.0..=1.0).contains(*alpha)) {
            return out_of_range("criterion.class.alpha", alpha, "in [0, 1]");
        }
        if !(gamma.is_finite() && gamma >= 0.0) {
            let key = "criterion.class.gamma";
            return out_of_range(key, gamma, "finite and at least 0");
        }
        if self.loss == ClassLossKind::FocalStar && gamma == 0.0 {
            return out_of_range("criterion.class.gamma", gamma, "above 0 for `focal_star`");
        }
        if !beta.is_finite() {
            return out_of_range("criterion.class.beta", beta, "finite");
        }
        if !(0.0..1.0).contains(&label_smoothing) {
            let key = "criterion.class.label_smoothing";
            return out_of_range(key, label_smoothing, "in [0, 1)");
        }
        if self.loss == ClassLossKind::FocalStar && label_smoothing > 0.0 {
            let key = "criterion.class.label_smoothing";
            return out_of_range(key, label_smoothing, "0 for `focal_star`");
        }
        Ok(FocalLoss {
            alpha: match self.loss {
                ClassLossKind::CrossEntropy => Alpha::Named(NamedAlpha::None),
                _ => self.alpha.clone(),
            },
            gamma: match self.loss {
                ClassLossKind::Focal | ClassLossKind::FocalStar => gamma,
                ClassLossKind::CrossEntropy | ClassLossKind::BalancedCrossEntropy => 0.0,
            },
            shift: (self.loss == ClassLossKind::FocalStar).then_some(beta),
            smoothing: label_smoothing / 2.0,
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
/// With `gamma = 0` and without `alpha` it is cross-entropy. With a shift it is FL*,
/// `-alpha_t * log(sigmoid(gamma * x_t + beta)) / gamma` with `x_t` the logit, or its negative where
/// `y = 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct FocalLoss {
    alpha: Alpha,
    gamma: f64,
    /// FL*'s β.
    shift: Option<f64>,
    /// Half of the labels' smoothing.
    smoothing: f64,
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
            Alpha::Fixed(alpha) => loss * (targets * (2.0 * alpha - 1.0) + (1.0 - alpha)),
            Alpha::PerClass(alphas) => {
                let alphas: Vec<f32> = alphas.iter().map(|&alpha| alpha as f32).collect();
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

    /// The loss of one anchor on the host, over all of its logits.
    pub(crate) fn of_anchor(&self, logits: &[f32], label: AnchorLabel) -> f32 {
        let object = match label {
            AnchorLabel::Object(class) => Some(class.index()),
            AnchorLabel::Background | AnchorLabel::Ignored => None,
        };
        let losses = logits.iter().enumerate().map(|(class, &logit)| {
            let positive = object == Some(class);
            let signed = if positive { logit } else { -logit };
            self.of_element(signed, class, positive)
        });
        losses.sum()
    }

    /// The loss of one element on the host. `signed` is the logit where the anchor should be of this
    /// `class`, as `positive` says, and its negative where it should not.
    pub(crate) fn of_element(&self, signed: f32, class: usize, positive: bool) -> f32 {
        let alpha = match &self.alpha {
            Alpha::Named(_) => 1.0,
            Alpha::Fixed(alpha) if positive => *alpha,
            Alpha::Fixed(alpha) => 1.0 - alpha,
            Alpha::PerClass(alphas) if positive => alphas[class],
            Alpha::PerClass(alphas) => 1.0 - alphas[class],
        };
        let gamma = self.gamma as f32;
        let loss = if let Some(shift) = self.shift {
            cross_entropy(gamma * signed + shift as f32).0 / gamma
        } else {
            let (cross_entropy, wrong) = cross_entropy(signed);
            let focus = match gamma {
                0.0 => 1.0,
                2.0 => wrong * wrong,
                _ => wrong.powf(gamma),
            };
            let smoothed = if self.smoothing > 0.0 {
                cross_entropy + self.smoothing as f32 * signed
            } else {
                cross_entropy
            };
            focus * smoothed
        };
        alpha as f32 * loss
    }

    /// Whether the CPU's kernel has it; else it is made of tensor operations.
    pub(crate) fn has_kernel(&self) -> bool {
        !matches!(self.alpha, Alpha::PerClass(_))
    }

    /// The sum of the losses of all classes of all anchors that are not ignored, each image's
    /// times its weight, in one pass. Only on flex, and only where [`has_kernel`](Self::has_kernel).
    pub(crate) fn weighted_sum(
        &self,
        logits: Tensor<3>,
        labels: &Arc<Vec<i32>>,
        weights: Vec<f32>,
    ) -> Tensor<1> {
        let alphas = match self.alpha {
            Alpha::Fixed(alpha) => [1.0 - alpha, alpha],
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

    const CROSS_ENTROPY: FocalLoss = FocalLoss {
        alpha: Alpha::Named(NamedAlpha::None),
        gamma: 0.0,
        shift: None,
        smoothing: 0.0,
    };

    const EFFECTIVE_ALPHAS: [f64; 3] = [0.75, 0.349_098_56, 0.220_746_59];

    fn focal(alpha: Option<f64>, gamma: f64) -> FocalLoss {
        FocalLoss {
            alpha: alpha.map_or(Alpha::Named(NamedAlpha::None), Alpha::Fixed),
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
        let config = ClassLossConfig::default();
        let star = ClassLossKind::FocalStar;
        let per_class = Alpha::PerClass(vec![0.1, 0.5, 0.9]);
        [
            config.clone(),
            ClassLossConfig {
                alpha: Alpha::Named(NamedAlpha::None),
                ..config.clone()
            },
            ClassLossConfig {
                alpha: per_class.clone(),
                gamma: 0.7,
                ..config.clone()
            },
            ClassLossConfig {
                label_smoothing: 0.1,
                ..config.clone()
            },
            ClassLossConfig {
                loss: star,
                gamma: 2.0,
                beta: 1.0,
                ..config.clone()
            },
            ClassLossConfig {
                loss: star,
                gamma: 4.0,
                beta: 0.0,
                alpha: per_class,
                ..config
            },
        ]
        .iter()
        .map(|config| config.init().unwrap())
        .collect()
    }

    /// The formulas in f64: of class 2 of three.
    fn in_f64(loss: &FocalLoss, x: f64, positive: bool) -> f64 {
        let alpha = match &loss.alpha {
            Alpha::Named(_) => None,
            Alpha::Fixed(alpha) => Some(*alpha),
            Alpha::PerClass(alphas) => Some(alphas[2]),
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
                let signed = if positive { x } else { -x };
                let on_host = f64::from(loss.of_element(signed as f32, 2, positive));
                prop_assert!((on_host - value).abs() <= 1e-7 + 2e-5 * value.abs(), "{loss:?}: {on_host}, not {value}");
            }
        }

        #[test]
        fn without_gamma_and_alpha_it_is_cross_entropy(x in -20.0_f64..20.0, positive: bool) {
            let target = f64::from(u8::from(positive));
            let expected = x.max(0.0) - x * target + (-x.abs()).exp().ln_1p();
            let config = ClassLossConfig { loss: ClassLossKind::CrossEntropy, ..Default::default() };
            let (got, _) = evaluate(&config.init().unwrap(), x, target);
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
        let config = ClassLossConfig {
            alpha: Alpha::Named(NamedAlpha::EffectiveNumber),
            ..Default::default()
        };
        let config = config.for_objects(&[200, 1_000, 10_000]).unwrap();
        let Alpha::PerClass(alphas) = config.alpha else {
            panic!("{:?}", config.alpha)
        };
        for (found, expected) in alphas.iter().zip(EFFECTIVE_ALPHAS) {
            assert!((found - expected).abs() < 1e-6, "{alphas:?}");
        }
        let given = ClassLossConfig {
            alpha: Alpha::PerClass(vec![0.5; 2]),
            ..Default::default()
        };
        let error = given.for_objects(&[1, 2, 3]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`criterion.class.alpha` must be as many numbers as there are classes, got 2"
        );
    }

    #[test]
    fn alpha_is_a_number_a_list_or_a_name() {
        let read = |json: &str| serde_json::from_str::<ClassLossConfig>(json);
        for (json, alpha) in [
            (r#"{"alpha": 0.5}"#, Alpha::Fixed(0.5)),
            (r#"{"alpha": [0.5, 0.1]}"#, Alpha::PerClass(vec![0.5, 0.1])),
            (r#"{"alpha": "none"}"#, Alpha::Named(NamedAlpha::None)),
            (
                r#"{"alpha": "effective_number"}"#,
                Alpha::Named(NamedAlpha::EffectiveNumber),
            ),
        ] {
            assert_eq!(read(json).unwrap().alpha, alpha);
        }
        let error = read(r#"{"alpha": "some"}"#).unwrap_err().to_string();
        assert!(error.contains("a number, a list"), "{error}");
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let error = ClassLossConfig {
            alpha: Alpha::Fixed(1.5),
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
