use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings of another program's RetinaNet, or for small data, where they differ from the defaults: a layer below
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
    /// ATSS (Zhang et al. 2020) as mmdetection has it: one anchor a cell, positives by each box's own overlap, centerness.
    Atss,
    /// GFL (Li et al. 2020) as mmdetection has it: ATSS with quality focal loss, and boxes as distributions.
    Gfl,
    /// VarifocalNet (Zhang et al. 2021) without its deformable convolution: ATSS with varifocal loss.
    Varifocal,
    /// Some tens to some thousands of photos on a CPU: what `retinanet init` writes, but for what it fits to the data.
    SmallData,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 8] = [
        Self::Torchvision,
        Self::TorchvisionV2,
        Self::Detectron2,
        Self::Mmdetection,
        Self::Atss,
        Self::Gfl,
        Self::Varifocal,
        Self::SmallData,
    ];

    /// Its settings as TOML, layer on layer.
    pub const fn toml(self) -> &'static [&'static str] {
        match self {
            Self::Torchvision => &[include_str!("../presets/torchvision.toml")],
            Self::TorchvisionV2 => &[include_str!("../presets/torchvision_v2.toml")],
            Self::Detectron2 => &[include_str!("../presets/detectron2.toml")],
            Self::Mmdetection => &[MMDETECTION],
            Self::Atss => &[MMDETECTION, ATSS],
            Self::Gfl => &[MMDETECTION, ATSS, include_str!("../presets/gfl.toml")],
            Self::Varifocal => &[MMDETECTION, ATSS, include_str!("../presets/varifocal.toml")],
            Self::SmallData => &[include_str!("../presets/small_data.toml")],
        }
    }
}

const MMDETECTION: &str = include_str!("../presets/mmdetection.toml");
const ATSS: &str = include_str!("../presets/atss.toml");
