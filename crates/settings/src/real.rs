/// Declares a real number with a range, as a type that holds no other: `real! { /// What it is. pub Gamma: at_least 0,
/// at_most 20 }`. The bounds are `at_least` or `above` and `at_most`, `below` or `finite`; they hold in `f32` too.
#[macro_export]
macro_rules! real {
    ($(#[$doc:meta])* $vis:vis $name:ident: $low_kind:ident $low:literal, $high_kind:ident $($high:literal)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
        $vis struct $name(f64);

        impl $name {
            /// What the number may be.
            pub const RANGE: &'static str = $crate::real!(@text $low_kind $low $high_kind $($high)?);

            /// The number, if it is in its range.
            ///
            /// # Errors
            ///
            /// Returns an error if it is not.
            pub fn new(value: f64) -> Result<Self, $crate::OutOfRange> {
                if Self::contains(value) {
                    return Ok(Self(value));
                }
                Err($crate::OutOfRange {
                    allowed: Self::RANGE.to_owned(),
                    got: value.to_string(),
                })
            }

            /// The number written in code.
            ///
            /// # Panics
            ///
            /// Panics if it is not in its range; in a constant, that does not compile.
            pub const fn literal(value: f64) -> Self {
                assert!(Self::contains(value), "the number is not in its range");
                Self(value)
            }

            /// The number.
            pub const fn get(self) -> f64 {
                self.0
            }

            /// The number in single precision.
            pub const fn as_f32(self) -> f32 {
                self.0 as f32
            }

            const fn contains(value: f64) -> bool {
                let single = value as f32 as f64;
                single.is_finite()
                    && $crate::real!(@low $low_kind value, single, $low)
                    && $crate::real!(@high $high_kind value, single, $($high)?)
            }
        }

        impl PartialEq<f64> for $name {
            fn eq(&self, other: &f64) -> bool {
                self.0 == *other
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl $crate::serde::Serialize for $name {
            fn serialize<S: $crate::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_f64(self.0)
            }
        }

        impl<'de> $crate::serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Number;

                impl $crate::serde::de::Visitor<'_> for Number {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("a number ", $crate::real!(@text $low_kind $low $high_kind $($high)?)))
                    }

                    fn visit_f64<E: $crate::serde::de::Error>(self, value: f64) -> Result<$name, E> {
                        $name::new(value).map_err(E::custom)
                    }

                    fn visit_i64<E: $crate::serde::de::Error>(self, value: i64) -> Result<$name, E> {
                        self.visit_f64(value as f64)
                    }

                    fn visit_u64<E: $crate::serde::de::Error>(self, value: u64) -> Result<$name, E> {
                        self.visit_f64(value as f64)
                    }
                }

                deserializer.deserialize_f64(Number)
            }
        }

        impl $crate::schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut $crate::schemars::SchemaGenerator) -> $crate::schemars::Schema {
                $crate::schemars::json_schema!({ "type": "number", "range": $name::RANGE })
            }
        }
    };

    (@text at_least $low:literal at_most $high:literal) => {
        concat!("in [", stringify!($low), ", ", stringify!($high), "]")
    };
    (@text above $low:literal at_most $high:literal) => {
        concat!("in (", stringify!($low), ", ", stringify!($high), "]")
    };
    (@text at_least $low:literal below $high:literal) => {
        concat!("in [", stringify!($low), ", ", stringify!($high), ")")
    };
    (@text above $low:literal below $high:literal) => {
        concat!("in (", stringify!($low), ", ", stringify!($high), ")")
    };
    (@text at_least $low:literal finite) => {
        concat!("finite and at least ", stringify!($low))
    };
    (@text above $low:literal finite) => {
        concat!("finite and above ", stringify!($low))
    };

    (@low at_least $value:ident, $single:ident, $low:literal) => {
        $value >= $low as f64
    };
    (@low above $value:ident, $single:ident, $low:literal) => {
        $value > $low as f64 && $single > $low as f64
    };
    (@high at_most $value:ident, $single:ident, $high:literal) => {
        $value <= $high as f64
    };
    (@high below $value:ident, $single:ident, $high:literal) => {
        $value < $high as f64 && $single < $high as f64
    };
    (@high finite $value:ident, $single:ident,) => {
        true
    };
}

#[cfg(test)]
mod tests {
    use crate::{Positive, Share, ShareBelowOne};

    #[test]
    fn a_number_outside_its_range_is_refused_when_it_is_read() {
        let read = |text: &str| serde_json::from_str::<Share>(text);
        assert_eq!(read("0.25").unwrap(), 0.25);
        assert_eq!(read("1").unwrap(), 1.0);
        let refusal = |text| read(text).unwrap_err().to_string();
        assert!(refusal("1.5").starts_with("must be in [0, 1], got 1.5"));
        assert!(refusal("-1").starts_with("must be in [0, 1], got -1"));
        assert!(refusal("\"a\"").contains("expected a number in [0, 1]"));
        assert!(Share::new(f64::NAN).is_err());
    }

    #[test]
    fn a_range_holds_in_single_precision() {
        assert!(Positive::new(1e-300).is_err());
        assert!(Positive::new(1e300).is_err());
        assert!(ShareBelowOne::new(1.0 - 1e-12).is_err());
        assert!(ShareBelowOne::literal(0.998).as_f32() < 1.0);
    }
}
