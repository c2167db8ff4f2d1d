use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use image::RgbImage;
use proptest::prelude::*;
use retinanet_anchors::{AnchorConfig, Lengths};
use retinanet_annotations::AnnotationsError;
use retinanet_data::{CocoDataset, ResizeConfig, ShortSides};
use retinanet_evaluation::Evaluator;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::shared::shared_data;

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

/// Looks the annotations over, without images.
fn check_bytes(bytes: &[u8]) -> Result<Report, DataError> {
    let folder = folder();
    let path = folder.path().join("train.json");
    fs_err::write(&path, bytes).expect("the folder is ours");
    check_file(&path)
}

fn check_file(path: &Path) -> Result<Report, DataError> {
    let request = CheckRequest {
        open_images: false,
        ..CheckRequest::new(Split::new(path, "nowhere"))
    };
    check(&request, &|_, _| panic!("no image is opened"))
}

fn check_json(file: &Value) -> Report {
    check_bytes(file.to_string().as_bytes()).expect("an object is enough")
}

fn fix_bytes(bytes: &[u8]) -> Result<Fixed, DataError> {
    let folder = folder();
    let path = folder.path().join("train.json");
    fs_err::write(&path, bytes).expect("the folder is ours");
    fix(&Split::new(path, folder.path()))
}

fn fix_file(path: &Path) -> Result<Fixed, DataError> {
    fix(&Split::new(path, "nowhere"))
}

fn check_images(split: Split) -> Result<Report, DataError> {
    check(&CheckRequest::new(split), &|_, _| {})
}

fn kinds(report: &Report) -> BTreeSet<Kind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

/// The ids of the examples of a kind.
fn ids(report: &Report, kind: Kind) -> Vec<u64> {
    let examples = report.find(kind).map(|finding| &finding.examples);
    (examples.into_iter().flatten())
        .filter_map(|example| example.id)
        .collect()
}

/// Kind and ids of all that was found.
fn found(report: &Report) -> BTreeMap<Kind, Vec<u64>> {
    (kinds(report).into_iter())
        .map(|kind| (kind, ids(report, kind)))
        .collect()
}

/// Ten images of 100×80 with two sound boxes each, of three categories.
fn clean() -> Value {
    let images: Vec<_> = (1..=10)
        .map(|id| json!({"id": id, "file_name": format!("{id}.png"), "width": 100, "height": 80}))
        .collect();
    let annotations: Vec<_> = (1..=20)
        .map(|id| {
            let x = f64::from(id);
            json!({
                "id": id,
                "image_id": (id + 1) / 2,
                "category_id": 1 + id % 3,
                "bbox": [x, 5, 40, 30.5],
                "segmentation": [[x, 5, x + 40.0, 5, x + 40.0, 35.5]],
                "iscrowd": 0,
                "note": "kept",
            })
        })
        .collect();
    let categories: Vec<_> = (1..=3)
        .map(|id| json!({"id": id, "name": format!("class {id}")}))
        .collect();
    json!({
        "info": {"year": 2020},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    })
}

fn push(file: &mut Value, list: &str, record: Value) {
    let list = file[list].as_array_mut().expect("the clean set has it");
    list.push(record);
}

/// What can be planted by adding records to [`clean`], each without giving rise to another.
const FAULTS: [Kind; 26] = [
    Kind::MalformedRecord,
    Kind::DuplicateImageId,
    Kind::DuplicateAnnotationId,
    Kind::DuplicateCategoryId,
    Kind::UnknownImage,
    Kind::UnknownCategory,
    Kind::MissingSize,
    Kind::EmptyFileName,
    Kind::RepeatedFileName,
    Kind::MissingBox,
    Kind::MalformedBox,
    Kind::NotFiniteBox,
    Kind::DegenerateBox,
    Kind::OutsideBox,
    Kind::PartlyOutsideBox,
    Kind::RepeatedBox,
    Kind::AreaMismatch,
    Kind::PolygonMismatch,
    Kind::LargeId,
    Kind::ZeroId,
    Kind::UnnamedCategory,
    Kind::RepeatedCategoryName,
    Kind::UnusedCategory,
    Kind::EmptyImage,
    Kind::Crowd,
    Kind::UnreachableBox,
];

