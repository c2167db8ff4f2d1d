//! The settings of the loss over classes, and which losses there are.

use burn::tensor::Tensor;
use retinanet_boxes::AnchorLabel;
use serde::{Deserialize, Serialize};

use crate::CriterionError;
use crate::alpha::{Alpha, NamedAlpha, by_effective_number};
use crate::focal::{FocalLoss, Term};
use crate::softmax::SoftmaxFocalLoss;

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

/// The classification losses that the paper compares: sums over independent sigmoids, or each an
/// anchor's one term of a softmax, as the logits are meant.
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
                    got: alphas.len().to_string(),
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

    /// Checks the settings and builds the loss over independent sigmoids. Weights that are to come from a data set do so by
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
        let out_of_range = |key, got: f64, allowed| {
            let got = got.to_string();
            Err(CriterionError { key, got, allowed })
        };
        let alphas = match &self.alpha {
            Alpha::Fixed(alpha) => std::slice::from_ref(alpha),
            Alpha::PerClass(alphas) => alphas,
            Alpha::Named(_) => &[],
        };
        if let Some(&alpha) = alphas.iter().find(|alpha| !(0.0..=1.0).contains(*alpha)) {
            return out_of_range("criterion.class.alpha", alpha, "in [0, 1]");
        }
        if !(0.0..=20.0).contains(&gamma) {
            let key = "criterion.class.gamma";
            return out_of_range(key, gamma, "in [0, 20]");
        }
        if self.loss == ClassLossKind::FocalStar && gamma == 0.0 {
            return out_of_range("criterion.class.gamma", gamma, "above 0 for `focal_star`");
        }
        if !(-1000.0..=1000.0).contains(&beta) {
            return out_of_range("criterion.class.beta", beta, "in [-1000, 1000]");
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

    /// Checks the settings and builds the loss over a softmax of the classes and the background.
    ///
    /// # Errors
    ///
    /// Returns an error where a setting is out of its range, or means nothing for a softmax: FL*,
    /// label smoothing, and weights by class, since the background has one weight.
    pub fn init_softmax(&self) -> Result<SoftmaxFocalLoss, CriterionError> {
        let means_nothing = |key, got: String, allowed| Err(CriterionError { key, got, allowed });
        if self.label_smoothing != 0.0 {
            let got = self.label_smoothing.to_string();
            return means_nothing(
                "criterion.class.label_smoothing",
                got,
                "0 with `model.head.scores = \"softmax\"`",
            );
        }
        let loss = self.init()?;
        if loss.shift.is_some() {
            let allowed = "`focal` or a cross-entropy with `model.head.scores = \"softmax\"`";
            return means_nothing("criterion.class.loss", "focal_star".into(), allowed);
        }
        let alpha = match loss.alpha {
            Alpha::Fixed(alpha) => Some(alpha),
            Alpha::Named(NamedAlpha::None) => None,
            Alpha::PerClass(_) | Alpha::Named(NamedAlpha::EffectiveNumber) => {
                let got = "one for each class".into();
                let allowed = "a number or \"none\" with `model.head.scores = \"softmax\"`";
                return means_nothing("criterion.class.alpha", got, allowed);
            }
        };
        Ok(SoftmaxFocalLoss {
            alpha,
            gamma: loss.gamma,
        })
    }
}

/// The loss over classes.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassLoss {
    /// Of independent sigmoids.
    Sigmoid(FocalLoss),
    /// Of a softmax over the classes and the background.
    Softmax(SoftmaxFocalLoss),
}

impl ClassLoss {
    /// Computes the losses of a batch; the caller masks and reduces.
    ///
    /// # Shapes
    ///
    /// - `logits`, `targets`: `[batch, anchors, classes]`, targets `0.0` or `1.0`
    /// - output: `[batch, anchors, classes]`; for a softmax `[batch, anchors, 1]`
    pub(crate) fn forward(&self, logits: Tensor<3>, targets: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Sigmoid(loss) => loss.forward(logits, targets),
            Self::Softmax(loss) => loss.forward(logits, targets),
        }
    }

    /// The loss of one anchor on the host.
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
        }
    }
}
