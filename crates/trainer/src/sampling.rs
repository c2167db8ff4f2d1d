//! Lets a step's loss count over chosen anchors only.

use burn::tensor::Device;
use retinanet_boxes::{AnchorTargets, BoundingBox};
use retinanet_criterion::{BatchTargets, ClassLoss, Sampler};
use retinanet_detector::Predictions;

/// What chance depends on: the same for a run that goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    pub(crate) iteration: u64,
    /// Which part of the step's batch.
    pub(crate) part: usize,
}

/// The targets of a part's images with those anchors alone that count; none where all do.
pub(crate) fn choose(
    (sampler, loss): (&Sampler, &ClassLoss),
    draw: Draw,
    targets: &[AnchorTargets],
    predictions: &Predictions,
    anchors: &[BoundingBox],
    device: &Device,
) -> Option<BatchTargets> {
    if sampler.takes_all() {
        return None;
    }
    let [_, count, classes] = predictions.logits.dims();
    let logits = predictions.logits.clone().into_data();
    let logits: Vec<f32> = logits.iter().collect();
    let chosen: Vec<_> = (targets.iter().zip(logits.chunks(count * classes)))
        .enumerate()
        .map(|(image, (targets, logits))| {
            sampler.choose(targets, logits, loss, anchors, draw.seed_of(image))
        })
        .collect();
    Some(BatchTargets::new(&chosen, device))
}

impl Draw {
    fn seed_of(self, image: usize) -> u64 {
        // Odd factors, so that neighbours in one number are not neighbours in the seed.
        (self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_add(self.iteration.wrapping_mul(0xBF58_476D_1CE4_E5B9))
            .wrapping_add((self.part as u64) << 32 | image as u64)
    }
}
