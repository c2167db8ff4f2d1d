use retinanet_boxes::{
    AnchorLabel, AnchorTargets, BoundingBox, ClassId, GroundTruth, PositiveAnchor,
};
use retinanet_settings::SettingError;

use crate::assigner::{Assigner, AssignerConfig};
use crate::pyramid::PyramidAnchors;
use crate::{Assignment, BoxCoder};

/// Turns the objects of an image into [`AnchorTargets`].
///
/// Crowd regions are dropped before matching. The anchors inside them that no object claims count
/// nowhere, since there are objects that are not told apart; or they are background as in the
/// peers, where [`ignore_crowds`](AssignerConfig::ignore_crowds) is off.
#[derive(Clone, Copy, Debug)]
pub struct TargetAssigner {
    assigner: Assigner,
    /// The share of an anchor inside a crowd region from which it is left out, if crowds are ignored.
    crowd_overlap: Option<f32>,
    coder: BoxCoder,
}

/// What a network predicts of an image, anchor after anchor.
#[derive(Clone, Copy, Debug)]
pub struct ImagePredictions<'a> {
    /// `[anchors, classes]`: logits of sigmoids.
    pub logits: &'a [f32],
    /// `[anchors, values]`: those of a box first.
    pub boxes: &'a [f32],
    /// How many classes there are.
    pub classes: usize,
    /// How many values an anchor has for its box.
    pub values: usize,
}

impl ImagePredictions<'_> {
    fn decode(&self, anchors: &[BoundingBox], coder: &BoxCoder) -> Vec<BoundingBox> {
        let rows = anchors.iter().zip(self.boxes.chunks(self.values));
        rows.map(|(anchor, values)| coder.decode(anchor, coder.deltas_of(values)))
            .collect()
    }

    fn score(&self, anchor: usize, class: ClassId) -> f32 {
        let logit = self.logits[anchor * self.classes + class.index()];
        1.0 / (1.0 + (-logit).exp())
    }
}

impl TargetAssigner {
    /// The assigner with these settings, of deltas by this coder.
    ///
    /// # Errors
    ///
    /// Returns an error if settings do not fit each other.
    pub fn new(config: &AssignerConfig, coder: BoxCoder) -> Result<Self, SettingError> {
        let overlap = config.crowd_overlap.as_f32();
        Ok(Self {
            assigner: config.kind.init()?,
            crowd_overlap: config.ignore_crowds.then_some(overlap),
            coder,
        })
    }

    /// What decides which anchors answer for which boxes.
    pub const fn assigner(&self) -> &Assigner {
        &self.assigner
    }

    /// The targets of these anchors for an image with these objects.
    pub fn assign(&self, anchors: &PyramidAnchors, objects: &[GroundTruth]) -> AnchorTargets {
        let single: Vec<usize> = (0..objects.len())
            .filter(|&index| !objects[index].crowd)
            .collect();
        let boxes: Vec<BoundingBox> = single.iter().map(|&index| objects[index].bbox).collect();

        let mut positives = Vec::new();
        let labels = (self.assigner.assign(anchors, &boxes).into_iter())
            .enumerate()
            .map(|(anchor, assignment)| match assignment {
                Assignment::Background => AnchorLabel::Background,
                Assignment::Ignored => AnchorLabel::Ignored,
                Assignment::Object(index) => {
                    let object = single[index];
                    positives.push(self.positive(anchors, anchor, (object, &objects[object])));
                    AnchorLabel::Object(objects[object].class)
                }
            });
        let labels = labels.collect();
        self.without_crowds(anchors, objects, (labels, positives))
    }

    /// The targets of these anchors for an image with these objects, where the assigner goes by what a network predicts of
    /// it; nothing if it does not.
    pub fn assign_predicted(
        &self,
        anchors: &PyramidAnchors,
        objects: &[GroundTruth],
        predictions: ImagePredictions<'_>,
    ) -> Option<AnchorTargets> {
        let Assigner::TaskAligned(assigner) = &self.assigner else {
            return None;
        };
        let (single, boxes): (Vec<usize>, Vec<_>) = (objects.iter().enumerate())
            .filter(|(_, object)| !object.crowd)
            .map(|(index, object)| (index, (object.bbox, object.class)))
            .unzip();
        let predicted = predictions.decode(anchors, &self.coder);
        let score = |anchor, class| predictions.score(anchor, class);
        let mut labels = vec![AnchorLabel::Background; anchors.len()];
        let aligned = assigner.assign(anchors, &predicted, &boxes, score);
        let positives = aligned.into_iter().map(|aligned| {
            let object = single[aligned.object];
            labels[aligned.anchor] = AnchorLabel::Object(objects[object].class);
            PositiveAnchor {
                quality: Some(aligned.quality),
                ..self.positive(anchors, aligned.anchor, (object, &objects[object]))
            }
        });
        let positives = positives.collect();
        Some(self.without_crowds(anchors, objects, (labels, positives)))
    }

    fn positive(
        &self,
        anchors: &[BoundingBox],
        anchor: usize,
        (object, truth): (usize, &GroundTruth),
    ) -> PositiveAnchor {
        PositiveAnchor {
            anchor,
            class: truth.class,
            object,
            deltas: self.coder.encode(&anchors[anchor], &truth.bbox),
            anchor_box: anchors[anchor],
            object_box: truth.bbox,
            quality: None,
        }
    }

    /// The targets, of which anchors inside crowds count nowhere if crowds are ignored.
    fn without_crowds(
        &self,
        anchors: &[BoundingBox],
        objects: &[GroundTruth],
        (mut labels, positives): (Vec<AnchorLabel>, Vec<PositiveAnchor>),
    ) -> AnchorTargets {
        if let Some(overlap) = self.crowd_overlap {
            for crowd in objects.iter().filter(|object| object.crowd) {
                ignore(anchors, &crowd.bbox, overlap, &mut labels);
            }
        }
        AnchorTargets {
            labels,
            positives,
            objects: objects.to_vec(),
        }
    }
}

