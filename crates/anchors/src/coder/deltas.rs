//! Boxes as the paper has them: how far the centre moves and how much the sides grow.

use retinanet_boxes::BoundingBox;
use retinanet_settings::Positive;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest growth in log scale that decoding grants, `ln(1000 / 16)`: a side of 16 pixels
/// becomes 1000. Without it `exp` overflows early in training.
pub const MAX_LOG_SCALE: f32 = 4.135_166_6;

/// Settings of the [`DeltaCoder`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeltaConfig {
    /// What `dx`, `dy`, `dw`, `dh` are multiplied by.
    pub weights: [Positive; 4],
    /// Whether decoding limits how far a side shrinks as it limits how far one grows: mmdetection.
    pub limit_shrinking: bool,
}

impl DeltaConfig {
    /// Builds the coder.
    pub fn init(&self) -> DeltaCoder {
        DeltaCoder {
            weights: self.weights.map(Positive::as_f32),
            smallest: if self.limit_shrinking {
                -MAX_LOG_SCALE
            } else {
                f32::NEG_INFINITY
            },
        }
    }
}

impl Default for DeltaConfig {
    fn default() -> Self {
        Self {
            weights: [Positive::literal(1.0); 4],
            limit_shrinking: false,
        }
    }
}

/// Writes boxes relative to anchors and reads them back. Should be created with
/// [`DeltaConfig::init`].
///
/// ```text
/// dx = wx · (target.center.x - anchor.center.x) / anchor.width
/// dw = ww · ln(target.width / anchor.width)                       and so for y and height
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaCoder {
    weights: [f32; 4],
    /// The smallest log scale that decoding grants.
    smallest: f32,
}

impl DeltaCoder {
    /// The weights of `dx`, `dy`, `dw`, `dh`.
    pub const fn weights(&self) -> [f32; 4] {
        self.weights
    }

    /// The smallest and the largest log scale that decoding grants; the smallest is −∞ where shrinking is not
    /// limited.
    pub const fn log_scale_limits(&self) -> [f32; 2] {
        [self.smallest, MAX_LOG_SCALE]
    }

    /// `[dx, dy, dw, dh]` of a box as seen from an anchor. Both must cover something, else the
    /// deltas are non-finite.
    pub fn encode(&self, anchor: &BoundingBox, target: &BoundingBox) -> [f32; 4] {
        let [wx, wy, ww, wh] = self.weights;
        let (anchor_x, anchor_y) = anchor.center();
        let (target_x, target_y) = target.center();
        [
            wx * (target_x - anchor_x) / anchor.width(),
            wy * (target_y - anchor_y) / anchor.height(),
            ww * (target.width() / anchor.width()).ln(),
            wh * (target.height() / anchor.height()).ln(),
        ]
    }

    /// The box that these `[dx, dy, dw, dh]` describe. No side grows by more than
    /// [`MAX_LOG_SCALE`]; shrinking is limited where the settings say so.
    pub fn decode(&self, anchor: &BoundingBox, deltas: [f32; 4]) -> BoundingBox {
        let [wx, wy, ww, wh] = self.weights;
        let [dx, dy, dw, dh] = deltas;
        let (center_x, center_y) = anchor.center();
        let (width, height) = (anchor.width(), anchor.height());
        BoundingBox::from_center(
            center_x + dx / wx * width,
            center_y + dy / wy * height,
            self.limit(dw / ww).exp() * width,
            self.limit(dh / wh).exp() * height,
        )
    }

    fn limit(&self, log_scale: f32) -> f32 {
        log_scale.min(MAX_LOG_SCALE).max(self.smallest)
    }
}

