//! Task-aligned assignment (Feng et al. 2021, TOOD, [arXiv 2108.07755](https://arxiv.org/abs/2108.07755), section 3.2).

use retinanet_boxes::{BoundingBox, ClassId};
use retinanet_settings::{PositiveShare, Whole, real};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::atss::is_inside;

/// Anchors that an object may have however few are inside.
const FEWEST: usize = 3;

/// Keeps the division by an object's best alignment finite: mmdetection's `TOODHead`.
const EPSILON: f32 = 1e-7;

real! {
    /// A power of a score in the alignment.
    pub ScorePower: at_least 0, at_most 20
}
real! {
    /// A power of an overlap in the alignment.
    pub OverlapPower: above 0, at_most 20
}

/// Settings of the [`TaskAlignedAssigner`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskAlignedConfig {
    /// m, the anchors that are an object's: those whose predictions align best with it.
    pub anchors_per_object: Whole<1, 1000>,
    /// The share of the anchors with their centres inside an object that are the object's, at most, though three in any
    /// case: of a small one few are any good. 1 is TOOD.
    pub largest_share: PositiveShare,
    /// α, the power of the score in the alignment.
    pub score_power: ScorePower,
    /// β, the power of the predicted box's overlap in the alignment.
    pub overlap_power: OverlapPower,
}

impl TaskAlignedConfig {
    /// Builds the assigner.
    pub fn init(&self) -> TaskAlignedAssigner {
        TaskAlignedAssigner {
            anchors_per_object: self.anchors_per_object.as_usize(),
            largest_share: self.largest_share.get(),
            score_power: self.score_power.get() as f32,
            overlap_power: self.overlap_power.get() as f32,
        }
    }
}

impl Default for TaskAlignedConfig {
    fn default() -> Self {
        Self {
            anchors_per_object: Whole::literal(13),
            largest_share: PositiveShare::literal(1.0),
            score_power: ScorePower::literal(1.0),
            overlap_power: OverlapPower::literal(6.0),
        }
    }
}

/// Gives each object the anchors whose predictions align best with it. Should be created with
/// [`TaskAlignedConfig::init`].
///
/// ```text
/// t = score^alpha * IoU^beta
/// ```
///
/// with the score of the object's class and the predicted box's overlap. Of the 13 best those are the object's whose
/// centres are inside it; one that several objects claim is that object's whose box it predicts best, the first where
/// several are equal. All others are background, and none is ignored.
#[derive(Clone, Copy, Debug)]
pub struct TaskAlignedAssigner {
    anchors_per_object: usize,
    largest_share: f64,
    score_power: f32,
    overlap_power: f32,
}

/// An anchor of an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AlignedAnchor {
    pub(crate) anchor: usize,
    pub(crate) object: usize,
    /// t̂: t with the object's best overlap for its largest value.
    pub(crate) quality: f32,
}

/// An anchor that an object would have.
#[derive(Clone, Copy)]
struct Claim {
    object: usize,
    overlap: f32,
    alignment: f32,
}

impl TaskAlignedAssigner {
    /// The anchors that are objects, ascending. The time grows with the anchors times the objects; the memory with the
    /// anchors. `score`: the score of an anchor for a class.
    pub(crate) fn assign(
        &self,
        anchors: &[BoundingBox],
        predicted: &[BoundingBox],
        objects: &[(BoundingBox, ClassId)],
        score: impl Fn(usize, ClassId) -> f32,
    ) -> Vec<AlignedAnchor> {
        let mut claims: Vec<Option<Claim>> = vec![None; anchors.len()];
        let placed = (self.largest_share < 1.0).then(|| Blocks::new(anchors));
        let predicted = Blocks::new(predicted);
        for (object, (bbox, class)) in objects.iter().enumerate() {
            let count = self.most(placed.as_ref(), bbox);
            for (anchor, overlap, alignment) in
                self.best(&predicted, bbox, count, |anchor| score(anchor, *class))
            {
                let better = claims[anchor].is_none_or(|other| overlap > other.overlap);
                if better && is_inside(&anchors[anchor], bbox) {
                    claims[anchor] = Some(Claim {
                        object,
                        overlap,
                        alignment,
                    });
                }
            }
        }
        qualities(&claims, objects.len())
    }

    /// How many anchors an object has at most; as many of a small one as of any other if no anchors are given.
    fn most(&self, anchors: Option<&Blocks<'_>>, bbox: &BoundingBox) -> usize {
        let Some(anchors) = anchors else {
            return self.anchors_per_object;
        };
        let inside = anchors
            .meeting(bbox)
            .filter(|(_, anchor)| is_inside(anchor, bbox));
        let most = (self.largest_share * inside.count() as f64).ceil() as usize;
        most.max(FEWEST).min(self.anchors_per_object)
    }

