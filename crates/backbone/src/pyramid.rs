use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use retinanet_convolution::{add_upsampled, conv2d, options_of};
use serde::{Deserialize, Serialize};

use crate::convolution::biased;
use crate::resnet::BackboneFeatures;

/// Which map P6 is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum P6Source {
    /// The backbone's last map: the paper, detectron2 and most others.
    #[default]
    C5,
    /// The pyramid's P5: torchvision's `retinanet_resnet50_fpn` and the TensorFlow models.
    P5,
}

/// Settings of a [`FeaturePyramid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeaturePyramidConfig {
    channels_in: [usize; 3],
    channels: usize,
    p6_from: P6Source,
}

impl FeaturePyramidConfig {
    /// A pyramid of 256 channels over maps C3, C4 and C5 with these channels, P6 from C5.
    pub const fn new(channels_in: [usize; 3]) -> Self {
        Self {
            channels_in,
            channels: 256,
            p6_from: P6Source::C5,
        }
    }

    /// Sets the channels of every level.
    #[must_use]
    pub const fn with_channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// Sets what P6 is computed from.
    #[must_use]
    pub const fn with_p6_from(mut self, source: P6Source) -> Self {
        self.p6_from = source;
        self
    }

    /// Draws the parameters.
    pub fn init(&self, device: &Device) -> FeaturePyramid {
        let channels = self.channels;
        let [c3, c4, c5] = self.channels_in;
        let p6_in = match self.p6_from {
            P6Source::C5 => c5,
            P6Source::P5 => channels,
        };
        FeaturePyramid {
            lateral3: biased([c3, channels], 1, 1, device),
            lateral4: biased([c4, channels], 1, 1, device),
            lateral5: biased([c5, channels], 1, 1, device),
            output3: biased([channels, channels], 3, 1, device),
            output4: biased([channels, channels], 3, 1, device),
            output5: biased([channels, channels], 3, 1, device),
            p6: biased([p6_in, channels], 3, 2, device),
            p7: biased([channels, channels], 3, 2, device),
            p6_from: self.p6_from,
        }
    }
}

/// The feature pyramid network (Lin et al. 2017, [arXiv 1612.03144](https://arxiv.org/abs/1612.03144))
/// with RetinaNet's P6 and P7.
///
/// Should be created with [`FeaturePyramidConfig`].
#[derive(Module, Debug)]
pub struct FeaturePyramid {
    lateral3: Conv2d,
    lateral4: Conv2d,
    lateral5: Conv2d,
    output3: Conv2d,
    output4: Conv2d,
    output5: Conv2d,
    p6: Conv2d,
    p7: Conv2d,
    #[module(skip)]
    p6_from: P6Source,
}

impl FeaturePyramid {
    /// Computes P3 to P7.
    ///
    /// # Shapes
    ///
    /// - output: `[batch, ceil(height / stride), ceil(width / stride), channels]` for the strides
    ///   8, 16, 32, 64 and 128 of the image
    pub fn forward(&self, features: BackboneFeatures) -> [Tensor<4>; 5] {
        let BackboneFeatures { c3, c4, c5 } = features;
        let top_down5 = convolve(&self.lateral5, c5.clone());
        let top_down4 = add_upsampled(convolve(&self.lateral4, c4), top_down5.clone());
        let top_down3 = add_upsampled(convolve(&self.lateral3, c3), top_down4.clone());

        let p3 = convolve(&self.output3, top_down3);
        let p4 = convolve(&self.output4, top_down4);
        let p5 = convolve(&self.output5, top_down5);
        let from = match self.p6_from {
            P6Source::C5 => c5,
            P6Source::P5 => p5.clone(),
        };
        let p6 = convolve(&self.p6, from);
        let p7 = convolve(&self.p7, relu(p6.clone()));
        [p3, p4, p5, p6, p7]
    }
}

fn convolve(conv: &Conv2d, input: Tensor<4>) -> Tensor<4> {
    let bias = conv.bias.as_ref().map(Param::val);
    conv2d(input, conv.weight.val(), bias, options_of(conv))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    fn features(device: &Device) -> BackboneFeatures {
        let map = |channels: usize, side: usize| {
            Tensor::random([1, side, side, channels], Distribution::Default, device)
        };
        BackboneFeatures {
            c3: map(4, 16),
            c4: map(8, 8),
            c5: map(16, 4),
        }
    }

    #[test]
    fn levels_halve_and_share_their_channels() {
        let device = Device::flex();
        for source in [P6Source::C5, P6Source::P5] {
            let pyramid = FeaturePyramidConfig::new([4, 8, 16])
                .with_channels(6)
                .with_p6_from(source)
                .init(&device);
            let dims = pyramid.forward(features(&device)).map(|level| level.dims());
            assert_eq!(dims, [16, 8, 4, 2, 1].map(|side| [1, side, side, 6]));
        }
    }

    #[test]
    fn p7_sees_only_the_positive_part_of_p6() {
        let device = Device::flex();
        let mut pyramid = FeaturePyramidConfig::new([4, 8, 16])
            .with_channels(6)
            .init(&device);
        // A bias this low makes all of P6 negative, and so P7 its own bias: 0.
        pyramid.p6.bias = Some(burn::nn::Initializer::Constant { value: -1e3 }.init([6], &device));
        let [.., p6, p7] = pyramid.forward(features(&device));
        assert!(p6.max().into_scalar::<f32>() < 0.0);
        assert_eq!(p7.abs().max().into_scalar::<f32>(), 0.0);
    }
}
