use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use retinanet_boxes::CategoryId;

use super::outline::Outline;
use super::{ShapesConfig, ShapesError, Split};

/// What an annotation says: a class, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) category: CategoryId,
    /// With the part that lies outside the image.
    pub(super) outline: Outline,
}

/// Whose annotations a file holds.
pub(super) enum FileKind {
    /// There is no such file.
    Missing,
    /// This module's, with the config, or with `None` where another version drew it.
    Shapes(Option<ShapesConfig>),
    /// Somebody else's.
    Foreign,
}

/// Looks at the `info` of an annotation file.
pub(super) fn file_kind(path: &Path) -> io::Result<FileKind> {
    let bytes = match retinanet_files::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileKind::Missing),
        Err(error) => return Err(error),
    };
    let kind = match serde_json::from_slice::<Header>(&bytes) {
        Ok(Header { info }) if info.description == DESCRIPTION => FileKind::Shapes(
            serde_json::from_value(info.config)
                .ok()
                .filter(|_| info.version == VERSION),
        ),
        Ok(_) | Err(_) => FileKind::Foreign,
    };
    Ok(kind)
}

/// The annotation file of a split; `images` holds the objects of each image, in order.
pub(super) fn annotations_json(
    config: &ShapesConfig,
    split: Split,
    images: &[Vec<Object>],
) -> Result<Vec<u8>, ShapesError> {
    let (width, height) = (config.width.as_u32(), config.height.as_u32());
    let file = File {
        info: Info {
            description: DESCRIPTION.to_owned(),
            version: VERSION.to_owned(),
            config: serde_json::to_value(config).map_err(ShapesError::Annotations)?,
        },
        licenses: [License {
            id: LICENSE_ID,
            name: "drawn by a program, no rights reserved",
            url: "",
        }],
        images: (0..images.len())
            .map(|index| Image {
                id: image_id(index),
                file_name: split.image_name(index),
                width,
                height,
                license: LICENSE_ID,
            })
            .collect(),
        annotations: images
            .iter()
            .enumerate()
            .flat_map(|(index, objects)| objects.iter().map(move |object| (index, object)))
            .zip(1..)
            .map(|((index, object), id)| annotation(id, image_id(index), object, width, height))
            .collect(),
        categories: config
            .named_categories()
            .into_iter()
            .map(|(id, name)| Category {
                id: id.0,
                name,
                supercategory: "shape",
            })
            .collect(),
    };
    serde_json::to_vec(&file).map_err(ShapesError::Annotations)
}

/// COCO counts from 1.
const fn image_id(index: usize) -> u64 {
    index as u64 + 1
}

fn annotation(id: u64, image_id: u64, object: &Object, width: u32, height: u32) -> Annotation {
    let visible = object.outline.clip(width as f32, height as f32);
    Annotation {
        id,
        image_id,
        category_id: object.category.0,
        bbox: visible.bounds().to_xywh(),
        area: visible.area(),
        iscrowd: 0,
        segmentation: [visible.points().iter().flatten().copied().collect()],
    }
}

#[derive(Deserialize)]
struct Header {
    info: Info,
}

#[derive(Serialize, Deserialize)]
struct Info {
    description: String,
    #[serde(default)]
    version: String,
    // Read as any value: a config that this version does not understand is still ours.
    #[serde(default)]
    config: Value,
}

#[derive(Serialize)]
struct File {
    info: Info,
    licenses: [License; 1],
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Serialize)]
struct License {
    id: u64,
    name: &'static str,
    url: &'static str,
}

#[derive(Serialize)]
struct Image {
    id: u64,
    file_name: String,
    width: u32,
    height: u32,
    license: u64,
}

#[derive(Serialize)]
struct Annotation {
    id: u64,
    image_id: u64,
    category_id: u64,
    bbox: [f64; 4],
    area: f64,
    iscrowd: u8,
    segmentation: [Vec<f32>; 1],
}

#[derive(Serialize)]
struct Category {
    id: u64,
    name: String,
    supercategory: &'static str,
}

/// Marks a file as this module's.
const DESCRIPTION: &str = "retinanet shapes";

/// Raised whenever the same config draws other images, so that old folders are drawn anew.
const VERSION: &str = "1";

const LICENSE_ID: u64 = 1;
