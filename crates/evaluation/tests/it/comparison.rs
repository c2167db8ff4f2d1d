//! Comparisons whose outcome is known.

use retinanet_evaluation::{CocoDetection, Comparison, Evaluator};

use crate::support::{BOX, assert_close, detection, evaluator, object};

const IMAGES: u64 = 100;

/// An object of class 1 on every image.
fn objects() -> Evaluator {
    let objects: Vec<_> = (1..=IMAGES).map(|image| object(image, 1, BOX)).collect();
    evaluator(IMAGES, 2, &objects)
}

/// The objects of every other image.
fn half() -> Vec<CocoDetection> {
    (1..=IMAGES / 2)
        .map(|image| detection(2 * image, 1, BOX, 0.9))
        .collect()
}

fn metric(comparison: &Comparison, name: &str) -> (f64, f64, f64, Option<[f64; 2]>) {
    let found = comparison.metrics.iter().find(|it| it.name == name);
    let found = found.unwrap();
    (found.a, found.b, found.difference, found.interval)
}

#[test]
fn equal_detections_do_not_differ() {
    let comparison = objects().compare(&half(), &half(), 50, 0).unwrap();
    assert_eq!((comparison.samples, comparison.images), (50, 100));
    assert_eq!(comparison.metrics.len(), 12);
    for metric in &comparison.metrics {
        assert_eq!(metric.a, metric.b);
        assert_eq!(metric.difference, 0.0);
        // There are large objects only.
        let defined = !["APs", "APm", "ARs", "ARm"].contains(&metric.name.as_str());
        assert_eq!(metric.interval, defined.then_some([0.0, 0.0]));
    }
    let classes: Vec<_> = comparison.classes.iter().map(|it| &it.name).collect();
    assert_eq!(classes, ["class 1"]);
    assert_eq!(comparison.classes[0].interval, None);
}

#[test]
fn an_interval_is_as_wide_as_theory_says() {
    // Recall is the mean of 100 images of which half are 1: its standard error is 0.05, and 95 % of
    // a normal distribution lie within 1.96 of them.
    let comparison = objects().compare(&[], &half(), 2000, 7).unwrap();
    let (a, b, difference, interval) = metric(&comparison, "AR100");
    assert_close(a, 0.0);
    assert_close(b, 0.5);
    assert_close(difference, 0.5);
    let [from, to] = interval.unwrap();
    let expected = 2.0 * 1.96 * 0.05;
    assert!(
        ((to - from) / expected - 1.0).abs() < 0.1,
        "{from} to {to} is not {expected} wide"
    );
    assert_close(f64::midpoint(from, to), difference);
}

#[test]
fn the_uncertainty_of_ap_is_as_wide_as_theory_says() {
    // Every detection is right, so that AP is recall but for its last step.
    let reach = objects().uncertainty(&half(), 2000, 7).unwrap().unwrap();
    assert!((reach / (1.96 * 0.05) - 1.0).abs() < 0.1, "{reach}");
    let one = evaluator(1, 1, &[object(1, 1, BOX)]);
    let found = [detection(1, 1, BOX, 0.9)];
    assert_eq!(one.uncertainty(&found, 50, 0).unwrap(), None);
}

#[test]
fn the_largest_loss_comes_first() {
    let evaluator = evaluator(2, 2, &[object(1, 1, BOX), object(2, 2, BOX)]);
    let first = [detection(1, 1, BOX, 0.9)];
    let second = [detection(2, 2, BOX, 0.9)];
    let comparison = evaluator.compare(&second, &first, 0, 0).unwrap();
    let classes: Vec<_> = comparison
        .classes
        .iter()
        .map(|class| (class.name.as_str(), class.difference.round()))
        .collect();
    assert_eq!(classes, [("class 2", -1.0), ("class 1", 1.0)]);
    assert_eq!(metric(&comparison, "AP").3, None);
}

#[test]
fn a_seed_draws_the_same_images() {
    let compare = |seed| objects().compare(&[], &half(), 20, seed).unwrap();
    assert_eq!(compare(1), compare(1));
    assert_ne!(compare(1).metrics, compare(2).metrics);
}

#[test]
fn without_images_or_objects_nothing_is_defined() {
    for images in [0, 1] {
        let comparison = evaluator(images, 1, &[]).compare(&[], &[], 5, 0).unwrap();
        assert_eq!(
            (comparison.samples, comparison.images),
            (5, images as usize)
        );
        assert_eq!(comparison.metrics.len(), 12);
        assert_eq!(metric(&comparison, "AP"), (-1.0, -1.0, 0.0, None));
        assert_eq!(comparison.classes, []);
    }
}

#[test]
fn one_image_says_nothing_about_others() {
    let evaluator = evaluator(1, 1, &[object(1, 1, BOX)]);
    let found = [detection(1, 1, BOX, 0.9)];
    let comparison = evaluator.compare(&[], &found, 5, 0).unwrap();
    let (_, _, difference, interval) = metric(&comparison, "AR100");
    assert_close(difference, 1.0);
    assert_eq!(interval, None);
}

#[test]
fn unknown_detections_are_refused_on_either_side() {
    let unknown = [detection(1, 9, BOX, 0.9)];
    assert!(objects().compare(&unknown, &[], 0, 0).is_err());
    assert!(objects().compare(&[], &unknown, 0, 0).is_err());
}

#[test]
fn a_comparison_is_shown_in_tables() {
    let comparison = objects().compare(&[], &half(), 200, 0).unwrap();
    let table = comparison.table();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 13);
    assert!(lines[0].starts_with("metric      a      b   b - a"));
    assert!(lines[1].starts_with("AP      0.000  0.505  +0.505  +0."));
    assert!(lines[1].ends_with('*'), "{table}");
    assert_eq!(
        lines[4].split_whitespace().collect::<Vec<_>>(),
        ["APs", "-", "-", "-", "-"]
    );
    assert_eq!(
        comparison.class_table(),
        "class        a      b   b - a\n\
         class 1  0.000  0.505  +0.505\n"
    );
    let equal = objects().compare(&half(), &half(), 20, 0).unwrap();
    assert!(!equal.table().contains('*'));
}
