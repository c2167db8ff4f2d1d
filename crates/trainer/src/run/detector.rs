//! The detectors that a config's models make.

use burn::tensor::Device;
use retinanet_detector::Detector;
use retinanet_experiment::{EvaluateError, ExperimentConfig};

use crate::run::checkpoint::Checkpoint;

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
        let model = config
            .model
            .init(classes.len(), config.seed.get(), device)?;
        let model = self.load_to_detect(model)?;
        Ok(Detector::new(&config.detector()?, &model, classes, device)?)
    }
}
