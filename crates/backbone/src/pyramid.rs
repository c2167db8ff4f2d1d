use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use retinanet_convolution::{
    Arithmetic, Conv2d, FusedEpilogue, Parameter, WeightDistribution, add_upsampled, conv2d,
    conv2d_with_epilogue,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::convolution::biased;
use crate::resnet::BackboneFeatures;

/// Which map P6 is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum P6Source {
    /// The backbone's last map: the paper, detectron2 and most others.
    #[default]
    C5,
    /// The pyramid's P5: torchvision's `retinanet_resnet50_fpn` and the TensorFlow models.
    P5,
}

/// The pyramid's finest level; the coarsest is P7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FinestLevel {
    /// Stride 4, four times the anchors: for objects of a few pixels.
    P2,
    /// Stride 8: the paper.
    #[default]
    P3,
}

impl FinestLevel {
    /// The strides of the levels from this one to P7, in pixels of the network's input.
    pub const fn strides(self) -> &'static [usize] {
        match self {
            Self::P2 => &[4, 8, 16, 32, 64, 128],
            Self::P3 => &[8, 16, 32, 64, 128],
        }
    }
}

/// Settings of a [`FeaturePyramid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeaturePyramidConfig {
    channels_in: [usize; 4],
    channels: usize,
    finest: FinestLevel,
    p6_from: P6Source,
    relu_before_p7: bool,
    bottom_up_path: bool,
}

impl FeaturePyramidConfig {
    /// A pyramid of 256 channels over maps C2, C3, C4 and C5 with these channels: P3 to P7, P6
    /// from C5, ReLU before P7.
    pub const fn new(channels_in: [usize; 4]) -> Self {
        Self {
            channels_in,
            channels: 256,
            finest: FinestLevel::P3,
            p6_from: P6Source::C5,
            relu_before_p7: true,
            bottom_up_path: false,
        }
    }

    /// Sets the finest level.
    #[must_use]
    pub const fn with_finest_level(mut self, finest: FinestLevel) -> Self {
        self.finest = finest;
        self
    }

    /// Sets whether P7 sees only the positive part of P6: the paper does, mmdetection does not.
    #[must_use]
    pub const fn with_relu_before_p7(mut self, relu: bool) -> Self {
        self.relu_before_p7 = relu;
        self
    }

