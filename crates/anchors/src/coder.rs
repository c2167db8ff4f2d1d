//! How boxes are written relative to anchors.

mod deltas;
mod distances;

use retinanet_boxes::BoundingBox;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::deltas::{DeltaCoder, DeltaConfig, MAX_LOG_SCALE};
pub use self::distances::{DistanceCoder, DistanceConfig};

/// Settings of the [`BoxCoder`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BoxCoderConfig {
    /// How far the centre moves, and the logarithm of how much the sides grow: the paper, after Girshick et al. 2014.
    Deltas(DeltaConfig),
    /// How far each side is from the anchor's centre: FCOS (Tian et al. 2019), GFL (Li et al. 2020).
    Distances(DistanceConfig),
}

impl BoxCoderConfig {
    /// Builds the coder.
    pub fn init(&self) -> BoxCoder {
        match self {
            Self::Deltas(config) => BoxCoder::Deltas(config.init()),
            Self::Distances(config) => BoxCoder::Distances(config.init()),
        }
    }
}

impl Default for BoxCoderConfig {
    fn default() -> Self {
        Self::Deltas(DeltaConfig::default())
    }
}

/// Writes boxes relative to anchors, four numbers each, and reads them back. Should be created with
/// [`BoxCoderConfig::init`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BoxCoder {
    /// By centre and sides.
    Deltas(DeltaCoder),
    /// By the distances of its sides.
    Distances(DistanceCoder),
}

impl BoxCoder {
    /// What a box is called as seen from an anchor. Both must cover something, else the numbers are non-finite.
    pub fn encode(&self, anchor: &BoundingBox, target: &BoundingBox) -> [f32; 4] {
        match self {
            Self::Deltas(coder) => coder.encode(anchor, target),
            Self::Distances(coder) => coder.encode(anchor, target),
        }
    }

    /// The box that these numbers describe.
    pub fn decode(&self, anchor: &BoundingBox, deltas: [f32; 4]) -> BoundingBox {
        match self {
            Self::Deltas(coder) => coder.decode(anchor, deltas),
            Self::Distances(coder) => coder.decode(anchor, deltas),
        }
    }

    /// How many values each of the four numbers is predicted as a distribution over, if it is.
    pub const fn bins(&self) -> Option<usize> {
        match self {
            Self::Deltas(_) => None,
            Self::Distances(coder) => coder.bins(),
        }
    }

    /// How many values are predicted for a box: four numbers, or their distributions one after the other.
    pub const fn predicted_values(&self) -> usize {
        match self.bins() {
            Some(bins) => 4 * bins,
            None => 4,
        }
    }

    /// The four numbers of what is predicted for a box.
    pub fn deltas_of(&self, predicted: &[f32]) -> [f32; 4] {
        match self.bins() {
            Some(bins) => [0, 1, 2, 3].map(|side| {
                let logits = predicted.get(side * bins..(side + 1) * bins);
                distances::integral(logits.unwrap_or_default())
            }),
            None => predicted.first_chunk().copied().unwrap_or_default(),
        }
    }
}

impl Default for BoxCoder {
    fn default() -> Self {
        BoxCoderConfig::default().init()
    }
}
