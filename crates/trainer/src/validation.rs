//! What a model in training says of the validation images: its detections, its loss there, and which
//! anchors carry it.

use std::mem;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use retinanet_criterion::{BatchTargets, Criterion, LossShares, LossSpread};
use retinanet_data::{Batch, EvalLoader, LoaderConfig};
use retinanet_detector::{Predictions, RetinaNet};
use retinanet_evaluation::CocoDetection;

use crate::detector::EvaluateError;
use crate::examination::coco_detections;
use crate::observer::{Observer, Progress};
use crate::plan::Plan;

/// The most images whose anchors' losses are looked at one by one.
const SPREAD_IMAGES: usize = 64;

/// What looking at the validation images gave.
pub(crate) struct Validation {
    pub(crate) detections: Vec<CocoDetection>,
    /// The mean over images of each image's loss divided by its own positive anchors, whatever the
    /// normaliser of training.
    pub(crate) loss: f64,
    /// Which anchors carry the class loss, on [`SPREAD_IMAGES`] images spread over all.
    pub(crate) shares: LossShares,
}

/// Lets a model look at a plan's validation images.
///
/// # Errors
///
/// Returns an error where an image cannot be read.
pub(crate) fn validate(
    model: &RetinaNet,
    plan: &Plan,
    criterion: &Criterion,
    device: &Device,
    observer: &mut dyn Observer,
) -> Result<Validation, EvaluateError> {
    let (model, device) = (model.valid(), device.clone().inner());
    let loader = validation_loader(plan)?;
    let images = loader.batches();
    let spread_every = images.div_ceil(SPREAD_IMAGES).max(1);
    let mut spread = LossSpread::new(criterion.class().clone());
    let (mut detections, mut loss) = (Vec::new(), 0.0);

    observer.progress(Progress::Start {
        what: "evaluating",
        total: images as u64,
    });
    for (place, batch) in loader.start().enumerate() {
        let mut batch = batch?;
        let shape = [batch.items.len(), 3, batch.height, batch.width];
        let pixels = TensorData::new(mem::take(&mut batch.images), shape);
        let predictions = model.forward(Tensor::from_data(pixels, &device));
        loss += loss_of(criterion, &predictions, &batch, &device);
        if place.is_multiple_of(spread_every) {
            let logits = predictions.logits.clone().into_data();
            let logits: Vec<f32> = logits.iter().collect();
            // One image a batch.
            spread.add(&logits, &batch.targets[0].labels);
        }
        let sizes: Vec<_> = batch.items.iter().map(|item| item.resized_size).collect();
        let decoded = plan.decoder.decode(predictions, &batch.anchors, &sizes);
        for (item, found) in batch.items.iter().zip(decoded) {
            let found = found.into_iter().map(|mut detection| {
                detection.bbox = item.to_original(detection.bbox);
                detection
            });
            let classes = &plan.train.classes;
            detections.extend(coco_detections(classes, item.image_id, found));
        }
        observer.progress(Progress::Tick);
    }
    observer.progress(Progress::Finish);
    Ok(Validation {
        detections,
        loss: loss / images.max(1) as f64,
        shares: spread.shares(),
    })
}

/// The sum over a batch's images of each image's loss, divided by its own positive anchors.
fn loss_of(
    criterion: &Criterion,
    predictions: &Predictions,
    batch: &Batch,
    device: &Device,
) -> f64 {
    let targets = BatchTargets::new(&batch.targets, device);
    let weights: Vec<f64> = (batch.targets.iter())
        .map(|targets| 1.0 / targets.positives.len().max(1) as f64)
        .collect();
    let Predictions { logits, deltas, .. } = predictions.clone();
    let loss = criterion.weighted(logits, deltas, &targets, &weights);
    f64::from(loss.total().into_scalar::<f32>())
}

/// One image at a time, so that no image's padding depends on its neighbours.
fn validation_loader(plan: &Plan) -> Result<EvalLoader, EvaluateError> {
    let workers = plan.config.data.workers;
    let config = LoaderConfig {
        batch_size: 1,
        workers,
        prefetch: (2 * workers).max(1),
        ..LoaderConfig::default()
    };
    Ok(EvalLoader::new(
        Arc::clone(&plan.val),
        config,
        plan.transform.clone(),
        plan.generator.clone(),
        Some(plan.assigner),
    )?)
}
