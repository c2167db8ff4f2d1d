//! Non-maximum suppression: of boxes that mean the same object, the best stays.

use retinanet_boxes::{ClassId, Detection};
use retinanet_settings::{Positive, Share};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of a box that a better one overlaps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SuppressionConfig {
    /// It goes where they overlap by more than `iou`.
    Hard(HardConfig),
    /// Its score is multiplied by `1 - IoU` where they overlap by more than `iou` (Bodla et al. 2017), and it goes
    /// where that leaves no more than the score threshold.
    SoftLinear(SoftLinearConfig),
    /// Its score is multiplied by `exp(-IoU^2 / sigma)`, however little they overlap (Bodla et al. 2017), and it goes
    /// where that leaves no more than the score threshold.
    SoftGaussian(SoftGaussianConfig),
}

impl Default for SuppressionConfig {
    fn default() -> Self {
        Self::Hard(HardConfig::default())
    }
}

/// Settings of hard suppression.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HardConfig {
    /// The overlap above which a better box suppresses another.
    pub iou: Share,
}

impl Default for HardConfig {
    fn default() -> Self {
        Self {
            iou: Share::literal(0.5),
        }
    }
}

/// Settings of linear soft suppression.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SoftLinearConfig {
    /// The overlap above which a better box lowers another's score.
    pub iou: Share,
}

impl Default for SoftLinearConfig {
    fn default() -> Self {
        Self {
            iou: Share::literal(0.5),
        }
    }
}

/// Settings of Gaussian soft suppression.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SoftGaussianConfig {
    /// How gently scores fall with overlap.
    pub sigma: Positive,
}

impl Default for SoftGaussianConfig {
    fn default() -> Self {
        Self {
            sigma: Positive::literal(0.5),
        }
    }
}

/// Non-maximum suppression with its settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suppression {
    pub(crate) kind: SuppressionConfig,
    /// For the soft kinds.
    pub(crate) least_score: f32,
    pub(crate) class_agnostic: bool,
    /// The most that stay.
    pub(crate) detections: usize,
}

impl Suppression {
    /// The detections that stay, best first.
    ///
    /// Class by class, so that boxes of different classes never suppress each other, and no offset
    /// between classes costs precision.
    pub(crate) fn apply(&self, candidates: &[Detection]) -> Vec<Detection> {
        let mut kept = if self.class_agnostic {
            self.suppress(candidates)
        } else {
            let classes = by_class(candidates);
            let kept = classes.iter().map(|candidates| self.suppress(candidates));
            kept.flatten().collect()
        };
        kept.sort_by(|a, b| b.score.total_cmp(&a.score));
        kept.truncate(self.detections);
        kept
    }

    fn suppress(&self, candidates: &[Detection]) -> Vec<Detection> {
        match self.kind {
            SuppressionConfig::Hard(config) => self.suppress_hard(candidates, config.iou.as_f32()),
            SuppressionConfig::SoftLinear(config) => {
                let limit = config.iou.as_f32();
                let factor = |iou| if iou > limit { 1.0 - iou } else { 1.0 };
                self.suppress_softly(candidates, factor)
            }
            SuppressionConfig::SoftGaussian(config) => {
                let sigma = config.sigma.as_f32();
                self.suppress_softly(candidates, |iou| (-iou * iou / sigma).exp())
            }
        }
    }

    fn suppress_hard(&self, candidates: &[Detection], iou: f32) -> Vec<Detection> {
        let mut ordered = candidates.to_vec();
        // Stable: of equal scores the first counts as the better, as in torchvision.
        ordered.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut suppressed = vec![false; ordered.len()];
        let mut kept = Vec::new();
        for (place, best) in ordered.iter().enumerate() {
            if kept.len() == self.detections {
                break;
            }
            if suppressed[place] {
                continue;
            }
            kept.push(*best);
            let rest = ordered[place..].iter().zip(&mut suppressed[place..]);
            for (other, suppressed) in rest {
                *suppressed |= best.bbox.iou(&other.bbox) > iou;
            }
        }
        kept
    }

    /// `factor` gives what is left of the score of a box that a better one overlaps by so much.
    fn suppress_softly(
        &self,
        candidates: &[Detection],
        factor: impl Fn(f32) -> f32,
    ) -> Vec<Detection> {
        let mut rest = candidates.to_vec();
        let mut kept = Vec::new();
        while kept.len() < self.detections
            && let Some(best) = take_best(&mut rest)
        {
            for other in &mut rest {
                other.score *= factor(best.bbox.iou(&other.bbox));
            }
            rest.retain(|other| other.score > self.least_score);
            kept.push(best);
        }
        kept
    }
}

/// Takes out the first of the detections with the highest score.
fn take_best(detections: &mut Vec<Detection>) -> Option<Detection> {
    let scores = detections.iter().enumerate().rev();
    let (best, _) = scores.max_by(|(_, a), (_, b)| a.score.total_cmp(&b.score))?;
    Some(detections.remove(best))
}

