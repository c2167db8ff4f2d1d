//! Labels that are probably wrong, by what detectors predict that have not learned from them; after ObjectLab
//! (Tkachenko et al. 2023, [arXiv 2309.00832](https://arxiv.org/abs/2309.00832)), which tells overlooked, badly placed and
//! swapped labels apart.

mod confidence;

use std::cmp::Ordering;
use std::fmt;

use retinanet_boxes::{BoundingBox, ClassId, Detection, GroundTruth};

use self::confidence::Confidence;

/// An image with its labels, and what a detector predicts that has not learned from them, or has.
#[derive(Clone, Copy, Debug)]
pub struct LabelledImage<'a> {
    /// The labels, in pixels of the image.
    pub labels: &'a [GroundTruth],
    /// The predictions, in pixels of the image.
    pub detections: &'a [Detection],
    /// Whether the detector has learned from the labels: what it predicts against them nevertheless is the surer.
    pub learned: bool,
}

/// What is probably wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelErrorKind {
    /// An object has no label.
    Missing,
    /// An object has two labels.
    Doubled,
    /// A label has another class than its object.
    OtherClass,
    /// A label's box is not its object's.
    Moved,
    /// There is no object where a label is.
    NoObject,
}

impl fmt::Display for LabelErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missing => "missing",
            Self::Doubled => "doubled",
            Self::OtherClass => "another class",
            Self::Moved => "moved",
            Self::NoObject => "no object",
        })
    }
}

/// A label that is probably wrong, or missing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelError {
    /// The image's place.
    pub image: usize,
    /// What is wrong.
    pub kind: LabelErrorKind,
    /// How sure that is, in `[0, 1]`.
    pub suspicion: f32,
    /// The label's place among the image's, unless it is missing.
    pub label: Option<usize>,
    /// The other label of two.
    pub other: Option<usize>,
    /// What was predicted instead.
    pub detection: Option<Detection>,
}

/// The overlap from which two labels of a class may be one object's.
const DOUBLED: f32 = 0.6;
/// How sure it is that labels of a class are one object's that nearly cover each other, where no object is predicted.
const UNSUPPORTED_DOUBLE: f32 = 0.8;
/// The overlap with a label from which a detection is of something that has a label.
const LABELLED: f32 = 0.5;
/// The overlap up to which it certainly is not.
const UNLABELLED: f32 = 0.2;
/// The least overlap of a label with the detection that it was moved away from.
const TOUCHES: f32 = 0.1;
/// How many labels are taken for ones without an object, before anything is known.
const WITHOUT_OBJECT: f32 = 0.01;
/// So many labels of a class tell how often the detector misses it.
const ENOUGH: usize = 50;

