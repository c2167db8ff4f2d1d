use burn::tensor::ExecutionError;
use retinanet_data::DataError;
use retinanet_detector::ModelError;
use retinanet_experiment::ExperimentError;
use retinanet_settings::{OutOfRange, SettingError};
use retinanet_trainer::StepError;

/// Something cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchmarkError {
    /// Settings do not fit each other.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A number is outside its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There is no such model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The data's settings are wrong.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// The data cannot be loaded.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The step fails.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The device does not compute in eight bits.
    #[error("only the CPU computes in eight bits: `--device flex`")]
    EightBits,
    /// The device fails.
    #[error(transparent)]
    Device(#[from] ExecutionError),
}

impl BenchmarkError {
    /// Whether the settings are at fault, and not the work.
    pub const fn is_about_config(&self) -> bool {
        match self {
            Self::Setting(_) | Self::Range(_) | Self::Model(_) | Self::EightBits => true,
            Self::Experiment(error) => error.is_about_config(),
            Self::Data(_) | Self::Step(_) | Self::Device(_) => false,
        }
    }
}
