//! What a config's sections make, each checked; errors have the key's path in the config.

use retinanet_anchors::{AnchorGenerator, TargetAssigner};
use retinanet_criterion::{Criterion, CriterionConfig, PredictionForm};
use retinanet_data::Transform;
use retinanet_detector::{ClassScores, Decoder, DetectorConfig};
use retinanet_images::PreparationConfig;

use crate::config::{DataConfig, ExperimentConfig};
use crate::error::ExperimentError;

impl DataConfig {
    /// The way from images to numbers.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other.
    pub fn transform(&self) -> Result<Transform, ExperimentError> {
        let transform = Transform::new(&self.transform, self.decoding.range_16_bit);
        transform.map_err(|error| ExperimentError::Setting(error.within("data")))
    }
}

impl ExperimentConfig {
    /// What lays anchors over the pyramid.
    ///
    /// # Errors
    ///
    /// Returns an error if the anchors do not fit the pyramid.
    pub fn anchor_generator(&self) -> Result<AnchorGenerator, ExperimentError> {
        Ok(self.model.anchor_generator()?)
    }

    /// What turns objects into targets of anchors.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other.
    pub fn target_assigner(&self) -> Result<TargetAssigner, ExperimentError> {
        let coder = self.model.box_coder.init();
        let assigner = TargetAssigner::new(&self.criterion.assigner, coder);
        assigner.map_err(|error| ExperimentError::Setting(error.within("criterion.assigner")))
    }

    /// The loss, without the weights of classes that are to come from a data set.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other.
    pub fn criterion(&self) -> Result<Criterion, ExperimentError> {
        self.criterion_with(&self.criterion)
    }

    /// The loss for a data set whose classes have so many objects.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other, or the number of classes.
    pub fn criterion_for(&self, objects: &[usize]) -> Result<Criterion, ExperimentError> {
        let config = self.criterion.for_objects(objects);
        self.criterion_with(&config.map_err(of_criterion)?)
    }

    fn criterion_with(&self, config: &CriterionConfig) -> Result<Criterion, ExperimentError> {
        let predictions = PredictionForm {
            softmax: self.model.head.scores == ClassScores::Softmax,
            coder: self.model.box_coder.init(),
            centerness: self.model.head.centerness,
        };
        config.init(predictions).map_err(of_criterion)
    }

    /// What turns predictions into detections.
    pub fn decoder(&self) -> Decoder {
        self.eval.init(&self.model)
    }

    /// What of the config a detector needs.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other.
    pub fn detector(&self) -> Result<DetectorConfig, ExperimentError> {
        let images = self.data.transform()?.preparation().config().clone();
        Ok(self.detector_with(images))
    }

    /// What of the config a detector needs, with images prepared in this way.
    pub fn detector_with(&self, images: PreparationConfig) -> DetectorConfig {
        DetectorConfig {
            model: self.model.clone(),
            images,
            decode: self.eval,
            winograd: self.compute.winograd,
        }
    }
}

fn of_criterion(error: retinanet_settings::SettingError) -> ExperimentError {
    ExperimentError::Setting(error.within("criterion"))
}
