//! What is found in the annotations, and how it is told.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use retinanet_data::ShortSides;
use serde_json::{Value, json};

use super::*;

#[test]
fn a_clean_file_gives_no_findings() {
    let report = check_json(&clean());
    assert_eq!(report.findings, []);
    assert_eq!(
        (report.images, report.annotations, report.categories),
        (10, 20, 3)
    );
    assert!(
        report.to_string().ends_with("Nothing to remark.\n"),
        "{report}"
    );
}

#[test]
fn lists_that_are_none_are_findings() {
    for (list, state) in [
        (Value::Null, "missing"),
        (json!({"1": {}}), "not a list"),
        (json!(3), "not a list"),
        (json!([]), "empty"),
    ] {
        let mut file = clean();
        file["categories"] = list;
        let report = check_json(&file);
        let finding = report.find(Kind::MissingList).expect(state);
        assert_eq!(
            finding.examples[0].detail,
            format!("`categories` is {state}")
        );
        assert!(report.fails());
    }
    let nothing = check_json(&json!({}));
    assert_eq!(
        nothing.find(Kind::MissingList).map(|found| found.count),
        Some(3)
    );
    // Said once: without categories every annotation would be an orphan.
    let mut file = clean();
    file["categories"] = Value::Null;
    assert_eq!(
        kinds(&check_json(&file)),
        BTreeSet::from([Kind::MissingList])
    );
}

#[test]
fn only_an_object_is_looked_over() {
    for text in ["[]", "3", "null", "\"images\"", "", "{\"images\": ["] {
        assert!(check_bytes(text.as_bytes()).is_err(), "{text}");
        assert!(fix_bytes(text.as_bytes()).is_err(), "{text}");
    }
    assert!(check_bytes("\u{FEFF}{}".as_bytes()).is_ok());
    assert!(check_file(Path::new("nowhere.json")).is_err());
}

