//! How the loss falls to the pyramid's levels.

use retinanet_boxes::{AnchorTargets, PositiveAnchor};
use retinanet_criterion::{BatchTargets, Criterion};
use retinanet_detector::Predictions;

/// Class and box loss of each level, finest first; the sum over the levels is the loss. `weights`
/// has the factor on each image's loss.
pub(crate) fn level_losses(
    criterion: &Criterion,
    targets: &[AnchorTargets],
    predictions: &Predictions,
    weights: &[f64],
) -> Vec<[f64; 2]> {
    // Nothing of this is learnt from.
    let logits = predictions.logits.clone().detach();
    let deltas = predictions.deltas.clone().detach();
    let mut start = 0;
    let mut losses = Vec::new();
    for &anchors in &predictions.level_anchors {
        let targets: Vec<_> = (targets.iter())
            .map(|targets| of_level(targets, start, anchors))
            .collect();
        let loss = criterion.weighted(
            logits.clone().narrow(1, start, anchors),
            deltas.clone().narrow(1, start, anchors),
            &BatchTargets::new(&targets, &logits.device()),
            weights,
        );
        losses.push([loss.class, loss.bbox].map(|it| f64::from(it.into_scalar::<f32>())));
        start += anchors;
    }
    losses
}

/// Adds the losses of another part of a batch.
pub(crate) fn add_levels(sums: &mut Vec<[f64; 2]>, part: Vec<[f64; 2]>) {
    if sums.is_empty() {
        *sums = part;
        return;
    }
    for (sum, level) in sums.iter_mut().zip(part) {
        *sum = [sum[0] + level[0], sum[1] + level[1]];
    }
}

/// The targets of one level's anchors.
fn of_level(targets: &AnchorTargets, start: usize, anchors: usize) -> AnchorTargets {
    let level = start..start + anchors;
    let positives = targets.positives.iter();
    AnchorTargets {
        labels: targets.labels[level.clone()].to_vec(),
        positives: positives
            .filter(|positive| level.contains(&positive.anchor))
            .map(|positive| PositiveAnchor {
                anchor: positive.anchor - start,
                ..*positive
            })
            .collect(),
    }
}
