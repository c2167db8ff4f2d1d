mod names;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use retinanet_convolution::{Arithmetic, Conv2d, Parameter, WeightDistribution, max_pool2d};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::convolution::unbiased;
use crate::norm::{Norm, NormConfig, NormKind, RELU};
use crate::residual::{Bottleneck, ResidualBlock};

pub use self::names::{detectron2_name, norm_name, torchvision_name};

/// How much wider the output of a bottleneck is than its 3×3 convolution.
const BOTTLENECK_EXPANSION: usize = 4;

/// The ResNets of He et al. 2016, table 1; the ResNeXts of Xie et al. 2017, whose 3×3
/// convolutions have 32 groups; and a wide ResNet (Zagoruyko and Komodakis 2016), whose 3×3
/// convolutions have twice the channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Architecture {
    Resnet18,
    Resnet34,
    #[default]
    Resnet50,
    Resnet101,
    Resnet152,
    #[serde(rename = "resnext50_32x4d")]
    Resnext50_32x4d,
    #[serde(rename = "resnext101_32x8d")]
    Resnext101_32x8d,
    #[serde(rename = "wide_resnet50_2")]
    WideResnet50_2,
}

impl Architecture {
    /// Blocks in the stages that give C2, C3, C4 and C5.
    const fn blocks(self) -> [usize; 4] {
        match self {
            Self::Resnet18 => [2, 2, 2, 2],
            Self::Resnet34 | Self::Resnet50 | Self::Resnext50_32x4d | Self::WideResnet50_2 => {
                [3, 4, 6, 3]
            }
            Self::Resnet101 | Self::Resnext101_32x8d => [3, 4, 23, 3],
            Self::Resnet152 => [3, 8, 36, 3],
        }
    }

    const fn has_bottlenecks(self) -> bool {
        !matches!(self, Self::Resnet18 | Self::Resnet34)
    }

    /// Groups of a bottleneck's 3×3 convolution, and channels of a group in C2 where the stem has
    /// 64.
    const fn groups(self) -> (usize, usize) {
        match self {
            Self::Resnext50_32x4d => (32, 4),
            Self::Resnext101_32x8d => (32, 8),
            Self::WideResnet50_2 => (1, 128),
            _ => (1, 64),
        }
    }
}

/// Settings of a [`ResNet`].
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    architecture: Architecture,
    norm: NormConfig,
    freeze_at: usize,
    width: usize,
    stride_in_1x1: bool,
}

impl ResNetConfig {
    /// Channels after the stem of the published networks.
    pub const STANDARD_WIDTH: usize = 64;
    /// What the published networks add to the variance in their norms.
    pub const STANDARD_EPSILON: f64 = 1e-5;

    /// The published network with frozen batch norm and nothing else frozen.
    pub const fn new(architecture: Architecture) -> Self {
        Self {
            architecture,
            norm: NormConfig {
                kind: NormKind::FrozenBatchNorm,
                epsilon: Self::STANDARD_EPSILON,
            },
            freeze_at: 0,
            width: Self::STANDARD_WIDTH,
            stride_in_1x1: false,
        }
    }

    /// Sets the normalisation.
    #[must_use]
    pub const fn with_norm(mut self, norm: NormKind) -> Self {
        self.norm.kind = norm;
        self
    }

    /// Sets what the norms add to the variance.
    #[must_use]
    pub const fn with_norm_epsilon(mut self, epsilon: f64) -> Self {
        self.norm.epsilon = epsilon;
        self
    }

    /// Sets whether a bottleneck's stride is in its first 1×1 convolution, as in the original
    /// network and detectron2's weights, and not in the 3×3, as in torchvision's.
    #[must_use]
    pub const fn with_stride_in_1x1(mut self, stride_in_1x1: bool) -> Self {
        self.stride_in_1x1 = stride_in_1x1;
        self
    }

