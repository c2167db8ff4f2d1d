//! One record of a list, read without keeping what nobody looks at: a file of a million polygons fits
//! into memory.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

/// The values at the keys that count, in the order of the keys.
pub(crate) struct Fields {
    values: Vec<Option<Value>>,
    /// The keys that stand twice, with different values.
    pub(crate) contradictions: Vec<&'static str>,
    /// What stands in the record's place, if it is no object.
    pub(crate) other: Option<Value>,
}

impl Fields {
    fn none(keys: usize) -> Self {
        Self {
            values: vec![None; keys],
            contradictions: Vec::new(),
            other: None,
        }
    }

    /// The record that is this value.
    pub(crate) fn of_value(keys: &[&str], value: &Value) -> Self {
        let found = |key| value.get(key).cloned();
        Self {
            values: keys.iter().map(found).collect(),
            contradictions: Vec::new(),
            other: (!value.is_object()).then(|| value.clone()),
        }
    }

    pub(crate) fn is_object(&self) -> bool {
        self.other.is_none()
    }

    /// The value at the key of this place in the list of keys.
    pub(crate) fn get(&self, place: usize) -> Option<&Value> {
        self.values.get(place)?.as_ref()
    }
}

/// How to read a record: the keys that count, and those whose values are not looked at.
#[derive(Clone, Copy)]
pub(crate) struct FieldsSeed {
    pub(crate) keys: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for FieldsSeed {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl FieldsSeed {
    fn other(self, value: Value) -> Fields {
        Fields {
            other: Some(value),
            ..Fields::none(self.keys.len())
        }
    }
}

impl<'de> Visitor<'de> for FieldsSeed {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::none(self.keys.len());
        while let Some(place) = map.next_key_seed(KeySeed(self.keys))? {
            let Some(place) = place else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: Value = map.next_value()?;
            let slot = &mut fields.values[place];
            if slot.as_ref().is_some_and(|earlier| *earlier != value) {
                fields.contradictions.push(self.keys[place]);
            }
            *slot = Some(value);
        }
        Ok(fields)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Fields, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(self.other(Value::Array(values)))
    }

    fn visit_unit<E: Error>(self) -> Result<Fields, E> {
        Ok(self.other(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Fields, E> {
        Ok(self.other(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Fields, E> {
        Ok(self.other(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Fields, E> {
        Ok(self.other(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Fields, E> {
        Ok(self.other(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Fields, E> {
        Ok(self.other(value.into()))
    }
}

/// The place of a key in a list of keys, if it stands there.
struct KeySeed(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|known| *known == key))
    }
}
