use retinanet_images::{Interpolation, SizeRounding};
use serde::{Deserialize, Serialize};

/// How large images become: the shorter side gets a given length, unless the longer one would
/// outgrow its limit. The shape stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResizeConfig {
    /// Lengths of the shorter side in pixels, each at least 1; in training one of them is drawn for
    /// every sample. Default: `[800]`.
    pub short_side: Vec<u32>,
    /// Limit of the longer side in pixels, in `[1, 65535]`. Default: 1333.
    pub long_side: u32,
    /// Length of the shorter side outside training; unset, the largest of
    /// [`short_side`](Self::short_side). Default: unset.
    pub eval_short_side: Option<u32>,
    /// How pixels of the resized image are computed.
    pub interpolation: Interpolation,
    /// How the sides of the resized image become whole numbers.
    pub size_rounding: SizeRounding,
}

impl Default for ResizeConfig {
    fn default() -> Self {
        Self {
            short_side: vec![800],
            long_side: 1333,
            eval_short_side: None,
            interpolation: Interpolation::default(),
            size_rounding: SizeRounding::default(),
        }
    }
}
