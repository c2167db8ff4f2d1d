//! Adaptive training sample selection (Zhang et al. 2020, [arXiv 1912.02424](https://arxiv.org/abs/1912.02424),
//! algorithm 1).

use retinanet_boxes::BoundingBox;
use retinanet_settings::Whole;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::matcher::Assignment;
use crate::pyramid::PyramidAnchors;

/// How far inside a box an anchor's centre must be, in pixels: mmdetection's `ATSSAssigner`.
const INSIDE: f32 = 0.01;

/// Settings of the [`AtssAssigner`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AtssConfig {
    /// k, the cells of each level that are candidates for a box: those whose centres are nearest to the box's.
    pub candidates: Whole<1, 100>,
}

impl AtssConfig {
    /// Builds the assigner.
    pub fn init(&self) -> AtssAssigner {
        AtssAssigner {
            candidates: self.candidates.as_usize(),
        }
    }
}

impl Default for AtssConfig {
    fn default() -> Self {
        Self {
            candidates: Whole::literal(9),
        }
    }
}

/// Gives each box an overlap of its own from which anchors are objects: the mean of its candidates' overlaps, and their
/// standard deviation on top. Should be created with [`AtssConfig::init`].
///
/// Candidates are the anchors of the nearest cells of every level, nine of them by default; of several anchors a cell, all.
/// One whose overlap reaches the threshold is an object if its centre is inside the box; of several boxes, that of the one
/// it overlaps most, the first where several are equal. All others are background, and none is ignored.
#[derive(Clone, Copy, Debug)]
pub struct AtssAssigner {
    candidates: usize,
}

impl AtssAssigner {
    /// Assigns each anchor. The time grows with the anchors, and with the boxes times the candidates; the memory with the
    /// anchors.
    pub fn assign(&self, anchors: &PyramidAnchors, boxes: &[BoundingBox]) -> Vec<Assignment> {
        let mut assignments = vec![Assignment::Background; anchors.len()];
        let mut overlaps: Vec<(usize, f32)> = Vec::new();
        for (index, bbox) in boxes.iter().enumerate() {
            overlaps.clear();
            let candidates = anchors.nearest(bbox.center(), self.candidates);
            overlaps.extend(candidates.map(|anchor| (anchor, anchors[anchor].iou(bbox))));
            let threshold = threshold(&overlaps);
            for &(anchor, overlap) in &overlaps {
                let better = match assignments[anchor] {
                    Assignment::Object(other) => overlap > anchors[anchor].iou(&boxes[other]),
                    Assignment::Background | Assignment::Ignored => true,
                };
                if overlap >= threshold && better && is_inside(&anchors[anchor], bbox) {
                    assignments[anchor] = Assignment::Object(index);
                }
            }
        }
        assignments
    }
}

/// The mean and the standard deviation of a sample, in sum.
fn threshold(overlaps: &[(usize, f32)]) -> f32 {
    let count = overlaps.len() as f32;
    let mean = overlaps.iter().map(|(_, overlap)| overlap).sum::<f32>() / count;
    let squares = overlaps.iter().map(|(_, overlap)| (overlap - mean).powi(2));
    mean + (squares.sum::<f32>() / (count - 1.0).max(1.0)).sqrt()
}

