//! What `retinanet bench` measures, on random weights, images and boxes.
//!
//! `scripts/bench_vs_torchvision.py` has torchvision do the same work, on cases sampled the same way.

mod cases;
#[cfg(feature = "gpu")]
mod device_work;
mod error;
mod layer;
mod layers;
mod measurement;
mod roof;
mod size;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use retinanet_anchors::{AnchorGenerator, ImagePredictions, TargetAssigner};
use retinanet_boxes::{AnchorTargets, BoundingBox, GroundTruth};
use retinanet_convolution::{InputHistograms, KeptWeights, Quantization, conv2d};
use retinanet_criterion::BatchTargets;
use retinanet_data::{Batching, TrainLoader};
use retinanet_detector::{
    DecodeConfig, ModelConfig, Precision, Predictions, images_to_device, pixel_form,
};
use retinanet_experiment::{DataConfig, ExperimentConfig, OptimizerConfig};
use retinanet_images::{PixelData, PixelForm};
use retinanet_settings::Count;
use retinanet_trainer::{DeviceBatch, Learner, StepOptions};

use crate::cases::{noise, sample_objects, sample_predictions};
use crate::layer::{LAYERS, Layer};

pub use crate::error::BenchmarkError;
use crate::measurement::Timing;
pub use crate::measurement::{DeviceWork, Measurement};
pub use crate::size::{ImageSize, ImageSizeError};

/// Objects on each image of a training step; COCO has 7.
const OBJECTS: usize = 7;
/// What COCO's images become at most.
const COCO_SIZE: ImageSize = ImageSize {
    height: 800,
    width: 1333,
};
/// Images that the loader loads in one go, at most.
const MOST_IMAGES: usize = 256;
/// The steps do the work of an update and stay where they are: a network with random weights and
/// frozen norms would diverge.
const LEARNING_RATE: f64 = 0.0;

/// What is measured on, and how often.
#[derive(Clone, Debug)]
pub struct BenchmarkOptions {
    /// The network, the loss, the assigner and the decoding.
    pub config: ExperimentConfig,
    /// What that is called.
    pub name: String,
    /// The precision of the maps in a step and in inference, which the device must have.
    pub precision: Precision,
    /// The size of the images of a step and of inference.
    pub size: ImageSize,
    /// Images at once.
    pub batch: usize,
    /// Classes that the model tells apart.
    pub classes: usize,
    /// Objects that [`Benchmark::matcher`] matches.
    pub objects: usize,
    /// How often each thing is measured.
    pub repeats: usize,
    /// How often each thing is done before it is measured.
    pub warmup: usize,
    /// The seed of the weights, the images and the boxes.
    pub seed: u64,
}

/// The parts that the workloads share.
pub struct Benchmark<'a> {
    options: BenchmarkOptions,
    device: &'a Device,
    generator: AnchorGenerator,
    assigner: TargetAssigner,
}

impl<'a> Benchmark<'a> {
    /// A benchmark on a device.
    ///
    /// # Errors
    /// If the model's settings do not fit each other.
    pub fn new(options: BenchmarkOptions, device: &'a Device) -> Result<Self, BenchmarkError> {
        Ok(Self {
            generator: options.config.model.anchor_generator()?,
            assigner: options.config.target_assigner()?,
            options,
            device,
        })
    }

    /// Whether a GPU computes.
    pub fn is_on_gpu(&self) -> bool {
        pixel_form(self.device) == PixelForm::Bytes
    }

    /// Single convolutions, forward and with their gradients.
    ///
    /// # Errors
    /// If the device fails.
    pub fn convolutions(&self) -> Result<Vec<Measurement>, BenchmarkError> {
        let mut measurements = Vec::new();
        for layer in &LAYERS {
            measurements.push(self.convolution_forward(layer)?);
            measurements.push(self.convolution_with_gradients(layer)?);
        }
        Ok(measurements)
    }

    fn convolution_forward(&self, layer: &Layer) -> Result<Measurement, BenchmarkError> {
        self.device.seed(self.options.seed);
        let (input, weight) = layer.sample(self.device);
        let timing = self.time(
            || (input.clone(), weight.clone()),
            |(input, weight)| Ok(conv2d(input, weight, None, layer.options())),
        )?;
        let what = format!("{} forward", layer.describe());
        Ok(Measurement::new("convolution", what, timing).with_operations(layer.operations()))
    }

