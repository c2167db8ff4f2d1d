//! What a model in training says of the validation images: its detections, its loss there, and which
//! anchors carry it.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use retinanet_boxes::{CategoryId, ImageId};
use retinanet_convolution::KeptWeights;
use retinanet_criterion::{BatchTargets, Criterion, LossOptions, LossShares, LossSpread};
use retinanet_data::{Batch, EvalLoader, LoaderConfig, OnBadImage, in_full};
use retinanet_detector::{Predictions, RetinaNet, images_to_device, pixel_form};
use retinanet_evaluation::CocoDetection;
use retinanet_experiment::{EvaluateError, Observer, Progress, coco_detections};
use retinanet_settings::Count;

use crate::planning::plan::Plan;
use crate::processes::process_group::{Process, ProcessGroup};

/// The most images whose anchors' losses are looked at one by one.
const SPREAD_IMAGES: usize = 64;

/// What looking at the validation images gave.
pub(crate) struct Validation {
    pub(crate) detections: Vec<CocoDetection>,
    /// The images that could not be read, where they are left out.
    pub(crate) unreadable: HashSet<ImageId>,
    /// The mean over images of each image's loss divided by its own positive anchors, whatever the
    /// normaliser of training.
    pub(crate) loss: f64,
    /// Which anchors carry the class loss, on [`SPREAD_IMAGES`] images spread over all that this
    /// process looked at.
    pub(crate) shares: LossShares,
}

/// Lets a model look at a plan's validation images; of several processes each looks at its share,
/// and all get what all found. Nothing if a process that is alone is asked to stop meanwhile.
///
/// # Errors
///
/// Returns an error if an image cannot be read.
pub(crate) fn validate(
    model: &RetinaNet,
    plan: &Plan,
    criterion: &Criterion,
    process: Process<'_>,
    observer: &mut dyn Observer,
) -> Result<Option<Validation>, EvaluateError> {
    let Process { group, device } = process;
    let (model, device) = (model.valid(), device.clone().inner());
    let skips = plan.config.data.loader.on_bad_image == OnBadImage::Skip;
    let loader = validation_loader(plan, &device)?.shard(group.rank(), group.size());
    let images = loader.batches();
    let spread_every = images.div_ceil(SPREAD_IMAGES).max(1);
    let mut gathered = Gathered::new(criterion, &device);
    let mut unreadable = vec![0.0; plan.val.images.len()];

    observer.progress(Progress::Start {
        what: "evaluating",
        total: images as u64,
    });
    for (place, batch) in loader.start().enumerate() {
        if group.is_single() && observer.stop_requested() {
            observer.progress(Progress::Finish);
            return Ok(None);
        }
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) if skips => {
                observer.message(&format!("left out: {}", in_full(&error)));
                observer.progress(Progress::Tick);
                // One image a batch, dealt out in turn.
                unreadable[place * group.size() + group.rank()] = 1.0;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        gathered.validate(plan, &model, batch, place.is_multiple_of(spread_every));
        observer.progress(Progress::Tick);
    }
    observer.progress(Progress::Finish);
    let Gathered {
        detections,
        loss,
        spread,
        ..
    } = gathered;
    let read = images as f64 - unreadable.iter().sum::<f64>();
    let mut sums = [loss, read];
    group.all_reduce(&mut sums);
    group.all_reduce(&mut unreadable);
    let flagged = plan.val.images.iter().zip(&unreadable);
    Ok(Some(Validation {
        detections: together(group, detections),
        unreadable: (flagged.filter(|(_, flag)| **flag > 0.0))
            .map(|(image, _)| image.id)
            .collect(),
        loss: sums[0] / sums[1].max(1.0),
        shares: spread.shares(),
    }))
}

/// What the images so far gave.
struct Gathered<'a> {
    criterion: &'a Criterion,
    device: &'a Device,
    detections: Vec<(usize, CocoDetection)>,
    /// The sum over images.
    loss: f64,
    spread: LossSpread,
    kept_weights: KeptWeights,
}

impl<'a> Gathered<'a> {
    fn new(criterion: &'a Criterion, device: &'a Device) -> Self {
        Self {
            criterion,
            device,
            detections: Vec::new(),
            loss: 0.0,
            spread: LossSpread::new(criterion.class().clone()),
            kept_weights: KeptWeights::default(),
        }
    }

