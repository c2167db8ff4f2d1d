//! One convolution: its shapes, and which kernels compute it and its gradients.

use crate::kernels::epilogue::Epilogue;
use crate::kernels::lanes::Width;
use crate::kernels::{direct, few_pixels, grouped, winograd};
use crate::shape::{ConvOptions, Maps};

/// Tiles below which transforming the weights costs more than the multiplications it saves.
const FEWEST_TILES: usize = 16;

/// Channels below which the transforms of a tile cost more than the multiplications they save.
const FEWEST_CHANNELS: usize = 16;

/// A convolution over maps. Inputs and outputs are `[pixels, channels]`, weights
/// `[outputs, inputs / groups, kernel height, kernel width]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) maps_in: Maps,
    pub(crate) maps_out: Maps,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: [usize; 2],
    pub(crate) options: ConvOptions,
}

impl Problem {
    /// # Panics
    ///
    /// Panics if the weights do not fit the channels.
    pub(crate) fn new(
        maps_in: Maps,
        inputs: usize,
        weight: [usize; 4],
        options: ConvOptions,
    ) -> Self {
        let [outputs, inputs_per_group, height, width] = weight;
        let groups = options.groups;
        assert!(
            inputs == inputs_per_group * groups && outputs.is_multiple_of(groups),
            "weights {weight:?} with {groups} groups for a map of {inputs} channels"
        );
        let kernel = [height, width];
        Self {
            maps_out: maps_in.convolved(kernel, &options),
            maps_in,
            inputs,
            outputs,
            kernel,
            options,
        }
    }

    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub(crate) fn inputs_per_group(&self) -> usize {
        self.inputs / self.options.groups
    }

    pub(crate) fn outputs_per_group(&self) -> usize {
        self.outputs / self.options.groups
    }

    /// Whether a window is its one pixel, so that the columns are the input itself.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.options.stride == [1, 1] && self.options.padding == [0, 0]
    }

    fn pays_winograd(&self) -> bool {
        let plain = ConvOptions {
            arithmetic: self.options.arithmetic,
            ..ConvOptions::new(1, 1)
        };
        self.options.arithmetic.winograd
            && self.kernel == [3, 3]
            && self.options == plain
            && self.inputs.min(self.outputs) >= FEWEST_CHANNELS
            && winograd::tiles(&self.maps_in) >= FEWEST_TILES
    }

    pub(crate) fn kernels(&self) -> Kernels {
        if few_pixels::pays(self) {
            Kernels::FewPixels
        } else if self.pays_winograd() {
            Kernels::Winograd
        } else if grouped::pays(self) {
            Kernels::Grouped(Width::widest())
        } else {
            Kernels::Direct
        }
    }

    pub(crate) fn forward(&self, input: &[f32], weights: &[f32], end: Epilogue<'_>) -> Vec<f32> {
        match self.kernels() {
            Kernels::FewPixels => few_pixels::forward(self, input, weights, end),
            Kernels::Winograd => winograd::forward(self, input, weights, end),
            Kernels::Grouped(width) => grouped::forward(self, input, weights, end, width),
            Kernels::Direct => direct::forward(self, input, weights, end),
        }
    }

    /// The gradient of the input. `scale` is the epilogue's.
    pub(crate) fn input_gradient(
        &self,
        gradient: &[f32],
        weights: &[f32],
        scale: Option<&[f32]>,
    ) -> Vec<f32> {
        match self.kernels() {
            Kernels::FewPixels => few_pixels::input_gradient(self, gradient, weights, scale),
            Kernels::Winograd => winograd::input_gradient(self, gradient, weights, scale),
            Kernels::Grouped(width) => {
                grouped::input_gradient(self, gradient, weights, scale, width)
            }
            Kernels::Direct => direct::input_gradient(self, gradient, weights, scale),
        }
    }

    /// The gradient of the weights. `scale` is the epilogue's.
    pub(crate) fn weight_gradient(
        &self,
        input: &[f32],
        gradient: &[f32],
        scale: Option<&[f32]>,
    ) -> Vec<f32> {
        match self.kernels() {
            Kernels::FewPixels => few_pixels::weight_gradient(self, input, gradient, scale),
            Kernels::Winograd => winograd::weight_gradient(self, input, gradient, scale),
            Kernels::Grouped(width) => {
                grouped::weight_gradient(self, input, gradient, scale, width)
            }
            Kernels::Direct => direct::weight_gradient(self, input, gradient, scale),
        }
    }
}

/// Which of the modules of kernels computes a problem.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernels {
    FewPixels,
    Winograd,
    Grouped(Width),
    Direct,
}
