use burn::module::Module;
use burn::nn::{BatchNorm, GroupNorm};
use burn::tensor::{Device, Tensor};
use retinanet_convolution::{
    Conv2d, FusedEpilogue, Levels, Parameter, batch_norm, batch_norm_parameters,
    conv2d_with_epilogue, frozen_scale_and_bias, group_norm, group_norm_parameters, new_batch_norm,
    new_group_norm,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which normalisation follows a convolution of the backbone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Batch norm whose statistics and scale never move: the peers' choice with pretrained
    /// weights, since a detector's batches are small.
    #[default]
    FrozenBatchNorm,
    /// Batch norm whose statistics never move, while scale and bias learn: mmdetection's
    /// `norm_eval`.
    FixedStatistics,
    /// Batch norm that learns; for training from scratch.
    BatchNorm,
    /// Batch norm that learns, with the whole batch's statistics where several processes share it; on
    /// CPUs.
    SyncBatchNorm,
    /// Group norm with 32 groups (fewer where the channels do not divide); needs no batch.
    GroupNorm,
}

impl NormKind {
    /// Whether the norm keeps to the statistics of weights that it was given.
    pub const fn is_fixed(self) -> bool {
        matches!(self, Self::FrozenBatchNorm | Self::FixedStatistics)
    }
}

/// A [`NormKind`] with its epsilon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormConfig {
    pub(crate) kind: NormKind,
    /// Added to the variance.
    pub(crate) epsilon: f64,
}

impl NormConfig {
    /// Makes a norm over `channels`.
    pub(crate) fn init(self, channels: usize, device: &Device) -> Norm {
        let batch_norm = || new_batch_norm(channels, self.epsilon, device);
        match self.kind {
            NormKind::FrozenBatchNorm => Norm::Batch(batch_norm().freeze()),
            NormKind::FixedStatistics => Norm::FixedStatistics(batch_norm()),
            NormKind::BatchNorm | NormKind::SyncBatchNorm => Norm::Batch(batch_norm()),
            NormKind::GroupNorm => Norm::Group(new_group_norm(channels, self.epsilon, device)),
        }
    }
}

/// The normalisation after a convolution.
#[derive(Module, Debug)]
pub enum Norm {
    /// Batch norm; frozen where [`NormKind::FrozenBatchNorm`] or `freeze_at` says so.
    Batch(BatchNorm),
    /// Batch norm of which only scale and bias learn.
    FixedStatistics(BatchNorm),
    /// Group norm.
    Group(GroupNorm),
}

/// Ends with ReLU.
pub(crate) const RELU: FusedEpilogue<Tensor<4>> = FusedEpilogue {
    relu: true,
    ..FusedEpilogue::NOTHING
};

impl Norm {
    /// Adds the norm's parameters.
    pub(crate) fn parameters(&self, into: &mut Vec<Parameter>) {
        match self {
            Self::Batch(norm) | Self::FixedStatistics(norm) => batch_norm_parameters(norm, into),
            Self::Group(norm) => group_norm_parameters(norm, into),
        }
    }

    /// Convolves, normalises and ends with a residual and ReLU where asked for, in as few passes as
    /// can be: a frozen norm is a scale and a bias at the end of the convolution.
    ///
    /// # Shapes
    ///
    /// - `input` and output: `[batch, height, width, channels]`
    pub(crate) fn after(
        &self,
        conv: &Conv2d,
        input: Tensor<4>,
        mut end: FusedEpilogue<Tensor<4>>,
    ) -> Tensor<4> {
        let (weight, options) = (conv.weight.val(), conv.options);
        let learns = |norm: &BatchNorm| norm.training.is_enabled() && input.device().is_autodiff();
        match self {
            Self::Batch(norm) if !learns(norm) => {
                let (scale, bias) = frozen_scale_and_bias(norm);
                end.scale = Some(scale);
                end.bias = Some(bias);
                conv2d_with_epilogue(input, weight, options, end)
            }
            Self::FixedStatistics(norm) => {
                // The scale learns, so it goes into the weight, where it has a gradient.
                let (scale, bias) = scale_and_bias(norm);
                let channels = scale.dims()[0];
                end.bias = Some(bias);
                conv2d_with_epilogue(
                    input,
                    weight * scale.reshape([channels, 1, 1, 1]),
                    options,
                    end,
                )
            }
            Self::Batch(norm) => {
                let convolved =
                    conv2d_with_epilogue(input, weight, options, FusedEpilogue::NOTHING);
                batch_norm(norm, convolved, end)
            }
            Self::Group(norm) => {
                let convolved =
                    conv2d_with_epilogue(input, weight, options, FusedEpilogue::NOTHING);
                let shape = convolved.dims();
                let end = FusedEpilogue {
                    residual: end.residual.map(|residual| Levels::one(residual).values),
                    relu: end.relu,
                    ..FusedEpilogue::NOTHING
                };
                let normalized = group_norm(norm, Levels::one(convolved), end);
                normalized.values.reshape(shape)
            }
        }
    }
}

/// Batch norm with its running statistics, `x * scale + bias`.
fn scale_and_bias(norm: &BatchNorm) -> (Tensor<1>, Tensor<1>) {
    let deviation = (norm.running_var.value() + norm.epsilon).sqrt();
    let scale = norm.gamma.val() / deviation;
    let bias = norm.beta.val() - norm.running_mean.value() * scale.clone();
    (scale, bias)
}
