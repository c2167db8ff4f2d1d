use retinanet_anchors::AnchorError;
use retinanet_criterion::CriterionError;
use retinanet_data::DataError;
use retinanet_data::shapes::ShapesError;
use retinanet_detector::{CheckpointError, DetectorError, ModelError, WeightsError};
use retinanet_evaluation::EvaluationError;

/// The experiment cannot run as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// A setting is out of range.
    #[error("`{key}` must be {allowed}, got {got}")]
    OutOfRange {
        /// The key in the config.
        key: &'static str,
        /// What the config says.
        got: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// Both lengths are given.
    #[error("`train.iterations` and `train.epochs` are both given, which one holds?")]
    TwoLengths,
    /// The data's root is no path.
    #[error("`data.root` is no path")]
    Root(#[source] std::io::Error),
    /// A model or decoding setting is out of range.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A matcher setting is out of range.
    #[error(transparent)]
    Anchors(#[from] AnchorError),
    /// A loss setting is out of range.
    #[error(transparent)]
    Criterion(#[from] CriterionError),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
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

impl ExperimentError {
    /// A setting that is out of its range: its key, what the config says, and what it may say.
    pub fn out_of_range(
        key: &'static str,
        got: impl std::fmt::Display,
        allowed: &'static str,
    ) -> Self {
        Self::OutOfRange {
            key,
            got: got.to_string(),
            allowed,
        }
    }

    /// Whether the config is at fault, and not the data.
    pub fn is_about_config(&self) -> bool {
        match self {
            Self::Data(error) => error.is_about_config(),
            Self::Weights(_) | Self::Shapes(_) | Self::Evaluation(_) => false,
            _ => true,
        }
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
