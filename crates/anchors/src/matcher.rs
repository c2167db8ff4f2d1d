use retinanet_boxes::BoundingBox;
use serde::{Deserialize, Serialize};

use crate::AnchorError;

/// Settings of the [`Matcher`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatcherConfig {
    /// Overlap with its best box from which an anchor is an object, in `(0, 1]`; default 0.5.
    pub foreground: f32,
    /// Overlap with its best box below which an anchor is background, in `[0, foreground]`;
    /// default 0.4. Anchors between the two are ignored.
    pub background: f32,
    /// Whether the anchors that overlap a box most are objects however little that is; default
    /// true.
    pub low_quality: bool,
}

impl MatcherConfig {
    /// Checks the settings and builds the matcher.
    ///
    /// # Errors
    ///
    /// Returns an error unless `0 <= background <= foreground <= 1` and `foreground` is above 0.
    pub fn init(&self) -> Result<Matcher, AnchorError> {
        let &Self {
            foreground,
            background,
            ..
        } = self;
        if 0.0 <= background && background <= foreground && 0.0 < foreground && foreground <= 1.0 {
            Ok(Matcher { config: *self })
        } else {
            Err(AnchorError::Thresholds {
                background,
                foreground,
            })
        }
    }
}

impl Default for MatcherConfig {
    fn default() -> Self {
        Self {
            foreground: 0.5,
            background: 0.4,
            low_quality: true,
        }
    }
}

/// What an anchor answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// Nothing.
    Background,
    /// Nothing, and it takes no part in the loss: it is neither clearly one nor the other.
    Ignored,
    /// The box with this index.
    Object(usize),
}

/// Matches anchors to boxes by their overlap, which is intersection over union. Should be created
/// with [`MatcherConfig::init`].
///
/// An anchor belongs to the box that it overlaps most, the first where several are equal. It is
/// an object from [`foreground`](MatcherConfig::foreground) on, background below
/// [`background`](MatcherConfig::background), and ignored between. With
/// [`low_quality`](MatcherConfig::low_quality), whichever anchors overlap a box most (all of them
/// where several are equal) are objects too, but of the box that they themselves overlap most, as
/// in detectron2 and torchvision; mmdetection assigns them to the box that chose them.
///
/// A box that no anchor overlaps chooses none. detectron2 would make every anchor that misses it
/// an object.
#[derive(Clone, Copy, Debug)]
pub struct Matcher {
    config: MatcherConfig,
}

impl Matcher {
    /// Assigns each anchor. The time grows with anchors times boxes where they overlap, the
    /// memory only with the anchors.
    pub fn assign(&self, anchors: &[BoundingBox], boxes: &[BoundingBox]) -> Vec<Assignment> {
        if boxes.is_empty() {
            return vec![Assignment::Background; anchors.len()];
        }
        let mut blocks: Vec<Block> = anchors.chunks(LANES).map(Block::new).collect();
        let highest: Vec<f32> = boxes
            .iter()
            .enumerate()
            .map(|(index, bbox)| offer(&mut blocks, index, bbox))
            .collect();
        if self.config.low_quality {
            for (bbox, &highest) in boxes.iter().zip(&highest) {
                choose(&mut blocks, bbox, highest);
            }
        }
        let mut assignments = Vec::with_capacity(blocks.len() * LANES);
        for block in &blocks {
            assignments.extend((0..LANES).map(|lane| self.assignment(block, lane)));
        }
        assignments.truncate(anchors.len());
        assignments
    }

    fn assignment(&self, block: &Block, lane: usize) -> Assignment {
        let iou = block.best_iou[lane];
        if block.chosen[lane] || iou >= self.config.foreground {
            Assignment::Object(block.best_box[lane] as usize)
        } else if iou >= self.config.background {
            Assignment::Ignored
        } else {
            Assignment::Background
        }
    }
}

/// Offers a box to every anchor and returns its highest overlap.
fn offer(blocks: &mut [Block], index: usize, bbox: &BoundingBox) -> f32 {
    let mut highest = 0.0_f32;
    for block in blocks.iter_mut().filter(|block| block.meets(bbox)) {
        highest = highest.max(block.offer(index, bbox));
    }
    highest
}