    /// The anchors that align best with a box, so many, with their predictions' overlaps and alignments.
    fn best(
        &self,
        predicted: &Blocks<'_>,
        bbox: &BoundingBox,
        count: usize,
        score: impl Fn(usize) -> f32,
    ) -> Vec<(usize, f32, f32)> {
        let mut aligned: Vec<(usize, f32, f32)> = Vec::new();
        // What comes after so many better ones.
        let mut too_little = 0.0;
        for (anchor, other) in predicted.meeting(bbox) {
            let overlap = other.iou(bbox);
            let at_most = power(overlap, self.overlap_power);
            // A score is at most 1.
            if at_most <= too_little {
                continue;
            }
            let alignment = power(score(anchor), self.score_power) * at_most;
            if alignment > too_little {
                aligned.push((anchor, overlap, alignment));
            }
            if aligned.len() >= 8 * count {
                too_little = keep_best(&mut aligned, count);
            }
        }
        keep_best(&mut aligned, count);
        aligned
    }
}

/// Drops all but so many, the first of equals; tells how much the least of them aligns if any were dropped, else 0.
fn keep_best(aligned: &mut Vec<(usize, f32, f32)>, count: usize) -> f32 {
    if aligned.len() <= count {
        return 0.0;
    }
    aligned.select_nth_unstable_by(count - 1, |a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    aligned.truncate(count);
    aligned[count - 1].2
}

/// Boxes in blocks of neighbours, each with a box around it: most blocks are not near an object.
struct Blocks<'a> {
    boxes: &'a [BoundingBox],
    around: Vec<BoundingBox>,
}

impl<'a> Blocks<'a> {
    const SIZE: usize = 64;

    fn new(boxes: &'a [BoundingBox]) -> Self {
        let around = boxes.chunks(Self::SIZE).map(|block| {
            let nothing = BoundingBox::new(
                f32::INFINITY,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::NEG_INFINITY,
            );
            block.iter().fold(nothing, |around, it| {
                BoundingBox::new(
                    around.x1.min(it.x1),
                    around.y1.min(it.y1),
                    around.x2.max(it.x2),
                    around.y2.max(it.y2),
                )
            })
        });
        Self {
            boxes,
            around: around.collect(),
        }
    }

    /// The boxes that overlap one, with their places.
    fn meeting(&self, bbox: &BoundingBox) -> impl Iterator<Item = (usize, &'a BoundingBox)> {
        let blocks = self.boxes.chunks(Self::SIZE).zip(&self.around).enumerate();
        let near = blocks.filter(move |(_, (_, around))| around.intersection(bbox) > 0.0);
        near.flat_map(move |(block, (boxes, _))| {
            let boxes = boxes.iter().enumerate();
            let meeting = boxes.filter(move |(_, other)| other.intersection(bbox) > 0.0);
            meeting.map(move |(place, other)| (block * Self::SIZE + place, other))
        })
    }
}

/// A power, by products where the exponent is a small whole number, as TOOD's are.
fn power(value: f32, exponent: f32) -> f32 {
    if exponent.fract() == 0.0 && exponent <= 16.0 {
        value.powi(exponent as i32)
    } else {
        value.powf(exponent)
    }
}

