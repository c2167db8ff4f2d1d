//! What a detector says of an image beside what it says of the mirrored one.

use retinanet_boxes::Detection;

/// The overlap from which a box of the mirrored image is the same.
const SAME: f32 = 0.5;

/// The detections on an image, with the mean of their scores on it and on the mirrored one: what a detector is wrong about it
/// finds less often in both. What is on the mirrored one alone comes last.
///
/// `mirrored` are the detections on the mirrored image, in pixels of the image as it is.
pub fn agreed(detections: &[Detection], mirrored: &[Detection]) -> Vec<Detection> {
    let mean = |detection: &Detection, others: &[Detection]| Detection {
        score: f32::midpoint(detection.score, score_in(others, detection)),
        ..*detection
    };
    let in_both = detections.iter().map(|detection| mean(detection, mirrored));
    let only_mirrored = mirrored
        .iter()
        .filter(|detection| score_in(detections, detection) == 0.0)
        .map(|detection| mean(detection, detections));
    in_both.chain(only_mirrored).collect()
}

/// The best score of a detection among others, 0 where they lack it.
pub(crate) fn score_in(others: &[Detection], detection: &Detection) -> f32 {
    let same = others
        .iter()
        .filter(|other| other.class == detection.class && other.bbox.iou(&detection.bbox) >= SAME);
    same.map(|other| other.score).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use retinanet_boxes::{BoundingBox, ClassId};

    use super::*;

    fn detection(x: f32, class: u32, score: f32) -> Detection {
        Detection {
            bbox: BoundingBox::new(x, 0.0, x + 10.0, 10.0),
            class: ClassId(class),
            score,
        }
    }

    #[test]
    fn scores_are_the_means_of_both() {
        let detections = [detection(0.0, 0, 0.75), detection(40.0, 0, 0.5)];
        let mirrored = [
            // The first one, twice; the better counts.
            detection(1.0, 0, 0.125),
            detection(2.0, 0, 0.25),
            // Of another class, and too far off to be the same.
            detection(40.0, 1, 0.5),
            detection(46.0, 0, 0.75),
        ];
        let expected = [
            detection(0.0, 0, 0.5),
            detection(40.0, 0, 0.25),
            detection(40.0, 1, 0.25),
            detection(46.0, 0, 0.375),
        ];
        assert_eq!(agreed(&detections, &mirrored), expected);
        assert_eq!(agreed(&detections, &detections), detections);
        assert_eq!(agreed(&[], &[]), []);
    }
}
