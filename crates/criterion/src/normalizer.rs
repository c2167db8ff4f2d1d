//! What the summed losses are divided by. The paper divides by the number of positive anchors;
//! the peers differ in over what they count.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How fast detectron2's moving average follows.
const MOMENTUM: f64 = 0.9;
/// Where it starts (`detectron2/modeling/meta_arch/retinanet.py`).
const INITIAL_AVERAGE: f64 = 100.0;

/// Over what positive anchors are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormalizerKind {
    /// A moving average over batches that starts at 100: detectron2.
    #[default]
    MovingAverage,
    /// The batch: the paper.
    Batch,
    /// The batch, where an image without any counts as one: mmdetection.
    BatchEachAtLeastOne,
    /// The batch and one more: Detectron, the TensorFlow models.
    BatchPlusOne,
    /// Each image by itself, then the mean over images: torchvision.
    Image,
}

impl NormalizerKind {
    /// A normaliser at its start.
    pub const fn init(self) -> Normalizer {
        Normalizer {
            kind: self,
            average: INITIAL_AVERAGE,
        }
    }
}

/// Turns counts of positive anchors into weights of images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalizer {
    kind: NormalizerKind,
    /// Unlike detectron2's, it is saved with the checkpoint, so that resuming changes nothing.
    average: f64,
}

impl Normalizer {
    /// The factor on each image's summed loss. A count of 0 divides by 1. A moving average first
    /// takes the batch in.
    pub fn weights(&mut self, positives_per_image: &[usize]) -> Vec<f64> {
        let images = positives_per_image.len();
        let total = positives_per_image.iter().sum::<usize>().max(1) as f64;
        match self.kind {
            NormalizerKind::MovingAverage => {
                self.average = MOMENTUM * self.average + (1.0 - MOMENTUM) * total;
                vec![1.0 / self.average; images]
            }
            NormalizerKind::Batch => vec![1.0 / total; images],
            NormalizerKind::BatchEachAtLeastOne => {
                let total: usize = positives_per_image.iter().map(|&count| count.max(1)).sum();
                vec![1.0 / total as f64; images]
            }
            NormalizerKind::BatchPlusOne => {
                let total = positives_per_image.iter().sum::<usize>() + 1;
                vec![1.0 / total as f64; images]
            }
            NormalizerKind::Image => positives_per_image
                .iter()
                .map(|&positives| 1.0 / (positives.max(1) * images) as f64)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moving_average_starts_at_100_and_follows_by_a_tenth() {
        let mut normalizer = NormalizerKind::MovingAverage.init();
        // 0.9 · 100 + 0.1 · 30 = 93; 0.9 · 93 + 0.1 · 1 (no positives count as one) = 83.8.
        for (positives, average) in [([10, 20], 93.0), ([0, 0], 83.8)] {
            let weights = normalizer.weights(&positives);
            for weight in weights {
                assert!((1.0 / weight - average).abs() < 1e-9, "{weight}");
            }
        }
    }

    #[test]
    fn batch_and_image_differ_where_images_do() {
        assert_eq!(
            NormalizerKind::Batch.init().weights(&[3, 1, 0]),
            [0.25, 0.25, 0.25]
        );
        assert_eq!(
            NormalizerKind::BatchEachAtLeastOne
                .init()
                .weights(&[3, 0, 0]),
            [0.2, 0.2, 0.2]
        );
        assert_eq!(
            NormalizerKind::BatchPlusOne.init().weights(&[2, 1]),
            [0.25, 0.25]
        );
        assert_eq!(
            NormalizerKind::Image.init().weights(&[5, 1, 0]),
            [1.0 / 15.0, 1.0 / 3.0, 1.0 / 3.0]
        );
    }
}
