//! Analyses worked by hand.

use retinanet_boxes::{CategoryId, ImageId};
use retinanet_evaluation::{
    Analysis, CocoDetection, Confusion, Evaluator, ImageAnalysis, Metrics, OperatingPoint,
};

use crate::support::{BOX, assert_close, crowd, detection, evaluator, object};

/// A box that covers 3/10 of [`BOX`].
const PART: [f64; 4] = [0.0, 0.0, 30.0, 100.0];

/// Each kind of error of class 1 on an image of its own; class 2 has no objects.
fn errors() -> (Evaluator, Vec<CocoDetection>) {
    let objects = [1, 2, 3, 4, 6].map(|image| object(image, 1, BOX));
    let detections = vec![
        // Another class's object, well located.
        detection(1, 2, BOX, 0.85),
        // The right class, badly located.
        detection(2, 1, PART, 0.6),
        // Another class's object, badly located.
        detection(3, 2, PART, 0.5),
        // An object that is found twice.
        detection(4, 1, BOX, 0.9),
        detection(4, 1, BOX, 0.7),
        // Nothing there.
        detection(5, 1, BOX, 0.95),
        // The object of image 6 is missed.
    ];
    (evaluator(6, 2, &objects), detections)
}

fn analysis(score: f64) -> Analysis {
    let (evaluator, detections) = errors();
    evaluator.analyse(&detections, score).unwrap()
}

fn without_detections(evaluator: &Evaluator) -> Analysis {
    evaluator.analyse(&[], 0.5).unwrap()
}

fn ids(images: &[ImageAnalysis]) -> Vec<u64> {
    images.iter().map(|image| image.image_id.0).collect()
}

#[test]
fn the_metrics_are_those_of_an_evaluation() {
    let (evaluator, detections) = errors();
    let metrics: Metrics = evaluator.evaluate(&detections).unwrap();
    assert_eq!(
        evaluator.analyse(&detections, 0.5).unwrap().metrics,
        metrics
    );
}

#[test]
fn a_class_seen_closely() {
    let analysis = analysis(0.5);
    let class = &analysis.classes[0];
    assert_eq!(class.category_id, CategoryId(1));
    assert_eq!(class.name, "class 1");
    assert_eq!((class.objects, class.detections), (5, 4));
    // By score: wrong, right, wrong, wrong. Recall is 1/5 at precision 1/2, which 21 of the 101
    // recalls are up to; it holds at every IoU.
    for ap in [class.ap, class.ap50, class.ap75, class.ap_large] {
        assert_close(ap, 21.0 * 0.5 / 101.0);
    }
    assert_close(class.ap_small, -1.0);
    assert_close(class.ap_medium, -1.0);
    assert_close(class.ar100, 0.2);
    for recall in 0..101 {
        let reached = recall <= 20;
        assert_close(class.precision[recall], if reached { 0.5 } else { 0.0 });
        // The first detection, which is wrong, reaches a recall of 0.
        let score = if recall == 0 { 0.95 } else { 0.9 };
        assert_close(class.scores[recall], if reached { score } else { 0.0 });
    }
    assert_eq!(class.precision.len(), 101);
    assert_eq!(class.scores.len(), 101);
    let expected = OperatingPoint {
        score: 0.9,
        precision: 0.5,
        recall: 0.2,
        f1: 2.0 / 7.0,
    };
    assert_eq!(class.best, Some(expected));
}

#[test]
fn a_class_without_objects_is_undefined() {
    let class = &analysis(0.5).classes[1];
    assert_eq!((class.objects, class.detections), (0, 2));
    for ap in [
        class.ap,
        class.ap50,
        class.ap75,
        class.ap_large,
        class.ar100,
    ] {
        assert_close(ap, -1.0);
    }
    assert!(class.precision.is_empty());
    assert!(class.scores.is_empty());
    assert_eq!(class.best, None);
}

#[test]
fn detections_of_equal_score_count_together() {
    let evaluator = evaluator(1, 1, &[object(1, 1, BOX)]);
    let elsewhere = [500.0, 500.0, 10.0, 10.0];
    let detections = [
        detection(1, 1, BOX, 0.5),
        detection(1, 1, elsewhere, 0.5),
        detection(1, 1, elsewhere, 0.4),
    ];
    let analysis = evaluator.analyse(&detections, 0.5).unwrap();
    let expected = OperatingPoint {
        score: 0.5,
        precision: 0.5,
        recall: 1.0,
        f1: 2.0 / 3.0,
    };
    assert_eq!(analysis.classes[0].best, Some(expected));
}

