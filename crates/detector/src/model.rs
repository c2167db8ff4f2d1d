use burn::module::Module;
use burn::tensor::{DType, Tensor};
use retinanet_backbone::{Backbone, FeaturePyramid, NormKind};
use retinanet_convolution::{Arithmetic, Levels, Parameter, ParameterKind, channels_last};
use retinanet_heads::Subnet;

use crate::ModelConfig;
use crate::precision::Precision;

/// RetinaNet: a residual network, a feature pyramid, and two subnets shared over its levels.
///
/// Should be created with [`ModelConfig`](crate::ModelConfig).
#[derive(Module, Debug)]
pub struct RetinaNet {
    pub(crate) backbone: Backbone,
    pub(crate) pyramid: FeaturePyramid,
    pub(crate) class_subnet: Subnet,
    pub(crate) box_subnet: Subnet,
    pub(crate) classes: usize,
    /// The backbone's.
    #[module(skip)]
    pub(crate) norm: NormKind,
    /// Of what convolutions multiply.
    #[module(skip)]
    pub(crate) precision: Precision,
    /// What the CPU may do for speed.
    #[module(skip)]
    pub(crate) arithmetic: Arithmetic,
    /// Whether training computes layers anew in the backward pass.
    #[module(skip)]
    pub(crate) gradient_checkpointing: bool,
}

impl RetinaNet {
    /// Predicts class logits and box deltas for every anchor.
    ///
    /// # Shapes
    ///
    /// - `images`: `[batch, 3, height, width]`, normalised; sides of any length, though only
    ///   multiples of 32 keep the pyramid's levels aligned
    pub fn forward(&self, images: Tensor<4>) -> Predictions {
        let precision = self.precision.of_maps(&images.device());
        let images = images.cast(precision);
        let features = self.backbone.forward(channels_last(images));
        let levels = Levels::pack(self.pyramid.forward(features));
        let cells: Vec<usize> = levels
            .sizes
            .iter()
            .map(|[height, width]| height * width)
            .collect();
        let logits = self.class_subnet.forward(levels.clone());
        let boxes = self.box_subnet.forward(levels);
        let anchors_per_cell = boxes.dims()[1] / cells.iter().sum::<usize>();
        Predictions {
            logits,
            boxes,
            level_anchors: cells.iter().map(|cells| cells * anchors_per_cell).collect(),
        }
    }

    /// The backbone's features of images as wholes: C5's mean over all places, in f32.
    ///
    /// # Shapes
    ///
    /// - `images`: `[batch, 3, height, width]`, normalised
    /// - output: `[batch, channels]`
    pub fn image_features(&self, images: Tensor<4>) -> Tensor<2> {
        let precision = self.precision.of_maps(&images.device());
        let images = images.cast(precision);
        let map = self.backbone.forward(channels_last(images)).c5;
        let [batch, height, width, channels] = map.dims();
        let places = map.reshape([batch, height * width, channels]);
        places.cast(DType::F32).mean_dim(1).squeeze_dim(1)
    }

    /// Allows or forbids Winograd's algorithm in all convolutions; see
    /// [`Arithmetic::winograd`](retinanet_convolution::Arithmetic::winograd). It is allowed at first.
    #[must_use]
    pub fn with_winograd(self, allowed: bool) -> Self {
        let arithmetic = Arithmetic {
            winograd: allowed,
            ..self.arithmetic
        };
        self.computing_by(arithmetic)
    }

    fn computing_by(mut self, arithmetic: Arithmetic) -> Self {
        self.arithmetic = arithmetic;
        self.backbone.compute_by(arithmetic);
        self.pyramid.compute_by(arithmetic);
        self.class_subnet.compute_by(arithmetic);
        self.box_subnet.compute_by(arithmetic);
        self
    }

    /// Whether training moves running statistics.
    pub fn has_running_statistics(&self) -> bool {
        matches!(self.norm, NormKind::BatchNorm | NormKind::SyncBatchNorm)
    }

    /// Whether norms take their statistics over all processes that share a batch.
    pub fn has_synchronised_norms(&self) -> bool {
        self.norm == NormKind::SyncBatchNorm
    }

