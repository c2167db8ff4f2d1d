use std::collections::HashMap;

use hotcoco::COCOeval;
use retinanet_boxes::CategoryId;

use crate::analyse::IOU;
use crate::curves::{Area, Curves};
use crate::images::f1;
use crate::{ClassAnalysis, ImageAnalysis, OperatingPoint};

/// What one class comes to over all images.
#[derive(Default)]
struct Tally {
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
                    best: OperatingPoint::best(tally.detections, tally.objects),
                }
            })
            .collect()
    }
}

impl OperatingPoint {
    /// Where F1 over all objects and detections is largest, whatever their classes.
    pub(crate) fn over_all_classes(images: &[ImageAnalysis]) -> Option<Self> {
        let tallies = tally(images).into_values();
        let all = tallies.reduce(|mut all, tally| {
            all.objects += tally.objects;
            all.detections.extend(tally.detections);
            all
        })?;
        Self::best(all.detections, all.objects)
    }

    /// Where F1 is largest over every score that a detection has; of equal ones the highest score.
    fn best(mut detections: Vec<(f64, bool)>, objects: usize) -> Option<Self> {
        detections.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut best: Option<Self> = None;
        let (mut counted, mut right) = (0, 0);
        for equal in detections.chunk_by(|(a, _), (b, _)| a == b) {
            counted += equal.len();
            right += equal.iter().filter(|(_, right)| *right).count();
            let f1 = f1(right, counted, objects);
            if f1 > best.map_or(0.0, |best| best.f1) {
                best = Some(Self {
                    score: equal[0].0,
                    precision: right as f64 / counted as f64,
                    recall: right as f64 / objects as f64,
                    f1,
                });
            }
        }
        best
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

    #[test]
    fn the_best_point_is_that_of_the_largest_f1() {
        let detections = [
            (0.9, true),
            (0.8, false),
            (0.7, true),
            (0.7, true),
            (0.2, false),
        ];
        // From 0.7 on 3 of 4 are right, of 4 objects: F1 = 2 · 3 / (4 + 4). From 0.9 on it is 2 / 5.
        let best = OperatingPoint::best(detections.to_vec(), 4).unwrap();
        assert!(
            (best.f1 - 0.75).abs() < 1e-12 && (best.score - 0.7).abs() < 1e-12,
            "{best:?}"
        );
        assert_eq!(OperatingPoint::best(vec![(0.9, false)], 4), None);
        assert_eq!(OperatingPoint::best(Vec::new(), 0), None);
    }
}
