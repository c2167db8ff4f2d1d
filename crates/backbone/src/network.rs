//! The networks that a pyramid can be built on.

use burn::module::Module;
use burn::tensor::Tensor;
use retinanet_convolution::{Arithmetic, Parameter};

use crate::resnet::{BackboneFeatures, ResNet};

/// A backbone: what turns an image into the maps C2 to C5. Each network has its weights' names in other programs
/// beside it.
#[derive(Module, Debug)]
pub enum Backbone {
    /// A residual network.
    ResNet(ResNet),
}

impl Backbone {
    /// Computes C2, C3, C4 and C5.
    ///
    /// # Shapes
    ///
    /// - `images`: `[batch, height, width, 3]`, normalised
    /// - output: strides 4, 8, 16 and 32, with [`channels`](Self::channels)
    pub fn forward(&self, images: Tensor<4>) -> BackboneFeatures {
        match self {
            Self::ResNet(network) => network.forward(images),
        }
    }

    /// The channels of C2, C3, C4 and C5.
    pub const fn channels(&self) -> [usize; 4] {
        match self {
            Self::ResNet(network) => network.channels(),
        }
    }

    /// Adds the network's parameters.
    pub fn parameters(&self, into: &mut Vec<Parameter>) {
        match self {
            Self::ResNet(network) => network.parameters(into),
        }
    }

    /// Says what the CPU may do for speed in all convolutions.
    pub fn compute_by(&mut self, arithmetic: Arithmetic) {
        match self {
            Self::ResNet(network) => network.compute_by(arithmetic),
        }
    }
}
