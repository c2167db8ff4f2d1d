//! Inputs made after public bug reports about other programs, and what a user should see.

use retinanet_tests::{Experiment, Finished, run, shared};

/// Trains on one of the cases; nothing where they are absent.
fn train(experiment: &Experiment, case: &str, more: &[&str]) -> Option<Finished> {
    let reported = shared("reported")?;
    let config = reported.join("tiny.toml");
    let root = format!("data.root={}", reported.join(case).display());
    let run_dir = experiment.path("run");
    let arguments = [
        "train",
        config.to_str()?,
        "--run-dir",
        &run_dir,
        "--set",
        &root,
    ];
    Some(run(&[&arguments, more].concat()))
}

#[test]
fn validation_without_boxes_has_no_best_and_the_last_weights_are_used() {
    let experiment = Experiment::new();
    let Some(trained) = train(&experiment, "23-val-no-boxes", &[]) else {
        return;
    };
    let trained = trained.expect_success();
    assert!(trained.stdout.contains("AP is undefined"), "{trained:#?}");
    assert!(!trained.stderr.contains("(best)"), "{trained:#?}");
    assert!(!std::path::Path::new(&experiment.path("run/checkpoints/best")).exists());
    let evaluated = run(&["eval", "--run", &experiment.path("run")]).expect_success();
    assert!(
        evaluated.stderr.contains("checkpoints/last, step"),
        "{evaluated:#?}"
    );
}

#[test]
fn what_no_image_is_in_a_folder_is_counted_and_said() {
    let Some(reported) = shared("reported") else {
        return;
    };
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let photos = reported.join("50-predict-folder");
    let (trained, found) = (experiment.path("run"), experiment.path("found.json"));
    let photos = photos.to_str().unwrap();
    let arguments = [
        "predict",
        "--run",
        &trained,
        photos,
        "--no-drawings",
        "--json",
        &found,
    ];
    let said = run(&arguments).expect_success();
    let left_out = "left out: 1 .db, 1 .txt, 2 hidden files";
    assert!(said.stderr.contains(left_out), "{said:#?}");
    assert!(said.stdout.contains("on 8 images"), "{said:#?}");
}

#[test]
fn a_run_goes_on_with_no_other_classes() {
    let experiment = Experiment::new();
    let half = ["--set", "train.iterations=2"];
    let Some(began) = train(&experiment, "base", &half) else {
        return;
    };
    began.expect_success();
    let weights = || fs_err::read(experiment.path("run/checkpoints/last/model.bpk")).unwrap();
    let before = weights();
    let more = ["--resume", "--set", "train.iterations=4"];
    let resumed = train(&experiment, "90-resume-reexported", &more).unwrap();
    resumed.expect_refusal(
        1,
        &["other categories", "category 1 was `red` and is `blue`"],
    );
    assert_eq!(weights(), before);
    train(&experiment, "base", &more).unwrap().expect_success();
}
