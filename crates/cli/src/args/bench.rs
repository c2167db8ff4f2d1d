//! The arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use retinanet_benchmark::ImageSize;
use retinanet_settings::Whole;

use super::from_1_to;

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// Only this, as often as needed; everything that has its data if not given
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) only: Vec<Workload>,
    /// MLPerf's network and sizes: ResNeXt-50 32x4d, 800x800, 264 classes, frozen norms; a step and inference, and what
    /// came of them in MLPerf's words
    #[arg(long, conflicts_with_all = ["config", "backbone", "norm", "freeze_at", "size", "classes"])]
    pub(crate) mlperf: bool,
    /// A config, whose network, loss, assigner and decoding are measured in place of the paper's
    #[arg(long, value_name = "CONFIG", conflicts_with_all = ["backbone", "norm", "freeze_at"])]
    pub(crate) config: Option<PathBuf>,
    /// The residual network, as `model.backbone`
    #[arg(long, default_value = "resnet50")]
    pub(crate) backbone: String,
    /// The backbone's normalisation, as `model.norm`
    #[arg(long, default_value = "frozen_batch_norm")]
    pub(crate) norm: String,
    /// How many of stem, C2, C3, C4 and C5 do not train, as `model.freeze_at`
    #[arg(long, value_name = "STAGES", default_value_t = Whole::literal(2))]
    pub(crate) freeze_at: Whole<0, 5>,
    /// Whether the step computes layers anew in its backward pass, as `compute.gradient_checkpointing`
    #[arg(long, conflicts_with_all = ["config", "mlperf"])]
    pub(crate) gradient_checkpointing: bool,
    /// Side of the images in pixels, or height and width: 800x1333
    #[arg(long, default_value = "512")]
    pub(crate) size: ImageSize,
    /// Images at once
    #[arg(long, value_parser = from_1_to::<1_024>, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Classes that the model tells apart
    #[arg(long, value_parser = from_1_to::<10_000>, default_value_t = 91)]
    pub(crate) classes: usize,
    /// For the matcher: boxes on the image
    #[arg(long, value_name = "COUNT", value_parser = from_1_to::<10_000>, default_value_t = 100)]
    pub(crate) objects: usize,
    /// How often each thing is measured
    #[arg(long, value_parser = from_1_to::<65_536>, default_value_t = 10)]
    pub(crate) repeats: usize,
    /// How often each thing is done before it is measured
    #[arg(long, default_value_t = 2)]
    pub(crate) warmup: usize,
    /// Seed of the weights, the images and the boxes
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Threads of the CPU; all cores if not given
    #[arg(long, value_parser = from_1_to::<1_024>)]
    pub(crate) threads: Option<usize>,
    /// What computes: flex (the CPU), wgpu (the GPU), wgpu:1 (the second GPU)
    #[arg(long, default_value = "flex")]
    pub(crate) device: String,
    /// The floats of a step, of inference and of layers, as `compute.precision`
    #[arg(long, default_value = "f32")]
    pub(crate) precision: String,
    /// For the loader: a config, whose training images are loaded as it says
    #[arg(long, value_name = "CONFIG", conflicts_with = "annotations")]
    pub(crate) data: Option<PathBuf>,
    /// For the loader: a COCO annotation file; needs --images
    #[arg(long, value_name = "FILE", requires = "images")]
    pub(crate) annotations: Option<PathBuf>,
    /// For the loader: the folder of the images; needs --annotations
    #[arg(long, value_name = "DIR", requires = "annotations")]
    pub(crate) images: Option<PathBuf>,
    /// For the loader: threads that prepare images; the config's, or 2, if not given
    #[arg(long)]
    pub(crate) workers: Option<Whole<0, 256>>,
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `bench` can measure.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Single convolutions, forward and with their gradients
    Convolution,
    /// Each layer of the network by itself, beside what the machine can do; only where it is asked for
    Layers,
    /// A training step: targets, forward, loss, backward, update
    Step,
    /// An image's way to detections: forward, decoding, non-maximum suppression
    Inference,
    /// The same in eight bits, as `export --quantize` has it, on the CPU; only where it is asked for
    Int8,
    /// Batches from a data set's files; needs --data, or --annotations and --images
    Loader,
    /// Targets for an image of 800x1333, with --objects boxes
    Matcher,
    /// Decoding of the paper's deltas and non-maximum suppression for an image of 800x1333
    Decode,
}
