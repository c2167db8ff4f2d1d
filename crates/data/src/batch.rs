use std::path::PathBuf;
use std::sync::Arc;

use image::{RgbImage, imageops};
use retinanet_anchors::{PyramidAnchors, TargetAssigner};
use retinanet_boxes::{AnchorTargets, BoundingBox, GroundTruth, ImageId};
use retinanet_images::{PixelData, PixelForm, Preparation, Prepared, Rendered, View};

use crate::{ImageRecord, Transform};

/// Images of one size, ready for a device, with what the model should find on them.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The pixels.
    pub images: PixelData,
    /// Height of the padded images, in pixels.
    pub height: usize,
    /// Width of the padded images, in pixels.
    pub width: usize,
    /// The images one by one.
    pub items: Vec<BatchItem>,
    /// The anchors of an image of the padded size, in the order of the model's predictions.
    pub anchors: Arc<PyramidAnchors>,
    /// For every image what each anchor should say; nothing if the loader has no targets.
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
    /// The objects in pixels of the batch's image, clipped to what is shown; in training those of
    /// every image that the sample shows.
    pub objects: Vec<GroundTruth>,
}

impl Batch {
    /// An image of the batch without its padding, as a viewer shows it: what the network sees, with
    /// the normalisation undone by the preparation that the batch was made with.
    ///
    /// # Panics
    ///
    /// Panics if the batch has no such item.
    pub fn picture(&self, item: usize, preparation: &Preparation) -> RgbImage {
        let pixels = 3 * self.height * self.width;
        let numbers = self.images.numbers();
        let planes = &numbers[item * pixels..][..pixels];
        let picture = preparation.picture(planes, (self.height, self.width));
        let (width, height) = self.items[item].resized_size;
        imageops::crop_imm(&picture, 0, 0, width, height).to_image()
    }
}

impl BatchItem {
    /// Maps a box from the resized image back to the original one, and clips it to that; outside
    /// training, where the image is shown as it is.
    #[must_use]
    pub fn to_original(&self, bbox: BoundingBox) -> BoundingBox {
        let (width, height) = size(self.original_size);
        let (resized_width, resized_height) = size(self.resized_size);
        bbox.scale(width / resized_width, height / resized_height)
            .clip(width, height)
    }
}

/// An image on its way into a batch.
pub(crate) struct Sample {
    item: BatchItem,
    rendered: Rendered,
}

impl Sample {
    /// What a view shows; `index` is the image that it was sampled for.
    pub(crate) fn new<E>(
        view: &View,
        index: usize,
        images: &[ImageRecord],
        transform: &Transform,
        decoded: impl Fn(usize) -> Result<Arc<RgbImage>, E>,
    ) -> Result<Self, E> {
        let min_kept = transform.augment().min_kept_area.as_f32();
        let objects = objects_of(view, images, min_kept);
        let record = &images[index];
        Ok(Self {
            item: BatchItem {
                image_id: record.id,
                index,
                file_name: record.file_name.clone(),
                path: record.path.clone(),
                original_size: record.size(),
                resized_size: view.size,
                objects,
            },
            rendered: view.render(transform.preparation(), decoded)?,
        })
    }
}

/// The objects that a view shows. Of what a pasted piece hides so much that less than `min_kept` is left, the rest is
/// neither an object nor background; nothing remains of what is hidden whole.
fn objects_of(view: &View, images: &[ImageRecord], min_kept: f32) -> Vec<GroundTruth> {
    let mut objects: Vec<GroundTruth> = Vec::new();
    // How much of each is hidden, in pixels; what two pasted pieces hide counts twice.
    let mut hidden: Vec<f32> = Vec::new();
    for piece in &view.pieces {
        if let Some(cover) = piece.hides() {
            for (object, hidden) in objects.iter().zip(&mut hidden) {
                *hidden += object.bbox.intersection(&cover) * piece.fills();
            }
        }
        let record = &images[piece.image];
        let placed = |object: &GroundTruth| piece.place(*object, record.size(), min_kept);
        let shown = match &piece.cut_out {
            Some(cut_out) => record.objects.get(cut_out.object..=cut_out.object),
            None => Some(&record.objects[..]),
        };
        objects.extend(shown.unwrap_or_default().iter().filter_map(placed));
        hidden.resize(objects.len(), 0.0);
    }
    let mut hidden = hidden.into_iter();
    objects.retain_mut(|object| {
        let area = object.bbox.area();
        let left = (area - hidden.next().unwrap_or_default()) / area;
        object.crowd |= left < min_kept;
        left > 0.0
    });
    objects
}

