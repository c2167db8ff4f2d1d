//! Task-aligned assignment (Feng et al. 2021, TOOD, [arXiv 2108.07755](https://arxiv.org/abs/2108.07755), section 3.2).

use retinanet_boxes::{BoundingBox, ClassId};
use retinanet_settings::{NonNegative, Whole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::atss::is_inside;

/// Keeps the division by an object's best alignment finite: mmdetection's `TOODHead`.
const EPSILON: f32 = 1e-7;

/// Settings of the [`TaskAlignedAssigner`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskAlignedConfig {
    /// m, the anchors that are an object's: those whose predictions align best with it.
    pub anchors_per_object: Whole<1, 1000>,
    /// α, the power of the score in the alignment.
    pub score_power: NonNegative,
    /// β, the power of the predicted box's overlap in the alignment.
    pub overlap_power: NonNegative,
}

impl TaskAlignedConfig {
    /// Builds the assigner.
    pub fn init(&self) -> TaskAlignedAssigner {
        TaskAlignedAssigner {
            anchors_per_object: self.anchors_per_object.as_usize(),
            score_power: self.score_power.get() as f32,
            overlap_power: self.overlap_power.get() as f32,
        }
    }
}

impl Default for TaskAlignedConfig {
    fn default() -> Self {
        Self {
            anchors_per_object: Whole::literal(13),
            score_power: NonNegative::literal(1.0),
            overlap_power: NonNegative::literal(6.0),
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
        for (object, (bbox, class)) in objects.iter().enumerate() {
            for (anchor, overlap, alignment) in
                self.best(predicted, bbox, |anchor| score(anchor, *class))
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

    /// The anchors that align best with a box, with their predictions' overlaps and alignments.
    fn best(
        &self,
        predicted: &[BoundingBox],
        bbox: &BoundingBox,
        score: impl Fn(usize) -> f32,
    ) -> Vec<(usize, f32, f32)> {
        let overlapping = predicted.iter().enumerate();
        let overlapping = overlapping.filter(|(_, other)| other.intersection(bbox) > 0.0);
        let aligned = overlapping.map(|(anchor, other)| {
            let overlap = other.iou(bbox);
            let alignment = score(anchor).powf(self.score_power) * overlap.powf(self.overlap_power);
            (anchor, overlap, alignment)
        });
        let mut aligned: Vec<_> = aligned.filter(|it| it.2 > 0.0).collect();
        if aligned.len() > self.anchors_per_object {
            aligned.select_nth_unstable_by(self.anchors_per_object, |a, b| {
                b.2.total_cmp(&a.2).then(a.0.cmp(&b.0))
            });
            aligned.truncate(self.anchors_per_object);
        }
        aligned
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
            overlap_power: NonNegative::literal(2.0),
            ..TaskAlignedConfig::default()
        };
        let objects: Vec<_> = (objects.iter()).map(|bbox| (*bbox, ClassId(0))).collect();
        let row = row();
        let scores = [0.2, 0.9, 0.5, 0.4, 0.3];
        config
            .init()
            .assign(&row, &row, &objects, |anchor, _| scores[anchor])
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
    fn an_object_that_nothing_predicts_has_no_anchor() {
        assert_eq!(
            assigned(&[BoundingBox::new(90.0, 0.0, 99.0, 9.0)], 13),
            vec![]
        );
        assert_eq!(assigned(&[], 13), vec![]);
    }
}
