//! Data sets of other formats to and from COCO: what is written of VOC is hotcoco's, the others are here.

use std::path::{Path, PathBuf};

use hotcoco::Dataset;
use hotcoco::convert::voc_to_coco;
use retinanet_annotations::{CocoFile, Masks, read_json};
use serde_json::Value;

mod csv;
mod cvat;
mod error;
mod label_studio;
mod labelme;
mod pictures;
mod shapes;
mod via;
mod voc;
mod yaml;
mod yolo;

pub use error::ConvertError;
pub use label_studio::decoded as decoded_query;
pub(crate) use pictures::is_picture;

use self::shapes::ReadDataset;

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
    /// An XML file of CVAT's, `CVAT for images 1.1`.
    Cvat,
    /// A JSON file of Label Studio's, a list of tasks.
    LabelStudio,
    /// labelme's JSON files, each beside its picture.
    Labelme,
    /// A JSON file of VIA's, version 2: a project, or its annotations.
    Via,
    /// A folder of Pascal VOC's XML files, perhaps in `Annotations`.
    Voc,
    /// A folder of YOLO's text files, with a `data.yaml` or a `classes.txt` that names the classes, in the
    /// layouts of Ultralytics, Roboflow and darknet.
    Yolo,
}

/// What a conversion took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Images.
    pub images: usize,
    /// Annotations.
    pub annotations: usize,
    /// Annotations that have no box, or that the other format has no way to write, such as crowds in YOLO and CSV.
    pub left_out: usize,
}

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its format.
    pub format: DatasetFormat,
    /// Its file or folder.
    pub path: &'a Path,
    /// The folder of the pictures, for formats that do not tell their sizes, as YOLO's; the source, or
    /// the folder of the source's file, if not given.
    pub images: Option<&'a Path>,
    /// One of the splits that YOLO's `data.yaml`, darknet's text files or VOC's `ImageSets` list; all pictures if not given.
    pub split: Option<&'a str>,
}

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// Its format.
    pub format: DatasetFormat,
    /// Its file or folder.
    pub path: &'a Path,
}

/// Converts a data set.
///
/// VOC counts pixels from 1 and includes the last, which is converted; its crowds are "difficult"
/// objects. Ids are numbered anew where the source has none. CSV has no classes without boxes, and
/// they are numbered by their sorted names.
///
/// # Errors
///
/// Returns an error if the source cannot be read, the destination cannot be written, a picture
/// that is needed is not there, or CSV would not tell two images apart.
pub fn convert(
    source: Source<'_>,
    destination: Destination<'_>,
) -> Result<Converted, ConvertError> {
    if let (DatasetFormat::Coco, DatasetFormat::Coco, None) =
        (source.format, destination.format, source.split)
    {
        return copy(source.path, destination.path);
    }
    let ReadDataset { dataset, left_out } = read(source)?;
    if dataset.images.is_empty() {
        return Err(ConvertError::Failed {
            path: source.path.into(),
            reason: "it has no images; is it the right format?".into(),
        });
    }
    let written = write_dataset(&dataset, destination)?;
    Ok(Converted {
        left_out: written.left_out + left_out,
        ..written
    })
}