    /// Sends an image through the network, and if asked to takes its anchors' losses one by one. The model is the same for
    /// all images.
    fn validate(&mut self, plan: &Plan, model: &RetinaNet, mut batch: Batch, is_spread: bool) {
        let shape = [batch.items.len(), batch.height, batch.width];
        let images = images_to_device(&mut batch.images, shape, self.device);
        let predictions = self.kept_weights.run(|| model.forward(images));
        if is_spread {
            let logits = predictions.logits.clone().into_data();
            let logits: Vec<f32> = logits.iter().collect();
            // One image a batch.
            self.spread.add(&logits, &batch.targets[0].labels);
        }
        self.loss += loss_of(self.criterion, &predictions, &mut batch, self.device);
        self.detections
            .extend(detections_of(plan, predictions, &batch));
    }
}

/// The detections on a batch, in pixels of the images as they are stored, each with its image's place.
fn detections_of(
    plan: &Plan,
    predictions: Predictions,
    batch: &Batch,
) -> Vec<(usize, CocoDetection)> {
    let sizes: Vec<_> = batch.items.iter().map(|item| item.resized_size).collect();
    let decoded = plan.decoder.decode(predictions, &batch.anchors, &sizes);
    let mut detections = Vec::new();
    for (item, found) in batch.items.iter().zip(decoded) {
        let found = found.into_iter().map(|mut detection| {
            detection.bbox = item.to_original(detection.bbox);
            detection
        });
        let found = coco_detections(&plan.train.classes, item.image_id, found);
        detections.extend(found.map(|detection| (item.index, detection)));
    }
    detections
}

/// What all processes found, in the order of the data set.
fn together(group: &ProcessGroup, detections: Vec<(usize, CocoDetection)>) -> Vec<CocoDetection> {
    let mut all = if group.is_single() {
        detections
    } else {
        let words: Vec<u64> = detections.iter().flat_map(to_words).collect();
        let of_ranks = group.gather(&words);
        let words = of_ranks.iter().flat_map(|words| words.as_chunks().0);
        words.map(from_words).collect()
    };
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, detection)| detection).collect()
}

/// Place in the data set, image, category, box and score.
fn to_words((place, detection): &(usize, CocoDetection)) -> [u64; 8] {
    let [x, y, width, height] = detection.bbox.map(f64::to_bits);
    let (image, category) = (detection.image_id.0, detection.category_id.0);
    let score = detection.score.to_bits();
    [*place as u64, image, category, x, y, width, height, score]
}

fn from_words(
    &[place, image, category, x, y, width, height, score]: &[u64; 8],
) -> (usize, CocoDetection) {
    let detection = CocoDetection {
        image_id: ImageId(image),
        category_id: CategoryId(category),
        bbox: [x, y, width, height].map(f64::from_bits),
        score: f64::from_bits(score),
    };
    (place as usize, detection)
}

/// The sum over a batch's images of each image's loss, divided by its own positive anchors. The batch's targets go.
fn loss_of(
    criterion: &Criterion,
    predictions: &Predictions,
    batch: &mut Batch,
    device: &Device,
) -> f64 {
    let weights: Vec<f64> = (batch.targets.iter())
        .map(|targets| 1.0 / targets.positives.len().max(1) as f64)
        .collect();
    let Predictions { logits, boxes, .. } = predictions.clone();
    let (targets, anchors) = (mem::take(&mut batch.targets), Arc::clone(&batch.anchors));
    let targets = BatchTargets::new(targets, anchors, device);
    let loss = criterion.forward(logits, boxes, &targets, LossOptions::new(&weights));
    f64::from(loss.total().into_scalar::<f32>())
}

/// One image at a time, so that no image's padding depends on its neighbours.
fn validation_loader(plan: &Plan, device: &Device) -> Result<EvalLoader, EvaluateError> {
    let config = LoaderConfig {
        workers: plan.config.data.loader.workers,
        ..LoaderConfig::default()
    };
    let loader = EvalLoader::new(
        Arc::clone(&plan.val),
        config,
        Count::literal(1),
        plan.transform.clone(),
        plan.generator.clone(),
        Some(plan.assigner),
    )?;
    Ok(loader.with_form(pixel_form(device)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detections_come_back_as_they_were() {
        let detection = CocoDetection {
            image_id: ImageId(u64::MAX),
            category_id: CategoryId(3),
            bbox: [0.1, -2.5, 1e-30, 640.0],
            score: 0.3,
        };
        let there = to_words(&(7, detection));
        assert_eq!(from_words(&there), (7, detection));
    }
}
