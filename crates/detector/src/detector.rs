//! A trained model with all that it needs to detect.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use retinanet_anchors::AnchorGenerator;
use retinanet_boxes::{ClassList, Detection};
#[cfg(not(target_family = "wasm"))]
use retinanet_convolution::{KeptWeights, Quantization};
use retinanet_images::{
    ImagesError, MAX_PIXELS, PixelForm, Preparation, Prepared, TestTimeAugmentation, decode_image,
};
use retinanet_settings::SettingError;

use crate::checkpoint::{CheckpointError, DetectorFile, SavedDetector};
use crate::pixels::{images_to_device, pixel_form};
use crate::weights::file::WeightFile;
use crate::weights::load::load;
use crate::{Decoder, DetectorConfig, ModelError, Precision, Predictions, RetinaNet, WeightsError};

/// A model that detects: weights, classes, and how images are prepared and predictions
/// decoded.
pub struct Detector {
    model: RetinaNet,
    pub(crate) preparation: Preparation,
    pub(crate) generator: AnchorGenerator,
    pub(crate) decoder: Decoder,
    classes: ClassList,
    pub(crate) device: Device,
    /// How it computes in eight bits, if it does.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) quantization: Option<Quantization>,
    #[cfg(not(target_family = "wasm"))]
    kept_weights: KeptWeights,
    /// The views of an image that it detects on.
    pub(crate) test_time: TestTimeAugmentation,
    /// How many views go through the network together.
    pub(crate) batch: usize,
}

impl Detector {
    /// The detector of a run, or of one of its checkpoints: with the moving average of the weights
    /// where there is one. Of a run it is the best checkpoint, or the newest where nothing was
    /// evaluated yet. The settings are those that the checkpoint was written with.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder is not a run or checkpoint, or the checkpoint is damaged.
    pub fn open(run: &Path, device: &Device) -> Result<Self, DetectorError> {
        let saved = SavedDetector::read(run)?;
        let DetectorFile { config, classes } = &saved.file;
        let model = saved.load(config.model.init(classes.len(), 0, device)?)?;
        Self::new(config, &model, classes.clone(), device)
    }

    /// The detector of an exported weight file, whose classes the file tells. One in eight bits is computed so on the CPU.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or does not fit the config.
    pub fn from_weights(
        config: &DetectorConfig,
        weights: &Path,
        device: &Device,
    ) -> Result<Self, DetectorError> {
        let file = WeightFile::read(weights)?;
        let classes = file.classes(weights)?;
        let mut model = config.model.init(classes.len(), 0, device)?;
        #[cfg(not(target_family = "wasm"))]
        let quantization = file.quantization(weights)?;
        load(&mut model, file, weights, false)?;
        let detector = Self::new(config, &model, classes, device)?;
        #[cfg(not(target_family = "wasm"))]
        let detector = detector.with_quantization(quantization, weights)?;
        Ok(detector)
    }

    /// The detector of a model of this config, on this device.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other.
    pub fn new(
        config: &DetectorConfig,
        model: &RetinaNet,
        classes: ClassList,
        device: &Device,
    ) -> Result<Self, DetectorError> {
        Ok(Self {
            model: model.valid().with_winograd(config.winograd),
            preparation: Preparation::new(&config.images)?,
            generator: config.model.anchor_generator()?,
            decoder: config.decode.init(&config.model),
            classes,
            device: device.clone().inner(),
            #[cfg(not(target_family = "wasm"))]
            quantization: None,
            #[cfg(not(target_family = "wasm"))]
            kept_weights: KeptWeights::default(),
            test_time: TestTimeAugmentation::default(),
            batch: 1,
        })
    }

    /// Looks at images in these ways from now on, and at so many at once.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is out of its range.
    pub fn with_test_time_augmentation(
        mut self,
        test_time: TestTimeAugmentation,
        batch: usize,
    ) -> Result<Self, SettingError> {
        test_time.check()?;
        self.test_time = test_time;
        self.batch = batch.max(1);
        Ok(self)
    }

    /// Computes with maps of this precision from now on, which the device must have.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self {
            model: self.model.with_precision(precision),
            ..self
        }
    }

    /// How images are prepared.
    pub const fn preparation(&self) -> &Preparation {
        &self.preparation
    }

    /// What the model sees on an image file, best first, in pixels of the upright image.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read.
    pub fn detect_file(&self, path: &Path) -> Result<Vec<Detection>, ImagesError> {
        let decoding = self.preparation.decoding(MAX_PIXELS);
        let found = self.detect(&[Arc::new(decode_image(path, decoding)?)]);
        Ok(found
            .into_iter()
            .flat_map(|found| found.detections)
            .collect())
    }

    /// The classes that the model tells apart.
    pub const fn classes(&self) -> &ClassList {
        &self.classes
    }

    /// The model itself.
    pub const fn model(&self) -> &RetinaNet {
        &self.model
    }

    /// How many views go through the network together.
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// Whether a GPU computes.
    pub fn is_on_gpu(&self) -> bool {
        self.pixel_form() == PixelForm::Bytes
    }

    /// How pixels go to the device.
    pub(crate) fn pixel_form(&self) -> PixelForm {
        pixel_form(&self.device)
    }

    /// The pixels go to the device.
    pub(crate) fn predict(&self, prepared: Prepared) -> Predictions {
        let images = self.on_device(prepared);
        let forward = || self.model.forward(images);
        #[cfg(not(target_family = "wasm"))]
        return match &self.quantization {
            Some(quantization) => quantization.run(forward),
            None => self.kept_weights.run(forward),
        };
        #[cfg(target_family = "wasm")]
        forward()
    }

    /// The pixels `[batch, 3, height, width]`, normalised.
    pub(crate) fn on_device(&self, prepared: Prepared) -> Tensor<4> {
        let Prepared {
            mut pixels,
            height,
            width,
            sizes,
        } = prepared;
        let shape = [sizes.len(), height, width];
        images_to_device(&mut pixels, shape, &self.device)
    }

    /// Waits until the device has done what it was given, so that times mean something.
    pub(crate) fn synchronize(&self) {
        // Where the device fails, reading what it computed says so.
        let _ = self.device.sync();
    }
}

/// There is no detector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetectorError {
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weight file does not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The settings make no model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] ImagesError),
    /// Settings do not fit each other.
    #[error(transparent)]
    Setting(#[from] SettingError),
}
