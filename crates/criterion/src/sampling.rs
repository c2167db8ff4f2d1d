//! Which anchors of an image the loss counts over: all of them, as the paper's focal loss, or a
//! chosen few, as what it is compared with (Lin et al. 2017, section 5.1 and table 1d).

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use retinanet_boxes::{AnchorLabel, AnchorTargets, BoundingBox};
use retinanet_settings::{Count, Positive, Share};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ClassLoss;

/// How the anchors that count are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SamplingConfig {
    /// All count: the paper's way with focal loss.
    All {},
    /// All positives, and so many negatives for each, sampled at random: as two-stage detectors train.
    Random(RandomConfig),
    /// Online hard example mining (Shrivastava et al. 2016): those with the largest class loss after
    /// non-maximum suppression over their anchors. With `negatives_per_positive = 3` and
    /// positives first it is SSD's.
    Ohem(OhemConfig),
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self::All {}
    }
}

/// Settings of random sampling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RandomConfig {
    /// The most negatives for each positive.
    pub negatives_per_positive: Positive,
}

impl Default for RandomConfig {
    fn default() -> Self {
        Self {
            negatives_per_positive: Positive::literal(3.0),
        }
    }
}

/// Settings of online hard example mining.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OhemConfig {
    /// The most negatives for each positive; as many as come if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negatives_per_positive: Option<Positive>,
    /// How many anchors of an image count.
    pub examples: Count,
    /// An anchor that overlaps a harder one by more than this IoU does not count; with 1 all do.
    pub nms_iou: Share,
}

impl Default for OhemConfig {
    /// What was best in table 1d: 128 and 0.5.
    fn default() -> Self {
        Self {
            negatives_per_positive: None,
            examples: Count::literal(128),
            nms_iou: Share::literal(0.5),
        }
    }
}

impl SamplingConfig {
    /// Builds the sampler.
    pub const fn init(&self) -> Sampler {
        Sampler(*self)
    }
}

/// Chooses the anchors that count.
///
/// Should be created with [`SamplingConfig`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler(SamplingConfig);

impl Sampler {
    /// Whether all anchors count, so that there is nothing to choose.
    pub const fn takes_all(&self) -> bool {
        matches!(self.0, SamplingConfig::All {})
    }

    /// An image's targets with the anchors ignored that do not count.
    ///
    /// `logits` are the image's `[anchors × classes]`, on the host. The same `seed` makes the same
    /// choice.
    pub(crate) fn choose(
        &self,
        targets: &AnchorTargets,
        logits: &[f32],
        loss: &ClassLoss,
        anchors: &[BoundingBox],
        seed: u64,
    ) -> AnchorTargets {
        match &self.0 {
            SamplingConfig::All {} => targets.clone(),
            SamplingConfig::Random(config) => config.sample(targets, seed),
            SamplingConfig::Ohem(config) => config.mine(targets, logits, loss, anchors),
        }
    }
}

impl RandomConfig {
    fn sample(self, targets: &AnchorTargets, seed: u64) -> AnchorTargets {
        let ratio = self.negatives_per_positive.get();
        let mut negatives = anchors_of(targets, |label| label == AnchorLabel::Background);
        // An image without positives has as many negatives as one with a single one.
        let count = (ratio * targets.positives.len().max(1) as f64).round() as usize;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = count.min(negatives.len());
        let (drawn, _) = negatives.partial_shuffle(&mut rng, count);
        let positives = anchors_of(targets, |label| matches!(label, AnchorLabel::Object(_)));
        keep(targets, drawn.iter().copied().chain(positives))
    }
}

