//! How near an anchor comes to a box: what a box can at best be matched with.

use retinanet_boxes::BoundingBox;

use crate::AnchorGenerator;
use crate::generator::shifted;

/// The anchor that overlaps a box most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestOverlap {
    /// Its pyramid level, counted from the finest.
    pub level: usize,
    /// How much it overlaps the box, as intersection over union.
    pub iou: f32,
}

impl AnchorGenerator {
    /// The highest overlap of any anchor with a box, for an input of this size; the finest level
    /// where several have it; exact up to the rounding of anchors' edges. The time does not depend
    /// on the number of anchors.
    pub fn best_overlap(&self, height: usize, width: usize, bbox: &BoundingBox) -> BestOverlap {
        let mut best = BestOverlap { level: 0, iou: 0.0 };
        for level in 0..self.strides().len() {
            let iou = self.level_best_overlap(level, height, width, bbox);
            if iou > best.iou {
                best = BestOverlap { level, iou };
            }
        }
        best
    }

    /// Anchors of one shape overlap a box the less, the farther their centres are from its own, in
    /// each direction by itself. So only the cells around the box's centre count.
    fn level_best_overlap(
        &self,
        level: usize,
        height: usize,
        width: usize,
        bbox: &BoundingBox,
    ) -> f32 {
        let (center_x, center_y) = bbox.center();
        let [rows, columns] = self.centers(level, height, width);
        let mut best = 0.0_f32;
        for y in rows.around(center_y) {
            for x in columns.around(center_x) {
                for shape in self.cell(level) {
                    best = best.max(shifted(shape, x, y).iou(bbox));
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{AnchorConfig, CellCenter, CellOrder, CellRounding, CellSpacing};

    fn configs() -> [AnchorConfig; 3] {
        [
            AnchorConfig::default(),
            AnchorConfig {
                center: CellCenter::Middle,
                ..AnchorConfig::default()
            },
            AnchorConfig {
                rounding: CellRounding::Torchvision,
                order: CellOrder::RatioMajor,
                spacing: CellSpacing::Measured,
                ..AnchorConfig::default()
            },
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn the_reach_is_the_highest_overlap_of_all_anchors(
            config in 0..3_usize,
            center in (-20.0_f32..220.0, -20.0_f32..180.0),
            size in (0.0_f32..9.0, 0.0_f32..9.0),
            on_a_cell: bool,
        ) {
            let generator = configs()[config].init(&[8, 16, 32, 64, 128]).unwrap();
            let (height, width) = (160, 200);
            let (mut x, mut y) = center;
            if on_a_cell {
                (x, y) = ((x / 4.0).round() * 4.0, (y / 4.0).round() * 4.0);
            }
            let bbox = BoundingBox::from_center(x, y, size.0.exp2(), size.1.exp2());
            let levels = (0..5).map(|level| {
                let anchors = generator.level(level, height, width);
                anchors.iter().map(|anchor| anchor.iou(&bbox)).fold(0.0, f32::max)
            });
            let levels: Vec<f32> = levels.collect();
            let highest = levels.iter().copied().fold(0.0, f32::max);
            let reach = generator.best_overlap(height, width, &bbox);
            // Edges far from the origin round otherwise than those near it.
            let same = |iou: f32| (iou - highest).abs() <= 1e-5 * highest;
            prop_assert!(same(reach.iou), "{reach:?} {highest}");
            prop_assert!(highest == 0.0 || same(levels[reach.level]), "{reach:?} {levels:?}");
        }
    }
}
