//! ResNet and the feature pyramid network of RetinaNet (Lin et al. 2017,
//! [arXiv 1708.02002](https://arxiv.org/abs/1708.02002), section 4).
//!
//! [`ResNet`] turns an image into the maps C2 to C5; [`FeaturePyramid`] turns those into P3 to P7
//! (P2 on request), all with the same number of channels. Maps have their channels last.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use retinanet_backbone::{Architecture, FeaturePyramidConfig, ResNetConfig};
//!
//! let device = Device::flex();
//! let resnet = ResNetConfig::new(Architecture::Resnet18).with_width(8).init(0, &device);
//! let pyramid = FeaturePyramidConfig::new(resnet.channels()).with_channels(16).init(0, &device);
//!
//! let images = Tensor::<4>::zeros([1, 64, 64, 3], &device);
//! let levels = pyramid.forward(resnet.forward(images));
//! assert_eq!(levels.iter().map(|level| level.dims()[1]).collect::<Vec<_>>(), [8, 4, 2, 1, 1]);
//! ```

mod convolution;
mod network;
mod norm;
mod pyramid;
mod residual;
mod resnet;
mod segment;

pub use network::Backbone;
pub use norm::{Norm, NormKind};
pub use pyramid::{BottomUpStep, FeaturePyramid, FeaturePyramidConfig, FinestLevel, P6Source};
pub use residual::{Projection, ResidualBlock};
pub use resnet::{
    Architecture, BackboneFeatures, ResNet, ResNetConfig, detectron2_name, norm_name,
    torchvision_name,
};
pub use segment::Segment;
