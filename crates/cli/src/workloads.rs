//! What `retinanet bench` measures, on random weights, images and boxes.
//!
//! `scripts/bench_vs_torchvision.py` has torchvision do the same work, on cases drawn the same way.

use std::f32::consts::TAU;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use retinanet_anchors::{AnchorGenerator, AssignerConfig, BoxCoder, TargetAssigner};
use retinanet_boxes::{AnchorTargets, BoundingBox, ClassId, GroundTruth};
use retinanet_convolution::{conv2d, ConvOptions};
use retinanet_criterion::{BatchTargets, CriterionConfig, PredictionForm};
use retinanet_data::{Batching, TrainLoader};
use retinanet_detector::{DecodeConfig, ModelConfig, Predictions};
use retinanet_experiment::{DataConfig, OptimizerConfig};
use retinanet_settings::{Count, Whole};
use retinanet_trainer::{DeviceBatch, Learner, StepOptions};
use serde::Serialize;

use crate::args::{BenchArguments, ImageSize, Workload};
use crate::failure::Failure;

/// Objects on each image of a training step; COCO has 7.
const OBJECTS: usize = 7;
/// Objects that [`Bench::matcher`] matches: a crowded image.
const MANY_OBJECTS: usize = 100;
/// Sides of objects in pixels, from the smallest to so many times it.
const OBJECT_SIDES: (f32, f32) = (16.0, 32.0);
/// What COCO's images become at most.
const COCO_SIZE: ImageSize = ImageSize {
    height: 800,
    width: 1333,
};
/// Objects around which [`Bench::decode`] finds high scores.
const CLUSTERS: usize = 300;
/// Overlap from which an anchor belongs to a cluster.
const CLUSTER_IOU: f32 = 0.4;
/// Logit of the prior, about which everything else scores.
const BACKGROUND_LOGIT: f32 = -4.6;
/// Images that the loader loads in one go, at most.
const MOST_IMAGES: usize = 256;
/// The steps do the work of an update and stay where they are: a network drawn at random and with
/// frozen norms would diverge.
const LEARNING_RATE: f64 = 0.0;

/// Convolutions of RetinaNet-50 on an image of 256 pixels: head, C2, C2, C3, C5, stem.
const LAYERS: [Layer; 6] = [
    Layer::new(3, [256, 256], 1, 32),
    Layer::new(3, [64, 64], 1, 64),
    Layer::new(1, [64, 256], 1, 64),
    Layer::new(3, [128, 128], 2, 64),
    Layer::new(1, [2048, 512], 1, 8),
    Layer::new(7, [3, 64], 2, 256),
];

/// How long something took, each time.
#[derive(Serialize)]
pub(crate) struct Measurement {
    pub(crate) name: &'static str,
    pub(crate) what: String,
    seconds: Vec<f64>,
    pub(crate) median_s: f64,
    pub(crate) min_s: f64,
    pub(crate) max_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gflops: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) images_per_s: Option<f64>,
}

impl Measurement {
    fn new(workload: Workload, what: String, seconds: Vec<f64>) -> Self {
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self {
            name: workload.name(),
            what,
            median_s: 0.5 * (middle(last / 2) + middle(last.div_ceil(2))),
            min_s: middle(0),
            max_s: middle(last),
            seconds,
            gflops: None,
            images_per_s: None,
        }
    }

    /// Adds the rate of work of so many floating-point operations.
    fn with_operations(self, operations: f64) -> Self {
        Self {
            gflops: Some(operations / self.median_s / 1e9),
            ..self
        }
    }

    /// Adds the rate of work on so many images.
    fn with_images(self, images: usize) -> Self {
        Self {
            images_per_s: Some(images as f64 / self.median_s),
            ..self
        }
    }
}

/// The parts that the workloads share.
pub(crate) struct Bench<'a> {
    arguments: &'a BenchArguments,
    device: &'a Device,
    model: ModelConfig,
    data: Option<DataConfig>,
    generator: AnchorGenerator,
    assigner: TargetAssigner,
}

impl<'a> Bench<'a> {
    /// Checks the model's settings. `data` is what the loader loads.
    pub(crate) fn new(
        arguments: &'a BenchArguments,
        model: ModelConfig,
        data: Option<DataConfig>,
        device: &'a Device,
    ) -> Result<Self, Failure> {
        let assigner = TargetAssigner::new(&AssignerConfig::default(), BoxCoder::default());
        Ok(Self {
            generator: model.anchor_generator()?,
            assigner: assigner.map_err(Failure::usage)?,
            arguments,
            device,
            model,
            data,
        })
    }