impl Default for DeltaCoder {
    fn default() -> Self {
        Self {
            weights: [1.0; 4],
            smallest: f32::NEG_INFINITY,
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the values are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weighted(weights: [f32; 4]) -> DeltaCoder {
        DeltaConfig {
            weights: weights.map(|weight| Positive::new(f64::from(weight)).unwrap()),
            ..DeltaConfig::default()
        }
        .init()
    }

    /// Sides within a factor of 40 of each other, so that [`MAX_LOG_SCALE`] grants every pair.
    fn any_box() -> impl Strategy<Value = BoundingBox> {
        (
            -500.0_f32..500.0,
            -500.0_f32..500.0,
            5.0_f32..200.0,
            5.0_f32..200.0,
        )
            .prop_map(|(x, y, width, height)| BoundingBox::from_center(x, y, width, height))
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(
            anchor in any_box(),
            target in any_box(),
            weights in prop::array::uniform4(0.5_f32..10.0),
        ) {
            let coder = weighted(weights);
            let decoded = coder.decode(&anchor, coder.encode(&anchor, &target));
            for (edge, expected) in decoded.to_array().into_iter().zip(target.to_array()) {
                prop_assert!((edge - expected).abs() < 1e-2, "{decoded:?} {target:?}");
            }
        }
    }

    #[test]
    fn deltas_worked_by_hand() {
        // Centres (10, 20) and (15, 18), sides (20, 40) and (40, 20).
        let anchor = BoundingBox::from_center(10.0, 20.0, 20.0, 40.0);
        let target = BoundingBox::from_center(15.0, 18.0, 40.0, 20.0);
        let ln_2 = std::f32::consts::LN_2;
        assert_eq!(
            DeltaCoder::default().encode(&anchor, &target),
            [0.25, -0.05, ln_2, -ln_2]
        );
        let coder = weighted([10.0, 10.0, 5.0, 5.0]);
        assert_eq!(
            coder.encode(&anchor, &target),
            [2.5, -0.5, 5.0 * ln_2, -5.0 * ln_2]
        );
    }

    #[test]
    fn an_anchor_seen_from_itself_has_no_deltas() {
        let anchor = BoundingBox::new(3.0, 4.0, 30.0, 50.0);
        assert_eq!(DeltaCoder::default().encode(&anchor, &anchor), [0.0; 4]);
        assert_eq!(DeltaCoder::default().decode(&anchor, [0.0; 4]), anchor);
    }

    #[test]
    fn growth_is_limited_and_shrinking_is_not() {
        let anchor = BoundingBox::from_center(0.0, 0.0, 16.0, 16.0);
        let coder = DeltaCoder::default();
        let grown = coder.decode(&anchor, [0.0, 0.0, f32::MAX, 1e4]);
        assert!((grown.width() - 1000.0).abs() < 0.01, "{grown:?}");
        assert!((grown.height() - 1000.0).abs() < 0.01, "{grown:?}");
        let shrunk = coder.decode(&anchor, [0.0, 0.0, -6.0, f32::MIN]);
        assert!(
            (shrunk.width() - 16.0 * (-6.0_f32).exp()).abs() < 1e-6,
            "{shrunk:?}"
        );
        assert_eq!(shrunk.height(), 0.0);
    }

    #[test]
    fn shrinking_is_limited_where_asked() {
        let anchor = BoundingBox::from_center(0.0, 0.0, 1000.0, 1000.0);
        let coder = DeltaConfig {
            limit_shrinking: true,
            ..DeltaConfig::default()
        };
        let shrunk = coder.init().decode(&anchor, [0.0, 0.0, -6.0, -2.0]);
        assert!((shrunk.width() - 16.0).abs() < 1e-3, "{shrunk:?}");
        assert!((shrunk.height() - 1000.0 * (-2.0_f32).exp()).abs() < 1e-3);
    }

    #[test]
    fn huge_deltas_give_finite_boxes() {
        let anchor = BoundingBox::new(0.0, 0.0, 512.0, 1024.0);
        let decoded = DeltaCoder::default().decode(&anchor, [1e30, -1e30, 1e30, 1e30]);
        assert!(
            decoded.to_array().iter().all(|edge| edge.is_finite()),
            "{decoded:?}"
        );
    }

    #[test]
    fn the_limit_is_a_growth_from_16_to_1000() {
        assert!((f64::from(MAX_LOG_SCALE) - (1000.0_f64 / 16.0).ln()).abs() < 1e-6);
    }
}
