//! Runs that are left alone: what they survive, and what they tell.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use retinanet_tests::{Experiment, retinanet, run};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::training::{losses, steps};

/// The hash of a run's newest weights.
pub(crate) fn weights(experiment: &Experiment, name: &str) -> String {
    let finished = run(&["runs", &experiment.path(name), "--hash"]).expect_success();
    let line = finished.stdout.lines().last().unwrap().to_owned();
    line.split_whitespace().last().unwrap().to_owned()
}

/// All tensors of f32 that a run's checkpoint exports, by their names.
pub(crate) fn exported(
    experiment: &Experiment,
    name: &str,
    checkpoint: &str,
) -> BTreeMap<String, Vec<f32>> {
    let root = experiment.path(name);
    let out = experiment.path(&format!("{name}.safetensors"));
    let checkpoint = ["--checkpoint", checkpoint];
    let arguments = [&["export", "--run", &root, "--out", &out], &checkpoint[..]].concat();
    run(&arguments).expect_success();
    let bytes = fs_err::read(out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |bytes: &[u8]| -> Vec<f32> {
        let numbers = bytes.as_chunks().0.iter();
        numbers.map(|it| f32::from_le_bytes(*it)).collect()
    };
    let tensors = file.tensors().into_iter();
    tensors
        .filter(|(_, tensor)| tensor.dtype() == Dtype::F32)
        .map(|(name, tensor)| (name, values(tensor.data())))
        .collect()
}

/// The losses on the validation images, evaluation by evaluation.
fn validation(experiment: &Experiment, name: &str) -> Vec<String> {
    let log = String::from_utf8(experiment.bytes(&format!("{name}/metrics.jsonl"))).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let evaluations = lines.filter(|line| line["kind"] == "evaluation");
    evaluations.map(|line| line["loss"].to_string()).collect()
}

pub(crate) fn set<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|set| ["--set", *set]).collect()
}

#[test]
fn a_batch_in_parts_gives_the_losses_and_gradients_of_the_whole() {
    let experiment = Experiment::new();
    // A norm that learns sees each part by itself.
    let settings = ["model.norm=group_norm", "train.batch_size=8"];
    experiment.train("whole", &set(&settings)).expect_success();
    let in_parts = [&settings[..], &["train.accumulate=4"]].concat();
    experiment.train("parts", &set(&in_parts)).expect_success();

    let (whole, parts) = (steps(&experiment, "whole"), steps(&experiment, "parts"));
    assert_eq!(whole.len(), 6);
    for (whole, parts) in whole.iter().zip(&parts) {
        for key in ["loss", "class_loss", "box_loss", "gradient_norm"] {
            let [whole, parts] = [whole, parts].map(|step| step[key].as_f64().unwrap());
            assert!(
                (whole / parts - 1.0).abs() < 1e-5,
                "{key}: {whole}, {parts}"
            );
        }
        assert_eq!(whole["images"], parts["images"]);
        assert_eq!(whole["positives"], parts["positives"]);
    }
}

#[test]
fn computing_activations_anew_changes_no_number() {
    let experiment = Experiment::new();
    experiment.train("kept", &[]).expect_success();
    let anew = set(&["compute.gradient_checkpointing=true"]);
    experiment.train("anew", &anew).expect_success();
    assert_eq!(losses(&experiment, "anew"), losses(&experiment, "kept"));
    assert_eq!(weights(&experiment, "anew"), weights(&experiment, "kept"));
}

/// What the run says at its start is what it does.
#[test]
fn the_learning_rate_is_the_one_that_was_announced() {
    let experiment = Experiment::new();
    let settings = [
        "schedule.milestones=[4]",
        "schedule.factor=0.5",
        "optimizer.lr=0.08",
    ];
    let finished = experiment.train("run", &set(&settings)).expect_success();
    let announced = "6 steps, learning rate 0.01 (0.08 for 16 images a batch, here 2), \
                     warm-up over 2 steps, ×0.5 after step 4";
    assert!(finished.stderr.contains(announced), "{}", finished.stderr);
    let rates: Vec<f64> = (steps(&experiment, "run").iter())
        .map(|step| step["lr"].as_f64().unwrap())
        .collect();
    // The warm-up starts at a thousandth, half way between it is at (1 + 0.001) / 2.
    let expected = [0.00001, 0.005_005, 0.01, 0.01, 0.005, 0.005];
    for (rate, expected) in rates.iter().zip(expected) {
        assert!((rate / expected - 1.0).abs() < 1e-9, "{rates:?}");
    }
}

