//! Detections as labels, for a labelling tool to import.

use hotcoco::{Annotation, Category, Dataset, Image};
use retinanet_boxes::{ClassList, Detection};

use crate::convert::{ConvertError, Converted, Destination, write_dataset};

/// An image with its detections.
#[derive(Clone, Debug)]
pub struct DetectedImage<'a> {
    /// The name of its file.
    pub name: &'a str,
    /// Width and height of the upright image, in pixels.
    pub size: (u32, u32),
    /// The detections, in pixels of the upright image.
    pub detections: &'a [Detection],
}

/// Writes the detections on images as a data set of this format, images without detections too. COCO, CVAT and Label Studio
/// are told the scores; the other formats have no place for them.
///
/// # Errors
///
/// Returns an error if the destination cannot be written, or CSV would not tell two images apart.
pub fn write_labels(
    images: &[DetectedImage<'_>],
    classes: &ClassList,
    destination: Destination<'_>,
) -> Result<Converted, ConvertError> {
    let categories = classes.iter().map(|(_, class)| Category {
        id: class.category.0,
        name: class.name.clone(),
        ..Category::default()
    });
    let mut dataset = Dataset {
        categories: categories.collect(),
        ..Dataset::default()
    };
    for (image, id) in images.iter().zip(1..) {
        dataset.images.push(Image {
            id,
            file_name: image.name.to_owned(),
            width: image.size.0,
            height: image.size.1,
            ..Image::default()
        });
        for detection in image.detections {
            let Some(category) = classes.category(detection.class) else {
                continue;
            };
            let bbox = detection.bbox.to_xywh();
            let annotations = &mut dataset.annotations;
            annotations.push(Annotation {
                id: annotations.len() as u64 + 1,
                image_id: id,
                category_id: category.0,
                bbox: Some(bbox),
                area: Some(bbox[2] * bbox[3]),
                score: Some(detection.score.into()),
                ..Annotation::default()
            });
        }
    }
    write_dataset(&dataset, destination)
}
