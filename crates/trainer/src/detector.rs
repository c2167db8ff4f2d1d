//! A trained model with all that it needs to look at images.

use std::mem;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use retinanet_anchors::{AnchorGenerator, TargetAssigner};
use retinanet_boxes::{ClassList, Detection};
use retinanet_convolution::set_winograd;
use retinanet_criterion::{BatchTargets, Criterion};
use retinanet_data::{Batch, CocoDataset, DataError, EvalLoader, LoaderConfig, Transform, prepare};
use retinanet_detector::{
    Decoder, ModelError, Predictions, RetinaNet, WeightsError, load_weights, read_classes,
};
use retinanet_evaluation::{CocoDetection, EvaluationError, Evaluator, Metrics};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{DataConfig, ExperimentConfig, SplitConfig};
use crate::observer::{Observer, Progress};
use crate::plan::{Plan, PlanError, draw_shapes_if_absent};

/// A model that looks at images: weights, classes, and how images are prepared and predictions
/// decoded.
pub struct Detector {
    model: RetinaNet,
    transform: Transform,
    generator: AnchorGenerator,
    decoder: Decoder,
    classes: ClassList,
    device: Device,
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
            decoder: config
                .eval
                .init(config.model.box_coder.init().map_err(ModelError::from)?)?,
            classes,
            device: device.clone().inner(),
        })
    }

    /// The classes that the model tells apart.
    pub const fn classes(&self) -> &ClassList {
        &self.classes
    }

    /// The model itself.
    pub const fn model(&self) -> &RetinaNet {
        &self.model
    }

    /// What the model sees on each image of a batch, best first, in pixels of the original image.
    pub fn detect(&self, mut batch: Batch) -> Vec<Vec<Detection>> {
        let predictions = self.predict(&mut batch);
        self.decode(predictions, &batch)
    }

    /// The images go to the device; nothing is left of them in the batch.
    fn predict(&self, batch: &mut Batch) -> Predictions {
        let shape = [batch.items.len(), 3, batch.height, batch.width];
        let images = TensorData::new(mem::take(&mut batch.images), shape);
        self.model.forward(Tensor::from_data(images, &self.device))
    }

    fn decode(&self, predictions: Predictions, batch: &Batch) -> Vec<Vec<Detection>> {
        let sizes: Vec<_> = batch.items.iter().map(|item| item.resized_size).collect();
        let mut detections = self.decoder.decode(predictions, &batch.anchors, &sizes);
        for (detections, item) in detections.iter_mut().zip(&batch.items) {
            for detection in detections {
                detection.bbox = item.to_original(detection.bbox);
            }
        }
        detections
    }

    /// What the model sees on an image file, best first, in pixels of the upright image.
    ///
    /// # Errors
    ///
    /// Returns an error where the file cannot be read.
    pub fn detect_file(&self, path: &Path) -> Result<Vec<Detection>, DataError> {
        let batch = prepare(path, &self.transform, &self.generator)?;
        Ok(self.detect(batch).pop().unwrap_or_default())
    }

    /// Evaluates on one of the config's splits.
    ///
    /// # Errors
    ///
    /// Returns an error where the split cannot be read or has other classes.
    pub fn evaluate_split(
        &self,
        data: &DataConfig,
        split: &SplitConfig,
        observer: &mut dyn Observer,
    ) -> Result<Metrics, EvaluateError> {
        draw_shapes_if_absent(data, observer)?;
        let dataset = data.read_to_evaluate(split)?;
        if dataset.classes != self.classes {
            return Err(EvaluateError::Classes {
                annotations: dataset.annotations.display().to_string(),
                data: dataset.classes.len(),
                model: self.classes.len(),
            });
        }
        let evaluator = Evaluator::from_file(&dataset.annotations)?;
        let loader = self.loader(&Arc::new(dataset), data.workers, None)?;
        self.evaluate(&loader, &evaluator, &mut |_, _| {}, observer)
    }

    /// Evaluates on a plan's validation images, and gives the loss there: the mean over images of
    /// each image's loss divided by its own positive anchors, whatever the normaliser of training.
    ///
    /// # Errors
    ///
    /// Returns an error where an image cannot be read.
    pub(crate) fn validate(
        &self,
        plan: &Plan,
        criterion: &Criterion,
        observer: &mut dyn Observer,
    ) -> Result<(Metrics, f64), EvaluateError> {
        let (mut sum, mut images) = (0.0, 0);
        let mut add_loss = |predictions: &Predictions, batch: &Batch| {
            let targets = BatchTargets::new(&batch.targets, &self.device);
            let weights: Vec<f64> = (batch.targets.iter())
                .map(|targets| 1.0 / targets.positives.len().max(1) as f64)
                .collect();
            let Predictions { logits, deltas, .. } = predictions.clone();
            let loss = criterion.weighted(logits, deltas, &targets, &weights);
            sum += f64::from(loss.total().into_scalar::<f32>());
            images += batch.items.len();
        };
        let workers = plan.config.data.workers;
        let loader = self.loader(&plan.val, workers, Some(plan.assigner))?;
        let metrics = self.evaluate(&loader, &plan.evaluator, &mut add_loss, observer)?;
        Ok((metrics, sum / f64::from(images.max(1) as u32)))
    }

    /// One image at a time, so that no image's padding depends on its neighbours.
    fn loader(
        &self,
        dataset: &Arc<CocoDataset>,
        workers: usize,
        assigner: Option<TargetAssigner>,
    ) -> Result<EvalLoader, DataError> {
        let config = LoaderConfig {
            batch_size: 1,
            workers,
            prefetch: (2 * workers).max(1),
            ..LoaderConfig::default()
        };
        let (transform, generator) = (self.transform.clone(), self.generator.clone());
        EvalLoader::new(Arc::clone(dataset), config, transform, generator, assigner)
    }

    /// Evaluates on all images of a loader; `look` sees what the model says of each.
    fn evaluate(
        &self,
        loader: &EvalLoader,
        evaluator: &Evaluator,
        look: &mut dyn FnMut(&Predictions, &Batch),
        observer: &mut dyn Observer,
    ) -> Result<Metrics, EvaluateError> {
        let mut detections = Vec::new();
        let what = "evaluating";
        let total = loader.batches() as u64;
        observer.progress(Progress::Start { what, total });
        for batch in loader.start() {
            let mut batch = batch?;
            let predictions = self.predict(&mut batch);
            look(&predictions, &batch);
            let images: Vec<_> = batch.items.iter().map(|item| item.image_id).collect();
            for (image_id, found) in images.into_iter().zip(self.decode(predictions, &batch)) {
                let found = found.iter();
                let known = found.filter(|it| !self.classes.is_unused(it.class));
                detections.extend(known.filter_map(|detection| {
                    Some(CocoDetection {
                        image_id,
                        category_id: self.classes.category(detection.class)?,
                        bbox: detection.bbox.to_xywh(),
                        score: f64::from(detection.score),
                    })
                }));
                observer.progress(Progress::Tick);
            }
        }
        observer.progress(Progress::Finish);
        Ok(evaluator.evaluate(&detections)?)
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
