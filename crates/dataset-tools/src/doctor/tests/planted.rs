//! One fault of each kind planted in a clean set: found, and taken out where that can be done.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use retinanet_data::CocoDataset;
use serde_json::{Value, json};

use super::*;

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
        let repaired = faults.iter().filter(|kind| FIXED.contains(kind)).count();
        prop_assert_eq!(fixed.changes.len(), repaired, "{:?}", fixed.changes);
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
        // Evaluation, or reading the image, refuses these.
        let later = [Kind::MissingBox, Kind::NonFiniteBox, Kind::EmptyFileName];
        let error = kind.severity() == Severity::Error;
        assert_eq!(refused || later.contains(&kind), error, "{kind:?}");
    }
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
    Kind::NonFiniteBox,
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
        Kind::NonFiniteBox => {
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
