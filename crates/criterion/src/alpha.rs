//! α: how much positives weigh, and negatives beside them.

use retinanet_settings::{SettingError, Share};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Weight of positives; negatives weigh one minus it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "must be a number in [0, 1], a list with one for each class, \"none\" or \"effective_number\""
)]
pub enum Alpha {
    /// The same for all classes.
    Fixed(Share),
    /// One for each class, by class index: for classes that are rare.
    PerClass(Vec<Share>),
    /// By name.
    Named(NamedAlpha),
}

/// Weights with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

impl Alpha {
    /// The same for a data set whose classes have so many objects: with weights where they are to come from that.
    ///
    /// # Errors
    ///
    /// Returns an error if weights are given for another number of classes.
    pub(crate) fn for_objects(&mut self, objects: &[usize]) -> Result<(), SettingError> {
        match self {
            Self::PerClass(alphas) if alphas.len() != objects.len() => {
                let allowed = "as many numbers as there are classes";
                return Err(SettingError::new("alpha", allowed, alphas.len()));
            }
            Self::Named(NamedAlpha::EffectiveNumber) => {
                *self = Self::PerClass(by_effective_number(objects));
            }
            _ => {}
        }
        Ok(())
    }
}

/// α of each class by the effective number of its objects.
fn by_effective_number(objects: &[usize]) -> Vec<Share> {
    // A class without objects is as one with a single one.
    let objects = || objects.iter().map(|&count| count.max(1) as f64);
    let weight = |count: f64| (1.0 - EFFECTIVE) / (1.0 - EFFECTIVE.powf(count));
    let all: f64 = objects().sum();
    let mean = objects().map(|count| count * weight(count)).sum::<f64>() / all;
    let alpha = |count| (MEAN_ALPHA * weight(count) / mean).clamp(0.0, MOST_ALPHA);
    objects()
        .map(|count| Share::literal(alpha(count)))
        .collect()
}