#[test]
fn an_average_of_the_weights_is_what_is_evaluated_and_survives_resuming() {
    let experiment = Experiment::new();
    let settings = set(&["train.ema_decay=0.9"]);
    experiment.train("whole", &settings).expect_success();
    experiment.train("plain", &[]).expect_success();
    assert_eq!(losses(&experiment, "whole"), losses(&experiment, "plain"));
    let evaluation = |name: &str| experiment.json(&format!("{name}/eval/step-6.json"));
    let average = experiment.bytes("whole/checkpoints/last/average.bpk");
    let weights = experiment.bytes("whole/checkpoints/last/model.bpk");
    assert_ne!(average, weights);

    let weights_now = || {
        let hash = self::weights(&experiment, "whole");
        (hash, validation(&experiment, "whole"))
    };
    let (hash, losses) = weights_now();
    assert!(hash.contains('+'), "{hash}");
    assert_ne!(losses, validation(&experiment, "plain"));
    fs_err::remove_dir_all(experiment.path("whole/checkpoints/last")).unwrap();
    let before = evaluation("whole");
    let resumed = [&settings[..], &["--resume"]].concat();
    experiment.train("whole", &resumed).expect_success();
    assert_eq!(evaluation("whole"), before);
    assert_eq!(weights_now(), (hash, validation(&experiment, "whole")));

    // A model that is evaluated by itself takes the average too.
    let (root, json) = (experiment.path("whole"), experiment.path("eval.json"));
    run(&["eval", "--run", &root, "--json", &json]).expect_success();
    let best = experiment.json("whole/checkpoints/best/state.json");
    let best = best["iteration"].as_u64().unwrap();
    let printed = experiment.json(&format!("whole/eval/step-{best}.json"));
    assert_eq!(experiment.json("eval.json")["metrics"], printed);
}

#[test]
fn frozen_stages_learn_from_the_step_on_that_is_given_and_so_when_resumed() {
    let experiment = Experiment::new();
    let settings = [
        "model.freeze_at=5",
        "train.unfreeze_at=3",
        "train.ema_decay=0.9",
    ];
    let settings = set(&settings);
    let thawed = experiment.train("thawed", &settings).expect_success();
    assert!(
        thawed.stderr.contains("step 3: everything learns"),
        "{thawed:#?}"
    );
    let frozen = set(&["model.freeze_at=5"]);
    experiment.train("frozen", &frozen).expect_success();
    let (thawed, frozen) = (losses(&experiment, "thawed"), losses(&experiment, "frozen"));
    assert_eq!(thawed[..3], frozen[..3]);
    // The first step with more to learn has more gradients.
    assert_ne!(thawed[3], frozen[3]);

    let whole = weights(&experiment, "thawed");
    let validated = validation(&experiment, "thawed");
    assert_eq!(validated.len(), 2);
    fs_err::remove_dir_all(experiment.path("thawed/checkpoints/last")).unwrap();
    let resumed = [&settings[..], &["--resume"]].concat();
    experiment.train("thawed", &resumed).expect_success();
    assert_eq!(losses(&experiment, "thawed"), thawed);
    assert_eq!(validation(&experiment, "thawed"), validated);
    assert_eq!(weights(&experiment, "thawed"), whole);
}

#[test]
fn a_run_without_progress_ends_early_and_stays_ended() {
    let experiment = Experiment::new();
    // Weights that do not move give the same AP, which is not better.
    let settings = ["optimizer.lr=0.0", "train.eval_every=1", "train.patience=2"];
    let finished = experiment.train("run", &set(&settings)).expect_success();
    assert!(
        finished.stdout.contains("stopped at step 3"),
        "{finished:#?}"
    );
    let resumed = [&set(&settings)[..], &["--resume"]].concat();
    let resumed = experiment.train("run", &resumed).expect_success();
    assert!(resumed.stdout.contains("stopped at step 3"), "{resumed:#?}");
}

#[test]
fn resuming_with_another_config_names_what_may_not_change_and_tells_what_did() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let changed = ["optimizer.lr=0.5", "seed=6", "train.iterations=8"];
    let refused = [&set(&changed)[..], &["--resume"]].concat();
    experiment.train("run", &refused).expect_refusal(
        2,
        &[
            "`optimizer.lr` was 0.01 and is 0.5",
            "`seed` was 5 and is 6",
            "config keys",
        ],
    );
    let allowed = [&set(&changed[2..])[..], &["--resume"]].concat();
    let resumed = experiment.train("run", &allowed).expect_success();
    let told = "changed: `train.iterations` was 6 and is 8";
    assert!(resumed.stderr.contains(told), "{resumed:#?}");
    assert_eq!(losses(&experiment, "run").len(), 8);
}

