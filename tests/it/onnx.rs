//! Graphs that another program runs give what the detector gives: logits, deltas, anchors and detections.
//!
//! The other program is onnxruntime, run by `$RETINANET_PYTHON` or `python3`; where it is not installed, the tests say so
//! and pass.

mod case;
mod configs;
mod network;

use std::path::Path;
use std::process::Command;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use retinanet_onnx::{GraphOutput, OnnxOptions, PixelType, to_onnx};
use retinanet_tests::{Experiment, Finished, run, shared};
use serde_json::{Value, json};

use self::case::Case;
use self::configs::{any_case, of_config, of_file};

const CASES: usize = 50;

#[test]
fn random_detectors_agree() {
    let mut runner = TestRunner::deterministic();
    let folder = tempfile::tempdir().unwrap();
    for number in 0..CASES {
        let case = any_case().new_tree(&mut runner).unwrap().current();
        case.write(&folder.path().join(format!("{number:02}")));
    }
    compare(folder.path());
}

#[test]
fn presets_and_the_best_of_bccd_agree_on_photos_at_three_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let photos = shared("bccd").map(|data| data.join("images"));
    let best = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/bccd_r18_best.toml");
    let presets = [
        "torchvision",
        "torchvision_v2",
        "detectron2",
        "mmdetection",
        "atss",
        "gfl",
        "varifocal",
    ];
    let configs = presets.map(|name| (name, of_config(&format!("preset = \"{name}\""))));
    for (name, config) in configs.into_iter().chain([("bccd", of_file(&best))]) {
        for (batch, size) in [(1, [256, 320]), (3, [128, 160]), (1, [203, 331])] {
            let case = Case {
                config: config.clone(),
                classes: 20,
                batch,
                size,
                photos: photos.clone(),
                options: OnnxOptions::default(),
                seed: 1,
            };
            let [height, width] = size;
            case.write(
                &folder
                    .path()
                    .join(format!("{name}_{batch}x{height}x{width}")),
            );
        }
    }
    compare(folder.path());
}

/// The weights are the file: no more than a hundredth goes to the rest.
#[test]
fn a_resnet50_takes_little_more_than_its_weights() {
    let case = Case {
        config: of_config("preset = \"detectron2\""),
        classes: 80,
        batch: 1,
        size: [64, 64],
        photos: None,
        options: OnnxOptions::default(),
        seed: 0,
    };
    let (detector, _) = case.detector();
    let statistics = 2 * 26_560;
    let frozen_norms = 2 * 26_560;
    let numbers = detector.model().count_parameters() + frozen_norms + statistics;
    for (output, half) in [
        (GraphOutput::Detections, false),
        (GraphOutput::Raw, false),
        (GraphOutput::Detections, true),
    ] {
        let options = OnnxOptions {
            output,
            half,
            ..OnnxOptions::default()
        };
        let bytes = to_onnx(&detector, &case.config, options).unwrap().len();
        let expected = numbers * if half { 2 } else { 4 };
        let ratio = bytes as f64 / expected as f64;
        assert!((1.0..1.01).contains(&ratio), "{ratio} of {expected} bytes");
    }
}

#[test]
fn soft_suppression_is_refused_by_name_unless_the_graph_is_raw() {
    let mut config = of_config("model.width = 8");
    config.decode.nms = serde_json::from_value(json!({ "kind": "soft_linear" })).unwrap();
    let case = Case {
        config,
        classes: 2,
        batch: 1,
        size: [64, 64],
        photos: None,
        options: OnnxOptions::default(),
        seed: 0,
    };
    let (detector, _) = case.detector();
    let export = |output| {
        let options = OnnxOptions {
            output,
            input: PixelType::Float32,
            ..OnnxOptions::default()
        };
        to_onnx(&detector, &case.config, options)
    };
    assert_eq!(
        export(GraphOutput::Detections).unwrap_err().to_string(),
        "`nms.kind` must be \"hard\" for a graph that suppresses, since ONNX has no soft suppression; a raw graph leaves it \
         to who reads it, got \"soft_linear\""
    );
    assert!(export(GraphOutput::Raw).is_ok());
}

