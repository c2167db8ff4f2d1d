use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use retinanet_settings::OutOfRange;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// More sizes or aspect ratios than anyone means.
pub(crate) const MOST_LENGTHS: usize = 64;
/// Sizes in pixels, and aspect ratios, that anchors can have.
const LENGTHS: std::ops::RangeInclusive<f32> = 1e-3..=1e6;
const ALLOWED: &str = "1 to 64 numbers in [0.001, 1e6]";

/// Sizes or aspect ratios of anchors: 1 to 64 numbers in [0.001, 1e6].
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f32>", into = "Vec<f32>")]
pub struct Lengths(Vec<f32>);

impl Lengths {
    /// The numbers written in code.
    ///
    /// # Panics
    ///
    /// Panics if there are none, or one is out of range.
    pub fn literal(numbers: &[f32]) -> Self {
        match Self::try_from(numbers.to_vec()) {
            Ok(lengths) => lengths,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn to_f64(&self) -> Vec<f64> {
        self.iter().copied().map(f64::from).collect()
    }
}

impl TryFrom<Vec<f32>> for Lengths {
    type Error = OutOfRange;

    fn try_from(numbers: Vec<f32>) -> Result<Self, OutOfRange> {
        let fits = |number: &f32| LENGTHS.contains(number);
        if (1..=MOST_LENGTHS).contains(&numbers.len()) && numbers.iter().all(fits) {
            return Ok(Self(numbers));
        }
        Err(OutOfRange {
            allowed: ALLOWED.to_owned(),
            got: match numbers.iter().find(|number| !fits(number)) {
                Some(number) => number.to_string(),
                None => format!("{} numbers", numbers.len()),
            },
        })
    }
}

impl From<Lengths> for Vec<f32> {
    fn from(lengths: Lengths) -> Self {
        lengths.0
    }
}

impl fmt::Debug for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Deref for Lengths {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl JsonSchema for Lengths {
    fn schema_name() -> Cow<'static, str> {
        "Lengths".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": { "type": "number" }, "range": ALLOWED })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_is_none_is_refused_when_it_is_read() {
        let refusal = |text: &str| {
            let error = serde_json::from_str::<Lengths>(text).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            refusal("[32, -1]"),
            "must be 1 to 64 numbers in [0.001, 1e6], got -1"
        );
        assert!(refusal("[]").ends_with("got 0 numbers"));
        assert!(Lengths::try_from(vec![f32::NAN]).is_err());
    }
}