fn read(source: Source<'_>) -> Result<ReadDataset, ConvertError> {
    let Source {
        format,
        path,
        images,
        split,
    } = source;
    let beside = match path.parent() {
        Some(folder) if path.is_file() => folder,
        _ => path,
    };
    let failed = |reason: &dyn ToString| ConvertError::Failed {
        path: path.into(),
        reason: reason.to_string(),
    };
    let has_splits = matches!(format, DatasetFormat::Voc | DatasetFormat::Yolo);
    if let Some(split) = split.filter(|_| !has_splits) {
        let reason = format!("its format lists no splits, and so no `{split}`");
        return Err(failed(&reason));
    }
    let dataset = match format {
        DatasetFormat::Coco => {
            let file = CocoFile::read(path, Masks::Areas)?;
            file.require_sound(path)?;
            file.into_dataset()
        }
        DatasetFormat::Csv => csv::read(path, images.unwrap_or(beside))?,
        DatasetFormat::Voc => {
            voc::require_files(path)?;
            let mut dataset = voc_to_coco(path).map_err(|error| failed(&error))?;
            voc::complete(&mut dataset, images.unwrap_or(beside))?;
            if let Some(split) = split {
                voc::keep_split(&mut dataset, path, split)?;
            }
            dataset
        }
        DatasetFormat::Yolo => yolo::read(path, images, split)?,
        DatasetFormat::Cvat => {
            let text = retinanet_files::read_text(path).map_err(|source| ConvertError::Read {
                path: path.into(),
                source,
            })?;
            return cvat::read(&text).map_err(|reason| failed(&reason));
        }
        DatasetFormat::LabelStudio => {
            let file: Value = read_json(path)?;
            let read = label_studio::read(&file, images.unwrap_or(beside));
            return read.map_err(|reason| failed(&reason));
        }
        DatasetFormat::Labelme => return labelme::read(path),
        DatasetFormat::Via => {
            let file: Value = read_json(path)?;
            let read = via::read(&file, images.unwrap_or(beside));
            return read.map_err(|reason| failed(&reason));
        }
    };
    Ok(ReadDataset {
        dataset,
        left_out: 0,
    })
}

/// Writes a data set; of detections, CVAT and Label Studio are told the scores.
///
/// # Errors
///
/// Returns an error if the destination cannot be written, or CSV would not tell two images apart.
pub(crate) fn write_dataset(
    dataset: &Dataset,
    destination: Destination<'_>,
) -> Result<Converted, ConvertError> {
    let annotations = write(dataset, destination)?;
    Ok(Converted {
        images: dataset.images.len(),
        annotations,
        left_out: dataset.annotations.len() - annotations,
    })
}

/// The splits that VOC's `ImageSets/Main` lists and that have annotations, by name.
pub(crate) fn voc_splits(source: &Path) -> Vec<String> {
    voc::splits(source)
}

/// The splits that a YOLO source's `data.yaml`, or darknet's text files, list and that are there, by name.
///
/// # Errors
///
/// Returns an error if the source names no classes.
pub fn yolo_splits(source: &Path) -> Result<Vec<String>, ConvertError> {
    yolo::splits(source)
}

/// Writes a COCO file as it is read, with all that is unknown here.
fn copy(source: &Path, destination: &Path) -> Result<Converted, ConvertError> {
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

fn write_json(path: &Path, file: &Value) -> Result<(), ConvertError> {
    retinanet_files::write(path, file.to_string()).map_err(|error| ConvertError::Failed {
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
fn write(dataset: &Dataset, destination: Destination<'_>) -> Result<usize, ConvertError> {
    let Destination { format, path } = destination;
    let failed = |reason: String| ConvertError::Failed {
        path: path.into(),
        reason,
    };
    match format {
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
        DatasetFormat::Cvat => {
            let (text, annotations) = cvat::write(dataset).map_err(failed)?;
            retinanet_files::write(path, text).map_err(|error| failed(error.to_string()))?;
            Ok(annotations)
        }
        DatasetFormat::LabelStudio => {
            let (file, annotations) = label_studio::write(dataset);
            write_json(path, &file)?;
            Ok(annotations)
        }
        DatasetFormat::Via => {
            let (file, annotations) = via::write(dataset);
            write_json(path, &file)?;
            Ok(annotations)
        }
        DatasetFormat::Voc => voc::write(dataset, path).map_err(failed),
        DatasetFormat::Labelme => {
            let (files, annotations) = labelme::write(dataset).map_err(failed)?;
            write_files(path, files)?;
            Ok(annotations)
        }
        DatasetFormat::Yolo => {
            let (files, annotations) = yolo::write(dataset).map_err(failed)?;
            write_files(path, files)?;
            Ok(annotations)
        }
    }
}

/// Writes files below a folder.
fn write_files(folder: &Path, files: Vec<(PathBuf, String)>) -> Result<(), ConvertError> {
    for (name, text) in files {
        let path = folder.join(name);
        retinanet_files::write_cached(&path, text).map_err(|error| ConvertError::Failed {
            reason: error.to_string(),
            path,
        })?;
    }
    Ok(())
}
