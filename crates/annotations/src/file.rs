use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;
use serde_json::error::Category as ErrorCategory;

use crate::error::AnnotationsError;
use crate::fields::{Fields, FieldsSeed};
use crate::record::{Annotation, Category, Image, Masks, Record};

/// The three lists of a COCO instances file.
#[derive(Clone, Debug, Default)]
pub struct CocoFile {
    /// The images.
    pub images: List<Image>,
    /// The annotations.
    pub annotations: List<Annotation>,
    /// The categories.
    pub categories: List<Category>,
    /// The lists that occur twice.
    pub repeated: Vec<&'static str>,
}

impl CocoFile {
    /// Reads a file, whatever is wrong with its records.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, is not JSON, or is not an object.
    pub fn read(path: &Path, masks: Masks) -> Result<Self, AnnotationsError> {
        parse(path, |json, bytes| {
            json.deserialize_map(FileVisitor { masks, bytes })
        })
    }

    /// Takes a file that is in memory, with the bounds of its polygons.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not an object; `path` is what to call it.
    pub fn of_value(value: &Value, path: &Path) -> Result<Self, AnnotationsError> {
        let visitor = FileVisitor {
            masks: Masks::Bounds,
            bytes: 0,
        };
        (value.deserialize_map(visitor)).map_err(|_| not_an_object(path, value.is_array()))
    }

    /// Takes a file without annotations for one whose images nobody has annotated yet, as COCO's image info
    /// files are.
    pub fn allow_no_annotations(&mut self) {
        if matches!(self.annotations, List::Missing) {
            self.annotations = List::Records(Vec::new());
        }
    }

    /// Refuses lists that are missing and records that are not understood.
    ///
    /// # Errors
    ///
    /// Returns an error that names the lists, or counts the records and shows the first.
    pub fn require_sound(&self, path: &Path) -> Result<(), AnnotationsError> {
        let missing: Vec<_> = [
            ("images", self.images.is_list()),
            ("annotations", self.annotations.is_list()),
            ("categories", self.categories.is_list()),
        ]
        .into_iter()
        .filter(|(_, is_list)| !is_list)
        .map(|(list, _)| format!("no `{list}`"))
        .collect();
        let not_coco = |found| AnnotationsError::NotCoco {
            path: path.into(),
            found,
        };
        if !missing.is_empty() {
            return Err(not_coco(format!("it has {}", missing.join(", "))));
        }
        if let Some(list) = self.repeated.first() {
            return Err(not_coco(format!("`{list}` occurs twice in it")));
        }
        let mut faults = self.faults();
        let Some(first) = faults.next() else {
            return Ok(());
        };
        Err(AnnotationsError::Records {
            path: path.into(),
            count: 1 + faults.count(),
            first: format!(
                "`{}[{}]`: {}",
                first.list,
                first.index,
                first.faults.join(", ")
            ),
        })
    }

    /// The records that are not understood, list by list.
    pub fn faults(&self) -> impl Iterator<Item = Faults<'_>> {
        let images = self.images.records().iter();
        let annotations = self.annotations.records().iter();
        let categories = self.categories.records().iter();
        let images = images.map(|it| ("images", it.id, &it.faults)).enumerate();
        let annotations = (annotations.map(|it| ("annotations", it.id, &it.faults))).enumerate();
        let categories = (categories.map(|it| ("categories", it.id, &it.faults))).enumerate();
        (images.chain(annotations).chain(categories))
            .filter(|(_, (.., faults))| !faults.is_empty())
            .map(|(index, (list, id, faults))| Faults {
                list,
                index,
                id,
                faults,
            })
    }

    /// The images by id; of several with one id, the first.
    pub fn images_by_id(&self) -> HashMap<u64, &Image> {
        let mut images = HashMap::new();
        for image in self.images.records() {
            if let Some(id) = image.id {
                images.entry(id).or_insert(image);
            }
        }
        images
    }
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug)]
pub struct Faults<'a> {
    /// The list that it is in.
    pub list: &'static str,
    /// Its place there, from 0.
    pub index: usize,
    /// Its id, if it can be read.
    pub id: Option<u64>,
    /// What is not understood.
    pub faults: &'a [String],
}

/// A list of records, or what is in its place.
#[derive(Clone, Debug, Default)]
pub enum List<T> {
    /// Nothing, or `null`.
    #[default]
    Missing,
    /// No list.
    Other,
    /// The records, in the order of the file.
    Records(Vec<T>),
}

impl<T> List<T> {
    /// The records; none if there is no list.
    pub fn records(&self) -> &[T] {
        match self {
            Self::Records(records) => records,
            Self::Missing | Self::Other => &[],
        }
    }

