//! From a config to a run directory, and on to evaluation, export and prediction.

use retinanet_tests::{Experiment, run};
use serde_json::Value;

#[test]
fn a_run_leaves_what_the_readme_promises() {
    let experiment = Experiment::new();
    let finished = experiment.train("run", &[]).expect_success();
    assert!(
        finished.stdout.contains("retinanet eval --run"),
        "{finished:#?}"
    );
    for name in [
        "config.toml",
        "classes.json",
        "log.txt",
        "report.html",
        "eval/analysis.json",
        "eval/detections.json",
        "eval/loss_shares.json",
        "eval/step-3.json",
        "eval/step-6.json",
        "checkpoints/last/state.json",
        "checkpoints/best/state.json",
        "checkpoints/step-4/state.json",
    ] {
        assert!(
            !experiment.bytes(&format!("run/{name}")).is_empty(),
            "{name}"
        );
    }

    let log = String::from_utf8(experiment.bytes("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_kind = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((of_kind("step"), of_kind("evaluation")), (6, 2));
    let first = lines[0]["loss"].as_f64().unwrap();
    // With every class at π = 0.01, an easy negative costs next to nothing: the loss is carried by
    // the positives, α (1 - π)² ln 100 = 1.13 each, and their boxes.
    assert!((1.1..3.0).contains(&first), "first loss {first}");
}

#[test]
fn eval_of_the_run_and_of_its_export_give_the_ap_that_training_printed() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let state = experiment.json("run/checkpoints/best/state.json");
    let best = state["iteration"].as_u64().unwrap();
    let printed = experiment.json(&format!("run/eval/step-{best}.json"));
    assert_eq!(printed["AP"], state["best"]);

    let (root, json) = (experiment.path("run"), experiment.path("eval.json"));
    run(&["eval", "--run", &root, "--json", &json]).expect_success();
    assert_eq!(experiment.json("eval.json")["metrics"], printed);

    let weights = experiment.path("weights.safetensors");
    run(&["export", "--run", &root, "--out", &weights]).expect_success();
    let config = experiment.path("run/config.toml");
    let arguments = [
        "eval",
        "--weights",
        &weights,
        "--config",
        &config,
        "--json",
        &json,
    ];
    run(&arguments).expect_success();
    assert_eq!(experiment.json("eval.json")["metrics"], printed);
}

#[test]
fn predict_draws_every_image_and_writes_coco_results() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let (root, images) = (experiment.path("run"), experiment.path("data/images"));
    let (out, json) = (experiment.path("out"), experiment.path("found.json"));
    let arguments = [
        "predict", "--run", &root, &images, "--out", &out, "--json", &json, "--score", "0.001",
    ];
    run(&arguments).expect_success();

    let drawn = fs_err::read_dir(&out).unwrap().count();
    assert_eq!(drawn, 9);
    let found = experiment.json("found.json");
    let first = &found[0];
    assert_eq!(first["file_name"], "train_00000.png");
    assert!([1, 2, 4, 7].contains(&first["category_id"].as_u64().unwrap()));
    let bbox: Vec<f64> = serde_json::from_value(first["bbox"].clone()).unwrap();
    assert!(bbox[2] > 0.0 && bbox[0] + bbox[2] <= 64.0, "{bbox:?}");
    assert!(first["score"].as_f64().unwrap() >= 0.001);
}

#[test]
fn the_same_seed_gives_the_same_run_with_any_number_of_workers() {
    let experiment = Experiment::new();
    experiment
        .train("one", &["--set", "data.workers=0"])
        .expect_success();
    experiment
        .train("two", &["--set", "data.workers=3"])
        .expect_success();
    experiment
        .train("other", &["--set", "seed=6"])
        .expect_success();
    let model = |run: &str| experiment.bytes(&format!("{run}/checkpoints/last/model.bpk"));
    let weights = |run: &str| {
        let json = experiment.path("eval.json");
        let root = experiment.path(run);
        run_eval(&root, &json);
        experiment.json("eval.json")
    };
    // Parameter ids differ from run to run, so files differ; what they hold does not.
    assert_eq!(model("one").len(), model("two").len());
    assert_eq!(losses(&experiment, "one"), losses(&experiment, "two"));
    assert_ne!(losses(&experiment, "one"), losses(&experiment, "other"));
    assert_eq!(weights("one"), weights("two"));
}

fn run_eval(root: &str, json: &str) -> retinanet_tests::Finished {
    run(&["eval", "--run", root, "--json", json]).expect_success()
}

/// Each step's loss and gradient norm, as the log has them.
pub(crate) fn losses(experiment: &Experiment, run: &str) -> Vec<(String, String)> {
    (steps(experiment, run).iter())
        .map(|line| (line["loss"].to_string(), line["gradient_norm"].to_string()))
        .collect()
}

/// What the log tells of each step.
pub(crate) fn steps(experiment: &Experiment, run: &str) -> Vec<Value> {
    let log = String::from_utf8(experiment.bytes(&format!("{run}/metrics.jsonl"))).unwrap();
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["kind"] == "step")
        .collect()
}

#[test]
fn of_equal_evaluations_the_latest_is_the_best_and_another_can_be_asked_for() {
    let experiment = Experiment::new();
    // Nothing is found, so that AP is 0 each time.
    let nothing = ["--set", "eval.score_threshold=0.99"];
    experiment.train("run", &nothing).expect_success();
    let state = experiment.json("run/checkpoints/best/state.json");
    assert_eq!(state["iteration"], 6);
    assert_eq!(state["best_iteration"], 6);
    let trained = experiment.path("run");
    let evaluate = |more: &[&str]| run(&[&["eval", "--run", &trained][..], more].concat());
    let said = evaluate(&[]).expect_success().stderr;
    assert!(
        said.contains("checkpoints/best, step 6 of 6, AP 0.0000"),
        "{said}"
    );
    let said = evaluate(&["--checkpoint", "step-4"])
        .expect_success()
        .stderr;
    assert!(said.contains("checkpoints/step-4, step 4 of 6"), "{said}");
    let there = "it has last, best, step-4";
    evaluate(&["--checkpoint", "step-5"]).expect_refusal(2, &["no checkpoint `step-5`", there]);
    evaluate(&["--checkpoint", "5"]).expect_refusal(2, &["last, best or step-N"]);
}
