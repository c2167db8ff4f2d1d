use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use retinanet_anchors::{AnchorConfig, AnchorError, AnchorGenerator, BoxCoderConfig};
use retinanet_backbone::{
    Architecture, FeaturePyramidConfig, FinestLevel, NormKind, P6Source, ResNetConfig,
};
use retinanet_heads::HeadConfig;
use serde::{Deserialize, Serialize};

use crate::model::RetinaNet;

/// Settings of the model, `[model]`. The defaults are the paper's network as detectron2 builds
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The residual network.
    pub backbone: Architecture,
    /// Channels after the backbone's stem, from which its others follow; 64 is the published
    /// network, fewer make a thin one.
    pub width: usize,
    /// The backbone's normalisation.
    pub norm: NormKind,
    /// What the backbone's norms add to the variance. torchvision runs its published
    /// `RetinaNet_ResNet50_FPN_Weights.COCO_V1` with 0.
    pub norm_epsilon: f64,
    /// Whether a bottleneck's stride is in its first 1×1 convolution, as in detectron2's weights,
    /// and not in the 3×3, as in torchvision's.
    pub stride_in_1x1: bool,
    /// How many of stem, C2, C3, C4 and C5 do not train.
    pub freeze_at: usize,
    /// A weight file that training starts from: a backbone or a whole detector, in this program's,
    /// torchvision's, timm's or detectron2's names; or `hf:REPOSITORY` on the Hugging Face Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<String>,
    /// Channels of every pyramid level.
    pub fpn_channels: usize,
    /// What P6 is computed from.
    pub p6_from: P6Source,
    /// Whether P7 sees only the positive part of P6.
    pub relu_before_p7: bool,
    /// The pyramid's finest level; with `p2`, `anchors.sizes` needs six entries.
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
            width: ResNetConfig::STANDARD_WIDTH,
            norm: NormKind::FrozenBatchNorm,
            norm_epsilon: ResNetConfig::STANDARD_EPSILON,
            stride_in_1x1: false,
            freeze_at: 2,
            pretrained: None,
            fpn_channels: 256,
            p6_from: P6Source::C5,
            relu_before_p7: true,
            finest_level: FinestLevel::P3,
            head: HeadConfig::default(),
            anchors: AnchorConfig::default(),
            box_coder: BoxCoderConfig::default(),
        }
    }
}

impl ModelConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns an error that names the key at fault.
    pub fn check(&self) -> Result<(), ModelError> {
        let channels = self.head.channels.unwrap_or(self.fpn_channels);
        for (key, got, range, allowed) in [
            ("model.width", self.width, 1..=256, "in [1, 256]"),
            (
                "model.fpn_channels",
                self.fpn_channels,
                1..=4096,
                "in [1, 4096]",
            ),
            ("model.head.channels", channels, 1..=4096, "in [1, 4096]"),
            ("model.head.depth", self.head.depth, 0..=32, "in [0, 32]"),
        ] {
            if !range.contains(&got) {
                return Err(ModelError::out_of_range(key, got, allowed));
            }
        }
        if self.freeze_at > 5 {
            return Err(ModelError::out_of_range(
                "model.freeze_at",
                self.freeze_at,
                "0 to 5",
            ));
        }
        let prior = self.head.prior;
        if !(1e-9..1.0).contains(&prior) {
            return Err(ModelError::out_of_range(
                "model.head.prior",
                prior,
                "in [1e-9, 1)",
            ));
        }
        let epsilon = self.norm_epsilon;
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return Err(ModelError::out_of_range(
                "model.norm_epsilon",
                epsilon,
                "finite and at least 0",
            ));
        }
        self.box_coder.init()?;
        self.anchor_generator().map(drop)
    }

    /// The generator of this model's anchors.
    ///
    /// # Errors
    ///
    /// Returns an error where the anchors' settings do not fit the pyramid.
    pub fn anchor_generator(&self) -> Result<AnchorGenerator, ModelError> {
        Ok(self.anchors.init(self.finest_level.strides())?)
    }

    /// Makes a model for this many classes. Its parameters are a function of the settings and the
    /// seed alone: the same bits on every device.
    ///
    /// # Errors
    ///
    /// Returns an error where a setting is out of range, or there is no class to learn.
    pub fn init(
        &self,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<RetinaNet, ModelError> {
        self.check()?;
        if classes == 0 {
            return Err(ModelError::NoClasses);
        }
        let backbone = ResNetConfig::new(self.backbone)
            .with_norm(self.norm)
            .with_norm_epsilon(self.norm_epsilon)
            .with_stride_in_1x1(self.stride_in_1x1)
            .with_freeze_at(self.freeze_at)
            .with_width(self.width)
            .init(seed, device);
        let pyramid = FeaturePyramidConfig::new(backbone.channels())
            .with_channels(self.fpn_channels)
            .with_finest_level(self.finest_level)
            .with_p6_from(self.p6_from)
            .with_relu_before_p7(self.relu_before_p7)
            .init(seed, device);
        let anchors_per_cell = self.anchor_generator()?.anchors_per_cell();
        let class_subnet =
            self.head
                .init_class_subnet(self.fpn_channels, anchors_per_cell, classes, seed, device);
        let box_subnet =
            self.head
                .init_box_subnet(self.fpn_channels, anchors_per_cell, seed, device);
        let model = RetinaNet {
            backbone,
            pyramid,
            class_subnet,
            box_subnet,
            classes,
            norm: self.norm,
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
    /// A setting is out of range.
    #[error("`{key}` must be {allowed}, got {got}")]
    OutOfRange {
        /// The key in the run's config.
        key: &'static str,
        /// What the config says.
        got: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// The anchors' settings are out of range.
    #[error(transparent)]
    Anchors(#[from] AnchorError),
    /// There is nothing to tell from the background.
    #[error("the data set has no class, a detector needs at least one")]
    NoClasses,
}

impl ModelError {
    pub(crate) fn out_of_range(
        key: &'static str,
        got: impl std::fmt::Display,
        allowed: &'static str,
    ) -> Self {
        Self::OutOfRange {
            key,
            got: got.to_string(),
            allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_papers() {
        let config = ModelConfig::default();
        assert!(config.check().is_ok());
        assert_eq!(config.anchor_generator().unwrap().anchors_per_cell(), 9);
        assert_eq!((config.head.depth, config.head.prior), (4, 0.01));
    }

    #[test]
    fn each_setting_out_of_range_is_refused_by_name() {
        let change = |change: fn(&mut ModelConfig)| {
            let mut config = ModelConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(
            change(|config| config.width = 0),
            "`model.width` must be in [1, 256], got 0"
        );
        assert_eq!(
            change(|config| config.freeze_at = 6),
            "`model.freeze_at` must be 0 to 5, got 6"
        );
        assert_eq!(
            change(|config| config.head.prior = 1.0),
            "`model.head.prior` must be in [1e-9, 1), got 1"
        );
        assert!(change(|config| config.anchors.aspect_ratios.clear()).contains("aspect_ratios"));
    }
}
