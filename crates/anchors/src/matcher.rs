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
    /// `keep`.
    pub low_quality: LowQuality,
    /// The overlap from which that holds, in `[0, 1]`; default 0, any at all. Detectron's amounts
    /// to 0.4.
    pub min_low_quality: f32,
    /// Whether anchors inside crowd regions are left out of the background; default true. The
    /// peers take them for background.
    pub ignore_crowds: bool,
    /// The share of an anchor's area inside a crowd region from which it is left out, in `[0, 1]`;
    /// default 0.5.
    pub crowd_overlap: f32,
}

/// What becomes of the anchors that overlap a box most where that is less than
/// [`foreground`](MatcherConfig::foreground).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LowQuality {
    /// Nothing special: keras-retinanet and others.
    Off,
    /// They are objects, each of the box that it itself overlaps most: detectron2, torchvision.
    #[default]
    Keep,
    /// They are objects, each of the box that chose it, the last where several did; also where an
    /// anchor was an object of another already: mmdetection.
    Reassign,
}

impl MatcherConfig {
    /// Checks the settings and builds the matcher.
    ///
    /// # Errors
    ///
    /// Returns an error unless `0 <= background <= foreground <= 1` and `foreground` is above 0,
    /// or where `min_low_quality` or `crowd_overlap` is not in `[0, 1]`.
    pub fn init(&self) -> Result<Matcher, AnchorError> {
        let &Self {
            foreground,
            background,
            min_low_quality,
            crowd_overlap,
            ..
        } = self;
        if !(0.0..=1.0).contains(&crowd_overlap) {
            return Err(AnchorError::CrowdOverlap { got: crowd_overlap });
        }
        if !(0.0..=1.0).contains(&min_low_quality) {
            return Err(AnchorError::MinLowQuality {
                got: min_low_quality,
            });
        }
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
            low_quality: LowQuality::Keep,
            min_low_quality: 0.0,
            ignore_crowds: true,
            crowd_overlap: 0.5,
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
/// [`background`](MatcherConfig::background), and ignored between. Unless
/// [`low_quality`](MatcherConfig::low_quality) is off, whichever anchors overlap a box most (all of
/// them where several are equal) are objects too.
///
/// A box that no anchor overlaps chooses none. The peers would make every anchor that misses it an
/// object.
#[derive(Clone, Copy, Debug)]
pub struct Matcher {
    config: MatcherConfig,
}

impl Matcher {
    /// The settings.
    pub const fn config(&self) -> &MatcherConfig {
        &self.config
    }

    /// Assigns each anchor. The time grows with anchors times boxes where they overlap at like
    /// sizes, the memory only with the anchors.
    pub fn assign(&self, anchors: &[BoundingBox], boxes: &[BoundingBox]) -> Vec<Assignment> {
        let mut assignments = vec![Assignment::Background; anchors.len()];
        if boxes.is_empty() {
            return assignments;
        }
        let mut claims: Vec<Claim> = boxes.iter().map(Claim::new).collect();
        let blocks = anchors
            .chunks(LANES)
            .zip(assignments.chunks_mut(LANES))
            .enumerate();
        // Backwards, since the generator puts the coarse levels last: there large boxes soon have a
        // high overlap, and need not be held against the many anchors of the fine levels.
        for (place, (anchors, assignments)) in blocks.rev() {
            let best = self.offer(&Block::new(anchors), place, &mut claims);
            if best.peak >= self.config.background {
                for (lane, assignment) in assignments.iter_mut().enumerate() {
                    *assignment = self.assignment(best.iou[lane], best.index[lane]);
                }
            }
        }
        if self.config.low_quality != LowQuality::Off {
            for (index, claim) in claims.iter().enumerate() {
                if claim.highest >= self.config.min_low_quality {
                    claim.choose(anchors, |anchor| {
                        self.assign_chosen(
                            &anchors[anchor],
                            index,
                            boxes,
                            &mut assignments[anchor],
                        );
                    });
                }
            }
        }
        assignments
    }

    /// Assigns an anchor that overlaps the `chooser` as much as any does.
    fn assign_chosen(
        &self,
        anchor: &BoundingBox,
        chooser: usize,
        boxes: &[BoundingBox],
        assignment: &mut Assignment,
    ) {
        if self.config.low_quality == LowQuality::Reassign {
            *assignment = Assignment::Object(chooser);
        } else if !matches!(assignment, Assignment::Object(_)) {
            *assignment = Assignment::Object(most_overlapping(anchor, boxes));
        }
    }

    /// Offers the boxes to the anchors of a block. Of the answer, only overlaps from the
    /// background's threshold on are sure to be an anchor's best.
    fn offer(&self, block: &Block, place: usize, claims: &mut [Claim]) -> Best {
        let mut best = Best::NONE;
        for (index, claim) in claims.iter_mut().enumerate() {
            // What stays below both changes neither an assignment nor a box's choice.
            let needed = self.config.background.min(claim.highest);
            if block.meets(&claim.bbox) && block.ceiling(claim.area) >= needed {
                let peak = best.offer(index, &block.ious(&claim.bbox, claim.area));
                claim.raise(peak, place);
            }
        }
        best
    }

    fn assignment(&self, iou: f32, index: u32) -> Assignment {
        if iou >= self.config.foreground {
            Assignment::Object(index as usize)
        } else if iou >= self.config.background {
            Assignment::Ignored
        } else {
            Assignment::Background
        }
    }
}

/// A box, and which anchors overlap it most of those seen so far.
struct Claim {
    bbox: BoundingBox,
    area: f32,
    highest: f32,
    /// The blocks where some anchor has this overlap, above 0.
    places: Vec<usize>,
}

impl Claim {
    fn new(bbox: &BoundingBox) -> Self {
        Self {
            bbox: *bbox,
            area: bbox.area(),
            highest: 0.0,
            places: Vec::new(),
        }
    }

    /// Notes the highest overlap in a block.
    fn raise(&mut self, peak: f32, place: usize) {
        if peak > self.highest {
            self.highest = peak;
            self.places.clear();
        }
        if peak == self.highest && peak > 0.0 {
            self.places.push(place);
        }
    }

    /// Calls on the anchors that overlap the box most.
    fn choose(&self, anchors: &[BoundingBox], mut call: impl FnMut(usize)) {
        for &place in &self.places {
            let block = anchors.iter().enumerate().skip(place * LANES).take(LANES);
            for (index, anchor) in block {
                if anchor.iou(&self.bbox) == self.highest {
                    call(index);
                }
            }
        }
    }
}

/// The first of the boxes that overlap an anchor most.
fn most_overlapping(anchor: &BoundingBox, boxes: &[BoundingBox]) -> usize {
    let mut best = (0, 0.0);
    for (index, bbox) in boxes.iter().enumerate() {
        let iou = anchor.iou(bbox);
        if iou > best.1 {
            best = (index, iou);
        }
    }
    best.0
}

/// How many anchors are handled together: a few vector registers, and in the generator's order
/// neighbours, so that most blocks miss most boxes altogether.
const LANES: usize = 64;

/// The highest overlap of each anchor of a block, the first box that has it, and the highest of
/// all.
struct Best {
    iou: [f32; LANES],
    index: [u32; LANES],
    peak: f32,
}

impl Best {
    const NONE: Self = Self {
        iou: [0.0; LANES],
        index: [0; LANES],
        peak: 0.0,
    };

    /// Takes up a box's overlaps with the anchors and returns the highest of them.
    fn offer(&mut self, index: usize, ious: &[f32; LANES]) -> f32 {
        let best = self.iou.iter_mut().zip(&mut self.index);
        for (&iou, (best_iou, best_index)) in ious.iter().zip(best) {
            let better = iou > *best_iou;
            *best_iou = if better { iou } else { *best_iou };
            *best_index = if better { index as u32 } else { *best_index };
        }
        let peak = fold(ious, higher);
        self.peak = self.peak.max(peak);
        peak
    }
}

/// Consecutive anchors, an array an edge, so that the loops over them become vector code.
struct Block {
    x1: [f32; LANES],
    y1: [f32; LANES],
    x2: [f32; LANES],
    y2: [f32; LANES],
    area: [f32; LANES],
    /// A box around all the anchors.
    hull: BoundingBox,
    /// The areas of the smallest and of the largest.
    areas: [f32; 2],
}

impl Block {
    /// The block of these anchors; lanes past the last repeat the first.
    fn new(anchors: &[BoundingBox]) -> Self {
        let mut lanes = [anchors[0]; LANES];
        lanes[..anchors.len()].copy_from_slice(anchors);
        let x1 = lanes.map(|anchor| anchor.x1);
        let y1 = lanes.map(|anchor| anchor.y1);
        let x2 = lanes.map(|anchor| anchor.x2);
        let y2 = lanes.map(|anchor| anchor.y2);
        let area = lanes.map(|anchor| anchor.area());
        let [smallest, left, top] = [&area, &x1, &y1].map(|lanes| fold(lanes, lower));
        let [largest, right, bottom] = [&area, &x2, &y2].map(|lanes| fold(lanes, higher));
        Self {
            x1,
            y1,
            x2,
            y2,
            area,
            hull: BoundingBox::new(left, top, right, bottom),
            areas: [smallest, largest],
        }
    }

    /// Whether any of the anchors could overlap the box.
    fn meets(&self, bbox: &BoundingBox) -> bool {
        let hull = &self.hull;
        hull.x1 < bbox.x2 && bbox.x1 < hull.x2 && hull.y1 < bbox.y2 && bbox.y1 < hull.y2
    }

    /// What no overlap of the anchors with a box of this area exceeds: the smaller area over the
    /// larger, and a little for rounding.
    fn ceiling(&self, area: f32) -> f32 {
        let [smallest, largest] = self.areas;
        1.000_01 * (area / smallest).min(largest / area)
    }

    /// [`BoundingBox::iou`] of each anchor, operation by operation, with a box of this area.
    fn ious(&self, bbox: &BoundingBox, area: f32) -> [f32; LANES] {
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

/// Folds the lanes, eight at a time: one after the other, each would wait for the last.
fn fold(lanes: &[f32; LANES], choose: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let mut partial = [lanes[0]; 8];
    for chunk in lanes.chunks_exact(partial.len()) {
        for (partial, &lane) in partial.iter_mut().zip(chunk) {
            *partial = choose(*partial, lane);
        }
    }
    partial.into_iter().fold(lanes[0], choose)
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
    use crate::AnchorConfig;

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
                let chooser = (0..boxes.len()).rfind(|&index| {
                    highest[index] > 0.0
                        && highest[index] >= config.min_low_quality
                        && row[index] == highest[index]
                });
                match (config.low_quality, chooser) {
                    (LowQuality::Keep, Some(_)) => return Assignment::Object(first),
                    (LowQuality::Reassign, Some(chooser)) => return Assignment::Object(chooser),
                    _ => {}
                }
                if best >= config.foreground {
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
        let tenth = |number: u8| f32::from(number) / 10.0;
        let low_quality = prop::sample::select(vec![
            LowQuality::Off,
            LowQuality::Keep,
            LowQuality::Reassign,
        ]);
        let any = (1_u8..=10, 0_u8..=10, low_quality, 0_u8..=8);
        prop_oneof![
            Just(MatcherConfig::default()),
            any.prop_map(
                move |(foreground, background, low_quality, least)| MatcherConfig {
                    foreground: tenth(foreground),
                    background: tenth(background.min(foreground)),
                    low_quality,
                    min_low_quality: tenth(least.saturating_sub(4)),
                    ..MatcherConfig::default()
                }
            ),
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Blocks of like sizes, many of which have nothing to say of boxes of other sizes.
        #[test]
        fn assignments_of_a_pyramid_are_the_dense_definitions(
            config in any_config(),
            boxes in prop::collection::vec(pyramid_box(), 1..12),
        ) {
            let anchors = AnchorConfig::default().init(&[8, 16, 32, 64, 128]).unwrap();
            let anchors = anchors.generate(96, 160);
            let found = config.init().unwrap().assign(&anchors, &boxes);
            prop_assert_eq!(found, dense(&config, &anchors, &boxes));
        }
    }

    /// Boxes of the sizes of all levels and of none, some of them on an anchor's very edges.
    fn pyramid_box() -> impl Strategy<Value = BoundingBox> {
        let shape = (0_u8..20, 0_u8..12, 0.0_f32..9.0, 0.0_f32..9.0);
        let anywhere = shape.prop_map(|(x, y, width, height)| {
            let [x, y] = [x, y].map(|position| 8.0 * f32::from(position));
            BoundingBox::from_center(x, y, width.exp2(), height.exp2())
        });
        let on_an_anchor = (0_u8..20, 0_u8..12, 5_u8..8).prop_map(|(x, y, side)| {
            let [x, y] = [x, y].map(|position| 8.0 * f32::from(position));
            let side = f32::from(side).exp2();
            BoundingBox::from_center(x, y, side, side)
        });
        prop_oneof![3 => anywhere, 1 => on_an_anchor]
    }

    fn square(x: f32, side: f32) -> BoundingBox {
        BoundingBox::new(x, 0.0, x + side, side)
    }

    fn assign(
        low_quality: LowQuality,
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
            assign(LowQuality::Off, &anchors, &[square(0.0, 10.0)]),
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
            assign(LowQuality::Off, &anchors, &[square(0.0, 10.0)]),
            [Assignment::Object(0), Assignment::Ignored]
        );
    }

    #[test]
    fn every_anchor_that_a_box_overlaps_most_is_an_object() {
        // 0.25 on both sides of the box, less further out.
        let anchors = [-6.0, 6.0, 7.0].map(|shift| square(shift, 10.0));
        assert_eq!(
            assign(LowQuality::Keep, &anchors, &[square(0.0, 10.0)]),
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
            assign(LowQuality::Keep, &[square(0.0, 10.0)], &boxes),
            [Assignment::Object(0)]
        );
        assert_eq!(
            assign(LowQuality::Reassign, &[square(0.0, 10.0)], &boxes),
            [Assignment::Object(1)]
        );
    }

    #[test]
    fn a_box_whose_best_overlap_is_too_low_chooses_none() {
        // The best anchor overlaps the box by 0.25.
        for (least, expected) in [
            (0.25, Assignment::Object(0)),
            (0.26, Assignment::Background),
        ] {
            let config = MatcherConfig {
                min_low_quality: least,
                ..MatcherConfig::default()
            };
            let matcher = config.init().unwrap();
            let found = matcher.assign(&[square(6.0, 10.0)], &[square(0.0, 10.0)]);
            assert_eq!(found, [expected]);
        }
    }

    #[test]
    fn a_box_that_no_anchor_overlaps_chooses_none() {
        assert_eq!(
            assign(
                LowQuality::Keep,
                &[square(0.0, 10.0)],
                &[square(50.0, 10.0)]
            ),
            [Assignment::Background]
        );
    }

    #[test]
    fn the_first_of_equal_boxes_gets_the_anchor() {
        let twice = [square(0.0, 10.0), square(0.0, 10.0)];
        assert_eq!(
            assign(LowQuality::Keep, &[square(1.0, 10.0)], &twice),
            [Assignment::Object(0)]
        );
    }

    #[test]
    fn without_boxes_all_is_background() {
        assert_eq!(
            assign(LowQuality::Keep, &[square(0.0, 10.0); 70], &[]),
            [Assignment::Background; 70]
        );
        assert_eq!(assign(LowQuality::Keep, &[], &[square(0.0, 10.0)]), []);
    }

    #[test]
    fn thresholds_must_be_in_order() {
        let refused = |background, foreground| {
            let config = MatcherConfig {
                foreground,
                background,
                ..MatcherConfig::default()
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
