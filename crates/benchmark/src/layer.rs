use burn::tensor::{Device, Distribution, Tensor};
use retinanet_convolution::ConvOptions;

/// Convolutions of RetinaNet-50 on an image of 256 pixels: head, C2, C2, C3, C5, stem.
pub(crate) const LAYERS: [Layer; 6] = [
    Layer::new(3, [256, 256], 1, 32),
    Layer::new(3, [64, 64], 1, 64),
    Layer::new(1, [64, 256], 1, 64),
    Layer::new(3, [128, 128], 2, 64),
    Layer::new(1, [2048, 512], 1, 8),
    Layer::new(7, [3, 64], 2, 256),
];

/// A convolution of one image, without bias.
pub(crate) struct Layer {
    kernel: usize,
    /// In and out.
    channels: [usize; 2],
    stride: usize,
    /// Height and width of the input.
    side: usize,
}

impl Layer {
    const fn new(kernel: usize, channels: [usize; 2], stride: usize, side: usize) -> Self {
        Self {
            kernel,
            channels,
            stride,
            side,
        }
    }

    pub(crate) const fn options(&self) -> ConvOptions {
        ConvOptions::new(self.stride, self.kernel / 2)
    }

    /// Additions and multiplications of the output.
    pub(crate) fn operations(&self) -> f64 {
        let [channels_in, channels_out] = self.channels;
        let side_out = self.side.div_ceil(self.stride);
        let products = self.kernel.pow(2) * channels_in * channels_out * side_out.pow(2);
        2.0 * products as f64
    }

    /// Input, channels last, and weight.
    pub(crate) fn sample(&self, device: &Device) -> (Tensor<4>, Tensor<4>) {
        let &Self { kernel, side, .. } = self;
        let [channels_in, channels_out] = self.channels;
        let normal = Distribution::Normal(0.0, 1.0);
        let input = Tensor::random([1, side, side, channels_in], normal, device);
        let weight = Tensor::random([channels_out, channels_in, kernel, kernel], normal, device);
        (input, weight)
    }

    pub(crate) fn describe(&self) -> String {
        let &Self {
            kernel,
            channels: [channels_in, channels_out],
            stride,
            side,
        } = self;
        format!("{kernel}x{kernel} {channels_in}->{channels_out} s{stride} {side}x{side}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_on_the_output() {
        // 9 · 128 · 128 products for each of 32 × 32 outputs, each a product and a sum.
        let layer = Layer::new(3, [128, 128], 2, 64);
        assert_eq!(layer.operations(), 301_989_888.0);
    }
}