/// The claims that stand, each with its t̂.
fn qualities(claims: &[Option<Claim>], objects: usize) -> Vec<AlignedAnchor> {
    // Of each object: the largest overlap and alignment.
    let mut largest = vec![[0.0_f32; 2]; objects];
    for claim in claims.iter().flatten() {
        let [overlap, alignment] = &mut largest[claim.object];
        *overlap = overlap.max(claim.overlap);
        *alignment = alignment.max(claim.alignment);
    }
    let standing = claims.iter().enumerate();
    let standing = standing.filter_map(|(anchor, claim)| Some((anchor, (*claim)?)));
    let aligned = standing.map(|(anchor, claim)| {
        let [overlap, alignment] = largest[claim.object];
        AlignedAnchor {
            anchor,
            object: claim.object,
            quality: claim.alignment / (alignment + EPSILON) * overlap,
        }
    });
    aligned.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anchors of ten pixels in a row, which predict themselves.
    fn row() -> Vec<BoundingBox> {
        let lefts = (0..5).map(|place| 4.0 * place as f32);
        lefts
            .map(|left| BoundingBox::new(left, 0.0, left + 10.0, 10.0))
            .collect()
    }

    fn assigned(objects: &[BoundingBox], anchors_per_object: u64) -> Vec<AlignedAnchor> {
        let config = TaskAlignedConfig {
            anchors_per_object: Whole::literal(anchors_per_object),
            overlap_power: OverlapPower::literal(2.0),
            ..TaskAlignedConfig::default()
        };
        let objects: Vec<_> = (objects.iter()).map(|bbox| (*bbox, ClassId(0))).collect();
        let row = row();
        let scores = [0.2, 0.9, 0.5, 0.4, 0.3];
        config
            .init()
            .assign(&row, &row, &objects, |anchor, _| scores[anchor])
    }

    /// The object holds the centres of all five, which overlap it alike, so that scores decide.
    #[test]
    fn an_object_has_a_share_of_the_anchors_inside_it_but_three_at_least() {
        let object = (BoundingBox::new(0.0, 0.0, 26.0, 10.0), ClassId(0));
        let row = row();
        for (anchors_per_object, share, expected) in [
            (13, 0.1, &[1, 2, 3][..]),
            (13, 0.7, &[1, 2, 3, 4]),
            (13, 1.0, &[0, 1, 2, 3, 4]),
            (2, 0.7, &[1, 2]),
        ] {
            let config = TaskAlignedConfig {
                anchors_per_object: Whole::literal(anchors_per_object),
                largest_share: PositiveShare::literal(share),
                ..TaskAlignedConfig::default()
            };
            let scores = [0.2, 0.9, 0.5, 0.4, 0.3];
            let assigner = config.init();
            let found = assigner.assign(&row, &row, &[object], |anchor, _| scores[anchor]);
            let anchors: Vec<_> = found.iter().map(|it| it.anchor).collect();
            assert_eq!(anchors, expected, "{share}");
        }
    }

    /// The object is the second anchor, which its neighbours overlap by 6 / 14 and those beyond by 2 / 18: with β = 2 they
    /// align by 0.2 · 0.184, 0.9 and 0.5 · 0.184.
    #[test]
    fn a_row_worked_by_hand() {
        let object = BoundingBox::new(4.0, 0.0, 14.0, 10.0);
        let found = assigned(&[object], 2);
        let near = 0.5 * (6.0_f32 / 14.0).powi(2) / 0.9;
        let expected = [(1, 1.0), (2, near)];
        assert_eq!(found.len(), 2, "{found:?}");
        for (found, (anchor, quality)) in found.iter().zip(expected) {
            assert_eq!((found.anchor, found.object), (anchor, 0));
            assert!((found.quality - quality).abs() < 1e-6, "{found:?}");
        }
        // The first's centre is inside, the fourth's is not, however many are wanted.
        let anchors: Vec<_> = assigned(&[object], 9).iter().map(|it| it.anchor).collect();
        assert_eq!(anchors, [0, 1, 2]);
    }

    #[test]
    fn an_anchor_that_two_claim_is_whose_box_it_predicts_better() {
        let object = |left: f32| BoundingBox::new(left, 0.0, left + 10.0, 10.0);
        // All three want the third anchor, which is the box of the last two.
        let found = assigned(&[object(7.0), object(8.0), object(8.0)], 1);
        let pairs = found.iter().map(|it| (it.anchor, it.object));
        assert_eq!(pairs.collect::<Vec<_>>(), [(2, 1)]);
    }

    #[test]
    fn blocks_hold_what_a_search_through_all_boxes_finds() {
        let boxes: Vec<BoundingBox> = (0..1000)
            .map(|place| {
                let (x, y) = ((place % 40 * 25) as f32, (place / 40 * 30) as f32);
                let side = 5.0 + (place * 7 % 90) as f32;
                BoundingBox::new(x, y, x + side, y + side)
            })
            .collect();
        let blocks = Blocks::new(&boxes);
        for bbox in boxes.iter().step_by(13) {
            let found = blocks.meeting(bbox).map(|(place, _)| place);
            let all = boxes.iter().enumerate();
            let expected = all.filter(|(_, other)| other.intersection(bbox) > 0.0);
            assert!(found.eq(expected.map(|(place, _)| place)));
        }
    }

    #[test]
    fn an_object_that_nothing_predicts_has_no_anchor() {
        assert_eq!(
            assigned(&[BoundingBox::new(90.0, 0.0, 99.0, 9.0)], 13),
            vec![]
        );
        assert_eq!(assigned(&[], 13), vec![]);
    }
}
