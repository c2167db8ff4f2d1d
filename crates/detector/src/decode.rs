//! From predictions to detections: threshold, the best of each level, box decoding and
//! non-maximum suppression by class (Lin et al. 2017, section 4.1, "Inference").

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use retinanet_anchors::BoxCoder;
use retinanet_boxes::{BoundingBox, ClassId, Detection};
use retinanet_heads::ClassScores;
use retinanet_settings::{Count, ShareBelowOne};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ModelConfig;
#[cfg(feature = "gpu")]
use crate::candidates::order;
use crate::candidates::{Candidate, best_candidates, sigmoid};
#[cfg(feature = "gpu")]
use crate::gpu::Found;
use crate::model::Predictions;
use crate::suppression::{Suppression, SuppressionConfig};

/// Settings of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeConfig {
    /// Scores at or below are not detections.
    pub score_threshold: ShareBelowOne,
    /// The score threshold of the coarsest level, where it has one of its own: 0 in Detectron.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coarsest_score_threshold: Option<ShareBelowOne>,
    /// The most candidates of one pyramid level that reach suppression.
    pub pre_nms_top_k: Count,
    /// What becomes of a box that a better one overlaps.
    pub nms: SuppressionConfig,
    /// Whether boxes suppress those of other classes too.
    pub class_agnostic: bool,
    /// Whether boxes are clipped to the image before suppression, as torchvision and mmdetection
    /// do, and not only after it.
    pub clip_before_nms: bool,
    /// Whether detections of which clipping leaves nothing are left out; torchvision keeps them.
    pub drop_empty: bool,
    /// The most detections of one image.
    pub max_detections: Count,
}

impl Default for DecodeConfig {
    /// The peers' common defaults: 0.05, 1000 a level, 0.5 and 100.
    fn default() -> Self {
        Self {
            score_threshold: ShareBelowOne::literal(0.05),
            coarsest_score_threshold: None,
            pre_nms_top_k: Count::literal(1000),
            nms: SuppressionConfig::default(),
            class_agnostic: false,
            clip_before_nms: false,
            drop_empty: true,
            max_detections: Count::literal(100),
        }
    }
}

impl DecodeConfig {
    /// Builds the decoder for this model.
    pub fn init(&self, model: &ModelConfig) -> Decoder {
        Decoder {
            config: *self,
            coder: model.box_coder.init(),
            scores: model.head.scores,
            centerness: model.head.centerness,
        }
    }

    /// The scores that candidates of each of so many levels must exceed, finest first.
    pub fn thresholds(&self, levels: usize) -> Vec<f32> {
        let mut thresholds = vec![self.score_threshold.as_f32(); levels];
        if let (Some(own), Some(coarsest)) = (self.coarsest_score_threshold, thresholds.last_mut())
        {
            *coarsest = own.as_f32();
        }
        thresholds
    }

    fn suppression(&self) -> Suppression {
        Suppression {
            kind: self.nms,
            least_score: self.score_threshold.as_f32(),
            class_agnostic: self.class_agnostic,
            detections: self.max_detections.as_usize(),
        }
    }
}

/// Turns predictions into detections.
///
/// Should be created with [`DecodeConfig`].
#[derive(Clone, Debug)]
pub struct Decoder {
    config: DecodeConfig,
    coder: BoxCoder,
    scores: ClassScores,
    /// Whether a detection's score is multiplied by a centerness.
    centerness: bool,
}

