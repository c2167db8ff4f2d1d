//! The file as COCO writes it.

use std::fmt;
use std::path::Path;

use retinanet_boxes::CategoryId;
use retinanet_boxes::Class;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;

use crate::DataError;

/// The three lists of a COCO instances file. Everything else in it is ignored: `info`, `licenses`,
/// segmentations (polygons or run lengths), areas and whatever a tool has added.
pub(super) struct CocoFile {
    pub(super) images: Vec<RawImage>,
    pub(super) annotations: Vec<RawAnnotation>,
    pub(super) categories: Vec<Class>,
}

#[derive(Deserialize)]
pub(super) struct RawImage {
    pub(super) id: Id,
    pub(super) file_name: String,
    pub(super) width: u32,
    pub(super) height: u32,
}

#[derive(Deserialize)]
pub(super) struct RawAnnotation {
    pub(super) id: Id,
    pub(super) image_id: Id,
    pub(super) category_id: Id,
    #[serde(default)]
    pub(super) bbox: Option<Vec<Option<f64>>>,
    #[serde(default)]
    pub(super) iscrowd: Flag,
}

impl CocoFile {
    pub(super) fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = fs_err::read(path).map_err(|source| DataError::Read {
            path: path.into(),
            source,
        })?;
        // Some Windows tools begin with a byte order mark, which JSON does not know.
        let json = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        let not_coco = |found: &str| DataError::NotCoco {
            path: path.into(),
            found: found.into(),
        };
        let lists: Lists = serde_json::from_slice(json).map_err(|source| {
            let path = path.into();
            match source.classify() {
                Category::Data => match json.trim_ascii_start().first() {
                    Some(b'{') => DataError::Record { path, source },
                    Some(b'[') => not_coco("it is a list, as files of detections are"),
                    _ => not_coco("it is a single value"),
                },
                _ => DataError::NotJson { path, source },
            }
        })?;

        let Lists {
            images,
            annotations,
            categories,
        } = lists;
        let missing: Vec<_> = [
            ("images", images.is_none()),
            ("annotations", annotations.is_none()),
            ("categories", categories.is_none()),
        ]
        .into_iter()
        .filter(|&(_, missing)| missing)
        .map(|(key, _)| format!("`{key}`"))
        .collect();
        let (Some(images), Some(annotations), Some(categories)) = (images, annotations, categories)
        else {
            return Err(not_coco(&format!("it has no {}", missing.join(", no "))));
        };
        Ok(Self {
            images,
            annotations,
            categories: (categories.into_iter())
                .map(|RawCategory { id, name }| Class {
                    category: CategoryId(id.0),
                    name,
                })
                .collect(),
        })
    }
}

#[derive(Deserialize)]
struct Lists {
    images: Option<Vec<RawImage>>,
    annotations: Option<Vec<RawAnnotation>>,
    categories: Option<Vec<RawCategory>>,
}

#[derive(Deserialize)]
struct RawCategory {
    id: Id,
    name: String,
}

/// An id. pandas turns whole columns of integers into floats, so `7.0` is 7 too.
#[derive(Clone, Copy)]
pub(super) struct Id(pub(super) u64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor).map(Self)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id, which is a whole number of at least 0")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<u64, E> {
        Ok(id)
    }

    fn visit_f64<E: Error>(self, id: f64) -> Result<u64, E> {
        // Above 2^53 neighbouring ids would become one.
        const LARGEST: f64 = 9_007_199_254_740_992.0;
        if id.fract() == 0.0 && (0.0..=LARGEST).contains(&id) {
            Ok(id as u64)
        } else {
            Err(E::invalid_value(Unexpected::Float(id), &self))
        }
    }
}

/// `iscrowd`: 0 or 1, or what other tools write for it.
#[derive(Clone, Copy, Default)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FlagVisitor).map(Self)
    }
}

struct FlagVisitor;

impl Visitor<'_> for FlagVisitor {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`iscrowd` 0 or 1")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<bool, E> {
        Ok(flag)
    }

    fn visit_u64<E: Error>(self, flag: u64) -> Result<bool, E> {
        match flag {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(E::invalid_value(Unexpected::Unsigned(flag), &self)),
        }
    }

    fn visit_f64<E: Error>(self, flag: f64) -> Result<bool, E> {
        if flag.fract() == 0.0 && flag >= 0.0 {
            self.visit_u64(flag as u64)
        } else {
            Err(E::invalid_value(Unexpected::Float(flag), &self))
        }
    }
}
