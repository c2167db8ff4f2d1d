//! How often detections of a score are right.

use retinanet_boxes::Detection;

use super::{LabelledImage, ramp};

/// How often detections of a score are right.
pub(super) struct Confidence {
    /// The mean score of each bin, ascending, and the share of right ones in it, ascending.
    bins: Vec<(f32, f32)>,
    /// How many objects have no label, for each that has one, at most: the surest detections that seem wrong may all be such.
    unlabelled: f32,
}

/// A bin of detections with like scores.
#[derive(Clone, Copy)]
struct ScoreBin {
    scores: f32,
    right: f32,
    count: f32,
}

impl ScoreBin {
    fn share(&self) -> f32 {
        self.right / self.count
    }
}

impl Confidence {
    pub(super) fn of(images: &[LabelledImage<'_>]) -> Self {
        let mut judged: Vec<(f32, bool)> = Vec::new();
        for image in images {
            judged.extend(right_ones(image));
        }
        judged.sort_by(|a, b| a.0.total_cmp(&b.0));
        let size = (judged.len() / 20).max(10);
        // Pools adjacent bins that are in the wrong order: the least-squares fit that rises with the score.
        let mut pooled: Vec<ScoreBin> = Vec::new();
        for bin in judged.chunks(size) {
            let mut joined = ScoreBin {
                scores: bin.iter().map(|(score, _)| score).sum(),
                right: bin.iter().filter(|(_, right)| *right).count() as f32,
                count: bin.len() as f32,
            };
            while let Some(last) = pooled.pop_if(|last| last.share() >= joined.share()) {
                joined.scores += last.scores;
                joined.right += last.right;
                joined.count += last.count;
            }
            pooled.push(joined);
        }
        let bins = pooled
            .iter()
            .map(|bin| (bin.scores / bin.count, bin.share()));
        let surest = pooled.last();
        Self {
            bins: bins.collect(),
            unlabelled: surest.map_or(1.0, |bin| {
                (bin.count - bin.right + 1.0) / bin.right.max(1.0)
            }),
        }
    }

    /// How often a detection without a label is of an object: of the objects that such scores find some have none, the other
    /// detections are wrong.
    pub(super) fn without_label(&self, score: f32) -> f32 {
        let right = self.at(score);
        let wrong = (1.0 - right).max(f32::EPSILON);
        (self.unlabelled * right / wrong).min(1.0)
    }

    /// Between the bins, so that of two scores the higher counts for more.
    pub(super) fn at(&self, score: f32) -> f32 {
        let above = self.bins.partition_point(|(mean, _)| *mean < score);
        let below = above.checked_sub(1).and_then(|below| self.bins.get(below));
        let (low, low_share) = below.copied().unwrap_or((0.0, 0.0));
        let (high, high_share) = self.bins.get(above).copied().unwrap_or((1.0, 1.0));
        low_share + (high_share - low_share) * ramp(score, low, high.max(low + f32::EPSILON))
    }
}

/// The scores of an image's detections, and whether each is right: the best one of a label, with an overlap of a half.
fn right_ones(image: &LabelledImage<'_>) -> Vec<(f32, bool)> {
    let mut taken = vec![false; image.labels.len()];
    let mut detections: Vec<&Detection> = image.detections.iter().collect();
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    let right = detections.into_iter().map(|detection| {
        let free = image.labels.iter().enumerate();
        let free = free.filter(|(place, label)| {
            !taken[*place] && !label.crowd && label.class == detection.class
        });
        let overlaps = free.map(|(place, label)| (place, label.bbox.iou(&detection.bbox)));
        let best = overlaps.max_by(|a, b| a.1.total_cmp(&b.1));
        let best = best.filter(|(_, overlap)| *overlap >= 0.5);
        if let Some((place, _)) = best {
            taken[place] = true;
        }
        (detection.score, best.is_some())
    });
    right.collect()
}

#[cfg(test)]
mod tests {
    use retinanet_boxes::{BoundingBox, ClassId, GroundTruth};

    use super::*;

    #[test]
    fn confidence_rises_with_the_score() {
        let bbox = |x: f32| BoundingBox::new(x, 0.0, x + 10.0, 10.0);
        let labels = [GroundTruth {
            bbox: bbox(0.0),
            class: ClassId(0),
            crowd: false,
        }];
        let scores: Vec<f32> = (0..200).map(|it| it as f32 / 200.0).collect();
        // Right from 0.5 on, but for a stretch.
        let detections: Vec<[Detection; 1]> = (scores.iter())
            .map(|score| {
                let right = *score >= 0.5 && !(0.7..0.75).contains(score);
                [Detection {
                    bbox: bbox(if right { 0.0 } else { 40.0 }),
                    class: ClassId(0),
                    score: *score,
                }]
            })
            .collect();
        let images: Vec<_> = (detections.iter())
            .map(|detections| LabelledImage {
                labels: &labels,
                detections,
                learned: false,
            })
            .collect();
        let confidence = Confidence::of(&images);
        let at: Vec<f32> = scores.iter().map(|score| confidence.at(*score)).collect();
        assert!(at.is_sorted(), "{at:?}");
        assert!(at[20] < 0.05 && at[199] > 0.95, "{at:?}");
        assert_eq!(Confidence::of(&[]).at(0.5), 0.5);
    }
}
