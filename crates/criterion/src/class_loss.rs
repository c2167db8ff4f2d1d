//! The settings of the loss over classes, and which losses there are.

use burn::tensor::Tensor;
use retinanet_boxes::AnchorLabel;
use retinanet_settings::{SettingError, Share, ShareBelowOne, real};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::alpha::{Alpha, NamedAlpha};
use crate::criterion::PredictionForm;
use crate::focal::{FocalLoss, Term};
use crate::quality::{QualityForm, QualityLoss};
use crate::softmax::SoftmaxFocalLoss;

real! {
    /// A focusing exponent γ.
    pub Gamma: at_least 0, at_most 20
}
real! {
    /// FL*'s γ, which it divides by.
    pub StarGamma: above 0, at_most 20
}
real! {
    /// FL*'s shift β.
    pub Shift: at_least -1000, at_most 1000
}

/// The classification losses that the paper compares, with their settings: sums over independent sigmoids, or each an
/// anchor's one term of a softmax, as the logits are meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ClassLossConfig {
    /// Focal loss, equation 5: the one to start with.
    Focal(FocalConfig),
    /// FL* of appendix A: `-alpha_t * log(sigmoid(gamma * x_t + beta)) / gamma`. As good as focal
    /// loss for γ = 2, β = 1 and γ = 4, β = 0 (table 3).
    FocalStar(FocalStarConfig),
    /// Cross-entropy. For comparison: it needs the prior to be stable at all.
    CrossEntropy(CrossEntropyConfig),
    /// Cross-entropy weighted by `alpha` (equation 3). For comparison: best with α = 0.75
    /// (table 1a).
    BalancedCrossEntropy(BalancedCrossEntropyConfig),
    /// Quality focal loss: an object's class shall have the overlap of its predicted box for a score (Li et al. 2020).
    QualityFocal(QualityFocalConfig),
    /// Varifocal loss: the same, where background alone is turned down (Zhang et al. 2021).
    Varifocal(VarifocalConfig),
}

impl Default for ClassLossConfig {
    fn default() -> Self {
        Self::Focal(FocalConfig::default())
    }
}

/// Settings of focal loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FocalConfig {
    /// How positives and negatives are weighted against each other.
    pub alpha: Alpha,
    /// The focusing exponent.
    pub gamma: Gamma,
    /// Label smoothing ε: labels become `y (1 - ε) + ε / 2`, the focus stays that of the plain label, as in
    /// TensorFlow's RetinaNet. With thousands of negatives to a positive, try 0.01 before more.
    pub label_smoothing: ShareBelowOne,
}

impl Default for FocalConfig {
    /// The paper's best: α = 0.25, γ = 2 (table 1b).
    fn default() -> Self {
        Self {
            alpha: PAPERS_ALPHA,
            gamma: Gamma::literal(2.0),
            label_smoothing: NO_SMOOTHING,
        }
    }
}

/// Settings of FL*.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FocalStarConfig {
    /// How positives and negatives are weighted against each other.
    pub alpha: Alpha,
    /// The steepness.
    pub gamma: StarGamma,
    /// The shift.
    pub beta: Shift,
}

impl Default for FocalStarConfig {
    fn default() -> Self {
        Self {
            alpha: PAPERS_ALPHA,
            gamma: StarGamma::literal(2.0),
            beta: Shift::literal(0.0),
        }
    }
}

/// Settings of cross-entropy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CrossEntropyConfig {
    /// Label smoothing ε: labels become `y (1 - ε) + ε / 2`.
    pub label_smoothing: ShareBelowOne,
}

impl Default for CrossEntropyConfig {
    fn default() -> Self {
        Self {
            label_smoothing: NO_SMOOTHING,
        }
    }
}

/// Settings of balanced cross-entropy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BalancedCrossEntropyConfig {
    /// How positives and negatives are weighted against each other.
    pub alpha: Alpha,
    /// Label smoothing ε: labels become `y (1 - ε) + ε / 2`.
    pub label_smoothing: ShareBelowOne,
}

