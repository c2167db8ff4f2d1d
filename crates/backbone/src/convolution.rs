use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::Device;

/// A square convolution without bias, padded like PyTorch's `padding = kernel / 2`, whose weights
/// are still to be drawn.
pub(crate) fn unbiased(
    [channels_in, channels_out]: [usize; 2],
    kernel: usize,
    stride: usize,
    groups: usize,
    device: &Device,
) -> Conv2d {
    square([channels_in, channels_out], kernel, stride)
        .with_groups(groups)
        .with_bias(false)
        .init(device)
}

/// A square convolution with a bias that starts at 0, whose weights are still to be drawn.
pub(crate) fn biased(
    [channels_in, channels_out]: [usize; 2],
    kernel: usize,
    stride: usize,
    device: &Device,
) -> Conv2d {
    square([channels_in, channels_out], kernel, stride).init(device)
}

fn square(channels: [usize; 2], kernel: usize, stride: usize) -> Conv2dConfig {
    // Explicit, because Burn's `Same` pads other sides than PyTorch at stride 2.
    let padding = kernel / 2;
    Conv2dConfig::new(channels, [kernel, kernel])
        .with_stride([stride, stride])
        .with_initializer(Initializer::Zeros)
        .with_padding(PaddingConfig2d::Explicit(
            padding, padding, padding, padding,
        ))
}
