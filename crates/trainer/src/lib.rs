//! Training and evaluation: the experiment's config, the training loop as one linear story,
//! checkpoints, and the run directory.
//!
//! A TOML file becomes an [`ExperimentConfig`] (as written), that becomes a [`Plan`] (checked and
//! able to build), and [`train`] carries it out; [`launch`] does all of it. The crate prints nothing: what happens is told to
//! an [`Observer`].

mod alone;
mod annotation_checks;
mod announce;
mod auto_batch;
mod autopsy;
mod average;
mod checkpoint;
mod checks;
mod config;
mod data_changes;
mod data_files;
mod detector;
mod device_check;
mod estimate;
mod examination;
mod fingerprint;
mod follow;
mod image_files;
mod launch;
mod layers;
mod levels;
mod lr_find;
mod memory;
mod metrics_log;
mod observer;
mod optimizer;
mod plan;
mod presets;
mod report;
mod run_directory;
mod sampling;
mod schedule;
mod step;
mod team;
mod tensorboard;
mod trainee;
mod training;
mod update;
mod validation;
mod world;

pub use alone::Alone;
pub use annotation_checks::{AnnotationsCheckError, check_requests};
pub use auto_batch::measure_batch_size;
pub use checkpoint::{Checkpoint, CheckpointState};
pub use config::{
    AugmentConfig, BatchSize, ComputeConfig, CriterionSection, DataConfig, ExperimentConfig,
    MetricName, OnNonFinite, OptimizerConfig, OptimizerName, ScheduleConfig, ScheduleName,
    SplitConfig, TrainConfig,
};
pub use data_changes::DataMark;
pub use data_files::{DataSplit, MissingData, require_data, what_lies_in};
pub use detector::EvaluateError;
pub use device_check::{Checked, DeviceCheck, TOLERANCE};
pub use estimate::{Estimate, estimate, roughly};
pub use examination::{Examination, ImageTimes, examine};
pub use fingerprint::fingerprint;
pub use follow::follow;
pub use launch::{Host, HostError, LaunchError, LaunchOptions, PlainHost, join, launch};
pub use layers::{ConfigError, config_to_toml, load_config};
pub use lr_find::{RateSearch, find_learning_rate};
pub use memory::{memory, peak_memory};
pub use observer::{Evaluated, Observer, Progress, StepReport};
pub use plan::{Plan, PlanError};
pub use presets::Preset;
pub use run_directory::{
    Change, Changes, DamagedCheckpoint, NewestCheckpoint, RunDirectory, RunDirectoryError,
};
pub use step::{Learner, StepError, StepLoss};
pub use training::{Stopped, TrainError, TrainOutcome, train};
pub use world::World;