    pub(crate) fn measure(&self, workload: Workload) -> Result<Vec<Measurement>, Failure> {
        Ok(match workload {
            Workload::Convolution => self.convolutions()?,
            Workload::Step => vec![self.step()?],
            Workload::Inference => vec![self.inference()?],
            Workload::Loader => self.loader()?.into_iter().collect(),
            Workload::Matcher => vec![self.matcher()?],
            Workload::Decode => vec![self.decode()?],
        })
    }

    fn convolutions(&self) -> Result<Vec<Measurement>, Failure> {
        let mut measurements = Vec::new();
        for layer in &LAYERS {
            measurements.push(self.convolution_forward(layer)?);
            measurements.push(self.convolution_with_gradients(layer)?);
        }
        Ok(measurements)
    }

    fn convolution_forward(&self, layer: &Layer) -> Result<Measurement, Failure> {
        self.device.seed(self.arguments.seed);
        let (input, weight) = layer.draw(self.device);
        let seconds = self.time(
            || (input.clone(), weight.clone()),
            |(input, weight)| Ok(conv2d(input, weight, None, layer.options())),
        )?;
        let what = format!("{} forward", layer.describe());
        Ok(Measurement::new(Workload::Convolution, what, seconds)
            .with_operations(layer.operations()))
    }

    /// Forward and the gradients of both input and weight.
    fn convolution_with_gradients(&self, layer: &Layer) -> Result<Measurement, Failure> {
        let device = self.device.clone().autodiff();
        device.seed(self.arguments.seed);
        let (input, weight) = layer.draw(&device);
        let (input, weight) = (input.require_grad(), weight.require_grad());
        let seconds = self.time(
            || (input.clone(), weight.clone()),
            |(input, weight)| {
                let output = conv2d(input.clone(), weight.clone(), None, layer.options());
                // From a gradient of ones: a loss would cost time of its own.
                let mut gradients = output.backward();
                let of_input = input.grad_remove(&mut gradients);
                let of_weight = weight.grad_remove(&mut gradients);
                Ok((output, of_input, of_weight))
            },
        )?;
        let what = format!("{} forward+backward", layer.describe());
        // Each gradient takes as many operations as the output.
        Ok(Measurement::new(Workload::Convolution, what, seconds)
            .with_operations(3.0 * layer.operations()))
    }

    fn step(&self) -> Result<Measurement, Failure> {
        let &BenchArguments {
            size,
            batch,
            classes,
            seed,
            ..
        } = self.arguments;
        let device = self.device.clone().autodiff();
        let model = self.model.init(classes, seed, &device)?;
        let criterion = CriterionConfig::default().init(PredictionForm::default());
        let mut learner = Learner::new(
            model,
            &OptimizerConfig::default(),
            criterion.map_err(Failure::usage)?,
        );
        let images = self.images(&device);
        let anchors = Arc::new(self.generator.generate(size.height, size.width));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let objects: Vec<Vec<GroundTruth>> = (0..batch)
            .map(|_| draw_objects(&mut rng, OBJECTS, size, classes))
            .collect();

        let seconds = self.time(
            || images.clone(),
            |images| {
                // Matching belongs to it, as in torchvision; in training the loader's workers do
                // that meanwhile.
                let targets: Vec<AnchorTargets> = (objects.iter())
                    .map(|objects| self.assigner.assign(&anchors, objects))
                    .collect();
                let batch = DeviceBatch {
                    images,
                    targets: BatchTargets::new(targets, Arc::clone(&anchors), &device),
                };
                let options = StepOptions::at(LEARNING_RATE);
                learner.step(&[batch], options).map_err(Failure::work)
            },
        )?;
        Ok(Measurement::new(Workload::Step, self.describe_model(), seconds).with_images(batch))
    }

    fn inference(&self) -> Result<Measurement, Failure> {
        let &BenchArguments {
            size,
            batch,
            classes,
            seed,
            ..
        } = self.arguments;
        let model = self.model.init(classes, seed, self.device)?.valid();
        let decoder = DecodeConfig::default().init(&ModelConfig::default());
        let images = self.images(self.device);
        let anchors = self.generator.generate(size.height, size.width);
        let sizes = vec![size.width_and_height(); batch];

        let seconds = self.time(
            || images.clone(),
            |images| Ok(decoder.decode(model.forward(images), &anchors, &sizes)),
        )?;
        let what = self.describe_model();
        Ok(Measurement::new(Workload::Inference, what, seconds).with_images(batch))
    }

