use std::path::PathBuf;

use burn::store::RecordError;
use retinanet_data::DataError;
use retinanet_detector::CheckpointError;
use retinanet_experiment::{EvaluateError, ExperimentError};

use crate::optimisation::losses::StepError;
use crate::run::run_directory::RunDirectoryError;

/// Training failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The loss on the validation images became non-finite.
    #[error(
        "the loss on the validation images is {loss} at step {iteration}: the weights have diverged, and are \
         not kept; a lower `optimizer.lr`, `optimizer.clip_norm` or a longer `schedule.warmup` helps"
    )]
    Diverged {
        /// After so many steps.
        iteration: u64,
        /// The loss.
        loss: f64,
    },
    /// The loss or its gradients are non-finite.
    #[error("step {iteration}: {error}; {cause}; see {}", folder.display())]
    NonFinite {
        /// The step, counted from 1.
        iteration: u64,
        /// What is not.
        error: StepError,
        /// Where it begins, and what may help.
        cause: String,
        /// Where the non-finite report is located.
        folder: PathBuf,
    },
    /// The run goes on with annotations of other classes than it began with.
    #[error(
        "`{}` has other categories than when the run began: {differences}; bring them back, or begin a \
         new run",
        annotations.display()
    )]
    OtherClasses {
        /// The annotations.
        annotations: PathBuf,
        /// In what they differ.
        differences: String,
    },
    /// The non-finite report cannot be written; the cause names the file.
    #[error(
        "the loss or its gradients are not finite, and the non-finite report cannot be written"
    )]
    NonFiniteReport(#[source] std::io::Error),
    /// What was frozen cannot be made to learn.
    #[error("cannot let what was frozen learn")]
    Unfreeze(#[source] RecordError),
    /// The metrics cannot be logged; the cause names the file.
    #[error("cannot write the metrics")]
    Log(#[source] std::io::Error),
    /// The model cannot be initialised.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// An image cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The run directory cannot be used.
    #[error(transparent)]
    Run(#[from] RunDirectoryError),
    /// A checkpoint does not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model cannot be evaluated.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}
