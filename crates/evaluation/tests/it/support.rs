//! Small data sets made in place.

use hotcoco::{Annotation, Category, Dataset, Image};
use retinanet_boxes::{CategoryId, ImageId};
use retinanet_evaluation::{CocoDetection, Evaluator};

/// A box that everything can be measured against.
pub(crate) const BOX: [f64; 4] = [0.0, 0.0, 100.0, 100.0];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    pub(crate) image: u64,
    pub(crate) class: u64,
    pub(crate) bbox: [f64; 4],
    pub(crate) crowd: bool,
}

pub(crate) fn object(image: u64, class: u64, bbox: [f64; 4]) -> Object {
    Object {
        image,
        class,
        bbox,
        crowd: false,
    }
}

pub(crate) fn crowd(image: u64, class: u64, bbox: [f64; 4]) -> Object {
    Object {
        crowd: true,
        ..object(image, class, bbox)
    }
}

pub(crate) fn detection(image: u64, class: u64, bbox: [f64; 4], score: f64) -> CocoDetection {
    CocoDetection {
        image_id: ImageId(image),
        category_id: CategoryId(class),
        bbox,
        score,
    }
}

/// Images 1 to `images` and classes 1 to `classes`. Annotations are numbered from 0.
pub(crate) fn evaluator(images: u64, classes: u64, objects: &[Object]) -> Evaluator {
    let images = (1..=images).map(|id| Image {
        id,
        file_name: format!("{id}.jpg"),
        ..Image::default()
    });
    let annotations = (0..).zip(objects).map(|(id, object)| Annotation {
        id,
        image_id: object.image,
        category_id: object.class,
        bbox: Some(object.bbox),
        iscrowd: object.crowd,
        ..Annotation::default()
    });
    let categories = (1..=classes).map(|id| Category {
        id,
        name: format!("class {id}"),
        ..Category::default()
    });
    let dataset = Dataset {
        images: images.collect(),
        annotations: annotations.collect(),
        categories: categories.collect(),
        ..Dataset::default()
    };
    Evaluator::from_dataset(dataset, "made up").unwrap()
}

#[track_caller]
pub(crate) fn assert_close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < 1e-12,
        "{found} is not {expected}"
    );
}
