use proptest::prelude::*;
use retinanet_boxes::ClassId;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::shared::shared_data;

fn read(text: &str, options: ReadOptions) -> Result<CocoDataset, DataError> {
    read_bytes(text.as_bytes(), options)
}

fn read_bytes(text: &[u8], options: ReadOptions) -> Result<CocoDataset, DataError> {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("train.json");
    fs_err::write(&path, text).expect("the folder is ours");
    CocoDataset::read_with(&path, Path::new("images"), options)
}

fn read_json(file: &Value) -> Result<CocoDataset, DataError> {
    read(&file.to_string(), ReadOptions::default())
}

fn message(text: &str) -> String {
    let error = read(text, ReadOptions::default()).expect_err("this file is not a data set");
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Two images of 100×80, given in the wrong order, and categories with a gap.
fn file(annotations: &Value) -> Value {
    json!({
        "images": [
            {"id": 9, "file_name": "b/two.png", "width": 100, "height": 80},
            {"id": 4, "file_name": "one.png", "width": 100, "height": 80, "license": 3},
        ],
        "categories": [
            {"id": 7, "name": "dog", "supercategory": "animal"},
            {"id": 3, "name": "cat"},
        ],
        "annotations": annotations,
    })
}

#[test]
fn outlines_are_read_where_they_are_asked_for() -> Result<(), DataError> {
    let file = file(&json!([
        {"id": 1, "image_id": 9, "category_id": 7, "bbox": [10, 20, 30, 40], "iscrowd": 1,
         "segmentation": {"counts": [1, 2], "size": [80, 100]}},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 0, 0], "segmentation": [[0, 0, 1, 0, 0, 1]]},
        {"id": 3, "image_id": 9, "category_id": 3, "bbox": [1, 2, 4, 4],
         "segmentation": [[1, 2, 3, 5, 5, 6], [1, 2, 5, 2, 5, 6.5]]},
        {"id": 5, "image_id": 9, "category_id": 3, "bbox": [1, 2, 4, 4], "segmentation": [[0.1, 0.2, 0.5, 0.2, 0.5, 0.6]]},
        {"id": 6, "image_id": 9, "category_id": 3, "bbox": [1, 2, 4, 4], "segmentation": [[1, 2, 3, 4, 5, 6]]},
        {"id": 4, "image_id": 9, "category_id": 3, "bbox": [1, 2, 4, 4], "segmentation": [[1, 2, 3, 4]]},
    ]));
    let with = |outlines| {
        let options = ReadOptions {
            outlines,
            ..ReadOptions::default()
        };
        read(&file.to_string(), options)
    };
    let image = &with(true)?.images[1];
    let polygons = vec![
        vec![[1.0, 2.0], [3.0, 5.0], [5.0, 6.0]],
        vec![[1.0, 2.0], [5.0, 2.0], [5.0, 6.5]],
    ];
    let outline = Some(Arc::new(Outline { polygons }));
    // A box that covers nothing is left out with its outline; run lengths have none, and others are no outlines of
    // their boxes: in shares of the image, a line of three corners, and one of two.
    assert_eq!(image.objects.len(), 5);
    assert_eq!(image.outlines, [None, outline, None, None, None]);
    assert!(with(false)?.images[1].outlines.iter().all(Option::is_none));
    Ok(())
}

#[test]
fn a_file_becomes_records() -> Result<(), DataError> {
    let data = read_json(&file(&json!([
        {"id": 1, "image_id": 9, "category_id": 7, "bbox": [10, 20, 30, 40], "iscrowd": 1,
         "segmentation": {"counts": [1, 2], "size": [80, 100]}, "area": 12.5},
        {"id": 2, "image_id": 9.0, "category_id": 3, "bbox": [0.5, 0, 1.5, 1],
         "segmentation": [[1, 2, 3, 4, 5, 6]], "extra": null},
    ])))?;

    assert_eq!(data.classes.name(ClassId(0)), "cat");
    assert_eq!(data.classes.category(ClassId(1)), Some(CategoryId(7)));
    assert_eq!(data.images.len(), 2);
    assert_eq!(data.images[0].id, ImageId(4));
    assert!(data.images[0].objects.is_empty());
    assert_eq!(data.images[1].file_name, "b/two.png");
    assert_eq!(data.images[1].path, Path::new("images/b/two.png"));
    let expected = [
        GroundTruth {
            bbox: BoundingBox::new(10.0, 20.0, 40.0, 60.0),
            class: ClassId(1),
            crowd: true,
        },
        GroundTruth {
            bbox: BoundingBox::new(0.5, 0.0, 2.0, 1.0),
            class: ClassId(0),
            crowd: false,
        },
    ];
    assert_eq!(data.images[1].objects, expected);
    assert!(data.dropped.is_empty());
    Ok(())
}

