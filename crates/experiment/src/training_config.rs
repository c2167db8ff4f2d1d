//! `[optimizer]`, `[schedule]` and `[train]`.

use retinanet_evaluation::Metric;
use retinanet_settings::{
    Count, Factor, MOST, NonNegative, OpenShare, OutOfRange, Positive, PositiveFactor,
    PositiveShare, Share, ShareBelowOne, Whole, real,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

real! {
    /// A learning rate.
    pub LearningRate: at_least 0, at_most 1e6
}

/// `[optimizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OptimizerConfig {
    /// Which optimiser.
    #[serde(flatten)]
    pub kind: OptimizerKind,
    /// The learning rate at its height, for batches of `reference_batch` images; with others it is
    /// in proportion.
    pub lr: LearningRate,
    /// The batch size that `lr` is for (the linear rule of Goyal et al. 2017).
    pub reference_batch: Count,
    /// Factor on the learning rate of the backbone.
    pub backbone_lr_factor: Factor,
    /// Penalty on all weights and biases but those of norms.
    pub weight_decay: Factor,
    /// Penalty on scales and biases of norms.
    pub norm_weight_decay: Factor,
    /// Penalty on biases, but those of norms; `weight_decay` if not given. 0 in Detectron.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias_weight_decay: Option<Factor>,
    /// Factor on the learning rate of biases, but those of norms; 2 in Detectron.
    pub bias_lr_factor: Factor,
    /// Where given, the gradients' norm over all parameters is cut to this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<Positive>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::default(),
            lr: LearningRate::literal(0.01),
            reference_batch: Count::literal(16),
            backbone_lr_factor: Factor::literal(1.0),
            weight_decay: Factor::literal(1e-4),
            norm_weight_decay: Factor::literal(0.0),
            bias_weight_decay: None,
            bias_lr_factor: Factor::literal(1.0),
            clip_norm: None,
        }
    }
}

/// The optimisers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum, as PyTorch's.
    Sgd(SgdConfig),
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019). Learns faster from scratch; its learning rates are
    /// about 1e-3.
    Adamw(AdamwConfig),
}

impl Default for OptimizerKind {
    fn default() -> Self {
        Self::Sgd(SgdConfig::default())
    }
}

/// Settings of SGD.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// How much of the last step goes on.
    pub momentum: ShareBelowOne,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            momentum: ShareBelowOne::literal(0.9),
        }
    }
}

/// Settings of AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamwConfig {
    /// β₁ and β₂: how much of the gradients' moving averages, first and second moment, goes on.
    pub betas: [ShareBelowOne; 2],
}

impl Default for AdamwConfig {
    fn default() -> Self {
        Self {
            betas: [0.9, 0.999].map(ShareBelowOne::literal),
        }
    }
}

/// `[schedule]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScheduleConfig {
    /// How the learning rate goes after the warm-up.
    #[serde(flatten)]
    pub kind: ScheduleKind,
    /// Iterations over which the learning rate grows linearly to its full height; 1000 if not given, and none for
    /// `one_cycle`, which has a rise of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Whole<0, MOST>>,
    /// The factor that the warm-up starts from.
    pub warmup_start: Factor,
}

impl ScheduleConfig {
    /// Whether the learning rate of a step depends on how long training is.
    pub const fn follows_the_length(&self) -> bool {
        !matches!(
            self.kind,
            ScheduleKind::MultiStep(_) | ScheduleKind::Constant {}
        )
    }

    /// Iterations of the warm-up.
    pub fn warmup_iterations(&self) -> u64 {
        match self.kind {
            ScheduleKind::OneCycle(_) => 0,
            _ => self.warmup.map_or(1000, Whole::get),
        }
    }
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::default(),
            warmup: None,
            warmup_start: Factor::literal(0.001),
        }
    }
}