#[test]
fn of_two_best_scores_the_higher_is_taken() {
    let objects = [1, 2].map(|image| object(image, 1, BOX));
    let elsewhere = [500.0, 500.0, 10.0, 10.0];
    let detections = [
        detection(1, 1, BOX, 0.9),
        detection(1, 1, elsewhere, 0.8),
        detection(2, 1, elsewhere, 0.7),
        detection(2, 1, BOX, 0.6),
    ];
    // F1 is 2/3 with the first, and with all four.
    let analysis = evaluator(2, 1, &objects).analyse(&detections, 0.0).unwrap();
    assert_close(analysis.classes[0].best.unwrap().score, 0.9);
}

#[test]
fn each_kind_of_error_is_counted_and_mended() {
    let errors = analysis(0.5).errors;
    let counts = [
        errors.classification,
        errors.localization,
        errors.both,
        errors.duplicate,
        errors.background,
        errors.missed,
    ]
    .map(|part| part.count);
    // What is confused or badly located is not missed as well, but for the object of `both`.
    assert_eq!(counts, [1, 1, 1, 1, 1, 2]);

    // AP is 21 points of precision 1/2 as it is.
    let gain = |points: f64| (points - 21.0 * 0.5) / 101.0;
    // Wrong, right, right: precision 2/3 up to a recall of 2/5.
    assert_close(errors.classification.ap, gain(41.0 * 2.0 / 3.0));
    // Wrong, right, wrong, right: precision 1/2 up to a recall of 2/5.
    assert_close(errors.localization.ap, gain(41.0 * 0.5));
    // A class without objects has no AP.
    assert_close(errors.both.ap, 0.0);
    // Nothing right comes after the duplicate.
    assert_close(errors.duplicate.ap, 0.0);
    // Right comes first.
    assert_close(errors.background.ap, gain(21.0));
    // Of 5 objects 3 are left; 34 recalls are up to 1/3.
    assert_close(errors.missed.ap, gain(34.0 * 0.5));
    assert_close(errors.false_positives, gain(21.0));
    // The object that is found is all there is.
    assert_close(errors.false_negatives, gain(101.0 * 0.5));
}

#[test]
fn classes_are_confused() {
    let names = vec!["class 1".to_owned(), "class 2".to_owned()];
    assert_eq!(
        analysis(0.0).confusion,
        Confusion {
            names: names.clone(),
            counts: vec![vec![1, 1, 3], vec![0, 0, 0], vec![3, 1, 0]],
        }
    );
    assert_eq!(
        analysis(0.85).confusion,
        Confusion {
            names,
            counts: vec![vec![1, 1, 3], vec![0, 0, 0], vec![1, 0, 0]],
        }
    );
}

#[test]
fn a_score_is_the_share_that_is_right() {
    let calibration = analysis(0.5).calibration.unwrap();
    assert_eq!(calibration.bins.len(), 10);
    let expected = [
        (5, 1, 0.5, 0.0),
        (6, 1, 0.6, 0.0),
        (7, 1, 0.7, 0.0),
        (8, 1, 0.85, 0.0),
        (9, 2, 0.925, 0.5),
    ];
    for (bin, detections, score, precision) in expected {
        let found = calibration.bins[bin];
        assert_close(found.from, bin as f64 / 10.0);
        assert_close(found.to, (bin + 1) as f64 / 10.0);
        assert_eq!(found.detections, detections);
        assert_close(found.score, score);
        assert_close(found.precision, precision);
    }
    assert!(calibration.bins[..5].iter().all(|bin| bin.detections == 0));
    assert_close(
        calibration.error,
        (0.5 + 0.6 + 0.7 + 0.85 + 2.0 * 0.425) / 6.0,
    );
    assert_close(calibration.worst, 0.85);
}

#[test]
fn scores_that_are_no_shares_are_not_calibrated() {
    let (evaluator, mut detections) = errors();
    for score in [-0.5, 1.5] {
        detections[0].score = score;
        let analysis = evaluator.analyse(&detections, 0.5).unwrap();
        assert_eq!(analysis.calibration, None);
        assert_eq!(analysis.errors.classification.count, 1);
    }
    detections[0].score = 1.0;
    let analysis = evaluator.analyse(&detections, 0.5).unwrap();
    assert_eq!(analysis.calibration.unwrap().bins[9].detections, 3);
}

#[test]
fn the_worst_image_comes_first() {
    let images = analysis(0.75).images;
    assert_eq!(ids(&images), [1, 2, 3, 5, 6, 4]);
    let counts: Vec<_> = images
        .iter()
        .map(|image| (image.right, image.wrong, image.missed, image.f1))
        .collect();
    assert_eq!(
        counts,
        [
            (0, 1, 1, 0.0),
            (0, 0, 1, 0.0),
            (0, 0, 1, 0.0),
            (0, 1, 0, 0.0),
            (0, 0, 1, 0.0),
            (1, 0, 0, 1.0),
        ]
    );
    assert_eq!(images[0].file_name, "1.jpg");
}