#[test]
fn each_step_tells_how_its_loss_falls_to_the_levels() {
    let experiment = Experiment::new();
    let settings = [
        "train.batch_size=4",
        "train.accumulate=2",
        "train.log_every=2",
    ];
    experiment.train("run", &set(&settings)).expect_success();
    let steps = steps(&experiment, "run");
    for (number, step) in (1..).zip(&steps) {
        if number % 2 != 0 {
            assert!(step["levels"].is_null());
            continue;
        }
        let levels = step["levels"].as_array().unwrap();
        assert_eq!(levels.len(), 5);
        for (part, key) in ["class_loss", "box_loss"].into_iter().enumerate() {
            let sum: f64 = levels.iter().map(|it| it[part].as_f64().unwrap()).sum();
            let whole = step[key].as_f64().unwrap();
            assert!(
                (sum - whole).abs() < 1e-5 * whole.abs(),
                "{key}: {sum}, not {whole}"
            );
        }
    }
    assert!(
        steps
            .iter()
            .all(|step| step["memory"].as_u64() > Some(1 << 20))
    );
    let events = fs_err::read_dir(experiment.path("run")).unwrap();
    let events = events.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("events.out.tfevents.")
    });
    assert_eq!(events.count(), 1);
}

#[test]
fn a_batch_size_is_measured_where_it_is_left_open() {
    let experiment = Experiment::new();
    let settings = set(&["train.batch_size=\"auto\"", "train.iterations=1"]);
    let finished = experiment.train("run", &settings).expect_success();
    let measured = finished.stderr.split("batch size ").nth(1).unwrap();
    let images: usize = measured.split(',').next().unwrap().parse().unwrap();
    assert!((2..=64).contains(&images), "{finished:#?}");
    assert_eq!(steps(&experiment, "run")[0]["images"], images);
    let more = ["train.batch_size=\"auto\"", "train.iterations=2"];
    let resumed = [&set(&more)[..], &["--resume"]].concat();
    experiment.train("run", &resumed).expect_success();
    assert_eq!(steps(&experiment, "run")[1]["images"], images);

    let little = ["train.batch_size=\"auto\"", "train.memory_share=0.000001"];
    experiment
        .train("none", &set(&little))
        .expect_refusal(2, &["`train.memory_share`"]);
}

#[test]
fn a_range_test_proposes_learning_rates() {
    let experiment = Experiment::new();
    let config = experiment.path("tiny.toml");
    let found = run(&["lr-find", &config, "--steps", "40"]).expect_success();
    let lines: Vec<&str> = found.stdout.lines().collect();
    let tried = lines.iter().filter(|line| line.starts_with("lr ")).count();
    assert!(tried > 10, "{found:#?}");
    assert!(
        lines.iter().any(|line| line.starts_with("optimizer.lr = ")),
        "{found:#?}"
    );
}

fn non_finite_report(experiment: &Experiment, run: &str, step: u64) -> Value {
    experiment.json(&format!("{run}/non_finite/step-{step}/report.json"))
}