/// The schedules, as factors of the full rate. In the formulas t = iteration ÷ total.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleKind {
    /// Falls at milestones: with the warm-up, detectron2's `WarmupMultiStepLR`.
    MultiStep(MultiStepConfig),
    /// end + (1 − end) (1 + cos πt) ÷ 2, from SGDR (Loshchilov and Hutter 2017) without its
    /// restarts, as PyTorch's `CosineAnnealingLR`. With the warm-up and an end of 0, detectron2's
    /// `WarmupCosineLR`: the cosine starts with the warm-up, not after it.
    Cosine(CosineConfig),
    /// end + (1 − end) (1 − t)^power, the "poly" policy of DeepLab (Chen et al. 2017). PyTorch's
    /// `PolynomialLR` is that with an end of 0, mmengine's `PolyLR` has the end too.
    Polynomial(PolynomialConfig),
    /// From `start_factor` along half a cosine to the full rate, then along another to
    /// `end_factor` at the last iteration: PyTorch's `OneCycleLR` with two phases, after
    /// Super-Convergence (Smith and Topin 2018). The momentum stays as it is, where PyTorch's
    /// cycles by default.
    OneCycle(OneCycleConfig),
    /// Stays at full height.
    Constant {},
}

impl Default for ScheduleKind {
    fn default() -> Self {
        Self::MultiStep(MultiStepConfig::default())
    }
}

/// Settings of the multi-step schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MultiStepConfig {
    /// When the learning rate falls, in the unit that training's length is in: iterations or epochs.
    pub milestones: Milestones,
    /// What it is multiplied by then.
    pub factor: Factor,
}

impl Default for MultiStepConfig {
    fn default() -> Self {
        Self {
            milestones: Milestones(vec![60_000, 80_000]),
            factor: Factor::literal(0.1),
        }
    }
}

/// Settings of the cosine schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CosineConfig {
    /// What is left of the full learning rate at the end.
    pub end_factor: Share,
}

impl Default for CosineConfig {
    fn default() -> Self {
        Self {
            end_factor: Share::literal(0.0),
        }
    }
}

/// Settings of the polynomial schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolynomialConfig {
    /// What is left of the full learning rate at the end.
    pub end_factor: Share,
    /// The exponent; 1 is a line. 0.9 in DeepLab.
    pub power: PositiveFactor,
}

impl Default for PolynomialConfig {
    fn default() -> Self {
        Self {
            end_factor: Share::literal(0.0),
            power: PositiveFactor::literal(0.9),
        }
    }
}

/// Settings of the one-cycle schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OneCycleConfig {
    /// The factor that the rise starts from; 1 ÷ PyTorch's `div_factor`.
    pub start_factor: PositiveShare,
    /// The rise's share of the training; PyTorch's `pct_start`.
    pub peak_at: OpenShare,
    /// What is left of the full learning rate at the end. The default is PyTorch's
    /// 1 ÷ (`div_factor` · `final_div_factor`).
    pub end_factor: Share,
}

impl Default for OneCycleConfig {
    fn default() -> Self {
        Self {
            start_factor: PositiveShare::literal(0.04),
            peak_at: OpenShare::literal(0.3),
            end_factor: Share::literal(4e-6),
        }
    }
}

/// When the learning rate falls, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Whole<0, MOST>>", into = "Vec<u64>")]
pub struct Milestones(Vec<u64>);

impl Milestones {
    const ALLOWED: &str = "a list of whole numbers, ascending";

    /// The milestones.
    pub fn get(&self) -> &[u64] {
        &self.0
    }

    /// The same after something was done to each that keeps their order.
    #[must_use]
    pub fn map(&self, convert: impl Fn(u64) -> u64) -> Self {
        Self(self.0.iter().copied().map(convert).collect())
    }
}

impl TryFrom<Vec<Whole<0, MOST>>> for Milestones {
    type Error = OutOfRange;

    fn try_from(milestones: Vec<Whole<0, MOST>>) -> Result<Self, OutOfRange> {
        let milestones: Vec<u64> = milestones.into_iter().map(Whole::get).collect();
        if milestones.is_sorted() {
            return Ok(Self(milestones));
        }
        Err(OutOfRange {
            allowed: "ascending".to_owned(),
            got: format!("{milestones:?}"),
        })
    }
}

