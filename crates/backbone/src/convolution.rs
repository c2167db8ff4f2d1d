use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::Device;

/// A square convolution without bias, padded like PyTorch's `padding = kernel / 2`, drawn as
/// torchvision's ResNet: He normal over the fan out.
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
        .with_initializer(Initializer::KaimingNormal {
            gain: 2.0_f64.sqrt(),
            fan_out_only: true,
        })
        .init(device)
}

/// A square convolution with a bias that starts at 0, drawn as detectron2's pyramid
/// (`c2_xavier_fill`: uniform with gain 1 over the fan in).
pub(crate) fn biased(
    [channels_in, channels_out]: [usize; 2],
    kernel: usize,
    stride: usize,
    device: &Device,
) -> Conv2d {
    let mut convolution = square([channels_in, channels_out], kernel, stride)
        .with_initializer(Initializer::KaimingUniform {
            gain: 1.0,
            fan_out_only: false,
        })
        .init(device);
    // The config's initializer would draw the bias too.
    convolution.bias = Some(Initializer::Zeros.init([channels_out], device));
    convolution
}

fn square(channels: [usize; 2], kernel: usize, stride: usize) -> Conv2dConfig {
    // Explicit, because Burn's `Same` pads other sides than PyTorch at stride 2.
    let padding = kernel / 2;
    Conv2dConfig::new(channels, [kernel, kernel])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(
            padding, padding, padding, padding,
        ))
}
