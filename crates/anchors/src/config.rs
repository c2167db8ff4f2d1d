use retinanet_settings::Whole;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lengths::{Lengths, MOST_LENGTHS};

/// Settings of the [`AnchorGenerator`](crate::AnchorGenerator).
///
/// # Defaults
///
/// Those of detectron2: sizes 32 to 512 in three steps an octave, three aspect ratios, anchors at
/// the cells' corners. torchvision's are
///
/// ```toml
/// rounding = "torchvision"
/// order = "ratio_major"
/// spacing = "measured"
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnchorConfig {
    /// The base size of each pyramid level, finest first: the side, in pixels of the network
    /// input, of a square of the anchor's area.
    pub sizes: Lengths,
    /// How many sizes a level has: `size · 2^(k / scales_per_octave)` for `k` from 0.
    pub scales_per_octave: Whole<1, { MOST_LENGTHS as u64 }>,
    /// Height over width of the anchors.
    pub aspect_ratios: Lengths,
    /// Sizes and aspect ratios of each level, finest first, in place of `sizes`,
    /// `scales_per_octave` and `aspect_ratios`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<Vec<LevelAnchors>>,
    /// Which point of its cell an anchor is centred on.
    pub center: CellCenter,
    /// Whether sizes and edges are rounded.
    pub rounding: CellRounding,
    /// The order of the anchors of one cell.
    pub order: CellOrder,
    /// How far apart the cells are.
    pub spacing: CellSpacing,
}

impl AnchorConfig {
    /// How many anchors each cell of the feature maps has.
    pub fn anchors_per_cell(&self) -> usize {
        match &self.levels {
            Some(levels) => levels
                .first()
                .map_or(0, |level| level.sizes.len() * level.aspect_ratios.len()),
            None => self.scales_per_octave.as_usize() * self.aspect_ratios.len(),
        }
    }

    /// The sizes and ratios of each level, whichever way they are written.
    pub(crate) fn shapes(&self) -> Vec<CellShapes> {
        if let Some(levels) = &self.levels {
            return levels.iter().map(LevelAnchors::shapes).collect();
        }
        let of_level = |size: f64| CellShapes {
            sizes: self.octave(size),
            aspect_ratios: self.aspect_ratios.to_f64(),
        };
        self.sizes.to_f64().into_iter().map(of_level).collect()
    }

    /// The sizes from this one up to its double.
    fn octave(&self, size: f64) -> Vec<f64> {
        let steps = self.scales_per_octave.get();
        (0..steps)
            .map(|step| size * (step as f64 / steps as f64).exp2())
            .map(|size| match self.rounding {
                CellRounding::Exact => size,
                CellRounding::Torchvision => size.trunc(),
            })
            .collect()
    }
}

impl Default for AnchorConfig {
    fn default() -> Self {
        Self {
            sizes: Lengths::literal(&[32.0, 64.0, 128.0, 256.0, 512.0]),
            scales_per_octave: Whole::literal(3),
            aspect_ratios: Lengths::literal(&[0.5, 1.0, 2.0]),
            levels: None,
            center: CellCenter::default(),
            rounding: CellRounding::default(),
            order: CellOrder::default(),
            spacing: CellSpacing::default(),
        }
    }
}

/// The anchors of one pyramid level: every size with every aspect ratio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LevelAnchors {
    /// Sides, in pixels of the network input, of squares of the anchors' areas.
    pub sizes: Lengths,
    /// Height over width of the anchors.
    pub aspect_ratios: Lengths,
}

impl LevelAnchors {
    fn shapes(&self) -> CellShapes {
        CellShapes {
            sizes: self.sizes.to_f64(),
            aspect_ratios: self.aspect_ratios.to_f64(),
        }
    }
}

/// Which point of its cell an anchor is centred on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellCenter {
    /// Upper left: `i · stride`, as in detectron2, torchvision and mmdetection.
    #[default]
    Corner,
    /// Middle: `(i + 0.5) · stride`, as in keras-retinanet and the TensorFlow models.
    Middle,
}

/// Whether sizes and edges are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellRounding {
    /// As they come out.
    #[default]
    Exact,
    /// The sizes of an octave are cut to whole pixels, `int(size * 2 ** (k / n))`, and the edges
    /// of an anchor around the origin are rounded, halves to even. Sizes written out in `levels`
    /// are not cut.
    Torchvision,
}

