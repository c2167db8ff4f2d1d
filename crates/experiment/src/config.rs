//! The experiment as its TOML file writes it. Every key has a default; a section is the struct of the crate that uses
//! it, which documents and bounds its keys. See `layers` for how files build on each other, `checks` for the rules
//! across sections, and `keys` for the table of all keys.

use std::path::PathBuf;

use retinanet_criterion::CriterionConfig;
use retinanet_data::{LabelIds, LoaderConfig, TransformConfig};
use retinanet_detector::{DecodeConfig, ModelConfig, Precision};
use retinanet_images::DecodingConfig;
use retinanet_settings::{MOST, Whole};
use retinanet_shapes::ShapesConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::presets::Preset;
use crate::training_config::{OptimizerConfig, ScheduleConfig, TrainConfig};

/// A whole experiment. The defaults are the paper's recipe as detectron2 runs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExperimentConfig {
    /// Whose settings this config starts from; before all that files and `--set` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Seed of the weights, of the order of the images and of their augmentation.
    pub seed: Whole<0, MOST>,
    /// Where the data is located and how images are prepared.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// The loss and which anchors it counts.
    pub criterion: CriterionConfig,
    /// How gradients move the weights.
    pub optimizer: OptimizerConfig,
    /// How the learning rate goes.
    pub schedule: ScheduleConfig,
    /// How long, and what happens every so often.
    pub train: TrainConfig,
    /// How predictions become detections.
    pub eval: DecodeConfig,
    /// What computes.
    pub compute: ComputeConfig,
}

impl Default for ExperimentConfig {
    fn default() -> Self {
        Self {
            preset: None,
            seed: Whole::literal(0),
            data: DataConfig::default(),
            model: ModelConfig::default(),
            criterion: CriterionConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            train: TrainConfig::default(),
            eval: DecodeConfig::default(),
            compute: ComputeConfig::default(),
        }
    }
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DataConfig {
    /// The folder that the other paths start from; itself relative to where the program is
    /// started.
    pub root: PathBuf,
    /// What is trained on.
    pub train: SplitConfig,
    /// What is evaluated on.
    pub val: SplitConfig,
    /// How categories become class indices.
    pub labels: LabelIds,
    /// Whether training sees images without boxes, as background.
    pub keep_empty: bool,
    /// What image files are taken.
    #[serde(flatten)]
    pub decoding: DecodingConfig,
    /// How images become numbers.
    #[serde(flatten)]
    pub transform: TransformConfig,
    /// How batches are loaded.
    #[serde(flatten)]
    pub loader: LoaderConfig,
    /// Where given, the built-in shapes data set is rendered into `root` unless it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synth: Option<ShapesConfig>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("."),
            train: SplitConfig {
                annotations: "train.json".into(),
                images: "images".into(),
            },
            val: SplitConfig {
                annotations: "val.json".into(),
                images: "images".into(),
            },
            labels: LabelIds::default(),
            keep_empty: true,
            decoding: DecodingConfig::default(),
            transform: TransformConfig::default(),
            loader: LoaderConfig::default(),
            synth: None,
        }
    }
}

/// `[data.train]`, `[data.val]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// The COCO instances JSON file, relative to `root`.
    pub annotations: PathBuf,
    /// The folder of the images, relative to `root`.
    pub images: PathBuf,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            annotations: PathBuf::new(),
            images: "images".into(),
        }
    }
}

/// `[compute]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ComputeConfig {
    /// What computes, as `--device`: `flex` is the CPU, `wgpu` the GPU.
    pub device: String,
    /// The floats of the maps between layers and of what convolutions multiply, where the GPU has them; weights, losses
    /// and sums are f32 in any case. On CPUs with AVX512-BF16 or AMX-BF16, `bf16` is for what convolutions multiply
    /// that do not go by Winograd's algorithm.
    pub precision: Precision,
    /// Threads of the CPU; all cores if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<Whole<1, 1024>>,
    /// Whether 3×3 convolutions on the CPU may go by Winograd's algorithm: faster, and exact to
    /// about 1e-5 of the largest output instead of 1e-6.
    pub winograd: bool,
    /// Whether the backward pass computes layers anew and does not keep what they gave (Chen et al. 2016): the same
    /// numbers with 0.6 of the memory in 1.3 of the time (ResNet-50 on two images of 800×1333). Where norms' statistics
    /// move (`batch_norm`, `sync_batch_norm`), only what is cheap is computed anew, on GPUs.
    pub gradient_checkpointing: bool,
}

impl Default for ComputeConfig {
    fn default() -> Self {
        Self {
            device: "flex".to_owned(),
            precision: Precision::default(),
            threads: None,
            winograd: true,
            gradient_checkpointing: false,
        }
    }
}
