//! Training: the training loop as one linear story, checkpoints, and the run directory.
//!
//! An [`ExperimentConfig`](retinanet_experiment::ExperimentConfig) (as written) becomes a [`Plan`] (checked and
//! able to build), and [`train`] carries it out; [`launch`] does all of it. The crate prints nothing: what happens is told to
//! an [`Observer`](retinanet_experiment::Observer).

mod error;
mod evaluation;
mod fingerprint;
mod follow;
mod launch;
mod non_finite;
mod optimisation;
mod planning;
mod processes;
mod run;
mod session;
mod train_state;
mod training;

pub use error::TrainError;
pub use fingerprint::fingerprint;
pub use follow::follow;
pub use launch::{Host, HostError, LaunchError, LaunchOptions, PlainHost, join, launch};
pub use optimisation::loss_scale::LossScale;
pub use optimisation::losses::{StepError, StepLoss};
pub use optimisation::step::{DeviceBatch, Learner, StepOptions};
pub use planning::auto_batch::{measure_batch_size, try_batch};
pub use planning::device_check::{Checked, DeviceCheck, TOLERANCE};
pub use planning::estimate::{Estimate, StepLine, estimate, measure_step, roughly};
pub use planning::lr_find::{RateSearch, find_learning_rate};
pub use planning::memory::{memory, peak_memory};
pub use planning::plan::Plan;
pub use planning::precision::check_precision;
pub use processes::communicator::Communicator;
pub use processes::single_process::SingleProcess;
pub use run::checkpoint::{Checkpoint, CheckpointState};
pub use run::data_changes::DataMark;
pub use run::detector::counted_score;
pub use run::run_directory::{
    Change, Changes, DamagedCheckpoint, NewestCheckpoint, RunDirectory, RunDirectoryError,
};
pub use session::Stopped;
pub use training::{TrainOutcome, train};
