use serde::{Deserialize, Serialize};

/// An axis-aligned box `[x1, y1, x2, y2]` in continuous pixels of the image at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f32; 4]", into = "[f32; 4]")]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f32,
    /// Top edge.
    pub y1: f32,
    /// Right edge, exclusive.
    pub x2: f32,
    /// Bottom edge, exclusive.
    pub y2: f32,
}

impl BoundingBox {
    /// The box with these edges.
    pub const fn new(x1: f32, y1: f32, x2: f32, y2: f32) -> Self {
        Self { x1, y1, x2, y2 }
    }

    /// Reads COCO's `[x, y, width, height]`.
    pub fn from_xywh([x, y, width, height]: [f64; 4]) -> Self {
        Self::new(x as f32, y as f32, (x + width) as f32, (y + height) as f32)
    }

    /// The box of this size around a centre.
    pub fn from_center(center_x: f32, center_y: f32, width: f32, height: f32) -> Self {
        let (half_width, half_height) = (0.5 * width, 0.5 * height);
        Self::new(
            center_x - half_width,
            center_y - half_height,
            center_x + half_width,
            center_y + half_height,
        )
    }

    /// COCO's `[x, y, width, height]`.
    pub fn to_xywh(self) -> [f64; 4] {
        let [x1, y1, x2, y2] = [self.x1, self.y1, self.x2, self.y2].map(f64::from);
        [x1, y1, x2 - x1, y2 - y1]
    }

    /// The edges, in the order left, top, right, bottom.
    pub const fn to_array(self) -> [f32; 4] {
        [self.x1, self.y1, self.x2, self.y2]
    }

    /// `x2 - x1`; negative where the edges are swapped.
    pub fn width(&self) -> f32 {
        self.x2 - self.x1
    }

    /// `y2 - y1`; negative where the edges are swapped.
    pub fn height(&self) -> f32 {
        self.y2 - self.y1
    }

    /// The middle, `(x, y)`.
    pub fn center(&self) -> (f32, f32) {
        (self.x1 + 0.5 * self.width(), self.y1 + 0.5 * self.height())
    }

    /// The area in square pixels; 0 where the edges are swapped.
    pub fn area(&self) -> f32 {
        self.width().max(0.0) * self.height().max(0.0)
    }

    /// Whether all edges are finite and the box covers something.
    pub fn is_proper(&self) -> bool {
        self.to_array().iter().all(|edge| edge.is_finite())
            && self.width() > 0.0
            && self.height() > 0.0
    }

    /// The area that both boxes cover.
    pub fn intersection(&self, other: &Self) -> f32 {
        let width = self.x2.min(other.x2) - self.x1.max(other.x1);
        let height = self.y2.min(other.y2) - self.y1.max(other.y1);
        width.max(0.0) * height.max(0.0)
    }

    /// Intersection over union, in `[0, 1]`; 0 where the boxes do not meet or cover nothing.
    pub fn iou(&self, other: &Self) -> f32 {
        let intersection = self.intersection(other);
        if intersection > 0.0 {
            intersection / (self.area() + other.area() - intersection)
        } else {
            0.0
        }
    }

    /// The part inside an image of this size.
    #[must_use]
    pub fn clip(self, width: f32, height: f32) -> Self {
        Self::new(
            self.x1.clamp(0.0, width),
            self.y1.clamp(0.0, height),
            self.x2.clamp(0.0, width),
            self.y2.clamp(0.0, height),
        )
    }

    /// The box after the image was resized by these factors.
    #[must_use]
    pub fn scale(self, x: f32, y: f32) -> Self {
        Self::new(self.x1 * x, self.y1 * y, self.x2 * x, self.y2 * y)
    }

    /// The box after an image of this width was mirrored left to right.
    #[must_use]
    pub fn flip_horizontally(self, image_width: f32) -> Self {
        Self::new(
            image_width - self.x2,
            self.y1,
            image_width - self.x1,
            self.y2,
        )
    }

    /// The box after an image of this height was mirrored top to bottom.
    #[must_use]
    pub fn flip_vertically(self, image_height: f32) -> Self {
        Self::new(
            self.x1,
            image_height - self.y2,
            self.x2,
            image_height - self.y1,
        )
    }

    /// The box moved right and down.
    #[must_use]
    pub fn translate(self, x: f32, y: f32) -> Self {
        Self::new(self.x1 + x, self.y1 + y, self.x2 + x, self.y2 + y)
    }
}

impl From<[f32; 4]> for BoundingBox {
    fn from([x1, y1, x2, y2]: [f32; 4]) -> Self {
        Self::new(x1, y1, x2, y2)
    }
}

impl From<BoundingBox> for [f32; 4] {
    fn from(bbox: BoundingBox) -> Self {
        bbox.to_array()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_box() -> impl Strategy<Value = BoundingBox> {
        (
            -50.0_f32..50.0,
            -50.0_f32..50.0,
            0.1_f32..80.0,
            0.1_f32..80.0,
        )
            .prop_map(|(x, y, width, height)| BoundingBox::new(x, y, x + width, y + height))
    }

    proptest! {
        #[test]
        fn iou_is_symmetric_and_a_ratio(a in any_box(), b in any_box()) {
            let iou = a.iou(&b);
            prop_assert!((0.0..=1.0 + 1e-6).contains(&iou), "{iou}");
            prop_assert_eq!(iou, b.iou(&a));
        }

        #[test]
        fn iou_agrees_with_counting_grid_points(a in any_box(), b in any_box()) {
            const STEP: f32 = 0.5;
            let inside = |q: &BoundingBox, x: f32, y: f32| {
                (q.x1..q.x2).contains(&x) && (q.y1..q.y2).contains(&y)
            };
            let (mut both, mut either) = (0_u32, 0_u32);
            for row in -100..260 {
                for column in -100..260 {
                    let (x, y) = (column as f32 * STEP, row as f32 * STEP);
                    let (in_a, in_b) = (inside(&a, x, y), inside(&b, x, y));
                    both += u32::from(in_a && in_b);
                    either += u32::from(in_a || in_b);
                }
            }
            // Thin boxes hold few grid points.
            prop_assume!(a.width().min(a.height()).min(b.width()).min(b.height()) > 10.0);
            let counted = both as f32 / either as f32;
            prop_assert!((counted - a.iou(&b)).abs() < 0.1, "{counted} against {}", a.iou(&b));
        }

        #[test]
        fn flipping_twice_gives_the_box_back(a in any_box()) {
            let twice = a.flip_horizontally(100.0).flip_horizontally(100.0);
            for (edge, expected) in twice.to_array().into_iter().zip(a.to_array()) {
                prop_assert!((edge - expected).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn a_box_from_zero_to_32_is_32_wide() {
        let bbox = BoundingBox::new(0.0, 0.0, 32.0, 16.0);
        assert_eq!(bbox.to_xywh(), [0.0, 0.0, 32.0, 16.0]);
        assert_eq!(bbox.area(), 512.0);
    }

    #[test]
    fn boxes_that_only_touch_do_not_overlap() {
        let left = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
        let right = BoundingBox::new(1.0, 0.0, 2.0, 1.0);
        assert_eq!(left.iou(&right), 0.0);
    }

    #[test]
    fn empty_boxes_have_no_iou_with_themselves() {
        let point = BoundingBox::new(3.0, 3.0, 3.0, 3.0);
        assert_eq!(point.iou(&point), 0.0);
        assert!(!point.is_proper());
    }
}
