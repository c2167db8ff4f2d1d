//! What detection needs of an image, a category and an annotation.

use hotcoco::Segmentation;
use serde::Deserialize;
use serde_json::Value;

use crate::fields::{Field, Fields};

/// Longest side of an image that a file may claim, in pixels: what fits into any image format.
const LONGEST_SIDE: u64 = 1 << 31;

/// What is looked at of the annotations' masks, which are most of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masks {
    /// Nothing.
    Ignored,
    /// The bounds of polygons.
    Bounds,
    /// The area, where the file does not give it.
    Areas,
    /// The polygons.
    Outlines,
}

/// What a list holds.
pub(crate) trait Record: Sized {
    /// The keys that are looked at.
    fn keys(masks: Masks) -> &'static [&'static str];

    /// The record with the values at [`keys`](Self::keys).
    fn of(fields: &Fields, masks: Masks) -> Self;
}

/// An entry of `images`.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The id, if it can be read.
    pub id: Option<u64>,
    /// The file's name, perhaps with folders; empty if it is missing or no text.
    pub file_name: String,
    /// Width and height in pixels, both at least 1, or what is in their place.
    pub size: Result<(u32, u32), String>,
    /// What cannot be understood, but for the size and the name, which not all callers need.
    pub faults: Vec<String>,
}

impl Record for Image {
    fn keys(_: Masks) -> &'static [&'static str] {
        &["id", "file_name", "width", "height"]
    }

    fn of(fields: &Fields, _: Masks) -> Self {
        let mut faults = faults(fields);
        let [width, height] = [fields.get(2), fields.get(3)];
        let side = |value: Option<&Value>| match value.and_then(whole_number)? {
            side @ 1..LONGEST_SIDE => u32::try_from(side).ok(),
            _ => None,
        };
        let size = match (side(width), side(height)) {
            (Some(width), Some(height)) => Ok((width, height)),
            _ => Err(format!(
                "`width` is {}, `height` is {}",
                shown(width),
                shown(height)
            )),
        };
        let file_name = fields.get(1).and_then(Value::as_str);
        Self {
            id: id(fields, 0, "id", &mut faults),
            file_name: file_name.unwrap_or_default().into(),
            size,
            faults,
        }
    }
}

/// An entry of `categories`.
#[derive(Clone, Debug, PartialEq)]
pub struct Category {
    /// The id, if it can be read.
    pub id: Option<u64>,
    /// The name; of a number, its digits; empty if it is missing.
    pub name: String,
    /// What cannot be understood.
    pub faults: Vec<String>,
}

impl Record for Category {
    fn keys(_: Masks) -> &'static [&'static str] {
        &["id", "name"]
    }

    fn of(fields: &Fields, _: Masks) -> Self {
        let mut faults = faults(fields);
        let name = match fields.get(1) {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Number(number)) => number.to_string(),
            other => {
                if fields.is_object() {
                    faults.push(format!("`name` is {}", shown(other)));
                }
                String::new()
            }
        };
        Self {
            id: id(fields, 0, "id", &mut faults),
            name,
            faults,
        }
    }
}

/// An entry of `annotations`.
#[derive(Clone, Debug)]
pub struct Annotation {
    /// The id, if there is one; nothing points at it, so it may be missing.
    pub id: Option<u64>,
    /// The id of its image, if it can be read.
    pub image: Option<u64>,
    /// The id of its category, if it can be read.
    pub category: Option<u64>,
    /// What is at `bbox`.
    pub bbox: RawBox,
    /// Whether it marks a region of many objects.
    pub crowd: bool,
    /// The area in square pixels, if the file gives one.
    pub area: Option<f64>,
    /// With [`Masks::Areas`] the mask that gives the area, if the file does not.
    pub mask: Option<Box<Segmentation>>,
    /// Whether anything is drawn in `segmentation`; not known with [`Masks::Ignored`].
    pub has_mask: bool,
    /// With [`Masks::Bounds`] the bounds of the polygons, if there are any: left, top, right and bottom
    /// in pixels.
    pub polygons: Option<Box<[f64; 4]>>,
    /// With [`Masks::Outlines`] the polygons, each its corners `[x, y]` in pixels; empty if there are none.
    pub outline: Vec<Vec<[f32; 2]>>,
    /// What cannot be understood, but for the box.
    pub faults: Vec<String>,
}

impl Annotation {
    /// The record that is this value, with the bounds of its polygons.
    pub fn of_value(value: &Value) -> Self {
        let masks = Masks::Bounds;
        Self::of(&Fields::of_value(Self::keys(masks), value), masks)
    }
}

impl Record for Annotation {
    fn keys(masks: Masks) -> &'static [&'static str] {
        const KEYS: &[&str] = &[
            "id",
            "image_id",
            "category_id",
            "bbox",
            "iscrowd",
            "area",
            "segmentation",
        ];
        match masks {
            Masks::Ignored => &KEYS[..KEYS.len() - 1],
            Masks::Bounds | Masks::Areas | Masks::Outlines => KEYS,
        }
    }

    fn of(fields: &Fields, masks: Masks) -> Self {
        let mut faults = faults(fields);
        let segmentation = fields.get(6);
        let area = fields.get(5).and_then(area);
        Self {
            id: optional_id(fields, 0, "id", &mut faults),
            image: id(fields, 1, "image_id", &mut faults),
            category: id(fields, 2, "category_id", &mut faults),
            bbox: RawBox::of(fields.field(3)),
            crowd: crowd(fields.get(4), &mut faults),
            area,
            has_mask: segmentation.is_some_and(is_drawn),
            mask: match masks {
                Masks::Areas if area.is_none() => segmentation.and_then(mask).map(Box::new),
                _ => None,
            },
            polygons: match masks {
                Masks::Bounds => segmentation.and_then(bounds).map(Box::new),
                Masks::Ignored | Masks::Areas | Masks::Outlines => None,
            },
            outline: match masks {
                Masks::Outlines => segmentation.and_then(outline).unwrap_or_default(),
                Masks::Ignored | Masks::Bounds | Masks::Areas => Vec::new(),
            },
            faults,
        }
    }
}

