//! Which boxes the anchors can reach.

use retinanet_anchors::AnchorGenerator;
use retinanet_annotations::{CocoFile, RawBox};
use retinanet_boxes::BoundingBox;
use retinanet_data::{DataError, ResizeConfig, Transform, TransformConfig};

use crate::doctor::Kind;
use crate::doctor::boxes::{judge, size};
use crate::doctor::report::Findings;

/// What training will match the boxes with.
#[derive(Clone, Debug)]
pub struct Anchors {
    /// The anchors.
    pub generator: AnchorGenerator,
    /// How large images become. A box counts as reachable if it is at any of the lengths of the
    /// shorter side.
    pub resize: ResizeConfig,
    /// Overlap from which an anchor is an object: intersection over union, in `(0, 1]`.
    pub foreground: f32,
}

impl Anchors {
    /// Finds the boxes that no anchor overlaps enough even where their centres fall together,
    /// crowds apart.
    pub(super) fn check(&self, coco: &CocoFile, findings: &mut Findings) -> Result<(), DataError> {
        let config = TransformConfig {
            resize: self.resize.clone(),
            ..TransformConfig::default()
        };
        let transform = Transform::new(&config, None)?;
        let shapes = self.shapes();
        let images = coco.images_by_id();
        for annotation in coco.annotations.records() {
            let Some(image) = annotation.image.and_then(|image| images.get(&image)) else {
                continue;
            };
            let (RawBox::Numbers(numbers), Some(size)) = (&annotation.bbox, size(Some(image)))
            else {
                continue;
            };
            if annotation.crowd || !judge(&annotation.bbox, Some(size)).is_usable() {
                continue;
            }
            let reach = reach(BoundingBox::from_xywh(*numbers), size, &shapes, &transform);
            if reach.iou < self.foreground {
                let file = Some(image.file_name.as_str());
                findings.add(Kind::UnreachableBox, annotation.id, file, || {
                    reach.to_string()
                });
            }
        }
        Ok(())
    }

    /// Width and height of the anchors of all levels, in pixels of the network's input.
    fn shapes(&self) -> Vec<(f32, f32)> {
        (self.generator.strides().iter().enumerate())
            // An input of one stride is one cell.
            .flat_map(|(level, &stride)| self.generator.level(level, stride, stride))
            .map(|anchor| (anchor.width(), anchor.height()))
            .collect()
    }
}

/// The best overlap of a box of an image of this size, over the shorter sides.
fn reach(
    bbox: BoundingBox,
    size: (u32, u32),
    shapes: &[(f32, f32)],
    transform: &Transform,
) -> Reach {
    let (width, height) = (size.0 as f32, size.1 as f32);
    let clipped = bbox.clip(width, height);
    let mut best = Reach::default();
    for &short_side in transform.short_sides() {
        let resized = transform.preparation().resized_to(size, short_side);
        let bbox = clipped.scale(resized.0 as f32 / width, resized.1 as f32 / height);
        let iou = (shapes.iter())
            .map(|&shape| centred_iou((bbox.width(), bbox.height()), shape))
            .fold(0.0, f32::max);
        if iou >= best.iou {
            best = Reach {
                iou,
                width: bbox.width(),
                height: bbox.height(),
            };
        }
    }
    best
}

/// How well an anchor fits a box at best.
#[derive(Default)]
struct Reach {
    iou: f32,
    /// Sides of the box in pixels of the network's input.
    width: f32,
    height: f32,
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { iou, width, height } = self;
        write!(
            f,
            "{width:.1}×{height:.1} px in the network's input, overlap {iou:.2} at best"
        )
    }
}

/// Intersection over union of two boxes of these widths and heights around one centre.
fn centred_iou(a: (f32, f32), b: (f32, f32)) -> f32 {
    let intersection = a.0.min(b.0) * a.1.min(b.1);
    intersection / (a.0 * a.1 + b.0 * b.1 - intersection)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Moving an anchor off the centre never helps.
        #[test]
        fn no_place_is_better_than_the_centre(
            a in (1.0_f32..200.0, 1.0_f32..200.0),
            b in (1.0_f32..200.0, 1.0_f32..200.0),
            x in -100.0_f32..100.0,
            y in -100.0_f32..100.0,
        ) {
            let fixed = BoundingBox::from_center(0.0, 0.0, a.0, a.1);
            let moved = BoundingBox::from_center(x, y, b.0, b.1);
            prop_assert!(fixed.iou(&moved) <= centred_iou(a, b) + 1e-4);
        }
    }
}
