//! Analyses of random boxes against the plainest code that says the same.

use proptest::prelude::*;
use retinanet_boxes::{CategoryId, ImageId};
use retinanet_evaluation::{Analysis, ClassAnalysis, CocoDetection, ImageAnalysis};

use crate::support::{Object, detection, evaluator};

const IMAGES: u64 = 3;
const CLASSES: u64 = 3;
const SCORE: f64 = 0.5;

/// What pycocotools' `evaluateImg` says at an `IoU` of 0.5: for each detection, by falling score,
/// its score and whether it is right, and for each object whether it is found. Crowds and what lies
/// on them are left out.
fn matched(
    objects: &[Object],
    detections: &[CocoDetection],
    image: u64,
    class: u64,
) -> (Vec<(f64, bool)>, Vec<bool>) {
    let here = objects
        .iter()
        .filter(|it| (it.image, it.class) == (image, class));
    let (crowds, objects): (Vec<&Object>, Vec<&Object>) = here.partition(|it| it.crowd);
    let mut found = vec![false; objects.len()];
    let mut judged = Vec::new();
    let mut detections: Vec<_> = detections
        .iter()
        .filter(|it| (it.image_id, it.category_id) == (ImageId(image), CategoryId(class)))
        .collect();
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    for detection in detections {
        let mut best = None;
        let mut highest = 0.5;
        for (index, object) in objects.iter().enumerate() {
            let overlap = shared(detection.bbox, object.bbox);
            let iou = overlap / (area(detection.bbox) + area(object.bbox) - overlap);
            if !found[index] && iou >= highest {
                (best, highest) = (Some(index), iou);
            }
        }
        let on_crowd = crowds
            .iter()
            .any(|crowd| shared(detection.bbox, crowd.bbox) / area(detection.bbox) >= 0.5);
        if let Some(best) = best {
            found[best] = true;
            judged.push((detection.score, true));
        } else if !on_crowd {
            judged.push((detection.score, false));
        }
    }
    (judged, found)
}

fn area([_, _, width, height]: [f64; 4]) -> f64 {
    width * height
}

fn shared(a: [f64; 4], b: [f64; 4]) -> f64 {
    let along = |axis: usize| {
        let end = (a[axis] + a[axis + 2]).min(b[axis] + b[axis + 2]);
        (end - a[axis].max(b[axis])).max(0.0)
    };
    along(0) * along(1)
}

fn check_image(image: &ImageAnalysis, objects: &[Object], detections: &[CocoDetection]) {
    let (mut right, mut wrong, mut all, mut judged_count, mut found_count) = (0, 0, 0, 0, 0);
    for class in 1..=CLASSES {
        let (judged, found) = matched(objects, detections, image.image_id.0, class);
        right += judged.iter().filter(|it| it.0 >= SCORE && it.1).count();
        wrong += judged.iter().filter(|it| it.0 >= SCORE && !it.1).count();
        all += found.len();
        found_count += found.iter().filter(|&&it| it).count();
        judged_count += judged.len();
        let of_class = image.detections.iter();
        let of_class: Vec<_> = of_class
            .filter(|it| it.detection.category_id == CategoryId(class))
            .map(|it| (it.detection.score, it.right))
            .collect();
        assert_eq!(of_class, judged);
    }
    assert_eq!(
        (image.right, image.wrong, image.missed),
        (right, wrong, all - right)
    );
    let f1 = if right + wrong + all == 0 {
        1.0
    } else {
        2.0 * right as f64 / (right + wrong + all) as f64
    };
    assert!((image.f1 - f1).abs() < 1e-12);
    assert_eq!(
        (image.detections.len(), image.objects.len()),
        (judged_count, all)
    );
    let found = image.objects.iter().filter(|it| it.found.is_some());
    assert_eq!(found.count(), found_count);
}

