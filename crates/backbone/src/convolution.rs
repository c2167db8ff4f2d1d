use burn::tensor::Device;
use retinanet_convolution::{Conv2d, ConvOptions, new_conv2d};

/// A square convolution without bias, padded like PyTorch's `padding = kernel / 2`, whose weights
/// are still to be sampled.
pub(crate) fn unbiased(
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    groups: usize,
    device: &Device,
) -> Conv2d {
    let options = ConvOptions {
        groups,
        ..ConvOptions::new(stride, kernel / 2)
    };
    new_conv2d(channels, kernel, options, None, device)
}

/// A square convolution with a bias that starts at 0, whose weights are still to be sampled.
pub(crate) fn biased(
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    device: &Device,
) -> Conv2d {
    let options = ConvOptions::new(stride, kernel / 2);
    new_conv2d(channels, kernel, options, Some(0.0), device)
}