#[test]
fn an_image_holds_its_detections_and_objects() {
    // A score counts that is equal; one that is below is judged all the same.
    let images = analysis(0.9).images;
    let image = images.iter().find(|it| it.image_id == ImageId(4)).unwrap();
    assert_eq!((image.right, image.wrong, image.missed), (1, 0, 0));
    let judged: Vec<_> = image
        .detections
        .iter()
        .map(|judged| (judged.detection.score, judged.right))
        .collect();
    assert_eq!(judged, [(0.9, true), (0.7, false)]);
    assert_eq!(image.objects[0].category_id, CategoryId(1));
    assert_eq!(image.objects[0].bbox, BOX);
    assert_eq!(image.objects[0].found, Some(0.9));

    let images = analysis(0.91).images;
    let image = images.iter().find(|it| it.image_id == ImageId(4)).unwrap();
    assert_eq!((image.right, image.wrong, image.missed), (0, 0, 1));
    assert_eq!(image.objects[0].found, Some(0.9));
    let missed = images.iter().find(|it| it.image_id == ImageId(6)).unwrap();
    assert_eq!(missed.objects[0].found, None);
}

#[test]
fn nothing_found_where_nothing_is_is_perfect() {
    let image = &without_detections(&evaluator(1, 1, &[])).images[0];
    assert_close(image.f1, 1.0);
    assert_eq!((image.right, image.wrong, image.missed), (0, 0, 0));
}

#[test]
fn what_lies_on_a_crowd_is_left_out() {
    let aside = [200.0, 0.0, 200.0, 200.0];
    let evaluator = evaluator(1, 1, &[object(1, 1, BOX), crowd(1, 1, aside)]);
    let detections = [
        detection(1, 1, BOX, 0.9),
        detection(1, 1, aside, 0.8),
        detection(1, 1, [200.0, 0.0, 20.0, 20.0], 0.7),
        detection(1, 1, [0.0, 500.0, 20.0, 20.0], 0.6),
    ];
    let analysis = evaluator.analyse(&detections, 0.0).unwrap();
    let class = &analysis.classes[0];
    assert_eq!((class.objects, class.detections), (1, 2));
    assert_eq!(analysis.confusion.counts, [[1, 0], [1, 0]]);
    let image = &analysis.images[0];
    assert_eq!((image.right, image.wrong, image.missed), (1, 1, 0));
    assert_eq!((image.objects.len(), image.detections.len()), (1, 2));
    let bins = analysis.calibration.unwrap().bins;
    assert_eq!(bins.iter().map(|bin| bin.detections).sum::<usize>(), 2);
    assert_eq!(analysis.errors.background.count, 1);
}

#[test]
fn the_100_best_of_an_image_and_class_count() {
    let mut detections = Vec::new();
    for index in 0..101 {
        let score = f64::from(index) / 1000.0;
        detections.push(detection(1, 1, BOX, score));
        detections.push(detection(1, 2, BOX, score));
    }
    let analysis = evaluator(1, 2, &[object(1, 1, BOX)])
        .analyse(&detections, 0.0)
        .unwrap();
    assert_eq!(analysis.classes[0].detections, 100);
    assert_eq!(analysis.classes[1].detections, 100);
    assert_eq!(analysis.images[0].detections.len(), 200);
    assert_close(analysis.images[0].detections[199].detection.score, 0.001);
    let counts = analysis.confusion.counts.iter().flatten();
    assert_eq!(counts.sum::<u64>(), 200);
}

#[test]
fn only_the_images_asked_for_count() {
    let (evaluator, detections) = errors();
    let on = |images: &[u64]| {
        let images: Vec<ImageId> = images.iter().copied().map(ImageId).collect();
        evaluator.analyse_images(&detections, &images, 0.0).unwrap()
    };
    let analysis = on(&[4, 1, 4]);
    assert_eq!(ids(&analysis.images), [1, 4]);
    assert_eq!(analysis.confusion.counts, [[1, 1, 0], [0, 0, 0], [1, 0, 0]]);
    assert_eq!(analysis.classes[0].objects, 2);
    assert_eq!(analysis.errors.duplicate.count, 1);
    assert_eq!(analysis.errors.background.count, 0);
    assert_eq!(on(&[1, 2, 3, 4, 5, 6]), self::analysis(0.0));
    assert!(
        evaluator
            .analyse_images(&detections, &[ImageId(7)], 0.0)
            .is_err()
    );
}

