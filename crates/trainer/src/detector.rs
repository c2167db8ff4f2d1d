//! The detectors that a config's models make.

use burn::tensor::Device;
use retinanet_data::DataError;
use retinanet_detector::{CheckpointError, Detector, DetectorConfig, DetectorError, ModelError};
use retinanet_evaluation::EvaluationError;
use retinanet_images::PreparationConfig;

use crate::checkpoint::Checkpoint;
use crate::config::ExperimentConfig;
use crate::plan::PlanError;

impl ExperimentConfig {
    /// What of it a detector needs.
    ///
    /// # Errors
    ///
    /// Returns an error where a setting is out of its range.
    pub fn detector(&self) -> Result<DetectorConfig, DataError> {
        let images = self.data.transform()?.preparation().config().clone();
        Ok(self.detector_with(images))
    }

    pub(crate) fn detector_with(&self, images: PreparationConfig) -> DetectorConfig {
        DetectorConfig {
            model: self.model.clone(),
            images,
            decode: self.eval,
            winograd: self.compute.winograd,
        }
    }
}

impl Checkpoint {
    /// Its detector, with the settings of this config.
    ///
    /// # Errors
    ///
    /// Returns an error where config and checkpoint do not fit together.
    pub fn detector(
        &self,
        config: &ExperimentConfig,
        device: &Device,
    ) -> Result<Detector, EvaluateError> {
        let classes = self.state.classes.clone();
        let model = config.model.init(classes.len(), config.seed, device)?;
        let model = self.load_to_detect(model)?;
        Ok(Detector::new(&config.detector()?, &model, classes, device)?)
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
    Plan(#[from] PlanError),
    /// An image cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The detections cannot be evaluated.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
}