/// What [`fix`] removes.
const FIXED: [Kind; 11] = [
    Kind::DuplicateAnnotationId,
    Kind::UnknownImage,
    Kind::UnknownCategory,
    Kind::MissingBox,
    Kind::NotFiniteBox,
    Kind::DegenerateBox,
    Kind::OutsideBox,
    Kind::PartlyOutsideBox,
    Kind::RepeatedBox,
    Kind::AreaMismatch,
    Kind::ZeroId,
];

/// Numbers that vary what is planted.
#[derive(Clone, Copy, Debug)]
struct Seed {
    /// Which of the clean set's records is involved.
    pick: u64,
    /// Which way to be wrong.
    way: usize,
    /// Somewhere in an image.
    x: f64,
}

fn seed() -> impl Strategy<Value = Seed> {
    (1_u64..=10, 0_usize..4, 0.0..50.0).prop_map(|(pick, way, x)| Seed { pick, way, x })
}

/// Plants a fault and returns the id that it should be found under.
fn plant(file: &mut Value, kind: Kind, seed: Seed) -> u64 {
    match kind {
        Kind::DuplicateImageId
        | Kind::MissingSize
        | Kind::EmptyFileName
        | Kind::RepeatedFileName
        | Kind::EmptyImage => plant_image(file, kind, seed),
        Kind::DuplicateCategoryId
        | Kind::UnnamedCategory
        | Kind::RepeatedCategoryName
        | Kind::UnusedCategory => plant_category(file, kind, seed),
        _ => plant_annotation(file, kind, seed),
    }
}

#[expect(clippy::too_many_lines, reason = "a table of faults")]
fn plant_annotation(file: &mut Value, kind: Kind, Seed { pick, way, x }: Seed) -> u64 {
    let id = 1000 + kind as u64;
    // A box of its own for every kind.
    let y = 10.0 + kind as u64 as f64 / 8.0;
    let mut new = json!({"id": id, "image_id": pick, "category_id": 1, "bbox": [x, y, 20.25, 30]});
    let mut set = |key: &str, value: Value| new[key] = value;
    match kind {
        Kind::MalformedRecord => match way {
            0 => set("image_id", json!("four")),
            1 => set("category_id", Value::Null),
            2 => set("iscrowd", json!(7)),
            _ => set("image_id", json!(1.5)),
        },
        Kind::DuplicateAnnotationId => set("id", json!(pick)),
        Kind::UnknownImage => set("image_id", json!(999)),
        Kind::UnknownCategory => set("category_id", json!(999)),
        Kind::MissingBox => set("bbox", [Value::Null, json!([])][way % 2].clone()),
        Kind::MalformedBox => {
            let ways = [
                json!([x, y, 5]),
                json!([x, y, 5, 5, 45]),
                json!("box"),
                json!(["x", 1, 2, 3]),
            ];
            set("bbox", ways[way].clone());
        }
        Kind::NotFiniteBox => {
            let ways = [json!([x, y, null, 5]), json!([1e300, y, 5, 5])];
            set("bbox", ways[way % 2].clone());
        }
        Kind::DegenerateBox => {
            let ways = [
                [x, y, 0.0, 5.0],
                [x, y, 5.0, 0.0],
                [x, y, -5.0, 5.0],
                [x, y, 5.0, -0.5],
            ];
            set("bbox", json!(ways[way]));
        }
        Kind::OutsideBox => {
            let ways = [
                [100.0 + x, y, 5.0, 5.0],
                [x, 80.0, 5.0, 5.0],
                [-5.0, y, 5.0, 5.0],
            ];
            set("bbox", json!(ways[way % 3]));
        }
        Kind::PartlyOutsideBox => {
            let ways = [[x, y, 200.0, 5.0], [x, y, 5.0, 80.0], [-4.0, y, 20.0, 5.0]];
            set("bbox", json!(ways[way % 3]));
        }
        Kind::RepeatedBox => {
            for key in ["image_id", "category_id", "bbox"] {
                set(key, file["annotations"][pick as usize][key].clone());
            }
        }
        Kind::AreaMismatch => set("area", json!([900.0, 1.0, 0.5, 1e6][way])),
        Kind::PolygonMismatch => set("segmentation", json!([[x, y, x + 20.25, y, x, y + 27.5]])),
        Kind::LargeId => set("id", json!((1_u64 << 53) + 1 + pick)),
        Kind::ZeroId => set("id", json!(0)),
        Kind::Crowd => set(
            "iscrowd",
            [json!(1), json!(true), json!(1.0)][way % 3].clone(),
        ),
        Kind::UnreachableBox => set("bbox", json!([x, y, 0.25, 0.5])),
        other => panic!("{other:?} is of no annotation"),
    }
    let id = new["id"].as_u64().expect("all of them have one");
    push(file, "annotations", new);
    id
}

