//! What image files are taken, and how their values become 8 bits.

use std::borrow::Cow;

use retinanet_settings::{Count, OutOfRange};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Most pixels that an image has unless someone says otherwise: Pillow's bound against decompression bombs,
/// above the largest cameras. Decoding takes up to 7 bytes a pixel, of 16-bit images up to 11.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Settings of [`Decoding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DecodingConfig {
    /// The most megapixels that an image may have: a small file can unpack to gigabytes.
    pub max_megapixels: Count,
    /// The values of 16-bit images that become black and white, such as `[300, 900]`; all of 0 to 65535 if not
    /// given. `dataset check` names the range of images that come out nearly black.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_16_bit: Option<Range16Bit>,
}

impl Default for DecodingConfig {
    fn default() -> Self {
        Self {
            max_megapixels: Count::literal(MAX_PIXELS.div_ceil(1_000_000)),
            range_16_bit: None,
        }
    }
}

impl DecodingConfig {
    /// The same in pixels.
    pub const fn init(&self) -> Decoding {
        Decoding {
            max_pixels: self.max_megapixels.get().saturating_mul(1_000_000),
            range_16_bit: self.range_16_bit,
        }
    }
}

/// What image files are taken, and how their values become 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoding {
    /// Most pixels that an image may have. Default: [`MAX_PIXELS`].
    pub max_pixels: u64,
    /// The values of 16-bit images that become black and white; those beyond are clipped. Sensors of 10 or
    /// 12 bits, and thermal cameras, fill a narrow range. Default: none, which is `[0, 65535]`.
    pub range_16_bit: Option<Range16Bit>,
}

impl Default for Decoding {
    fn default() -> Self {
        Self {
            max_pixels: MAX_PIXELS,
            range_16_bit: None,
        }
    }
}

/// The values of 16-bit images that become black and white, the lower one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "[u16; 2]", into = "[u16; 2]")]
pub struct Range16Bit([u16; 2]);

impl Range16Bit {
    const ALLOWED: &str = "[black, white] of 0 to 65535, the lower value first";

    /// The values.
    pub const fn get(self) -> [u16; 2] {
        self.0
    }
}

impl TryFrom<[u16; 2]> for Range16Bit {
    type Error = OutOfRange;

    fn try_from([black, white]: [u16; 2]) -> Result<Self, OutOfRange> {
        if black < white {
            return Ok(Self([black, white]));
        }
        Err(OutOfRange {
            allowed: Self::ALLOWED.to_owned(),
            got: format!("[{black}, {white}]"),
        })
    }
}

impl From<Range16Bit> for [u16; 2] {
    fn from(range: Range16Bit) -> Self {
        range.0
    }
}

impl JsonSchema for Range16Bit {
    fn schema_name() -> Cow<'static, str> {
        "Range16Bit".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": { "type": "integer" }, "range": Self::ALLOWED })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_must_be_above_black() {
        let error = serde_json::from_str::<Range16Bit>("[900, 300]").unwrap_err();
        let expected =
            "must be [black, white] of 0 to 65535, the lower value first, got [900, 300]";
        assert_eq!(error.to_string(), expected);
    }
}
