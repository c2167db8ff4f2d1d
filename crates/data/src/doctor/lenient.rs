//! The file as it is, whatever is wrong with it.
//!
//! Each record is read as any JSON value and kept as the little that is looked at, so that a file
//! of a million polygons fits into memory.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category as ErrorCategory;

use crate::DataError;

/// The three lists of a COCO instances file.
#[derive(Default)]
pub(super) struct Coco {
    pub(super) images: List<Image>,
    pub(super) annotations: List<Annotation>,
    pub(super) categories: List<Category>,
}

impl Coco {
    pub(super) fn read(path: &Path) -> Result<Self, DataError> {
        read_json(path)
    }

    /// The images by id; of several with one id, the first.
    pub(super) fn images_by_id(&self) -> HashMap<u64, &Image> {
        let mut images = HashMap::new();
        for image in self.images.records() {
            if let Some(id) = image.id {
                images.entry(id).or_insert(image);
            }
        }
        images
    }
}

/// Reads a JSON file. Anything but an object is refused where the type refuses it.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let bytes = fs_err::read(path).map_err(|source| DataError::Read {
        path: path.into(),
        source,
    })?;
    // Some Windows tools begin with a byte order mark, which JSON does not know.
    let json = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    serde_json::from_slice(json).map_err(|source| match source.classify() {
        ErrorCategory::Data => not_an_object(path, json.trim_ascii_start().first() == Some(&b'[')),
        _ => DataError::NotJson {
            path: path.into(),
            source,
        },
    })
}

pub(super) fn not_an_object(path: &Path, is_list: bool) -> DataError {
    DataError::NotCoco {
        path: path.into(),
        found: if is_list {
            "it is a list, as files of detections are".into()
        } else {
            "it is a single value".into()
        },
    }
}

impl<'de> Deserialize<'de> for Coco {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CocoVisitor)
    }
}

struct CocoVisitor;

impl<'de> Visitor<'de> for CocoVisitor {
    type Value = Coco;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Coco, A::Error> {
        let mut coco = Coco::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "images" => coco.images = map.next_value()?,
                "annotations" => coco.annotations = map.next_value()?,
                "categories" => coco.categories = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(coco)
    }
}

/// A list of records, or what stands in its place.
#[derive(Default)]
pub(super) enum List<T> {
    #[default]
    Missing,
    Other,
    Records(Vec<T>),
}

impl<T> List<T> {
    pub(super) fn records(&self) -> &[T] {
        match self {
            Self::Records(records) => records,
            Self::Missing | Self::Other => &[],
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Records(_))
    }
}

