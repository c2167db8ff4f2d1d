//! The detector as a library, as `docs/serving.md` shows it.

use std::path::Path;

use burn::tensor::Device;
use retinanet_detector::Detector;
use retinanet_tests::{Experiment, run};
use retinanet_trainer::fingerprint;

#[expect(
    clippy::print_stdout,
    unreachable_pub,
    reason = "docs/serving.md shows it to programs, which print"
)]
mod example;
#[expect(
    clippy::print_stdout,
    unreachable_pub,
    reason = "docs/training.md shows it to programs, which print"
)]
mod training;

#[test]
fn the_readmes_example_detects_what_predict_does() {
    let readme = include_str!("../../docs/serving.md");
    assert!(
        readme.contains(include_str!("library/example.rs").trim_end()),
        "docs/serving.md shows other code"
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
    let detector = Detector::open(Path::new(&root), &Device::flex()).unwrap();
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

#[test]
fn a_run_that_a_library_launches_is_the_programs() {
    let document = include_str!("../../docs/training.md");
    assert!(
        document.contains(include_str!("library/training.rs").trim_end()),
        "docs/training.md shows other code"
    );
    let experiment = Experiment::new();
    experiment.train("program", &[]).expect_success();
    let (config, own) = (experiment.path("tiny.toml"), experiment.path("library"));
    training::train(config.as_ref(), own.as_ref()).unwrap();
    let losses = |run: &str| crate::training::losses(&experiment, run);
    assert_eq!(losses("library"), losses("program"));

    let again = training::train(config.as_ref(), own.as_ref()).unwrap_err();
    assert!(again.to_string().contains("holds"), "{again}");
}

#[test]
fn a_checkpoint_is_all_that_it_takes_and_a_damaged_one_is_named() {
    let experiment = Experiment::new();
    let averaged = ["--set", "train.ema_decay=0.5"];
    experiment.train("run", &averaged).expect_success();
    let alone = tempfile::tempdir().unwrap();
    let best = experiment.path("run/checkpoints/best");
    for entry in fs_err::read_dir(&best).unwrap() {
        let file = entry.unwrap().path();
        fs_err::copy(&file, alone.path().join(file.file_name().unwrap())).unwrap();
    }
    let photo = experiment.path("data/images/val_00000.png");
    let open = |path: &Path| Detector::open(path, &Device::flex());
    let found = |path: &Path| open(path).unwrap().detect_file(Path::new(&photo)).unwrap();
    let expected = found(Path::new(&experiment.path("run")));
    assert!(!expected.is_empty());
    assert_eq!(found(alone.path()), expected);

    let average = alone.path().join("average.bpk");
    let content = fs_err::read(&average).unwrap();
    fs_err::write(&average, &content[..content.len() / 2]).unwrap();
    let message = open(alone.path()).err().unwrap().to_string();
    assert!(message.contains("average.bpk"), "{message}");
    let nowhere = experiment.path("data");
    let message = open(Path::new(&nowhere)).err().unwrap().to_string();
    assert!(message.contains("neither a run"), "{message}");
}

#[test]
fn of_a_run_the_best_counts_even_where_a_kill_left_it_aside() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let path = |name: &str| experiment.path(&format!("run/checkpoints/{name}"));
    let open = || Detector::open(Path::new(&experiment.path("run")), &Device::flex());
    let hash = || fingerprint(open().unwrap().model());
    // The last is another, so that it is seen which one was taken.
    let best = hash();
    fs_err::remove_dir_all(path("last")).unwrap();
    fs_err::rename(path("step-4"), path("last")).unwrap();
    fs_err::rename(path("best"), path("best.old")).unwrap();
    assert_eq!(hash(), best);
    fs_err::remove_dir_all(path("best.old")).unwrap();
    assert_ne!(hash(), best);

    // As a version before seals wrote it.
    let state = format!("{}/state.json", path("last"));
    let text = fs_err::read_to_string(&state).unwrap();
    let (before, _) = text.split_once(",\n  \"crc32\"").unwrap();
    fs_err::write(&state, format!("{before}\n}}")).unwrap();
    let message = open().err().unwrap().to_string();
    assert!(message.contains("older version"), "{message}");
}