impl Decoder {
    /// Decodes a batch: for each image its detections, best first, in pixels of the network's
    /// input.
    ///
    /// `anchors` are those of the input's size, level by level as the predictions. `sizes` are
    /// width and height of each image without the batch's padding; boxes are clipped to them
    /// before suppression or after it as the settings say.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer sizes than images.
    pub fn decode(
        &self,
        predictions: Predictions,
        anchors: &[BoundingBox],
        sizes: &[(u32, u32)],
    ) -> Vec<Vec<Detection>> {
        #[cfg(feature = "gpu")]
        if let Some(decoded) = self.decode_on_gpu(&predictions, anchors, sizes) {
            return decoded;
        }
        let [batch, count, classes] = predictions.logits.dims();
        let mut logits = to_host(predictions.logits);
        if self.scores == ClassScores::Softmax {
            to_log_odds(&mut logits, classes);
        }
        let boxes = to_host(predictions.boxes);
        let (logits, boxes) = (floats(&logits), floats(&boxes));
        let values = self.coder.predicted_values() + usize::from(self.centerness);
        (0..batch)
            .into_par_iter()
            .map(|image| {
                let image = Image {
                    logits: &logits[image * count * classes..][..count * classes],
                    boxes: &boxes[image * count * values..][..count * values],
                    anchors,
                    classes,
                    size: sizes[image],
                };
                let candidates = self.candidates(&image, &predictions.level_anchors);
                self.finish(&candidates, image.size)
            })
            .collect()
    }

    /// The same with candidates that a GPU finds; nothing if it cannot.
    #[cfg(feature = "gpu")]
    fn decode_on_gpu(
        &self,
        predictions: &Predictions,
        anchors: &[BoundingBox],
        sizes: &[(u32, u32)],
    ) -> Option<Vec<Vec<Detection>>> {
        let are_deltas = self.coder.bins().is_none() && !self.centerness;
        if self.scores == ClassScores::Softmax || !are_deltas {
            return None;
        }
        let levels = predictions.level_anchors.len();
        let thresholds = self.config.thresholds(levels);
        let count = self.config.pre_nms_top_k.as_usize();
        let found = crate::gpu::candidates(predictions, &thresholds, count)?;
        let classes = predictions.logits.dims()[2];
        let decode = |levels: Vec<Vec<Found>>, size: (u32, u32)| {
            let mut first = 0;
            let mut candidates = Vec::new();
            for ((mut level, threshold), anchors_of_level) in levels
                .into_iter()
                .zip(&thresholds)
                .zip(&predictions.level_anchors)
            {
                level.retain(|found| found.candidate.score > *threshold);
                level.sort_unstable_by(|a, b| order(&a.candidate, &b.candidate));
                level.truncate(count);
                candidates.extend(level.iter().map(|found| {
                    let anchor = &anchors[first + found.candidate.index / classes];
                    self.detection(found.candidate, classes, anchor, found.deltas, size)
                }));
                first += anchors_of_level;
            }
            self.finish(&candidates, size)
        };
        let images = found.into_par_iter().zip(sizes);
        Some(images.map(|(levels, size)| decode(levels, *size)).collect())
    }

    /// What is left of an image's candidates.
    fn finish(&self, candidates: &[Detection], size: (u32, u32)) -> Vec<Detection> {
        let mut kept = self.config.suppression().apply(candidates);
        for detection in &mut kept {
            detection.bbox = clip(detection.bbox, size);
        }
        if self.config.drop_empty {
            kept.retain(|detection| detection.bbox.is_proper());
        }
        kept
    }

    fn detection(
        &self,
        candidate: Candidate,
        classes: usize,
        anchor: &BoundingBox,
        deltas: [f32; 4],
        size: (u32, u32),
    ) -> Detection {
        let bbox = self.coder.decode(anchor, deltas);
        Detection {
            bbox: if self.config.clip_before_nms {
                clip(bbox, size)
            } else {
                bbox
            },
            class: ClassId((candidate.index % classes) as u32),
            score: candidate.score,
        }
    }

    /// Non-maximum suppression alone, over detections that stand best first.
    pub(crate) fn suppress(&self, detections: &[Detection]) -> Vec<Detection> {
        self.config.suppression().apply(detections)
    }

    pub(crate) const fn is_class_agnostic(&self) -> bool {
        self.config.class_agnostic
    }

    /// The best candidates of every level, level by level and best first.
    fn candidates(&self, image: &Image<'_>, level_anchors: &[usize]) -> Vec<Detection> {
        let starts = level_anchors.iter().scan(0, |end, &count| {
            *end += count;
            Some(*end - count)
        });
        let levels: Vec<Range<usize>> = (starts.zip(level_anchors))
            .map(|(start, count)| start..start + count)
            .collect();
        let thresholds = self.config.thresholds(levels.len());
        (levels.into_par_iter().zip(thresholds))
            .flat_map_iter(|(anchors, threshold)| self.level_candidates(image, anchors, threshold))
            .collect()
    }