impl OhemConfig {
    fn mine(
        &self,
        targets: &AnchorTargets,
        logits: &[f32],
        loss: &ClassLoss,
        anchors: &[BoundingBox],
    ) -> AnchorTargets {
        let classes = logits.len() / targets.labels.len().max(1);
        let counted = anchors_of(targets, |label| label != AnchorLabel::Ignored);
        let mut ranked: Vec<(f32, usize)> = counted
            .into_iter()
            .map(|anchor| {
                let logits = &logits[anchor * classes..][..classes];
                (loss.of_anchor(logits, targets.labels[anchor]), anchor)
            })
            .collect();
        // Of equals the first, so that nothing depends on chance.
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));

        let examples = self.examples.as_usize();
        let nms_iou = self.nms_iou.as_f32();
        let (most_positives, ratio) = match self.negatives_per_positive.map(Positive::get) {
            Some(ratio) => (
                (examples as f64 / (1.0 + ratio)).round() as usize,
                Some(ratio),
            ),
            None => (examples, None),
        };
        let is_positive = |anchor: usize| matches!(targets.labels[anchor], AnchorLabel::Object(_));
        let mut chosen: Vec<usize> = Vec::new();
        let mut take = |most: usize, of: &dyn Fn(usize) -> bool| {
            let before = chosen.len();
            for &(_, anchor) in &ranked {
                if chosen.len() - before == most {
                    break;
                }
                let overlaps = |&other: &usize| anchors[anchor].iou(&anchors[other]) > nms_iou;
                if of(anchor) && !chosen.iter().any(overlaps) {
                    chosen.push(anchor);
                }
            }
            chosen.len() - before
        };
        match ratio {
            None => {
                take(examples, &|_| true);
            }
            Some(ratio) => {
                let positives = take(most_positives, &is_positive);
                let negatives = (ratio * positives.max(1) as f64).round() as usize;
                take(negatives, &|anchor| !is_positive(anchor));
            }
        }
        keep(targets, chosen.into_iter())
    }
}

/// The anchors with such a label.
fn anchors_of(targets: &AnchorTargets, is: impl Fn(AnchorLabel) -> bool) -> Vec<usize> {
    let labels = targets.labels.iter().enumerate();
    labels
        .filter(|(_, label)| is(**label))
        .map(|(anchor, _)| anchor)
        .collect()
}