/// Marks the anchors whose overlap with the box is this, its highest.
fn choose(blocks: &mut [Block], bbox: &BoundingBox, highest: f32) {
    if highest > 0.0 {
        for block in blocks
            .iter_mut()
            .filter(|block| block.peak >= highest && block.meets(bbox))
        {
            block.choose(bbox, highest);
        }
    }
}

/// How many anchors are handled together: a few vector registers, and in the generator's order
/// neighbours, so that most blocks miss most boxes altogether.
const LANES: usize = 64;

/// Consecutive anchors, an array an edge, so that the loops over them become vector code. Lanes
/// past the last anchor cover nothing and so overlap nothing.
struct Block {
    x1: [f32; LANES],
    y1: [f32; LANES],
    x2: [f32; LANES],
    y2: [f32; LANES],
    area: [f32; LANES],
    /// A box around all the anchors.
    hull: BoundingBox,
    /// The highest overlap of each anchor and the first box that has it.
    best_iou: [f32; LANES],
    best_box: [u32; LANES],
    /// The highest of `best_iou`.
    peak: f32,
    /// Whether some box has its highest overlap with the anchor.
    chosen: [bool; LANES],
}

impl Block {
    const EMPTY: Self = Self {
        x1: [0.0; LANES],
        y1: [0.0; LANES],
        x2: [0.0; LANES],
        y2: [0.0; LANES],
        area: [0.0; LANES],
        hull: BoundingBox::new(
            f32::INFINITY,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NEG_INFINITY,
        ),
        best_iou: [0.0; LANES],
        best_box: [0; LANES],
        peak: 0.0,
        chosen: [false; LANES],
    };

    fn new(anchors: &[BoundingBox]) -> Self {
        let mut block = Self::EMPTY;
        for (lane, anchor) in anchors.iter().enumerate() {
            block.x1[lane] = anchor.x1;
            block.y1[lane] = anchor.y1;
            block.x2[lane] = anchor.x2;
            block.y2[lane] = anchor.y2;
            block.area[lane] = anchor.area();
            block.hull = BoundingBox::new(
                block.hull.x1.min(anchor.x1),
                block.hull.y1.min(anchor.y1),
                block.hull.x2.max(anchor.x2),
                block.hull.y2.max(anchor.y2),
            );
        }
        block
    }

    /// Whether any of the anchors could overlap the box.
    fn meets(&self, bbox: &BoundingBox) -> bool {
        self.hull.intersection(bbox) > 0.0
    }

    /// Offers a box to the anchors and returns its highest overlap.
    fn offer(&mut self, index: usize, bbox: &BoundingBox) -> f32 {
        let ious = self.ious(bbox);
        let best = self.best_iou.iter_mut().zip(&mut self.best_box);
        for (&iou, (best_iou, best_box)) in ious.iter().zip(best) {
            let better = iou > *best_iou;
            *best_iou = if better { iou } else { *best_iou };
            *best_box = if better { index as u32 } else { *best_box };
        }
        let highest = maximum(&ious);
        self.peak = self.peak.max(highest);
        highest
    }

    /// Marks the anchors whose overlap with the box is this.
    #[expect(
        clippy::float_cmp,
        reason = "`ious` gives the same bits whenever it is asked"
    )]
    fn choose(&mut self, bbox: &BoundingBox, highest: f32) {
        let ious = self.ious(bbox);
        for (chosen, iou) in self.chosen.iter_mut().zip(ious) {
            *chosen |= iou == highest;
        }
    }

    /// [`BoundingBox::iou`] of each anchor, operation by operation.
    fn ious(&self, bbox: &BoundingBox) -> [f32; LANES] {
        let area = bbox.area();
        let mut ious = [0.0; LANES];
        for (lane, iou) in ious.iter_mut().enumerate() {
            let width = lower(self.x2[lane], bbox.x2) - higher(self.x1[lane], bbox.x1);
            let height = lower(self.y2[lane], bbox.y2) - higher(self.y1[lane], bbox.y1);
            let intersection = higher(width, 0.0) * higher(height, 0.0);
            let quotient = intersection / (self.area[lane] + area - intersection);
            *iou = if intersection > 0.0 { quotient } else { 0.0 };
        }
        ious
    }
}