fn check_class(class: &ClassAnalysis, objects: &[Object], detections: &[CocoDetection]) {
    let mut judged = Vec::new();
    let mut count = 0;
    for image in 1..=IMAGES {
        let (of_image, found) = matched(objects, detections, image, class.category_id.0);
        judged.extend(of_image);
        count += found.len();
    }
    assert_eq!((class.objects, class.detections), (count, judged.len()));
    if count == 0 {
        assert!(class.precision.is_empty() && class.best.is_none() && class.ap50 < 0.0);
        return;
    }
    check_curve(class, judged.clone(), count);
    // F1 at every score there is.
    let f1 = |score: f64| {
        let counted: Vec<_> = judged.iter().filter(|it| it.0 >= score).collect();
        let right = counted.iter().filter(|it| it.1).count();
        2.0 * right as f64 / (counted.len() + count) as f64
    };
    let best = judged.iter().map(|it| f1(it.0)).fold(0.0, f64::max);
    match class.best {
        None => assert!(best < 1e-12),
        Some(point) => {
            assert!((point.f1 - best).abs() < 1e-12);
            assert!((f1(point.score) - best).abs() < 1e-12);
            let (precision, recall) = (point.precision, point.recall);
            let harmonic = 2.0 * precision * recall / (precision + recall);
            assert!((point.f1 - harmonic).abs() < 1e-12);
        }
    }
}

/// The precision at a recall is the best at any point that reaches it.
fn check_curve(class: &ClassAnalysis, mut judged: Vec<(f64, bool)>, objects: usize) {
    judged.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut right = 0;
    let points: Vec<(f64, f64, f64)> = (1..)
        .zip(&judged)
        .map(|(counted, it)| {
            right += usize::from(it.1);
            let recall = right as f64 / objects as f64;
            (recall, right as f64 / f64::from(counted), it.0)
        })
        .collect();
    for recall in 0..=100 {
        let reached = f64::from(recall) / 100.0;
        let beyond = points.iter().filter(|point| point.0 >= reached - 1e-9);
        let precision = beyond.clone().map(|it| it.1).fold(0.0, f64::max);
        let score = beyond.map(|it| it.2).next().unwrap_or(0.0);
        let index = recall as usize;
        assert!((class.precision[index] - precision).abs() < 1e-9);
        // A recall of 0 is reached by any detection, even by one on a crowd.
        assert!(recall == 0 || (class.scores[index] - score).abs() < 1e-12);
    }
    let mean = class.precision.iter().sum::<f64>() / 101.0;
    assert!((class.ap50 - mean).abs() < 1e-12);
}

/// Every object stands in its class's row and every detection in its class's column.
fn check_confusion(analysis: &Analysis) {
    let counts = &analysis.confusion.counts;
    for (index, class) in analysis.classes.iter().enumerate() {
        assert_eq!(counts[index].iter().sum::<u64>(), class.objects as u64);
        let column: u64 = counts.iter().map(|row| row[index]).sum();
        let detections = analysis.images.iter().flat_map(|image| &image.detections);
        let counted = detections
            .filter(|it| it.detection.score >= SCORE)
            .filter(|it| it.detection.category_id == class.category_id);
        assert_eq!(column, counted.count() as u64);
    }
    assert_eq!(counts[analysis.classes.len()][analysis.classes.len()], 0);
}

fn bbox() -> impl Strategy<Value = [f64; 4]> {
    // Few places and sizes, so that many boxes overlap.
    let side = || prop_oneof![Just(20.0), Just(33.0), Just(50.0)];
    (0..5_u8, 0..5_u8, side(), side())
        .prop_map(|(x, y, width, height)| [f64::from(x) * 7.0, f64::from(y) * 7.0, width, height])
}

fn any_object() -> impl Strategy<Value = Object> {
    let crowd = prop::bool::weighted(0.2);
    (1..=IMAGES, 1..=CLASSES, bbox(), crowd).prop_map(|(image, class, bbox, crowd)| Object {
        image,
        class,
        bbox,
        crowd,
    })
}

fn any_detection() -> impl Strategy<Value = CocoDetection> {
    (1..=IMAGES, 1..=CLASSES, bbox(), 0..8_u8).prop_map(|(image, class, bbox, eighths)| {
        detection(image, class, bbox, f64::from(eighths) / 8.0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_analysis_is_what_brute_force_finds(
        objects in prop::collection::vec(any_object(), 0..15),
        detections in prop::collection::vec(any_detection(), 0..30),
    ) {
        let evaluator = evaluator(IMAGES, CLASSES, &objects);
        let analysis = evaluator.analyse(&detections, SCORE).unwrap();
        prop_assert_eq!(analysis.images.len(), 3);
        for image in &analysis.images {
            check_image(image, &objects, &detections);
        }
        for (class, metrics) in analysis.classes.iter().zip(&analysis.metrics.per_class) {
            check_class(class, &objects, &detections);
            prop_assert_eq!((class.ap, class.ap50), (metrics.ap, metrics.ap50));
        }
        check_confusion(&analysis);
    }
}