    /// Freezes the first `stages` of stem, C2, C3, C4 and C5, as detectron2's `FREEZE_AT`: 0
    /// freezes nothing, 2 the stem and C2, 5 everything.
    #[must_use]
    pub const fn with_freeze_at(mut self, stages: usize) -> Self {
        self.freeze_at = stages;
        self
    }

    /// Sets the channels after the stem, from which all others follow; 64 is the published
    /// network.
    #[must_use]
    pub const fn with_width(mut self, width: usize) -> Self {
        self.width = width;
        self
    }

    /// Makes the network, with weights that are a function of the seed alone.
    pub fn init(&self, seed: u64, device: &Device) -> ResNet {
        let [blocks2, blocks3, blocks4, blocks5] = self.architecture.blocks();
        let resnet = ResNet {
            conv1: unbiased([3, self.width], 7, 2, 1, device),
            norm1: self.norm.init(self.width, device),
            layer1: self.stage(self.width, 0, blocks2, device),
            layer2: self.stage(self.stage_channels(0), 1, blocks3, device),
            layer3: self.stage(self.stage_channels(1), 2, blocks4, device),
            layer4: self.stage(self.stage_channels(2), 3, blocks5, device),
            channels: [0, 1, 2, 3].map(|stage| self.stage_channels(stage)),
        };
        (WeightDistribution::KaimingNormal.sample(resnet, seed, "backbone"))
            .freeze_first(self.freeze_at)
    }

    /// The blocks of stage 0 (C2) to 3 (C5).
    fn stage(
        &self,
        channels_in: usize,
        stage: usize,
        blocks: usize,
        device: &Device,
    ) -> Vec<ResidualBlock> {
        let channels_out = self.stage_channels(stage);
        (0..blocks)
            .map(|block| {
                let channels_in = if block == 0 {
                    channels_in
                } else {
                    channels_out
                };
                // C2 keeps the resolution of the pooled stem.
                let stride = if block == 0 && stage > 0 { 2 } else { 1 };
                let channels = [channels_in, channels_out];
                if self.architecture.has_bottlenecks() {
                    let bottleneck = self.bottleneck(stage, stride);
                    ResidualBlock::bottleneck(channels, bottleneck, self.norm, device)
                } else {
                    ResidualBlock::basic(channels, stride, self.norm, device)
                }
            })
            .collect()
    }

    fn bottleneck(&self, stage: usize, stride: usize) -> Bottleneck {
        let (groups, group_channels) = self.architecture.groups();
        // A thin network's groups are thinner, too, but not empty.
        let group_channels = (group_channels * self.width / Self::STANDARD_WIDTH).max(1);
        Bottleneck {
            width: (groups * group_channels) << stage,
            groups,
            strides: if self.stride_in_1x1 {
                [stride, 1]
            } else {
                [1, stride]
            },
        }
    }

    const fn stage_channels(&self, stage: usize) -> usize {
        let width = self.width << stage;
        if self.architecture.has_bottlenecks() {
            width * BOTTLENECK_EXPANSION
        } else {
            width
        }
    }
}

/// The maps that the pyramid is built on, `[batch, height, width, channels]` each.
#[derive(Clone, Debug)]
pub struct BackboneFeatures {
    /// C2, stride 4.
    pub c2: Tensor<4>,
    /// C3, stride 8.
    pub c3: Tensor<4>,
    /// C4, stride 16.
    pub c4: Tensor<4>,
    /// C5, stride 32.
    pub c5: Tensor<4>,
}

/// A residual network without its classifier. The fields are named as torchvision's.
///
/// Should be created with [`ResNetConfig`].
#[derive(Module, Debug)]
pub struct ResNet {
    /// The stem's convolution.
    pub conv1: Conv2d,
    /// After the stem's convolution.
    pub norm1: Norm,
    /// The blocks that give C2.
    pub layer1: Vec<ResidualBlock>,
    /// The blocks that give C3.
    pub layer2: Vec<ResidualBlock>,
    /// The blocks that give C4.
    pub layer3: Vec<ResidualBlock>,
    /// The blocks that give C5.
    pub layer4: Vec<ResidualBlock>,
    channels: [usize; 4],
}

