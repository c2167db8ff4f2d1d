use std::collections::BTreeSet;

use proptest::prelude::*;
use retinanet_annotations::AnnotationsError;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::shared::shared_data;

fn split_bytes(bytes: &[u8], shares: &[f64], seed: u64) -> Result<Vec<Value>, DataError> {
    split_bytes_by(bytes, shares, seed, &BTreeMap::new())
}

fn split_bytes_by(
    bytes: &[u8],
    shares: &[f64],
    seed: u64,
    groups: &BTreeMap<u64, usize>,
) -> Result<Vec<Value>, DataError> {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("all.json");
    fs_err::write(&path, bytes).expect("the folder is ours");
    split_groups(&path, shares, seed, groups)
}

fn split_json(file: &Value, shares: &[f64], seed: u64) -> Result<Vec<Value>, DataError> {
    split_bytes(file.to_string().as_bytes(), shares, seed)
}

/// A file whose images have boxes of these categories, 1 to 4.
fn file(images: &[Vec<u64>]) -> Value {
    let image = |id| json!({"id": id, "file_name": format!("{id}.png"), "width": 9, "height": 9});
    let annotations = images.iter().enumerate().flat_map(|(image, categories)| {
        categories.iter().enumerate().map(move |(index, category)| {
            json!({
                "id": 1000 * image + index, "image_id": image, "category_id": category,
                "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0,
            })
        })
    });
    json!({
        "images": (0..images.len()).map(image).collect::<Vec<_>>(),
        "annotations": annotations.collect::<Vec<_>>(),
        "categories": (1..=4).map(|id| json!({"id": id, "name": "thing"})).collect::<Vec<_>>(),
    })
}

fn list<'a>(file: &'a Value, key: &str) -> &'a [Value] {
    file[key].as_array().expect("a list")
}

fn image_ids(file: &Value) -> BTreeSet<u64> {
    let ids = list(file, "images").iter();
    ids.map(|image| image["id"].as_u64().expect("an id"))
        .collect()
}

/// All records of the parts, as text and sorted.
fn sorted<'a>(files: impl IntoIterator<Item = &'a Value>, key: &str) -> Vec<String> {
    let records = files.into_iter().flat_map(|file| list(file, key));
    let mut records: Vec<_> = records.map(Value::to_string).collect();
    records.sort();
    records
}

#[test]
fn shares_must_be_positive_and_sum_to_one() {
    let file = file(&[vec![1], vec![2]]);
    let unsound: [&[f64]; 7] = [
        &[],
        &[0.8, 0.3],
        &[0.5, 0.499_99],
        &[1.0, 0.0],
        &[1.5, -0.5],
        &[f64::NAN, 1.0],
        &[f64::INFINITY],
    ];
    for shares in unsound {
        let error = split_json(&file, shares, 0).expect_err("these are not shares");
        let DataError::Setting(setting) = &error else {
            panic!("{error}");
        };
        assert_eq!(setting.path, "shares");
    }
    let error = split_json(&file, &[0.8, 0.3], 0).expect_err("too much");
    assert_eq!(
        error.to_string(),
        "`shares` must be positive numbers that sum to 1, got [0.8, 0.3]"
    );
    assert_eq!(split_json(&file, &[1.0], 0).expect("all of it"), [file]);
}

