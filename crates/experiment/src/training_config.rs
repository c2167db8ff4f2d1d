//! `[optimizer]`, `[schedule]` and `[train]`.

use retinanet_evaluation::Metrics;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `[optimizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which optimiser.
    pub name: OptimizerName,
    /// The learning rate at its height, for batches of `reference_batch` images; with others it is
    /// in proportion.
    pub lr: f64,
    /// The batch size that `lr` is for (the linear rule of Goyal et al. 2017).
    pub reference_batch: usize,
    /// Factor on the learning rate of the backbone.
    pub backbone_lr_factor: f64,
    /// How much of the last step goes on.
    pub momentum: f64,
    /// Penalty on all weights and biases but those of norms.
    pub weight_decay: f64,
    /// Penalty on scales and biases of norms.
    pub norm_weight_decay: f64,
    /// Penalty on biases, but those of norms; `weight_decay` where not given. 0 in Detectron.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias_weight_decay: Option<f64>,
    /// Factor on the learning rate of biases, but those of norms; 2 in Detectron.
    pub bias_lr_factor: f64,
    /// Where given, the gradients' norm over all parameters is cut to this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

/// The optimisers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerName {
    /// Stochastic gradient descent with momentum, as PyTorch's.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019); `momentum` is its β₁, β₂ is
    /// 0.999. Learns faster from scratch; its learning rates are about 1e-3.
    Adamw,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: OptimizerName::Sgd,
            lr: 0.01,
            reference_batch: 16,
            backbone_lr_factor: 1.0,
            momentum: 0.9,
            weight_decay: 1e-4,
            norm_weight_decay: 0.0,
            bias_weight_decay: None,
            bias_lr_factor: 1.0,
            clip_norm: None,
        }
    }
}

/// `[schedule]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Which schedule.
    pub name: ScheduleName,
    /// Iterations over which the learning rate grows linearly to its full height; `one_cycle` has
    /// a rise of its own instead.
    pub warmup: u64,
    /// The factor that the warm-up starts from.
    pub warmup_start: f64,
    /// `multi_step`: when the learning rate falls, in the unit that `[train]` counts in:
    /// iterations or epochs.
    pub milestones: Vec<u64>,
    /// `multi_step`: what it is multiplied by then.
    pub factor: f64,
    /// `cosine`, `polynomial`, `one_cycle`: what is left of the full learning rate at the end, in
    /// [0, 1]. Where not given 0, but 4e-6 for `one_cycle`, as PyTorch's 1 ÷ (25 · 10⁴).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_factor: Option<f64>,
    /// `polynomial`: the exponent, above 0; 1 is a line. 0.9 in DeepLab.
    pub power: f64,
    /// `one_cycle`: the factor that the rise starts from, in (0, 1]; 1 ÷ PyTorch's `div_factor`.
    pub start_factor: f64,
    /// `one_cycle`: the rise's share of the training, in (0, 1); PyTorch's `pct_start`.
    pub peak_at: f64,
}

impl ScheduleConfig {
    /// Whether the learning rate of a step depends on how long training is.
    pub const fn follows_the_length(&self) -> bool {
        !matches!(self.name, ScheduleName::MultiStep | ScheduleName::Constant)
    }
}

