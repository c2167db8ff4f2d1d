//! Training: the training loop as one linear story, checkpoints, and the run directory.
//!
//! An [`ExperimentConfig`](retinanet_experiment::ExperimentConfig) (as written) becomes a [`Plan`] (checked and
//! able to build), and [`train`] carries it out; [`launch`] does all of it. The crate prints nothing: what happens is told to
//! an [`Observer`](retinanet_experiment::Observer).

mod announce;
mod auto_batch;
mod average;
mod checkpoint;
mod communicator;
mod data_changes;
mod detector;
mod device_check;
mod error;
mod estimate;
mod fingerprint;
mod follow;
mod launch;
mod lr_find;
mod memory;
mod messages;
mod metrics_log;
mod non_finite;
mod optimizer;
mod plan;
mod process_group;
mod report;
mod run_directory;
mod schedule;
mod session;
mod single_process;
mod step;
mod tensorboard;
mod train_state;
mod training;
mod update;
mod validation;

pub use auto_batch::measure_batch_size;
pub use checkpoint::{Checkpoint, CheckpointState};
pub use communicator::Communicator;
pub use data_changes::DataMark;
pub use device_check::{Checked, DeviceCheck, TOLERANCE};
pub use error::TrainError;
pub use estimate::{Estimate, estimate, roughly};
pub use fingerprint::fingerprint;
pub use follow::follow;
pub use launch::{Host, HostError, LaunchError, LaunchOptions, PlainHost, join, launch};
pub use lr_find::{RateSearch, find_learning_rate};
pub use memory::{memory, peak_memory};
pub use plan::Plan;
pub use run_directory::{
    Change, Changes, DamagedCheckpoint, NewestCheckpoint, RunDirectory, RunDirectoryError,
};
pub use session::Stopped;
pub use single_process::SingleProcess;
pub use step::{DeviceBatch, Learner, StepError, StepLoss, StepOptions};
pub use training::{TrainOutcome, train};
