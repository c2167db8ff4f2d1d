//! The two heads of RetinaNet (Lin et al. 2017, section 4): a class subnet and a box subnet, each
//! a few 3×3 convolutions that slide over every pyramid level with the same weights.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use retinanet_convolution::Levels;
//! use retinanet_heads::HeadConfig;
//! use retinanet_settings::Whole;
//!
//! let device = Device::flex();
//! let config = HeadConfig { depth: Whole::literal(1), ..HeadConfig::default() };
//! let classes = config.init_class_subnet(16, 9, 3, 0, &device);
//! let maps = [4, 2].map(|side| Tensor::zeros([1, side, side, 16], &device));
//! let logits = classes.forward(Levels::pack(maps));
//! assert_eq!(logits.dims(), [1, (4 * 4 + 2 * 2) * 9, 3]);
//! ```

mod config;
mod subnet;

pub use config::{ClassScores, HeadConfig, HeadNorm, Prior};
pub use subnet::{PredictedBoxes, Subnet};
