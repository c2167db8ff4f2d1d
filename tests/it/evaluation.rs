//! `eval --annotations … --detections …` against the numbers of pycocotools.

use std::path::Path;

use retinanet_tests::{run, shared};
use serde_json::Value;

const KEYS: [&str; 12] = [
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
];

#[test]
fn the_twelve_numbers_are_those_of_pycocotools() {
    let Some(folder) = shared("coco_eval") else {
        return;
    };
    let expected: Value =
        serde_json::from_slice(&fs_err::read(folder.join("expected.json")).unwrap()).unwrap();
    let mut compared = 0;
    for (name, case) in expected.as_object().unwrap() {
        let numbers = &case["pycocotools_2.0.11"];
        if case["iou_type"] != "bbox" || !numbers.is_object() {
            continue;
        }
        let file = |key: &str| folder.join(case[key].as_str().unwrap());
        let got = evaluate(&file("gt"), &file("dt"));
        for key in KEYS {
            let (got, expected) = (got[key].as_f64().unwrap(), numbers[key].as_f64().unwrap());
            assert!(
                (got - expected).abs() < 1e-6,
                "{name} {key}: {got}, not {expected}"
            );
        }
        for class in got["per_class"].as_array().unwrap() {
            let expected = &case["per_class_AP"][class["category_id"].to_string()];
            let (got, expected) = (
                class["AP"].as_f64().unwrap(),
                expected.as_f64().unwrap_or(-1.0),
            );
            assert!(
                (got - expected).abs() < 1e-6,
                "{name} {class}: not {expected}"
            );
        }
        compared += 1;
    }
    assert!(compared >= 3, "only {compared} pairs");
}

#[test]
fn a_faulty_pair_is_refused_by_name() {
    let Some(folder) = shared("coco_eval") else {
        return;
    };
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (truth, found) = (file("padilla_gt.json"), file("padilla_dt.json"));
    // The two mixed up.
    run(&["eval", "--annotations", &found, "--detections", &found])
        .expect_refusal(1, &["padilla_dt.json"]);
    run(&["eval", "--annotations", &truth, "--detections", &truth])
        .expect_refusal(1, &["padilla_gt.json"]);
}

fn evaluate(truth: &Path, found: &Path) -> Value {
    let out = tempfile::tempdir().unwrap();
    let json = out.path().join("out.json");
    let arguments = [
        "eval".as_ref(),
        "--annotations".as_ref(),
        truth.as_os_str(),
        "--detections".as_ref(),
        found.as_os_str(),
        "--json".as_ref(),
        json.as_os_str(),
    ];
    let output = retinanet_tests::retinanet()
        .args(arguments)
        .output()
        .unwrap();
    retinanet_tests::Finished::from(output).expect_success();
    serde_json::from_slice(&fs_err::read(json).unwrap()).unwrap()
}
