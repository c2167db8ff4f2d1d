//! An experiment as a file says it: presets, files that build on one another and `--set` become an
//! [`ExperimentConfig`], whose settings are checked and whose data is found, checked and read. A trained
//! detector is evaluated on it by [`examine`]. What happens is told to an [`Observer`].
//!
//! Training itself is the trainer's.

mod annotation_checks;
mod calibration;
mod checks;
mod config;
mod data;
mod data_files;
mod error;
mod examination;
mod explain;
mod image_files;
mod keys;
mod layers;
mod observer;
mod parts;
mod presets;
mod schema;
mod training_config;

pub use annotation_checks::{AnnotationsCheckError, check_annotations, check_requests};
pub use calibration::calibrate;
pub use checks::check_settings;
pub use config::{ComputeConfig, DataConfig, ExperimentConfig, SplitConfig};
pub use data::{render_shapes_if_absent, tell_dropped};
pub use data_files::{DataSplit, MissingData, require_data, what_lies_in};
pub use error::{EvaluateError, ExperimentError};
pub use examination::{Examination, ImageTimes, coco_detections, examine};
pub use image_files::{EvaluationData, check_training_files};
pub use keys::{ConfigKey, Resume, config_keys, resume_of};
pub use layers::{ConfigError, config_to_toml, load_config};
pub use observer::{Evaluated, Observer, Progress, StepReport};
pub use presets::Preset;
pub use training_config::{
    AdamwConfig, BatchSize, CosineConfig, Images, LearningRate, Milestones, MultiStepConfig,
    OnNonFinite, OneCycleConfig, OptimizerConfig, OptimizerKind, PolynomialConfig, ScheduleConfig,
    ScheduleKind, SgdConfig, TrainConfig,
};