/// Leaves the background anchors out of which at least this share is inside a crowd region.
fn ignore(anchors: &[BoundingBox], crowd: &BoundingBox, share: f32, labels: &mut [AnchorLabel]) {
    for (anchor, label) in anchors.iter().zip(labels) {
        let inside = anchor.intersection(crowd);
        let is_inside = inside > 0.0 && inside >= share * anchor.area();
        if *label == AnchorLabel::Background && is_inside {
            *label = AnchorLabel::Ignored;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnchorConfig;

    fn assigner() -> TargetAssigner {
        TargetAssigner::new(&AssignerConfig::default(), BoxCoder::default()).unwrap()
    }

    fn object(bbox: BoundingBox, class: u32, crowd: bool) -> GroundTruth {
        GroundTruth {
            bbox,
            class: ClassId(class),
            crowd,
        }
    }

    #[test]
    fn targets_worked_by_hand() {
        let anchors = PyramidAnchors::new([Vec::from(
            [0.0, 10.0, 14.0, 40.0].map(|x| BoundingBox::new(x, 0.0, x + 10.0, 10.0)),
        )]);
        let crowd = object(BoundingBox::new(40.0, 0.0, 50.0, 10.0), 7, true);
        let single = object(BoundingBox::new(10.0, 0.0, 20.0, 10.0), 2, false);
        let targets = assigner().assign(&anchors, &[crowd, single]);
        // The third anchor overlaps the object by 6 of 14 columns, 0.43; the fourth lies on the
        // crowd.
        assert_eq!(
            targets.labels,
            [
                AnchorLabel::Background,
                AnchorLabel::Object(ClassId(2)),
                AnchorLabel::Ignored,
                AnchorLabel::Ignored
            ]
        );
        assert_eq!(
            targets.positives,
            [PositiveAnchor {
                anchor: 1,
                class: ClassId(2),
                object: 1,
                deltas: [0.0; 4],
                anchor_box: anchors[1],
                object_box: anchors[1],
                quality: None,
            }]
        );
    }

    #[test]
    fn decoding_a_positive_gives_its_object_back() {
        let generator = AnchorConfig::default().init(&[8, 16, 32, 64, 128]).unwrap();
        let anchors = generator.generate(320, 320);
        let objects = [
            object(BoundingBox::new(20.0, 30.0, 90.0, 110.0), 0, false),
            object(BoundingBox::new(150.0, 100.0, 310.0, 300.0), 1, false),
            object(BoundingBox::new(200.0, 20.0, 206.0, 24.0), 2, false),
        ];
        let targets = assigner().assign(&anchors, &objects);
        assert!(
            targets
                .positives
                .is_sorted_by_key(|positive| positive.anchor)
        );
        for (index, object) in objects.iter().enumerate() {
            let mut own = targets
                .positives
                .iter()
                .filter(|positive| positive.object == index)
                .peekable();
            assert!(own.peek().is_some(), "object {index} has no anchor");
            for positive in own {
                let anchor = &anchors[positive.anchor];
                let decoded = BoxCoder::default().decode(anchor, positive.deltas);
                assert!(decoded.iou(&object.bbox) > 0.999, "{decoded:?}");
                assert_eq!(positive.class, object.class);
                assert_eq!(
                    targets.labels[positive.anchor],
                    AnchorLabel::Object(object.class)
                );
            }
        }
    }

    #[test]
    fn an_image_without_objects_is_background() {
        let anchors = PyramidAnchors::new([Vec::from([BoundingBox::new(0.0, 0.0, 10.0, 10.0); 3])]);
        let crowd = object(anchors[0], 0, true);
        for (ignore_crowds, of_crowd) in [
            (true, AnchorLabel::Ignored),
            (false, AnchorLabel::Background),
        ] {
            let config = AssignerConfig {
                ignore_crowds,
                ..AssignerConfig::default()
            };
            let assigner = TargetAssigner::new(&config, BoxCoder::default()).unwrap();
            for (objects, label) in [(&[][..], AnchorLabel::Background), (&[crowd], of_crowd)] {
                let targets = assigner.assign(&anchors, objects);
                assert_eq!(targets.labels, [label; 3]);
                assert_eq!(targets.positives, []);
            }
        }
    }

    #[test]
    fn anchors_half_inside_a_crowd_are_left_out_and_objects_there_stay() {
        // 4, 5 and 6 of 10 columns inside the crowd; the last is an object itself.
        let anchors = PyramidAnchors::new([Vec::from(
            [6.0, 5.0, 4.0, -20.0].map(|x| BoundingBox::new(x, 0.0, x + 10.0, 10.0)),
        )]);
        let crowd = object(BoundingBox::new(-30.0, 0.0, 10.0, 10.0), 0, true);
        let single = object(anchors[3], 1, false);
        let targets = assigner().assign(&anchors, &[crowd, single]);
        assert_eq!(
            targets.labels,
            [
                AnchorLabel::Background,
                AnchorLabel::Ignored,
                AnchorLabel::Ignored,
                AnchorLabel::Object(ClassId(1))
            ]
        );
    }

    #[test]
    fn an_object_without_area_claims_nothing() {
        let anchors = PyramidAnchors::new([Vec::from([BoundingBox::new(0.0, 0.0, 10.0, 10.0)])]);
        let point = object(BoundingBox::new(5.0, 5.0, 5.0, 5.0), 0, false);
        assert_eq!(
            assigner().assign(&anchors, &[point]).labels,
            [AnchorLabel::Background]
        );
    }
}
