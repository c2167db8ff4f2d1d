//! The assembled RetinaNet: its config, the forward pass, decoding with non-maximum suppression,
//! weight files, and the [`Detector`] that detects.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use retinanet_backbone::Architecture;
//! use retinanet_detector::{ModelConfig, Predictions};
//! use retinanet_settings::Whole;
//!
//! let device = Device::flex();
//! let config = ModelConfig {
//!     backbone: Architecture::Resnet18,
//!     width: Whole::literal(8),
//!     fpn_channels: Whole::literal(16),
//!     ..ModelConfig::default()
//! };
//! let model = config.init(3, 0, &device)?;
//! let images = Tensor::zeros([1, 3, 64, 64], &device);
//! let Predictions { logits, boxes, .. } = model.forward(images);
//! assert_eq!(logits.dims(), [1, 9 * (64 + 16 + 4 + 1 + 1), 3]);
//! assert_eq!(boxes.dims(), [1, 9 * (64 + 16 + 4 + 1 + 1), 4]);
//! # Ok::<(), retinanet_detector::ModelError>(())
//! ```

mod candidates;
mod checkpoint;
mod config;
mod decode;
mod detect;
mod detector;
mod detector_config;
#[cfg(feature = "gpu")]
mod gpu;
mod merge;
mod model;
mod numbers;
mod pixels;
mod precision;
#[cfg(not(target_family = "wasm"))]
mod quantized;
mod suppression;
mod weights;

pub use checkpoint::{CheckpointError, DetectorFile, load_record};
pub use config::{ModelConfig, ModelError};
pub use decode::{DecodeConfig, Decoder};
pub use detect::{ImageDetections, Times};
pub use detector::{Detector, DetectorError};
pub use detector_config::DetectorConfig;
pub use merge::ViewDetection;
pub use model::{ModelPart, Predictions, RetinaNet};
pub use numbers::faulty_number;
pub use pixels::{images_to_device, pixel_form};
pub use precision::Precision;
#[cfg(not(target_family = "wasm"))]
pub use quantized::QuantizedWeights;
pub use retinanet_backbone::{Architecture, FinestLevel, NormKind, P6Source};
#[cfg(not(target_family = "wasm"))]
pub use retinanet_convolution::InputHistograms;
pub use retinanet_convolution::{Parameter, ParameterKind};
pub use retinanet_heads::{ClassScores, HeadConfig, HeadNorm, Prior};
pub use suppression::{HardConfig, SoftGaussianConfig, SoftLinearConfig, SuppressionConfig};
pub use weights::{
    BackboneExport, LoadedWeights, Names, WeightFormat, WeightsError, coco_classes, count_classes,
    load_pretrained, load_weights, read_classes, save_backbone, save_weights,
};
