//! What is fused to the end of a convolution, and the first step of its gradient.

use rayon::prelude::*;

use super::vectorized;

/// What happens to an output pixel after the product: `relu(x * scale + bias + residual)`, each
/// part where it is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Epilogue<'a> {
    /// `[channels]`
    pub(crate) scale: Option<&'a [f32]>,
    /// `[channels]`
    pub(crate) bias: Option<&'a [f32]>,
    /// `[pixels, channels]`, as the output.
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) relu: bool,
}

impl Epilogue<'_> {
    /// The same for `values` that start at `start` in the output.
    #[inline(always)]
    pub(crate) fn at(self, start: usize) -> Self {
        Self {
            residual: self.residual.map(|residual| &residual[start..]),
            ..self
        }
    }

    /// The same for channels from `first` on.
    pub(crate) fn of_channels_from(self, first: usize) -> Self {
        Self {
            scale: self.scale.map(|scale| &scale[first..]),
            bias: self.bias.map(|bias| &bias[first..]),
            residual: self.residual.map(|residual| &residual[first..]),
            relu: self.relu,
        }
    }

    /// Finishes whole pixels.
    pub(crate) fn apply(&self, values: &mut [f32], channels: usize) {
        if self.scale.is_none() && self.bias.is_none() && self.residual.is_none() && !self.relu {
            return;
        }
        vectorized(
            #[inline(always)]
            || {
                for (index, pixel) in values.chunks_exact_mut(channels).enumerate() {
                    self.at(index * channels).apply_pixel(pixel);
                }
            },
        );
    }

    /// The parts that come together often in one pass, which is the same numbers as in one after the other.
    #[inline(always)]
    fn apply_pixel(&self, pixel: &mut [f32]) {
        // As `max`, but NaN stays NaN, so that a diverging run is noticed.
        let relu = |value: f32| {
            if self.relu && value < 0.0 { 0.0 } else { value }
        };
        match (self.scale, self.bias, self.residual) {
            (Some(scale), Some(bias), None) => {
                for ((value, scale), bias) in pixel.iter_mut().zip(scale).zip(bias) {
                    *value = relu(*value * scale + bias);
                }
            }
            (Some(scale), Some(bias), Some(residual)) => {
                let constants = scale.iter().zip(bias);
                for ((value, (scale, bias)), residual) in
                    pixel.iter_mut().zip(constants).zip(residual)
                {
                    *value = relu(*value * scale + bias + residual);
                }
            }
            (None, Some(bias), None) => {
                for (value, bias) in pixel.iter_mut().zip(bias) {
                    *value = relu(*value + bias);
                }
            }
            (scale, bias, residual) => {
                for (value, scale) in pixel.iter_mut().zip(scale.unwrap_or_default()) {
                    *value *= scale;
                }
                for (value, bias) in pixel.iter_mut().zip(bias.unwrap_or_default()) {
                    *value += bias;
                }
                for (value, residual) in pixel.iter_mut().zip(residual.unwrap_or_default()) {
                    *value += residual;
                }
                for value in pixel {
                    *value = relu(*value);
                }
            }
        }
    }
}

/// How many values a thread takes at once.
const CHUNK: usize = 1 << 14;

/// The gradient before a ReLU, from the gradient after it and its output.
pub(crate) fn relu_gradient(gradient: &mut [f32], output: &[f32]) {
    let chunks = gradient.par_chunks_mut(CHUNK).zip(output.par_chunks(CHUNK));
    chunks.for_each(|(gradient, output)| {
        vectorized(
            #[inline(always)]
            || {
                for (gradient, output) in gradient.iter_mut().zip(output) {
                    *gradient = if *output > 0.0 { *gradient } else { 0.0 };
                }
            },
        );
    });
}