#[test]
fn a_report_is_for_people_and_for_programs() -> Result<(), serde_json::Error> {
    let mut file = clean();
    for id in 100..107 {
        let bbox = json!([1, 2, 0, 4]);
        let new = json!({"id": id, "image_id": 3, "category_id": 1, "bbox": bbox});
        push(&mut file, "annotations", new);
    }
    file["images"][9]["height"] = json!(0);
    let report = check_json(&file);
    let text = report.to_string();
    for line in [
        "Kinds of errors: 1, of warnings: 2, of notes: 0",
        "error: images without a size (1)",
        "  image 10 (`10.png`): `width` is 100, `height` is 0",
        "warning: boxes without area (7)",
        "  annotation 104 (`3.png`): its box is 0 wide and 4 high",
        "  and 2 more",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let value = serde_json::to_value(&report)?;
    let first = &value["findings"][0];
    assert_eq!(first["kind"], "missing_size");
    assert_eq!(first["severity"], "error");
    assert_eq!(first["examples"][0]["id"], 10);
    assert_eq!(value["findings"][1]["count"], 7);
    Ok(())
}

#[test]
fn boxes_of_fractions_are_told() {
    let mut file = clean();
    for annotation in file["annotations"].as_array_mut().expect("a list") {
        annotation["bbox"] = json!([0.25, 0.5, 0.125, 0.25]);
        annotation["segmentation"] = json!([]);
    }
    let report = check_json(&file);
    assert_eq!(
        report.find(Kind::NormalisedBox).map(|it| it.count),
        Some(20)
    );
    assert!(
        report
            .to_string()
            .contains("boxes of numbers between 0 and 1: normalised?")
    );
    let refused = fix_bytes(file.to_string().as_bytes());
    assert!(matches!(refused, Err(DataError::OtherBoxes { .. })));
    // A few specks are not a habit.
    let mut file = clean();
    file["annotations"][0]["bbox"] = json!([0.25, 0.5, 0.125, 0.25]);
    assert_eq!(check_json(&file).find(Kind::NormalisedBox), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Boxes right of and below the middle, so that their corners outgrow the image as sides.
    #[test]
    fn corners_in_place_of_sides_are_told(
        boxes in prop::collection::vec((51.0..70.0, 41.0..60.0, 5.0..30.0, 5.0..20.0), 20),
    ) {
        let (mut sides, mut corners) = (clean(), clean());
        for (index, (x, y, width, height)) in boxes.into_iter().enumerate() {
            let [sides, corners] = [&mut sides, &mut corners].map(|file| {
                let annotation = &mut file["annotations"][index];
                annotation["segmentation"] = json!([]);
                &mut annotation["bbox"]
            });
            *sides = json!([x, y, width, height]);
            *corners = json!([x, y, x + width, y + height]);
        }
        prop_assert_eq!(kinds(&check_json(&sides)), BTreeSet::new());
        let report = check_json(&corners);
        prop_assert_eq!(report.find(Kind::CornerBox).map(|found| found.count), Some(20));
        let refused = fix_bytes(corners.to_string().as_bytes());
        let refused = matches!(refused, Err(DataError::OtherBoxes { .. }));
        prop_assert!(refused);
    }
}

#[test]
fn without_an_object_there_is_nothing_to_learn_or_measure() -> Result<(), DataError> {
    let mut crowds = clean();
    for annotation in crowds["annotations"].as_array_mut().expect("a list") {
        annotation["iscrowd"] = json!(1);
    }
    let mut none = clean();
    none["annotations"] = json!([]);
    for file in [crowds, none] {
        let folder = folder();
        let path = folder.path().join("train.json");
        fs_err::write(&path, file.to_string()).expect("the folder is ours");
        for (role, expected) in [
            (Role::Training, Kind::NothingToLearn),
            (Role::Validation, Kind::NothingToMeasure),
        ] {
            let request = CheckRequest {
                role,
                open_images: false,
                ..CheckRequest::new(Split::new(&path, "nowhere"))
            };
            let report = check(&request, &|_, _| {})?;
            assert!(report.find(expected).is_some(), "{report}");
            assert_eq!(report.fails(), role == Role::Training, "{report}");
        }
    }
    Ok(())
}

#[test]
fn categories_of_validation_are_held_against_training() -> Result<(), DataError> {
    let folder = folder();
    let [train, val] = ["train.json", "val.json"].map(|name| folder.path().join(name));
    fs_err::write(&train, clean().to_string()).expect("the folder is ours");
    let found = |file: &Value| {
        fs_err::write(&val, file.to_string()).expect("the folder is ours");
        let request = CheckRequest {
            open_images: false,
            other: Some(Split::new(&val, "nowhere")),
            ..CheckRequest::new(Split::new(&train, "nowhere"))
        };
        let report = check(&request, &|_, _| {})?;
        let examples = report
            .find(Kind::OtherCategory)
            .map(|it| it.examples.clone());
        let examples = examples.unwrap_or_default().into_iter();
        Ok::<_, DataError>(examples.map(|it| it.detail).collect::<Vec<_>>())
    };
    let mut val_file = clean();
    push(
        &mut val_file,
        "categories",
        json!({"id": 9, "name": "not used"}),
    );
    assert_eq!(found(&val_file)?, [""; 0]);
    val_file["annotations"][0]["category_id"] = json!(9);
    val_file["categories"][1]["name"] = json!("cat");
    let details = found(&val_file)?;
    assert!(
        details[0].starts_with("`class 2` here, `cat` in"),
        "{details:?}"
    );
    assert!(details[1].starts_with("`not used` of"), "{details:?}");
    // What training lacks is a fault, what validation lacks is not.
    val_file = clean();
    val_file["categories"].as_array_mut().expect("a list").pop();
    for annotation in val_file["annotations"].as_array_mut().expect("a list") {
        annotation["category_id"] = json!(1);
    }
    assert_eq!(found(&val_file)?, [""; 0]);
    Ok(())
}

#[test]
fn keys_that_stand_twice_are_a_fault_if_they_contradict() -> Result<(), DataError> {
    let text = clean().to_string();
    let twice = |second: &str| text.replacen("\"iscrowd\":0", second, 1);
    let same = twice("\"iscrowd\":0,\"iscrowd\":0");
    assert_eq!(check_bytes(same.as_bytes())?.findings, []);
    let other = check_bytes(twice("\"iscrowd\":0,\"iscrowd\":1").as_bytes())?;
    assert!(other.find(Kind::MalformedRecord).is_some(), "{other}");
    let lists = text.replacen("\"info\"", "\"images\":[],\"info\"", 1);
    assert!(
        check_bytes(lists.as_bytes())?
            .find(Kind::MissingList)
            .is_some()
    );
    Ok(())
}

#[test]
fn anchors_are_tried_at_every_size_of_the_image() -> Result<(), DataError> {
    let folder = folder();
    let path = folder.path().join("train.json");
    let mut file = clean();
    // Half a pixel at 80, 5 pixels at 800.
    file["annotations"][6]["bbox"] = json!([10, 10, 0.5, 0.5]);
    file["annotations"][6]["segmentation"] = json!([]);
    fs_err::write(&path, file.to_string()).expect("the folder is ours");
    let found = |short_side: &[u64]| {
        let mut anchors = anchors();
        anchors.resize.short_side = ShortSides::literal(short_side);
        let request = CheckRequest {
            open_images: false,
            anchors: Some(anchors),
            ..CheckRequest::new(Split::new(&path, "nowhere"))
        };
        check(&request, &|_, _| {}).map(|report| ids(&report, Kind::UnreachableBox))
    };
    assert_eq!(found(&[80])?, [7]);
    // All others outgrow the anchors.
    assert!(!found(&[800])?.contains(&7));
    assert!(found(&[80, 800])?.is_empty());
    Ok(())
}
