use retinanet_data::DataError;
use retinanet_detector::{CheckpointError, DetectorError, ModelError, WeightsError};
use retinanet_evaluation::EvaluationError;
use retinanet_images::ImagesError;
use retinanet_settings::SettingError;
use retinanet_shapes::ShapesError;

/// The experiment cannot run as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// Settings break a rule; the error has the key's path in the config.
    #[error(transparent)]
    Setting(SettingError),
    /// Both lengths are given.
    #[error("`train.iterations` and `train.epochs` are both given, which one holds?")]
    TwoLengths,
    /// The data's root is not a path.
    #[error("`data.root` is not a path")]
    Root(#[source] std::io::Error),
    /// There is no such model.
    #[error(transparent)]
    Model(ModelError),
    /// The data cannot be read.
    #[error(transparent)]
    Data(DataError),
    /// The weights to start from cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The built-in data set cannot be rendered.
    #[error(transparent)]
    Shapes(#[from] ShapesError),
    /// The annotations cannot be evaluated on.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
}

impl From<ModelError> for ExperimentError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Setting(error) => Self::Setting(error.within("model")),
            error => Self::Model(error),
        }
    }
}

impl From<DataError> for ExperimentError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Setting(error) | DataError::Image(ImagesError::Setting(error)) => {
                Self::Setting(error.within("data"))
            }
            DataError::MicroBatches {
                batch_size,
                micro_batches,
            } => Self::Setting(SettingError::new(
                "train.batch_size",
                "at least as many images as there are processes, times `train.accumulate`",
                format!("{batch_size}, for {micro_batches}"),
            )),
            error => Self::Data(error),
        }
    }
}

impl ExperimentError {
    /// Whether the config is at fault, and not the data.
    pub const fn is_about_config(&self) -> bool {
        !matches!(
            self,
            Self::Data(_) | Self::Weights(_) | Self::Shapes(_) | Self::Evaluation(_)
        )
    }
}

/// The model cannot be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// The checkpoint does not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// There is no detector.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// The config makes no model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The validation split cannot be prepared.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// An image cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The detections cannot be evaluated.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
}