    /// Nothing where there is no data.
    fn loader(&self) -> Result<Option<Measurement>, Failure> {
        let Some(data) = &self.data else {
            return Ok(None);
        };
        let &BenchArguments { batch, seed, .. } = self.arguments;
        let mut data = data.clone();
        if let Some(workers) = self.arguments.workers {
            data.loader.workers = Whole::new(workers).map_err(Failure::usage)?;
        }
        let dataset = data.read_train().map_err(Failure::work)?;
        let batches = dataset.images.len().min(MOST_IMAGES).div_ceil(batch);
        let loader = TrainLoader::new(
            Arc::new(dataset),
            data.loader,
            Batching {
                seed,
                ..Batching::of(Count::new(batch).map_err(Failure::usage)?)
            },
            data.transform().map_err(Failure::usage)?,
            self.generator.clone(),
            self.assigner,
        )
        .map_err(Failure::work)?;

        let seconds = self.time(
            || (),
            |()| {
                let mut values = 0;
                for batch in loader.start(0, batches as u64) {
                    values += batch.map_err(Failure::work)?.images.len();
                }
                Ok(values)
            },
        )?;
        let (images, resize) = (batches * batch, &data.transform.resize);
        let what = format!(
            "{images} images, sides {:?} to {}, batch {batch}, {} workers",
            resize.short_side.to_pixels(),
            resize.long_side,
            data.loader.workers
        );
        Ok(Some(
            Measurement::new(Workload::Loader, what, seconds).with_images(images),
        ))
    }

    fn matcher(&self) -> Result<Measurement, Failure> {
        let &BenchArguments { classes, seed, .. } = self.arguments;
        let anchors = self.generator.generate(COCO_SIZE.height, COCO_SIZE.width);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let objects = draw_objects(&mut rng, MANY_OBJECTS, COCO_SIZE, classes);
        let seconds = self.time(
            || (),
            |()| Ok(self.assigner.assign(&anchors, black_box(&objects))),
        )?;
        let what = format!("{COCO_SIZE}, {MANY_OBJECTS} boxes");
        Ok(Measurement::new(Workload::Matcher, what, seconds))
    }

    fn decode(&self) -> Result<Measurement, Failure> {
        let &BenchArguments { classes, seed, .. } = self.arguments;
        let decoder = DecodeConfig::default().init(&ModelConfig::default());
        let anchors = self.generator.generate(COCO_SIZE.height, COCO_SIZE.width);
        let level_anchors: Vec<usize> = (self
            .generator
            .feature_sizes(COCO_SIZE.height, COCO_SIZE.width))
        .iter()
        .map(|[rows, columns]| rows * columns * self.generator.anchors_per_cell())
        .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (logits, deltas) = draw_predictions(&mut rng, &anchors, classes);
        let logits = TensorData::new(logits, [1, anchors.len(), classes]);
        let deltas = TensorData::new(deltas, [1, anchors.len(), 4]);

        let seconds = self.time(
            // Tensors that nobody else holds, as a forward pass leaves them.
            || Predictions {
                logits: Tensor::from_data(logits.clone(), self.device),
                deltas: Tensor::from_data(deltas.clone(), self.device),
                level_anchors: level_anchors.clone(),
            },
            |predictions| {
                let sizes = [COCO_SIZE.width_and_height()];
                Ok(decoder.decode(predictions, &anchors, &sizes))
            },
        )?;
        let what = format!("{COCO_SIZE}, {classes} classes");
        Ok(Measurement::new(Workload::Decode, what, seconds))
    }

    /// The seconds that `work` takes on what `prepare` makes, each time but those to warm up.
    fn time<I, O>(
        &self,
        mut prepare: impl FnMut() -> I,
        mut work: impl FnMut(I) -> Result<O, Failure>,
    ) -> Result<Vec<f64>, Failure> {
        let &BenchArguments {
            warmup, repeats, ..
        } = self.arguments;
        let mut seconds = Vec::with_capacity(repeats);
        for round in 0..warmup + repeats {
            let input = prepare();
            // A GPU works on while the program goes on.
            self.device.sync().map_err(Failure::work)?;
            let started = Instant::now();
            let output = work(input)?;
            self.device.sync().map_err(Failure::work)?;
            let elapsed = started.elapsed();
            black_box(output);
            if round >= warmup {
                seconds.push(elapsed.as_secs_f64());
            }
        }
        Ok(seconds)
    }

    fn images(&self, device: &Device) -> Tensor<4> {
        let &BenchArguments {
            size, batch, seed, ..
        } = self.arguments;
        let shape = [batch, 3, size.height, size.width];
        device.seed(seed);
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    fn describe_model(&self) -> String {
        let BenchArguments {
            backbone,
            size,
            batch,
            ..
        } = self.arguments;
        format!("{backbone} {size} batch {batch}")
    }
}

/// A convolution of one image, without bias.
struct Layer {
    kernel: usize,
    /// In and out.
    channels: [usize; 2],
    stride: usize,
    /// Height and width of the input.
    side: usize,
}

impl Layer {
    const fn new(kernel: usize, channels: [usize; 2], stride: usize, side: usize) -> Self {
        Self {
            kernel,
            channels,
            stride,
            side,
        }
    }

