use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use retinanet_anchors::{AnchorGenerator, TargetAssigner};
use retinanet_boxes::{AnchorTargets, BoundingBox, GroundTruth, ImageId};

use crate::pixels::Pixels;
use crate::resize::resize;
use crate::transform::View;
use crate::{DataError, ImageRecord, Transform, decode_image};

/// Images of one size, ready for a device, with what the model should find on them.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The pixels, normalised: `[items, 3, height, width]`, row by row. Each image stands in the
    /// top left corner; the rest is 0, which is the colour of the normalisation's mean.
    pub images: Vec<f32>,
    /// Height of the padded images, in pixels.
    pub height: usize,
    /// Width of the padded images, in pixels.
    pub width: usize,
    /// The images one by one.
    pub items: Vec<BatchItem>,
    /// The anchors of an image of the padded size, in the order of the model's predictions.
    pub anchors: Arc<Vec<BoundingBox>>,
    /// For every image what each anchor should say; nothing outside training.
    pub targets: Vec<AnchorTargets>,
    /// The images of the batch that could not be read and were left out: the file and what is wrong
    /// with it.
    pub skipped: Vec<String>,
}

/// One image of a [`Batch`].
#[derive(Clone, Debug, PartialEq)]
pub struct BatchItem {
    /// The image's id; 0 for a file outside a data set.
    pub image_id: ImageId,
    /// The image's place in the data set; 0 for a file outside a data set.
    pub index: usize,
    /// The file's name as the annotations write it.
    pub file_name: String,
    /// Where the file lies.
    pub path: PathBuf,
    /// Width and height of the upright image, in pixels.
    pub original_size: (u32, u32),
    /// Width and height in the batch, without the padding.
    pub resized_size: (u32, u32),
    /// Whether the image was mirrored left to right.
    pub flipped: bool,
    /// The objects in pixels of the resized image, clipped to it.
    pub objects: Vec<GroundTruth>,
}

impl BatchItem {
    /// Maps a box from the resized image back to the original one, and clips it to that.
    #[must_use]
    pub fn to_original(&self, bbox: BoundingBox) -> BoundingBox {
        let (width, height) = size(self.original_size);
        let (resized_width, resized_height) = size(self.resized_size);
        let bbox = if self.flipped {
            bbox.flip_horizontally(resized_width)
        } else {
            bbox
        };
        bbox.scale(width / resized_width, height / resized_height)
            .clip(width, height)
    }
}

/// Reads an image file as evaluation does, into a batch of one.
///
/// # Errors
///
/// As [`decode_image`].
pub fn prepare(
    path: &Path,
    transform: &Transform,
    generator: &AnchorGenerator,
) -> Result<Batch, DataError> {
    let image = decode_image(path)?;
    let record = ImageRecord {
        id: ImageId(0),
        file_name: path.display().to_string(),
        path: path.into(),
        width: image.width(),
        height: image.height(),
        objects: Vec::new(),
    };
    let sample = Sample::new(image, &record, 0, transform, transform.plain());
    let anchors = |height, width| Arc::new(generator.generate(height, width));
    Ok(collate(vec![sample], transform, anchors, None))
}

/// An image on its way into a batch.
pub(crate) struct Sample {
    item: BatchItem,
    pixels: Pixels,
}

impl Sample {
    /// Decodes and resizes an image of the data set.
    pub(crate) fn load(
        record: &ImageRecord,
        index: usize,
        transform: &Transform,
        view: View,
    ) -> Result<Self, DataError> {
        let image = decode_image(&record.path)?;
        let expected = (record.width, record.height);
        // The boxes would be wrong, and silently so.
        if image.dimensions() != expected {
            return Err(DataError::SizeMismatch {
                path: record.path.clone(),
                expected,
                found: image.dimensions(),
            });
        }
        Ok(Self::new(image, record, index, transform, view))
    }

    fn new(
        image: RgbImage,
        record: &ImageRecord,
        index: usize,
        transform: &Transform,
        view: View,
    ) -> Self {
        let original_size = image.dimensions();
        let resized_size = transform.resized_size(original_size, view);
        let objects = (record.objects.iter())
            .map(|&object| GroundTruth {
                bbox: place(object.bbox, original_size, resized_size, view.flipped),
                ..object
            })
            // Of a box that reached in by a hair, rounding may leave nothing.
            .filter(|object| object.bbox.is_proper())
            .collect();
        Self {
            item: BatchItem {
                image_id: record.id,
                index,
                file_name: record.file_name.clone(),
                path: record.path.clone(),
                original_size,
                resized_size,
                flipped: view.flipped,
                objects,
            },
            pixels: resize(image, resized_size, transform.interpolation()),
        }
    }
}

