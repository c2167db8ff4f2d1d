use hotcoco::Image;

use super::*;

fn image(id: u64) -> Image {
    Image {
        id,
        ..Image::default()
    }
}

fn annotation(id: u64, image_id: u64, bbox: [f64; 4]) -> Annotation {
    Annotation {
        id,
        image_id,
        category_id: 3,
        bbox: Some(bbox),
        ..Annotation::default()
    }
}

fn category(id: u64, name: &str) -> Category {
    Category {
        id,
        name: name.into(),
        ..Category::default()
    }
}

/// Two images with an object each, and a class that has no object.
fn dataset() -> Dataset {
    Dataset {
        images: vec![image(1), image(2)],
        annotations: vec![
            annotation(10, 1, [10.0, 10.0, 20.0, 20.0]),
            annotation(11, 2, [0.0, 0.0, 50.0, 40.0]),
        ],
        categories: vec![category(3, "cell"), category(5, "dish")],
        ..Dataset::default()
    }
}

fn evaluator(dataset: Dataset) -> Evaluator {
    Evaluator::from_dataset(dataset, "val.json").unwrap()
}

fn detection(image: u64, bbox: [f64; 4], score: f64) -> CocoDetection {
    CocoDetection {
        image_id: ImageId(image),
        category_id: CategoryId(3),
        bbox,
        score,
    }
}

/// Every object of [`dataset`], exactly.
fn perfect() -> Vec<CocoDetection> {
    vec![
        detection(1, [10.0, 10.0, 20.0, 20.0], 0.9),
        detection(2, [0.0, 0.0, 50.0, 40.0], 0.8),
    ]
}

#[track_caller]
fn assert_close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < 1e-12,
        "{found} is not {expected}"
    );
}

#[test]
fn perfect_detections_score_1() {
    let metrics = evaluator(dataset()).evaluate(&perfect()).unwrap();
    for value in [
        metrics.ap,
        metrics.ap50,
        metrics.ap75,
        metrics.ap_small,
        metrics.ap_medium,
        metrics.ar1,
        metrics.ar100,
        metrics.per_class[0].ap,
    ] {
        assert_close(value, 1.0);
    }
    // 20 × 20 is small and 50 × 40 is medium; nothing is large.
    assert_close(metrics.ap_large, -1.0);
    assert_close(metrics.ar_large, -1.0);
    assert_eq!(metrics.per_class[1].name, "dish");
    assert_close(metrics.per_class[1].ap, -1.0);
}

#[test]
fn ap_worked_by_hand() {
    // By score: a hit, a miss, a hit whose IoU is 0.8. At IoU 0.5 to 0.8 (7 of 10 thresholds)
    // recall is 1/2 at precision 1, then 1 at precision 2/3; of the 101 recalls 51 are up to
    // 1/2. Above, the second object is lost and recall ends at 1/2.
    let detections = [
        detection(1, [10.0, 10.0, 20.0, 20.0], 0.9),
        detection(1, [80.0, 80.0, 20.0, 20.0], 0.8),
        detection(2, [0.0, 0.0, 40.0, 40.0], 0.7),
    ];
    let metrics = evaluator(dataset()).evaluate(&detections).unwrap();
    let both = (51.0 + 50.0 * 2.0 / 3.0) / 101.0;
    let one = 51.0 / 101.0;
    assert_close(metrics.ap50, both);
    assert_close(metrics.ap75, both);
    assert_close(metrics.ap, 0.7 * both + 0.3 * one);
    assert_close(metrics.ar1, 0.7 + 0.3 * 0.5);
    assert_close(metrics.per_class[0].ap, metrics.ap);
    assert_close(metrics.per_class[0].ap50, both);
}

#[test]
fn no_detections_score_0() {
    let metrics = evaluator(dataset()).evaluate(&[]).unwrap();
    assert_close(metrics.ap, 0.0);
    assert_close(metrics.ar100, 0.0);
    assert_close(metrics.ap_large, -1.0);
    assert_close(metrics.per_class[0].ap, 0.0);
    assert_close(metrics.per_class[1].ap, -1.0);
}

