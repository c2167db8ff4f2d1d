//! Graphs that another program runs give what the detector gives: logits, deltas, anchors and detections.
//!
//! The other program is onnxruntime, through `scripts/check_onnx.py`, run by `$RETINANET_PYTHON` or `python3`; where it
//! is not installed, the tests say so and pass.

mod case;
mod configs;
mod network;

use std::path::Path;
use std::process::Command;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use retinanet_onnx::{GraphOutput, OnnxOptions, PixelType, to_onnx};
use serde_json::json;

use crate::case::Case;
use crate::configs::{any_case, preset};

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
fn presets_agree_at_three_sizes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["torchvision", "torchvision_v2", "detectron2", "mmdetection"] {
        for (batch, size) in [(1, [256, 320]), (3, [128, 160]), (1, [203, 331])] {
            let case = Case {
                config: preset(name),
                classes: 20,
                batch,
                size,
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
        config: preset("detectron2"),
        classes: 80,
        batch: 1,
        size: [64, 64],
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
    let mut config = preset("detectron2");
    config.decode.nms = serde_json::from_value(json!({ "kind": "soft_linear" })).unwrap();
    let case = Case {
        config,
        classes: 2,
        batch: 1,
        size: [64, 64],
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

/// Has the other program run all cases below the folder.
fn compare(cases: &Path) {
    let python = std::env::var("RETINANET_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let modules = Command::new(&python)
        .args(["-c", "import onnx, onnxruntime"])
        .output();
    if !modules.is_ok_and(|it| it.status.success()) {
        println!(
            "skipped: `{python}` has no onnx and onnxruntime (`pip install onnx onnxruntime`)"
        );
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/check_onnx.py");
    let compared = Command::new(&python)
        .arg(script)
        .arg(cases)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&compared.stdout);
    let error = String::from_utf8_lossy(&compared.stderr);
    assert!(compared.status.success(), "{told}\n{error}");
}