    /// Forward and the gradients of both input and weight.
    fn convolution_with_gradients(&self, layer: &Layer) -> Result<Measurement, BenchmarkError> {
        let device = self.device.clone().autodiff();
        device.seed(self.options.seed);
        let (input, weight) = layer.sample(&device);
        let (input, weight) = (input.require_grad(), weight.require_grad());
        let timing = self.time(
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
        Ok(Measurement::new("convolution", what, timing).with_operations(3.0 * layer.operations()))
    }

    /// A training step: targets, forward, loss, backward, update.
    ///
    /// # Errors
    /// If there is no such model, or the step fails.
    pub fn step(&self) -> Result<Measurement, BenchmarkError> {
        let BenchmarkOptions {
            size,
            batch,
            classes,
            seed,
            ..
        } = self.options;
        let device = self.device.clone().autodiff();
        let config = &self.options.config;
        let model = config.model.init(classes, seed, &device)?;
        let model = model
            .with_precision(self.options.precision)
            .with_gradient_checkpointing(config.compute.gradient_checkpointing);
        let criterion = config.criterion_for(&vec![1; classes])?;
        let mut learner = Learner::new(model, &OptimizerConfig::default(), criterion);
        let images = self.images(&device);
        let anchors = Arc::new(self.generator.generate(size.height, size.width));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let objects: Vec<Vec<GroundTruth>> = (0..batch)
            .map(|_| sample_objects(&mut rng, OBJECTS, size, classes))
            .collect();

        let timing = self.time(
            || (),
            |()| {
                // Matching belongs to it, as in torchvision; in training the loader's workers do
                // that meanwhile.
                let targets: Vec<AnchorTargets> = (objects.iter())
                    .map(|objects| self.assigner.assign(&anchors, objects))
                    .collect();
                let batch = DeviceBatch {
                    images: images(),
                    targets: BatchTargets::new(targets, Arc::clone(&anchors), &device),
                };
                let options = StepOptions::at(LEARNING_RATE);
                Ok(learner.step(&[batch], options)?)
            },
        )?;
        Ok(Measurement::new("step", self.describe_model(), timing).with_images(batch))
    }

    /// The way of images to detections: forward, decoding, non-maximum suppression.
    ///
    /// # Errors
    /// If there is no such model, or the device fails.
    pub fn inference(&self) -> Result<Measurement, BenchmarkError> {
        self.inference_in("inference", false)
    }

    /// The same in eight bits, with input ranges of the measured images, on the CPU.
    ///
    /// # Errors
    /// If there is no such model, or the device is a GPU.
    pub fn quantized(&self) -> Result<Measurement, BenchmarkError> {
        if self.is_on_gpu() {
            return Err(BenchmarkError::EightBits);
        }
        self.inference_in("int8", true)
    }

    fn inference_in(
        &self,
        name: &'static str,
        eight_bits: bool,
    ) -> Result<Measurement, BenchmarkError> {
        let BenchmarkOptions {
            size,
            batch,
            classes,
            seed,
            ..
        } = self.options;
        let config = &self.options.config;
        let model = config.model.init(classes, seed, self.device)?;
        let model = model.valid().with_precision(self.options.precision);
        let decoder = config.decoder();
        let images = self.images(self.device);
        let anchors = self.generator.generate(size.height, size.width);
        let sizes = vec![size.width_and_height(); batch];

        let quantization = eight_bits.then(|| {
            let mut histograms = InputHistograms::default();
            histograms.observe(|| model.forward(images()));
            Quantization::new(&histograms.ranges())
        });
        let kept_weights = KeptWeights::default();
        let forward = || match &quantization {
            Some(quantization) => quantization.run(|| model.forward(images())),
            None => kept_weights.run(|| model.forward(images())),
        };
        let timing = self.time(|| (), |()| Ok(decoder.decode(forward(), &anchors, &sizes)))?;
        let what = self.describe_model();
        Ok(Measurement::new(name, what, timing).with_images(batch))
    }

    /// Loading batches from the files of a data set.
    ///
    /// # Errors
    /// If the data's settings are wrong, or its files cannot be read.
    pub fn loader(&self, data: &DataConfig) -> Result<Measurement, BenchmarkError> {
        let BenchmarkOptions { batch, seed, .. } = self.options;
        let dataset = data.read_train()?;
        let batches = dataset.images.len().min(MOST_IMAGES).div_ceil(batch);
        let loader = TrainLoader::new(
            Arc::new(dataset),
            data.loader,
            Batching {
                seed,
                ..Batching::of(Count::new(batch)?)
            },
            data.transform()?,
            self.generator.clone(),
            self.assigner,
        )?;

        let timing = self.time(
            || (),
            |()| {
                let mut values = 0;
                for batch in loader.start(0, batches as u64) {
                    values += black_box(batch?.images).numbers().len();
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
        Ok(Measurement::new("loader", what, timing).with_images(images))
    }

    /// Targets for an image of 800×1333 pixels; where they go by predictions, of some.
    ///
    /// # Errors
    /// If the device fails.
    pub fn matcher(&self) -> Result<Measurement, BenchmarkError> {
        let BenchmarkOptions {
            classes,
            objects: count,
            seed,
            ..
        } = self.options;
        let anchors = self.generator.generate(COCO_SIZE.height, COCO_SIZE.width);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let objects = sample_objects(&mut rng, count, COCO_SIZE, classes);
        let (values, coder) = (
            self.options.config.model.values_per_anchor(),
            self.options.config.model.box_coder.init(),
        );
        let own = |anchor: &BoundingBox| {
            let mut own = coder.encode(anchor, anchor).to_vec();
            own.resize(values, 0.0);
            own
        };
        let boxes: Vec<f32> = anchors.iter().flat_map(own).collect();
        let logits = vec![0.0; anchors.len() * classes];
        let predictions = ImagePredictions {
            logits: &logits,
            boxes: &boxes,
            classes,
            values,
        };
        let timing = self.time(
            || (),
            |()| {
                let targets = self.assigner.assign(&anchors, black_box(&objects));
                let predicted =
                    (self.assigner).assign_predicted(&anchors, &targets.objects, predictions);
                Ok(predicted.unwrap_or(targets))
            },
        )?;
        let what = format!("{COCO_SIZE}, {count} boxes");
        Ok(Measurement::new("matcher", what, timing))
    }

    /// Decoding of the paper's deltas and non-maximum suppression for an image of 800×1333 pixels.
    ///
    /// # Errors
    /// If the device fails.
    pub fn decode(&self) -> Result<Measurement, BenchmarkError> {
        let BenchmarkOptions { classes, seed, .. } = self.options;
        let decoder = DecodeConfig::default().init(&ModelConfig::default());
        let anchors = self.generator.generate(COCO_SIZE.height, COCO_SIZE.width);
        let level_anchors: Vec<usize> = (self
            .generator
            .feature_sizes(COCO_SIZE.height, COCO_SIZE.width))
        .iter()
        .map(|[rows, columns]| rows * columns * self.generator.anchors_per_cell())
        .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (logits, deltas) = sample_predictions(&mut rng, &anchors, COCO_SIZE, classes);
        let logits = TensorData::new(logits, [1, anchors.len(), classes]);
        let deltas = TensorData::new(deltas, [1, anchors.len(), 4]);

        let timing = self.time(
            // Tensors that nobody else holds, as a forward pass leaves them.
            || Predictions {
                logits: Tensor::from_data(logits.clone(), self.device),
                boxes: Tensor::from_data(deltas.clone(), self.device),
                level_anchors: level_anchors.clone(),
            },
            |predictions| {
                let sizes = [COCO_SIZE.width_and_height()];
                Ok(decoder.decode(predictions, &anchors, &sizes))
            },
        )?;
        let what = format!("{COCO_SIZE}, {classes} classes");
        Ok(Measurement::new("decode", what, timing))
    }

    /// The time that `work` takes on what `prepare` makes, each time but those to warm up.
    fn time<I, O>(
        &self,
        mut prepare: impl FnMut() -> I,
        mut work: impl FnMut(I) -> Result<O, BenchmarkError>,
    ) -> Result<Timing, BenchmarkError> {
        let BenchmarkOptions {
            warmup, repeats, ..
        } = self.options;
        let mut seconds = Vec::with_capacity(repeats);
        #[cfg(feature = "gpu")]
        let mut counter = None;
        for round in 0..warmup + repeats {
            #[cfg(feature = "gpu")]
            if round == warmup {
                counter = device_work::Counter::start(self.device);
            }
            let input = prepare();
            // A GPU works on while the program goes on.
            self.device.sync()?;
            let started = Instant::now();
            let output = work(input)?;
            self.device.sync()?;
            let elapsed = started.elapsed();
            black_box(output);
            if round >= warmup {
                seconds.push(elapsed.as_secs_f64());
            }
        }
        Ok(Timing {
            seconds,
            #[cfg(feature = "gpu")]
            device: counter.map(|counter| counter.stop(repeats)),
            #[cfg(not(feature = "gpu"))]
            device: None,
        })
    }

    /// Images of noise, as a batch brings them: a GPU is handed bytes.
    fn images(&self, device: &Device) -> impl Fn() -> Tensor<4> {
        let BenchmarkOptions {
            size, batch, seed, ..
        } = self.options;
        let device = device.clone();
        let bytes = noise(&mut ChaCha8Rng::seed_from_u64(seed), size, batch);
        let on_cpu = (pixel_form(&device) == PixelForm::Numbers).then(|| {
            let shape = [batch, 3, size.height, size.width];
            device.seed(seed);
            Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device)
        });
        let shape = [batch, size.height, size.width];
        let from_bytes =
            move || images_to_device(&mut PixelData::Bytes(bytes.clone()), shape, &device);
        move || on_cpu.clone().unwrap_or_else(&from_bytes)
    }

    fn describe_model(&self) -> String {
        let BenchmarkOptions {
            name,
            size,
            batch,
            precision,
            ..
        } = &self.options;
        let what = format!("{name} {size} batch {batch}");
        match precision {
            Precision::F32 => what,
            half => format!("{what} {half}"),
        }
    }
}