/// Puts samples together.
pub(crate) fn collate(
    samples: Vec<Sample>,
    transform: &Transform,
    form: PixelForm,
    anchors: impl FnOnce(usize, usize) -> Arc<PyramidAnchors>,
    assigner: Option<&TargetAssigner>,
) -> Batch {
    let (items, rendered): (Vec<_>, Vec<_>) = (samples.into_iter())
        .map(|sample| (sample.item, sample.rendered))
        .unzip();
    let Prepared {
        pixels,
        height,
        width,
        ..
    } = Prepared::new(&rendered, transform.preparation(), form);
    let anchors = anchors(height, width);
    let targets = assigner.map_or_else(Vec::new, |assigner| {
        (items.iter())
            .map(|item| assigner.assign(&anchors, &item.objects))
            .collect()
    });
    Batch {
        images: pixels,
        height,
        width,
        items,
        anchors,
        targets,
        skipped: Vec::new(),
    }
}

fn size((width, height): (u32, u32)) -> (f32, f32) {
    (width as f32, height as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use retinanet_images::Region;

    use retinanet_images::{CutOut, Outline};

    use super::*;

    fn item(original_size: (u32, u32), resized_size: (u32, u32)) -> BatchItem {
        BatchItem {
            image_id: ImageId(0),
            index: 0,
            file_name: String::new(),
            path: PathBuf::new(),
            original_size,
            resized_size,
            objects: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn boxes_find_their_way_back(
            original in (1_u32..2000, 1_u32..2000),
            resized in (1_u32..1400, 1_u32..1400),
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
            let view = View::of(0, Region::whole(original), resized);
            let placed = view.pieces[0].place_box(bbox);
            let back = item(original, resized).to_original(placed);
            for (edge, expected) in back.to_array().into_iter().zip(bbox.to_array()) {
                // A few roundings of numbers of up to 2000, scaled up by as much.
                let tolerance = 1e-6 * (1.0 + width + height) * (1.0 + expected / 100.0);
                prop_assert!((edge - expected).abs() <= tolerance, "{edge}, not {expected}");
            }
        }
    }

    /// Over two boxes of 10 × 10 a piece is pasted that hides seven tenths of each, and over a third wholly; what its border of
    /// two pixels is mixed with is not hidden.
    #[test]
    fn what_is_hidden_is_no_object() {
        let object = |x1: f32, x2: f32| GroundTruth {
            bbox: BoundingBox::new(x1, 0.0, x2, 10.0),
            class: retinanet_boxes::ClassId(0),
            crowd: false,
        };
        let record = |objects: Vec<GroundTruth>| ImageRecord {
            id: ImageId(0),
            file_name: String::new(),
            path: PathBuf::new(),
            width: 100,
            height: 10,
            objects,
            outlines: Vec::new(),
        };
        let under = record(vec![
            object(3.0, 13.0),
            object(49.0, 59.0),
            object(20.0, 30.0),
        ]);
        let over = record(vec![object(10.0, 60.0)]);
        let mut view = View::of(0, Region::whole((100, 10)), (100, 10));
        let source = Region {
            x: 8.0,
            y: 0.0,
            width: 52.0,
            height: 10.0,
        };
        let mut pasted = View::of(1, source, (52, 10)).pieces.remove(0);
        pasted.corner = (4, 0);
        pasted.pasted = Some([2, 0, 0, 0]);
        view.pieces.push(pasted);
        let found = objects_of(&view, &[under.clone(), over.clone()], 0.25);
        let told: Vec<_> = (found.iter())
            .map(|object| (object.bbox.x1, object.bbox.x2, object.crowd))
            .collect();
        // It hides from 6 to 56: seven tenths of the first and of the second.
        let first = [(3.0, 13.0, false), (49.0, 59.0, false)];
        assert_eq!(told, [first[0], first[1], (6.0, 56.0, false)]);
        // The first object alone is cut out, of which a thin outline hides little.
        let mut cut_out = view.clone();
        cut_out.pieces[1].cut_out = Some(CutOut {
            object: 0,
            outline: Arc::new(Outline {
                polygons: vec![vec![[0.0, 0.0], [10.0, 9.0], [10.0, 10.0]]],
            }),
        });
        let found = objects_of(&cut_out, &[under, over], 0.25);
        let left: Vec<_> = found.iter().map(|it| it.bbox.x1).collect();
        assert_eq!(left, [3.0, 49.0, 20.0, 6.0]);
        let strict = objects_of(
            &view,
            &[record(vec![object(3.0, 13.0)]), record(Vec::new())],
            0.31,
        );
        assert!(strict[0].crowd);
    }
}
