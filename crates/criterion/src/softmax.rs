//! Focal loss over a softmax of the classes and the background: what Lin et al. 2017 (section 3)
//! call its straightforward extension to several classes, and Detectron's `SoftmaxFocalLoss`.

use burn::tensor::Tensor;

use crate::focal::{Term, focus};

/// The least sum of the wrong exponentials: its logarithm has a gradient, and its power is nothing.
const LEAST: f32 = 1e-30;

/// Focal loss over a softmax.
///
/// ```text
/// p_t = exp(x_t) / (1 + sum of exp(x))      where x_t = 0 for the background
/// FL  = -alpha_t * (1 - p_t)^gamma * log(p_t)
/// ```
///
/// An anchor has one term, however many classes there are. The background's logit is always 0:
/// only differences of logits count. With one class it is the sigmoid's focal loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxFocalLoss {
    /// The weight of objects; the background's is one minus it. Where not given, both weigh 1.
    pub(crate) alpha: Option<f64>,
    pub(crate) gamma: f64,
}

impl SoftmaxFocalLoss {
    /// Computes the loss of every anchor; the caller masks and reduces.
    ///
    /// # Shapes
    ///
    /// - `logits`: `[batch, anchors, classes]`, without the background's
    /// - `targets`: `[batch, anchors, classes]`, `1.0` at an object's class, `0.0` elsewhere
    /// - output: `[batch, anchors, 1]`
    pub fn forward(&self, logits: Tensor<3>, targets: Tensor<3>) -> Tensor<3> {
        let is_object = targets.clone().sum_dim(2); // [batch, anchors, 1]
        let true_logit = (logits.clone() * targets.clone()).sum_dim(2);
        // Nothing overflows below the largest of all logits, the background's 0 among them. It
        // cancels, so that it needs no gradient.
        let largest = logits.clone().detach().max_dim(2).clamp_min(0.0);
        let background = largest.clone().neg().exp();
        let classes = (logits - largest.clone()).exp();
        let total = (classes.clone().sum_dim(2) + background.clone()).log();
        // In this order: the difference is exact where the right logit is the largest.
        let mut loss = total.clone() + (largest - true_logit);
        if self.gamma > 0.0 {
            // Summed without the right one: 1 - p_t would lose its digits where p_t is near 1.
            let wrong = (classes * (-targets + 1.0)).sum_dim(2) + background * is_object.clone();
            let log_wrong = wrong.clamp_min(LEAST).log() - total;
            loss = loss * (log_wrong * self.gamma).exp();
        }
        match self.alpha {
            None => loss,
            Some(alpha) => loss * (is_object * (2.0 * alpha - 1.0) + (1.0 - alpha)),
        }
    }