impl ResNet {
    /// Computes C2, C3, C4 and C5.
    ///
    /// # Shapes
    ///
    /// - `images`: `[batch, height, width, 3]`, normalised
    /// - output: strides 4, 8, 16 and 32, with [`channels`](Self::channels)
    pub fn forward(&self, images: Tensor<4>) -> BackboneFeatures {
        let c2 = run(&self.layer1, self.stem(images));
        let c3 = run(&self.layer2, c2.clone());
        let c4 = run(&self.layer3, c3.clone());
        let c5 = run(&self.layer4, c4.clone());
        BackboneFeatures { c2, c3, c4, c5 }
    }

    /// The pooled stem.
    pub(crate) fn stem(&self, images: Tensor<4>) -> Tensor<4> {
        max_pool2d(self.norm1.after(&self.conv1, images, RELU), 3, 2, 1)
    }

    /// The channels of C2, C3, C4 and C5.
    pub const fn channels(&self) -> [usize; 4] {
        self.channels
    }

    /// Says what the CPU may do for speed in all convolutions.
    pub fn compute_by(&mut self, arithmetic: Arithmetic) {
        self.conv1.compute_by(arithmetic);
        let stages = [
            &mut self.layer1,
            &mut self.layer2,
            &mut self.layer3,
            &mut self.layer4,
        ];
        let convolutions = stages
            .into_iter()
            .flatten()
            .flat_map(ResidualBlock::convolutions);
        convolutions.for_each(|conv| conv.compute_by(arithmetic));
    }

    /// Adds the network's parameters.
    pub fn parameters(&self, into: &mut Vec<Parameter>) {
        let Self {
            conv1,
            norm1,
            layer1,
            layer2,
            layer3,
            layer4,
            channels: _,
        } = self;
        conv1.parameters(into);
        norm1.parameters(into);
        for block in [layer1, layer2, layer3, layer4].into_iter().flatten() {
            block.parameters(into);
        }
    }

    fn freeze_first(mut self, stages: usize) -> Self {
        if stages >= 1 {
            self.conv1 = self.conv1.freeze();
            self.norm1 = self.norm1.freeze();
        }
        if stages >= 2 {
            self.layer1 = self.layer1.freeze();
        }
        if stages >= 3 {
            self.layer2 = self.layer2.freeze();
        }
        if stages >= 4 {
            self.layer3 = self.layer3.freeze();
        }
        if stages >= 5 {
            self.layer4 = self.layer4.freeze();
        }
        self
    }
}

/// Blocks one after another.
pub(crate) fn run(blocks: &[ResidualBlock], input: Tensor<4>) -> Tensor<4> {
    blocks.iter().fold(input, |x, block| block.forward(x))
}

#[cfg(test)]
mod tests {
    use burn::module::{ModuleVisitor, Param};

    use super::*;

    /// Counts of torchvision 0.29 without the classifier:
    /// `sum(p.numel() for n, p in resnet18().named_parameters() if not n.startswith("fc"))`.
    /// Here the running statistics count too, two for each channel of a batch norm.
    #[test]
    fn parameters_count_as_torchvisions() {
        for (architecture, parameters, channels_of_norms) in [
            (Architecture::Resnet18, 11_176_512, 4_800),
            (Architecture::Resnet34, 21_284_672, 8_512),
            (Architecture::Resnet50, 23_508_032, 26_560),
            (Architecture::Resnet101, 42_500_160, 52_672),
            (Architecture::Resnet152, 58_143_808, 75_712),
            (Architecture::Resnext50_32x4d, 22_979_904, 34_112),
            (Architecture::Resnext101_32x8d, 86_742_336, 101_440),
            (Architecture::WideResnet50_2, 66_834_240, 34_112),
        ] {
            let resnet = ResNetConfig::new(architecture).init(0, &Device::flex());
            assert_eq!(
                resnet.num_params(),
                parameters + 2 * channels_of_norms,
                "{architecture:?}"
            );
        }
    }

