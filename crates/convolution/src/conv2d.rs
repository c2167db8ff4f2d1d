//! A convolution as a layer of a model.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::shape::ConvOptions;

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
    /// Allows or forbids Winograd's algorithm; see [`ConvOptions::winograd`].
    pub const fn allow_winograd(&mut self, allowed: bool) {
        self.options.winograd = allowed;
    }
}
