//! What share of the loss positives and negatives carry, and how it spreads over them: Figure 4 of
//! [Lin et al. 2017](https://arxiv.org/abs/1708.02002).

use serde::Serialize;

/// What positives and negatives carry of the class loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LossShares {
    /// The share of the class loss that positive anchors carry, in `[0, 1]`.
    pub positives: f64,
    /// The share that negative anchors carry, in `[0, 1]`.
    pub negatives: f64,
    /// How the loss spreads over the anchors, for one or more focusing exponents.
    pub curves: Vec<CumulativeLoss>,
}

/// The cumulative normalised loss for one focusing exponent. Each curve goes from `(0, 0)` to
/// `(1, 1)`: the share of the anchors, the easiest first, and the share of the loss they carry.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CumulativeLoss {
    /// The focal loss's γ.
    pub gamma: f64,
    /// Over positive anchors.
    pub positives: Vec<(f32, f32)>,
    /// Over negative anchors.
    pub negatives: Vec<(f32, f32)>,
}
