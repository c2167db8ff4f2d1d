//! Every class loss and every choice of anchors, trained with for a few steps.

use retinanet_tests::Experiment;

use crate::training::{losses, steps};

/// Trains with these settings of `criterion`, or of `model` where they say so.
fn train(experiment: &Experiment, run: &str, settings: &[&str]) {
    let set: Vec<String> = settings
        .iter()
        .map(|setting| match setting.strip_prefix("model.") {
            Some(_) => (*setting).to_owned(),
            None => format!("criterion.{setting}"),
        })
        .collect();
    let arguments: Vec<&str> = set.iter().flat_map(|it| ["--set", it]).collect();
    experiment.train(run, &arguments).expect_success();
}

#[test]
fn every_loss_and_every_sampling_trains_in_its_own_way() {
    let experiment = Experiment::new();
    let kinds: [&[&str]; 11] = [
        &[],
        &["class.kind=cross_entropy"],
        &["class.kind=balanced_cross_entropy", "class.alpha=0.75"],
        &["class.alpha=none"],
        &["class.alpha=effective_number"],
        &["class.kind=focal_star", "class.beta=1.0"],
        &["class.label_smoothing=0.01"],
        &["sampling.kind=random"],
        &["sampling.kind=ohem", "sampling.examples=32"],
        &["model.head.scores=softmax"],
        &["model.head.scores=softmax", "sampling.kind=ohem"],
    ];
    let mut seen = Vec::new();
    for (number, settings) in kinds.iter().enumerate() {
        let run = format!("run-{number}");
        train(&experiment, &run, settings);
        let of_run = losses(&experiment, &run);
        assert_eq!(of_run.len(), 6);
        assert!(!seen.contains(&of_run), "{settings:?}");
        seen.push(of_run);
    }
}

#[test]
fn a_softmax_refuses_what_is_made_for_sigmoids() {
    let softmax = ["--set", "model.head.scores=softmax", "--set"];
    for setting in [
        "criterion.class.kind=focal_star",
        "criterion.class.alpha=effective_number",
        "criterion.class.label_smoothing=0.1",
    ] {
        let key = setting.split('=').next().unwrap();
        let finished = Experiment::new().train("run", &[&softmax[..], &[setting]].concat());
        finished.expect_refusal(2, &[key, "softmax"]);
    }
}

/// Section 3.3: at first every element has the probability π, so that cross-entropy is
/// P · −log π + M · −log(1 − π) over P positive elements and M negative ones, divided by P.
#[test]
fn without_the_prior_the_first_loss_is_larger_by_what_the_formula_gives() {
    let experiment = Experiment::new();
    let first = |prior: f64| {
        let (run, prior) = (format!("run-{prior}"), format!("model.head.prior={prior}"));
        train(&experiment, &run, &["class.kind=cross_entropy", &prior]);
        let step = steps(&experiment, &run).remove(0);
        ["class_loss", "positives"].map(|key| step[key].as_f64().unwrap())
    };
    let [half, positives] = first(0.5);
    assert!(positives > 0.0);
    let negatives = half * positives / std::f64::consts::LN_2 - positives;
    for prior in [0.01, 0.1] {
        let sum = -positives * f64::ln(prior) - negatives * f64::ln_1p(-prior);
        let [found, _] = first(prior);
        let expected = sum / positives;
        assert!(
            (found / expected - 1.0).abs() < 0.01,
            "{found}, not {expected}"
        );
        assert!(half > 3.0 * found);
    }
}

#[test]
fn fewer_anchors_have_less_loss() {
    let experiment = Experiment::new();
    let first = |run: &str, settings: &[&str]| {
        train(&experiment, run, settings);
        steps(&experiment, run)[0]["class_loss"].as_f64().unwrap()
    };
    let plain = "class.kind=cross_entropy";
    let all = first("all", &[plain]);
    let chosen = |more: &str, run: &str| first(run, &[plain, "sampling.kind=ohem", more]);
    let few = chosen("sampling.examples=8", "few");
    let more = chosen("sampling.examples=64", "more");
    assert!(0.0 < few && few < more && more < all, "{few} {more} {all}");
}

#[test]
fn a_run_that_draws_anchors_goes_on_to_the_same_losses() {
    let experiment = Experiment::new();
    let random = "criterion.sampling.kind=random";
    let whole = ["--set", random];
    experiment.train("whole", &whole).expect_success();
    let half = ["--set", random, "--set", "train.iterations=6"];
    experiment.train("half", &half).expect_success();
    // Back to the checkpoint before the last.
    let checkpoints = experiment.path("half/checkpoints");
    fs_err::remove_dir_all(format!("{checkpoints}/last")).unwrap();
    experiment
        .train("half", &["--set", random, "--resume"])
        .expect_success();
    assert_eq!(losses(&experiment, "whole"), losses(&experiment, "half"));
}
