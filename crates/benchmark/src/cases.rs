//! Random cases to work on.

use std::f32::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use retinanet_anchors::BoxCoder;
use retinanet_boxes::{BoundingBox, ClassId, GroundTruth};
use retinanet_images::{Channel, Normalizer, PieceBytes, PixelBytes, Region, View};

use crate::ImageSize;

/// Sides of objects in pixels, from the smallest to so many times it.
const OBJECT_SIDES: (f32, f32) = (16.0, 32.0);
/// Objects around which [`Bench::decode`] finds high scores.
const CLUSTERS: usize = 300;
/// Overlap from which an anchor belongs to a cluster.
const CLUSTER_IOU: f32 = 0.4;
/// Logit of the prior, about which everything else scores.
const BACKGROUND_LOGIT: f32 = -4.6;

/// Images of noise as bytes, with numbers of mean 0 and deviation 1.
pub(crate) fn noise(rng: &mut ChaCha8Rng, size: ImageSize, images: usize) -> PixelBytes {
    let ImageSize { height, width } = size;
    let each = (3 * height * width).next_multiple_of(4);
    let mut bytes = vec![0; images * each];
    rng.fill(&mut bytes);
    let size = size.width_and_height();
    let piece = |item| PieceBytes {
        item,
        start: item * each,
        piece: View::of(0, Region::whole(size), size).pieces.remove(0),
    };
    PixelBytes {
        bytes,
        pieces: (0..images).map(piece).collect(),
        normalizer: Normalizer {
            channels: [0, 1, 2].map(|place| Channel {
                place,
                mean: 127.5,
                std: 73.9,
            }),
        },
        items: images,
        height,
        width,
    }
}

/// Objects anywhere on the image, their sides evenly spread in the logarithm, clipped to it.
pub(crate) fn sample_objects(
    rng: &mut ChaCha8Rng,
    count: usize,
    size: ImageSize,
    classes: usize,
) -> Vec<GroundTruth> {
    let (width, height) = (size.width as f32, size.height as f32);
    let (smallest, factor) = OBJECT_SIDES;
    (0..count)
        .map(|_| {
            let [x, y, w, h] = std::array::from_fn(|_| rng.random::<f32>());
            let [w, h] = [w, h].map(|exponent| smallest * factor.powf(exponent));
            GroundTruth {
                bbox: BoundingBox::from_center(x * width, y * height, w, h).clip(width, height),
                class: ClassId(rng.random_range(0..classes as u32)),
                crowd: false,
            }
        })
        .collect()
}

/// Logits `[anchors, classes]` and deltas `[anchors, 4]` as of a model that has learnt: a
/// background about the prior, and high scores for what overlaps some object.
pub(crate) fn sample_predictions(
    rng: &mut ChaCha8Rng,
    anchors: &[BoundingBox],
    size: ImageSize,
    classes: usize,
) -> (Vec<f32>, Vec<f32>) {
    let objects = sample_objects(rng, CLUSTERS, size, classes);
    let mut logits: Vec<f32> = (0..anchors.len() * classes)
        .map(|_| BACKGROUND_LOGIT + normal(rng))
        .collect();
    let mut deltas: Vec<f32> = (0..anchors.len() * 4).map(|_| 0.1 * normal(rng)).collect();
    let coder = BoxCoder::default();
    for object in objects {
        for (index, anchor) in anchors.iter().enumerate() {
            let iou = anchor.iou(&object.bbox);
            if iou <= CLUSTER_IOU {
                continue;
            }
            // From -1 at the cluster's edge to 5 on the object itself.
            let closeness = (iou - CLUSTER_IOU) / (1.0 - CLUSTER_IOU);
            logits[index * classes + object.class.0 as usize] = 6.0 * closeness - 1.0 + normal(rng);
            let exact = coder.encode(anchor, &object.bbox);
            for (delta, exact) in deltas[4 * index..].iter_mut().zip(exact) {
                *delta = exact + 0.05 * normal(rng);
            }
        }
    }
    (logits, deltas)
}

/// A number of mean 0 and deviation 1, by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // In (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (TAU * rng.random::<f32>()).cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn objects_are_on_the_image() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let size = ImageSize {
            height: 50,
            width: 80,
        };
        for object in sample_objects(&mut rng, 1000, size, 3) {
            assert!(object.bbox.is_proper(), "{object:?}");
            assert_eq!(object.bbox.clip(80.0, 50.0), object.bbox);
            assert!(object.class.0 < 3);
        }
    }
}
