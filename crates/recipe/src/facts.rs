use retinanet_boxes::BoundingBox;
use retinanet_data::{CocoDataset, ImageRecord};

/// What a recipe needs to know of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Images to train on.
    pub images: usize,
    /// Images to evaluate on.
    pub val_images: usize,
    /// Boxes to train on, without crowds.
    pub boxes: usize,
    /// Boxes to evaluate on, without crowds.
    pub val_boxes: usize,
    /// Classes.
    pub classes: usize,
    /// The median of the images' shorter sides, in pixels.
    pub short_side: f64,
    /// Longer over shorter side, such that nineteen of twenty images have less; at most 3, since few longer ones would make
    /// every batch large.
    pub aspect: f64,
    /// √area over the image's shorter side, of thin boxes twice their shorter side, such that nine of ten boxes have more.
    pub small: f64,
    /// The same of half of the boxes.
    pub median: f64,
}

impl Facts {
    /// The facts of what is trained and what is evaluated on; images without objects count too.
    pub fn of(train: &CocoDataset, val: &CocoDataset) -> Self {
        let sides = |image: &ImageRecord| {
            let (width, height) = (f64::from(image.width), f64::from(image.height));
            (width.min(height), width.max(height))
        };
        let short: Vec<f64> = train.images.iter().map(|image| sides(image).0).collect();
        let aspects = train.images.iter().map(|image| {
            let (short, long) = sides(image);
            long / short.max(1.0)
        });
        let sizes: Vec<f64> = (train.images.iter())
            .flat_map(|image| {
                let (short, _) = sides(image);
                let boxes = image.objects.iter().filter(|object| !object.crowd);
                boxes.map(move |object| size(&object.bbox) / short.max(1.0))
            })
            .collect();
        let boxes = |dataset: &CocoDataset| {
            let objects = dataset.images.iter().flat_map(|image| &image.objects);
            objects.filter(|object| !object.crowd).count()
        };
        Self {
            images: train.images.len(),
            val_images: val.images.len(),
            boxes: boxes(train),
            val_boxes: boxes(val),
            classes: train.classes.len(),
            aspect: quantile(aspects.collect(), 0.95).map_or(1.0, |aspect| aspect.min(MOST_ASPECT)),
            short_side: quantile(short, 0.5).unwrap_or(0.0),
            small: quantile(sizes.clone(), 0.1).unwrap_or(0.0),
            median: quantile(sizes, 0.5).unwrap_or(0.0),
        }
    }
}

const MOST_ASPECT: f64 = 3.0;

/// How large a box is, in pixels: a thin one can be seen no better than a square of twice its width.
fn size(bbox: &BoundingBox) -> f64 {
    let [width, height] = [bbox.width(), bbox.height()].map(f64::from);
    (width * height).sqrt().min(2.0 * width.min(height))
}

/// The value that such a share of the values is at most.
fn quantile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let place = (share * values.len() as f64).ceil() as usize;
    values.get(place.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thin_box_is_as_small_as_it_is_thin() {
        assert_eq!(size(&BoundingBox::new(0.0, 0.0, 30.0, 30.0)), 30.0);
        // √(300 · 4) = 34.6
        assert_eq!(size(&BoundingBox::new(0.0, 0.0, 300.0, 4.0)), 8.0);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(quantile(values.clone(), 0.1), Some(1.0));
        assert_eq!(quantile(values.clone(), 0.5), Some(5.0));
        assert_eq!(quantile(values, 0.95), Some(10.0));
        assert_eq!(quantile(Vec::new(), 0.5), None);
    }
}
