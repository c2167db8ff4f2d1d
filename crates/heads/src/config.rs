use retinanet_settings::{Whole, real};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

real! {
    /// A foreground probability that a bias can give.
    pub Prior: at_least 1e-9, below 1
}

/// Settings that both subnets share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// Hidden convolutions before the output.
    pub depth: Whole<0, 32>,
    /// Channels of the hidden convolutions; as many as the pyramid's if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Whole<1, 4096>>,
    /// What follows each hidden convolution.
    pub norm: HeadNorm,
    /// Whether the hidden convolutions have a bias; before a norm torchvision leaves it out.
    pub conv_bias: bool,
    /// π, the foreground probability that a fresh model gives every anchor
    /// (section 3.3): without it the many negatives blow up the first steps.
    pub prior: Prior,
    /// How class logits become scores, and with that whether the class loss is a sigmoid's or a
    /// softmax's.
    pub scores: ClassScores,
    /// Whether the box subnet also tells how near an anchor is to the middle of its object, which a detection's score is
    /// multiplied by: FCOS's centerness (Tian et al. 2019), as ATSS has it.
    pub centerness: bool,
    /// Whether each level has a factor of its own on its boxes' predictions, which is learnt: FCOS's `Scale`.
    pub level_scales: bool,
}

/// How an anchor's class logits become scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassScores {
    /// Each class by itself: the paper.
    #[default]
    Sigmoid,
    /// The classes and the background share a probability of 1, as with Detectron's
    /// `RETINANET.SOFTMAX`. The background's logit is 0, since only differences count; with one
    /// class it is the sigmoid.
    Softmax,
}

impl Default for HeadConfig {
    /// Four hidden convolutions without norm, π = 0.01: the paper.
    fn default() -> Self {
        Self {
            depth: Whole::literal(4),
            channels: None,
            norm: HeadNorm::None,
            conv_bias: true,
            prior: Prior::literal(0.01),
            scores: ClassScores::Sigmoid,
            centerness: false,
            level_scales: false,
        }
    }
}

/// What follows each hidden convolution of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadNorm {
    /// Nothing: the paper.
    #[default]
    None,
    /// Group norm with 32 groups (fewer where the channels do not divide): torchvision's second
    /// version; helps where the model is trained from scratch.
    GroupNorm,
}