#[test]
fn without_images_nothing_is_defined() {
    let (evaluator, detections) = errors();
    let nothing = evaluator.analyse_images(&detections, &[], 0.5).unwrap();
    assert_close(nothing.metrics.ap, -1.0);
    assert_eq!(nothing.images, []);
    assert_eq!(nothing.classes.len(), 2);
    assert_close(nothing.classes[0].ap, -1.0);
    assert_eq!(nothing.confusion.counts, vec![vec![0; 3]; 3]);
    assert_eq!(nothing.errors.missed.count, 0);

    let no_classes = without_detections(&self::evaluator(0, 0, &[]));
    assert_eq!(no_classes.classes, []);
    assert_eq!(no_classes.confusion.counts, [[0]]);
}

#[test]
fn no_detections_miss_everything() {
    let (evaluator, _) = errors();
    let analysis = without_detections(&evaluator);
    let class = &analysis.classes[0];
    assert_eq!((class.objects, class.detections), (5, 0));
    assert_close(class.ap, 0.0);
    assert_eq!(class.precision, [0.0; 101]);
    assert_eq!(class.best, None);
    assert_eq!(analysis.confusion.counts[0], [0, 0, 5]);
    assert_eq!(analysis.errors.missed.count, 5);
    assert_close(analysis.calibration.unwrap().error, 0.0);
}

#[test]
fn without_objects_every_detection_is_wrong() {
    let evaluator = evaluator(1, 1, &[]);
    let analysis = evaluator
        .analyse(&[detection(1, 1, BOX, 0.9)], 0.5)
        .unwrap();
    assert_close(analysis.metrics.ap, -1.0);
    assert_eq!(analysis.images[0].wrong, 1);
    assert_close(analysis.images[0].f1, 0.0);
    assert_eq!(analysis.errors.background.count, 1);
}

#[test]
fn an_analysis_survives_being_written_and_read() {
    let analysis = analysis(0.5);
    let text = serde_json::to_string(&analysis).unwrap();
    assert_eq!(serde_json::from_str::<Analysis>(&text).unwrap(), analysis);
}

#[test]
fn an_analysis_is_shown_in_tables() {
    let analysis = analysis(0.75);
    assert_eq!(
        analysis.class_table(),
        "class    objects     AP   AP50   AP75  APs  APm    APl     AR     F1  score  precision  recall\n\
         class 1        5  0.104  0.104  0.104    -    -  0.104  0.200  0.286  0.900      0.500   0.200\n\
         class 2        0      -      -      -    -    -      -      -      -      -          -       -\n"
    );
    assert_eq!(
        analysis.errors.table(),
        "error                count    AP50\n\
         wrong class              1  +0.167\n\
         bad location             1  +0.099\n\
         both                     1  +0.000\n\
         duplicate                1  +0.000\n\
         background               1  +0.104\n\
         missed                   2  +0.064\n\
         all false positives         +0.104\n\
         all false negatives         +0.396\n"
    );
    assert_eq!(
        analysis.confusion.table(),
        "class taken          count  share\n\
         class 1 for class 2      1  0.200\n"
    );
    assert_eq!(
        analysis.image_table().lines().take(2).collect::<Vec<_>>(),
        [
            "image  right  wrong  missed     F1",
            "1.jpg      0      1       1  0.000",
        ]
    );
    let calibration = analysis.calibration.unwrap().table();
    let lines: Vec<&str> = calibration.lines().collect();
    assert_eq!(lines[0], "calibration error 0.583, at worst 0.850");
    assert_eq!(lines[1], "score       detections   mean  right");
    assert_eq!(lines[6], "0.9 to 1.0           2  0.925  0.500");
    assert_eq!(lines.len(), 7);
}

#[test]
fn only_the_ten_worst_are_listed() {
    // Image `n` has `n` objects of class 1, all taken for class `n + 1`.
    let place = |index: u64| [index as f64 * 200.0, 0.0, 100.0, 100.0];
    let pairs = (1..=12).flat_map(|image| (0..image).map(move |index| (image, index)));
    let objects: Vec<_> = pairs
        .clone()
        .map(|(image, index)| object(image, 1, place(index)))
        .collect();
    let detections: Vec<_> = pairs
        .map(|(image, index)| detection(image, image + 1, place(index), 0.9))
        .collect();
    let analysis = evaluator(12, 13, &objects)
        .analyse(&detections, 0.5)
        .unwrap();
    let table = analysis.confusion.table();
    assert_eq!(table.lines().count(), 11);
    assert_eq!(
        table.lines().nth(1).unwrap(),
        "class 1 for class 13     12  0.154"
    );
    let images = analysis.image_table();
    assert_eq!(images.lines().count(), 11);
    assert!(images.lines().nth(1).unwrap().starts_with("12.jpg"));
}