fn plant_image(file: &mut Value, kind: Kind, Seed { pick, way, x }: Seed) -> u64 {
    let id = 1000 + kind as u64;
    let name = format!("{kind:?}.png");
    let mut new = json!({"id": id, "file_name": name, "width": 100, "height": 80});
    match kind {
        Kind::DuplicateImageId => new["id"] = json!(pick),
        Kind::MissingSize => {
            let side = ["width", "height"][way % 2];
            let ways = [json!(0), Value::Null, json!(-5), json!(640.5)];
            new[side] = ways[way].clone();
        }
        Kind::EmptyFileName => new["file_name"] = [json!(""), json!(null)][way % 2].clone(),
        Kind::RepeatedFileName => new["file_name"] = json!(format!("{pick}.png")),
        _ => {}
    }
    push(file, "images", new.clone());
    if kind != Kind::EmptyImage {
        let annotation = json!({
            "id": 2 * id, "image_id": new["id"], "category_id": 2, "bbox": [x, 20, 13, 27]
        });
        push(file, "annotations", annotation);
    }
    new["id"].as_u64().expect("all of them have one")
}

fn plant_category(file: &mut Value, kind: Kind, Seed { pick, x, .. }: Seed) -> u64 {
    let id = 1000 + kind as u64;
    let mut new = json!({"id": id, "name": format!("{kind:?}")});
    match kind {
        Kind::DuplicateCategoryId => new["id"] = json!(3),
        Kind::UnnamedCategory => new["name"] = json!(" "),
        Kind::RepeatedCategoryName => new["name"] = json!("class 2"),
        _ => {}
    }
    push(file, "categories", new.clone());
    if kind != Kind::UnusedCategory {
        let annotation = json!({
            "id": 2 * id, "image_id": pick, "category_id": new["id"], "bbox": [x, 20, 14, 28]
        });
        push(file, "annotations", annotation);
    }
    new["id"].as_u64().expect("all of them have one")
}