/// The order of the anchors of one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellOrder {
    /// Size by size, each with all its aspect ratios, as in detectron2.
    #[default]
    SizeMajor,
    /// Aspect ratio by aspect ratio, each with all its sizes, as in torchvision.
    RatioMajor,
}

/// How far apart the cells of a level are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellSpacing {
    /// The level's stride.
    #[default]
    Stride,
    /// The input's side over the feature map's, cut to whole pixels, as in torchvision. Where the
    /// stride does not divide the side it is less than the stride: 800 pixels over the 7 cells of
    /// P7 give 114, not 128.
    Measured,
}

/// Checked [`LevelAnchors`], in the precision that detectron2 computes anchors in.
pub(crate) struct CellShapes {
    pub(crate) sizes: Vec<f64>,
    pub(crate) aspect_ratios: Vec<f64>,
}

impl CellShapes {
    pub(crate) fn count(&self) -> usize {
        self.sizes.len() * self.aspect_ratios.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIDES: [usize; 5] = [8, 16, 32, 64, 128];

    fn refusal(config: &AnchorConfig) -> String {
        config.init(&STRIDES).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_table_means_the_defaults() {
        let config: AnchorConfig = toml::from_str("").unwrap();
        assert_eq!(config, AnchorConfig::default());
        assert_eq!(config.anchors_per_cell(), 9);
    }

    #[test]
    fn a_config_survives_being_written_and_read() {
        let config = AnchorConfig {
            levels: Some(vec![LevelAnchors {
                sizes: Lengths::literal(&[20.0, 30.0]),
                aspect_ratios: Lengths::literal(&[1.0]),
            }]),
            center: CellCenter::Middle,
            rounding: CellRounding::Torchvision,
            order: CellOrder::RatioMajor,
            spacing: CellSpacing::Measured,
            ..AnchorConfig::default()
        };
        let text = toml::to_string(&config).unwrap();
        assert!(text.contains("order = \"ratio_major\""), "{text}");
        assert_eq!(toml::from_str::<AnchorConfig>(&text).unwrap(), config);
        assert_eq!(config.anchors_per_cell(), 2);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = toml::from_str::<AnchorConfig>("size = [32.0]").unwrap_err();
        assert!(
            error.to_string().contains("unknown field `size`"),
            "{error}"
        );
    }

    #[test]
    fn sizes_must_match_the_pyramid() {
        let config = AnchorConfig {
            sizes: Lengths::literal(&[32.0, 64.0]),
            ..AnchorConfig::default()
        };
        assert_eq!(
            refusal(&config),
            "`sizes` must be of one entry for each of the 5 pyramid levels, got 2"
        );
    }

    #[test]
    fn levels_must_match_the_pyramid() {
        let config = AnchorConfig {
            levels: Some(vec![]),
            ..AnchorConfig::default()
        };
        assert_eq!(
            refusal(&config),
            "`levels` must be of one entry for each of the 5 pyramid levels, got 0"
        );
    }

    #[test]
    fn levels_must_agree_on_anchors_per_cell() {
        let level = |sizes: &[f32]| LevelAnchors {
            sizes: Lengths::literal(sizes),
            aspect_ratios: Lengths::literal(&[0.5, 2.0]),
        };
        let config = AnchorConfig {
            levels: Some(vec![level(&[16.0]), level(&[32.0, 40.0])]),
            ..AnchorConfig::default()
        };
        assert_eq!(
            config.init(&[8, 16]).unwrap_err().to_string(),
            "`levels[1]` must be of as many anchors a cell as `levels[0]`, 2, since the head is shared, got 4"
        );
    }

    #[test]
    fn an_anchor_must_not_round_away() {
        let config = AnchorConfig {
            sizes: Lengths::literal(&[0.5]),
            rounding: CellRounding::Torchvision,
            ..AnchorConfig::default()
        };
        let error = config.init(&[8]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sizes` must be such that every anchor has a finite area above 0 after `rounding`, got 0 \
             with an aspect ratio of 0.5"
        );
    }

    #[test]
    fn a_stride_must_be_above_0() {
        let config = AnchorConfig {
            sizes: Lengths::literal(&[32.0, 64.0]),
            ..AnchorConfig::default()
        };
        assert_eq!(
            config.init(&[8, 0]).unwrap_err(),
            crate::AnchorError::Stride { level: 1 }
        );
    }
}