/// The errors, the surest first.
///
/// A detection counts for as much as those of its score are right on these images, by the labels as they are: most of
/// them are right. Without a label, and of a detector that has not learned from the image, it counts for less: most such
/// detections are wrong, where those of its score often are.
pub fn label_errors(images: &[LabelledImage<'_>]) -> Vec<LabelError> {
    let confidence = Confidence::of(images);
    let judged: Vec<Judged> = (images.iter())
        .map(|image| Judged::new(image, &confidence))
        .collect();
    let missed = Missed::of(images, &judged);
    let mut errors = Vec::new();
    for (place, (image, judged)) in images.iter().zip(&judged).enumerate() {
        let found = judged.errors(image, &missed);
        errors.extend(found.map(|error| LabelError {
            image: place,
            ..error
        }));
    }
    errors.sort_by(|a, b| b.suspicion.total_cmp(&a.suspicion));
    errors
}

/// A detection beside a label.
#[derive(Clone, Copy)]
struct Beside {
    detection: Detection,
    confidence: f32,
    overlap: f32,
}

impl Beside {
    /// How much it speaks for an object where the label is.
    fn support(&self) -> f32 {
        self.confidence * ramp(self.overlap, 0.4, 0.7)
    }
}

/// What an image's detections say of its labels.
struct Judged {
    /// The detections, with how surely each is of an object if that has no label.
    detections: Vec<(Detection, f32)>,
    labels: Vec<LabelEvidence>,
}

/// What detections say of a label.
#[derive(Clone, Copy, Default)]
struct LabelEvidence {
    /// The detection of its class that supports it most, or is nearest.
    own: Option<Beside>,
    /// The detection of another class that supports it most.
    other: Option<Beside>,
    /// How much anything supports it.
    support: f32,
}

impl LabelEvidence {
    fn own_support(&self) -> f32 {
        self.own.map_or(0.0, |own| own.support())
    }
}

impl Judged {
    fn new(image: &LabelledImage<'_>, confidences: &Confidence) -> Self {
        let mut detections: Vec<(Detection, f32)> = (image.detections.iter())
            .map(|detection| (*detection, confidences.at(detection.score)))
            .collect();
        let labels = image.labels.iter().enumerate();
        let labels = labels.map(|(place, label)| evidence(image, &detections, (place, label)));
        let labels = labels.collect();
        if !image.learned {
            for (detection, confidence) in &mut detections {
                *confidence *= confidences.without_label(detection.score);
            }
        }
        Self { detections, labels }
    }

    fn errors(
        &self,
        image: &LabelledImage<'_>,
        missed: &Missed,
    ) -> impl Iterator<Item = LabelError> {
        let doubled = self.doubled(image);
        let mut errors: Vec<LabelError> = Vec::new();
        for (place, label) in image.labels.iter().enumerate() {
            if label.crowd {
                continue;
            }
            let explained = [doubled[place], self.other_class(place), self.moved(place)];
            let explained = explained.into_iter().flatten();
            let explained = explained.max_by(|a, b| a.suspicion.total_cmp(&b.suspicion));
            // What explains a label leaves less to be explained by there being no object.
            let mut no_object = self.no_object(place, missed.share(label.class));
            no_object.suspicion *= 1.0 - explained.map_or(0.0, |it| it.suspicion);
            let candidates = explained.into_iter().chain([no_object]);
            errors.extend(candidates.max_by(|a, b| a.suspicion.total_cmp(&b.suspicion)));
        }
        let moved: Vec<Detection> = (errors.iter())
            .filter(|error| error.kind == LabelErrorKind::Moved)
            .filter_map(|error| error.detection)
            .collect();
        let missing = self.missing(image);
        errors
            .extend(missing.filter(|error| error.detection.is_none_or(|it| !moved.contains(&it))));
        errors.into_iter().filter(|error| error.suspicion > 0.0)
    }

    /// Of each label, whether it is one of two: the one that less speaks for, the later where that is equal.
    fn doubled(&self, image: &LabelledImage<'_>) -> Vec<Option<LabelError>> {
        let mut doubled = vec![None; image.labels.len()];
        for (later, label) in image.labels.iter().enumerate() {
            for (earlier, other) in image.labels[..later].iter().enumerate() {
                let overlap = label.bbox.iou(&other.bbox);
                let same = label.class == other.class && !label.crowd && !other.crowd;
                if !same || overlap < DOUBLED {
                    continue;
                }
                let supports = [later, earlier].map(|it| self.labels[it].own_support());
                let ([suspect, stays], support) = match supports[0].total_cmp(&supports[1]) {
                    Ordering::Greater => ([earlier, later], supports[0]),
                    _ => ([later, earlier], supports[1]),
                };
                let is_one = UNSUPPORTED_DOUBLE + (1.0 - UNSUPPORTED_DOUBLE) * support;
                let suspicion = ramp(overlap, 0.5, 0.8) * is_one;
                doubled[suspect] = Some(LabelError {
                    other: Some(stays),
                    ..of_label(LabelErrorKind::Doubled, suspect, suspicion)
                });
            }
        }
        doubled
    }

    fn other_class(&self, label: usize) -> Option<LabelError> {
        let evidence = &self.labels[label];
        let other = evidence.other?;
        let suspicion = other.support() * (1.0 - evidence.own_support());
        Some(LabelError {
            detection: Some(other.detection),
            ..of_label(LabelErrorKind::OtherClass, label, suspicion)
        })
    }

    fn moved(&self, label: usize) -> Option<LabelError> {
        let own = self.labels[label]
            .own
            .filter(|own| own.overlap >= TOUCHES)?;
        let suspicion = own.confidence * (1.0 - ramp(own.overlap, 0.4, 0.7));
        Some(LabelError {
            detection: Some(own.detection),
            ..of_label(LabelErrorKind::Moved, label, suspicion)
        })
    }

    /// `missed`: the share of labels of the class that nothing supports.
    fn no_object(&self, label: usize, missed: f32) -> LabelError {
        let unsupported = 1.0 - ramp(self.labels[label].support, 0.0, 0.5);
        let suspicion = unsupported * (WITHOUT_OBJECT / missed).min(1.0);
        of_label(LabelErrorKind::NoObject, label, suspicion)
    }

    /// Detections of what has no label, of each place the best.
    fn missing(&self, image: &LabelledImage<'_>) -> impl Iterator<Item = LabelError> {
        let mut best_first: Vec<_> = self.detections.iter().collect();
        best_first.sort_by(|a, b| b.0.score.total_cmp(&a.0.score));
        let mut told: Vec<BoundingBox> = Vec::new();
        let mut missing = Vec::new();
        for (detection, confidence) in best_first {
            if told
                .iter()
                .any(|bbox| bbox.iou(&detection.bbox) >= LABELLED)
            {
                continue;
            }
            told.push(detection.bbox);
            let suspicion = confidence * (1.0 - nearest_label(image, &detection.bbox));
            missing.push(LabelError {
                image: 0,
                kind: LabelErrorKind::Missing,
                suspicion,
                label: None,
                other: None,
                detection: Some(*detection),
            });
        }
        missing.into_iter()
    }
}

/// How surely a box has a label, in `[0, 1]`; what is inside a crowd has.
fn nearest_label(image: &LabelledImage<'_>, bbox: &BoundingBox) -> f32 {
    let labels = image.labels.iter().map(|label| {
        if label.crowd && label.bbox.intersection(bbox) >= 0.5 * bbox.area() {
            return 1.0;
        }
        ramp(label.bbox.iou(bbox), UNLABELLED, LABELLED)
    });
    labels.fold(0.0, f32::max)
}

fn evidence(
    image: &LabelledImage<'_>,
    detections: &[(Detection, f32)],
    (place, label): (usize, &GroundTruth),
) -> LabelEvidence {
    let mut evidence = LabelEvidence::default();
    for (detection, confidence) in detections {
        let beside = Beside {
            detection: *detection,
            confidence: *confidence,
            overlap: label.bbox.iou(&detection.bbox),
        };
        if beside.overlap == 0.0 {
            continue;
        }
        let support = beside.support();
        evidence.support = evidence.support.max(support);
        if detection.class != label.class {
            let best = evidence.other.map_or(0.0, |other| other.support());
            if support > best {
                evidence.other = Some(beside);
            }
        } else if is_nearest(image, place, &detection.bbox, detection.class) {
            // The most supporting, or of those that support nothing the nearest sure one.
            let weight = |it: &Beside| (it.support(), it.confidence * it.overlap);
            if evidence
                .own
                .is_none_or(|own| weight(&beside) > weight(&own))
            {
                evidence.own = Some(beside);
            }
        }
    }
    evidence
}

/// Whether no other label of the class is nearer to a detection.
fn is_nearest(image: &LabelledImage<'_>, place: usize, bbox: &BoundingBox, class: ClassId) -> bool {
    let overlap = image.labels[place].bbox.iou(bbox);
    let others = image.labels.iter().enumerate();
    let mut others = others.filter(|(other, label)| *other != place && label.class == class);
    others.all(|(_, label)| label.bbox.iou(bbox) <= overlap)
}

/// How often the detector predicts nothing where a label is.
struct Missed {
    of_all: f32,
    /// Of classes with enough labels.
    of_classes: Vec<Option<f32>>,
}

impl Missed {
    fn of(images: &[LabelledImage<'_>], judged: &[Judged]) -> Self {
        let classes = (images.iter().flat_map(|image| image.labels))
            .map(|label| label.class.index() + 1)
            .max();
        let mut counts = vec![[0_usize; 2]; classes.unwrap_or(0)];
        for (image, judged) in images.iter().zip(judged) {
            for (label, evidence) in image.labels.iter().zip(&judged.labels) {
                if label.crowd {
                    continue;
                }
                let [all, missed] = &mut counts[label.class.index()];
                *all += 1;
                *missed += usize::from(evidence.support < 0.2);
            }
        }
        let share = |[all, missed]: [usize; 2]| missed.max(1) as f32 / all.max(1) as f32;
        let all = (counts.iter()).fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
        let of_classes = counts.iter().map(|counts| {
            let [all, _] = *counts;
            (all >= ENOUGH).then(|| share(*counts))
        });
        Self {
            of_all: share(all),
            of_classes: of_classes.collect(),
        }
    }

    fn share(&self, class: ClassId) -> f32 {
        let of_class = self.of_classes.get(class.index()).copied().flatten();
        of_class.unwrap_or(self.of_all)
    }
}

fn of_label(kind: LabelErrorKind, label: usize, suspicion: f32) -> LabelError {
    LabelError {
        image: 0,
        kind,
        suspicion,
        label: Some(label),
        other: None,
        detection: None,
    }
}

/// From 0 at `low` to 1 at `high`.
fn ramp(value: f32, low: f32, high: f32) -> f32 {
    ((value - low) / (high - low)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(x: f32, class: u32) -> GroundTruth {
        GroundTruth {
            bbox: BoundingBox::new(x, 0.0, x + 10.0, 10.0),
            class: ClassId(class),
            crowd: false,
        }
    }

    fn detection(x: f32, class: u32, score: f32) -> Detection {
        Detection {
            bbox: BoundingBox::new(x, 0.0, x + 10.0, 10.0),
            class: ClassId(class),
            score,
        }
    }

    /// Many images of a detector that is nearly always right, and one more.
    fn errors_of(labels: &[GroundTruth], detections: &[Detection]) -> Vec<LabelError> {
        let good_labels = [label(0.0, 0), label(50.0, 1)];
        let good = [
            detection(0.5, 0, 0.9),
            detection(50.0, 1, 0.8),
            detection(90.0, 1, 0.1),
        ];
        let mut images = vec![
            LabelledImage {
                labels: &good_labels,
                detections: &good,
                learned: false,
            };
            60
        ];
        images.push(LabelledImage {
            labels,
            detections,
            learned: false,
        });
        let errors = label_errors(&images).into_iter();
        errors.filter(|error| error.image == 60).collect()
    }

    #[test]
    fn each_kind_is_told() {
        use LabelErrorKind::{Doubled, Missing, Moved, NoObject, OtherClass};
        let good = detection(0.0, 0, 0.9);
        for (labels, detections, kind, place) in [
            (vec![], vec![good], Missing, None),
            (
                vec![label(0.0, 0), label(1.0, 0)],
                vec![good],
                Doubled,
                Some(1),
            ),
            (vec![label(0.0, 1)], vec![good], OtherClass, Some(0)),
            (vec![label(5.0, 0)], vec![good], Moved, Some(0)),
            (
                vec![label(0.0, 0), label(30.0, 0)],
                vec![good],
                NoObject,
                Some(1),
            ),
        ] {
            let errors = errors_of(&labels, &detections);
            let first = errors[0];
            assert_eq!((first.kind, first.label), (kind, place), "{errors:?}");
            assert!(first.suspicion > 0.6, "{errors:?}");
            let others = errors[1..].iter();
            assert!(others.clone().all(|it| it.suspicion < 0.3), "{errors:?}");
        }
    }

    #[test]
    fn doubles_are_surer_where_their_object_is_predicted() {
        let doubled = [label(0.0, 0), label(0.5, 0)];
        let suspicion = |detections: &[Detection]| {
            let errors = errors_of(&doubled, detections).into_iter();
            let mut doubles = errors.filter(|error| error.kind == LabelErrorKind::Doubled);
            doubles.next().unwrap().suspicion
        };
        assert!(suspicion(&[detection(0.0, 0, 0.9)]) > 0.9);
        assert_eq!(suspicion(&[]), UNSUPPORTED_DOUBLE);
    }

    /// Three of four detections with a score of a half are wrong: of those without a label few are of an object.
    #[test]
    fn what_is_often_wrong_is_missing_only_to_a_detector_that_learned_otherwise() {
        let labels = [label(0.0, 0), label(50.0, 0)];
        let detections = [
            detection(0.0, 0, 0.9),
            detection(50.0, 0, 0.5),
            detection(100.0, 0, 0.5),
            detection(150.0, 0, 0.5),
            detection(200.0, 0, 0.5),
        ];
        let suspicion = |learned| {
            let image = LabelledImage {
                labels: &labels,
                detections: &detections,
                learned,
            };
            let errors = label_errors(&vec![image; 60]).into_iter();
            let mut missing = errors.filter(|error| error.kind == LabelErrorKind::Missing);
            missing.next().unwrap().suspicion
        };
        // Of 60 sure ones all are right, so that one in 61 objects lacks its label at most.
        let share = 0.25;
        assert!(
            (suspicion(true) - share).abs() < 0.01,
            "{}",
            suspicion(true)
        );
        let expected = share * (1.0 / 60.0) * share / (1.0 - share);
        assert!((suspicion(false) - expected).abs() < 0.01 * expected);
    }

    #[test]
    fn what_is_as_predicted_is_no_error() {
        let labels = [label(0.0, 0), label(12.0, 1)];
        let detections = [detection(1.0, 0, 0.9), detection(12.0, 1, 0.85)];
        let errors = errors_of(&labels, &detections);
        assert!(errors.iter().all(|it| it.suspicion < 0.1), "{errors:?}");
    }

    /// Low scores are mostly wrong on the other images, and what a crowd holds needs no label.
    #[test]
    fn unsure_detections_and_those_in_crowds_are_not_missing() {
        let crowd = GroundTruth {
            crowd: true,
            ..label(0.0, 0)
        };
        for (labels, detection) in [
            (vec![], detection(0.0, 1, 0.1)),
            (vec![crowd], detection(0.0, 0, 0.9)),
        ] {
            let errors = errors_of(&labels, &[detection]);
            assert!(errors.iter().all(|it| it.suspicion < 0.1), "{errors:?}");
        }
    }
}