/// What is at `bbox`.
#[derive(Clone, Debug, PartialEq)]
pub enum RawBox {
    /// Nothing, `null` or an empty list.
    Missing,
    /// What is wrong with it.
    Malformed(String),
    /// `[x, y, width, height]`, with NaN for `null`.
    Numbers([f64; 4]),
}

impl RawBox {
    pub(crate) fn of(field: Option<&Field>) -> Self {
        match field {
            Some(Field::Four(numbers)) => Self::Numbers(*numbers),
            Some(Field::Value(value)) => Self::read(Some(value)),
            None => Self::Missing,
        }
    }

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

/// What is wrong with a record as a whole.
pub(crate) fn faults(fields: &Fields) -> Vec<String> {
    let not_an_object =
        (fields.other.iter()).map(|other| format!("it is {}, not an object", shown(Some(other))));
    let contradictions = (fields.contradictions.iter())
        .map(|key| format!("`{key}` occurs twice, with different values"));
    not_an_object.chain(contradictions).collect()
}

fn id(fields: &Fields, place: usize, key: &str, faults: &mut Vec<String>) -> Option<u64> {
    let value = fields.get(place);
    let id = value.and_then(whole_number);
    if id.is_none() && fields.is_object() {
        faults.push(format!("`{key}` is {}", shown(value)));
    }
    id
}

fn optional_id(fields: &Fields, place: usize, key: &str, faults: &mut Vec<String>) -> Option<u64> {
    match fields.get(place) {
        None | Some(Value::Null) => None,
        Some(_) => id(fields, place, key, faults),
    }
}

/// A whole number of at least 0. pandas turns whole columns of integers into floats, so `7.0` is 7 too.
pub fn whole_number(value: &Value) -> Option<u64> {
    // Above 2^53 neighbouring ids would become one.
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    let whole = |id: f64| (id.fract() == 0.0 && (0.0..=LARGEST).contains(&id)).then_some(id as u64);
    value.as_u64().or_else(|| whole(value.as_f64()?))
}

/// `iscrowd`: 0 or 1, or what other tools write for it.
fn crowd(value: Option<&Value>, faults: &mut Vec<String>) -> bool {
    let flag = match value {
        None | Some(Value::Null) => return false,
        Some(&Value::Bool(crowd)) => return crowd,
        Some(Value::String(digit)) => digit.trim().parse().ok(),
        Some(other) => other.as_f64(),
    };
    if flag == Some(1.0) {
        return true;
    }
    if flag != Some(0.0) {
        faults.push(format!("`iscrowd` is {}", shown(value)));
    }
    false
}

/// An area of at least 0, perhaps as text; nothing for what else is there, which the box replaces.
fn area(value: &Value) -> Option<f64> {
    let area = match value {
        Value::String(digits) => digits.trim().parse().ok(),
        value => value.as_f64(),
    };
    area.filter(|area: &f64| area.is_finite() && *area >= 0.0)
}

/// Whether a mask is more than an empty list.
fn is_drawn(segmentation: &Value) -> bool {
    match segmentation {
        Value::Array(parts) => !parts.is_empty(),
        other => other.is_object(),
    }
}

/// A mask in any of COCO's forms; also one polygon without a list around it, and run lengths of an image
/// whose size is written in floats. Nothing for what is not understood: the box replaces it.
fn mask(value: &Value) -> Option<Segmentation> {
    match value {
        Value::Array(numbers) if numbers.iter().any(Value::is_number) => {
            let polygon: Option<Vec<f64>> = numbers.iter().map(Value::as_f64).collect();
            Some(Segmentation::Polygon(vec![polygon?]))
        }
        Value::Object(runs) => {
            let size = runs.get("size")?.as_array()?;
            let size: Option<Vec<u64>> = size.iter().map(whole_number).collect();
            let mut runs = runs.clone();
            runs.insert("size".into(), size?.into());
            Segmentation::deserialize(Value::Object(runs)).ok()
        }
        other => Segmentation::deserialize(other).ok(),
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

/// Polygons, each a list `[x, y, x, y, …]` of three corners or more; nothing for other forms, as of crowds, and where a
/// number is none.
fn outline(segmentation: &Value) -> Option<Vec<Vec<[f32; 2]>>> {
    let corner = |pair: &[Value]| {
        let corner = [pair[0].as_f64()? as f32, pair[1].as_f64()? as f32];
        Some(corner).filter(|corner| corner.iter().all(|number| number.is_finite()))
    };
    let polygons = segmentation.as_array()?.iter().map(|polygon| {
        let corners = polygon.as_array()?.chunks_exact(2).map(corner);
        let corners: Vec<_> = corners.collect::<Option<_>>()?;
        (corners.len() >= 3).then_some(corners)
    });
    polygons.collect()
}

/// A value for a message, cut if it is long.
pub fn shown(value: Option<&Value>) -> String {
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
