//! `report.html`: all that a run has to say, as one page that needs no network.
//!
//! A [`Report`] is filled by whoever trains or evaluates, and written as often as there is news.
//! Styles, scripts, numbers and pictures all stand in the one file; what is not known yet leaves
//! its section with a sentence in place of a picture. A [`DatasetPage`] shows images of a data set in the
//! same style; its images are beside it.
//!
//! ```
//! use retinanet_report::{FactGroup, Report, TrainingLog};
//!
//! # fn main() -> Result<(), retinanet_report::ReportError> {
//! # let folder = tempfile::tempdir()?;
//! # let run = folder.path();
//! # fs_err::write(run.join("metrics.jsonl"), "")?;
//! let report = Report {
//!     title: "shapes".into(),
//!     facts: vec![FactGroup {
//!         title: "Run".into(),
//!         facts: vec![("seed".into(), "0".into())],
//!     }],
//!     log: TrainingLog::read(&run.join("metrics.jsonl"))?,
//!     ..Report::default()
//! };
//! report.write(&run.join("report.html"))?;
//! # Ok(())
//! # }
//! ```

mod advice;
mod dataset_page;
mod error;
mod gallery;
mod html;
mod loss_shares;
mod page;
mod report;
mod training_log;

pub use dataset_page::{BoxOverlay, ClassColor, DatasetPage, ImageFinding, ImageView, Picture};
pub use error::ReportError;
pub use gallery::{GalleryImage, thumbnail};
pub use loss_shares::{CumulativeLoss, LossShares};
pub use report::{FactGroup, Report};
pub use training_log::{EvaluationPoint, LevelCurves, StepCurves, TrainingLog};