#[test]
fn useless_boxes_are_left_out_and_listed() -> Result<(), DataError> {
    let annotation =
        |id: u64, bbox: &Value| json!({"id": id, "image_id": 4, "category_id": 3, "bbox": bbox});
    let data = read_json(&file(&json!([
        annotation(1, &json!([10, 10, 0, 5])),
        annotation(2, &json!([10, 10, 5, -1])),
        annotation(3, &json!([10, null, 5, 5])),
        annotation(4, &json!([1e300, 0, 1, 1])),
        annotation(5, &json!([100, 0, 10, 10])),
        annotation(6, &json!([-20, 0, 20, 10])),
        annotation(7, &json!([])),
        annotation(8, &json!([-20, 0, 21, 1000])),
    ])))?;

    assert_eq!(data.images[0].objects.len(), 1);
    assert_eq!(
        data.images[0].objects[0].bbox,
        BoundingBox::new(-20.0, 0.0, 1.0, 1000.0)
    );
    let reasons: Vec<_> = (data.dropped.iter())
        .map(|dropped| (dropped.annotation, dropped.reason))
        .collect();
    let empty = |width, height| DropReason::Empty { width, height };
    let expected = [
        (1, empty(0.0, 5.0)),
        (2, empty(5.0, -1.0)),
        (3, DropReason::NonFinite),
        (4, DropReason::NonFinite),
        (5, DropReason::Outside),
        (6, DropReason::Outside),
        (7, DropReason::NoBox),
    ];
    assert_eq!(reasons, expected);
    assert_eq!(
        data.dropped[0].to_string(),
        "annotation 1 of image 4: its box is 0 wide and 5 high"
    );
    Ok(())
}