/// Anchors of 4 to 40 pixels in images that keep their size.
fn anchors() -> Anchors {
    let config = AnchorConfig {
        sizes: Lengths::literal(&[4.0, 8.0, 16.0, 32.0]),
        aspect_ratios: Lengths::literal(&[0.25, 0.5, 1.0, 2.0, 4.0]),
        ..AnchorConfig::default()
    };
    Anchors {
        generator: config.init(&[4, 8, 16, 32]).expect("the sizes are sound"),
        resize: ResizeConfig {
            short_side: ShortSides::literal(&[80]),
            ..ResizeConfig::default()
        },
        foreground: 0.4,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_planted_fault_comes_back(
        faults in prop::sample::subsequence(&FAULTS[..], 0..=FAULTS.len()),
        seeds in prop::collection::vec(seed(), FAULTS.len()),
    ) {
        let mut file = clean();
        let mut planted = BTreeMap::new();
        for (&kind, &seed) in faults.iter().zip(&seeds) {
            planted.insert(kind, vec![plant(&mut file, kind, seed)]);
        }
        let folder = folder();
        let path = folder.path().join("train.json");
        fs_err::write(&path, file.to_string()).expect("the folder is ours");
        let request = CheckRequest {
            open_images: false,
            anchors: Some(Anchors { foreground: 0.05, ..anchors() }),
            ..CheckRequest::new(Split::new(&path, "nowhere"))
        };
        let report = check(&request, &|_, _| {})?;
        prop_assert_eq!(found(&report), planted, "{}", report);
    }

    #[test]
    fn what_can_be_fixed_is(
        faults in prop::sample::subsequence(&FAULTS[..], 0..=FAULTS.len()),
        seeds in prop::collection::vec(seed(), FAULTS.len()),
    ) {
        let mut file = clean();
        for (&kind, &seed) in faults.iter().zip(&seeds) {
            plant(&mut file, kind, seed);
        }
        let fixed = fix_bytes(file.to_string().as_bytes())?;

        let left: BTreeSet<_> = (faults.iter().copied())
            .filter(|kind| !FIXED.contains(kind) && *kind != Kind::UnreachableBox)
            .collect();
        let report = check_json(&fixed.json);
        prop_assert_eq!(kinds(&report), left, "{}", report);
        let mended = faults.iter().filter(|kind| FIXED.contains(kind)).count();
        prop_assert_eq!(fixed.changes.len(), mended, "{:?}", fixed.changes);
        // The sound part is untouched, and there is nothing left to do.
        for key in ["info", "images", "categories"] {
            prop_assert_eq!(&fixed.json[key], &file[key]);
        }
        for index in 0..20 {
            prop_assert_eq!(&fixed.json["annotations"][index], &file["annotations"][index]);
        }
        let again = fix_bytes(fixed.json.to_string().as_bytes())?;
        prop_assert_eq!(again, Fixed { changes: Vec::new(), ..fixed });
    }

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

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check_bytes(&bytes);
        let _ = fix_bytes(&bytes);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused(cut in 0_usize..2000) {
        let text = clean().to_string();
        let cut = &text.as_bytes()[..cut.min(text.len() - 1)];
        let refused = matches!(
            check_bytes(cut),
            Err(DataError::Annotations(AnnotationsError::NotJson { .. }))
        );
        prop_assert!(refused);
        prop_assert!(fix_bytes(cut).is_err());
    }

    /// Whatever stands wherever: any object is looked over, and mended.
    #[test]
    fn junk_in_any_place_is_a_finding(
        places in prop::collection::vec((any::<[prop::sample::Index; 4]>(), junk()), 1..8),
    ) {
        let mut file = clean();
        for (place, junk) in places {
            if !spoil(&mut file, place, junk) {
                break;
            }
        }
        let text = file.to_string();
        let report = check_bytes(text.as_bytes())?;
        // It can always be printed and serialised.
        prop_assert!(!report.to_string().is_empty());
        prop_assert!(serde_json::to_string(&report).is_ok());
        if let Ok(fixed) = fix_bytes(text.as_bytes()) {
            let left = kinds(&check_json(&fixed.json));
            prop_assert!(FIXED.iter().all(|kind| !left.contains(kind)), "{left:?}");
        }
    }
}

/// Puts junk in the place of a list, a record or a value; tells whether the list is still one.
fn spoil(
    file: &mut Value,
    [list, what, record, key]: [prop::sample::Index; 4],
    junk: Value,
) -> bool {
    let list = ["images", "annotations", "categories"][list.index(3)];
    let keys = [
        "id",
        "file_name",
        "width",
        "height",
        "image_id",
        "category_id",
        "bbox",
        "segmentation",
        "area",
        "iscrowd",
        "name",
    ];
    let records = file[list].as_array().map_or(1, Vec::len).max(1);
    match what.index(40) {
        0 => file[list] = junk,
        1 => {
            if let Some(place) = file[list].get_mut(record.index(records)) {
                *place = junk;
            }
        }
        _ => {
            let record = file[list].get_mut(record.index(records));
            if let Some(record @ Value::Object(_)) = record {
                record[keys[key.index(keys.len())]] = junk;
            }
        }
    }
    file[list].is_array()
}

fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..30).prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "[a-zü…]{0,60}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,3}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

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
fn numbers_and_names_of_other_systems_are_mended() -> Result<(), DataError> {
    let folder = painted();
    fs_err::create_dir(folder.path().join("a b")).expect("the folder is ours");
    fs_err::rename(folder.path().join("3.png"), folder.path().join("a b/3.png"))
        .expect("the folder is ours");
    let mut file = clean();
    file["images"][2]["file_name"] = json!("a%20b\\3.png");
    file["images"][4]["id"] = json!("5");
    file["images"][5]["width"] = json!(100.0);
    file["annotations"][0]["category_id"] = json!(" 2 ");
    file["annotations"][1]
        .as_object_mut()
        .expect("an object")
        .remove("id");
    let path = folder.path().join("train.json");
    fs_err::write(&path, file.to_string()).expect("the folder is ours");
    assert!(check_images(split(&folder))?.fails());

    let fixed = fix(&split(&folder))?;
    assert_eq!(fixed.changes.len(), 5, "{:#?}", fixed.changes);
    let mended = &fixed.json;
    assert_eq!(mended["images"][2]["file_name"], "a b/3.png");
    assert_eq!(mended["images"][4]["id"], 5);
    assert_eq!(mended["images"][5]["width"].as_u64(), Some(100));
    assert_eq!(mended["annotations"][1]["id"], 2);
    fs_err::write(&path, mended.to_string()).expect("the folder is ours");
    assert_eq!(check_images(split(&folder))?.findings, []);
    assert_eq!(fixed.check(&path)?.findings, []);
    Ok(())
}

