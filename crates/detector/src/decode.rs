//! From predictions to detections: threshold, the best of each level, box decoding and
//! non-maximum suppression by class (Lin et al. 2017, section 4.1, "Inference").

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_vision::{Nms, NmsOptions};
use retinanet_anchors::BoxCoder;
use retinanet_boxes::{BoundingBox, ClassId, Detection};
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::model::{LevelPredictions, Predictions};

/// Settings of decoding, `[eval]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeConfig {
    /// Scores at or below are no detections, in `[0, 1)`.
    pub score_threshold: f32,
    /// The most candidates of one pyramid level that reach suppression.
    pub top_k: usize,
    /// A box is suppressed by a better one of its class that overlaps it by more than this IoU.
    pub nms_iou: f32,
    /// The most detections of one image.
    pub detections: usize,
}

impl Default for DecodeConfig {
    /// The peers' common defaults: 0.05, 1000 a level, 0.5 and 100.
    fn default() -> Self {
        Self {
            score_threshold: 0.05,
            top_k: 1000,
            nms_iou: 0.5,
            detections: 100,
        }
    }
}

impl DecodeConfig {
    /// Checks the settings and builds the decoder.
    ///
    /// # Errors
    ///
    /// Returns an error that names the key at fault.
    pub fn init(&self) -> Result<Decoder, ModelError> {
        if !(0.0..1.0).contains(&self.score_threshold) {
            let got = self.score_threshold;
            return Err(ModelError::out_of_range(
                "eval.score_threshold",
                got,
                "in [0, 1)",
            ));
        }
        if !(0.0..=1.0).contains(&self.nms_iou) {
            return Err(ModelError::out_of_range(
                "eval.nms_iou",
                self.nms_iou,
                "in [0, 1]",
            ));
        }
        for (key, got) in [
            ("eval.top_k", self.top_k),
            ("eval.detections", self.detections),
        ] {
            if got == 0 {
                return Err(ModelError::out_of_range(key, got, "at least 1"));
            }
        }
        Ok(Decoder {
            config: *self,
            coder: BoxCoder::default(),
        })
    }
}

/// Turns predictions into detections.
///
/// Should be created with [`DecodeConfig`].
#[derive(Clone, Debug)]
pub struct Decoder {
    config: DecodeConfig,
    coder: BoxCoder,
}

impl Decoder {
    /// Decodes a batch: for each image its detections, best first, in pixels of the network's
    /// input and not yet clipped to the image.
    ///
    /// `anchors` are those of the input's size, level by level as the predictions.
    pub fn decode(&self, predictions: Predictions, anchors: &[BoundingBox]) -> Vec<Vec<Detection>> {
        let mut candidates: Vec<Vec<Detection>> = Vec::new();
        let mut first_anchor = 0;
        for level in predictions.levels {
            let [batch, count, _] = level.logits.dims();
            candidates.resize(batch, Vec::new());
            let anchors = &anchors[first_anchor..first_anchor + count];
            self.decode_level(level, anchors, &mut candidates);
            first_anchor += count;
        }
        candidates
            .into_iter()
            .map(|candidates| self.suppress(&candidates))
            .collect()
    }

    fn decode_level(
        &self,
        level: LevelPredictions,
        anchors: &[BoundingBox],
        candidates: &mut [Vec<Detection>],
    ) {
        let [_, _, classes] = level.logits.dims();
        let logits = to_host(level.logits);
        let deltas = to_host(level.deltas);
        let images = logits
            .chunks_exact(anchors.len() * classes)
            .zip(deltas.chunks_exact(anchors.len() * 4));
        for ((logits, deltas), candidates) in images.zip(candidates) {
            for (index, score) in self.best(logits) {
                let anchor = index / classes;
                let delta = [0, 1, 2, 3].map(|value| deltas[4 * anchor + value]);
                candidates.push(Detection {
                    bbox: self.coder.decode(&anchors[anchor], delta),
                    class: ClassId((index % classes) as u32),
                    score,
                });
            }
        }
    }

