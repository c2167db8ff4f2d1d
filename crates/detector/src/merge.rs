//! Detections on several views of one image, merged.

use retinanet_boxes::Detection;

use crate::Decoder;

/// The share of a cut object's box that lies in a whole one, from which on they mean the same.
const SAME: f32 = 0.5;

/// A detection on one view of an image, in pixels of the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewDetection {
    /// What was found.
    pub detection: Detection,
    /// Whether the object may go on where the view ends, as at a tile's border.
    pub cut: bool,
}

impl Decoder {
    /// Merges the detections on several views of one image, best first.
    ///
    /// A cut object gives way to one that is seen whole, has at least half its score and holds at
    /// least half of its box. Then suppression goes over all of them as over a single view's; soft
    /// suppression has lowered scores of each view already and lowers those of doubles again. As of
    /// a single view, no more than [`DecodeConfig::max_detections`](crate::DecodeConfig::max_detections)
    /// stay, of all views together.
    pub fn merge(&self, of_views: &[ViewDetection]) -> Vec<Detection> {
        let whole: Vec<Detection> = (of_views.iter())
            .filter(|found| !found.cut)
            .map(|found| found.detection)
            .collect();
        let shown_whole = |cut: &Detection| whole.iter().any(|whole| self.holds(whole, cut));
        let stays = |found: &&ViewDetection| !(found.cut && shown_whole(&found.detection));
        let mut kept: Vec<Detection> = (of_views.iter())
            .filter(stays)
            .map(|found| found.detection)
            .collect();
        // Suppression takes the first of equals: the order must not be that of the views alone.
        kept.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.suppress(&kept)
    }

    fn holds(&self, whole: &Detection, cut: &Detection) -> bool {
        (self.is_class_agnostic() || whole.class == cut.class)
            && whole.score >= 0.5 * cut.score
            && whole.bbox.intersection(&cut.bbox) >= SAME * cut.bbox.area()
    }
}

#[cfg(test)]
mod tests {
    use retinanet_boxes::{BoundingBox, ClassId};

    use super::*;
    use crate::{DecodeConfig, ModelConfig};

    fn of_view(edges: [f32; 4], class: u32, score: f32, cut: bool) -> ViewDetection {
        let [x1, y1, x2, y2] = edges;
        ViewDetection {
            detection: Detection {
                bbox: BoundingBox::new(x1, y1, x2, y2),
                class: ClassId(class),
                score,
            },
            cut,
        }
    }

    fn merged(of_views: &[ViewDetection]) -> Vec<f32> {
        let decoder = DecodeConfig::default().init(&ModelConfig::default());
        let found = decoder.merge(of_views);
        found.iter().map(|detection| detection.score).collect()
    }

    const WHOLE: [f32; 4] = [0.0, 0.0, 100.0, 50.0];
    const LEFT: [f32; 4] = [0.0, 0.0, 40.0, 50.0];

    #[test]
    fn a_cut_object_gives_way_to_the_whole_one() {
        // An IoU of 0.4: suppression alone would keep both.
        let whole = of_view(WHOLE, 0, 0.7, false);
        assert_eq!(merged(&[of_view(LEFT, 0, 0.9, true), whole]), [0.7]);
        assert_eq!(merged(&[of_view(LEFT, 0, 0.9, false), whole]), [0.9, 0.7]);
    }

    #[test]
    fn a_cut_object_stays_where_nothing_better_is_known() {
        let cut = of_view(LEFT, 0, 0.9, true);
        assert_eq!(merged(&[cut]), [0.9]);
        let of_another_class = of_view(WHOLE, 1, 0.7, false);
        assert_eq!(merged(&[cut, of_another_class]), [0.9, 0.7]);
        let hardly_seen = of_view(WHOLE, 0, 0.4, false);
        assert_eq!(merged(&[cut, hardly_seen]), [0.9, 0.4]);
        let elsewhere = of_view([30.0, 0.0, 130.0, 50.0], 0, 0.7, false);
        assert_eq!(merged(&[cut, elsewhere]), [0.9, 0.7]);
    }

    #[test]
    fn doubles_are_suppressed_and_the_best_comes_first() {
        let seen_twice = [
            of_view(WHOLE, 0, 0.6, false),
            of_view([1.0, 0.0, 101.0, 50.0], 0, 0.8, false),
            of_view([200.0, 0.0, 240.0, 50.0], 0, 0.7, false),
        ];
        assert_eq!(merged(&seen_twice), [0.8, 0.7]);
    }
}