/// The highest of the lanes, taken eight at a time: one after the other, each would wait for the
/// last.
fn maximum(lanes: &[f32; LANES]) -> f32 {
    let mut partial = [0.0; 8];
    for chunk in lanes.chunks_exact(partial.len()) {
        for (partial, &lane) in partial.iter_mut().zip(chunk) {
            *partial = higher(*partial, lane);
        }
    }
    partial.into_iter().fold(0.0, f32::max)
}

/// `f32::min` without its care for NaN, which is a single vector instruction.
fn lower(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// `f32::max`, likewise.
fn higher(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[cfg(test)]
#[expect(
    clippy::float_cmp,
    reason = "the matcher's overlaps are the definition's to the bit"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the full matrix of overlaps, anchors by boxes.
    fn dense(
        config: &MatcherConfig,
        anchors: &[BoundingBox],
        boxes: &[BoundingBox],
    ) -> Vec<Assignment> {
        let ious: Vec<Vec<f32>> = anchors
            .iter()
            .map(|anchor| boxes.iter().map(|bbox| anchor.iou(bbox)).collect())
            .collect();
        let highest: Vec<f32> = (0..boxes.len())
            .map(|index| ious.iter().map(|row| row[index]).fold(0.0, f32::max))
            .collect();
        ious.iter()
            .map(|row| {
                let Some(best) = row.iter().copied().reduce(f32::max) else {
                    return Assignment::Background;
                };
                let first = row.iter().position(|&iou| iou == best).unwrap();
                let chosen = (0..boxes.len())
                    .any(|index| highest[index] > 0.0 && row[index] == highest[index]);
                if best >= config.foreground || config.low_quality && chosen {
                    Assignment::Object(first)
                } else if best < config.background {
                    Assignment::Background
                } else {
                    Assignment::Ignored
                }
            })
            .collect()
    }

    /// Boxes on a small grid: equal overlaps are common, and some boxes cover nothing.
    fn grid_box() -> impl Strategy<Value = BoundingBox> {
        (0_u8..12, 0_u8..12, 0_u8..6, 0_u8..6).prop_map(|(x, y, width, height)| {
            let [x1, y1, x2, y2] = [x, y, x + width, y + height].map(f32::from);
            BoundingBox::new(x1, y1, x2, y2)
        })
    }

    fn any_box() -> impl Strategy<Value = BoundingBox> {
        (
            -50.0_f32..500.0,
            -50.0_f32..500.0,
            -1.0_f32..200.0,
            -1.0_f32..200.0,
        )
            .prop_map(|(x, y, width, height)| BoundingBox::new(x, y, x + width, y + height))
    }

    fn any_config() -> impl Strategy<Value = MatcherConfig> {
        let config = |foreground: u8, background: u8, low_quality| MatcherConfig {
            foreground: f32::from(foreground) / 10.0,
            background: f32::from(background.min(foreground)) / 10.0,
            low_quality,
        };
        prop_oneof![
            Just(MatcherConfig::default()),
            (1_u8..=10, 0_u8..=10, any::<bool>()).prop_map(move |(f, b, l)| config(f, b, l)),
        ]
    }

    proptest! {
        #[test]
        fn assignments_on_a_grid_are_the_dense_definitions(
            config in any_config(),
            anchors in prop::collection::vec(grid_box(), 0..200),
            boxes in prop::collection::vec(grid_box(), 0..8),
        ) {
            let found = config.init().unwrap().assign(&anchors, &boxes);
            prop_assert_eq!(found, dense(&config, &anchors, &boxes));
        }

        #[test]
        fn assignments_anywhere_are_the_dense_definitions(
            config in any_config(),
            anchors in prop::collection::vec(any_box(), 0..200),
            boxes in prop::collection::vec(any_box(), 0..8),
        ) {
            let found = config.init().unwrap().assign(&anchors, &boxes);
            prop_assert_eq!(found, dense(&config, &anchors, &boxes));
        }
    }

    fn square(x: f32, side: f32) -> BoundingBox {
        BoundingBox::new(x, 0.0, x + side, side)
    }

    fn assign(
        low_quality: bool,
        anchors: &[BoundingBox],
        boxes: &[BoundingBox],
    ) -> Vec<Assignment> {
        let config = MatcherConfig {
            low_quality,
            ..MatcherConfig::default()
        };
        config.init().unwrap().assign(anchors, boxes)
    }

    #[test]
    fn the_band_between_the_thresholds_is_ignored() {
        // Squares of side 10 shifted by d overlap by (10 - d) / (10 + d):
        // 3 → 0.538, 4 → 0.429, 5 → 0.333.
        let anchors = [3.0, 4.0, 5.0].map(|shift| square(shift, 10.0));
        assert_eq!(
            assign(false, &anchors, &[square(0.0, 10.0)]),
            [
                Assignment::Object(0),
                Assignment::Ignored,
                Assignment::Background
            ]
        );
    }

    #[test]
    fn an_iou_at_a_threshold_has_reached_it() {
        // 5 of 10 columns, and 4 of 10.
        let anchors = [0.5, 0.4].map(|part| BoundingBox::new(0.0, 0.0, 10.0 * part, 10.0));
        assert_eq!(
            assign(false, &anchors, &[square(0.0, 10.0)]),
            [Assignment::Object(0), Assignment::Ignored]
        );
    }

    #[test]
    fn every_anchor_that_a_box_overlaps_most_is_an_object() {
        // 0.25 on both sides of the box, less further out.
        let anchors = [-6.0, 6.0, 7.0].map(|shift| square(shift, 10.0));
        assert_eq!(
            assign(true, &anchors, &[square(0.0, 10.0)]),
            [
                Assignment::Object(0),
                Assignment::Object(0),
                Assignment::Background
            ]
        );
    }

    #[test]
    fn an_anchor_chosen_by_one_box_stays_with_its_own_best() {
        // The only anchor is what the second box overlaps most, but it lies on the first.
        let boxes = [square(0.0, 10.0), square(8.0, 10.0)];
        assert_eq!(
            assign(true, &[square(0.0, 10.0)], &boxes),
            [Assignment::Object(0)]
        );
    }

    #[test]
    fn a_box_that_no_anchor_overlaps_chooses_none() {
        assert_eq!(
            assign(true, &[square(0.0, 10.0)], &[square(50.0, 10.0)]),
            [Assignment::Background]
        );
    }

    #[test]
    fn the_first_of_equal_boxes_gets_the_anchor() {
        let twice = [square(0.0, 10.0), square(0.0, 10.0)];
        assert_eq!(
            assign(true, &[square(1.0, 10.0)], &twice),
            [Assignment::Object(0)]
        );
    }

    #[test]
    fn without_boxes_all_is_background() {
        assert_eq!(
            assign(true, &[square(0.0, 10.0); 70], &[]),
            [Assignment::Background; 70]
        );
        assert_eq!(assign(true, &[], &[square(0.0, 10.0)]), []);
    }

    #[test]
    fn thresholds_must_be_in_order() {
        let refused = |background, foreground| {
            let config = MatcherConfig {
                foreground,
                background,
                low_quality: true,
            };
            config.init().unwrap_err().to_string()
        };
        assert_eq!(
            refused(0.6, 0.5),
            "`matcher.background` and `matcher.foreground` must satisfy 0 <= background <= \
             foreground <= 1 with foreground above 0, got background 0.6 and foreground 0.5"
        );
        for (background, foreground) in [(-0.1, 0.5), (0.4, 1.1), (0.0, 0.0), (0.4, f32::NAN)] {
            refused(background, foreground);
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = toml::from_str::<MatcherConfig>("positive = 0.5").unwrap_err();
        assert!(
            error.to_string().contains("unknown field `positive`"),
            "{error}"
        );
        let config: MatcherConfig = toml::from_str("background = 0.3").unwrap();
        assert_eq!(config.foreground, 0.5);
    }
}