    /// The positions and scores of the `top_k` logits whose scores are above the threshold, best
    /// first; among equals the earlier.
    fn best(&self, logits: &[f32]) -> Vec<(usize, f32)> {
        let mut scored: Vec<(usize, f32)> = logits
            .iter()
            .map(|logit| 1.0 / (1.0 + (-logit).exp()))
            .enumerate()
            .filter(|(_, score)| *score > self.config.score_threshold)
            .collect();
        let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if scored.len() > self.config.top_k {
            scored.select_nth_unstable_by(self.config.top_k, order);
            scored.truncate(self.config.top_k);
        }
        scored.sort_unstable_by(order);
        scored
    }

    /// Class by class, so that boxes of different classes never suppress each other, and no offset
    /// between classes costs precision.
    fn suppress(&self, candidates: &[Detection]) -> Vec<Detection> {
        let mut by_class: Vec<(ClassId, Vec<Detection>)> = Vec::new();
        for detection in candidates {
            match by_class.binary_search_by_key(&detection.class, |(class, _)| *class) {
                Ok(place) => by_class[place].1.push(*detection),
                Err(place) => by_class.insert(place, (detection.class, vec![*detection])),
            }
        }
        let mut kept: Vec<Detection> = by_class
            .iter()
            .flat_map(|(_, detections)| self.suppress_class(detections))
            .collect();
        kept.sort_by(|a, b| b.score.total_cmp(&a.score));
        kept.truncate(self.config.detections);
        kept
    }

    fn suppress_class(&self, detections: &[Detection]) -> Vec<Detection> {
        // The boxes are on the host already, and flex is where the host computes.
        let device = Device::flex();
        let boxes: Vec<f32> = detections
            .iter()
            .flat_map(|detection| detection.bbox.to_array())
            .collect();
        let scores: Vec<f32> = detections.iter().map(|detection| detection.score).collect();
        let count = detections.len();
        let boxes = Tensor::<2>::from_data(TensorData::new(boxes, [count, 4]), &device);
        let scores = Tensor::<1>::from_data(TensorData::new(scores, [count]), &device);
        let options = NmsOptions {
            iou_threshold: self.config.nms_iou,
            score_threshold: 0.0,
            max_output_boxes: self.config.detections,
        };
        let kept: Tensor<1, Int> = boxes.nms(scores, options);
        kept.into_data()
            .iter::<i64>()
            .map(|index| detections[index as usize])
            .collect()
    }
}

fn to_host(tensor: Tensor<3>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANCHORS: [BoundingBox; 3] = [
        BoundingBox::new(0.0, 0.0, 10.0, 10.0),
        BoundingBox::new(1.0, 0.0, 11.0, 10.0),
        BoundingBox::new(50.0, 50.0, 60.0, 60.0),
    ];

    fn predictions(logits: [[[f32; 2]; 3]; 1]) -> Predictions {
        let device = Device::flex();
        Predictions {
            levels: vec![LevelPredictions {
                logits: Tensor::from_floats(logits, &device),
                deltas: Tensor::zeros([1, 3, 4], &device),
            }],
        }
    }

    fn decode(config: DecodeConfig, logits: [[[f32; 2]; 3]; 1]) -> Vec<(u32, f32, f32)> {
        let decoder = config.init().unwrap();
        decoder
            .decode(predictions(logits), &ANCHORS)
            .remove(0)
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
                score_threshold: 0.5,
                nms_iou: 1.0,
                ..config
            },
            logits,
        );
        assert_eq!(kept.len(), 4, "{kept:?}");
        let two = DecodeConfig { top_k: 2, ..config };
        assert_eq!(
            decode(two, logits)
                .iter()
                .map(|kept| kept.1)
                .collect::<Vec<_>>(),
            [1.0, 50.0]
        );
        let one = DecodeConfig {
            detections: 1,
            ..config
        };
        assert_eq!(decode(one, logits).len(), 1);
    }

    #[test]
    fn nothing_above_the_threshold_gives_nothing() {
        assert!(decode(DecodeConfig::default(), [[[LOW; 2]; 3]]).is_empty());
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let config = DecodeConfig {
            nms_iou: 1.5,
            ..DecodeConfig::default()
        };
        assert_eq!(
            config.init().unwrap_err().to_string(),
            "`eval.nms_iou` must be in [0, 1], got 1.5"
        );
    }
}
