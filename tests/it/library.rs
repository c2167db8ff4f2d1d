//! The detector as a library, as the README shows it.

use std::path::Path;

use retinanet_tests::{Experiment, run};

#[expect(
    clippy::print_stdout,
    unreachable_pub,
    reason = "the README shows it to programs, which print"
)]
mod example;

#[test]
fn the_readmes_example_detects_what_predict_does() {
    let readme = include_str!("../../README.md");
    assert!(
        readme.contains(include_str!("library/example.rs").trim_end()),
        "the README shows other code"
    );
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let root = experiment.path("run");
    let photo = experiment.path("data/images/val_00000.png");
    example::print_objects(Path::new(&root), Path::new(&photo)).unwrap();

    let json = experiment.path("found.json");
    run(&[
        "predict",
        "--run",
        &root,
        "--score",
        "0",
        "--no-drawings",
        "--json",
        &json,
        &photo,
    ])
    .expect_success();
    let device = burn::tensor::Device::flex();
    let detector = retinanet_trainer::Detector::open(Path::new(&root), &device).unwrap();
    let found = detector.detect_file(Path::new(&photo)).unwrap();
    let printed = experiment.json("found.json");
    let printed = printed.as_array().unwrap();
    assert!(!found.is_empty());
    assert_eq!(found.len(), printed.len());
    for (found, printed) in found.iter().zip(printed) {
        let score = printed["score"].as_f64().unwrap();
        assert!((f64::from(found.score) - score).abs() < 1e-6);
        let bbox: [f64; 4] = serde_json::from_value(printed["bbox"].clone()).unwrap();
        assert_eq!(found.bbox.to_xywh(), bbox);
        let category = detector.classes().category(found.class).unwrap();
        assert_eq!(category.0, printed["category_id"].as_u64().unwrap());
    }
}
