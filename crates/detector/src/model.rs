use burn::module::Module;
use burn::tensor::Tensor;
use retinanet_backbone::{FeaturePyramid, ResNet};
use retinanet_convolution::{Levels, channels_last};
use retinanet_heads::Subnet;

/// RetinaNet: a residual network, a feature pyramid, and two subnets shared over its levels.
///
/// Should be created with [`ModelConfig`](crate::ModelConfig).
#[derive(Module, Debug)]
pub struct RetinaNet {
    pub(crate) backbone: ResNet,
    pub(crate) pyramid: FeaturePyramid,
    pub(crate) class_subnet: Subnet,
    pub(crate) box_subnet: Subnet,
    pub(crate) classes: usize,
}

impl RetinaNet {
    /// Predicts class logits and box deltas for every anchor.
    ///
    /// # Shapes
    ///
    /// - `images`: `[batch, 3, height, width]`, normalised; sides of any length, though only
    ///   multiples of 32 keep the pyramid's levels aligned
    pub fn forward(&self, images: Tensor<4>) -> Predictions {
        let features = self.backbone.forward(channels_last(images));
        let levels = Levels::pack(self.pyramid.forward(features));
        let cells: Vec<usize> = levels
            .sizes
            .iter()
            .map(|[height, width]| height * width)
            .collect();
        let logits = self.class_subnet.forward(levels.clone());
        let deltas = self.box_subnet.forward(levels);
        let anchors_per_cell = deltas.dims()[1] / cells.iter().sum::<usize>();
        Predictions {
            logits,
            deltas,
            level_anchors: cells.iter().map(|cells| cells * anchors_per_cell).collect(),
        }
    }

    /// How many classes the model tells apart.
    pub const fn classes(&self) -> usize {
        self.classes
    }
}

/// What the model says of every anchor, level by level from P3: the order of the anchors.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// `[batch, anchors, classes]`, before the sigmoid.
    pub logits: Tensor<3>,
    /// `[batch, anchors, 4]`, for the box coder.
    pub deltas: Tensor<3>,
    /// How many anchors each level has.
    pub level_anchors: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use retinanet_backbone::Architecture;

    use super::*;
    use crate::ModelConfig;

    #[test]
    fn predictions_are_as_many_as_anchors() {
        let device = Device::flex();
        let config = ModelConfig {
            backbone: Architecture::Resnet18,
            width: 4,
            fpn_channels: 8,
            ..ModelConfig::default()
        };
        let generator = config.anchor_generator().unwrap();
        let model = config.init(2, &device).unwrap();
        for [height, width] in [[64, 96], [32, 32], [160, 64]] {
            let images = Tensor::random([2, 3, height, width], Distribution::Default, &device);
            let Predictions {
                logits,
                deltas,
                level_anchors,
            } = model.forward(images);
            let anchors = generator.generate(height, width).len();
            assert_eq!(logits.dims(), [2, anchors, 2]);
            assert_eq!(deltas.dims(), [2, anchors, 4]);
            assert_eq!(level_anchors.iter().sum::<usize>(), anchors);
        }
    }
}