#[test]
fn an_infinite_pixel_stops_training_by_the_images_name_before_the_weights_are_touched() {
    let experiment = Experiment::new();
    // Whatever is not an exact mean becomes infinite.
    let poison = ["data.normalization.std=[2e-38, 1.0, 1.0]"];
    let stopped = experiment.train("run", &set(&poison));
    stopped.expect_refusal(1, &["step 1", "train_0000", "not finite", "non_finite"]);
    let report = non_finite_report(&experiment, "run", 1);
    let images = report["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(report["images_non_finite"].as_array().unwrap().len(), 2);
    for image in images {
        let picture = image["picture"].as_str().unwrap();
        let path = experiment.path(&format!("run/non_finite/step-1/{picture}"));
        assert_eq!(image::open(path).unwrap().width(), 64);
        assert!(image["objects"].is_array() && image["image_id"].is_u64());
    }
    assert_eq!(report["losses_of_levels"].as_array().unwrap().len(), 5);

    // It is as well known where only the first part of the batch was looked at.
    let in_parts = [poison[0], "train.accumulate=2"];
    experiment
        .train("parts", &set(&in_parts))
        .expect_refusal(1, &["step 1", "train_0000", "not finite"]);
    let report = non_finite_report(&experiment, "parts", 1);
    assert_eq!(report["images"].as_array().unwrap().len(), 2);
}

#[test]
fn a_learning_rate_that_is_far_too_high_is_caught_and_the_last_checkpoint_is_what_it_was() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let before = experiment.json("run/eval/step-6.json");
    let hash = weights(&experiment, "run");
    let text = String::from_utf8(experiment.bytes("run/config.toml")).unwrap();
    let lr = "\nlr = 0.01\n";
    assert!(text.contains(lr), "{text}");
    // As if it had been so from the beginning: resuming refuses another rate.
    experiment.write("run/config.toml", &text.replace(lr, "\nlr = 1000000.0\n"));
    let high = ["optimizer.lr=1000000.0", "train.iterations=40"];
    let high = [
        &set(&high)[..],
        &["--resume", "--set", "train.checkpoint_every=40"],
    ]
    .concat();
    let stopped = experiment.train("run", &high);
    stopped.expect_refusal(1, &["not finite", "optimizer.lr", "non_finite"]);
    let step = stopped.stderr.split("error: step ").nth(1).unwrap();
    let step: u64 = step.split(':').next().unwrap().parse().unwrap();
    let report = non_finite_report(&experiment, "run", step);
    let place = ["first_stage_non_finite", "first_gradient_non_finite"]
        .iter()
        .find_map(|key| report[key].as_str())
        .or_else(|| report["parameters_non_finite"][0].as_str());
    let place = place.expect("the layer where it begins");
    let cause = report["likely_cause"].as_str().unwrap();
    assert!(
        cause.contains(place) && stopped.stderr.contains(place),
        "{cause}"
    );

    assert_eq!(weights(&experiment, "run"), hash);
    let (root, json) = (experiment.path("run"), experiment.path("eval.json"));
    run(&["eval", "--run", &root, "--json", &json]).expect_success();
    assert_eq!(experiment.json("eval.json")["metrics"], before);
}

#[test]
fn steps_that_are_non_finite_can_be_skipped_so_many_in_a_row() {
    let experiment = Experiment::new();
    let poison = "data.normalization.std=[2e-38, 1.0, 1.0]";
    let settings = [poison, "train.on_nonfinite=skip", "train.max_skipped=3"];
    let stopped = experiment.train("run", &set(&settings));
    stopped.expect_refusal(1, &["step 4"]);
    assert_eq!(
        stopped.stderr.matches("skipped: step").count(),
        3,
        "{stopped:#?}"
    );
    let reports = fs_err::read_dir(experiment.path("run/non_finite")).unwrap();
    assert_eq!(reports.count(), 2, "of the first of a row, and of the last");
}

#[test]
fn one_seed_gives_one_hash_with_any_number_of_workers() {
    let experiment = Experiment::new();
    experiment.train("one", &[]).expect_success();
    experiment.train("two", &[]).expect_success();
    let four = set(&["data.workers=4"]);
    experiment.train("four", &four).expect_success();
    let hash = weights(&experiment, "one");
    assert_eq!(hash.len(), 32);
    assert_eq!(weights(&experiment, "two"), hash);
    assert_eq!(weights(&experiment, "four"), hash);
    experiment
        .train("other", &set(&["seed=6"]))
        .expect_success();
    assert_ne!(weights(&experiment, "other"), hash);
    let listed = run(&["runs", &experiment.path("")]).expect_success().stdout;
    assert_eq!(listed.matches("6/6").count(), 4, "{listed}");
    assert_eq!(listed.matches("finished").count(), 4, "{listed}");
}

/// Kills a run at moments spread over its whole course, checkpoints included, and lets it go on.
#[test]
#[ignore = "takes a minute or more"]
fn a_run_killed_at_any_moment_ends_in_the_same_weights() {
    let experiment = Experiment::new();
    let settings = set(&[
        "train.iterations=40",
        "train.eval_every=20",
        "train.ema_decay=0.9",
    ]);
    let whole = experiment.train("whole", &settings).expect_success();
    let lines = whole.stderr.lines().count();
    let hash = weights(&experiment, "whole");

    for kill in 0..32 {
        let name = format!("killed-{kill}");
        let (config, root) = (experiment.path("tiny.toml"), experiment.path(&name));
        let mut child = retinanet()
            .args(["train", &config, "--run-dir", &root])
            .args(&settings)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Spread over all that it says, and a little after, where checkpoints are being written.
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        assert_eq!(said.take(kill * lines / 32).count(), kill * lines / 32);
        let (heard, after) = (
            Instant::now(),
            Duration::from_micros(700 * (kill as u64 % 5)),
        );
        while heard.elapsed() < after {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut resumed = settings.clone();
        if fs_err::metadata(experiment.path(&format!("{name}/config.toml"))).is_ok() {
            resumed.push("--resume");
        }
        experiment.train(&name, &resumed).expect_success();
        assert_eq!(weights(&experiment, &name), hash, "killed at {kill} of 32");
        assert_eq!(losses(&experiment, &name), losses(&experiment, "whole"));
        assert_eq!(
            validation(&experiment, &name),
            validation(&experiment, "whole")
        );
        let best = |run: &str| experiment.json(&format!("{run}/checkpoints/best/state.json"));
        for key in ["iteration", "best", "evaluations_since_best"] {
            assert_eq!(best(&name)[key], best("whole")[key], "{key}");
        }
    }
}

/// A small file system of its own, where the machine allows that.
struct SmallDisk<'a>(&'a str);

