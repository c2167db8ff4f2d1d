//! Boxes as the distances of their sides from the anchor's centre.

use retinanet_boxes::BoundingBox;
use retinanet_settings::{Positive, Whole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the [`DistanceCoder`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DistanceConfig {
    /// How many units of distance an anchor's side has: of an anchor of eight strides, the default makes the unit a stride
    /// (ATSS, GFL).
    pub units_per_side: Positive,
    /// How many values from 0 on each distance is a distribution over, whose mean it is; GFL has 17. Not given, a distance
    /// is predicted as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bins: Option<Whole<2, 256>>,
}

impl DistanceConfig {
    /// Builds the coder.
    pub fn init(&self) -> DistanceCoder {
        DistanceCoder {
            units_per_side: self.units_per_side.as_f32(),
            bins: self.bins.map(Whole::as_usize),
        }
    }
}

impl Default for DistanceConfig {
    fn default() -> Self {
        Self {
            units_per_side: Positive::literal(8.0),
            bins: None,
        }
    }
}

/// Writes boxes as the distances of their left, upper, right and lower side from the anchor's centre. Should be created
/// with [`DistanceConfig::init`].
///
/// ```text
/// left = u · (anchor.center.x - target.x1) / anchor.width          and so for the others
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistanceCoder {
    /// `u`
    units_per_side: f32,
    bins: Option<usize>,
}

impl DistanceCoder {
    /// How many units of distance an anchor's side has.
    pub const fn units_per_side(&self) -> f32 {
        self.units_per_side
    }

    /// How many values each distance is a distribution over.
    pub const fn bins(&self) -> Option<usize> {
        self.bins
    }

    /// The distances of a box's sides from an anchor's centre. The anchor must cover something, else they are non-finite.
    pub fn encode(&self, anchor: &BoundingBox, target: &BoundingBox) -> [f32; 4] {
        let (x, y) = anchor.center();
        let across = self.units_per_side / anchor.width();
        let down = self.units_per_side / anchor.height();
        [
            (x - target.x1) * across,
            (y - target.y1) * down,
            (target.x2 - x) * across,
            (target.y2 - y) * down,
        ]
    }

    /// The box that these distances describe; below 0, which an untrained network may say, counts as 0, so that no box is
    /// turned inside out.
    pub fn decode(&self, anchor: &BoundingBox, distances: [f32; 4]) -> BoundingBox {
        let [left, up, right, down] = distances.map(|distance| distance.max(0.0));
        let (x, y) = anchor.center();
        let across = anchor.width() / self.units_per_side;
        let along = anchor.height() / self.units_per_side;
        BoundingBox::new(
            x - left * across,
            y - up * along,
            x + right * across,
            y + down * along,
        )
    }
}

/// The mean of the values 0, 1, … under a distribution of these logits (Li et al. 2020, equation 4).
pub(super) fn integral(logits: &[f32]) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut total, mut weighted) = (0.0, 0.0);
    for (value, logit) in logits.iter().enumerate() {
        let weight = (logit - largest).exp();
        total += weight;
        weighted += value as f32 * weight;
    }
    weighted / total
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the values are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An anchor of eight strides of 4 around (20, 30), and a box from (8, 26) to (40, 46).
    #[test]
    fn distances_worked_by_hand() {
        let anchor = BoundingBox::from_center(20.0, 30.0, 32.0, 32.0);
        let target = BoundingBox::new(8.0, 26.0, 40.0, 46.0);
        let coder = DistanceConfig::default().init();
        assert_eq!(coder.encode(&anchor, &target), [3.0, 1.0, 5.0, 4.0]);
        assert_eq!(coder.decode(&anchor, [3.0, 1.0, 5.0, 4.0]), target);
        let beyond = coder.decode(&anchor, [3.0, 1.0, -5.0, 4.0]);
        assert_eq!(beyond, BoundingBox::new(8.0, 26.0, 20.0, 46.0));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(
            center in prop::array::uniform2(-500_f32..500.0),
            sides in prop::array::uniform2(5_f32..200.0),
            reach in prop::array::uniform4(0_f32..200.0),
            units in 0.5_f32..20.0,
        ) {
            let coder = DistanceCoder { units_per_side: units, bins: None };
            let [x, y] = center;
            let anchor = BoundingBox::from_center(x, y, sides[0], sides[1]);
            let target = BoundingBox::new(x - reach[0], y - reach[1], x + reach[2], y + reach[3]);
            let decoded = coder.decode(&anchor, coder.encode(&anchor, &target));
            for (edge, expected) in decoded.to_array().into_iter().zip(target.to_array()) {
                prop_assert!((edge - expected).abs() < 1e-2, "{decoded:?} {target:?}");
            }
        }
    }

    /// Two equally likely values, one that is certain, and probabilities of 1/4 and 3/4.
    #[test]
    fn the_integral_is_the_mean() {
        assert_eq!(integral(&[-1e30, 3.0, 3.0]), 1.5);
        assert_eq!(integral(&[-200.0, -200.0, 1e4, -200.0]), 2.0);
        assert!((integral(&[0.0, 3.0_f32.ln()]) - 0.75).abs() < 1e-6);
    }
}