    /// Sets whether a path leads from the finest level up again, as in PANet.
    #[must_use]
    pub const fn with_bottom_up_path(mut self, path: bool) -> Self {
        self.bottom_up_path = path;
        self
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

    /// Makes the pyramid, with weights that are a function of the seed alone.
    pub fn init(&self, seed: u64, device: &Device) -> FeaturePyramid {
        let channels = self.channels;
        let [c2, c3, c4, c5] = self.channels_in;
        let has_p2 = self.finest == FinestLevel::P2;
        let p6_in = match self.p6_from {
            P6Source::C5 => c5,
            P6Source::P5 => channels,
        };
        let steps = if self.bottom_up_path {
            // To every level but the finest, P6 and P7.
            self.finest.strides().len() - 3
        } else {
            0
        };
        let bottom_up = (0..steps).map(|_| BottomUpStep {
            down: biased([channels, channels], 3, 2, device),
            output: biased([channels, channels], 3, 1, device),
        });
        let pyramid = FeaturePyramid {
            lateral2: has_p2.then(|| biased([c2, channels], 1, 1, device)),
            lateral3: biased([c3, channels], 1, 1, device),
            lateral4: biased([c4, channels], 1, 1, device),
            lateral5: biased([c5, channels], 1, 1, device),
            output2: has_p2.then(|| biased([channels, channels], 3, 1, device)),
            output3: biased([channels, channels], 3, 1, device),
            output4: biased([channels, channels], 3, 1, device),
            output5: biased([channels, channels], 3, 1, device),
            bottom_up: bottom_up.collect(),
            p6: biased([p6_in, channels], 3, 2, device),
            p7: biased([channels, channels], 3, 2, device),
            p6_from: self.p6_from,
            relu_before_p7: self.relu_before_p7,
        };
        WeightDistribution::XavierUniform.sample(pyramid, seed, "pyramid")
    }
}

/// A step of PANet's bottom-up path ([arXiv 1803.01534](https://arxiv.org/abs/1803.01534), section 3.1) to a level from the
/// finer one below it, without ReLU: mmdetection's `PAFPN`.
#[derive(Module, Debug)]
pub struct BottomUpStep {
    /// Halves the finer level, which is added to this one.
    pub down: Conv2d,
    /// To the level.
    pub output: Conv2d,
}

/// The feature pyramid network (Lin et al. 2017, [arXiv 1612.03144](https://arxiv.org/abs/1612.03144))
/// with RetinaNet's P6 and P7.
///
/// Should be created with [`FeaturePyramidConfig`].
#[derive(Module, Debug)]
pub struct FeaturePyramid {
    /// From C2, only where the finest level is P2.
    pub lateral2: Option<Conv2d>,
    /// From C3.
    pub lateral3: Conv2d,
    /// From C4.
    pub lateral4: Conv2d,
    /// From C5.
    pub lateral5: Conv2d,
    /// To P2, only where it is the finest level.
    pub output2: Option<Conv2d>,
    /// To P3.
    pub output3: Conv2d,
    /// To P4.
    pub output4: Conv2d,
    /// To P5.
    pub output5: Conv2d,
    /// To the levels above the finest up to P5, or nothing.
    pub bottom_up: Vec<BottomUpStep>,
    /// To P6.
    pub p6: Conv2d,
    /// To P7.
    pub p7: Conv2d,
    /// What P6 is computed from.
    #[module(skip)]
    pub p6_from: P6Source,
    /// Whether P7 sees only the positive part of P6.
    pub relu_before_p7: bool,
}

impl FeaturePyramid {
    /// Says what the CPU may do for speed in all convolutions.
    pub fn compute_by(&mut self, arithmetic: Arithmetic) {
        let Self {
            lateral2,
            lateral3,
            lateral4,
            lateral5,
            output2,
            output3,
            output4,
            output5,
            bottom_up,
            p6,
            p7,
            p6_from: _,
            relu_before_p7: _,
        } = self;
        let convolutions = [
            lateral3, lateral4, lateral5, output3, output4, output5, p6, p7,
        ];
        let of_p2 = lateral2.iter_mut().chain(output2);
        let of_path = (bottom_up.iter_mut()).flat_map(|step| [&mut step.down, &mut step.output]);
        convolutions
            .into_iter()
            .chain(of_p2)
            .chain(of_path)
            .for_each(|conv| conv.compute_by(arithmetic));
    }

    /// Adds the pyramid's parameters.
    pub fn parameters(&self, into: &mut Vec<Parameter>) {
        let Self {
            lateral2,
            lateral3,
            lateral4,
            lateral5,
            output2,
            output3,
            output4,
            output5,
            bottom_up,
            p6,
            p7,
            p6_from: _,
            relu_before_p7: _,
        } = self;
        let convolutions = [
            lateral3, lateral4, lateral5, output3, output4, output5, p6, p7,
        ];
        let of_p2 = lateral2.iter().chain(output2);
        let of_path = (bottom_up.iter()).flat_map(|step| [&step.down, &step.output]);
        for conv in convolutions.into_iter().chain(of_p2).chain(of_path) {
            conv.parameters(into);
        }
    }

    /// Computes the levels, finest first.
    ///
    /// # Shapes
    ///
    /// - output: `[batch, ceil(height / stride), ceil(width / stride), channels]` for each of the
    ///   [`strides`](FinestLevel::strides) of the image
    pub fn forward(&self, features: BackboneFeatures) -> Vec<Tensor<4>> {
        let BackboneFeatures { c2, c3, c4, c5 } = features;
        let top_down5 = convolve(&self.lateral5, c5.clone());
        let top_down4 = add_upsampled(convolve(&self.lateral4, c4), top_down5.clone());
        let top_down3 = add_upsampled(convolve(&self.lateral3, c3), top_down4.clone());

        let p2 = self.lateral2.as_ref().zip(self.output2.as_ref());
        let p2 = p2.map(|(lateral, output)| {
            let top_down2 = add_upsampled(convolve(lateral, c2), top_down3.clone());
            convolve(output, top_down2)
        });
        let mut levels: Vec<_> = p2.into_iter().collect();
        levels.push(convolve(&self.output3, top_down3));
        levels.push(convolve(&self.output4, top_down4));
        levels.push(convolve(&self.output5, top_down5));
        let mut levels = self.bottom_up(levels);
        let p5 = &levels[levels.len() - 1];
        let from = match self.p6_from {
            P6Source::C5 => c5,
            P6Source::P5 => p5.clone(),
        };
        let p6 = convolve(&self.p6, from);
        let p7 = if self.relu_before_p7 {
            convolve(&self.p7, relu(p6.clone()))
        } else {
            convolve(&self.p7, p6.clone())
        };
        levels.extend([p6, p7]);
        levels
    }