/// Whether an anchor's centre is inside a box.
pub(crate) fn is_inside(anchor: &BoundingBox, bbox: &BoundingBox) -> bool {
    let (x, y) = anchor.center();
    let distances = [x - bbox.x1, y - bbox.y1, bbox.x2 - x, bbox.y2 - y];
    distances.iter().all(|distance| *distance > INSIDE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{AnchorConfig, CellSpacing, Lengths};

    fn one_a_place(scale: f32) -> AnchorConfig {
        AnchorConfig {
            sizes: Lengths::literal(&[8.0, 16.0, 32.0, 64.0, 128.0].map(|stride| scale * stride)),
            scales_per_octave: Whole::literal(1),
            aspect_ratios: Lengths::literal(&[1.0]),
            ..AnchorConfig::default()
        }
    }

    const STRIDES: [usize; 5] = [8, 16, 32, 64, 128];

    fn objects(assignments: &[Assignment]) -> Vec<(usize, usize)> {
        let objects = assignments.iter().enumerate();
        objects
            .filter_map(|(anchor, assignment)| match assignment {
                Assignment::Object(index) => Some((anchor, *index)),
                _ => None,
            })
            .collect()
    }

    /// Anchors of 4 pixels with centres at 2, 6, 10, …, and a box from 0 to 8: the nearest three overlap it by 1/2, 1/2 and
    /// 0. Their mean is 1/3, their deviation √((1/36 + 1/36 + 1/9) / 2) = 0.289: no overlap reaches 0.622. With two
    /// candidates the threshold is 1/2, and both do.
    #[test]
    fn a_row_worked_by_hand() {
        let row = (0..5).map(|place| {
            let left = 4.0 * place as f32;
            BoundingBox::new(left, 0.0, left + 4.0, 4.0)
        });
        let anchors = PyramidAnchors::new([row.collect()]);
        let bbox = BoundingBox::new(0.0, 0.0, 8.0, 4.0);
        let assigned = |candidates| {
            let config = AtssConfig {
                candidates: Whole::literal(candidates),
            };
            objects(&config.init().assign(&anchors, &[bbox]))
        };
        assert_eq!(assigned(3), []);
        assert_eq!(assigned(2), [(0, 0), (1, 0)]);
    }

    #[test]
    fn an_anchor_is_an_object_of_the_box_that_it_overlaps_most() {
        let anchors = PyramidAnchors::new([vec![BoundingBox::new(0.0, 0.0, 10.0, 10.0)]]);
        let boxes = [
            BoundingBox::new(0.0, 0.0, 10.0, 20.0),
            BoundingBox::new(0.0, 0.0, 10.0, 12.0),
            BoundingBox::new(0.0, 0.0, 10.0, 12.0),
        ];
        let assigned = AtssConfig::default().init().assign(&anchors, &boxes);
        assert_eq!(objects(&assigned), [(0, 1)]);
    }

    #[test]
    fn an_anchor_whose_centre_is_outside_is_background() {
        let anchors = PyramidAnchors::new([vec![BoundingBox::new(0.0, 0.0, 10.0, 10.0)]]);
        let reaching = |left: f32| {
            let bbox = BoundingBox::new(left, 0.0, left + 10.0, 10.0);
            objects(&AtssConfig::default().init().assign(&anchors, &[bbox])).len()
        };
        assert_eq!((reaching(4.9), reaching(5.0)), (1, 0));
    }

    proptest! {
        /// The cells around a box are found from where it is, and are those that a search through all anchors finds.
        #[test]
        fn the_nearest_cells_are_the_nearest_anchors(
            size in (1_usize..300, 1_usize..300),
            boxes in prop::collection::vec((-50_f32..350.0, -50_f32..350.0, 1_f32..200.0, 1_f32..200.0), 0..20),
            measured: bool,
            shapes in 1_u64..4,
        ) {
            let config = AnchorConfig {
                spacing: if measured { CellSpacing::Measured } else { CellSpacing::Stride },
                scales_per_octave: Whole::new(shapes).unwrap(),
                ..one_a_place(4.0)
            };
            let anchors = config.init(&STRIDES).unwrap().generate(size.0, size.1);
            let boxes = boxes.iter().map(|&(x, y, w, h)| BoundingBox::new(x, y, x + w, y + h));
            for bbox in boxes {
                let found: Vec<usize> = anchors.nearest(bbox.center(), 9).collect();
                let mut expected = Vec::new();
                for level in anchors.levels() {
                    let distance = |anchor: &usize| {
                        let ((x, y), (to_x, to_y)) = (anchors[*anchor].center(), bbox.center());
                        (x - to_x).powi(2) + (y - to_y).powi(2)
                    };
                    let mut by_distance: Vec<usize> = level.collect();
                    by_distance.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
                    by_distance.truncate(9 * shapes as usize);
                    let furthest = by_distance.iter().map(distance).fold(0.0, f32::max);
                    expected.push((by_distance.len(), furthest));
                }
                let mut found = found.into_iter().peekable();
                for (level, (count, furthest)) in anchors.levels().zip(expected) {
                    let mut of_level = Vec::new();
                    while let Some(anchor) = found.next_if(|anchor| level.contains(anchor)) {
                        of_level.push(anchor);
                    }
                    prop_assert_eq!(of_level.len(), count);
                    for anchor in of_level {
                        let ((x, y), (to_x, to_y)) = (anchors[anchor].center(), bbox.center());
                        let distance = (x - to_x).powi(2) + (y - to_y).powi(2);
                        // Centres that are computed from edges are off by a little.
                        prop_assert!(distance <= furthest * 1.0001 + 0.01);
                    }
                }
                prop_assert!(found.next().is_none());
            }
        }
    }
}
