//! The precision of what convolutions multiply.

use std::fmt;

use burn::tensor::{DType, Device};
use retinanet_convolution::has_bf16_products;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The floats of what convolutions multiply and, on GPUs, of the maps between layers. Weights, what optimisers remember,
/// norms' statistics, predictions, losses and sums are f32 in any case (Micikevicius et al. 2018, "Mixed Precision
/// Training"). On CPUs with AVX512-BF16 or AMX-BF16 there is bf16, for the convolutions that do not go by Winograd's algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, of which 5 are the exponent: small gradients need a loss scale.
    F16,
    /// 16 bits, of which 8 are the exponent, as f32 has.
    Bf16,
}

impl Precision {
    /// As tensors have it.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// As the maps between layers have it on a device: on CPUs they stay in f32.
    pub fn of_maps(self, device: &Device) -> DType {
        if is_gpu(device) {
            self.dtype()
        } else {
            DType::F32
        }
    }

    /// Whether gradients need a loss scale, lest they become 0.
    pub const fn needs_loss_scale(self) -> bool {
        matches!(self, Self::F16)
    }

    /// Whether a device computes with these floats.
    pub fn is_on(self, device: &Device) -> bool {
        match self {
            Self::F32 => true,
            _ if is_gpu(device) => device.supports_dtype(self.dtype()),
            Self::F16 => false,
            Self::Bf16 => has_bf16_products(),
        }
    }

    /// Those that a device computes with.
    pub fn available(device: &Device) -> Vec<Self> {
        let all = [Self::F32, Self::F16, Self::Bf16].into_iter();
        all.filter(|precision| precision.is_on(device)).collect()
    }
}

fn is_gpu(device: &Device) -> bool {
    #[cfg(feature = "gpu")]
    return retinanet_gpu::is_gpu(device);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = device;
        false
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}
