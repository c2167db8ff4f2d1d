//! A trained model with all that it needs to look at images.

use std::mem;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use retinanet_anchors::AnchorGenerator;
use retinanet_boxes::{ClassList, Detection};
use retinanet_convolution::set_winograd;
use retinanet_data::{Batch, DataError, Transform};
use retinanet_detector::{
    Decoder, ModelError, Predictions, RetinaNet, WeightsError, load_weights, read_classes,
};
use retinanet_evaluation::EvaluationError;
use retinanet_images::{LookConfig, decode_image};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::ExperimentConfig;
use crate::layers::ConfigError;
use crate::plan::{Plan, PlanError};
use crate::run_directory::{RunDirectory, RunDirectoryError};

/// A model that looks at images: weights, classes, and how images are prepared and predictions
/// decoded.
pub struct Detector {
    model: RetinaNet,
    pub(crate) transform: Transform,
    pub(crate) generator: AnchorGenerator,
    pub(crate) decoder: Decoder,
    classes: ClassList,
    device: Device,
    /// In which ways it looks at an image.
    pub(crate) looks: LookConfig,
    /// How many looks go through the network together.
    pub(crate) batch: usize,
}

impl Detector {
    /// The detector of a run's checkpoint.
    ///
    /// # Errors
    ///
    /// Returns an error where config and checkpoint do not fit together.
    pub fn from_checkpoint(
        config: &ExperimentConfig,
        checkpoint: &Checkpoint,
        device: &Device,
    ) -> Result<Self, EvaluateError> {
        let classes = checkpoint.state.classes.clone();
        let model = config.model.init(classes.len(), device)?;
        let model = checkpoint.load_to_detect(model)?;
        Self::new(config, &model, classes, device)
    }

    /// The detector of a run's best checkpoint, or of its newest where nothing was evaluated yet.
    ///
    /// # Errors
    ///
    /// Returns an error where the folder is no run's, or has no whole checkpoint.
    pub fn open(run: &Path, device: &Device) -> Result<Self, EvaluateError> {
        let run = RunDirectory::open(run)?;
        Self::from_checkpoint(&run.config()?, &run.best_checkpoint()?, device)
    }

    /// The detector of an exported weight file.
    ///
    /// # Errors
    ///
    /// Returns an error where the file cannot be read or does not fit the config.
    pub fn from_weights(
        config: &ExperimentConfig,
        weights: &Path,
        device: &Device,
    ) -> Result<Self, EvaluateError> {
        let classes = read_classes(weights)?;
        let mut model = config.model.init(classes.len(), device)?;
        load_weights(&mut model, weights)?;
        Self::new(config, &model, classes, device)
    }

    /// The detector of a model in training.
    pub(crate) fn of_plan(plan: &Plan, model: &RetinaNet, device: &Device) -> Self {
        Self {
            model: model.valid(),
            transform: plan.transform.clone(),
            generator: plan.generator.clone(),
            decoder: plan.decoder.clone(),
            classes: plan.train.classes.clone(),
            device: device.clone().inner(),
            looks: LookConfig::default(),
            batch: 1,
        }
    }

    fn new(
        config: &ExperimentConfig,
        model: &RetinaNet,
        classes: ClassList,
        device: &Device,
    ) -> Result<Self, EvaluateError> {
        set_winograd(config.compute.winograd);
        Ok(Self {
            model: model.valid(),
            transform: config.data.transform()?,
            generator: config.model.anchor_generator()?,
            decoder: config.eval.init(&config.model)?,
            classes,
            device: device.clone().inner(),
            looks: LookConfig::default(),
            batch: 1,
        })
    }

    /// Looks at images in these ways from now on, and at so many at once.
    ///
    /// # Errors
    ///
    /// Returns an error where a setting is out of its range.
    pub fn with_looks(mut self, looks: LookConfig, batch: usize) -> Result<Self, DataError> {
        looks.check()?;
        self.looks = looks;
        self.batch = batch.max(1);
        Ok(self)
    }

    /// The classes that the model tells apart.
    pub const fn classes(&self) -> &ClassList {
        &self.classes
    }

    /// The model itself.
    pub const fn model(&self) -> &RetinaNet {
        &self.model
    }

    pub(crate) const fn device(&self) -> &Device {
        &self.device
    }

    /// The images go to the device; nothing is left of them in the batch.
    pub(crate) fn predict(&self, batch: &mut Batch) -> Predictions {
        let shape = [batch.items.len(), 3, batch.height, batch.width];
        let images = TensorData::new(mem::take(&mut batch.images), shape);
        self.model.forward(Tensor::from_data(images, &self.device))
    }

    /// Waits until the device has done what it was given, so that times mean something.
    pub(crate) fn synchronize(&self) {
        // Where the device fails, reading what it computed says so.
        let _ = self.device.sync();
    }

    /// What the model sees on an image file, best first, in pixels of the upright image.
    ///
    /// # Errors
    ///
    /// Returns an error where the file cannot be read.
    pub fn detect_file(&self, path: &Path) -> Result<Vec<Detection>, DataError> {
        let found = self.find(&[Arc::new(decode_image(path)?)]);
        Ok(found
            .into_iter()
            .flat_map(|found| found.detections)
            .collect())
    }
}

/// The model cannot be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// The data has other classes than the model.
    #[error(
        "`{annotations}` has {data} categories, the weights are for {model} others; is it the \
         right data set?"
    )]
    Classes {
        /// The annotations.
        annotations: String,
        /// Their classes.
        data: usize,
        /// The model's classes.
        model: usize,
    },
    /// The folder is no run's.
    #[error(transparent)]
    Run(#[from] RunDirectoryError),
    /// The run's config cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint does not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weight file does not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
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
