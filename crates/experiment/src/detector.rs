//! What of an experiment a detector needs.

use retinanet_data::DataError;
use retinanet_detector::DetectorConfig;
use retinanet_images::PreparationConfig;

use crate::config::ExperimentConfig;

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

    /// What of it a detector needs, with images prepared in this way.
    pub fn detector_with(&self, images: PreparationConfig) -> DetectorConfig {
        DetectorConfig {
            model: self.model.clone(),
            images,
            decode: self.eval,
            winograd: self.compute.winograd,
        }
    }
}
