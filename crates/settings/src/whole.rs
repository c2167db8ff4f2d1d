use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::OutOfRange;

/// The most that a TOML file can say.
pub const MOST: u64 = i64::MAX as u64;

/// How many of something there are, at least 1.
pub type Count = Whole<1, MOST>;

/// A whole number from `LEAST` to `LARGEST`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Whole<const LEAST: u64, const LARGEST: u64>(u64);

impl<const LEAST: u64, const LARGEST: u64> Whole<LEAST, LARGEST> {
    /// The number, if it is in its range.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not.
    pub fn new(value: impl TryInto<u64> + fmt::Display + Copy) -> Result<Self, OutOfRange> {
        let whole = value.try_into().ok().map(Self);
        let whole = whole.filter(|it| (LEAST..=LARGEST).contains(&it.0));
        whole.ok_or_else(|| OutOfRange {
            allowed: Self::range(),
            got: value.to_string(),
        })
    }

    /// The number written in code.
    ///
    /// # Panics
    ///
    /// Panics if it is not in its range; in a constant, that does not compile.
    pub const fn literal(value: u64) -> Self {
        assert!(
            LEAST <= value && value <= LARGEST,
            "the number is not in its range"
        );
        Self(value)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a count of things in memory.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The number in 32 bits, such as pixels of a side; the largest one where it has more.
    pub const fn as_u32(self) -> u32 {
        if self.0 > u32::MAX as u64 {
            u32::MAX
        } else {
            self.0 as u32
        }
    }

    /// What the number may be, such as `in [1, 64]`.
    pub fn range() -> String {
        if LARGEST >= MOST {
            format!("at least {LEAST}")
        } else {
            format!("in [{LEAST}, {LARGEST}]")
        }
    }
}

impl<const LEAST: u64, const LARGEST: u64> fmt::Display for Whole<LEAST, LARGEST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<const LEAST: u64, const LARGEST: u64> FromStr for Whole<LEAST, LARGEST> {
    type Err = OutOfRange;

    fn from_str(text: &str) -> Result<Self, OutOfRange> {
        match text.parse::<i128>() {
            Ok(number) => Self::new(number),
            Err(_) => Err(OutOfRange {
                allowed: format!("a whole number, {}", Self::range()),
                got: text.to_owned(),
            }),
        }
    }
}

impl<const LEAST: u64, const LARGEST: u64> PartialEq<u64> for Whole<LEAST, LARGEST> {
    fn eq(&self, other: &u64) -> bool {
        self.0 == *other
    }
}

impl<const LEAST: u64, const LARGEST: u64> Serialize for Whole<LEAST, LARGEST> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de, const LEAST: u64, const LARGEST: u64> Deserialize<'de> for Whole<LEAST, LARGEST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const LEAST: u64, const LARGEST: u64>;

        impl<const LEAST: u64, const LARGEST: u64> Visitor<'_> for Number<LEAST, LARGEST> {
            type Value = Whole<LEAST, LARGEST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let range = Whole::<LEAST, LARGEST>::range();
                let of = if LARGEST >= MOST { "of " } else { "" };
                write!(f, "a whole number {of}{range}")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                Whole::new(value).map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                Whole::new(value).map_err(E::custom)
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
                Err(E::invalid_type(Unexpected::Float(value), &self))
            }
        }

        deserializer.deserialize_u64(Number)
    }
}

impl<const LEAST: u64, const LARGEST: u64> JsonSchema for Whole<LEAST, LARGEST> {
    fn schema_name() -> Cow<'static, str> {
        format!("Whole_{LEAST}_{LARGEST}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "range": Self::range() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_outside_its_range_is_refused_when_it_is_read() {
        let read = |text: &str| serde_json::from_str::<Whole<1, 64>>(text);
        assert_eq!(read("64").unwrap(), 64);
        let refusal = |text| read(text).unwrap_err().to_string();
        assert!(refusal("65").starts_with("must be in [1, 64], got 65"));
        assert!(refusal("-3").starts_with("must be in [1, 64], got -3"));
        assert!(refusal("2.5").contains("expected a whole number in [1, 64]"));
    }

    #[test]
    fn an_option_of_the_command_line_has_a_range_too() {
        let parse = |text: &str| text.parse::<Whole<1, 64>>();
        assert_eq!(parse("64").unwrap(), 64);
        for text in ["65", "-1", "many", "2.5"] {
            assert!(parse(text).unwrap_err().to_string().contains("in [1, 64]"));
        }
    }

    #[test]
    fn a_count_has_no_upper_bound_to_speak_of() {
        assert_eq!(
            Count::new(0).unwrap_err().to_string(),
            "must be at least 1, got 0"
        );
        assert_eq!(Count::literal(u64::from(u32::MAX) + 1).as_u32(), u32::MAX);
    }
}