#[test]
fn without_annotations_nothing_is_defined() {
    let dataset = Dataset {
        annotations: vec![],
        ..dataset()
    };
    for detections in [vec![], perfect()] {
        let metrics = evaluator(dataset.clone()).evaluate(&detections).unwrap();
        assert_close(metrics.ap, -1.0);
        assert_close(metrics.ar100, -1.0);
        assert_eq!(metrics.per_class.len(), 2);
    }
    let metrics = evaluator(Dataset::default()).evaluate(&[]).unwrap();
    assert_close(metrics.ap, -1.0);
    assert_eq!(metrics.per_class, []);
}

#[test]
fn a_subset_of_images_is_all_that_counts() {
    let evaluator = evaluator(dataset());
    let detections = &perfect()[..1];
    assert_close(evaluator.evaluate(detections).unwrap().ar100, 0.5);
    let on = |images: &[u64]| {
        let images: Vec<ImageId> = images.iter().copied().map(ImageId).collect();
        evaluator.evaluate_images(detections, &images).unwrap()
    };
    assert_close(on(&[1]).ap, 1.0);
    assert_close(on(&[1, 1]).ap, 1.0);
    assert_close(on(&[2]).ap, 0.0);
    assert_eq!(on(&[1, 2]), evaluator.evaluate(detections).unwrap());
    let nothing = on(&[]);
    assert_close(nothing.ap, -1.0);
    assert_eq!(nothing.per_class.len(), 2);
}

#[test]
fn an_annotation_with_id_0_can_be_found() {
    let mut dataset = dataset();
    dataset.annotations[0].id = 0;
    let metrics = evaluator(dataset).evaluate(&perfect()).unwrap();
    assert_close(metrics.ap, 1.0);
}

#[test]
fn annotations_that_share_an_id_are_all_kept() {
    let mut dataset = dataset();
    dataset.annotations[0].id = 11;
    let metrics = evaluator(dataset).evaluate(&perfect()).unwrap();
    assert_close(metrics.ap, 1.0);
}

#[test]
fn a_crowd_neither_misses_nor_is_missed() {
    let mut dataset = dataset();
    dataset.annotations[1].iscrowd = true;
    let evaluator = evaluator(dataset);
    for found in [1, 2] {
        assert_close(evaluator.evaluate(&perfect()[..found]).unwrap().ap, 1.0);
    }
}

#[test]
fn a_category_without_a_name_gets_one() {
    let mut dataset = dataset();
    dataset.categories[1].name = String::new();
    let metrics = evaluator(dataset).evaluate(&perfect()).unwrap();
    assert_eq!(metrics.per_class[1].name, "cat_5");
}

#[test]
fn detections_of_another_data_set_are_refused() {
    let mut detections = perfect();
    detections.extend((20..27).map(|image| detection(image, [0.0; 4], 0.5)));
    let evaluator = evaluator(dataset());
    assert_eq!(
        evaluator.evaluate(&detections).unwrap_err().to_string(),
        "`val.json` has no image with the id 20, 21, 22, 23, 24 (and 2 more); is it another \
         data set's?"
    );
    detections.truncate(2);
    detections[0].category_id = CategoryId(0);
    assert_eq!(
        evaluator.evaluate(&detections).unwrap_err().to_string(),
        "`val.json` has no category with the id 0; are the detections' class indices instead \
         of category ids?"
    );
    assert!(matches!(
        evaluator.evaluate_images(&perfect(), &[ImageId(1), ImageId(4)]),
        Err(EvaluationError::UnknownImages { images, .. }) if images == [ImageId(4)]
    ));
}

#[test]
fn a_detection_that_is_non_finite_is_refused() {
    let mut detections = perfect();
    detections[1].score = f64::NAN;
    let evaluator = evaluator(dataset());
    assert_eq!(
        evaluator.evaluate(&detections).unwrap_err().to_string(),
        "detection 1, on image 2, has a box or a score that is not finite; did the model \
         diverge?"
    );
}

#[test]
fn an_annotation_must_have_a_box() {
    let mut dataset = dataset();
    dataset.annotations[1].bbox = None;
    let error = Evaluator::from_dataset(dataset, "val.json").err().unwrap();
    assert_eq!(
        error.to_string(),
        "annotation 11 of `val.json` has no finite `bbox`"
    );
}