    const fn options(&self) -> ConvOptions {
        ConvOptions::new(self.stride, self.kernel / 2)
    }

    /// Additions and multiplications of the output.
    fn operations(&self) -> f64 {
        let [channels_in, channels_out] = self.channels;
        let side_out = self.side.div_ceil(self.stride);
        let products = self.kernel.pow(2) * channels_in * channels_out * side_out.pow(2);
        2.0 * products as f64
    }

    /// Input, channels last, and weight.
    fn draw(&self, device: &Device) -> (Tensor<4>, Tensor<4>) {
        let &Self { kernel, side, .. } = self;
        let [channels_in, channels_out] = self.channels;
        let normal = Distribution::Normal(0.0, 1.0);
        let input = Tensor::random([1, side, side, channels_in], normal, device);
        let weight = Tensor::random([channels_out, channels_in, kernel, kernel], normal, device);
        (input, weight)
    }

    fn describe(&self) -> String {
        let &Self {
            kernel,
            channels: [channels_in, channels_out],
            stride,
            side,
        } = self;
        format!("{kernel}x{kernel} {channels_in}->{channels_out} s{stride} {side}x{side}")
    }
}

/// Objects anywhere on the image, their sides evenly spread in the logarithm, clipped to it.
fn draw_objects(
    rng: &mut ChaCha8Rng,
    count: usize,
    size: ImageSize,
    classes: usize,
) -> Vec<GroundTruth> {
    let (width, height) = (size.width as f32, size.height as f32);
    let (smallest, factor) = OBJECT_SIDES;
    (0..count)
        .map(|_| {
            let [x, y, w, h] = std::array::from_fn(|_| rng.random::<f32>());
            let [w, h] = [w, h].map(|exponent| smallest * factor.powf(exponent));
            GroundTruth {
                bbox: BoundingBox::from_center(x * width, y * height, w, h).clip(width, height),
                class: ClassId(rng.random_range(0..classes as u32)),
                crowd: false,
            }
        })
        .collect()
}

/// Logits `[anchors, classes]` and deltas `[anchors, 4]` as of a model that has learnt: a
/// background about the prior, and high scores for what overlaps some object.
fn draw_predictions(
    rng: &mut ChaCha8Rng,
    anchors: &[BoundingBox],
    classes: usize,
) -> (Vec<f32>, Vec<f32>) {
    let objects = draw_objects(rng, CLUSTERS, COCO_SIZE, classes);
    let mut logits: Vec<f32> = (0..anchors.len() * classes)
        .map(|_| BACKGROUND_LOGIT + normal(rng))
        .collect();
    let mut deltas: Vec<f32> = (0..anchors.len() * 4).map(|_| 0.1 * normal(rng)).collect();
    let coder = BoxCoder::default();
    for object in objects {
        for (index, anchor) in anchors.iter().enumerate() {
            let iou = anchor.iou(&object.bbox);
            if iou <= CLUSTER_IOU {
                continue;
            }
            // From -1 at the cluster's edge to 5 on the object itself.
            let closeness = (iou - CLUSTER_IOU) / (1.0 - CLUSTER_IOU);
            logits[index * classes + object.class.0 as usize] = 6.0 * closeness - 1.0 + normal(rng);
            let exact = coder.encode(anchor, &object.bbox);
            for (delta, exact) in deltas[4 * index..].iter_mut().zip(exact) {
                *delta = exact + 0.05 * normal(rng);
            }
        }
    }
    (logits, deltas)
}

/// A number of mean 0 and deviation 1, by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // In (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (TAU * rng.random::<f32>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        let median = |seconds: &[f64]| {
            Measurement::new(Workload::Step, String::new(), seconds.to_vec()).median_s
        };
        assert_eq!(median(&[5.0]), 5.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn operations_are_counted_on_the_output() {
        // 9 · 128 · 128 products for each of 32 × 32 outputs, each a product and a sum.
        let layer = Layer::new(3, [128, 128], 2, 64);
        assert_eq!(layer.operations(), 301_989_888.0);
    }

    #[test]
    fn objects_lie_on_the_image() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let size = ImageSize {
            height: 50,
            width: 80,
        };
        for object in draw_objects(&mut rng, 1000, size, 3) {
            assert!(object.bbox.is_proper(), "{object:?}");
            assert_eq!(object.bbox.clip(80.0, 50.0), object.bbox);
            assert!(object.class.0 < 3);
        }
    }
}
