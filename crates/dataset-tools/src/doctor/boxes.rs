//! Where boxes lie.

use std::collections::{HashMap, HashSet};

use retinanet_annotations::{Annotation, CocoFile, Image, RawBox};
use retinanet_boxes::BoundingBox;

use crate::doctor::report::Findings;
use crate::doctor::{Kind, Role};

/// How far over the border rounding may carry a box, in pixels: COCO writes two decimals.
const BORDER: f64 = 0.1;

/// How far the bounds of polygons may be from the box, in pixels.
const POLYGON_SLACK: f64 = 2.0;

/// From how many boxes on a habit can be told from an accident.
const FEWEST_CORNERS: usize = 4;

pub(super) fn check(coco: &CocoFile, role: Role, findings: &mut Findings) {
    let images = coco.images_by_id();
    let mut seen = HashMap::new();
    let mut objects = 0;
    for (index, annotation) in coco.annotations.records().iter().enumerate() {
        let id = annotation.id;
        let image = annotation.image.and_then(|image| images.get(&image));
        let file = image.map(|image| image.file_name.as_str());
        let verdict = judge(&annotation.bbox, size(image));
        objects += usize::from(verdict.is_usable() && !annotation.crowd);
        if let Some(detail) = area_contradiction(annotation, &verdict) {
            findings.add(Kind::AreaMismatch, id, file, || detail);
        }
        if let Some((kind, detail)) = verdict.fault() {
            findings.add(kind, id, file, || detail);
        }
        if let Some(key) = key(annotation)
            && let Some(first) = seen.insert(key, index)
        {
            findings.add(Kind::RepeatedBox, id, file, || {
                format!("`annotations[{index}]` repeats `annotations[{first}]`")
            });
        }
        if let Some(distance) = polygon_distance(annotation) {
            findings.add(Kind::PolygonMismatch, id, file, || {
                format!("the polygons end {distance:.1} px from the box")
            });
        }
    }
    if objects == 0 && coco.annotations.is_list() {
        let kind = match role {
            Role::Training => Kind::NothingToLearn,
            Role::Validation => Kind::NothingToMeasure,
        };
        let annotations = coco.annotations.records();
        let crowds = annotations.iter().filter(|it| it.crowd).count();
        findings.add(kind, None, None, || {
            format!("of {} annotations {crowds} are crowds", annotations.len())
        });
    }
    for annotation in normalised_boxes(coco) {
        findings.add(
            Kind::NormalisedBox,
            annotation.id,
            None,
            || match &annotation.bbox {
                RawBox::Numbers(numbers) => format!("{numbers:?}"),
                RawBox::Missing | RawBox::Malformed(_) => String::new(),
            },
        );
    }
    for annotation in corner_boxes(coco) {
        let image = annotation.image.and_then(|image| images.get(&image));
        let file = image.map(|image| image.file_name.as_str());
        findings.add(Kind::CornerBox, annotation.id, file, || {
            "outside as `[x, y, width, height]`, inside as `[x1, y1, x2, y2]`".into()
        });
    }
}

/// What a box is good for.
pub(super) enum Verdict {
    /// There is none.
    Missing,
    /// It is not four numbers; what it is instead.
    Malformed(String),
    NonFinite,
    Degenerate {
        width: f64,
        height: f64,
    },
    Outside,
    /// It reaches over the border by so many pixels.
    PartlyOutside(f64),
    Sound,
}

impl Verdict {
    /// Whether training learns the box.
    pub(super) const fn is_usable(&self) -> bool {
        matches!(self, Self::Sound | Self::PartlyOutside(_))
    }

    /// What to report.
    pub(super) fn fault(self) -> Option<(Kind, String)> {
        Some(match self {
            Self::Missing => (Kind::MissingBox, "it has no box".into()),
            Self::Malformed(found) => (Kind::MalformedBox, found),
            Self::NonFinite => (Kind::NonFiniteBox, "its box is not finite".into()),
            Self::Degenerate { width, height } => (
                Kind::DegenerateBox,
                format!("its box is {width} wide and {height} high"),
            ),
            Self::Outside => (
                Kind::OutsideBox,
                "its box lies wholly outside the image".into(),
            ),
            Self::PartlyOutside(distance) => (
                Kind::PartlyOutsideBox,
                format!("its box reaches {distance:.1} px outside the image"),
            ),
            Self::Sound => return None,
        })
    }
}

/// Judges a box as [`CocoDataset`](retinanet_data::CocoDataset) does, in its arithmetic, on an image of
/// this width and height, if they are known.
pub(super) fn judge(bbox: &RawBox, size: Option<(u32, u32)>) -> Verdict {
    let [x, y, width, height] = match bbox {
        RawBox::Missing => return Verdict::Missing,
        RawBox::Malformed(found) => return Verdict::Malformed(found.clone()),
        RawBox::Numbers(numbers) => *numbers,
    };
    let bbox = BoundingBox::from_xywh([x, y, width, height]);
    if !bbox.to_array().iter().all(|edge| edge.is_finite()) {
        return Verdict::NonFinite;
    }
    if !bbox.is_proper() {
        return Verdict::Degenerate { width, height };
    }
    let Some((image_width, image_height)) = size else {
        return Verdict::Sound;
    };
    if !(bbox.clip(image_width as f32, image_height as f32)).is_proper() {
        return Verdict::Outside;
    }
    let right = x + width - f64::from(image_width);
    let bottom = y + height - f64::from(image_height);
    let distance = (-x).max(-y).max(right).max(bottom);
    if distance > BORDER {
        Verdict::PartlyOutside(distance)
    } else {
        Verdict::Sound
    }
}

