use retinanet_boxes::{CategoryId, ImageId};
use serde::{Deserialize, Serialize};

use crate::{CocoDetection, Metrics};

/// What lies behind the metrics: where a detector is right, and in which ways it is wrong.
///
/// Where nothing else is said, a detection is right that overlaps an object of its class with an
/// `IoU` of at least 0.5 and that no better one has claimed, as in COCO's metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// The twelve numbers of COCO, and AP by class.
    pub metrics: Metrics,
    /// Every category of the annotations, by category id.
    pub classes: Vec<ClassAnalysis>,
    /// Which classes are taken for which.
    pub confusion: Confusion,
    /// What each kind of error costs.
    pub errors: ErrorParts,
    /// Whether a score is the share of detections that are right; `None` if scores are not in
    /// `[0, 1]`.
    pub calibration: Option<Calibration>,
    /// The images, worst first.
    pub images: Vec<ImageAnalysis>,
    /// The score from which on a detection counts in `confusion` and `images`.
    pub score: f64,
    /// Where F1 over all classes is largest, at the highest such score; `None` if no detection is right.
    pub best: Option<OperatingPoint>,
    /// Precision, recall and F1 over all classes at the scores 0, 0.01, …, 1, as long as there are detections
    /// with at least that score.
    #[serde(default)]
    pub by_score: Vec<OperatingPoint>,
}

/// A class, seen more closely. AP and AR are −1 where there is no object to find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassAnalysis {
    /// The COCO category id.
    pub category_id: CategoryId,
    /// The category's name.
    pub name: String,
    /// Objects to find; crowds are none.
    pub objects: usize,
    /// Detections of this class, of any score, that neither lie on a crowd nor are past the 100
    /// best of their image and class.
    pub detections: usize,
    /// Average precision over `IoU` thresholds 0.50 to 0.95.
    #[serde(rename = "AP")]
    pub ap: f64,
    /// AP at an `IoU` of 0.50.
    #[serde(rename = "AP50")]
    pub ap50: f64,
    /// AP at an `IoU` of 0.75.
    #[serde(rename = "AP75")]
    pub ap75: f64,
    /// AP of objects up to 32² square pixels.
    #[serde(rename = "APs")]
    pub ap_small: f64,
    /// AP of objects from 32² to 96² square pixels.
    #[serde(rename = "APm")]
    pub ap_medium: f64,
    /// AP of objects from 96² square pixels.
    #[serde(rename = "APl")]
    pub ap_large: f64,
    /// Average recall with 100 detections an image.
    #[serde(rename = "AR100")]
    pub ar100: f64,
    /// COCO's interpolated precision at the recalls 0, 0.01, …, 1 and an `IoU` of 0.5; empty where
    /// there is no object.
    pub precision: Vec<f64>,
    /// The score at which each of these recalls is reached, 0 where it is not.
    pub scores: Vec<f64>,
    /// Where F1 is largest, at the highest such score; `None` if no detection is right.
    pub best: Option<OperatingPoint>,
}

/// What a class is like where only detections of at least some score count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// The lowest score that counts.
    pub score: f64,
    /// The share of detections that are right.
    pub precision: f64,
    /// The share of objects that are found.
    pub recall: f64,
    /// The harmonic mean of both.
    pub f1: f64,
}

/// How often objects of a class were taken for which class.
///
/// Here a detection claims, the best one first, the object of any class that it overlaps most with
/// an `IoU` of at least 0.5. Those that lie on a crowd are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// The classes, by category id.
    pub names: Vec<String>,
    /// `counts[object][detection]`; the last row are detections on no object, the last column are
    /// objects that no detection claims.
    pub counts: Vec<Vec<u64>>,
}

/// The kinds of errors of TIDE (Bolya et al., ECCV 2020), with what AP at an `IoU` of 0.5 would
/// gain if all errors of a kind were repaired.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorParts {
    /// Another class's object, well located.
    pub classification: ErrorPart,
    /// The right class, badly located: `IoU` from 0.1 to 0.5.
    pub localization: ErrorPart,
    /// Another class's object, badly located.
    pub both: ErrorPart,
    /// An object that a better detection has claimed.
    pub duplicate: ErrorPart,
    /// No object at all: `IoU` up to 0.1.
    pub background: ErrorPart,
    /// An object that no detection comes near.
    pub missed: ErrorPart,
    /// What AP would gain if no detection were wrong.
    pub false_positives: f64,
    /// What AP would gain if no object were missed.
    pub false_negatives: f64,
}

/// A kind of error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorPart {
    /// What AP would gain without it.
    pub ap: f64,
    /// How often it happens.
    pub count: u64,
}

/// Scores against the share of detections that are right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The expected calibration error: the mean distance between score and share, over detections.
    pub error: f64,
    /// The largest distance of a bin.
    pub worst: f64,
    /// Bins of equal width from 0 to 1, those without detections too.
    pub bins: Vec<CalibrationBin>,
}

/// Detections whose score is about the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// The lowest score.
    pub from: f64,
    /// The score that the next bin begins with.
    pub to: f64,
    /// How many detections there are.
    pub detections: usize,
    /// Their mean score.
    pub score: f64,
    /// The share that is right.
    pub precision: f64,
}

/// An image with what was found on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageAnalysis {
    /// The image's id.
    pub image_id: ImageId,
    /// Its file, as the annotations have it.
    pub file_name: String,
    /// Detections that are right.
    pub right: usize,
    /// Detections that are wrong.
    pub wrong: usize,
    /// Objects that were not found.
    pub missed: usize,
    /// `2 right / (2 right + wrong + missed)`, 1 where there is nothing to find and nothing found.
    pub f1: f64,
    /// Its detections of any score that neither lie on a crowd nor are past the 100 best of their
    /// class, best first.
    pub detections: Vec<JudgedDetection>,
    /// Its objects; crowds are left out.
    pub objects: Vec<JudgedObject>,
}

/// A detection, and whether it is right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedDetection {
    /// The detection.
    #[serde(flatten)]
    pub detection: CocoDetection,
    /// Whether it is right, among all detections of any score.
    pub right: bool,
}

/// An object, and whether it was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedObject {
    /// Its class.
    pub category_id: CategoryId,
    /// `[x, y, width, height]` in pixels of the image as it is stored.
    pub bbox: [f64; 4],
    /// The score of the detection that found it; `None` where none did.
    pub found: Option<f64>,
}

/// Two sets of detections on the same images, measured against each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// COCO's numbers by their short names, AP first.
    pub metrics: Vec<Difference>,
    /// AP by class, the largest loss first; classes without objects are left out.
    pub classes: Vec<Difference>,
    /// How often images were resampled to tell chance from difference.
    pub samples: usize,
    /// How many images both were measured on.
    pub images: usize,
}

/// A number of one detector and of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// What it is.
    pub name: String,
    /// The first detector's, −1 where undefined.
    pub a: f64,
    /// The second detector's, −1 where undefined.
    pub b: f64,
    /// `b − a`, 0 where one is undefined.
    pub difference: f64,
    /// Where the difference lies with 95 % confidence, by the bootstrap over images; `None` for
    /// classes, where one is undefined, and where there is one image or none was sampled.
    pub interval: Option<[f64; 2]>,
}