#[test]
fn what_would_take_gigabytes_is_refused() {
    let mut crowded = dataset();
    crowded.annotations = (0..8_000)
        .map(|id| annotation(id, 1, [0.0, 0.0, 9.0, 9.0]))
        .collect();
    let detections = vec![detection(1, [0.0, 0.0, 9.0, 9.0], 0.5); 8_000];
    let message = evaluator(crowded)
        .evaluate(&detections)
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("image 1 has 8000 objects and 8000 detections"),
        "{message}"
    );

    let mut classes = dataset();
    classes.categories = (0..20_001).map(|id| category(id, "x")).collect();
    let message = Evaluator::from_dataset(classes, "val.json")
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("20001 categories"), "{message}");
}

#[test]
fn a_category_id_must_stand_once() {
    let mut dataset = dataset();
    dataset.categories[1].id = 3;
    let error = Evaluator::from_dataset(dataset, "val.json").err().unwrap();
    assert_eq!(
        error.to_string(),
        "category id 3 occurs twice in `val.json`"
    );
}

#[test]
fn a_file_that_is_not_coco_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("val.json");
    for (text, reason) in [
        ("[]", "is not a COCO instances file: it is a list"),
        (
            "{}",
            "it has no `images`, no `annotations`, no `categories`",
        ),
        (
            r#"{"images": [], "categories": []}"#,
            "it has no `annotations`",
        ),
        ("{\"images\": [", "is not JSON"),
    ] {
        fs_err::write(&path, text).unwrap();
        let message = Evaluator::from_file(&path).err().unwrap().to_string();
        assert!(message.contains("val.json`"), "{message}");
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn files_names_stand_for_ids() {
    let mut dataset = dataset();
    for (image, name) in dataset.images.iter_mut().zip(["a/1.png", "2.png"]) {
        image.file_name = name.into();
    }
    let evaluator = evaluator(dataset);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("found.json");
    let read = |name: &str| {
        let record = r#"{"file_name": "NAME", "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}"#;
        fs_err::write(&path, format!("[{}]", record.replace("NAME", name))).unwrap();
        evaluator.read_detections(&path)
    };
    for (name, image) in [
        ("a/1.png", 1),
        ("2.png", 2),
        ("photos/2.png", 2),
        ("1.png", 1),
    ] {
        assert_eq!(read(name).unwrap()[0].image_id, ImageId(image), "{name}");
    }
    let message = read("3.png").unwrap_err().to_string();
    assert!(
        message.contains("has 0 images with the file `3.png`"),
        "{message}"
    );
}

#[test]
fn classes_that_the_annotations_lack_change_no_number() {
    let known = Class::new(CategoryId(3), "cell");
    let new = Class::new(CategoryId(4), "vial");
    let classes = ClassList::new(vec![known, new]).unwrap();
    let mut detections = perfect();
    let expected = evaluator(dataset()).evaluate(&detections).unwrap();
    detections.push(CocoDetection {
        category_id: CategoryId(4),
        ..detections[0]
    });
    let evaluator = evaluator(dataset()).with_classes(&classes);
    let metrics = evaluator.evaluate(&detections).unwrap();
    assert_close(metrics.ap, expected.ap);
    assert_close(metrics.ar100, expected.ar100);
    let classes: Vec<_> = (metrics.per_class.iter())
        .map(|it| (it.category_id.0, it.ap))
        .collect();
    assert_eq!(classes, [(3, 1.0), (4, -1.0), (5, -1.0)]);
}

#[test]
fn more_objects_than_count_are_told() {
    let mut dataset = dataset();
    let objects = (0..150).map(|id| annotation(100 + id, 1, [10.0 * id as f64, 0.0, 9.0, 9.0]));
    dataset.annotations = objects.collect();
    let detections: Vec<_> = (0..150)
        .map(|id| detection(1, [10.0 * f64::from(id), 0.0, 9.0, 9.0], 0.5))
        .collect();
    let evaluator = evaluator(dataset);
    assert_eq!(evaluator.crowded_images(), [(ImageId(1), 150)]);
    assert!(evaluator.evaluate(&detections).unwrap().ap < 0.7);
    let evaluator = evaluator.with_max_detections(150);
    assert_eq!(evaluator.crowded_images(), []);
    let metrics = evaluator.evaluate(&detections).unwrap();
    assert_close(metrics.ap, 1.0);
    assert_eq!(metrics.max_detections, 150);
}