    /// The best candidates of a level, best first.
    fn level_candidates(
        &self,
        image: &Image<'_>,
        level: Range<usize>,
        threshold: f32,
    ) -> Vec<Detection> {
        let Image {
            logits,
            boxes,
            anchors,
            classes,
            ..
        } = image;
        let logits = &logits[level.start * classes..level.end * classes];
        let values = self.coder.predicted_values() + usize::from(self.centerness);
        best_candidates(logits, threshold, self.config.pre_nms_top_k.as_usize())
            .into_iter()
            .map(|mut candidate| {
                let anchor = level.start + candidate.index / classes;
                let predicted = &boxes[anchor * values..][..values];
                if self.centerness {
                    candidate.score *= sigmoid(predicted[values - 1]);
                }
                let deltas = self.coder.deltas_of(predicted);
                let bbox = &anchors[anchor];
                self.detection(candidate, *classes, bbox, deltas, image.size)
            })
            .collect()
    }
}

/// What the model says of one image.
struct Image<'a> {
    /// `[anchors, classes]`
    logits: &'a [f32],
    /// `[anchors, values]`
    boxes: &'a [f32],
    anchors: &'a [BoundingBox],
    classes: usize,
    /// Width and height without padding.
    size: (u32, u32),
}

fn clip(bbox: BoundingBox, (width, height): (u32, u32)) -> BoundingBox {
    bbox.clip(width as f32, height as f32)
}

/// The tensor's values, without a copy where it is on the CPU, contiguous and nobody else's.
fn to_host(tensor: Tensor<3>) -> TensorData {
    tensor.into_data_as::<f32>()
}

fn floats(data: &TensorData) -> &[f32] {
    data.as_slice().expect("`to_host` made them `f32`")
}

