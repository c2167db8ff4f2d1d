use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use retinanet_anchors::{AnchorConfig, AnchorError, AnchorGenerator, BoxCoderConfig};
use retinanet_backbone::{
    Architecture, Backbone, FeaturePyramidConfig, FinestLevel, NormKind, P6Source, ResNetConfig,
};
use retinanet_convolution::Arithmetic;
use retinanet_heads::{HeadConfig, PredictedBoxes};
use retinanet_settings::{NonNegative, SettingError, Whole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::RetinaNet;
use crate::precision::Precision;

/// Settings of the model. The defaults are the paper's network as detectron2 builds
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The residual network.
    pub backbone: Architecture,
    /// Channels after the backbone's stem, from which its others follow; 64 is the published
    /// network, fewer make a thin one.
    pub width: Whole<1, 256>,
    /// The backbone's normalisation.
    pub norm: NormKind,
    /// What the backbone's norms add to the variance. torchvision runs its published
    /// `RetinaNet_ResNet50_FPN_Weights.COCO_V1` with 0.
    pub norm_epsilon: NonNegative,
    /// Whether a bottleneck's stride is in its first 1×1 convolution, as in detectron2's weights,
    /// and not in the 3×3, as in torchvision's.
    pub stride_in_1x1: bool,
    /// How many of stem, C2, C3, C4 and C5 do not train.
    pub freeze_at: Whole<0, 5>,
    /// The weights that training starts from, of a backbone or a whole detector: a file in this program's, torchvision's,
    /// timm's or detectron2's names; a run or a checkpoint; `builtin:retinanet_resnet18`, which ships with the program, or
    /// its backbone, `builtin:resnet18`; `torchvision:resnet50`; `hf:OWNER/NAME` on the Hugging Face Hub; or an address
    /// that ends with `#sha256=` and digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<String>,
    /// Channels of every pyramid level.
    pub fpn_channels: Whole<1, 4096>,
    /// What P6 is computed from.
    pub p6_from: P6Source,
    /// Whether P7 sees only the positive part of P6.
    pub relu_before_p7: bool,
    /// Whether a path leads from the pyramid's finest level up to P5 again, as in PANet (Liu et al. 2018): mmdetection's
    /// `PAFPN`.
    pub bottom_up_path: bool,
    /// The pyramid's finest level; with `p2`, the anchors need sizes for six levels.
    pub finest_level: FinestLevel,
    /// The class and box subnets.
    pub head: HeadConfig,
    /// The anchors.
    pub anchors: AnchorConfig,
    /// How boxes are written relative to anchors.
    pub box_coder: BoxCoderConfig,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            backbone: Architecture::Resnet50,
            width: Whole::literal(ResNetConfig::STANDARD_WIDTH as u64),
            norm: NormKind::FrozenBatchNorm,
            norm_epsilon: NonNegative::literal(ResNetConfig::STANDARD_EPSILON),
            stride_in_1x1: false,
            freeze_at: Whole::literal(2),
            pretrained: None,
            fpn_channels: Whole::literal(256),
            p6_from: P6Source::C5,
            relu_before_p7: true,
            bottom_up_path: false,
            finest_level: FinestLevel::P3,
            head: HeadConfig::default(),
            anchors: AnchorConfig::default(),
            box_coder: BoxCoderConfig::default(),
        }
    }
}

impl ModelConfig {
    /// The generator of this model's anchors.
    ///
    /// # Errors
    ///
    /// Returns an error if the anchors' settings do not fit the pyramid.
    pub fn anchor_generator(&self) -> Result<AnchorGenerator, ModelError> {
        let generator = self.anchors.init(self.finest_level.strides());
        generator.map_err(|error| match error {
            AnchorError::Setting(error) => error.within("anchors").into(),
            error => ModelError::Anchors(error),
        })
    }

    /// How many values the box subnet gives an anchor: four deltas or their distributions, and perhaps its centerness.
    pub fn values_per_anchor(&self) -> usize {
        self.box_coder.init().predicted_values() + usize::from(self.head.centerness)
    }

    /// Makes a model for this many classes. Its parameters are a function of the settings and the
    /// seed alone: the same bits on every device.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other, or if there is no class to learn.
    pub fn init(
        &self,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<RetinaNet, ModelError> {
        let generator = self.anchor_generator()?;
        if classes == 0 {
            return Err(ModelError::NoClasses);
        }
        let channels = self.fpn_channels.as_usize();
        let backbone = ResNetConfig::new(self.backbone)
            .with_norm(self.norm)
            .with_norm_epsilon(self.norm_epsilon.get())
            .with_stride_in_1x1(self.stride_in_1x1)
            .with_freeze_at(self.freeze_at.as_usize())
            .with_width(self.width.as_usize())
            .init(seed, device);
        let pyramid = FeaturePyramidConfig::new(backbone.channels())
            .with_channels(channels)
            .with_finest_level(self.finest_level)
            .with_p6_from(self.p6_from)
            .with_relu_before_p7(self.relu_before_p7)
            .with_bottom_up_path(self.bottom_up_path)
            .init(seed, device);
        let anchors_per_cell = generator.anchors_per_cell();
        let class_subnet =
            self.head
                .init_class_subnet(channels, anchors_per_cell, classes, seed, device);
        let boxes = PredictedBoxes {
            anchors_per_cell,
            values: self.box_coder.init().predicted_values(),
            levels: self.finest_level.strides().len(),
        };
        let box_subnet = self.head.init_box_subnet(channels, boxes, seed, device);
        let model = RetinaNet {
            backbone: Backbone::ResNet(backbone),
            pyramid,
            class_subnet,
            box_subnet,
            classes,
            norm: self.norm,
            precision: Precision::default(),
            arithmetic: Arithmetic::STANDARD,
            gradient_checkpointing: false,
        };
        make_parameters(&model);
        Ok(model)
    }
}

/// Burn makes a parameter when it is first read: all of them now, and not in the middle of a step.
fn make_parameters(model: &RetinaNet) {
    struct Reader;
    impl ModuleVisitor for Reader {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            drop(param.val());
        }
    }
    model.visit(&mut Reader);
}

/// The settings make no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Settings do not fit each other.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// There are no anchors for such a pyramid.
    #[error(transparent)]
    Anchors(AnchorError),
    /// There is nothing to tell from the background.
    #[error("the data set has no class, a detector needs at least one")]
    NoClasses,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_papers() {
        let config = ModelConfig::default();
        assert_eq!(config.anchor_generator().unwrap().anchors_per_cell(), 9);
        assert_eq!(config.head.depth.get(), 4);
        assert_eq!(config.head.prior, 0.01);
    }

    #[test]
    fn anchors_that_do_not_fit_the_pyramid_are_refused_by_path() {
        let config = ModelConfig {
            finest_level: FinestLevel::P2,
            ..ModelConfig::default()
        };
        assert_eq!(
            config.anchor_generator().unwrap_err().to_string(),
            "`anchors.sizes` must be of one entry for each of the 6 pyramid levels, got 5"
        );
    }
}