/// Puts samples together.
pub(crate) fn collate(
    samples: Vec<Sample>,
    transform: &Transform,
    anchors: impl FnOnce(usize, usize) -> Arc<Vec<BoundingBox>>,
    assigner: Option<&TargetAssigner>,
) -> Batch {
    let sizes = samples.iter().map(|sample| sample.item.resized_size);
    let (height, width) = transform.padded_size(sizes);
    let mut images = Vec::with_capacity(samples.len() * 3 * height * width);
    for Sample { item, pixels } in &samples {
        (transform.normalizer()).append(pixels, item.flipped, &mut images, (height, width));
    }
    let items: Vec<_> = samples.into_iter().map(|sample| sample.item).collect();
    let anchors = anchors(height, width);
    let targets = assigner.map_or_else(Vec::new, |assigner| {
        (items.iter())
            .map(|item| assigner.assign(&anchors, &item.objects))
            .collect()
    });
    Batch {
        images,
        height,
        width,
        items,
        anchors,
        targets,
        skipped: Vec::new(),
    }
}

/// The box in the resized image. It is clipped there, not in the data set, as detectron2's
/// `DatasetMapper` does it.
pub(crate) fn place(
    bbox: BoundingBox,
    original_size: (u32, u32),
    resized_size: (u32, u32),
    flipped: bool,
) -> BoundingBox {
    let (width, height) = size(original_size);
    let (resized_width, resized_height) = size(resized_size);
    let bbox = bbox
        .scale(resized_width / width, resized_height / height)
        .clip(resized_width, resized_height);
    if flipped {
        bbox.flip_horizontally(resized_width)
    } else {
        bbox
    }
}

fn size((width, height): (u32, u32)) -> (f32, f32) {
    (width as f32, height as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use retinanet_boxes::ClassId;

    use super::*;
    use crate::TransformConfig;

    fn item(original_size: (u32, u32), resized_size: (u32, u32), flipped: bool) -> BatchItem {
        BatchItem {
            image_id: ImageId(0),
            index: 0,
            file_name: String::new(),
            path: PathBuf::new(),
            original_size,
            resized_size,
            flipped,
            objects: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn boxes_find_their_way_back(
            original in (1_u32..2000, 1_u32..2000),
            resized in (1_u32..1400, 1_u32..1400),
            flipped: bool,
            edges: [f32; 4],
        ) {
            let (width, height) = size(original);
            let unit = edges.map(|edge| if edge.is_finite() { edge.abs().fract() } else { 0.5 });
            let bbox = BoundingBox::new(
                width * unit[0].min(unit[1]),
                height * unit[2].min(unit[3]),
                width * unit[0].max(unit[1]),
                height * unit[2].max(unit[3]),
            );
            let placed = place(bbox, original, resized, flipped);
            let back = item(original, resized, flipped).to_original(placed);
            for (edge, expected) in back.to_array().into_iter().zip(bbox.to_array()) {
                // A few roundings of numbers of up to 2000, scaled up by as much.
                let tolerance = 1e-6 * (1.0 + width + height) * (1.0 + expected / 100.0);
                prop_assert!((edge - expected).abs() <= tolerance, "{edge}, not {expected}");
            }
        }
    }

    #[test]
    fn boxes_are_resized_and_then_mirrored() {
        let bbox = BoundingBox::new(10.0, 20.0, 40.0, 60.0);
        let plain = place(bbox, (100, 80), (50, 160), false);
        assert_eq!(plain, BoundingBox::new(5.0, 40.0, 20.0, 120.0));
        let flipped = place(bbox, (100, 80), (50, 160), true);
        assert_eq!(flipped, BoundingBox::new(30.0, 40.0, 45.0, 120.0));
    }

    #[test]
    fn boxes_are_clipped_to_the_resized_image() {
        let bbox = BoundingBox::new(-10.0, 20.0, 200.0, 60.0);
        let clipped = place(bbox, (100, 80), (50, 40), true);
        assert_eq!(clipped, BoundingBox::new(0.0, 10.0, 50.0, 30.0));
    }

    #[test]
    fn slivers_leave_no_object() {
        let record = ImageRecord {
            id: ImageId(1),
            file_name: "a.png".into(),
            path: "a.png".into(),
            width: 100,
            height: 100,
            objects: vec![GroundTruth {
                bbox: BoundingBox::new(99.999_99, 0.0, 120.0, 50.0),
                class: ClassId(0),
                crowd: false,
            }],
        };
        let mut config = TransformConfig::default();
        config.resize.short_side = vec![3];
        let transform = Transform::new(&config).expect("the settings are in range");
        let view = View {
            flipped: true,
            ..transform.plain()
        };
        let sample = Sample::new(RgbImage::new(100, 100), &record, 0, &transform, view);
        for object in &sample.item.objects {
            assert!(object.bbox.is_proper(), "{object:?}");
        }
    }
}