#[test]
fn the_documents_example_finds_what_predict_finds() {
    const EXAMPLE: &str = include_str!("onnx/example.py");
    let document = include_str!("../../docs/deploy.md");
    assert!(document.contains(EXAMPLE), "docs/deploy.md shows another");

    let experiment = Experiment::new();
    experiment.train_to_find("run").expect_success();
    let [run_dir, graph] = ["run", "detector.onnx"].map(|name| experiment.path(name));
    let export = [
        "export", "--run", &run_dir, "--format", "onnx", "--out", &graph,
    ];
    run(&export).expect_success();

    // Not resized, so that no pixel is rounded otherwise.
    let photo = experiment.path("data/images/val_00000.png");
    let (ours, rendered) = (experiment.path("ours.json"), experiment.path("rendered"));
    let predict = [
        "predict", "--run", &run_dir, &photo, "--json", &ours, "--out", &rendered,
    ];
    run(&[&predict[..], &["--score", "0.05"]].concat()).expect_success();
    let (ours, classes) = (
        experiment.json("ours.json"),
        experiment.json("run/classes.json"),
    );
    let ours = ours.as_array().unwrap();
    let name_of = |id: &Value| {
        let mut classes = classes.as_array().unwrap().iter();
        let class = classes.find(|class| class["category"] == *id).unwrap();
        class["name"].as_str().unwrap().to_owned()
    };
    assert!(ours.len() > 3, "too few to compare: {ours:?}");

    let Some(mut python) = python("onnxruntime, PIL") else {
        return;
    };
    let example = (EXAMPLE.replace("photo.jpg", "data/images/val_00000.png"))
        .replace("found.jpg", "found.png")
        .replace("0.3:", "0.05:");
    let example = experiment.write("example.py", &example);
    let root = experiment.path("");
    let told = python.arg(example).current_dir(root).output().unwrap();
    let told = Finished::from(told).expect_success().stdout;
    let theirs: Vec<Vec<&str>> = (told.lines())
        .map(|line| line.split(' ').collect())
        .collect();
    assert_eq!(theirs.len(), ours.len(), "{told}");
    for (theirs, ours) in theirs.iter().zip(ours) {
        let [class, score, x1, y1, x2, y2] = theirs[..] else {
            panic!("{theirs:?}")
        };
        assert_eq!(class, name_of(&ours["category_id"]), "{told}");
        let number = |text: &str| text.parse::<f64>().unwrap();
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(number);
        let theirs = [number(score), x1, y1, x2 - x1, y2 - y1];
        let bbox = ours["bbox"].as_array().unwrap().iter();
        let ours = [&ours["score"]].into_iter().chain(bbox).map(Value::as_f64);
        for (theirs, ours) in theirs.into_iter().zip(ours) {
            let difference = (theirs - ours.unwrap()).abs();
            assert!(difference < 0.02, "{theirs} and {ours:?}");
        }
    }
    assert!(Path::new(&experiment.path("found.png")).exists());
}

#[test]
fn what_a_graph_cannot_say_and_what_it_has_no_use_for_is_refused() {
    let experiment = Experiment::new();
    let more = ["--set", "eval.nms.kind=soft_gaussian"];
    experiment.train("run", &more).expect_success();
    let [run_dir, graph] = ["run", "detector"].map(|name| experiment.path(name));
    let export = |more: &[&str]| {
        let first = ["export", "--run", &run_dir, "--out", &graph];
        run(&[&first[..], more].concat())
    };
    for (more, parts) in [
        (
            &["--format", "onnx"][..],
            &["`eval.nms.kind`", "\"hard\"", "soft_gaussian"][..],
        ),
        (&["--raw"], &["`--raw`", "--format onnx"]),
        (
            &["--format", "onnx", "--names", "torchvision"],
            &["`--names`"],
        ),
        (&["--format", "onnx", "--backbone"], &["`--backbone`"]),
        (&["--check"], &["`--check`", "--format onnx"]),
    ] {
        export(more).expect_refusal(2, parts);
        assert!(!Path::new(&graph).exists());
    }
    export(&["--format", "onnx", "--raw"]).expect_success();
}

/// Has the other program run all cases below the folder.
fn compare(cases: &Path) {
    let Some(mut python) = python("onnx, onnxruntime") else {
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/check_onnx.py");
    let compared = python.arg(script).arg(cases).output().unwrap();
    Finished::from(compared).expect_success();
}

/// Python, if it has these modules; else the reason is printed.
#[expect(clippy::print_stderr, reason = "a skipped test tells why")]
fn python(modules: &str) -> Option<Command> {
    let python = std::env::var("RETINANET_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = format!("import {modules}");
    let imported = Command::new(&python).args(["-c", &import]).output();
    if imported.is_ok_and(|it| it.status.success()) {
        return Some(Command::new(python));
    }
    eprintln!(
        "skipped: `{python}` cannot import {modules}; pip installs them, and RETINANET_PYTHON names another"
    );
    None
}
