//! What labelling tools' formats share: shapes become the boxes around them, and names become classes.

use std::collections::HashMap;

use hotcoco::{Annotation, Category, Dataset};

/// A data set that was read, and what of it has no box.
#[derive(Debug, Default)]
pub(super) struct ReadDataset {
    pub(super) dataset: Dataset,
    /// Annotations that have no box: points, lines and the like.
    pub(super) left_out: usize,
}

/// Classes by their names, in the order in which they are met.
#[derive(Debug, Default)]
pub(super) struct Classes(Vec<String>);

impl Classes {
    /// The id of a class, counted from 1.
    pub(super) fn id_of(&mut self, name: &str) -> u64 {
        let place = self.0.iter().position(|known| known == name);
        let place = place.unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        });
        place as u64 + 1
    }

    pub(super) fn categories(self) -> Vec<Category> {
        let named = self.0.into_iter().zip(1..);
        named
            .map(|(name, id)| Category {
                id,
                name,
                ..Category::default()
            })
            .collect()
    }
}

/// Classes in the order of their names.
pub(super) fn sorted_classes<'a>(names: impl Iterator<Item = &'a str>) -> Classes {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    Classes(names.into_iter().map(str::to_owned).collect())
}

/// The annotations of each image, by its id.
pub(super) fn by_image(dataset: &Dataset) -> HashMap<u64, Vec<&Annotation>> {
    let mut of_images: HashMap<u64, Vec<&Annotation>> = HashMap::new();
    for annotation in &dataset.annotations {
        of_images
            .entry(annotation.image_id)
            .or_default()
            .push(annotation);
    }
    of_images
}

/// The class of an annotation, and its box `[x, y, width, height]`; nothing if it is a crowd, or one of them is missing.
pub(super) fn named_box<'a>(
    dataset: &'a Dataset,
    annotation: &Annotation,
) -> Option<(&'a str, [f64; 4])> {
    let mut categories = dataset.categories.iter();
    let category = categories.find(|it| it.id == annotation.category_id)?;
    let bbox = annotation.bbox.filter(|_| !annotation.iscrowd)?;
    Some((&category.name, bbox))
}

/// The corners of a box of these edges, turned clockwise about its middle.
pub(super) fn rotated([left, top, right, bottom]: [f64; 4], degrees: f64) -> Vec<[f64; 2]> {
    let (x, y) = (f64::midpoint(left, right), f64::midpoint(top, bottom));
    turned([left, top, right, bottom], [x, y], degrees)
}

/// The corners of a box of these edges, turned clockwise about a point.
pub(super) fn turned(
    [left, top, right, bottom]: [f64; 4],
    [x, y]: [f64; 2],
    degrees: f64,
) -> Vec<[f64; 2]> {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let corners = [[left, top], [right, top], [right, bottom], [left, bottom]];
    let turned = corners.map(|[corner_x, corner_y]| {
        let (dx, dy) = (corner_x - x, corner_y - y);
        [x + dx * cos - dy * sin, y + dx * sin + dy * cos]
    });
    turned.to_vec()
}

/// `[x, y, width, height]` of the box around some points; nothing if there is none, or one is non-finite.
pub(super) fn enclosing(points: &[[f64; 2]]) -> Option<[f64; 4]> {
    let of = |axis: usize, choose: fn(f64, f64) -> f64| {
        points.iter().map(|point| point[axis]).reduce(choose)
    };
    let (left, top) = (of(0, f64::min)?, of(1, f64::min)?);
    let (right, bottom) = (of(0, f64::max)?, of(1, f64::max)?);
    let bbox = [left, top, right - left, bottom - top];
    bbox.iter().all(|number| number.is_finite()).then_some(bbox)
}
