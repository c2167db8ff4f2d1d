use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use retinanet_backbone::{FeaturePyramid, NormKind, ResNet};
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
    /// The backbone's.
    #[module(skip)]
    pub(crate) norm: NormKind,
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

    /// Allows or forbids Winograd's algorithm in all convolutions; see
    /// [`ConvOptions::winograd`](retinanet_convolution::ConvOptions::winograd). It is allowed at first.
    #[must_use]
    pub fn with_winograd(mut self, allowed: bool) -> Self {
        self.backbone.allow_winograd(allowed);
        self.pyramid.allow_winograd(allowed);
        self.class_subnet.allow_winograd(allowed);
        self.box_subnet.allow_winograd(allowed);
        self
    }

    /// The backbone, whose maps have their channels last.
    pub const fn backbone(&self) -> &ResNet {
        &self.backbone
    }

    /// The feature pyramid, whose maps have their channels last.
    pub const fn pyramid(&self) -> &FeaturePyramid {
        &self.pyramid
    }

    /// How many parameters the model has, as PyTorch counts them: without running statistics, and
    /// without the scales and biases of frozen batch norms.
    pub fn parameters(&self) -> usize {
        struct Counter {
            containers: Vec<bool>,
            name: String,
            frozen_norms: bool,
            parameters: usize,
        }
        impl ModuleVisitor for Counter {
            fn enter_module(&mut self, name: &str, container_type: &str) {
                self.containers.push(container_type == "Struct:BatchNorm");
                name.clone_into(&mut self.name);
            }
            fn exit_module(&mut self, _name: &str, _container_type: &str) {
                self.containers.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let uncounted = self.frozen_norms || self.name.starts_with("running_");
                if !(self.containers.contains(&true) && uncounted) {
                    self.parameters += param.lazy_shape().num_elements();
                }
            }
        }
        let mut counter = Counter {
            containers: Vec::new(),
            name: String::new(),
            frozen_norms: self.norm == NormKind::FrozenBatchNorm,
            parameters: 0,
        };
        self.visit(&mut counter);
        counter.parameters
    }

    /// How many classes the model tells apart.
    pub const fn classes(&self) -> usize {
        self.classes
    }
}

/// What the model says of every anchor, level by level from P3: the order of the anchors.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// `[batch, anchors, classes]`, before the sigmoid or softmax.
    pub logits: Tensor<3>,
    /// `[batch, anchors, 4]`, for the box coder.
    pub deltas: Tensor<3>,
    /// How many anchors each level has.
    pub level_anchors: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use retinanet_backbone::{Architecture, P6Source};
    use retinanet_heads::{HeadConfig, HeadNorm};

    use retinanet_settings::Whole;

    use super::*;
    use crate::ModelConfig;

    /// torchvision's own counts (`RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["num_params"]` and
    /// V2's) and detectron2's for 80 classes.
    #[test]
    fn parameters_count_as_the_peers() {
        let plain = ModelConfig::default();
        let torchvision = ModelConfig {
            p6_from: P6Source::P5,
            ..ModelConfig::default()
        };
        let second = ModelConfig {
            norm: NormKind::BatchNorm,
            head: HeadConfig {
                norm: HeadNorm::GroupNorm,
                conv_bias: false,
                ..HeadConfig::default()
            },
            ..ModelConfig::default()
        };
        for (config, classes, parameters) in [
            (torchvision, 91, 34_014_999),
            (second, 91, 38_198_935),
            (plain, 80, 37_915_572),
        ] {
            let model = config.init(classes, 0, &Device::flex()).unwrap();
            assert_eq!(model.parameters(), parameters);
        }
    }

    #[test]
    fn predictions_are_as_many_as_anchors() {
        let device = Device::flex();
        let config = ModelConfig {
            backbone: Architecture::Resnet18,
            width: Whole::literal(4),
            fpn_channels: Whole::literal(8),
            ..ModelConfig::default()
        };
        let generator = config.anchor_generator().unwrap();
        let model = config.init(2, 0, &device).unwrap();
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

    #[test]
    fn two_models_of_one_process_keep_their_own_algorithm() {
        let device = Device::flex();
        let config = ModelConfig {
            backbone: Architecture::Resnet18,
            width: Whole::literal(16),
            fpn_channels: Whole::literal(32),
            ..ModelConfig::default()
        };
        let fast = config.init(2, 0, &device).unwrap();
        let exact = fast.clone().with_winograd(false);
        let images = Tensor::random([1, 3, 256, 256], Distribution::Default, &device);
        let features = |model: &RetinaNet| {
            let features = model.backbone.forward(channels_last(images.clone()));
            let levels = model.pyramid.forward(features).into_iter();
            levels.map(Tensor::into_data).collect::<Vec<_>>()
        };
        let alone = features(&fast);
        assert_ne!(features(&exact), alone);
        assert_eq!(features(&fast), alone);
    }
}