impl<'de, T: Record> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Record> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
        let mut records = Vec::new();
        while let Some(value) = list.next_element::<Value>()? {
            records.push(T::read(&value));
        }
        Ok(List::Records(records))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List<T>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(List::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<List<T>, E> {
        Ok(List::Missing)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<List<T>, E> {
        Ok(List::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<List<T>, E> {
        Ok(List::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<List<T>, E> {
        Ok(List::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<List<T>, E> {
        Ok(List::Other)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<List<T>, E> {
        Ok(List::Other)
    }
}

/// What a list holds.
pub(super) trait Record {
    fn read(value: &Value) -> Self;
}

pub(super) struct Image {
    pub(super) id: Option<u64>,
    /// Empty where it is missing or no text.
    pub(super) file_name: String,
    /// Width and height in pixels, both at least 1, or what stands in their place.
    pub(super) size: Result<(u32, u32), String>,
    pub(super) faults: Vec<String>,
}

impl Record for Image {
    fn read(value: &Value) -> Self {
        let mut faults = object_faults(value);
        let side = |key| value.get(key).and_then(Value::as_u64);
        let size = match [side("width"), side("height")].map(|side| u32::try_from(side?).ok()) {
            [Some(width @ 1..), Some(height @ 1..)] => Ok((width, height)),
            _ => Err(format!(
                "`width` is {}, `height` is {}",
                shown(value.get("width")),
                shown(value.get("height"))
            )),
        };
        let file_name = value.get("file_name").and_then(Value::as_str);
        Self {
            id: id(value, "id", &mut faults),
            file_name: file_name.unwrap_or_default().into(),
            size,
            faults,
        }
    }
}

pub(super) struct Category {
    pub(super) id: Option<u64>,
    /// Empty where it is missing or no text.
    pub(super) name: String,
    pub(super) faults: Vec<String>,
}

impl Record for Category {
    fn read(value: &Value) -> Self {
        let mut faults = object_faults(value);
        let name = value.get("name").and_then(Value::as_str);
        if name.is_none() && value.is_object() {
            faults.push(format!("`name` is {}", shown(value.get("name"))));
        }
        Self {
            id: id(value, "id", &mut faults),
            name: name.unwrap_or_default().into(),
            faults,
        }
    }
}

pub(super) struct Annotation {
    pub(super) id: Option<u64>,
    pub(super) image: Option<u64>,
    pub(super) category: Option<u64>,
    pub(super) bbox: RawBox,
    pub(super) crowd: bool,
    /// The bounds of the polygons, where there are any: left, top, right and bottom in pixels.
    pub(super) polygons: Option<[f64; 4]>,
    pub(super) faults: Vec<String>,
}

impl Record for Annotation {
    fn read(value: &Value) -> Self {
        let mut faults = object_faults(value);
        let crowd = match value.get("iscrowd") {
            None | Some(Value::Null) => false,
            Some(&Value::Bool(crowd)) => crowd,
            Some(other) => {
                let flag = other.as_f64().filter(|flag| [0.0, 1.0].contains(flag));
                if flag.is_none() {
                    faults.push(format!("`iscrowd` is {}", shown(Some(other))));
                }
                flag == Some(1.0)
            }
        };
        Self {
            id: id(value, "id", &mut faults),
            image: id(value, "image_id", &mut faults),
            category: id(value, "category_id", &mut faults),
            bbox: RawBox::read(value.get("bbox")),
            crowd,
            polygons: value.get("segmentation").and_then(bounds),
            faults,
        }
    }
}

/// What stands at `bbox`.
pub(super) enum RawBox {
    Missing,
    /// What is wrong with it.
    Malformed(String),
    /// Four numbers, or NaN where there is `null`.
    Numbers([f64; 4]),
}

impl RawBox {
    fn read(value: Option<&Value>) -> Self {
        let numbers = match value {
            None | Some(Value::Null) => return Self::Missing,
            Some(Value::Array(numbers)) if numbers.is_empty() => return Self::Missing,
            Some(Value::Array(numbers)) => numbers,
            other => return Self::Malformed(format!("`bbox` is {}", shown(other))),
        };
        // JSON has no NaN; JavaScript writes `null` for it.
        let read = |number: &Value| match number {
            Value::Null => Some(f64::NAN),
            number => number.as_f64(),
        };
        let numbers: Option<Vec<_>> = numbers.iter().map(read).collect();
        match numbers.as_deref() {
            Some(&[x, y, width, height]) => Self::Numbers([x, y, width, height]),
            Some(numbers) => Self::Malformed(format!("`bbox` has {} numbers", numbers.len())),
            None => Self::Malformed(format!("`bbox` is {}", shown(value))),
        }
    }
}

/// The bounds of polygons, each a list `[x, y, x, y, …]`; nothing for other forms, as of crowds.
fn bounds(segmentation: &Value) -> Option<[f64; 4]> {
    let mut bounds: Option<[f64; 4]> = None;
    for polygon in segmentation.as_array()? {
        for point in polygon.as_array()?.chunks_exact(2) {
            let (x, y) = (point[0].as_f64()?, point[1].as_f64()?);
            let [x1, y1, x2, y2] = bounds.unwrap_or([x, y, x, y]);
            bounds = Some([x1.min(x), y1.min(y), x2.max(x), y2.max(y)]);
        }
    }
    bounds
}

fn object_faults(value: &Value) -> Vec<String> {
    if value.is_object() {
        Vec::new()
    } else {
        vec![format!("it is {}, not an object", shown(Some(value)))]
    }
}

/// An id. pandas turns whole columns of integers into floats, so `7.0` is 7 too.
fn id(record: &Value, key: &str, faults: &mut Vec<String>) -> Option<u64> {
    // Above 2^53 neighbouring ids would become one.
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    let value = record.get(key);
    let whole = |id: f64| (id.fract() == 0.0 && (0.0..=LARGEST).contains(&id)).then_some(id as u64);
    let id = value.and_then(|value| value.as_u64().or_else(|| whole(value.as_f64()?)));
    if id.is_none() && record.is_object() {
        faults.push(format!("`{key}` is {}", shown(value)));
    }
    id
}

/// A value for a message, cut where it is long.
fn shown(value: Option<&Value>) -> String {
    const LONGEST: usize = 40;
    match value {
        None => "missing".into(),
        Some(Value::Array(list)) if list.len() > LONGEST => format!("a list of {}", list.len()),
        Some(value) => {
            let text = value.to_string();
            match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}
