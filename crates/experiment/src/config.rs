//! The experiment as its TOML file writes it. Every key has a default; see `layers` for how files
//! build on each other, and `plan` for the checks.

use std::path::PathBuf;

use retinanet_anchors::MatcherConfig;
use retinanet_criterion::{BoxLossConfig, ClassLossConfig, NormalizerKind, SamplingConfig};
use retinanet_data::shapes::ShapesConfig;
use retinanet_data::{LabelIds, OnBadImage, ResizeConfig};
use retinanet_detector::{DecodeConfig, ModelConfig};
use retinanet_images::{Interpolation, MAX_PIXELS, Normalization, SizeRounding};
use serde::{Deserialize, Deserializer, Serialize};

pub use retinanet_data::AugmentConfig;

use crate::presets::Preset;
use crate::training_config::{OptimizerConfig, ScheduleConfig, TrainConfig};

/// A whole experiment. The defaults are the paper's recipe as detectron2 runs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExperimentConfig {
    /// Whose settings this config starts from; before all that files and `--set` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Seed of the weights, of the order of the images and of their augmentation.
    pub seed: u64,
    /// Where the data lies and how images are prepared.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// The loss and which anchors it counts.
    pub criterion: CriterionSection,
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

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// The folder that the other paths start from; itself relative to where the program is
    /// started.
    pub root: PathBuf,
    /// What is trained on.
    pub train: SplitConfig,
    /// What is evaluated on.
    pub val: SplitConfig,
    /// Length of the shorter side in pixels, or several of which one is sampled for each training
    /// image.
    #[serde(deserialize_with = "one_or_many")]
    pub short_side: Vec<u32>,
    /// Limit of the longer side in pixels.
    pub long_side: u32,
    /// Length of the shorter side outside training; the largest of `short_side` where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_short_side: Option<u32>,
    /// How pixels of the resized image are computed.
    pub interpolation: Interpolation,
    /// How the sides of the resized image become whole numbers.
    pub size_rounding: SizeRounding,
    /// How training images vary.
    pub augment: AugmentConfig,
    /// How pixels become numbers.
    pub normalization: Normalization,
    /// How categories become class indices.
    pub labels: LabelIds,
    /// Whether training sees images without boxes, as background.
    pub keep_empty: bool,
    /// Trains more often on images with a class that less than this share of the images has, in
    /// (0, 1]: √(threshold ÷ share) times an epoch, for the rarest class of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_threshold: Option<f64>,
    /// Whether a training batch holds only images that are wider than high or only others.
    pub group_by_aspect: bool,
    /// Batches are padded to a multiple of this in width and height, in pixels.
    pub size_divisor: u32,
    /// Where given, batches are padded to one of these widths and heights, in pixels, so that a
    /// GPU's kernels are tuned once for each.
    pub batch_shapes: Vec<[u32; 2]>,
    /// What training and evaluation do about an image that cannot be read.
    pub on_bad_image: OnBadImage,
    /// The most megapixels that an image may have: a small file can unpack to gigabytes.
    pub max_megapixels: u64,
    /// The values of 16-bit images that become black and white, such as `[300, 900]`; `[0, 65535]` where not
    /// given. `dataset check` names the range of images that come out nearly black.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_16_bit: Option<[u16; 2]>,
    /// Threads that prepare images; 0 prepares them between the steps.
    pub workers: usize,
    /// Batches that are under way or ready at once, at most; twice `workers` where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<usize>,
    /// Mebibytes of decoded images that stay in memory, so that training decodes them once.
    pub cache_mib: u64,
    /// Where given, the built-in shapes data set is rendered into `root` unless it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synth: Option<ShapesConfig>,
}

impl Default for DataConfig {
    fn default() -> Self {
        let resize = ResizeConfig::default();
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
            short_side: resize.short_side,
            long_side: resize.long_side,
            eval_short_side: resize.eval_short_side,
            interpolation: resize.interpolation,
            size_rounding: resize.size_rounding,
            labels: LabelIds::default(),
            augment: AugmentConfig::default(),
            normalization: Normalization::default(),
            keep_empty: true,
            repeat_threshold: None,
            group_by_aspect: true,
            size_divisor: 32,
            batch_shapes: Vec::new(),
            on_bad_image: OnBadImage::Stop,
            range_16_bit: None,
            max_megapixels: MAX_PIXELS.div_ceil(1_000_000),
            workers: 2,
            prefetch: None,
            cache_mib: 0,
            synth: None,
        }
    }
}

/// `[data.train]`, `[data.val]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// The COCO instances JSON file, relative to `data.root`.
    pub annotations: PathBuf,
    /// The folder of the images, relative to `data.root`. Default: `images`.
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

/// `[criterion]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CriterionSection {
    /// The loss over classes.
    pub class: ClassLossConfig,
    /// The loss over boxes.
    #[serde(rename = "box")]
    pub bbox: BoxLossConfig,
    /// Which anchors are positive, negative or ignored.
    pub matcher: MatcherConfig,
    /// Which of them the loss counts over.
    pub sampling: SamplingConfig,
    /// What the losses are divided by.
    pub normalizer: NormalizerKind,
}

/// `[compute]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ComputeConfig {
    /// What computes, as `--device`: `flex` is the CPU, `wgpu` the GPU.
    pub device: String,
    /// Threads of the CPU; all cores where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Whether 3×3 convolutions on the CPU may go by Winograd's algorithm: faster, and exact to
    /// about 1e-5 of the largest output instead of 1e-6.
    pub winograd: bool,
    /// Whether what is cheap to compute, such as activations between convolutions, is computed anew
    /// in the backward pass instead of kept: less memory on GPUs, the same numbers. On the CPU
    /// nothing of the kind is kept anyway.
    pub gradient_checkpointing: bool,
}

impl Default for ComputeConfig {
    fn default() -> Self {
        Self {
            device: "flex".to_owned(),
            threads: None,
            winograd: true,
            gradient_checkpointing: false,
        }
    }
}

/// Lets a list with one entry be written without brackets.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "expected a whole number or a list of whole numbers"
    )]
    enum OneOrMany {
        One(u32),
        Many(Vec<u32>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    })
}