/// The image's size, if it is known.
pub(super) fn size(image: Option<&&Image>) -> Option<(u32, u32)> {
    image.and_then(|image| image.size.as_ref().ok().copied())
}

/// What two annotations share where one repeats the other.
pub(super) type Key = (u64, u64, bool, [u64; 4]);

/// What is the same in a repetition: image, category, whether it is a crowd, and the box.
pub(super) fn key(annotation: &Annotation) -> Option<Key> {
    let RawBox::Numbers(numbers) = annotation.bbox else {
        return None;
    };
    // Adding 0 makes −0 and 0 one.
    let bits = numbers.map(|number| (number + 0.0).to_bits());
    Some((
        annotation.image?,
        annotation.category?,
        annotation.crowd,
        bits,
    ))
}

/// How far the polygons' bounds are from the box, in pixels, where that is too far.
fn polygon_distance(annotation: &Annotation) -> Option<f64> {
    let RawBox::Numbers([x, y, width, height]) = annotation.bbox else {
        return None;
    };
    let edges = [x, y, x + width, y + height];
    let distance = (annotation.polygons.as_ref()?.iter().zip(edges))
        .map(|(bound, edge)| (bound - edge).abs())
        .fold(0.0, f64::max);
    (distance > POLYGON_SLACK && distance.is_finite()).then_some(distance)
}

/// How the area contradicts the box: it is larger than the box, or, where no mask is drawn, much
/// smaller.
pub(super) fn area_contradiction(annotation: &Annotation, verdict: &Verdict) -> Option<String> {
    // Some count the pixels at both edges; masks are rounded.
    const SLACK: f64 = 1.1;
    let (Some(area), RawBox::Numbers([.., width, height])) = (annotation.area, &annotation.bbox)
    else {
        return None;
    };
    let largest = SLACK * (width + 1.0) * (height + 1.0);
    let smallest = if annotation.has_mask {
        0.0
    } else {
        width * height / 2.0
    };
    (verdict.is_usable() && !(smallest..=largest).contains(&area))
        .then(|| format!("`area` is {area}, its box {width} × {height}"))
}

/// The boxes whose numbers all lie between 0 and 1, if nearly all do.
pub(super) fn normalised_boxes(coco: &CocoFile) -> Vec<&Annotation> {
    let (mut boxes, mut suspects) = (0, Vec::new());
    for annotation in coco.annotations.records() {
        let RawBox::Numbers(numbers) = annotation.bbox else {
            continue;
        };
        boxes += 1;
        let [.., width, height] = numbers;
        if numbers.iter().all(|number| (0.0..=1.0).contains(number)) && width > 0.0 && height > 0.0
        {
            suspects.push(annotation);
        }
    }
    if 10 * suspects.len() >= 9 * boxes {
        suspects
    } else {
        Vec::new()
    }
}

/// The boxes that lie outside their image as `[x, y, width, height]` and inside as `[x1, y1, x2,
/// y2]`; nothing unless most boxes do, and nearly all would fit the second way.
pub(super) fn corner_boxes(coco: &CocoFile) -> Vec<&Annotation> {
    let images = coco.images_by_id();
    let (mut boxes, mut fitting) = (0, 0);
    let mut suspects = Vec::new();
    for annotation in coco.annotations.records() {
        let image = annotation.image.and_then(|image| images.get(&image));
        let (RawBox::Numbers([a, b, c, d]), Some((width, height))) =
            (&annotation.bbox, size(image))
        else {
            continue;
        };
        let (right, bottom) = (f64::from(width) + BORDER, f64::from(height) + BORDER);
        boxes += 1;
        let inside =
            *a >= -BORDER && *b >= -BORDER && a < c && b < d && *c <= right && *d <= bottom;
        if inside {
            fitting += 1;
            if a + c > right || b + d > bottom {
                suspects.push(annotation);
            }
        }
    }
    // One in ten may be wrong in some other way.
    let habit =
        suspects.len() >= FEWEST_CORNERS && 2 * suspects.len() > boxes && 10 * fitting >= 9 * boxes;
    if habit { suspects } else { Vec::new() }
}

/// Repetitions, told as they come.
#[derive(Default)]
pub(super) struct Repetitions(HashSet<Key>);

impl Repetitions {
    /// Whether an annotation repeats an earlier one.
    pub(super) fn repeats(&mut self, annotation: &Annotation) -> bool {
        key(annotation).is_some_and(|key| !self.0.insert(key))
    }
}