    /// The levels up to P5, finest first, after the path that leads up again, if there is one.
    fn bottom_up(&self, mut levels: Vec<Tensor<4>>) -> Vec<Tensor<4>> {
        let mut finer = levels[0].clone();
        for (step, level) in self.bottom_up.iter().zip(&mut levels[1..]) {
            let epilogue = FusedEpilogue {
                bias: step.down.bias.as_ref().map(Param::val),
                residual: Some(level.clone()),
                ..FusedEpilogue::NOTHING
            };
            finer =
                conv2d_with_epilogue(finer, step.down.weight.val(), step.down.options, epilogue);
            *level = convolve(&step.output, finer.clone());
        }
        levels
    }
}

fn convolve(conv: &Conv2d, input: Tensor<4>) -> Tensor<4> {
    let bias = conv.bias.as_ref().map(Param::val);
    conv2d(input, conv.weight.val(), bias, conv.options)
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
            c2: map(2, 32),
            c3: map(4, 16),
            c4: map(8, 8),
            c5: map(16, 4),
        }
    }

    #[test]
    fn levels_halve_and_share_their_channels() {
        let device = Device::flex();
        for source in [P6Source::C5, P6Source::P5] {
            let pyramid = FeaturePyramidConfig::new([2, 4, 8, 16])
                .with_channels(6)
                .with_p6_from(source)
                .init(0, &device);
            let dims = dims(&pyramid.forward(features(&device)));
            assert_eq!(dims, [16, 8, 4, 2, 1].map(|side| [1, side, side, 6]));
        }
    }

    fn dims(levels: &[Tensor<4>]) -> Vec<[usize; 4]> {
        levels.iter().map(Tensor::dims).collect()
    }

    #[test]
    fn p2_is_finer_and_sees_the_top() {
        let device = Device::flex();
        let pyramid = FeaturePyramidConfig::new([2, 4, 8, 16])
            .with_channels(6)
            .with_finest_level(FinestLevel::P2)
            .init(0, &device);
        let levels = pyramid.forward(features(&device));
        assert_eq!(
            dims(&levels),
            [32, 16, 8, 4, 2, 1].map(|side| [1, side, side, 6])
        );
        // Another C5 makes another P2.
        let of = |features: BackboneFeatures| pyramid.forward(features)[0].clone().into_data();
        let (one, two) = (features(&device), features(&device));
        let swapped = BackboneFeatures {
            c5: two.c5,
            ..one.clone()
        };
        assert_ne!(of(one), of(swapped));
    }

    #[test]
    fn p7_sees_only_the_positive_part_of_p6_unless_told_otherwise() {
        let device = Device::flex();
        for relu in [true, false] {
            let mut pyramid = FeaturePyramidConfig::new([2, 4, 8, 16])
                .with_channels(6)
                .with_relu_before_p7(relu)
                .init(0, &device);
            // A bias this low makes all of P6 negative, and so P7 its own bias: 0.
            let low = burn::nn::Initializer::Constant { value: -1e3 };
            pyramid.p6.bias = Some(low.init([6], &device));
            let levels = pyramid.forward(features(&device));
            let [.., p6, p7] = &levels[..] else {
                panic!("{} levels", levels.len());
            };
            assert!(p6.clone().max().into_scalar::<f32>() < 0.0);
            let largest = p7.clone().abs().max().into_scalar::<f32>();
            assert_eq!(largest == 0.0, relu, "{largest}");
        }
    }
}
