use std::borrow::Cow;

use retinanet_images::{Interpolation, Side, SizeRounding};
use retinanet_settings::OutOfRange;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// How large images become: the shorter side gets a given length, unless the longer one would
/// outgrow its limit. The shape stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ResizeConfig {
    /// Length of the shorter side in pixels, or several of which one is sampled for each training
    /// image.
    pub short_side: ShortSides,
    /// Limit of the longer side in pixels.
    pub long_side: Side,
    /// Length of the shorter side outside training; the largest of `short_side` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_short_side: Option<Side>,
    /// How pixels of the resized image are computed.
    pub interpolation: Interpolation,
    /// How the sides of the resized image become whole numbers.
    pub size_rounding: SizeRounding,
}

impl Default for ResizeConfig {
    fn default() -> Self {
        Self {
            short_side: ShortSides::literal(&[800]),
            long_side: Side::literal(1333),
            eval_short_side: None,
            interpolation: Interpolation::default(),
            size_rounding: SizeRounding::default(),
        }
    }
}

/// Lengths of the shorter side, at least one. A single one may be written without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "OneOrMany", into = "Vec<Side>")]
pub struct ShortSides(Vec<Side>);

impl ShortSides {
    const ALLOWED: &str = "a length in [1, 65535], or a list of such";

    /// Lengths written in code.
    ///
    /// # Panics
    ///
    /// Panics if there are none, or one is out of range.
    pub fn literal(sides: &[u64]) -> Self {
        assert!(!sides.is_empty(), "there must be a length");
        Self(sides.iter().copied().map(Side::literal).collect())
    }

    /// The lengths in pixels.
    pub fn to_pixels(&self) -> Vec<u32> {
        self.0.iter().copied().map(Side::as_u32).collect()
    }

    /// The largest of them.
    pub fn largest(&self) -> Side {
        self.0.iter().copied().max().unwrap_or(Side::literal(1))
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "must be a length in [1, 65535], or a list of such"
)]
enum OneOrMany {
    One(Side),
    Many(Vec<Side>),
}

impl TryFrom<OneOrMany> for ShortSides {
    type Error = OutOfRange;

    fn try_from(sides: OneOrMany) -> Result<Self, OutOfRange> {
        match sides {
            OneOrMany::One(side) => Ok(Self(vec![side])),
            OneOrMany::Many(sides) if sides.is_empty() => Err(OutOfRange {
                allowed: Self::ALLOWED.to_owned(),
                got: "an empty list".to_owned(),
            }),
            OneOrMany::Many(sides) => Ok(Self(sides)),
        }
    }
}

impl From<ShortSides> for Vec<Side> {
    fn from(sides: ShortSides) -> Self {
        sides.0
    }
}

impl JsonSchema for ShortSides {
    fn schema_name() -> Cow<'static, str> {
        "ShortSides".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "range": Self::ALLOWED })
    }
}
