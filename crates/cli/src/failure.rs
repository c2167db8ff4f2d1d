use std::process::ExitCode;

use retinanet_benchmark::BenchmarkError;
use retinanet_data::DataError;
use retinanet_detector::{CheckpointError, DetectorError, ModelError};
use retinanet_experiment::{
    AnnotationsCheckError, ConfigError, EvaluateError, ExperimentError, MissingData,
};
use retinanet_images::ImagesError;
use retinanet_trainer::{HostError, LaunchError, RunDirectoryError, TrainError};

use crate::signals;

/// Why the program ends without having done its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments or the config are wrong: exit code 2.
    Usage(anyhow::Error),
    /// The work failed: exit code 1.
    Work(anyhow::Error),
    /// A signal asked the work to end, and it did so in order: exit code 128 and the signal's number.
    Signal(u8),
}

impl Failure {
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::Usage(error.into())
    }

    pub(crate) fn work(error: impl Into<anyhow::Error>) -> Self {
        Self::Work(error.into())
    }

    /// What is to be told; nothing if all was said.
    pub(crate) const fn error(&self) -> Option<&anyhow::Error> {
        match self {
            Self::Usage(error) | Self::Work(error) => Some(error),
            Self::Signal(_) => None,
        }
    }

    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Work(_) => 1,
            Self::Signal(signal) => signals::exit_code(*signal),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.code().into()
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self::usage(error)
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        if error.is_about_config() {
            Self::usage(error)
        } else {
            Self::work(error)
        }
    }
}

impl From<ImagesError> for Failure {
    fn from(error: ImagesError) -> Self {
        DataError::from(error).into()
    }
}

impl From<BenchmarkError> for Failure {
    fn from(error: BenchmarkError) -> Self {
        if error.is_about_config() {
            Self::usage(error)
        } else {
            Self::work(error)
        }
    }
}

impl From<ExperimentError> for Failure {
    fn from(error: ExperimentError) -> Self {
        if error.is_about_config() {
            Self::usage(error)
        } else {
            Self::work(error)
        }
    }
}

impl From<RunDirectoryError> for Failure {
    fn from(error: RunDirectoryError) -> Self {
        match error {
            RunDirectoryError::HoldsRun { .. }
            | RunDirectoryError::NoRun { .. }
            | RunDirectoryError::NoSuchCheckpoint { .. }
            | RunDirectoryError::Differs { .. } => Self::usage(error),
            _ => Self::work(error),
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Self::work(error)
    }
}

impl From<DetectorError> for Failure {
    fn from(error: DetectorError) -> Self {
        match error {
            DetectorError::Model(error) => error.into(),
            DetectorError::Image(error) => error.into(),
            DetectorError::Setting(_) => Self::usage(error),
            _ => Self::work(error),
        }
    }
}

impl From<EvaluateError> for Failure {
    fn from(error: EvaluateError) -> Self {
        match error {
            EvaluateError::Model(error) => error.into(),
            EvaluateError::Detector(error) => error.into(),
            EvaluateError::Data(error) => error.into(),
            EvaluateError::Experiment(error) => error.into(),
            _ => Self::work(error),
        }
    }
}

impl From<MissingData> for Failure {
    fn from(error: MissingData) -> Self {
        Self::usage(error)
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Refused(error) => Self::Usage(anyhow::Error::from_boxed(error)),
            HostError::Failed(error) => Self::Work(anyhow::Error::from_boxed(error)),
        }
    }
}

impl From<Failure> for HostError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Usage(error) => Self::Refused(error.into()),
            Failure::Work(error) => Self::Failed(error.into()),
            Failure::Signal(signal) => Self::Failed(format!("ended by signal {signal}").into()),
        }
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Run(error) => error.into(),
            LaunchError::Data(error) => error.into(),
            LaunchError::Annotations(AnnotationsCheckError::Experiment(error))
            | LaunchError::Experiment(error) => error.into(),
            LaunchError::Annotations(AnnotationsCheckError::Data(error)) => error.into(),
            LaunchError::Host(error) => error.into(),
            LaunchError::Costly { .. } => Self::usage(error),
            _ => Self::work(error),
        }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        Self::work(error)
    }
}
