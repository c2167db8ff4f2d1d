//! Real data sets, and files that others made to be found faulty.

use std::collections::BTreeMap;

use super::*;
use crate::shared::shared_data;

/// Crowds, empty images and classes without objects are there, and are not faults.
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
    let checked = |file: &str| {
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
    let stored = checked("exif_stored.json")?;
    assert_eq!(
        counts(&stored),
        BTreeMap::from([(Kind::RotatedSize, 8)]),
        "{stored}"
    );
    for upright in ["exif.json", "modes.json"] {
        assert_eq!(counts(&checked(upright)?), BTreeMap::new(), "{upright}");
    }
    // The file with 4 bits of grey, which `decode_image` does not know either.
    let hopper = checked("hopper.json")?;
    assert_eq!(
        counts(&hopper),
        BTreeMap::from([(Kind::UndecodableFile, 1)]),
        "{hopper}"
    );
    let broken = checked("broken.json")?;
    let files = |kind| broken.find(kind).map_or(0, |finding| finding.count);
    let broken_files = files(Kind::UndecodableFile) + files(Kind::TruncatedFile);
    assert_eq!(broken_files, 5, "{broken}");
    assert_eq!(files(Kind::SizeMismatch), 0, "{broken}");
    Ok(())
}
