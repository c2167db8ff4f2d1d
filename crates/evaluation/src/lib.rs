//! COCO metrics of box detections: the twelve numbers of the COCO challenge and AP of every
//! class, what lies behind them ([`Evaluator::analyse`]), and whether one detector is better than
//! another ([`Evaluator::compare`]).
//!
//! The numbers are the crate [`hotcoco`]'s, which agree with pycocotools to rounding; this crate
//! reads the files, refuses what cannot be evaluated, and shapes the result. It prints nothing.
//!
//! It departs from pycocotools where that is wrong or silent:
//!
//! - An annotation with the id 0 can be found. pycocotools reads the id as "no match", so a
//!   perfect detection of it counts as a false one.
//! - Annotations that share an id are all kept. pycocotools evaluates the last of them several
//!   times.
//! - An annotation without an `area` gets that of its mask, or of its box. pycocotools stops.
//! - Detections of an unknown category are refused, as those of an unknown image are.
//!   pycocotools passes over them.
//! - No detections at all score 0. pycocotools stops.
//!
//! ```
//! use retinanet_boxes::{CategoryId, ImageId};
//! use retinanet_evaluation::{CocoDetection, Evaluator};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("val.json");
//! # fs_err::write(&path, r#"{
//! #     "images": [{"id": 7}],
//! #     "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 10, 20, 20]}],
//! #     "categories": [{"id": 2, "name": "cell"}]
//! # }"#)?;
//! let evaluator = Evaluator::from_file(&path)?;
//! let metrics = evaluator.evaluate(&[CocoDetection {
//!     image_id: ImageId(7),
//!     category_id: CategoryId(2),
//!     bbox: [10.0, 10.0, 20.0, 20.0],
//!     score: 0.9,
//! }])?;
//! assert!(metrics.ap > 0.999);
//! assert!(metrics.ap_large < 0.0); // no large object, so undefined
//! # Ok(())
//! # }
//! ```

mod analyse;
mod analysis;
mod classes;
mod columns;
mod compare;
mod curves;
mod detection;
mod error;
mod evaluator;
mod file_names;
mod images;
mod metric;
mod metrics;
mod table;

pub use analysis::{
    Analysis, Calibration, CalibrationBin, ClassAnalysis, Comparison, Confusion, Difference,
    ErrorPart, ErrorParts, ImageAnalysis, JudgedDetection, JudgedObject, OperatingPoint,
};
pub use detection::CocoDetection;
pub use error::EvaluationError;
pub use evaluator::Evaluator;
pub use metric::Metric;
pub use metrics::{ClassMetrics, Metrics};