    /// The records; none if there is no list.
    pub fn into_records(self) -> Vec<T> {
        match self {
            Self::Records(records) => records,
            Self::Missing | Self::Other => Vec::new(),
        }
    }

    /// Whether it is a list.
    pub const fn is_list(&self) -> bool {
        matches!(self, Self::Records(_))
    }
}

/// Reads a JSON file that a tool or a person wrote, in UTF-8 or in UTF-16 with its mark.
///
/// # Errors
///
/// Returns an error if the file cannot be read or is not JSON, or if the type refuses what is there.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, AnnotationsError> {
    parse(path, |json, _| T::deserialize(json))
}

/// Reads a list, or the first list at one of these keys of an object.
pub(crate) fn read_list<T: Record>(
    path: &Path,
    keys: &'static [&'static str],
) -> Result<List<T>, AnnotationsError> {
    parse(path, |json, _| {
        json.deserialize_any(WrappedList {
            keys,
            list: ListSeed::new(Masks::Ignored),
        })
    })
}

type Json<'de> = serde_json::Deserializer<serde_json::de::SliceRead<'de>>;

/// Reads a file's JSON, by what is told how many bytes it has.
fn parse<T>(
    path: &Path,
    read: impl FnOnce(&mut Json<'_>, usize) -> serde_json::Result<T>,
) -> Result<T, AnnotationsError> {
    let text = retinanet_files::read_utf8(path).map_err(|source| AnnotationsError::Read {
        path: path.into(),
        source,
    })?;
    let mut json = serde_json::Deserializer::from_slice(&text);
    let found = read(&mut json, text.len()).and_then(|found| json.end().map(|()| found));
    found.map_err(|source| match source.classify() {
        ErrorCategory::Data => not_an_object(path, text.trim_ascii_start().first() == Some(&b'[')),
        _ => AnnotationsError::NotJson {
            path: path.into(),
            source,
        },
    })
}

fn not_an_object(path: &Path, is_list: bool) -> AnnotationsError {
    AnnotationsError::NotCoco {
        path: path.into(),
        found: if is_list {
            "it is a list, as files of detections are".into()
        } else {
            "it is a single value".into()
        },
    }
}

struct FileVisitor {
    masks: Masks,
    /// How long the file is.
    bytes: usize,
}

impl<'de> Visitor<'de> for FileVisitor {
    type Value = CocoFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CocoFile, A::Error> {
        let Self { masks, bytes } = self;
        let mut file = CocoFile::default();
        while let Some(key) = map.next_key::<String>()? {
            let mut seen = |list, is_list| {
                if is_list {
                    file.repeated.push(list);
                }
            };
            match key.as_str() {
                "images" => {
                    seen("images", file.images.is_list());
                    file.images = map.next_value_seed(ListSeed::new(masks))?;
                }
                "annotations" => {
                    seen("annotations", file.annotations.is_list());
                    let room = bytes / BYTES_OF_ANNOTATION;
                    let list = ListSeed {
                        room,
                        ..ListSeed::new(masks)
                    };
                    file.annotations = map.next_value_seed(list)?;
                }
                "categories" => {
                    seen("categories", file.categories.is_list());
                    file.categories = map.next_value_seed(ListSeed::new(masks))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(file)
    }
}

/// About what an annotation without a polygon takes in a file. Room for all of them is asked for at once:
/// moving a million records to a larger place takes longer than what it takes to leave some of it unused.
const BYTES_OF_ANNOTATION: usize = 128;

/// How to read a list.
struct ListSeed<T> {
    masks: Masks,
    /// For how many records there should be room.
    room: usize,
    records: PhantomData<T>,
}

impl<T> ListSeed<T> {
    const fn new(masks: Masks) -> Self {
        Self {
            masks,
            room: 0,
            records: PhantomData,
        }
    }
}

impl<'de, T: Record> DeserializeSeed<'de> for ListSeed<T> {
    type Value = List<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<List<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Record> Visitor<'de> for ListSeed<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
        let keys = T::keys(self.masks);
        let mut records = Vec::with_capacity(self.room);
        let mut fields = Fields::none();
        while (list.next_element_seed(FieldsSeed {
            keys,
            fields: &mut fields,
        })?)
        .is_some()
        {
            records.push(T::of(&fields, self.masks));
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

/// A list, or an object around one.
struct WrappedList<T> {
    keys: &'static [&'static str],
    list: ListSeed<T>,
}

impl<'de, T: Record> Visitor<'de> for WrappedList<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<List<T>, A::Error> {
        self.list.visit_seq(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List<T>, A::Error> {
        let mut found = List::Missing;
        while let Some(key) = map.next_key::<String>()? {
            if self.keys.contains(&key.as_str()) && !found.is_list() {
                found = map.next_value_seed(ListSeed::new(self.list.masks))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}
