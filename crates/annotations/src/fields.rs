//! One record of a list, read without keeping what nobody looks at: a file of a million polygons fits
//! into memory.

use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

/// The most keys that a record has which count.
const MOST_KEYS: usize = 7;

/// The values at the keys that count, in the order of the keys. One is read over and over, as a file has a
/// million records and moving what is in it takes time.
pub(crate) struct Fields {
    values: [Option<Field>; MOST_KEYS],
    /// The keys that occur twice, with different values.
    pub(crate) contradictions: Vec<&'static str>,
    /// What is in the record's place, if it is not an object.
    pub(crate) other: Option<Value>,
}

/// What is at a key.
#[derive(Clone, Debug)]
pub(crate) enum Field {
    /// Four numbers, NaN for `null`: a box, of which there are more than of all else.
    Four([f64; 4]),
    /// Anything else.
    Value(Value),
}

impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Four(a), Self::Four(b)) => a.map(f64::to_bits) == b.map(f64::to_bits),
            (Self::Value(a), Self::Value(b)) => a == b,
            _ => false,
        }
    }
}

impl Fields {
    pub(crate) const fn none() -> Self {
        Self {
            values: [const { None }; MOST_KEYS],
            contradictions: Vec::new(),
            other: None,
        }
    }

    fn clear(&mut self) {
        self.values.fill_with(|| None);
        self.contradictions.clear();
        self.other = None;
    }

    /// The record that is this value.
    pub(crate) fn of_value(keys: &[&str], value: &Value) -> Self {
        let mut fields = Self::none();
        for (slot, key) in fields.values.iter_mut().zip(keys) {
            *slot = value.get(key).cloned().map(Field::Value);
        }
        fields.other = (!value.is_object()).then(|| value.clone());
        fields
    }

    pub(crate) const fn is_object(&self) -> bool {
        self.other.is_none()
    }

    /// The value at the key of this place in the list of keys; nothing if a box is read as one.
    pub(crate) fn get(&self, place: usize) -> Option<&Value> {
        match self.field(place)? {
            Field::Value(value) => Some(value),
            Field::Four(_) => None,
        }
    }

    /// What is at the key of this place in the list of keys.
    pub(crate) fn field(&self, place: usize) -> Option<&Field> {
        self.values.get(place)?.as_ref()
    }
}

/// How to read a record: the keys that count, and where their values go.
pub(crate) struct FieldsSeed<'a> {
    pub(crate) keys: &'static [&'static str],
    pub(crate) fields: &'a mut Fields,
}

impl<'de> DeserializeSeed<'de> for FieldsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.fields.clear();
        deserializer.deserialize_any(self)
    }
}

impl FieldsSeed<'_> {
    /// Takes what is in a record's place.
    fn other(self, value: Value) {
        self.fields.other = Some(value);
    }
}

impl<'de> Visitor<'de> for FieldsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { keys, fields } = self;
        while let Some(place) = map.next_key_seed(KeySeed(keys))? {
            let Some(place) = place else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = if keys[place] == "bbox" {
                map.next_value_seed(FourSeed)?
            } else {
                Field::Value(map.next_value()?)
            };
            let Some(slot) = fields.values.get_mut(place) else {
                continue;
            };
            if slot.as_ref().is_some_and(|earlier| *earlier != value) {
                fields.contradictions.push(keys[place]);
            }
            *slot = Some(value);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        self.other(Value::Array(values));
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.other(Value::Null);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.other(value.into());
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.other(value.into());
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.other(value.into());
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.other(number_or_null(value));
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.other(value.into());
        Ok(())
    }
}

/// Reads a list of four numbers without a place in memory for each, and anything else as it is.
struct FourSeed;

impl<'de> DeserializeSeed<'de> for FourSeed {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FourSeed {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Field, A::Error> {
        let mut four = [0.0; 4];
        let mut count = 0;
        let mut others: Vec<Value> = Vec::new();
        while let Some(value) = list.next_element::<Value>()? {
            let number = match &value {
                // JSON has no NaN; JavaScript writes `null` for it.
                Value::Null => Some(f64::NAN),
                value => value.as_f64(),
            };
            match (number, four.get_mut(count)) {
                (Some(number), Some(slot)) if others.is_empty() => {
                    *slot = number;
                    count += 1;
                }
                _ => {
                    if others.is_empty() {
                        others = four[..count].iter().map(|it| number_or_null(*it)).collect();
                    }
                    others.push(value);
                }
            }
        }
        Ok(if others.is_empty() && count == four.len() {
            Field::Four(four)
        } else if others.is_empty() {
            let few = four[..count].iter().map(|it| number_or_null(*it));
            Field::Value(few.collect())
        } else {
            Field::Value(Value::Array(others))
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field, A::Error> {
        let value = Value::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        Ok(Field::Value(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Field, E> {
        Ok(Field::Value(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Field, E> {
        Ok(Field::Value(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Field, E> {
        Ok(Field::Value(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Field, E> {
        Ok(Field::Value(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Field, E> {
        Ok(Field::Value(number_or_null(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Field, E> {
        Ok(Field::Value(value.into()))
    }
}

fn number_or_null(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// The place of a key in a list of keys, if it is there.
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
