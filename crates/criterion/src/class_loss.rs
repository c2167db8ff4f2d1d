//! The settings of the loss over classes, and which losses there are.

use serde::{Deserialize, Serialize};

use crate::CriterionError;
use crate::focal::FocalLoss;

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
