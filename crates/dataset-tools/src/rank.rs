//! Which unlabelled images are worth labelling next.

use std::collections::BTreeMap;

use retinanet_boxes::Detection;

use crate::mirror::score_in;

/// What a detector says of an image that nobody has labelled.
#[derive(Clone, Debug)]
pub struct Unlabelled {
    /// How unsure it is; see [`doubt`].
    pub doubt: f32,
    /// How many boxes there are to label, as far as it knows; see [`expected_boxes`].
    pub boxes: f32,
    /// Its backbone's features of the whole; as many numbers for every image.
    pub features: Vec<f32>,
}

/// An image that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Its place among the images.
    pub image: usize,
    /// How unsure the detector is.
    pub doubt: f32,
    /// How many boxes there are to label, as far as it knows.
    pub boxes: f32,
    /// How different it is from those that were chosen before, in `[0, 1]`.
    pub novelty: f32,
}

/// Scores below are what the detector takes for background.
const LEAST_SCORE: f32 = 0.05;

/// Boxes of an image's class that count: those that the detector is least sure of.
const MOST_BOXES: usize = 5;

/// The doubt of an image without detections: it may be empty, or full of what the detector does not know.
const WITHOUT_DETECTIONS: f32 = 0.3;

/// What opening an image and looking it over costs, in boxes.
const COST_OF_IMAGE: f32 = 2.0;

/// How unsure a detector is of an image: of each class's boxes that it is least sure of the mean of how near their scores
/// are to 1/2, or of how much the mirrored image changes them if that is more; the sum over the classes, which count alike,
/// as in AP.
///
/// `mirrored` are the detections on the mirrored image, in pixels of the image as it is.
pub fn doubt(detections: &[Detection], mirrored: &[Detection]) -> f32 {
    let found = detections
        .iter()
        .filter(|detection| detection.score >= LEAST_SCORE);
    let mut of_classes: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
    for detection in found {
        let near_half = 1.0 - (2.0 * detection.score - 1.0).abs();
        let doubt = near_half.max((detection.score - score_in(mirrored, detection)).abs());
        let of_class = of_classes.entry(detection.class.0).or_default();
        of_class.push(doubt);
    }
    if of_classes.is_empty() {
        return WITHOUT_DETECTIONS;
    }
    let least_sure = |mut doubts: Vec<f32>| {
        doubts.sort_by(|a, b| b.total_cmp(a));
        doubts.truncate(MOST_BOXES);
        doubts.iter().sum::<f32>() / doubts.len() as f32
    };
    of_classes.into_values().map(least_sure).sum()
}

/// How many boxes an image has, as its scores say: their sum.
pub fn expected_boxes(detections: &[Detection]) -> f32 {
    let scores = detections.iter().map(|detection| detection.score);
    scores.filter(|score| *score >= LEAST_SCORE).sum()
}

/// Chooses `take` images, the most worth labelling first: each time the one with the largest product of doubt and novelty
/// for what its boxes cost to label.
/// Near copies of what was chosen have no novelty, and are chosen last.
pub fn rank(images: &[Unlabelled], take: usize) -> Vec<Ranked> {
    let directions = directions(images);
    let mut novelty = vec![1.0_f32; images.len()];
    let mut is_chosen = vec![false; images.len()];
    let mut chosen = Vec::new();
    while chosen.len() < take.min(images.len()) {
        let left = (0..images.len()).filter(|image| !is_chosen[*image]);
        let value = |image: usize| {
            images[image].doubt * novelty[image] / (COST_OF_IMAGE + images[image].boxes)
        };
        // Of equals the first.
        let Some(best) = left.reduce(|best, other| {
            if value(other) > value(best) {
                other
            } else {
                best
            }
        }) else {
            break;
        };
        is_chosen[best] = true;
        chosen.push(Ranked {
            image: best,
            doubt: images[best].doubt,
            boxes: images[best].boxes,
            novelty: novelty[best],
        });
        for (image, novelty) in novelty.iter_mut().enumerate() {
            let alike = directions[image]
                .iter()
                .zip(&directions[best])
                .map(|(a, b)| a * b);
            *novelty = novelty.min((1.0 - alike.sum::<f32>()).clamp(0.0, 1.0));
        }
    }
    chosen
}

