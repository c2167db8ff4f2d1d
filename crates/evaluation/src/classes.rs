use std::collections::HashMap;

use hotcoco::COCOeval;
use retinanet_boxes::CategoryId;

use crate::curves::{Area, Curves};
use crate::images::{IOU, f1};
use crate::{ClassAnalysis, ImageAnalysis, OperatingPoint};

/// The scores at which precision and recall are told: hundredths from 0 to 1.
const SCORES: u32 = 100;

/// What one class, or all of them, comes to over all images.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    objects: usize,
    /// The score of each detection, and whether it is right.
    detections: Vec<(f64, bool)>,
}

impl ClassAnalysis {
    /// Every class of an evaluation, whose images have been judged.
    pub(crate) fn all(evaluation: &COCOeval, images: &[ImageAnalysis]) -> Vec<Self> {
        let Some(curves) = Curves::of(evaluation) else {
            return Vec::new();
        };
        let mut tallies = tally(images);
        curves
            .classes()
            .map(|(class, category_id, name)| {
                let tally = tallies.remove(&category_id).unwrap_or_default();
                let average =
                    |iou: Option<f64>, area: Area| curves.average_precision(class, iou, area);
                let (precision, scores) = curves.precision_and_scores(class, IOU);
                Self {
                    category_id,
                    name,
                    objects: tally.objects,
                    detections: tally.detections.len(),
                    ap: average(None, Area::All),
                    ap50: average(Some(0.5), Area::All),
                    ap75: average(Some(0.75), Area::All),
                    ap_small: average(None, Area::Small),
                    ap_medium: average(None, Area::Medium),
                    ap_large: average(None, Area::Large),
                    ar100: curves.average_recall(class),
                    precision,
                    scores,
                    best: OperatingPoint::best(tally),
                }
            })
            .collect()
    }
}

impl Tally {
    /// All objects and detections, whatever their classes.
    pub(crate) fn of_all_classes(images: &[ImageAnalysis]) -> Self {
        let mut all = Self::default();
        for tally in tally(images).into_values() {
            all.objects += tally.objects;
            all.detections.extend(tally.detections);
        }
        all
    }
}

impl OperatingPoint {
    /// Where F1 is largest over every score that a detection has; of equal ones the highest score.
    pub(crate) fn best(tally: Tally) -> Option<Self> {
        let mut best: Option<Self> = None;
        for point in Self::all(tally) {
            if point.f1 > best.map_or(0.0, |best| best.f1) {
                best = Some(point);
            }
        }
        best
    }

    /// The points at the scores 0, 0.01, …, 1, as far as there are detections.
    pub(crate) fn by_score(tally: Tally) -> Vec<Self> {
        let points = Self::all(tally);
        let scores = (0..=SCORES).map(|it| f64::from(it) / f64::from(SCORES));
        // Scores fall: the last one that is high enough counts all detections from there on.
        let counted = scores.map_while(|score| {
            let count = points.partition_point(|point| point.score >= score);
            let point = points.get(count.checked_sub(1)?)?;
            Some(Self { score, ..*point })
        });
        counted.collect()
    }

    /// A point for every score that a detection has, highest first.
    fn all(tally: Tally) -> Vec<Self> {
        let Tally {
            objects,
            mut detections,
        } = tally;
        detections.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let (mut counted, mut right) = (0, 0);
        let equal_scores = detections.chunk_by(|(a, _), (b, _)| a == b);
        equal_scores
            .map(|equal| {
                counted += equal.len();
                right += equal.iter().filter(|(_, right)| *right).count();
                Self {
                    score: equal[0].0,
                    precision: right as f64 / counted as f64,
                    recall: right as f64 / objects.max(1) as f64,
                    f1: f1(right, counted, objects),
                }
            })
            .collect()
    }
}

fn tally(images: &[ImageAnalysis]) -> HashMap<CategoryId, Tally> {
    let mut tallies: HashMap<CategoryId, Tally> = HashMap::new();
    for image in images {
        for object in &image.objects {
            tallies.entry(object.category_id).or_default().objects += 1;
        }
        for judged in &image.detections {
            let tally = tallies.entry(judged.detection.category_id).or_default();
            tally
                .detections
                .push((judged.detection.score, judged.right));
        }
    }
    tallies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(objects: usize, detections: &[(f64, bool)]) -> Tally {
        Tally {
            objects,
            detections: detections.to_vec(),
        }
    }

    const DETECTIONS: [(f64, bool); 5] = [
        (0.9, true),
        (0.8, false),
        (0.7, true),
        (0.7, true),
        (0.2, false),
    ];

    #[test]
    fn the_best_point_is_that_of_the_largest_f1() {
        // From 0.7 on 3 of 4 are right, of 4 objects: F1 = 2 · 3 / (4 + 4). From 0.9 on it is 2 / 5.
        let best = OperatingPoint::best(tally(4, &DETECTIONS)).unwrap();
        assert!(
            (best.f1 - 0.75).abs() < 1e-12 && (best.score - 0.7).abs() < 1e-12,
            "{best:?}"
        );
        assert_eq!(OperatingPoint::best(tally(4, &[(0.9, false)])), None);
        assert_eq!(OperatingPoint::best(tally(0, &[])), None);
    }

    #[test]
    fn points_by_score_count_what_has_at_least_that_score() {
        let points = OperatingPoint::by_score(tally(4, &DETECTIONS));
        // Up to 0.90, the highest score.
        assert_eq!(points.len(), 91);
        for (at, right, counted) in [(0, 3, 5), (20, 3, 5), (21, 3, 4), (75, 1, 2), (90, 1, 1)] {
            let point = points[at];
            assert_eq!(point.score, at as f64 / 100.0);
            assert_eq!(
                point.precision,
                f64::from(right) / f64::from(counted),
                "{at}"
            );
            assert_eq!(point.recall, f64::from(right) / 4.0, "{at}");
            assert_eq!(
                point.f1,
                2.0 * f64::from(right) / f64::from(counted + 4),
                "{at}"
            );
        }
        assert!(OperatingPoint::by_score(tally(4, &[])).is_empty());
    }
}