impl Default for BalancedCrossEntropyConfig {
    fn default() -> Self {
        Self {
            alpha: PAPERS_ALPHA,
            label_smoothing: NO_SMOOTHING,
        }
    }
}

/// Settings of quality focal loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QualityFocalConfig {
    /// The focusing exponent on `|q - p|`.
    pub beta: Gamma,
}

impl Default for QualityFocalConfig {
    fn default() -> Self {
        Self {
            beta: Gamma::literal(2.0),
        }
    }
}

/// Settings of varifocal loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VarifocalConfig {
    /// The weight of background.
    pub alpha: Share,
    /// The focusing exponent of background.
    pub gamma: Gamma,
}

impl Default for VarifocalConfig {
    fn default() -> Self {
        Self {
            alpha: Share::literal(0.75),
            gamma: Gamma::literal(2.0),
        }
    }
}

const PAPERS_ALPHA: Alpha = Alpha::Fixed(Share::literal(0.25));
const NO_SMOOTHING: ShareBelowOne = ShareBelowOne::literal(0.0);

impl ClassLossConfig {
    /// The same for a data set whose classes have so many objects: with weights where they are to
    /// come from that.
    ///
    /// # Errors
    ///
    /// Returns an error if weights are given for another number of classes.
    pub fn for_objects(mut self, objects: &[usize]) -> Result<Self, SettingError> {
        match &mut self {
            Self::Focal(FocalConfig { alpha, .. })
            | Self::FocalStar(FocalStarConfig { alpha, .. })
            | Self::BalancedCrossEntropy(BalancedCrossEntropyConfig { alpha, .. }) => {
                alpha.for_objects(objects)?;
            }
            Self::CrossEntropy(_) | Self::QualityFocal(_) | Self::Varifocal(_) => {}
        }
        Ok(self)
    }

    /// Builds the loss for such predictions. Weights that are to come from a data set do so by
    /// [`for_objects`](Self::for_objects); without it all weigh 1.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting means nothing for a softmax: FL*, soft targets, label smoothing, and weights by class,
    /// since the background has one weight.
    pub fn init(&self, predictions: PredictionForm) -> Result<ClassLoss, SettingError> {
        let PredictionForm { softmax, .. } = predictions;
        let soft = |kind: &str, form| {
            if softmax {
                return means_nothing("kind", "`focal` or a cross-entropy", kind.into());
            }
            Ok(ClassLoss::Quality(QualityLoss { form }))
        };
        let focal = match self {
            Self::QualityFocal(config) => {
                let beta = config.beta.get();
                return soft("quality_focal", QualityForm::QualityFocal { beta });
            }
            Self::Varifocal(config) => {
                let (alpha, gamma) = (config.alpha.get(), config.gamma.get());
                return soft("varifocal", QualityForm::Varifocal { alpha, gamma });
            }
            Self::Focal(config) => config.init(),
            Self::FocalStar(config) => config.init(),
            Self::CrossEntropy(config) => config.init(),
            Self::BalancedCrossEntropy(config) => config.init(),
        };
        Ok(if softmax {
            ClassLoss::Softmax(over_softmax(&focal)?)
        } else {
            ClassLoss::Sigmoid(focal)
        })
    }
}

impl FocalConfig {
    fn init(&self) -> FocalLoss {
        FocalLoss {
            alpha: self.alpha.clone(),
            gamma: self.gamma.get(),
            shift: None,
            smoothing: self.label_smoothing.get() / 2.0,
        }
    }
}

impl FocalStarConfig {
    fn init(&self) -> FocalLoss {
        FocalLoss {
            alpha: self.alpha.clone(),
            gamma: self.gamma.get(),
            shift: Some(self.beta.get()),
            smoothing: 0.0,
        }
    }
}

impl CrossEntropyConfig {
    const fn init(&self) -> FocalLoss {
        FocalLoss {
            alpha: Alpha::Named(NamedAlpha::None),
            gamma: 0.0,
            shift: None,
            smoothing: self.label_smoothing.get() / 2.0,
        }
    }
}