/// Makes of a softmax's logits those of sigmoids that say the same, `log(p / (1 - p))`; the
/// background has the logit 0.
fn to_log_odds(logits: &mut TensorData, classes: usize) {
    let logits = (logits.as_mut_slice::<f32>()).expect("`to_host` made them `f32`");
    logits.par_chunks_mut(classes).for_each(|logits| {
        let largest = logits.iter().copied().fold(0.0, f32::max);
        let total: f32 =
            (logits.iter().map(|logit| (logit - largest).exp())).sum::<f32>() + (-largest).exp();
        for logit in logits {
            let score = (*logit - largest).exp() / total;
            *logit = (score / (1.0 - score)).ln();
        }
    });
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::suppression::HardConfig;
    use retinanet_anchors::{BoxCoderConfig, DistanceConfig};
    use retinanet_settings::{Share, Whole};

    const ANCHORS: [BoundingBox; 3] = [
        BoundingBox::new(0.0, 0.0, 10.0, 10.0),
        BoundingBox::new(1.0, 0.0, 11.0, 10.0),
        BoundingBox::new(50.0, 50.0, 60.0, 60.0),
    ];

    fn predictions<const B: usize>(
        logits: [[[f32; 2]; 3]; B],
        level_anchors: &[usize],
    ) -> Predictions {
        let device = Device::flex();
        Predictions {
            logits: Tensor::from_floats(logits, &device),
            boxes: Tensor::zeros([B, 3, 4], &device),
            level_anchors: level_anchors.to_vec(),
        }
    }

    fn decode(config: DecodeConfig, logits: [[[f32; 2]; 3]; 1]) -> Vec<(u32, f32, f32)> {
        summary(&decode_batch(config, predictions(logits, &[3]))[0])
    }

    fn decode_batch(config: DecodeConfig, predictions: Predictions) -> Vec<Vec<Detection>> {
        let decoder = config.init(&ModelConfig::default());
        let sizes = vec![(100, 100); predictions.logits.dims()[0]];
        decoder.decode(predictions, &ANCHORS, &sizes)
    }

    #[test]
    fn the_scores_of_a_softmax_share_one_with_the_background() {
        let mut model = ModelConfig::default();
        model.head.scores = ClassScores::Softmax;
        let decoder = DecodeConfig::default().init(&model);
        let logits = [[[3.0, 2.0], [LOW; 2], [40.0, 1.0]]];
        let found = decoder.decode(predictions(logits, &[3]), &ANCHORS, &[(100, 100)]);
        let total = 1.0 + 3.0_f64.exp() + 2.0_f64.exp();
        let scores: Vec<_> = found[0].iter().map(|it| (it.class.0, it.score)).collect();
        let expected = [1.0, 3.0_f64.exp() / total, 2.0_f64.exp() / total];
        assert_eq!(scores.iter().map(|it| it.0).collect::<Vec<_>>(), [0, 0, 1]);
        for (found, expected) in scores.iter().zip(expected) {
            assert!((f64::from(found.1) - expected).abs() < 1e-6, "{scores:?}");
        }
    }

    fn summary(detections: &[Detection]) -> Vec<(u32, f32, f32)> {
        detections
            .iter()
            .map(|detection| (detection.class.0, detection.bbox.x1, detection.score))
            .collect()
    }

    const LOW: f32 = -10.0;

    #[test]
    fn the_better_of_two_overlapping_boxes_of_a_class_stays() {
        // IoU of the first two anchors: 90 / 110 = 0.82.
        let logits = [[[1.0, LOW], [2.0, LOW], [0.0, LOW]]];
        let kept = decode(DecodeConfig::default(), logits);
        assert_eq!(
            kept.iter().map(|kept| (kept.0, kept.1)).collect::<Vec<_>>(),
            [(0, 1.0), (0, 50.0)]
        );
        assert!((kept[1].2 - 0.5).abs() < 1e-6);
    }

    #[test]
    fn classes_do_not_suppress_each_other() {
        let kept = decode(
            DecodeConfig::default(),
            [[[1.0, LOW], [LOW, 2.0], [LOW, LOW]]],
        );
        assert_eq!(
            kept.iter().map(|kept| kept.0).collect::<Vec<_>>(),
            [1, 0],
            "{kept:?}"
        );
    }

    #[test]
    fn thresholds_and_limits_hold() {
        let logits = [[[1.0, 0.5], [3.0, LOW], [2.0, 0.0]]];
        let config = DecodeConfig::default();
        // A score of exactly the threshold is out, as the peers' `>`.
        let kept = decode(
            DecodeConfig {
                score_threshold: ShareBelowOne::literal(0.5),
                nms: SuppressionConfig::Hard(HardConfig {
                    iou: Share::literal(1.0),
                }),
                ..config
            },
            logits,
        );
        assert_eq!(kept.len(), 4, "{kept:?}");
        let two = DecodeConfig {
            pre_nms_top_k: Count::literal(2),
            ..config
        };
        assert_eq!(
            decode(two, logits)
                .iter()
                .map(|kept| kept.1)
                .collect::<Vec<_>>(),
            [1.0, 50.0]
        );
        let one = DecodeConfig {
            max_detections: Count::literal(1),
            ..config
        };
        assert_eq!(decode(one, logits).len(), 1);
    }

    #[test]
    fn every_level_sends_its_own_best() {
        // One candidate a level, of levels with two anchors and one.
        let config = DecodeConfig {
            pre_nms_top_k: Count::literal(1),
            ..DecodeConfig::default()
        };
        let logits = [[[3.0, LOW], [LOW, 2.0], [LOW, 1.0]]];
        let kept = |level_anchors: &[usize]| {
            summary(&decode_batch(config, predictions(logits, level_anchors))[0])
                .iter()
                .map(|kept| (kept.0, kept.1))
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&[2, 1]), [(0, 0.0), (1, 50.0)]);
        assert_eq!(kept(&[3]), [(0, 0.0)]);
    }

    #[test]
    fn images_of_a_batch_are_decoded_apart() {
        let logits = [
            [[3.0, LOW], [LOW; 2], [LOW; 2]],
            [[LOW; 2]; 3],
            [[LOW; 2], [LOW; 2], [LOW, 2.0]],
        ];
        let found = decode_batch(DecodeConfig::default(), predictions(logits, &[2, 1]));
        let found: Vec<Vec<(u32, f32)>> = found
            .iter()
            .map(|image| summary(image).iter().map(|kept| (kept.0, kept.1)).collect())
            .collect();
        assert_eq!(found, [vec![(0, 0.0)], vec![], vec![(1, 50.0)]]);
    }

    #[test]
    fn deltas_move_the_boxes_of_their_anchors() {
        let device = Device::flex();
        let mut predictions = predictions([[[LOW; 2], [LOW; 2], [LOW, 2.0]]], &[2, 1]);
        // Half a width to the right, and twice as high: the anchor is 10 wide and high.
        let ln_2 = std::f32::consts::LN_2;
        let deltas = [[[9.0; 4], [9.0; 4], [0.5, 0.0, 0.0, ln_2]]];
        predictions.boxes = Tensor::from_floats(deltas, &device);
        let found = decode_batch(DecodeConfig::default(), predictions);
        assert_eq!(found[0][0].bbox, BoundingBox::new(55.0, 45.0, 65.0, 65.0));
    }

    /// Distances of 2, 1, 3 and 4 strides, each nearly certain, from the centre (55, 55) of an anchor of eight strides of 1.25;
    /// and a logit of 0, of which the sigmoid is 1/2.
    #[test]
    fn distributions_are_read_by_their_means_and_scores_by_their_centerness() {
        const BINS: usize = 6;
        let mut model = ModelConfig::default();
        model.head.centerness = true;
        model.box_coder = BoxCoderConfig::Distances(DistanceConfig {
            bins: Some(Whole::literal(BINS as u64)),
            ..DistanceConfig::default()
        });
        let mut values = [0.0; 4 * BINS + 1];
        for (side, distance) in [2, 1, 3, 4].into_iter().enumerate() {
            values[side * BINS + distance] = 60.0;
        }
        let nothing = [0.0; 4 * BINS + 1];
        let mut predictions = predictions([[[LOW; 2], [LOW; 2], [LOW, 2.0]]], &[2, 1]);
        predictions.boxes = Tensor::from_floats([[nothing, nothing, values]], &Device::flex());
        let decoder = DecodeConfig::default().init(&model);
        let found = decoder.decode(predictions, &ANCHORS, &[(100, 100)]);
        let expected = BoundingBox::new(52.5, 53.75, 58.75, 60.0);
        assert_eq!(found[0][0].bbox, expected);
        let sure = 1.0 / (1.0 + (-2.0_f32).exp());
        assert!((found[0][0].score - sure / 2.0).abs() < 1e-6, "{found:?}");
    }

    /// The score decides what is a candidate, and what it becomes which of two overlapping boxes is the better.
    #[test]
    fn centerness_orders_what_overlaps() {
        let mut model = ModelConfig::default();
        model.head.centerness = true;
        let mut predictions = predictions([[[2.0, LOW], [1.0, LOW], [-2.0, LOW]]], &[3]);
        let values = [-3.0, 3.0, -3.0].map(|centerness| [0.0, 0.0, 0.0, 0.0, centerness]);
        predictions.boxes = Tensor::from_floats([values], &Device::flex());
        let decoder = DecodeConfig::default().init(&model);
        let found = decoder.decode(predictions, &ANCHORS, &[(100, 100)]);
        // The last one's score is below the threshold by now, as mmdetection leaves it.
        let left: Vec<f32> = found[0].iter().map(|it| it.bbox.x1).collect();
        assert_eq!(left, [1.0, 50.0]);
        assert!(found[0][1].score < 0.05);
    }

    #[test]
    fn nothing_above_the_threshold_gives_nothing() {
        assert!(decode(DecodeConfig::default(), [[[LOW; 2]; 3]]).is_empty());
    }
}
