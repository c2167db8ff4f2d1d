//! A convolution as a layer of a model.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::shape::{Arithmetic, ConvOptions};

/// A convolution: its weights, and how it is computed. Made by [`new_conv2d`](crate::new_conv2d).
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[channels_out, channels_in / groups, kernel height, kernel width]`
    pub weight: Param<Tensor<4>>,
    /// `[channels_out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Stride, padding and the like.
    #[module(skip)]
    pub options: ConvOptions,
}

impl Conv2d {
    /// Says what the CPU may do for speed.
    pub const fn compute_by(&mut self, arithmetic: Arithmetic) {
        self.options.arithmetic = arithmetic;
    }
}
