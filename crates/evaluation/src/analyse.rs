use std::sync::Arc;

use hotcoco::params::IouType;
use hotcoco::{Annotation, COCOeval};
use retinanet_boxes::ImageId;

use crate::classes::Tally;
use crate::images::IOU;
use crate::{
    Analysis, Calibration, CalibrationBin, ClassAnalysis, CocoDetection, Confusion, ErrorPart,
    ErrorParts, EvaluationError, Evaluator, ImageAnalysis, Metrics, OperatingPoint,
};

/// The `IoU` up to which a detection is on no object: TIDE's.
const BACKGROUND_IOU: f64 = 0.1;
const CALIBRATION_BINS: usize = 10;

impl Evaluator {
    /// The metrics of these detections over all images, and what lies behind them. Detections count
    /// from `score` on where [`Analysis::score`] says so.
    ///
    /// # Errors
    ///
    /// Returns an error as [`Evaluator::evaluate`] does.
    pub fn analyse(
        &self,
        detections: &[CocoDetection],
        score: f64,
    ) -> Result<Analysis, EvaluationError> {
        self.analyse_on(detections, self.images(), score)
    }

    /// The same over these images only. Detections on other images are passed over.
    ///
    /// # Errors
    ///
    /// Returns an error as [`Evaluator::evaluate_images`] does.
    pub fn analyse_images(
        &self,
        detections: &[CocoDetection],
        images: &[ImageId],
        score: f64,
    ) -> Result<Analysis, EvaluationError> {
        self.analyse_on(detections, self.known(images)?, score)
    }

    fn analyse_on(
        &self,
        detections: &[CocoDetection],
        images: Vec<u64>,
        score: f64,
    ) -> Result<Analysis, EvaluationError> {
        let evaluation = self.run(detections, images)?;
        let images = ImageAnalysis::all(&evaluation, detections, score)?;
        let all = Tally::of_all_classes(&images);
        Ok(Analysis {
            metrics: Metrics::of(&evaluation),
            classes: ClassAnalysis::all(&evaluation, &images),
            confusion: Confusion::of(&evaluation, &images, score)?,
            errors: ErrorParts::of(&evaluation)?,
            calibration: Calibration::of(&evaluation, &images)?,
            best: OperatingPoint::best(all.clone()),
            by_score: OperatingPoint::by_score(all),
            images,
            score,
        })
    }
}

impl Confusion {
    fn of(
        evaluation: &COCOeval,
        images: &[ImageAnalysis],
        score: f64,
    ) -> Result<Self, EvaluationError> {
        // Of all detections, hotcoco would count those on a crowd as wrong, and cap those of an
        // image over all classes.
        let counted = detections(images)
            .filter(|detection| detection.score >= score)
            .map(Annotation::from)
            .collect();
        let truth = evaluation.coco_gt();
        let counted = truth.load_res_anns(counted)?;
        let mut pairs = COCOeval::new(Arc::clone(truth), counted, IouType::Bbox);
        pairs.params.img_ids.clone_from(&evaluation.params.img_ids);
        let matrix = pairs.confusion_matrix(IOU, Some(usize::MAX), None);
        Ok(Self {
            counts: matrix
                .matrix
                .chunks(matrix.num_cats + 1)
                .map(<[u64]>::to_vec)
                .collect(),
            names: matrix.cat_names,
        })
    }
}

impl ErrorParts {
    fn of(evaluation: &COCOeval) -> Result<Self, EvaluationError> {
        let errors = evaluation.tide_errors(IOU, BACKGROUND_IOU)?;
        let ap = |kind: &str| errors.delta_ap.get(kind).copied().unwrap_or(0.0);
        let part = |kind: &str| ErrorPart {
            ap: ap(kind),
            count: errors.counts.get(kind).copied().unwrap_or(0),
        };
        Ok(Self {
            classification: part("Cls"),
            localization: part("Loc"),
            both: part("Both"),
            duplicate: part("Dupe"),
            background: part("Bkg"),
            missed: part("Miss"),
            false_positives: ap("FP"),
            false_negatives: ap("FN"),
        })
    }
}

impl Calibration {
    fn of(
        evaluation: &COCOeval,
        images: &[ImageAnalysis],
    ) -> Result<Option<Self>, EvaluationError> {
        if detections(images).any(|detection| !(0.0..=1.0).contains(&detection.score)) {
            return Ok(None);
        }
        let found = evaluation.calibration(CALIBRATION_BINS, IOU)?;
        let bins = found.bins.iter().map(|bin| CalibrationBin {
            from: bin.bin_lower,
            to: bin.bin_upper,
            detections: bin.count,
            score: bin.avg_confidence,
            precision: bin.avg_accuracy,
        });
        Ok(Some(Self {
            error: found.ece,
            worst: found.mce,
            bins: bins.collect(),
        }))
    }
}

/// The detections of all images that count.
fn detections(images: &[ImageAnalysis]) -> impl Iterator<Item = &CocoDetection> {
    let judged = images.iter().flat_map(|image| &image.detections);
    judged.map(|judged| &judged.detection)
}