/// The detections of each class, in their order.
fn by_class(detections: &[Detection]) -> Vec<Vec<Detection>> {
    let mut classes: Vec<(ClassId, Vec<Detection>)> = Vec::new();
    for detection in detections {
        match classes.binary_search_by_key(&detection.class, |(class, _)| *class) {
            Ok(place) => classes[place].1.push(*detection),
            Err(place) => classes.insert(place, (detection.class, vec![*detection])),
        }
    }
    classes
        .into_iter()
        .map(|(_, detections)| detections)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use retinanet_boxes::BoundingBox;

    use super::*;

    fn suppression(kind: SuppressionConfig) -> Suppression {
        Suppression {
            kind,
            least_score: 0.05,
            class_agnostic: false,
            detections: 10,
        }
    }

    /// A box of 10 by 10 pixels at `x`.
    fn detection(x: f32, class: u32, score: f32) -> Detection {
        Detection {
            bbox: BoundingBox::new(x, 0.0, x + 10.0, 10.0),
            class: ClassId(class),
            score,
        }
    }

    fn scores(kept: &[Detection]) -> Vec<f32> {
        kept.iter().map(|detection| detection.score).collect()
    }

    proptest! {
        /// What suppression is: what stays overlaps nothing better that stays too much, and what goes
        /// does. Scores are few, so that many are equal.
        #[test]
        fn what_goes_overlaps_something_better_that_stays(
            boxes in prop::collection::vec((0..30_i8, 0..30_i8, 1..12_i8, 1..12_i8, 0..5_u8), 0..40)
        ) {
            let candidates: Vec<Detection> = boxes
                .iter()
                .map(|&(x, y, width, height, score)| {
                    let [x, y, width, height] = [x, y, width, height].map(f32::from);
                    Detection {
                        bbox: BoundingBox::new(x, y, x + width, y + height),
                        class: ClassId(0),
                        score: f32::from(score) / 5.0,
                    }
                })
                .collect();
            let hard = Suppression {
                detections: usize::MAX,
                ..suppression(SuppressionConfig::Hard(HardConfig::default()))
            };
            let kept = hard.apply(&candidates);
            let overlap = |a: &Detection, b: &Detection| a.bbox.iou(&b.bbox) > 0.5;
            prop_assert!(kept.is_sorted_by(|a, b| a.score >= b.score));
            for (place, detection) in kept.iter().enumerate() {
                prop_assert!(!kept[..place].iter().any(|better| overlap(better, detection)));
            }
            for detection in &candidates {
                let stays = kept.contains(detection);
                let mut better = kept.iter().filter(|kept| kept.score >= detection.score);
                prop_assert!(stays || better.any(|better| overlap(better, detection)));
            }
            let few = Suppression { detections: 3, ..hard };
            prop_assert_eq!(few.apply(&candidates), &kept[..kept.len().min(3)]);
        }
    }

    #[test]
    fn classes_suppress_each_other_only_where_asked() {
        // Shifted by 2 of 10: IoU 8 / 12.
        let both = [detection(0.0, 0, 0.9), detection(2.0, 1, 0.8)];
        let apart = suppression(SuppressionConfig::Hard(HardConfig::default()));
        assert_eq!(scores(&apart.apply(&both)), [0.9, 0.8]);
        let together = Suppression {
            class_agnostic: true,
            ..apart
        };
        assert_eq!(scores(&together.apply(&both)), [0.9]);
    }

    #[test]
    fn soft_suppression_lowers_scores_by_overlap() {
        // IoU 2 / 3 with the best, 0.25 between the best and the third, 1 / 9 with the fourth.
        let candidates = [
            detection(0.0, 0, 0.9),
            detection(2.0, 0, 0.6),
            detection(6.0, 0, 0.5),
        ];
        let linear = suppression(SuppressionConfig::SoftLinear(SoftLinearConfig::default()))
            .apply(&candidates);
        let expected = [0.9, 0.5, 0.6 / 3.0];
        for (score, expected) in scores(&linear).iter().zip(expected) {
            assert!((score - expected).abs() < 1e-6, "{linear:?}");
        }
        assert_eq!(linear.len(), 3);

        // exp(-(2/3)² / 0.5) = 0.411112, exp(-(1/4)² / 0.5) = 0.882497; the third then lowers the
        // second by IoU 6 / 14: exp(-(3/7)² / 0.5) = 0.692569.
        let gaussian = suppression(SuppressionConfig::SoftGaussian(
            SoftGaussianConfig::default(),
        ))
        .apply(&candidates);
        let expected = [0.9, 0.5 * 0.882_497, 0.6 * 0.411_112 * 0.692_569];
        for (score, expected) in scores(&gaussian).iter().zip(expected) {
            assert!((score - expected).abs() < 1e-5, "{gaussian:?}");
        }
    }

    #[test]
    fn what_falls_to_the_threshold_goes_and_no_more_stay_than_asked() {
        let candidates = [detection(0.0, 0, 0.9), detection(0.5, 0, 0.1)];
        let soft = suppression(SuppressionConfig::SoftLinear(SoftLinearConfig::default()));
        assert_eq!(scores(&soft.apply(&candidates)), [0.9]);

        let apart = [0.0, 20.0, 40.0].map(|x| detection(x, 0, 0.5));
        for kind in [
            SuppressionConfig::Hard(HardConfig::default()),
            SuppressionConfig::SoftGaussian(SoftGaussianConfig::default()),
        ] {
            let one = Suppression {
                detections: 1,
                ..suppression(kind)
            };
            let kept = one.apply(&apart);
            assert_eq!(kept.len(), 1);
            assert_eq!(kept[0].bbox.x1, 0.0, "the first of equals");
        }
    }
}
