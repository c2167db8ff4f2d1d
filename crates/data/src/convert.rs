//! Data sets of other formats to and from COCO: CSV here, the others by hotcoco.

use std::collections::HashMap;
use std::path::Path;

use hotcoco::Dataset;
use hotcoco::convert::{coco_to_voc, coco_to_yolo, voc_to_coco, yolo_to_coco};
use retinanet_annotations::{CocoFile, Masks, read_json};
use retinanet_images::read_header;
use serde_json::Value;

use crate::DataError;

mod csv;

/// The formats that data sets are converted between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatasetFormat {
    /// A COCO instances JSON file.
    Coco,
    /// A CSV file of a line a box, with edges in pixels, the right and the bottom one exclusive.
    ///
    /// It is written with the header of TensorFlow's detection API,
    /// `filename,width,height,class,xmin,ymin,xmax,ymax`, and a line without a box for an image
    /// that has none. It is read with a header of such names in any order, or without one in
    /// keras-retinanet's columns `path,x1,y1,x2,y2,class`, separated by commas or semicolons.
    /// Spaces around a field do not count.
    Csv,
    /// A folder of Pascal VOC's XML files, perhaps in `Annotations`.
    Voc,
    /// A folder of YOLO's text files, with a `data.yaml` that names the classes.
    Yolo,
}

/// What a conversion took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Images.
    pub images: usize,
    /// Annotations.
    pub annotations: usize,
    /// Annotations that the other format has no way to write, such as crowds in YOLO and CSV.
    pub left_out: usize,
}

/// Converts a data set. `images` is the folder where its pictures lie; YOLO's files do not tell
/// their sizes, and CSV's need not, so they are read from there.
///
/// VOC counts pixels from 1 and includes the last, which is converted; its crowds are "difficult"
/// objects. Ids are numbered anew where the source has none. CSV has no classes without boxes, and
/// they are numbered by their sorted names.
///
/// # Errors
///
/// Returns an error where the source cannot be read, the destination cannot be written, a picture
/// that is needed is not there, or CSV would not tell two images apart.
pub fn convert(
    (from, source): (DatasetFormat, &Path),
    (to, destination): (DatasetFormat, &Path),
    images: &Path,
) -> Result<Converted, DataError> {
    let failed = |path: &Path, reason: &dyn ToString| DataError::Convert {
        path: path.into(),
        reason: reason.to_string(),
    };
    if let (DatasetFormat::Coco, DatasetFormat::Coco) = (from, to) {
        return copy(source, destination);
    }
    let dataset = match from {
        DatasetFormat::Coco => {
            let file = CocoFile::read(source, Masks::Areas)?;
            file.require_sound(source)?;
            file.into_dataset()
        }
        DatasetFormat::Csv => csv::read(source, images)?,
        DatasetFormat::Voc => voc_to_coco(source).map_err(|error| failed(source, &error))?,
        DatasetFormat::Yolo => {
            let pictures = Pictures::find(images)?;
            let mut dataset =
                yolo_to_coco(source, &pictures.sizes).map_err(|error| failed(source, &error))?;
            pictures.name(&mut dataset);
            dataset
        }
    };
    if dataset.images.is_empty() {
        return Err(failed(source, &"it has no images; is it the right format?"));
    }
    let annotations = write(&dataset, to, destination)?;
    Ok(Converted {
        images: dataset.images.len(),
        annotations,
        left_out: dataset.annotations.len() - annotations,
    })
}

/// Writes a COCO file as it is read, with all that is unknown here.
fn copy(source: &Path, destination: &Path) -> Result<Converted, DataError> {
    let file: Value = read_json(source)?;
    let known = CocoFile::of_value(&file, source)?;
    known.require_sound(source)?;
    write_json(destination, &file)?;
    Ok(Converted {
        images: known.images.records().len(),
        annotations: known.annotations.records().len(),
        left_out: 0,
    })
}

fn write_json(path: &Path, file: &Value) -> Result<(), DataError> {
    retinanet_files::write(path, file.to_string()).map_err(|error| DataError::Convert {
        path: path.into(),
        reason: error.to_string(),
    })
}

/// A data set as COCO writes it: what is not known is left out, not `null`.
fn coco_json(dataset: &Dataset) -> serde_json::Result<Value> {
    const LISTS: [&str; 3] = ["images", "annotations", "categories"];
    let mut file = serde_json::to_value(dataset)?;
    if let Some(file) = file.as_object_mut() {
        file.retain(|key, _| LISTS.contains(&key.as_str()));
    }
    for list in LISTS {
        let records = file.get_mut(list).and_then(Value::as_array_mut);
        for record in records
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            record.retain(|_, value| !value.is_null() && *value != Value::Array(Vec::new()));
        }
    }
    Ok(file)
}

/// Writes a data set; tells how many annotations were taken over.
fn write(dataset: &Dataset, to: DatasetFormat, path: &Path) -> Result<usize, DataError> {
    let failed = |reason: String| DataError::Convert {
        path: path.into(),
        reason,
    };
    match to {
        DatasetFormat::Coco => {
            let file = coco_json(dataset).map_err(|error| failed(error.to_string()))?;
            write_json(path, &file)?;
            Ok(dataset.annotations.len())
        }
        DatasetFormat::Csv => {
            let (text, annotations) = csv::write(dataset).map_err(failed)?;
            retinanet_files::write(path, text).map_err(|error| failed(error.to_string()))?;
            Ok(annotations)
        }
        DatasetFormat::Voc => coco_to_voc(dataset, path)
            .map(|stats| stats.annotations)
            .map_err(|error| failed(error.to_string())),
        DatasetFormat::Yolo => coco_to_yolo(dataset, path)
            .map(|stats| stats.annotations)
            .map_err(|error| failed(error.to_string())),
    }
}

/// The pictures of a folder, by their names without extension.
struct Pictures {
    names: HashMap<String, String>,
    sizes: HashMap<String, (u32, u32)>,
}

impl Pictures {
    fn find(folder: &Path) -> Result<Self, DataError> {
        let unreadable = |source| DataError::Read {
            path: folder.into(),
            source,
        };
        let (mut names, mut sizes) = (HashMap::new(), HashMap::new());
        for entry in fs_err::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let (Some(stem), Some(name)) = (path.file_stem(), path.file_name()) else {
                continue;
            };
            let stem = stem.to_string_lossy().into_owned();
            // What is no picture is not asked for.
            if let Ok(header) = read_header(&path) {
                names.insert(stem.clone(), name.to_string_lossy().into_owned());
                sizes.insert(stem, header.upright);
            }
        }
        Ok(Self { names, sizes })
    }

    /// Gives the images their files' names, which YOLO leaves out.
    fn name(&self, dataset: &mut Dataset) {
        for image in &mut dataset.images {
            if let Some(name) = self.names.get(&image.file_name) {
                image.file_name.clone_from(name);
            }
        }
    }
}
