use std::cmp::Ordering;
use std::collections::HashMap;

use hotcoco::{AnnotationIndex, COCO, COCOeval, DtStatus};
use retinanet_boxes::{CategoryId, ImageId};

use crate::{CocoDetection, EvaluationError, ImageAnalysis, JudgedDetection, JudgedObject};

/// The `IoU` from which on a detection is right.
pub(crate) const IOU: f64 = 0.5;

impl ImageAnalysis {
    /// Every image of an evaluation of these detections, worst first: by rising F1, then by the
    /// number of errors, then by id. Detections count from `score` on.
    pub(crate) fn all(
        evaluation: &COCOeval,
        detections: &[CocoDetection],
        score: f64,
    ) -> Result<Vec<Self>, EvaluationError> {
        // As no score is infinite, hotcoco looks for no errors in the annotations.
        let matches = evaluation
            .image_diagnostics(IOU, f64::INFINITY)?
            .annotations;
        let truth = evaluation.coco_gt();
        let mut judged = judge(&matches, detections);
        let mut images: Vec<Self> = evaluation
            .params
            .img_ids
            .iter()
            .map(|&image| {
                let found = judged.remove(&image).unwrap_or_default();
                let objects = objects(truth, image, &matches, detections);
                let file_name = truth.get_img(image).map(|it| it.file_name.clone());
                Self::new(
                    ImageId(image),
                    file_name.unwrap_or_default(),
                    found,
                    objects,
                    score,
                )
            })
            .collect();
        images.sort_by(by_quality);
        Ok(images)
    }

    fn new(
        image_id: ImageId,
        file_name: String,
        mut detections: Vec<JudgedDetection>,
        objects: Vec<JudgedObject>,
        score: f64,
    ) -> Self {
        detections.sort_by(|a, b| b.detection.score.total_cmp(&a.detection.score));
        let counted = |right: bool| {
            let judged = detections.iter().filter(|it| it.detection.score >= score);
            judged.filter(|it| it.right == right).count()
        };
        let (right, wrong) = (counted(true), counted(false));
        let missed = objects
            .iter()
            .filter(|object| object.found.is_none_or(|found| found < score))
            .count();
        Self {
            image_id,
            file_name,
            right,
            wrong,
            missed,
            f1: f1(right, right + wrong, objects.len()),
            detections,
            objects,
        }
    }
}

/// The harmonic mean of precision and recall; 1 where nothing is to be found and nothing is.
pub(crate) fn f1(right: usize, detections: usize, objects: usize) -> f64 {
    match detections + objects {
        0 => 1.0,
        both => 2.0 * right as f64 / both as f64,
    }
}

/// The detections that count, by image.
fn judge(
    matches: &AnnotationIndex,
    detections: &[CocoDetection],
) -> HashMap<u64, Vec<JudgedDetection>> {
    let mut judged: HashMap<u64, Vec<JudgedDetection>> = HashMap::new();
    // hotcoco numbers results from 1.
    for (id, &detection) in (1..).zip(detections) {
        if let Some(&status) = matches.dt_status.get(&id) {
            let image = judged.entry(detection.image_id.0).or_default();
            image.push(JudgedDetection {
                detection,
                right: status == DtStatus::Tp,
            });
        }
    }
    judged
}

/// The objects of an image that count.
fn objects(
    truth: &COCO,
    image: u64,
    matches: &AnnotationIndex,
    detections: &[CocoDetection],
) -> Vec<JudgedObject> {
    let found_by = |object| {
        let id = *matches.gt_match.get(object)?;
        detections.get(usize::try_from(id).ok()?.checked_sub(1)?)
    };
    truth
        .get_ann_ids_for_img(image)
        .iter()
        .filter(|object| matches.gt_status.contains_key(object))
        .filter_map(|object| {
            let annotation = truth.get_ann(*object)?;
            Some(JudgedObject {
                category_id: CategoryId(annotation.category_id),
                bbox: annotation.bbox?,
                found: found_by(object).map(|detection| detection.score),
            })
        })
        .collect()
}

fn by_quality(a: &ImageAnalysis, b: &ImageAnalysis) -> Ordering {
    let errors = |image: &ImageAnalysis| image.wrong + image.missed;
    a.f1.total_cmp(&b.f1)
        .then_with(|| errors(b).cmp(&errors(a)))
        .then_with(|| a.image_id.cmp(&b.image_id))
}