impl From<Milestones> for Vec<u64> {
    fn from(milestones: Milestones) -> Self {
        milestones.0
    }
}

impl JsonSchema for Milestones {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Milestones".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "range": Self::ALLOWED })
    }
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// How many batches; 90 000 where neither this nor `epochs` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iterations: Option<Count>,
    /// How many times through the training images, instead of `iterations`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<Count>,
    /// Images a step: a number, or `"auto"` for as many as fit into `memory_share`.
    pub batch_size: BatchSize,
    /// For `batch_size = "auto"`: the share of the memory that a step may take.
    pub memory_share: PositiveShare,
    /// Into how many micro-batches a batch is divided, which are computed one after another: the same
    /// gradients in less memory, but for batch norms that learn and for the padding, which is each
    /// micro-batch's own.
    pub accumulate: Count,
    /// Where given, what is evaluated and kept as best is a moving average of the weights with this
    /// decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<ShareBelowOne>,
    /// Where given, the stages that `model.freeze_at` holds begin to learn after so many iterations
    /// or epochs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfreeze_at: Option<Count>,
    /// Evaluates every so many iterations or epochs; at the end always. 5000 iterations or one
    /// epoch if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<Count>,
    /// Writes a checkpoint every so many iterations or epochs; at the end always. 5000 iterations
    /// or one epoch if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<Count>,
    /// Where given, writes one too when the last is so many minutes old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_minutes: Option<NonNegative>,
    /// By which number of an evaluation a checkpoint is the best.
    pub best_metric: Metric,
    /// Where given, training ends after so many evaluations in a row without a new best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<Count>,
    /// What happens where the loss or a gradient is non-finite.
    pub on_nonfinite: OnNonFinite,
    /// How many steps in a row `on_nonfinite = "skip"` leaves out at most.
    pub max_skipped: Count,
    /// Tells how it goes every so many iterations, where there is no bar.
    pub log_every: Count,
    /// How many checkpoints before the last stay.
    pub keep_last: Whole<0, MOST>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            iterations: None,
            epochs: None,
            batch_size: BatchSize::Images(Images::literal(16)),
            memory_share: PositiveShare::literal(0.8),
            accumulate: Count::literal(1),
            ema_decay: None,
            unfreeze_at: None,
            eval_every: None,
            checkpoint_every: None,
            checkpoint_minutes: None,
            best_metric: Metric::AP,
            patience: None,
            on_nonfinite: OnNonFinite::Stop,
            max_skipped: Count::literal(10),
            log_every: Count::literal(20),
            keep_last: Whole::literal(1),
        }
    }
}

/// Images of a batch.
pub type Images = Whole<1, 65_536>;

/// How many images a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// So many.
    Images(Images),
    /// As many as fit; to be measured before training.
    Auto,
}

impl BatchSize {
    /// The number; 1 where it is yet to be measured.
    pub const fn images(self) -> usize {
        match self {
            Self::Images(images) => images.as_usize(),
            Self::Auto => 1,
        }
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Images(images) => serializer.serialize_u64(images.get()),
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
                f.write_str(ALLOWED_BATCH_SIZES)
            }

            fn visit_u64<E: Error>(self, images: u64) -> Result<BatchSize, E> {
                Images::new(images)
                    .map(BatchSize::Images)
                    .map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, images: i64) -> Result<BatchSize, E> {
                Images::new(images)
                    .map(BatchSize::Images)
                    .map_err(E::custom)
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

const ALLOWED_BATCH_SIZES: &str = "a whole number in [1, 65536], or \"auto\"";

impl JsonSchema for BatchSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BatchSize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "range": ALLOWED_BATCH_SIZES })
    }
}

/// What happens where the loss or a gradient is non-finite. The weights are not touched, and a
/// non-finite report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNonFinite {
    /// Training stops.
    #[default]
    Stop,
    /// It goes on with the next batch.
    Skip,
}
