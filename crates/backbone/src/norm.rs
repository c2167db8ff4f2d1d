use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, GroupNorm, GroupNormConfig};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Groups of a [`NormKind::GroupNorm`] (Wu and He 2018).
const GROUPS: usize = 32;

/// Which normalisation follows a convolution of the backbone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Batch norm whose statistics and scale never move: the peers' choice with pretrained
    /// weights, since a detector's batches are small.
    #[default]
    FrozenBatchNorm,
    /// Batch norm that learns; for training from scratch.
    BatchNorm,
    /// Group norm with 32 groups (fewer where the channels do not divide); needs no batch.
    GroupNorm,
}

impl NormKind {
    /// Makes a norm over `channels`.
    pub(crate) fn init(self, channels: usize, device: &Device) -> Norm {
        match self {
            Self::FrozenBatchNorm => {
                Norm::Batch(BatchNormConfig::new(channels).init(device).freeze())
            }
            Self::BatchNorm => Norm::Batch(BatchNormConfig::new(channels).init(device)),
            Self::GroupNorm => {
                let groups = (1..=GROUPS.min(channels))
                    .rev()
                    .find(|groups| channels.is_multiple_of(*groups))
                    .unwrap_or(1);
                Norm::Group(GroupNormConfig::new(groups, channels).init(device))
            }
        }
    }
}

/// The normalisation after a convolution.
#[derive(Module, Debug)]
pub enum Norm {
    /// Batch norm; frozen where [`NormKind::FrozenBatchNorm`] or `freeze_at` says so.
    Batch(BatchNorm),
    /// Group norm.
    Group(GroupNorm),
}

impl Norm {
    /// Normalises the channels.
    ///
    /// # Shapes
    ///
    /// - `input` and output: `[batch, channels, height, width]`
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Batch(norm) => norm.forward(input),
            Self::Group(norm) => norm.forward(input),
        }
    }
}