/// The targets with all anchors but these ignored.
fn keep(targets: &AnchorTargets, chosen: impl Iterator<Item = usize>) -> AnchorTargets {
    let mut labels = vec![AnchorLabel::Ignored; targets.labels.len()];
    for anchor in chosen {
        labels[anchor] = targets.labels[anchor];
    }
    let positives = targets.positives.iter();
    let positives = positives
        .filter(|positive| labels[positive.anchor] != AnchorLabel::Ignored)
        .copied()
        .collect();
    AnchorTargets {
        labels,
        positives,
        objects: targets.objects.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use retinanet_boxes::{ClassId, PositiveAnchor};

    use super::*;
    use crate::{ClassLossConfig, CrossEntropyConfig};

    fn ohem(examples: u64, nms_iou: f64, ratio: Option<f64>) -> Sampler {
        let config = OhemConfig {
            negatives_per_positive: ratio.map(|ratio| Positive::new(ratio).unwrap()),
            examples: Count::literal(examples),
            nms_iou: Share::literal(nms_iou),
        };
        SamplingConfig::Ohem(config).init()
    }

    fn cross_entropy() -> ClassLoss {
        let config = ClassLossConfig::CrossEntropy(CrossEntropyConfig::default());
        ClassLoss::Sigmoid(config.over_sigmoids())
    }

    /// The first `positives` anchors are objects, the next is ignored, the rest are background; ten
    /// pixels wide each, side by side.
    fn targets(positives: usize, all: usize) -> (AnchorTargets, Vec<BoundingBox>) {
        let unit = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
        let label = |anchor| match anchor {
            _ if anchor < positives => AnchorLabel::Object(ClassId(0)),
            _ if anchor == positives => AnchorLabel::Ignored,
            _ => AnchorLabel::Background,
        };
        let positive = |anchor| PositiveAnchor {
            anchor_box: unit,
            object_box: unit,
            anchor,
            class: ClassId(0),
            object: 0,
            deltas: [0.0; 4],
            quality: None,
        };
        let anchors = (0..all).map(|place| {
            let left = 10.0 * place as f32;
            BoundingBox::new(left, 0.0, left + 10.0, 10.0)
        });
        let targets = AnchorTargets {
            labels: (0..all).map(label).collect(),
            positives: (0..positives).map(positive).collect(),
            objects: Vec::new(),
        };
        (targets, anchors.collect())
    }

    fn kept(targets: &AnchorTargets) -> Vec<usize> {
        anchors_of(targets, |label| label != AnchorLabel::Ignored)
    }

    #[test]
    fn the_hardest_examples_count() {
        let (targets, anchors) = targets(2, 8);
        // Anchor 0 is an easy positive and 1 a hard one; of the negatives 5 is hardest, then 7.
        let logits = [5.0, -4.0, 9.0, -1.0, -2.0, 3.0, -3.0, 1.0];
        let chosen = |sampler: Sampler| {
            kept(&sampler.choose(&targets, &logits, &cross_entropy(), &anchors, 0))
        };
        assert_eq!(chosen(ohem(3, 0.5, None)), [1, 5, 7]);
        assert_eq!(chosen(ohem(100, 0.5, None)), [0, 1, 3, 4, 5, 6, 7]);
        // 1:1 of four: two positives, though one of them is easy, and two negatives.
        assert_eq!(chosen(ohem(4, 0.5, Some(1.0))), [0, 1, 5, 7]);
        // 1:3 of four: a single positive, the hard one.
        assert_eq!(chosen(ohem(4, 0.5, Some(3.0))), [1, 3, 5, 7]);
    }

    #[test]
    fn of_anchors_on_one_another_the_hardest_counts() {
        let (targets, mut anchors) = targets(0, 4);
        anchors[2] = BoundingBox::new(31.0, 0.0, 41.0, 10.0);
        let logits = [0.0, 1.0, 3.0, 2.0];
        // Anchors 2 and 3 overlap by 9 of 11.
        for (iou, expected) in [(0.5, vec![1, 2]), (0.9, vec![1, 2, 3])] {
            let chosen =
                ohem(10, iou, None).choose(&targets, &logits, &cross_entropy(), &anchors, 0);
            assert_eq!(kept(&chosen), expected);
        }
    }

    #[test]
    fn positives_that_do_not_count_have_no_box_to_learn() {
        let (targets, anchors) = targets(2, 5);
        let logits = [5.0, -4.0, 0.0, -1.0, -2.0];
        let chosen = ohem(1, 0.5, None).choose(&targets, &logits, &cross_entropy(), &anchors, 0);
        assert_eq!(chosen.positives.len(), 1);
        assert_eq!(chosen.positives[0].anchor, 1);
    }

    proptest! {
        #[test]
        fn random_sampling_keeps_all_positives_and_so_many_negatives(
            positives in 0..20_usize, more in 1..200_usize, ratio in 0.5..5.0_f64, seed: u64
        ) {
            let (targets, anchors) = targets(positives, positives + more);
            let config = RandomConfig {
                negatives_per_positive: Positive::new(ratio).unwrap(),
            };
            let sampler = SamplingConfig::Random(config).init();
            let choose = |seed| sampler.choose(&targets, &[], &cross_entropy(), &anchors, seed);
            let chosen = choose(seed);
            prop_assert_eq!(&chosen.positives, &targets.positives);
            let negatives = anchors_of(&chosen, |label| label == AnchorLabel::Background);
            let expected = (ratio * positives.max(1) as f64).round() as usize;
            prop_assert_eq!(negatives.len(), expected.min(more - 1));
            prop_assert!(negatives.iter().all(|&it| targets.labels[it] == AnchorLabel::Background));
            prop_assert_eq!(choose(seed), chosen);
        }
    }
}
