//! Convolution, norms, pooling and upsampling for maps with the channels last,
//! `[batch, height, width, channels]`.
//!
//! On the CPU (Burn's flex backend) they are kernels of this crate, with gradients of their own,
//! on the `gemm` crate: 1×1 convolutions are plain products, 3×3 with stride 1 go by Winograd's
//! algorithm (see [`Arithmetic::winograd`]) where it pays, 3×3 in groups of few channels by vectors over several groups,
//! all others by blocks of columns. Results do not
//! depend on the number of threads. On GPUs convolution has kernels of this crate too (feature `gpu`,
//! which `wgpu` and `cuda` bring), and all else is Burn's own operations, as on every other device.
//!
//! Channels come last because then a pixel is a row: a 1×1 convolution is a product of the map as
//! it lies, columns are copied in runs, and every other kernel walks memory in order.

mod calls;
mod conv2d;
mod convolve;
mod extension;
mod fresh;
#[cfg(feature = "gpu")]
mod gpu;
#[cfg(not(target_family = "wasm"))]
mod kept;
mod kernels;
mod layers;
mod levels;
mod parameters;
mod problem;
#[cfg(not(target_family = "wasm"))]
mod quantized;
mod record;
#[cfg(not(target_family = "wasm"))]
mod run;
mod shape;
mod synchronised;
#[cfg(test)]
mod tests;
mod weights;
mod with_gradient;

pub use calls::Deviation;
pub use conv2d::Conv2d;
pub use fresh::{new_batch_norm, new_conv2d, new_group_norm};
#[cfg(feature = "gpu")]
pub use gpu::break_weight_gradients;
#[cfg(not(target_family = "wasm"))]
pub use kept::KeptWeights;
pub use layers::{
    FusedEpilogue, add_upsampled, batch_norm, channels_first, channels_last, conv2d, conv2d_levels,
    conv2d_with_epilogue, frozen_scale_and_bias, group_norm, max_pool2d,
};
pub use levels::Levels;
pub use parameters::{Parameter, ParameterKind, batch_norm_parameters, group_norm_parameters};
#[cfg(not(target_family = "wasm"))]
pub use quantized::{InputHistograms, InputRange, Quantization};
pub use record::{EpilogueParts, LayerCall, record_calls};
pub use shape::{Arithmetic, ConvOptions, has_bf16_products};
pub use synchronised::synchronise_batch_norms;
pub use weights::{WeightDistribution, normal_values};
pub use with_gradient::with_gradient;
