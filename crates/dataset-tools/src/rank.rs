//! Which unlabelled images are worth labelling next.

use std::collections::BTreeMap;

use retinanet_boxes::Detection;

use crate::mirror::score_in;

/// What a detector says of an image that nobody has labelled.
#[derive(Clone, Debug)]
pub struct Unlabelled {
    /// What the boxes of its classes are worth; see [`worth_of_classes`].
    pub worth: BTreeMap<u32, f32>,
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
    /// What its labels are worth, 1 being the mean of the images with detections; see [`rank`].
    pub worth: f32,
    /// How many boxes there are to label, as far as it knows.
    pub boxes: f32,
    /// How different it is from those that were chosen before, in `[0, 1]`.
    pub novelty: f32,
}

/// Scores below are what the detector takes for background.
const LEAST_SCORE: f32 = 0.05;

/// What an image without detections is worth: it may be empty, or full of what the detector does not know.
const WITHOUT_DETECTIONS: f32 = 0.3;

/// What each class is taken to be worth in some images more, lest the only box of a class be worth more than all others.
const ELSEWHERE: f32 = 5.0;

/// What opening an image and looking it over costs, in boxes.
const COST_OF_IMAGE: f32 = 2.0;

/// What an image's boxes are worth, class by class: each the square of its score, as most of the weak ones are wrong, and
/// that twice if nothing is sure of it, which is if its score is 1/2 or the mirrored image changes it by 1.
///
/// `mirrored` are the detections on the mirrored image, in pixels of the image as it is, if the detector has learned such.
pub fn worth_of_classes(
    detections: &[Detection],
    mirrored: Option<&[Detection]>,
) -> BTreeMap<u32, f32> {
    let mut of_classes = BTreeMap::new();
    for detection in detections {
        let score = detection.score;
        if score >= LEAST_SCORE {
            let near_half = 1.0 - (2.0 * score - 1.0).abs();
            let changed = |mirrored| (score - score_in(mirrored, detection)).abs();
            let doubt = near_half.max(mirrored.map_or(0.0, changed));
            *of_classes.entry(detection.class.0).or_default() += score * score * (1.0 + doubt);
        }
    }
    of_classes
}

/// How many boxes an image has, as its scores say: their sum.
pub fn expected_boxes(detections: &[Detection]) -> f32 {
    let scores = detections.iter().map(|detection| detection.score);
    scores.filter(|score| *score >= LEAST_SCORE).sum()
}

