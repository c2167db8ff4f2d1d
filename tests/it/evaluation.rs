//! `eval --annotations … --detections …` against the numbers of pycocotools.

use std::path::Path;

use retinanet_tests::{Experiment, run, shared};
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
        let got = evaluate(&file("gt"), &file("dt"))["metrics"].clone();
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

#[test]
fn two_runs_are_compared_on_the_same_images() {
    let experiment = Experiment::new();
    experiment.train("a", &[]).expect_success();
    // Trained on other shapes under the same names and ids.
    let other = experiment.path("other");
    let set = ["--set", &format!("data.root={other}"), "--set", "seed=9"];
    let seed = ["--set", "data.synth.seed=77"];
    experiment
        .train("b", &[&set[..], &seed[..]].concat())
        .expect_success();
    let (a, b) = (experiment.path("a"), experiment.path("b"));
    let json = experiment.path("numbers.json");
    let compare = |a: &str, b: &str| {
        let arguments = [
            "eval",
            "--compare",
            a,
            b,
            "--samples",
            "50",
            "--json",
            &json,
        ];
        run(&arguments).expect_success();
        experiment.json("numbers.json")
    };
    let same = compare(&a, &a);
    for metric in same["metrics"].as_array().unwrap() {
        assert_eq!(metric["difference"], 0.0, "{metric}");
    }
    let compared = compare(&a, &b);
    assert_eq!(
        (&compared["samples"], &compared["images"]),
        (&50.into(), &3.into())
    );

    // What `b` finds on `a`'s images, measured by itself.
    let config = experiment.path("a/config.toml");
    let weights = experiment.path("b.safetensors");
    run(&["export", "--run", &b, "--out", &weights]).expect_success();
    let arguments = ["eval", "--weights", &weights, "--config", &config];
    run(&[&arguments[..], &["--json", &json]].concat()).expect_success();
    let alone = experiment.json("numbers.json");
    for metric in compared["metrics"].as_array().unwrap() {
        let name = metric["name"].as_str().unwrap();
        assert_eq!(metric["b"], alone["metrics"][name], "{name}");
    }
}

#[test]
fn detections_that_are_written_give_the_same_numbers() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let (root, found) = (experiment.path("run"), experiment.path("found.json"));
    let (json, again) = (experiment.path("a.json"), experiment.path("b.json"));
    let looks = ["--flip", "--tile", "40", "--batch", "3"];
    let arguments = ["eval", "--run", &root, "--write-detections", &found];
    let said = run(&[&arguments[..], &looks[..], &["--json", &json]].concat()).expect_success();
    assert!(said.stderr.contains("an image took"), "{said:#?}");
    let annotations = experiment.path("data/val.json");
    let arguments = [
        "eval",
        "--annotations",
        &annotations,
        "--detections",
        &found,
    ];
    run(&[&arguments[..], &["--json", &again]].concat()).expect_success();
    assert_eq!(experiment.json("a.json"), experiment.json("b.json"));
    assert!(experiment.json("a.json")["classes"].is_array());
}

#[test]
fn what_does_not_go_together_is_refused() {
    for arguments in [
        &["--compare", "a", "b", "--run", "c"][..],
        &["--compare", "a", "b", "--config", "c"],
        &["--compare", "a", "b", "--detections", "c"],
        &["--compare", "a", "b", "--score", "0.5"],
        &["--compare", "a", "b", "--compare", "c", "d"],
        &["--compare", "a"],
        &["--run", "a", "--detections", "b"],
        &["--annotations", "a", "--detections", "b", "--flip"],
        &["--annotations", "a", "--detections", "b", "--config", "c"],
        &["--run", "a", "--samples", "3"],
        &["--run", "a", "--score", "7"],
        &["--run", "a", "--tile-overlap", "0.1"],
    ] {
        let finished = run(&[&["eval"], arguments].concat());
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:#?}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_told_and_costs_nothing() {
    let experiment = Experiment::new();
    experiment.train("well", &[]).expect_success();
    experiment
        .train("short", &["--set", "train.iterations=3"])
        .expect_success();
    // Nothing can be renamed over a folder that holds something.
    fs_err::remove_file(experiment.path("short/report.html")).unwrap();
    fs_err::create_dir_all(experiment.path("short/report.html/full")).unwrap();
    let finished = experiment.train("short", &["--resume"]).expect_success();
    assert!(
        finished.stderr.contains("the report was not written"),
        "{finished:#?}"
    );
    assert_eq!(
        crate::training::losses(&experiment, "well"),
        crate::training::losses(&experiment, "short")
    );
}
