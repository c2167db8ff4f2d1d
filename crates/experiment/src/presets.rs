use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings of another program's RetinaNet, where they differ from the defaults: a layer below
/// all others of a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// torchvision's `retinanet_resnet50_fpn`.
    Torchvision,
    /// torchvision's `retinanet_resnet50_fpn_v2`.
    TorchvisionV2,
    /// detectron2's `Base-RetinaNet`.
    Detectron2,
    /// mmdetection's `retinanet_r50_fpn`.
    Mmdetection,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 4] = [
        Self::Torchvision,
        Self::TorchvisionV2,
        Self::Detectron2,
        Self::Mmdetection,
    ];

    /// Its settings as TOML.
    pub const fn toml(self) -> &'static str {
        match self {
            Self::Torchvision => include_str!("../presets/torchvision.toml"),
            Self::TorchvisionV2 => include_str!("../presets/torchvision_v2.toml"),
            Self::Detectron2 => include_str!("../presets/detectron2.toml"),
            Self::Mmdetection => include_str!("../presets/mmdetection.toml"),
        }
    }
}