#[test]
fn a_clipped_box_takes_its_area_along() -> Result<(), DataError> {
    let mut file = clean();
    file["annotations"][0]["bbox"] = json!([80, 5, 60, 70]);
    file["annotations"][0]["area"] = json!(4200);
    file["annotations"][0]["segmentation"] = json!([]);
    let fixed = fix_bytes(file.to_string().as_bytes())?;
    assert_eq!(fixed.json["annotations"][0]["bbox"], json!([80, 5, 20, 70]));
    assert_eq!(fixed.json["annotations"][0]["area"], 1400);
    Ok(())
}

#[test]
fn what_is_left_after_the_fix_is_told() -> Result<(), DataError> {
    let mut file = clean();
    file["images"][0]["width"] = json!("wide");
    let fixed = fix_bytes(file.to_string().as_bytes())?;
    assert_eq!(fixed.changes, [""; 0]);
    assert!(fixed.check(Path::new("mended.json"))?.fails());
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
    // A few specks are no habit.
    let mut file = clean();
    file["annotations"][0]["bbox"] = json!([0.25, 0.5, 0.125, 0.25]);
    assert_eq!(check_json(&file).find(Kind::NormalisedBox), None);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// What check passes, training and evaluation read; what they refuse, it calls an error.
    #[test]
    fn what_is_clean_is_read_and_what_is_refused_is_an_error(
        places in prop::collection::vec((any::<[prop::sample::Index; 4]>(), junk()), 0..3),
    ) {
        let mut file = clean();
        for (place, junk) in places {
            spoil(&mut file, place, junk);
        }
        let folder = folder();
        let path = folder.path().join("train.json");
        fs_err::write(&path, file.to_string()).expect("the folder is ours");
        let report = check_file(&path)?;
        let learns = |it: &CocoDataset| it.objects_by_class().iter().any(|count| *count > 0);
        let read = CocoDataset::read(&path, folder.path()).is_ok_and(|it| learns(&it));
        let measured = Evaluator::from_file(&path).is_ok();
        // Boxes that only look like corners, or like fractions, are read.
        let suspicions = [Kind::CornerBox, Kind::NormalisedBox];
        let fails = report.errors().any(|finding| !suspicions.contains(&finding.kind));
        prop_assert_eq!(fails, !(read && measured), "{} {} {}", read, measured, report);
    }
}