#[test]
fn all_that_is_unknown_stays() {
    let text = "\u{feff}".to_owned()
        + &json!({
            "info": {"year": 2024}, "licenses": [{"id": 1}], "tool": [1.5],
            "categories": [{"id": 7, "name": "cat", "colour": "#fff"}],
            "images": [
                {"id": 2.0, "file_name": "b.png", "width": 9, "height": 9, "rig": {"left": true}},
                {"id": 1, "file_name": "a.png", "width": 9, "height": 9},
            ],
            "annotations": [
                {"id": 5, "image_id": 2, "category_id": 7, "bbox": [0, 0, 4, 4], "score": 0.25},
                {"id": 6, "image_id": 1.0, "category_id": 7, "bbox": [0, 0, 4, 4]},
                {"id": 7, "image_id": 2, "category_id": 7, "bbox": []},
            ],
        })
        .to_string();
    let whole: Value = serde_json::from_str(&text[3..]).expect("JSON");
    let parts = split_bytes(text.as_bytes(), &[0.5, 0.5], 3).expect("a sound file");
    for part in &parts {
        for key in ["info", "licenses", "tool", "categories"] {
            assert_eq!(part[key], whole[key], "{key}");
        }
        assert_eq!(list(part, "images").len(), 1);
        let image = list(part, "images")[0]["id"].as_f64();
        let annotations = list(part, "annotations").iter();
        let of_it = annotations.filter(|annotation| annotation["image_id"].as_f64() == image);
        assert_eq!(of_it.count(), list(part, "annotations").len());
    }
    for key in ["images", "annotations"] {
        assert_eq!(sorted(&parts, key), sorted([&whole], key));
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let mut stray = file(&[vec![1]]);
    stray["annotations"][0]["image_id"] = 99.into();
    let refused = |file: &Value| split_json(file, &[0.5, 0.5], 0).expect_err("no data set");
    assert!(matches!(
        refused(&stray),
        DataError::UnknownImage { image: 99, .. }
    ));
    assert!(matches!(
        refused(&json!([])),
        DataError::Annotations(AnnotationsError::NotCoco { .. })
    ));
    assert!(matches!(
        split(Path::new("/nowhere.json"), &[1.0], 0),
        Err(DataError::Annotations(AnnotationsError::Read { .. }))
    ));
    // It may change between the two times that it is read.
    let known = HashMap::from([(0, 0)]);
    assert!(divide(json!([1]), &known, 1).is_none());
    assert!(divide(file(&[vec![1], vec![1]]), &known, 1).is_none());
    assert!(divide(file(&[vec![1]]), &known, 1).is_some());
}

/// The paper's case for stratifying: a random split may well leave a rare class out.
#[test]
fn a_rare_class_comes_to_each_part() {
    let mut images = vec![vec![1, 1, 2]; 90];
    images.extend(vec![vec![1, 3]; 10]);
    for seed in 0..20 {
        let parts = split_json(&file(&images), &[0.7, 0.2, 0.1], seed).expect("a sound file");
        let rare = |part: &Value| {
            let annotations = list(part, "annotations").iter();
            annotations.filter(|it| it["category_id"] == 3).count()
        };
        assert_eq!(parts.iter().map(rare).collect::<Vec<_>>(), [7, 2, 1]);
    }
}

#[test]
fn each_class_of_bccd_is_shared_out_as_asked() {
    let Some(folder) = shared_data("bccd") else {
        return;
    };
    let shares = [0.8, 0.2];
    let path = folder.join("train_raw.json");
    let whole: Value = read_json(&path).expect("JSON");
    let split_of = |seed| split(&path, &shares, seed).expect("BCCD is COCO");
    for seed in 0..5 {
        let parts = split_of(seed);
        for (part, share) in parts.iter().zip(shares) {
            for category in list(&whole, "categories") {
                let boxes = |file: &Value| {
                    let annotations = list(file, "annotations").iter();
                    annotations
                        .filter(|it| it["category_id"] == category["id"])
                        .count()
                };
                let found = boxes(part) as f64 / boxes(&whole) as f64;
                assert!(boxes(&whole) >= 10);
                assert!(
                    (found - share).abs() < 0.03,
                    "{category}: {found} of {share}"
                );
            }
            let size = list(part, "images").len() as f64;
            assert!((size - 205.0 * share).abs() <= 4.0, "{size} images");
        }
    }
    assert_eq!(split_of(0), split_of(0));
    assert_ne!(image_ids(&split_of(0)[0]), image_ids(&split_of(1)[0]));
}

#[test]
fn a_group_larger_than_any_part_goes_where_there_is_most_room() {
    let whole = file(&vec![vec![1]; 10]);
    let groups = (0..9).map(|id| (id, 0)).collect();
    let parts = split_bytes_by(whole.to_string().as_bytes(), &[0.7, 0.3], 0, &groups);
    let sizes: Vec<usize> = (parts.expect("a sound file").iter())
        .map(|part| image_ids(part).len())
        .collect();
    assert_eq!(sizes, [9, 1]);
}

fn shares() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(1_u32..20, 1..5).prop_map(|weights| {
        let sum = f64::from(weights.iter().sum::<u32>());
        weights.into_iter().map(|it| f64::from(it) / sum).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn groups_stay_together_and_parts_are_near_their_size(
        images in prop::collection::vec(prop::collection::vec(1_u64..=4, 0..6), 40..120),
        size in 1_u64..5,
        seed: u64,
    ) {
        let whole = file(&images);
        // Every second image is alone.
        let of_id = |id: u64| id.is_multiple_of(2).then_some((id, (id / (2 * size)) as usize));
        let groups: BTreeMap<_, _> = (0..images.len() as u64).filter_map(of_id).collect();
        let parts = split_bytes_by(whole.to_string().as_bytes(), &[0.75, 0.25], seed, &groups)
            .expect("a sound file");
        prop_assert_eq!(sorted(&parts, "images"), sorted([&whole], "images"));
        let ids: Vec<_> = parts.iter().map(image_ids).collect();
        let groups_in = |ids: &BTreeSet<u64>| -> BTreeSet<usize> {
            ids.iter().filter_map(|id| groups.get(id).copied()).collect()
        };
        prop_assert!(groups_in(&ids[0]).is_disjoint(&groups_in(&ids[1])));
        let over = ids[1].len() as f64 - 0.25 * images.len() as f64;
        prop_assert!(over.abs() < 4.0 + 2.0 * size as f64, "{over}");
    }

    #[test]
    fn parts_are_disjoint_complete_and_of_their_size(
        images in prop::collection::vec(prop::collection::vec(1_u64..=4, 0..6), 0..120),
        shares in shares(),
        seed: u64,
    ) {
        let whole = file(&images);
        let parts = split_json(&whole, &shares, seed).expect("a sound file");
        prop_assert_eq!(parts.len(), shares.len());
        for key in ["images", "annotations"] {
            prop_assert_eq!(sorted(&parts, key), sorted([&whole], key));
        }
        let slack = (images.len() / SLACK) as f64;
        for (part, share) in parts.iter().zip(&shares) {
            let ids = image_ids(part);
            for annotation in list(part, "annotations") {
                let image = annotation["image_id"].as_u64().expect("an id");
                prop_assert!(ids.contains(&image));
            }
            let over = ids.len() as f64 - share * images.len() as f64;
            let others = (shares.len() - 1) as f64;
            prop_assert!(over < 1.0 + slack, "{over} too many");
            prop_assert!(over > -1.0 - slack * others, "{over} too few");
        }
        prop_assert_eq!(&parts, &split_json(&whole, &shares, seed).expect("a sound file"));
    }
}
