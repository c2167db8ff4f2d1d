use retinanet_images::PreparationConfig;
use serde::{Deserialize, Serialize};

use crate::{DecodeConfig, ModelConfig};

/// Settings of a detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectorConfig {
    /// The network.
    pub model: ModelConfig,
    /// How images become numbers.
    pub images: PreparationConfig,
    /// How predictions become detections.
    pub decode: DecodeConfig,
    /// Whether 3×3 convolutions on the CPU may go by Winograd's algorithm. Default: yes.
    pub winograd: bool,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            model: ModelConfig::default(),
            images: PreparationConfig::default(),
            decode: DecodeConfig::default(),
            winograd: true,
        }
    }
}