impl<'a> SmallDisk<'a> {
    #[expect(clippy::print_stderr, reason = "a skipped test tells why")]
    fn mount(folder: &'a str, kib: u32) -> Option<Self> {
        fs_err::create_dir_all(folder).unwrap();
        let size = format!("size={kib}k");
        let mount = ["-t", "tmpfs", "-o", &size, "tmpfs", folder];
        let mounted = Command::new("mount").args(mount).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("skipped: this machine mounts no file systems for tests");
        None
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_disk_that_fills_up_costs_no_checkpoint_and_is_named() {
    let experiment = Experiment::new();
    experiment.train("whole", &[]).expect_success();
    let bytes = |folder: &str| -> u64 {
        fs_err::read_dir(experiment.path(folder))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    };
    let kib = bytes("whole/checkpoints/last") / 1024;
    let folder = experiment.path("small");
    // Room for one checkpoint and half of another.
    let Some(disk) = SmallDisk::mount(&folder, kib as u32 * 3 / 2 + 60) else {
        return;
    };
    let stopped = experiment.train("small/run", &[]);
    stopped.expect_refusal(1, &["No space left on device", "small/run"]);
    let listed = run(&["runs", &experiment.path("small/run")]).expect_success();
    assert!(listed.stdout.contains("2/6"), "{listed:#?}");

    // With more room it goes on to the same end.
    let larger = format!("remount,size={}k", kib * 10);
    let remount = Command::new("mount")
        .args(["-o", &larger, &folder])
        .status();
    assert!(remount.unwrap().success());
    experiment
        .train("small/run", &["--resume"])
        .expect_success();
    assert_eq!(
        weights(&experiment, "small/run"),
        weights(&experiment, "whole")
    );
    drop(disk);
}

#[test]
fn a_folder_that_cannot_be_written_costs_no_checkpoint_and_is_named() {
    let experiment = Experiment::new();
    experiment.train("whole", &[]).expect_success();
    let folder = experiment.path("small");
    let Some(disk) = SmallDisk::mount(&folder, 100_000) else {
        return;
    };
    let half = ["train.iterations=4"];
    experiment.train("small/run", &set(&half)).expect_success();
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-o", how, &folder]).status();
        assert!(status.unwrap().success());
    };
    remount("remount,ro");
    let stopped = experiment.train("small/run", &["--resume"]);
    stopped.expect_refusal(1, &["Read-only file system", "small/run"]);
    remount("remount,rw");
    experiment
        .train("small/run", &["--resume"])
        .expect_success();
    assert_eq!(
        weights(&experiment, "small/run"),
        weights(&experiment, "whole")
    );
    drop(disk);
}

#[cfg(unix)]
#[test]
fn a_run_that_is_asked_to_end_finishes_its_step_and_says_how_to_go_on() {
    let experiment = Experiment::new();
    experiment
        .train("whole", &set(&["train.iterations=200"]))
        .expect_success();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let (config, root) = (experiment.path("tiny.toml"), experiment.path(signal));
        let mut child = retinanet()
            .args([
                "train",
                &config,
                "--run-dir",
                &root,
                "--set",
                "train.iterations=200",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        assert!(
            lines.any(|line| line.starts_with("step 3/")),
            "it gets to step 3"
        );
        let id = child.id().to_string();
        let killed = Command::new("kill").args([signal, &id]).status();
        assert!(killed.unwrap().success());
        // It must not wait for somebody to read.
        for _ in lines {}
        let output = child.wait_with_output().unwrap();
        // So that a shell does not go on with what follows.
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            said.contains("go on with") && said.contains("--resume"),
            "{said}"
        );

        let more = [&set(&["train.iterations=200"])[..], &["--resume"]].concat();
        experiment.train(signal, &more).expect_success();
        assert_eq!(weights(&experiment, signal), weights(&experiment, "whole"));
    }
}
