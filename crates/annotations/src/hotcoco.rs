//! The records that the metrics and the converters work on.

use hotcoco::{Annotation, Category, Dataset, Image};

use crate::record::RawBox;
use crate::{CocoFile, record};

impl CocoFile {
    /// hotcoco's data set: what detection needs, and masks only if they were read. Ids that are missing
    /// are 0, sizes too; a box that is missing or malformed is none.
    pub fn into_dataset(self) -> Dataset {
        let images = self.images.into_records();
        let annotations = self.annotations.into_records();
        let categories = self.categories.into_records();
        Dataset {
            images: images.into_iter().map(image).collect(),
            annotations: annotations.into_iter().map(annotation).collect(),
            categories: categories.into_iter().map(category).collect(),
            ..Dataset::default()
        }
    }
}

fn image(image: record::Image) -> Image {
    let (width, height) = image.size.unwrap_or_default();
    Image {
        id: image.id.unwrap_or_default(),
        file_name: image.file_name,
        width,
        height,
        ..Image::default()
    }
}

fn category(category: record::Category) -> Category {
    Category {
        id: category.id.unwrap_or_default(),
        name: category.name,
        ..Category::default()
    }
}

fn annotation(annotation: record::Annotation) -> Annotation {
    Annotation {
        id: annotation.id.unwrap_or_default(),
        image_id: annotation.image.unwrap_or_default(),
        category_id: annotation.category.unwrap_or_default(),
        bbox: match annotation.bbox {
            RawBox::Numbers(numbers) => Some(numbers),
            RawBox::Missing | RawBox::Malformed(_) => None,
        },
        area: annotation.area,
        segmentation: annotation.mask.map(|mask| *mask),
        iscrowd: annotation.crowd,
        ..Annotation::default()
    }
}
