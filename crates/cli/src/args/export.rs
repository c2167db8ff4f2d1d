//! The arguments of `export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{from_1_to, share, ModelArguments};

#[derive(Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// The file's format
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    pub(crate) format: Format,
    /// Whose names the tensors get
    #[arg(long, value_enum, default_value_t = ExportNames::Native)]
    pub(crate) names: ExportNames,
    /// The backbone alone, for `model.pretrained` of another detector
    #[arg(long, conflicts_with = "names")]
    pub(crate) backbone: bool,
    /// Leaves out the backbone's last stage: it starts afresh where the file is loaded
    #[arg(long, requires = "backbone")]
    pub(crate) without_c5: bool,
    /// Writes weights in half precision: the backbone's, those of a page, or of convolutions in a graph
    #[arg(long)]
    pub(crate) half: bool,
    #[command(flatten)]
    pub(crate) quantization: QuantizeArguments,
    #[command(flatten)]
    pub(crate) graph: GraphArguments,
    /// The file, or for a page the folder
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// How a model is written in eight bits.
#[derive(Clone, Copy, Args)]
pub(crate) struct QuantizeArguments {
    /// Writes the weights of convolutions in eight bits, a quarter of the size, with what `eval`, `predict` and `serve` need
    /// to compute in eight bits on a CPU; AP on the config's validation images is measured before and after
    #[arg(long)]
    pub(crate) quantize: bool,
    /// Training images, evenly spread, that tell which values the convolutions are given
    #[arg(long, value_name = "COUNT", default_value_t = 64, requires = "quantize", value_parser = from_1_to::<65_536>)]
    pub(crate) calibration_images: usize,
    /// The most AP that may be lost; with more, nothing is written
    #[arg(long, value_name = "AP", default_value_t = 0.01, requires = "quantize", value_parser = share)]
    pub(crate) most_lost: f32,
}

/// How a graph is written.
#[derive(Clone, Copy, Args)]
pub(crate) struct GraphArguments {
    /// What a graph's pixels are made of, in [0, 255]; bytes if not given
    #[arg(long, value_enum)]
    pub(crate) input: Option<GraphInput>,
    /// A graph that gives logits, deltas and anchors, for what decodes and suppresses by itself
    #[arg(long)]
    pub(crate) raw: bool,
    /// Folds batch norms into the convolutions before them
    #[arg(long)]
    pub(crate) fold: bool,
    /// Runs the graph beside the detector first, and writes nothing if they differ; for builds with the feature `tract`
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum GraphInput {
    /// Bytes
    Uint8,
    /// Single precision
    Float32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Hugging Face's format, which most programs read
    Safetensors,
    /// Burn's own format
    Burnpack,
    /// A graph from pixels to detections, for onnxruntime, OpenVINO, TensorRT and others
    Onnx,
    /// A folder with a page that runs the detector in the reader's browser
    Web,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ExportNames {
    /// This program's; `eval` and `predict` take the file with the model's config
    Native,
    /// torchvision's, to load with `strict=True`
    Torchvision,
    /// detectron2's
    Detectron2,
}