impl BalancedCrossEntropyConfig {
    fn init(&self) -> FocalLoss {
        FocalLoss {
            alpha: self.alpha.clone(),
            gamma: 0.0,
            shift: None,
            smoothing: self.label_smoothing.get() / 2.0,
        }
    }
}

fn means_nothing<T>(path: &str, allowed: &str, got: String) -> Result<T, SettingError> {
    let allowed = format!("{allowed}, since scores are a softmax");
    Err(SettingError::new(path, allowed, got))
}

/// The same focal loss over a softmax, if it has such a form.
fn over_softmax(loss: &FocalLoss) -> Result<SoftmaxFocalLoss, SettingError> {
    if loss.shift.is_some() {
        return means_nothing("kind", "`focal` or a cross-entropy", "focal_star".into());
    }
    if loss.smoothing > 0.0 {
        let got = (2.0 * loss.smoothing).to_string();
        return means_nothing("label_smoothing", "0", got);
    }
    let alpha = match &loss.alpha {
        Alpha::Fixed(alpha) => Some(alpha.get()),
        Alpha::Named(NamedAlpha::None) => None,
        Alpha::PerClass(_) | Alpha::Named(NamedAlpha::EffectiveNumber) => {
            let got = "one for each class".into();
            return means_nothing("alpha", "a number or \"none\"", got);
        }
    };
    Ok(SoftmaxFocalLoss {
        alpha,
        gamma: loss.gamma,
    })
}

/// The loss over classes.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassLoss {
    /// Of independent sigmoids.
    Sigmoid(FocalLoss),
    /// Of a softmax over the classes and the background.
    Softmax(SoftmaxFocalLoss),
    /// Of independent sigmoids, with soft targets.
    Quality(QualityLoss),
}

impl ClassLoss {
    /// Computes the losses of a batch; the caller masks and reduces. With soft targets, as if every box were perfect.
    ///
    /// # Shapes
    ///
    /// - `logits`, `targets`: `[batch, anchors, classes]`, targets `0.0` or `1.0`
    /// - output: `[batch, anchors, classes]`; for a softmax `[batch, anchors, 1]`
    pub(crate) fn forward(&self, logits: Tensor<3>, targets: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Sigmoid(loss) => loss.forward(logits, targets),
            Self::Softmax(loss) => loss.forward(logits, targets),
            Self::Quality(loss) => loss.forward(logits, targets),
        }
    }

    /// The loss of one anchor on the host; with soft targets, as if its box were perfect.
    pub(crate) fn of_anchor(&self, logits: &[f32], label: AnchorLabel) -> f32 {
        let mut sum = 0.0;
        self.terms(logits, label, |term| sum += term.loss);
        sum
    }

    /// What the loss of one anchor is the sum of.
    pub(crate) fn terms(&self, logits: &[f32], label: AnchorLabel, mut each: impl FnMut(Term)) {
        let object = match label {
            AnchorLabel::Object(class) => Some(class.index()),
            AnchorLabel::Background | AnchorLabel::Ignored => None,
        };
        match self {
            Self::Softmax(loss) => each(loss.of_anchor(logits, object)),
            Self::Sigmoid(loss) => {
                for (class, &logit) in logits.iter().enumerate() {
                    each(loss.of_element(logit, class, object == Some(class)));
                }
            }
            Self::Quality(loss) => {
                for (class, &logit) in logits.iter().enumerate() {
                    each(loss.of_element(logit, object == Some(class)));
                }
            }
        }
    }
}

#[cfg(test)]
impl ClassLossConfig {
    /// The loss over independent sigmoids.
    pub(crate) fn over_sigmoids(&self) -> FocalLoss {
        match self.init(PredictionForm::default()) {
            Ok(ClassLoss::Sigmoid(loss)) => loss,
            other => panic!("{other:?}"),
        }
    }
}
