//! Whatever stands in a file: it is checked without a panic, and as training reads it.

use proptest::prelude::*;
use retinanet_annotations::AnnotationsError;
use retinanet_data::CocoDataset;
use retinanet_evaluation::Evaluator;
use serde_json::{Value, json};

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

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

    /// Whatever stands wherever: any object is checked, and repaired.
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