    /// The loss of one anchor on the host: of the class `object`, or background.
    pub(crate) fn of_anchor(&self, logits: &[f32], object: Option<usize>) -> Term {
        let largest = logits.iter().copied().fold(0.0, f32::max);
        let (mut right, mut wrong) = (0.0, 0.0);
        let mut add = |logit: f32, is_true: bool| {
            let share = (logit - largest).exp();
            *(if is_true { &mut right } else { &mut wrong }) += share;
        };
        add(0.0, object.is_none());
        for (class, &logit) in logits.iter().enumerate() {
            add(logit, object == Some(class));
        }
        let true_logit = object.map_or(0.0, |class| logits[class]);
        let total = right + wrong;
        let cross_entropy = if true_logit >= largest {
            // log(right + wrong) would lose a small `wrong`.
            (wrong / right).ln_1p()
        } else {
            total.ln() + (largest - true_logit)
        };
        let wrong = wrong / total;
        let alpha = match (self.alpha, object) {
            (None, _) => 1.0,
            (Some(alpha), Some(_)) => alpha,
            (Some(alpha), None) => 1.0 - alpha,
        };
        Term {
            loss: alpha as f32 * focus(wrong, self.gamma as f32) * cross_entropy,
            cross_entropy,
            wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use super::*;
    use retinanet_settings::ShareBelowOne;

    use crate::{
        Alpha, ClassLossConfig, FocalConfig, FocalStarConfig, Gamma, NamedAlpha, PredictionForm,
    };

    /// The definition, in `f64`.
    fn defined(loss: &SoftmaxFocalLoss, logits: &[f64], object: Option<usize>) -> f64 {
        let all = || std::iter::once(0.0).chain(logits.iter().copied());
        let truth = object.map_or(0, |class| class + 1);
        let total: f64 = all().map(f64::exp).sum();
        let of = |place: usize| all().nth(place).map_or(0.0, f64::exp);
        let wrong: f64 = (0..=logits.len()).filter(|&it| it != truth).map(of).sum();
        let cross_entropy = (wrong / of(truth)).ln_1p();
        let alpha = match (loss.alpha, object) {
            (None, _) => 1.0,
            (Some(alpha), Some(_)) => alpha,
            (Some(alpha), None) => 1.0 - alpha,
        };
        alpha * (wrong / total).powf(loss.gamma) * cross_entropy
    }

    fn over_softmax() -> PredictionForm {
        PredictionForm {
            softmax: true,
            ..PredictionForm::default()
        }
    }

    fn softmax(config: &ClassLossConfig) -> SoftmaxFocalLoss {
        let Ok(crate::ClassLoss::Softmax(loss)) = config.init(over_softmax()) else {
            panic!("{config:?}");
        };
        loss
    }

    const STEP: f64 = 1e-5;

    /// Loss of an anchor and its gradient by the logits.
    fn computed(loss: &SoftmaxFocalLoss, logits: &[f64], object: Option<usize>) -> (f64, Vec<f32>) {
        let device = Device::flex().autodiff();
        let shape = [1, 1, logits.len()];
        let values: Vec<f32> = logits.iter().map(|&logit| logit as f32).collect();
        let mut targets = vec![0.0_f32; logits.len()];
        if let Some(class) = object {
            targets[class] = 1.0;
        }
        let logits = Tensor::<3>::from_data(TensorData::new(values, shape), &device).require_grad();
        let targets = Tensor::<3>::from_data(TensorData::new(targets, shape), &device);
        let value = loss.forward(logits.clone(), targets);
        let gradients = value.clone().sum().backward();
        let gradient = logits.grad(&gradients).unwrap().into_data();
        (
            f64::from(value.into_scalar::<f32>()),
            gradient.try_to_vec().unwrap(),
        )
    }

    fn any_loss() -> impl Strategy<Value = SoftmaxFocalLoss> {
        let alpha = prop_oneof![Just(None), (0.0..=1.0).prop_map(Some)];
        let gamma = prop_oneof![Just(0.0), Just(2.0), 0.1..5.0];
        (alpha, gamma).prop_map(|(alpha, gamma)| SoftmaxFocalLoss { alpha, gamma })
    }

    fn any_anchor() -> impl Strategy<Value = (Vec<f64>, Option<usize>)> {
        let logits = prop::collection::vec(-12.0..12.0_f64, 1..6);
        let rounded = logits.prop_map(|logits| {
            let f32s = logits.into_iter().map(|logit| f64::from(logit as f32));
            f32s.collect::<Vec<_>>()
        });
        rounded.prop_flat_map(|logits| {
            let classes = logits.len();
            (Just(logits), prop::option::of(0..classes))
        })
    }

    proptest! {
        #[test]
        fn it_is_the_definition(loss in any_loss(), (logits, object) in any_anchor()) {
            let expected = defined(&loss, &logits, object);
            let (value, gradient) = computed(&loss, &logits, object);
            let close = |found: f64| (found - expected).abs() <= 1e-4 * expected + 3e-7;
            prop_assert!(close(value), "{} and not {}", value, expected);
            let f32s: Vec<f32> = logits.iter().map(|&logit| logit as f32).collect();
            let on_host = f64::from(loss.of_anchor(&f32s, object).loss);
            prop_assert!(close(on_host), "{} and not {} on the host", on_host, expected);

            for (place, &found) in gradient.iter().enumerate() {
                let moved = |step: f64| {
                    let mut logits = logits.clone();
                    logits[place] += step;
                    defined(&loss, &logits, object)
                };
                let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                prop_assert!(
                    (f64::from(found) - slope).abs() <= 1e-3 * slope.abs() + 1e-5,
                    "{} and not {}", found, slope
                );
            }
        }

        #[test]
        fn with_one_class_it_is_the_sigmoids(
            logit in -12.0..12.0_f64,
            positive: bool,
            gamma in prop_oneof![Just(0.0), Just(2.0), 0.1..5.0],
        ) {
            let config = ClassLossConfig::Focal(FocalConfig {
                gamma: Gamma::new(gamma).unwrap(),
                ..FocalConfig::default()
            });
            let logit = logit as f32;
            let object = positive.then_some(0);
            let found = softmax(&config).of_anchor(&[logit], object);
            let expected = config.over_sigmoids().of_element(logit, 0, positive);
            prop_assert!((found.loss - expected.loss).abs() <= 1e-5 * expected.loss);
        }
    }

    #[test]
    fn sure_logits_have_finite_gradients() {
        for gamma in [0.0, 0.5, 2.0] {
            let loss = SoftmaxFocalLoss {
                alpha: Some(0.25),
                gamma,
            };
            for logits in [[200.0, -200.0], [-200.0, -200.0], [200.0, 200.0]] {
                for object in [None, Some(0), Some(1)] {
                    let (value, gradient) = computed(&loss, &logits, object);
                    assert!(value.is_finite(), "{logits:?}, {object:?}: {value}");
                    assert!(
                        gradient.iter().all(|it| it.is_finite()),
                        "{logits:?}, {object:?}: {gradient:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_means_nothing_for_a_softmax_is_refused() {
        let focal = FocalConfig::default;
        for (config, path) in [
            (
                ClassLossConfig::FocalStar(FocalStarConfig::default()),
                "kind",
            ),
            (
                ClassLossConfig::Focal(FocalConfig {
                    alpha: Alpha::Named(NamedAlpha::EffectiveNumber),
                    ..focal()
                }),
                "alpha",
            ),
            (
                ClassLossConfig::Focal(FocalConfig {
                    label_smoothing: ShareBelowOne::literal(0.1),
                    ..focal()
                }),
                "label_smoothing",
            ),
        ] {
            assert_eq!(config.init(over_softmax()).unwrap_err().path, path);
        }
    }
}