/// Chooses `take` images, the most worth labelling first: each time the one with the largest product of worth and novelty
/// for what its boxes cost to label.
///
/// Its worth is the sum of its classes' shares in what those are worth in all images: classes count alike, as in AP, and of a
/// class that is rare each box counts for more. Near copies of what was chosen have no novelty, and are chosen last.
pub fn rank(images: &[Unlabelled], take: usize) -> Vec<Ranked> {
    let worths = worths(images);
    let directions = directions(images);
    let mut novelty = vec![1.0_f32; images.len()];
    let mut is_chosen = vec![false; images.len()];
    let mut chosen = Vec::new();
    while chosen.len() < take.min(images.len()) {
        let left = (0..images.len()).filter(|image| !is_chosen[*image]);
        let value =
            |image: usize| worths[image] * novelty[image] / (COST_OF_IMAGE + images[image].boxes);
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
            worth: worths[best],
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

/// What each image is worth, 1 being the mean of those with detections.
fn worths(images: &[Unlabelled]) -> Vec<f32> {
    let mut totals: BTreeMap<u32, f32> = BTreeMap::new();
    for (class, worth) in images.iter().flat_map(|image| &image.worth) {
        *totals.entry(*class).or_insert(ELSEWHERE) += worth;
    }
    let shares = |image: &Unlabelled| -> f32 {
        let classes = image.worth.iter();
        classes.map(|(class, worth)| worth / totals[class]).sum()
    };
    let shares: Vec<f32> = images.iter().map(shares).collect();
    let detected = shares.iter().filter(|share| **share > 0.0);
    let mean = detected.clone().sum::<f32>() / detected.count().max(1) as f32;
    let worth = |share: f32| {
        if share > 0.0 {
            share / mean
        } else {
            WITHOUT_DETECTIONS
        }
    };
    shares.into_iter().map(worth).collect()
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
    fn boxes_are_worth_more_the_less_sure_they_are_and_little_if_they_are_weak() {
        let worth = |score: f32, mirrored: &[Detection]| {
            worth_of_classes(&[detection(0.0, score)], Some(mirrored))[&0]
        };
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a}, not {b}");
        close(worth(0.5, &[detection(0.0, 0.5)]), 0.25 * 2.0);
        close(worth(0.9, &[detection(0.0, 0.9)]), 0.81 * 1.2);
        close(worth(0.1, &[detection(0.0, 0.1)]), 0.01 * 1.2);
        // The mirror shows it with another score, and a box that is too far off to be the same.
        close(worth(0.9, &[detection(0.0, 0.4)]), 0.81 * 1.5);
        close(worth(0.9, &[detection(6.0, 0.9)]), 0.81 * 1.9);
        assert!(worth_of_classes(&[detection(0.0, 0.04)], None).is_empty());
        // Classes by themselves, the boxes of each together.
        let several = [
            detection(0.0, 0.5),
            detection(30.0, 0.5),
            Detection {
                class: ClassId(1),
                ..detection(60.0, 0.5)
            },
        ];
        let found = worth_of_classes(&several, None);
        assert_eq!(found, BTreeMap::from([(0, 1.0), (1, 0.5)]));
    }

    /// Two classes, one of them rare: its only box is worth as much as half of all the others.
    #[test]
    fn classes_count_alike() {
        let with = |worth: &[(u32, f32)]| Unlabelled {
            worth: worth.iter().copied().collect(),
            ..image(0.0, [1.0, 0.0])
        };
        let images = [with(&[(0, 50.0)]), with(&[(0, 45.0)]), with(&[(1, 5.0)])];
        let found = worths(&images);
        let expected = [50.0 / 100.0, 45.0 / 100.0, 5.0 / 10.0].map(|it| it / (1.45 / 3.0));
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        }
        assert_eq!(worths(&[with(&[])]), [WITHOUT_DETECTIONS]);
        let found = worths(&[with(&[]), with(&[(0, 1.0)])]);
        assert_eq!(found, [WITHOUT_DETECTIONS, 1.0]);
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

    /// Of two that are worth as much, that with fewer boxes; ten more boxes are worth it at four times the worth.
    #[test]
    fn boxes_are_what_labels_cost() {
        let costing = |worth: f32, boxes: f32| Unlabelled {
            boxes,
            ..image(worth, [1.0, 0.0])
        };
        let first = |images: &[Unlabelled]| rank(images, 1)[0].image;
        assert_eq!(first(&[costing(0.5, 13.0), costing(0.5, 3.0)]), 1);
        assert_eq!(first(&[costing(2.0, 13.0), costing(0.5, 3.0)]), 0);
    }

    fn image(worth: f32, features: [f32; 2]) -> Unlabelled {
        Unlabelled {
            worth: BTreeMap::from([(0, worth)]),
            boxes: 3.0,
            features: features.to_vec(),
        }
    }

    /// Two near copies that are worth much, another scene that is worth less, and one that is like nothing in particular.
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
        fn every_image_is_chosen_once_the_best_first(
            images in prop::collection::vec((0_f32..3.0, 0_f32..50.0, prop::array::uniform2(-5_f32..5.0)), 0..20),
            take in 0_usize..25,
        ) {
            let images = images.into_iter().map(|(worth, boxes, features)| Unlabelled { boxes, ..image(worth, features) });
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
                let value = |worth: f32, boxes: f32| worth / (COST_OF_IMAGE + boxes);
                let best = value(first.worth, first.boxes);
                let others = worths(&images).into_iter().zip(&images);
                prop_assert!(others.into_iter().all(|(worth, image)| value(worth, image.boxes) <= best));
            }
        }
    }
}