/// Where each image's features point from the mean of all, at length 1: what all have in common tells nothing.
fn directions(images: &[Unlabelled]) -> Vec<Vec<f32>> {
    let length = images.first().map_or(0, |image| image.features.len());
    let mut mean = vec![0.0_f32; length];
    for image in images {
        for (mean, value) in mean.iter_mut().zip(&image.features) {
            *mean += value / images.len() as f32;
        }
    }
    let direction = |image: &Unlabelled| {
        let away: Vec<f32> = image
            .features
            .iter()
            .zip(&mean)
            .map(|(value, mean)| value - mean)
            .collect();
        let norm = away.iter().map(|it| it * it).sum::<f32>().sqrt().max(1e-12);
        away.into_iter().map(|it| it / norm).collect()
    };
    images.iter().map(direction).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use retinanet_boxes::{BoundingBox, ClassId};

    use super::*;

    fn detection(x: f32, score: f32) -> Detection {
        Detection {
            bbox: BoundingBox::new(x, 0.0, x + 10.0, 10.0),
            class: ClassId(0),
            score,
        }
    }

    #[test]
    fn doubt_is_nearness_to_a_half_or_what_the_mirror_changes() {
        let sure = [detection(0.0, 0.9)];
        assert!((doubt(&sure, &sure) - 0.2).abs() < 1e-6);
        // The mirror shows a box that is too far off to be the same.
        assert!((doubt(&sure, &[detection(6.0, 0.9)]) - 0.9).abs() < 1e-6);
        let two = [detection(0.0, 0.9), detection(30.0, 0.5)];
        assert!((doubt(&two, &two) - 0.6).abs() < 1e-6);
        // What is background does not count, and of many boxes the least sure do.
        let background = [detection(0.0, 0.9), detection(30.0, 0.04)];
        assert!((doubt(&background, &sure) - 0.2).abs() < 1e-6);
        let many: Vec<_> = (0..9)
            .map(|it| detection(30.0 * it as f32, if it < 5 { 0.5 } else { 1.0 }))
            .collect();
        assert!((doubt(&many, &many) - 1.0).abs() < 1e-6);
        assert_eq!(doubt(&[], &[]).to_bits(), WITHOUT_DETECTIONS.to_bits());
        // Each class counts by itself.
        let mut classes = many;
        classes.push(Detection {
            class: ClassId(1),
            ..detection(900.0, 0.75)
        });
        assert!((doubt(&classes, &classes) - 1.5).abs() < 1e-6);
    }

    #[test]
    fn boxes_are_counted_by_their_scores() {
        let found = [
            detection(0.0, 0.9),
            detection(30.0, 0.6),
            detection(60.0, 0.04),
        ];
        assert!((expected_boxes(&found) - 1.5).abs() < 1e-6);
    }

    /// Of two that teach as much, that with fewer boxes; ten more boxes are worth it where there is four times the doubt.
    #[test]
    fn boxes_are_what_labels_cost() {
        let costing = |doubt: f32, boxes: f32| Unlabelled {
            boxes,
            ..image(doubt, [1.0, 0.0])
        };
        let first = |images: &[Unlabelled]| rank(images, 1)[0].image;
        assert_eq!(first(&[costing(0.5, 13.0), costing(0.5, 3.0)]), 1);
        assert_eq!(first(&[costing(2.0, 13.0), costing(0.5, 3.0)]), 0);
    }

    fn image(doubt: f32, features: [f32; 2]) -> Unlabelled {
        Unlabelled {
            doubt,
            boxes: 3.0,
            features: features.to_vec(),
        }
    }

    /// Two near copies that are much in doubt, another scene with less, and one that is like nothing in particular.
    #[test]
    fn a_near_copy_comes_after_another_scene() {
        let images = [
            image(0.9, [10.0, 0.0]),
            image(0.89, [10.0, 0.1]),
            image(0.4, [-10.0, 1.0]),
            image(0.3, [0.0, 9.0]),
        ];
        let order: Vec<_> = rank(&images, 4).iter().map(|it| it.image).collect();
        assert_eq!(order[..2], [0, 2]);
        assert_eq!(order[3], 1);
        assert_eq!(rank(&images, 1).len(), 1);
        assert!(rank(&[], 5).is_empty());
    }

    proptest! {
        #[test]
        fn every_image_is_chosen_once_and_novelty_only_falls(
            images in prop::collection::vec((0_f32..3.0, 0_f32..50.0, prop::array::uniform2(-5_f32..5.0)), 0..20),
            take in 0_usize..25,
        ) {
            let images = images.into_iter().map(|(doubt, boxes, features)| Unlabelled { boxes, ..image(doubt, features) });
            let images: Vec<_> = images.collect();
            let ranked = rank(&images, take);
            prop_assert_eq!(ranked.len(), take.min(images.len()));
            let mut chosen: Vec<_> = ranked.iter().map(|it| it.image).collect();
            chosen.sort_unstable();
            chosen.dedup();
            prop_assert_eq!(chosen.len(), ranked.len());
            for it in &ranked {
                prop_assert!((0.0..=1.0).contains(&it.novelty));
            }
            if let Some(first) = ranked.first() {
                let worth = |doubt: f32, boxes: f32| doubt / (COST_OF_IMAGE + boxes);
                let best = worth(first.doubt, first.boxes);
                prop_assert!(images.iter().all(|image| worth(image.doubt, image.boxes) <= best));
            }
        }
    }
}