/// The schedules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Falls at milestones, as detectron2's `WarmupMultiStepLR`.
    #[default]
    MultiStep,
    /// Falls along half a cosine over the whole training (Loshchilov and Hutter 2017), as
    /// detectron2's `WarmupCosineLR`.
    Cosine,
    /// Falls as a power of what is left of the training, the "poly" policy of DeepLab (Chen et al.
    /// 2017), as PyTorch's `PolynomialLR`.
    Polynomial,
    /// Rises along half a cosine and falls along another (Smith and Topin 2018), as PyTorch's
    /// `OneCycleLR` with two phases, but the momentum stays.
    OneCycle,
    /// Stays at full height.
    Constant,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            name: ScheduleName::MultiStep,
            warmup: 1000,
            warmup_start: 0.001,
            milestones: vec![60_000, 80_000],
            factor: 0.1,
            end_factor: None,
            power: 0.9,
            start_factor: 0.04,
            peak_at: 0.3,
        }
    }
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// How many batches; 90 000 where neither this nor `epochs` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u64>,
    /// How many times through the training images, instead of `iterations`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Images a step: a number, or `"auto"` for as many as fit into `memory_share`.
    pub batch_size: BatchSize,
    /// For `batch_size = "auto"`: the share of the memory that a step may take, in (0, 1].
    pub memory_share: f64,
    /// Into how many parts a batch is divided, which are computed one after another: the same
    /// gradients in less memory, but for batch norms that learn and for the padding, which is each
    /// part's own.
    pub accumulate: usize,
    /// Where given, what is evaluated and kept as best is a moving average of the weights with this
    /// decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Where given, the stages that `model.freeze_at` holds begin to learn after so many iterations
    /// or epochs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfreeze_at: Option<u64>,
    /// Evaluates every so many iterations or epochs; at the end always. 5000 iterations or one
    /// epoch where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Writes a checkpoint every so many iterations or epochs; at the end always. 5000 iterations
    /// or one epoch where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
    /// Where given, writes one too when the last is so many minutes old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_minutes: Option<f64>,
    /// By which number of an evaluation a checkpoint is the best.
    pub best_metric: MetricName,
    /// Where given, training ends after so many evaluations in a row without a new best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// What happens where the loss or a gradient is non-finite.
    pub on_nonfinite: OnNonFinite,
    /// How many steps in a row `on_nonfinite = "skip"` leaves out at most.
    pub max_skipped: u64,
    /// Tells how it goes every so many iterations, where there is no bar.
    pub log_every: u64,
    /// How many checkpoints before the last stay.
    pub keep_last: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            iterations: None,
            epochs: None,
            batch_size: BatchSize::Images(16),
            memory_share: 0.8,
            accumulate: 1,
            ema_decay: None,
            unfreeze_at: None,
            eval_every: None,
            checkpoint_every: None,
            checkpoint_minutes: None,
            best_metric: MetricName::Ap,
            patience: None,
            on_nonfinite: OnNonFinite::Stop,
            max_skipped: 10,
            log_every: 20,
            keep_last: 1,
        }
    }
}

/// How many images a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// So many.
    Images(usize),
    /// As many as fit; to be measured before training.
    Auto,
}

impl BatchSize {
    /// The number; 1 where it is yet to be measured.
    pub const fn images(self) -> usize {
        match self {
            Self::Images(images) => images,
            Self::Auto => 1,
        }
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Images(images) => serializer.serialize_u64(*images as u64),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrAuto;
        impl Visitor<'_> for NumberOrAuto {
            type Value = BatchSize;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number of at least 1, or \"auto\"")
            }

            fn visit_u64<E: Error>(self, images: u64) -> Result<BatchSize, E> {
                Ok(BatchSize::Images(images as usize))
            }

            fn visit_i64<E: Error>(self, images: i64) -> Result<BatchSize, E> {
                let images = usize::try_from(images);
                let invalid = |_| E::invalid_value(Unexpected::Other("a negative number"), &self);
                images.map(BatchSize::Images).map_err(invalid)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<BatchSize, E> {
                if text == "auto" {
                    return Ok(BatchSize::Auto);
                }
                Err(E::invalid_type(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(NumberOrAuto)
    }
}

/// What happens where the loss or a gradient is non-finite. The weights are not touched, and a
/// non-finite report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNonFinite {
    /// Training stops.
    #[default]
    Stop,
    /// It goes on with the next batch.
    Skip,
}

/// A number of an evaluation, by COCO's short names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetricName {
    /// Average precision.
    #[default]
    #[serde(rename = "AP")]
    Ap,
    /// AP at an `IoU` of 0.50.
    #[serde(rename = "AP50")]
    Ap50,
    /// AP at an `IoU` of 0.75.
    #[serde(rename = "AP75")]
    Ap75,
    /// AP of small objects.
    #[serde(rename = "APs")]
    ApSmall,
    /// AP of medium objects.
    #[serde(rename = "APm")]
    ApMedium,
    /// AP of large objects.
    #[serde(rename = "APl")]
    ApLarge,
    /// Average recall with 100 detections.
    #[serde(rename = "AR100")]
    Ar100,
}

impl MetricName {
    /// This number of an evaluation; nothing where it is undefined, as COCO's -1 where there are no
    /// boxes to find.
    pub fn of(self, metrics: &Metrics) -> Option<f64> {
        let number = match self {
            Self::Ap => metrics.ap,
            Self::Ap50 => metrics.ap50,
            Self::Ap75 => metrics.ap75,
            Self::ApSmall => metrics.ap_small,
            Self::ApMedium => metrics.ap_medium,
            Self::ApLarge => metrics.ap_large,
            Self::Ar100 => metrics.ar100,
        };
        (number >= 0.0).then_some(number)
    }
}

impl std::fmt::Display for MetricName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ap => "AP",
            Self::Ap50 => "AP50",
            Self::Ap75 => "AP75",
            Self::ApSmall => "APs",
            Self::ApMedium => "APm",
            Self::ApLarge => "APl",
            Self::Ar100 => "AR100",
        })
    }
}