    #[test]
    fn features_have_strides_8_16_32_also_for_odd_sizes() {
        let device = Device::flex();
        for architecture in [
            Architecture::Resnet18,
            Architecture::Resnet50,
            Architecture::Resnext50_32x4d,
        ] {
            let resnet = ResNetConfig::new(architecture)
                .with_width(4)
                .init(0, &device);
            let features = resnet.forward(Tensor::zeros([2, 97, 64, 3], &device));
            let [channels2, channels3, channels4, channels5] = resnet.channels();
            assert_eq!(features.c2.dims(), [2, 25, 16, channels2]);
            assert_eq!(features.c3.dims(), [2, 13, 8, channels3]);
            assert_eq!(features.c4.dims(), [2, 7, 4, channels4]);
            assert_eq!(features.c5.dims(), [2, 4, 2, channels5]);
        }
    }

    #[test]
    fn the_stride_of_a_bottleneck_is_in_its_3x3_or_as_asked_in_its_1x1() {
        let device = Device::flex();
        for (stride_in_1x1, expected) in [(false, [1, 2, 1, 2]), (true, [2, 1, 1, 2])] {
            let mut resnet = ResNetConfig::new(Architecture::Resnet50)
                .with_width(4)
                .with_stride_in_1x1(stride_in_1x1)
                .init(0, &device);
            // The three of the block, and the shortcut's.
            let convolutions = resnet.layer2[0].convolutions();
            let strides: Vec<_> = convolutions.map(|conv| conv.options.stride).collect();
            assert_eq!(strides, expected.map(|stride| [stride; 2]));
        }
    }

    #[test]
    fn freeze_at_freezes_stage_by_stage() {
        let mut trainable_before = usize::MAX;
        for freeze_at in 0..=5 {
            let resnet = ResNetConfig::new(Architecture::Resnet18)
                .with_width(4)
                .with_norm(NormKind::GroupNorm)
                .with_freeze_at(freeze_at)
                .init(0, &Device::flex().autodiff());
            let trainable = count_trainable(&resnet);
            assert!(trainable < trainable_before, "freeze_at {freeze_at}");
            trainable_before = trainable;
        }
        assert_eq!(trainable_before, 0);
    }

    #[test]
    fn frozen_batch_norm_ignores_the_batch_and_batch_norm_does_not() {
        let device = Device::flex().autodiff();
        let images = Tensor::<4>::random(
            [2, 32, 32, 3],
            burn::tensor::Distribution::Normal(5.0, 3.0),
            &device,
        );
        for (norm, moves) in [
            (NormKind::FrozenBatchNorm, false),
            (NormKind::FixedStatistics, false),
            (NormKind::BatchNorm, true),
        ] {
            let resnet = ResNetConfig::new(Architecture::Resnet18)
                .with_width(4)
                .with_norm(norm)
                .init(0, &device);
            resnet.forward(images.clone());
            let (Norm::Batch(batch_norm) | Norm::FixedStatistics(batch_norm)) = &resnet.norm1
            else {
                panic!("not a batch norm");
            };
            let mean = batch_norm.running_mean.value_sync().abs().sum();
            assert_eq!(mean.into_scalar::<f32>() > 0.0, moves, "{norm:?}");
        }
    }

    fn count_trainable(resnet: &ResNet) -> usize {
        struct Counter(usize);
        impl ModuleVisitor for Counter {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 += usize::from(param.val().is_require_grad());
            }
        }
        let mut counter = Counter(0);
        resnet.visit(&mut counter);
        counter.0
    }
}
