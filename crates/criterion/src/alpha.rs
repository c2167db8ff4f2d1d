//! α: how much positives weigh, and negatives beside them.

use serde::{Deserialize, Serialize};

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

/// α of each class by the effective number of its objects.
pub(crate) fn by_effective_number(objects: &[usize]) -> Vec<f64> {
    // A class without objects is as one with a single one.
    let objects = || objects.iter().map(|&count| count.max(1) as f64);
    let weight = |count: f64| (1.0 - EFFECTIVE) / (1.0 - EFFECTIVE.powf(count));
    let all: f64 = objects().sum();
    let mean = objects().map(|count| count * weight(count)).sum::<f64>() / all;
    let alpha = |count| (MEAN_ALPHA * weight(count) / mean).min(MOST_ALPHA);
    objects().map(alpha).collect()
}