#[test]
fn what_training_refuses_is_an_error_and_what_it_takes_is_not() {
    let seed = Seed {
        pick: 4,
        way: 0,
        x: 7.0,
    };
    for kind in FAULTS {
        let mut file = clean();
        plant(&mut file, kind, seed);
        let folder = folder();
        let path = folder.path().join("train.json");
        fs_err::write(&path, file.to_string()).expect("the folder is ours");
        let refused = CocoDataset::read(&path, folder.path()).is_err();
        // Evaluation, or the first look at the image, refuses these.
        let later = [Kind::MissingBox, Kind::NotFiniteBox, Kind::EmptyFileName];
        let error = kind.severity() == Severity::Error;
        assert_eq!(refused || later.contains(&kind), error, "{kind:?}");
    }
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

#[test]
fn a_box_is_clipped_and_a_copy_that_clipping_made_goes() -> Result<(), DataError> {
    let mut file = clean();
    file["annotations"][2]["bbox"] = json!([-5, 10, 40, 20]);
    file["annotations"][2]["id"] = json!(0);
    let mut copy = file["annotations"][2].clone();
    copy["id"] = json!(77);
    copy["bbox"] = json!([-9, 10, 44, 20]);
    push(&mut file, "annotations", copy);
    let fixed = fix_bytes(file.to_string().as_bytes())?;
    let mended = &fixed.json["annotations"][2];
    assert_eq!(mended["bbox"], json!([0, 10, 35, 20]));
    // 3 is free, because no annotation has it any more.
    assert_eq!(mended["id"], 3);
    assert_eq!(mended["note"], "kept");
    assert_eq!(fixed.json["annotations"].as_array().map(Vec::len), Some(20));
    assert_eq!(fixed.changes.len(), 4, "{:?}", fixed.changes);
    Ok(())
}

/// A folder with the images of [`clean`], no two alike, and its annotations.
fn painted() -> TempDir {
    let folder = folder();
    for id in 1..=10_u8 {
        let image = RgbImage::from_pixel(100, 80, image::Rgb([id, 0, 0]));
        let path = folder.path().join(format!("{id}.png"));
        image.save(path).expect("the folder is ours");
    }
    fs_err::write(folder.path().join("train.json"), clean().to_string())
        .expect("the folder is ours");
    folder
}

fn split(folder: &TempDir) -> Split {
    Split::new(folder.path().join("train.json"), folder.path())
}

#[test]
fn faults_of_files_are_found() -> Result<(), DataError> {
    let folder = painted();
    let path = |id: u8| folder.path().join(format!("{id}.png"));
    fs_err::remove_file(path(1)).expect("the file is ours");
    fs_err::write(path(2), "no picture").expect("the file is ours");
    let bytes = fs_err::read(path(3)).expect("the file is ours");
    fs_err::write(path(3), &bytes[..bytes.len() - 10]).expect("the file is ours");
    let other = RgbImage::new(80, 100);
    other.save(path(4)).expect("the file is ours");
    fs_err::copy(path(5), path(6)).expect("the files are ours");

    let calls = Mutex::new(Vec::new());
    let report = check(&CheckRequest::new(split(&folder)), &|done, total| {
        calls.lock().expect("nobody panics").push((done, total));
    })?;
    let expected = BTreeMap::from([
        (Kind::MissingFile, vec![1]),
        (Kind::UndecodableFile, vec![2]),
        (Kind::TruncatedFile, vec![3]),
        // Without an orientation it is not rotated but another.
        (Kind::SizeMismatch, vec![4]),
        (Kind::RepeatedImage, vec![6]),
    ]);
    assert_eq!(found(&report), expected, "{report}");
    let mut calls = calls.into_inner().expect("nobody panics");
    calls.sort_unstable();
    assert_eq!(calls, (1..=10).map(|done| (done, 10)).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn an_image_in_both_splits_is_found() -> Result<(), DataError> {
    let (train, val) = (painted(), folder());
    let from = train.path().join("7.png");
    fs_err::copy(from, val.path().join("renamed.png")).expect("the folders are ours");
    let images = json!([{"id": 1, "file_name": "renamed.png"}, {"id": 2, "file_name": "gone"}]);
    fs_err::write(
        val.path().join("train.json"),
        json!({"images": images}).to_string(),
    )
    .expect("the folder is ours");

    let request = CheckRequest {
        other: Some(split(&val)),
        ..CheckRequest::new(split(&train))
    };
    let report = check(&request, &|_, total| assert_eq!(total, 12))?;
    assert_eq!(
        found(&report),
        BTreeMap::from([(Kind::SharedImage, vec![7])])
    );
    let detail = &report.findings[0].examples[0].detail;
    assert_eq!(detail, "`renamed.png` of the other split");
    Ok(())
}

/// Crowds, empty images and classes without objects are there, and are no faults.
#[test]
fn clean_sets_have_notes_at_most() -> Result<(), DataError> {
    for name in ["bccd", "cards", "fruits_nuts", "coco_free"] {
        let Some(folder) = shared_data(name) else {
            return Ok(());
        };
        let split = |file| Split::new(folder.join(file), folder.join("images"));
        let request = CheckRequest {
            other: Some(split("val.json")),
            ..CheckRequest::new(split("train.json"))
        };
        let (train, val) = (
            check(&request, &|_, _| {})?,
            check_images(split("val.json"))?,
        );
        let counts = |report: &Report, kind| report.find(kind).map_or(0, |found| found.count);
        let notes = |report: &Report| {
            assert!(
                (report.findings.iter()).all(|it| it.severity == Severity::Note),
                "{report}"
            );
            [Kind::UnusedCategory, Kind::EmptyImage, Kind::Crowd].map(|kind| counts(report, kind))
        };
        let expected = match name {
            "coco_free" => [[13, 1, 9], [18, 2, 8]],
            _ => [[0; 3]; 2],
        };
        assert_eq!([notes(&train), notes(&val)], expected, "{name}");
    }
    Ok(())
}

#[test]
fn the_boxes_without_area_of_bccd_are_found_and_fixed() -> Result<(), DataError> {
    let Some(folder) = shared_data("bccd") else {
        return Ok(());
    };
    for (file, id) in [("train_raw.json", 2288), ("val_raw.json", 3692)] {
        let report = check_file(&folder.join(file))?;
        assert_eq!(
            found(&report),
            BTreeMap::from([(Kind::DegenerateBox, vec![id])])
        );
        assert!(!report.fails());
        let fixed = fix_file(&folder.join(file))?;
        assert_eq!(fixed.changes.len(), 1);
        assert!(
            fixed.changes[0].contains(&id.to_string()),
            "{:?}",
            fixed.changes
        );
        assert_eq!(check_json(&fixed.json).findings, []);
    }
    Ok(())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of faults")]
fn planted_faults_of_others_are_found() -> Result<(), DataError> {
    let Some(folder) = shared_data("json_cases") else {
        return Ok(());
    };
    let bad = [
        (Kind::DuplicateImageId, vec![1]),
        (Kind::DuplicateAnnotationId, vec![1]),
        (Kind::UnknownImage, vec![3]),
        (Kind::UnknownCategory, vec![4]),
        (Kind::MissingSize, vec![2]),
        (Kind::EmptyImage, vec![2]),
    ];
    let quality = [
        (Kind::DegenerateBox, vec![1]),
        (Kind::PartlyOutsideBox, vec![2, 4]),
        (Kind::RepeatedBox, vec![4]),
    ];
    let edge = [
        (Kind::UnusedCategory, vec![2, 3]),
        (Kind::EmptyImage, vec![4]),
        (Kind::Crowd, vec![1]),
    ];
    let zero = [(Kind::ZeroId, vec![0])];
    let info = |image| {
        [
            (Kind::MissingList, vec![]),
            (Kind::NothingToLearn, vec![]),
            (Kind::EmptyImage, vec![image]),
        ]
    };
    let train = [(Kind::UnusedCategory, vec![1, 4])];
    let val = [(Kind::UnusedCategory, vec![4]), (Kind::Crowd, vec![2])];
    let info_name =
        |split| format!("datumaro_coco_image_info__annotations__image_info_{split}.json");
    let (info_train, info_val) = (info_name("train"), info_name("val"));
    for (name, expected) in [
        ("hotcoco_healthcheck_bad.json", &bad[..]),
        ("hotcoco_healthcheck_quality.json", &quality),
        ("hotcoco_edge_gt.json", &edge),
        ("hotcoco_gt.json", &[]),
        ("hotcoco_zero_gt.json", &zero),
        (&info_train, &info(5)),
        (&info_val, &info(40)),
        (
            "datumaro_coco_instances__annotations__instances_train.json",
            &train,
        ),
        (
            "datumaro_coco_instances__annotations__instances_val.json",
            &val,
        ),
        (
            "datumaro_coco_roboflow__train___annotations.coco.json",
            &train,
        ),
        ("datumaro_coco_roboflow__val___annotations.coco.json", &val),
        (
            "datumaro_mmdet_coco__annotations__instances_train.json",
            &train,
        ),
        ("datumaro_mmdet_coco__annotations__instances_val.json", &val),
    ] {
        let report = check_file(&folder.join(name))?;
        let expected: BTreeMap<_, _> = expected.iter().cloned().collect();
        assert_eq!(found(&report), expected, "{name}\n{report}");
        let fixed = kinds(&check_json(&fix_file(&folder.join(name))?.json));
        assert!(
            FIXED.iter().all(|kind| !fixed.contains(kind)),
            "{name}: {fixed:?}"
        );
    }
    for name in [
        "hotcoco_dt.json",
        "hotcoco_edge_dt.json",
        "hotcoco_zero_dt.json",
    ] {
        let refused = check_file(&folder.join(name));
        let refused = refused.expect_err(name).to_string();
        assert!(refused.contains("it is a list"), "{refused}");
    }
    Ok(())
}

#[test]
fn odd_files_are_told_apart() -> Result<(), DataError> {
    let Some(folder) = shared_data("oddities") else {
        return Ok(());
    };
    let look = |file: &str| {
        let split = Split::new(folder.join(file), folder.join("images"));
        check_images(split)
    };
    let counts = |report: &Report| -> BTreeMap<Kind, usize> {
        (report.findings.iter())
            .filter(|finding| finding.severity == Severity::Error)
            .map(|finding| (finding.kind, finding.count))
            .collect()
    };
    // Turned by 90 degrees: orientations 5 to 8 of two photographs.
    let stored = look("exif_stored.json")?;
    assert_eq!(
        counts(&stored),
        BTreeMap::from([(Kind::RotatedSize, 8)]),
        "{stored}"
    );
    for upright in ["exif.json", "modes.json"] {
        assert_eq!(counts(&look(upright)?), BTreeMap::new(), "{upright}");
    }
    // The file with 4 bits of grey, which `decode_image` does not know either.
    let hopper = look("hopper.json")?;
    assert_eq!(
        counts(&hopper),
        BTreeMap::from([(Kind::UndecodableFile, 1)]),
        "{hopper}"
    );
    let broken = look("broken.json")?;
    let files = |kind| broken.find(kind).map_or(0, |finding| finding.count);
    let broken_files = files(Kind::UndecodableFile) + files(Kind::TruncatedFile);
    assert_eq!(broken_files, 5, "{broken}");
    assert_eq!(files(Kind::SizeMismatch), 0, "{broken}");
    Ok(())
}