    /// Computes in this precision from now on. The device must have it ([`Precision::is_on`]). It is [`Precision::F32`] at
    /// first.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        let arithmetic = Arithmetic {
            bf16: precision == Precision::Bf16,
            ..self.arithmetic
        };
        self.computing_by(arithmetic)
    }

    /// The precision of what convolutions multiply.
    pub const fn precision(&self) -> Precision {
        self.precision
    }

    /// Has training compute layers anew in the backward pass in place of keeping what they gave, for less memory and the
    /// same numbers. Not so at first, and not where running statistics move, which would move twice.
    #[must_use]
    pub const fn with_gradient_checkpointing(mut self, wanted: bool) -> Self {
        self.gradient_checkpointing = wanted;
        self
    }

    /// Whether training computes layers anew in the backward pass.
    pub fn has_gradient_checkpointing(&self) -> bool {
        self.gradient_checkpointing && !self.has_running_statistics()
    }

    /// The backbone, whose maps have their channels last.
    pub const fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// The feature pyramid, whose maps have their channels last.
    pub const fn pyramid(&self) -> &FeaturePyramid {
        &self.pyramid
    }

    /// The class subnet.
    pub const fn class_subnet(&self) -> &Subnet {
        &self.class_subnet
    }

    /// The box subnet.
    pub const fn box_subnet(&self) -> &Subnet {
        &self.box_subnet
    }

    /// All parameters, by the part of the model that they are in; running statistics are none.
    pub fn parameters(&self) -> Vec<(ModelPart, Parameter)> {
        let Self {
            backbone,
            pyramid,
            class_subnet,
            box_subnet,
            classes: _,
            norm: _,
            precision: _,
            arithmetic: _,
            gradient_checkpointing: _,
        } = self;
        let mut parts = [const { Vec::new() }; 4];
        let [of_backbone, of_pyramid, of_classes, of_boxes] = &mut parts;
        backbone.parameters(of_backbone);
        pyramid.parameters(of_pyramid);
        class_subnet.parameters(of_classes);
        box_subnet.parameters(of_boxes);
        let named = ModelPart::ALL.into_iter().zip(parts);
        named
            .flat_map(|(part, parameters)| parameters.into_iter().map(move |it| (part, it)))
            .collect()
    }

    /// How many parameters the model has, as PyTorch counts them: without the scales and biases of frozen batch norms.
    pub fn count_parameters(&self) -> usize {
        let frozen_norms = self.norm == NormKind::FrozenBatchNorm;
        let is_frozen = |part: ModelPart, kind: ParameterKind| {
            frozen_norms && part == ModelPart::Backbone && kind == ParameterKind::Norm
        };
        let parameters = self.parameters().into_iter();
        let counted = parameters.filter(|(part, it)| !is_frozen(*part, it.kind));
        counted.map(|(_, it)| it.elements).sum()
    }

    /// How many classes the model tells apart.
    pub const fn classes(&self) -> usize {
        self.classes
    }
}

/// A part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPart {
    /// The backbone.
    Backbone,
    /// The feature pyramid.
    Pyramid,
    /// The class subnet.
    ClassSubnet,
    /// The box subnet.
    BoxSubnet,
}

impl ModelPart {
    const ALL: [Self; 4] = [
        Self::Backbone,
        Self::Pyramid,
        Self::ClassSubnet,
        Self::BoxSubnet,
    ];
}

/// What the model says of every anchor, level by level from P3: the order of the anchors.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// `[batch, anchors, classes]`, before the sigmoid or softmax.
    pub logits: Tensor<3>,
    /// `[batch, anchors, values]`, for the box coder: four deltas, or the logits of their distributions one after the other;
    /// behind them the logit of centerness where there is one.
    pub boxes: Tensor<3>,
    /// How many anchors each level has.
    pub level_anchors: Vec<usize>,
}

impl Predictions {
    /// The four numbers of the box coder for every anchor, `[batch * anchors * 4]`.
    pub fn deltas(&self, model: &ModelConfig) -> Vec<f32> {
        let [_, _, values] = self.boxes.dims();
        let boxes: Vec<f32> = self.boxes.clone().into_data().iter().collect();
        let coder = model.box_coder.init();
        let anchors = boxes.chunks_exact(values);
        anchors.flat_map(|values| coder.deltas_of(values)).collect()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use retinanet_backbone::{Architecture, P6Source};
    use retinanet_heads::{HeadConfig, HeadNorm};

    use retinanet_settings::Whole;

    use burn::module::{ModuleVisitor, Param, ParamId};

    use super::*;

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
            assert_eq!(model.count_parameters(), parameters);
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
                boxes,
                level_anchors,
            } = model.forward(images);
            let anchors = generator.generate(height, width).len();
            assert_eq!(logits.dims(), [2, anchors, 2]);
            assert_eq!(boxes.dims(), [2, anchors, 4]);
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

    #[test]
    fn every_parameter_is_listed_once() {
        struct Floats(Vec<ParamId>, String);
        impl ModuleVisitor for Floats {
            fn enter_module(&mut self, name: &str, _container_type: &str) {
                name.clone_into(&mut self.1);
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if !self.1.starts_with("running_") {
                    self.0.push(param.id);
                }
            }
        }
        for norm in [NormKind::BatchNorm, NormKind::GroupNorm] {
            let config = ModelConfig {
                width: Whole::literal(2),
                fpn_channels: Whole::literal(4),
                norm,
                ..ModelConfig::default()
            };
            let model = config.init(2, 0, &Device::flex()).unwrap();
            let mut floats = Floats(Vec::new(), String::new());
            model.visit(&mut floats);
            let listed = model.parameters().into_iter().map(|(_, it)| it.id);
            let listed: Vec<ParamId> = listed.collect();
            let [expected, found] = [floats.0, listed].map(|ids| {
                let count = ids.len();
                (
                    count,
                    ids.into_iter().collect::<std::collections::HashSet<_>>(),
                )
            });
            assert_eq!(found, expected);
        }
    }
}
