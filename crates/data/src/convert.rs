//! Data sets of other formats to and from COCO: CSV here, the others by hotcoco.

use std::collections::HashMap;
use std::path::Path;

use hotcoco::convert::{coco_to_voc, coco_to_yolo, voc_to_coco, yolo_to_coco};
use hotcoco::{COCO, Dataset};
use retinanet_images::upright_size;

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
    let dataset = match from {
        DatasetFormat::Coco => COCO::new(source)
            .map(|coco| coco.dataset.clone())
            .map_err(|error| failed(source, &error))?,
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

/// Writes a data set; tells how many annotations were taken over.
fn write(dataset: &Dataset, to: DatasetFormat, path: &Path) -> Result<usize, DataError> {
    let failed = |reason: String| DataError::Convert {
        path: path.into(),
        reason,
    };
    match to {
        DatasetFormat::Coco => {
            let text = serde_json::to_string(dataset).map_err(|error| failed(error.to_string()))?;
            retinanet_output::write(path, text).map_err(|error| failed(error.to_string()))?;
            Ok(dataset.annotations.len())
        }
        DatasetFormat::Csv => {
            let (text, annotations) = csv::write(dataset).map_err(failed)?;
            retinanet_output::write(path, text).map_err(|error| failed(error.to_string()))?;
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
            if let Ok(size) = upright_size(&path) {
                names.insert(stem.clone(), name.to_string_lossy().into_owned());
                sizes.insert(stem, size);
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