#[test]
fn images_without_objects_can_be_left_out() -> Result<(), DataError> {
    let crowd = json!([
        {"id": 1, "image_id": 4, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": true},
    ]);
    let file = file(&crowd).to_string();
    let all = read(&file, ReadOptions::default())?;
    assert_eq!(all.images.len(), 2);
    // A crowd alone gives nothing to learn.
    let some = read(
        &file,
        ReadOptions {
            keep_empty: false,
            ..ReadOptions::default()
        },
    )?;
    assert_eq!(some.images, []);
    Ok(())
}

#[test]
fn objects_are_numbered_as_the_models_classes() -> Result<(), DataError> {
    let boxes = json!([{"id": 1, "image_id": 9, "category_id": 7, "bbox": [10, 20, 30, 40]}]);
    let class = |(id, name): (u64, &str)| Class::new(CategoryId(id), name);
    let list = |classes: &[(u64, &str)]| {
        ClassList::new(classes.iter().copied().map(class).collect()).expect("no id occurs twice")
    };
    // The file lists 3 `cat` and 7 `dog`, of which no box is a cat's.
    let model = list(&[(1, "ant"), (5, "bee"), (7, "dog")]);
    let read = read_json(&file(&boxes))?.with_classes(&model)?;
    assert_eq!(read.images[1].objects[0].class, ClassId(2));
    assert_eq!(read.classes, model);
    for (model, expected) in [
        (
            list(&[(3, "cat"), (7, "wolf")]),
            "category 7 is `dog` and not `wolf`",
        ),
        (list(&[(3, "cat")]), "category 7 `dog` is unknown"),
    ] {
        let error = read_json(&file(&boxes))?
            .with_classes(&model)
            .expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
    Ok(())
}

#[test]
fn files_of_another_kind_are_named_with_what_is_missing() {
    let list = message(r#"[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]"#);
    assert!(
        list.contains("train.json` is not a COCO instances file: it is a list"),
        "{list}"
    );
    let other = message(r#"{"images": [], "license": "MIT"}"#);
    assert!(
        other.contains("it has no `annotations`, no `categories`"),
        "{other}"
    );
    let number = message("3");
    assert!(number.contains("it is a single value"), "{number}");
    for text in ["", "{\"images\": [", "<html>", "{\"images\": [NaN]}"] {
        let broken = message(text);
        assert!(broken.contains("train.json` is not JSON: "), "{broken}");
    }
}

#[test]
fn records_of_the_wrong_shape_are_counted_and_the_first_is_shown() {
    let mut broken = file(&json!([
        {"id": 1, "image_id": "4", "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 4, "category_id": 3, "bbox": [0, 0, 1, 1], "iscrowd": 2},
    ]));
    let error = message(&broken.to_string());
    assert!(error.contains("has 2 records that are not"), "{error}");
    assert!(
        error.contains("`annotations[0]`: `image_id` is \"4\";"),
        "{error}"
    );
    for id in [json!(-1), json!(1.5), json!(1e300), json!(null)] {
        broken["images"][1]["id"] = id.clone();
        let error = message(&broken.to_string());
        assert!(
            error.contains(&format!("`images[1]`: `id` is {id}")),
            "{error}"
        );
    }
}

#[test]
fn a_byte_order_mark_is_skipped() -> Result<(), DataError> {
    let text = format!("\u{FEFF}{}", file(&json!([])));
    read(&text, ReadOptions::default()).map(|_| ())
}

#[test]
fn contradictions_are_named_by_id() {
    let orphan = json!([{"id": 5, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}]);
    let unknown = json!([{"id": 5, "image_id": 4, "category_id": 1, "bbox": [0, 0, 1, 1]}]);
    let rotated = json!([{"id": 5, "image_id": 4, "category_id": 3, "bbox": [0, 0, 1, 1, 45]}]);
    let mut twin_image = file(&json!([]));
    twin_image["images"][0]["id"] = json!(4);
    let mut twin_category = file(&json!([]));
    twin_category["categories"][0]["id"] = json!(3);
    let mut flat = file(&json!([]));
    flat["images"][0]["height"] = json!(0);

    for (file, expected) in [
        (file(&orphan), "annotation 5 of "),
        (file(&orphan), "points at image 1,"),
        (file(&unknown), "annotation 5 of "),
        (file(&unknown), "points at category 1,"),
        (file(&rotated), "`bbox` has 5 numbers"),
        (twin_image, "image id 4 occurs twice"),
        (twin_category, "category id 3 occurs twice"),
        (flat, "image 9 of "),
    ] {
        let error = message(&file.to_string());
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("train.json"), "{error}");
    }
}

#[test]
fn missing_images_are_counted() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("train.json");
    fs_err::write(&path, file(&json!([])).to_string()).expect("the folder is ours");
    let data = CocoDataset::read(&path, folder.path()).expect("the file is sound");

    let error = data.check_files().expect_err("no image is there");
    assert!(
        error
            .to_string()
            .contains("one.png` does not exist, and 2 of 2"),
        "{error}"
    );

    fs_err::write(folder.path().join("one.png"), "").expect("the folder is ours");
    fs_err::create_dir(folder.path().join("b")).expect("the folder is ours");
    fs_err::write(folder.path().join("b/two.png"), "").expect("the folder is ours");
    assert!(data.check_files().is_ok());
}

/// The counts are in the data's own description.
#[test]
fn real_files_are_read() -> Result<(), DataError> {
    let mut crowds = 0;
    for (name, annotations, images, dropped) in [
        ("bccd", "train.json", 205, &[][..]),
        ("bccd", "train_raw.json", 205, &[2288]),
        ("bccd", "val_raw.json", 87, &[3692]),
        ("cards", "train.json", 296, &[]),
        ("fruits_nuts", "train.json", 13, &[]),
        ("coco_free", "train.json", 92, &[]),
        ("coco_free", "val.json", 66, &[]),
    ] {
        let Some(folder) = shared_data(name) else {
            return Ok(());
        };
        let data = CocoDataset::read(&folder.join(annotations), &folder.join("images"))?;
        data.check_files()?;
        assert_eq!(data.images.len(), images, "{name}/{annotations}");
        let ids: Vec<_> = data
            .dropped
            .iter()
            .map(|dropped| dropped.annotation)
            .collect();
        assert_eq!(ids, dropped, "{name}/{annotations}");
        crowds += (data.images.iter())
            .flat_map(|image| &image.objects)
            .filter(|object| object.crowd)
            .count();
    }
    assert_eq!(crowds, 17);
    Ok(())
}

#[test]
fn planted_faults_are_refused() {
    let Some(cases) = shared_data("json_cases") else {
        return;
    };
    for (name, expected) in [
        ("hotcoco_healthcheck_bad.json", "image id 1 occurs twice"),
        ("hotcoco_dt.json", "it is a list"),
    ] {
        let error = CocoDataset::read(&cases.join(name), &cases).expect_err(name);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// A sound file with two boxes.
fn sound() -> String {
    file(&json!([
        {"id": 1, "image_id": 9, "category_id": 7, "bbox": [10, 20, 30, 40]},
        {"id": 2, "image_id": 4, "category_id": 3, "bbox": [1.5, 2, 3, 4], "iscrowd": 0},
    ]))
    .to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_bytes(&bytes, ReadOptions::default());
    }

    /// Bytes of a sound file, some of them others: much of it is still JSON.
    #[test]
    fn no_changed_bytes_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        labels in prop_oneof![Just(LabelIds::Contiguous), Just(LabelIds::CategoryId)],
        keep_empty: bool,
    ) {
        let mut bytes = sound().into_bytes();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = read_bytes(&bytes, ReadOptions { keep_empty, labels, ..ReadOptions::default() });
    }

    #[test]
    fn no_other_number_panics(number in prop_oneof![
        any::<f64>().prop_map(|number| json!(number)),
        any::<u64>().prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
    ], place in 0_usize..8) {
        let mut file: Value = serde_json::from_str(&sound()).expect("it is sound");
        let image = &mut file["images"][0];
        match place {
            0 => image["id"] = number,
            1 => image["width"] = number,
            2 => file["categories"][1]["id"] = number,
            3 => file["annotations"][0]["category_id"] = number,
            place => file["annotations"][0]["bbox"][place - 4] = number,
        }
        for labels in [LabelIds::Contiguous, LabelIds::CategoryId] {
            let options = ReadOptions { labels, ..ReadOptions::default() };
            let _ = read_bytes(file.to_string().as_bytes(), options);
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let text = sound();
    assert!(read(&text, ReadOptions::default()).is_ok());
    for end in 0..text.len() {
        assert!(
            read(&text[..end], ReadOptions::default()).is_err(),
            "up to {end}"
        );
    }
}
