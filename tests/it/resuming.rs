//! Runs that are killed, damaged and resumed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use retinanet_checkpoint::{read_state, sealed_state};
use retinanet_convolution::has_bf16_products;
use retinanet_tests::{Experiment, retinanet, run};
use retinanet_trainer::Checkpoint;
use serde_json::Value;

use crate::training::losses;

#[test]
fn a_killed_run_goes_on_to_the_same_end_to_the_last_bit() {
    let experiment = Experiment::new();
    experiment.train("whole", &[]).expect_success();

    kill_after_first_checkpoint(&experiment, "killed");
    let resumed = experiment.train("killed", &["--resume"]).expect_success();
    assert!(resumed.stderr.contains("going on from"), "{resumed:#?}");

    assert_eq!(losses(&experiment, "killed"), losses(&experiment, "whole"));
    assert_eq!(
        experiment.json("killed/eval/step-6.json"),
        experiment.json("whole/eval/step-6.json")
    );
}

#[test]
fn a_checkpoint_cut_in_half_is_refused_and_the_one_before_it_used() {
    let experiment = Experiment::new();
    experiment.train("whole", &[]).expect_success();
    experiment.train("cut", &[]).expect_success();
    let model = experiment.path("cut/checkpoints/last/model.bpk");
    let bytes = fs_err::read(&model).unwrap();
    fs_err::write(&model, &bytes[..bytes.len() / 2]).unwrap();

    let resumed = experiment.train("cut", &["--resume"]).expect_success();
    assert!(
        resumed.stderr.contains("last/model.bpk` is damaged"),
        "{resumed:#?}"
    );
    assert!(resumed.stderr.contains("step-4, step 4"), "{resumed:#?}");
    assert_eq!(losses(&experiment, "cut"), losses(&experiment, "whole"));
}

/// With what is learnt beside RetinaNet's own: factors of levels, centerness, distributions, overlaps as targets.
#[test]
fn runs_of_retinanets_descendants_go_on_to_the_last_bit() {
    let experiment = Experiment::new();
    let copy_paste = "data.augment.copy_paste.probability=0.5";
    let [path_up, task_aligned, equal] = [
        "model.bottom_up_path=true",
        "criterion.assigner.kind=task_aligned",
        "criterion.box.weigh_by=equal",
    ];
    for (name, settings) in [
        ("atss", &["preset=atss", copy_paste][..]),
        ("gfl", &["preset=gfl", copy_paste]),
        ("varifocal", &["preset=varifocal", copy_paste, path_up]),
        ("tood", &["preset=gfl", task_aligned, equal]),
    ] {
        let settings = settings.iter().flat_map(|it| ["--set", it]);
        let settings: Vec<&str> = settings.collect();
        let [whole, cut] = ["whole", "cut"].map(|run| format!("{run}_{name}"));
        experiment.train(&whole, &settings).expect_success();
        experiment.train(&cut, &settings).expect_success();
        let last = experiment.path(&format!("{cut}/checkpoints/last"));
        fs_err::remove_dir_all(last).unwrap();
        let more = [&settings[..], &["--resume"]].concat();
        let resumed = experiment.train(&cut, &more).expect_success();
        assert!(resumed.stderr.contains("step-4, step 4"), "{resumed:#?}");
        assert_eq!(losses(&experiment, &cut), losses(&experiment, &whole));
        assert_eq!(
            experiment.json(&format!("{cut}/eval/step-6.json")),
            experiment.json(&format!("{whole}/eval/step-6.json"))
        );
    }
}

/// On CPUs that have such products; others refuse.
#[test]
fn a_run_in_bf16_on_the_cpu_follows_f32_and_goes_on_to_the_last_bit() {
    let experiment = Experiment::new();
    let wide = ["--set", "model.width=32", "--set", "model.fpn_channels=64"];
    let bf16 = [&wide[..], &["--set", "compute.precision=bf16"]].concat();
    if !has_bf16_products() {
        let refused = experiment.train("refused", &bf16);
        refused.expect_refusal(2, &["`compute.precision`", "\"f32\"", "\"bf16\""]);
        return;
    }
    experiment.train("f32", &wide).expect_success();
    experiment.train("whole", &bf16).expect_success();
    experiment.train("cut", &bf16).expect_success();
    fs_err::remove_dir_all(experiment.path("cut/checkpoints/last")).unwrap();
    let more = [&bf16[..], &["--resume"]].concat();
    experiment.train("cut", &more).expect_success();
    let [f32s, whole, cut] = ["f32", "whole", "cut"].map(|run| losses(&experiment, run));
    assert_eq!(cut, whole);
    for ((rounded, _), (expected, _)) in whole.iter().zip(&f32s) {
        let [rounded, expected] = [rounded, expected].map(|loss| loss.parse::<f64>().unwrap());
        let off = (rounded / expected - 1.0).abs();
        assert!(off > 0.0 && off < 0.02, "{rounded} {expected}");
    }
    // What it learned is found in it, too, on this CPU.
    let root = experiment.path("whole");
    let evaluated = run(&["eval", "--run", &root]).expect_success();
    assert!(
        !evaluated.stderr.contains("computing in f32"),
        "{evaluated:#?}"
    );
}

#[test]
fn a_changed_byte_is_found_too_and_without_a_whole_checkpoint_nothing_starts() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--set", "train.keep_last=0"])
        .expect_success();
    let optimizer = experiment.path("run/checkpoints/last/optimizer.bpk");
    let mut bytes = fs_err::read(&optimizer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::write(&optimizer, &bytes).unwrap();
    experiment
        .train("run", &["--resume", "--set", "train.keep_last=0"])
        .expect_refusal(1, &["no checkpoint of", "last/optimizer.bpk` is damaged"]);
    assert_eq!(fs_err::read(&optimizer).unwrap(), bytes);
}

/// One bit of each byte of the small files, and of some five hundred bytes of the large ones.
#[test]
fn a_flipped_bit_in_any_file_of_a_checkpoint_is_seen() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let folder = experiment.path("run/checkpoints/last");
    let folder = Path::new(&folder);
    Checkpoint::read(folder).unwrap();
    let mut files = 0;
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let whole = fs_err::read(&path).unwrap();
        let step = (whole.len() / 500).max(1);
        for place in (0..whole.len()).step_by(step) {
            let mut flipped = whole.clone();
            flipped[place] ^= 1 << (place % 8);
            fs_err::write(&path, &flipped).unwrap();
            let read = Checkpoint::read(folder);
            assert!(read.is_err(), "byte {place} of {}", path.display());
        }
        fs_err::write(&path, &whole).unwrap();
        files += 1;
    }
    assert_eq!(files, 5);
    Checkpoint::read(folder).unwrap();
}

#[test]
fn a_checkpoint_of_another_run_is_not_gone_on_with() {
    let experiment = Experiment::new();
    for run in ["whole", "mixed", "other"] {
        let seed = if run == "other" { "seed=6" } else { "seed=5" };
        experiment.train(run, &["--set", seed]).expect_success();
    }
    let last = |run: &str| experiment.path(&format!("{run}/checkpoints/last"));
    fs_err::remove_dir_all(last("mixed")).unwrap();
    fs_err::rename(last("other"), last("mixed")).unwrap();
    let resumed = experiment.train("mixed", &["--resume"]).expect_success();
    assert!(resumed.stderr.contains("is of another run"), "{resumed:#?}");
    assert!(resumed.stderr.contains("step-4, step 4"), "{resumed:#?}");
    assert_eq!(losses(&experiment, "mixed"), losses(&experiment, "whole"));
}

#[test]
fn other_boxes_in_the_data_are_told_when_a_run_goes_on() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--set", "train.iterations=3"])
        .expect_success();
    // A person's own data, which is not rendered again if it changed.
    let config = String::from_utf8(experiment.bytes("tiny.toml")).unwrap();
    let own: Vec<_> = config
        .lines()
        .filter(|line| !line.starts_with("synth"))
        .collect();
    experiment.write("own.toml", &own.join("\n"));
    let train = |more: &[&str]| {
        let (config, run) = (experiment.path("own.toml"), experiment.path("own"));
        retinanet_tests::run(&[&["train", &config, "--run-dir", &run][..], more].concat())
    };
    train(&["--set", "train.iterations=3"]).expect_success();
    let mut annotations = experiment.json("data/train.json");
    annotations["annotations"].as_array_mut().unwrap().pop();
    experiment.write("data/train.json", &annotations.to_string());
    let resumed = train(&["--resume", "--set", "train.iterations=4"]).expect_success();
    assert!(
        resumed.stderr.contains("train.json had 6 images with"),
        "{resumed:#?}"
    );
    assert!(!resumed.stderr.contains("val.json had"), "{resumed:#?}");
}

#[test]
fn a_finished_run_can_be_made_longer() {
    let experiment = Experiment::new();
    experiment
        .train("long", &["--set", "train.iterations=6"])
        .expect_success();
    experiment
        .train("short", &["--set", "train.iterations=3"])
        .expect_success();
    experiment
        .train("short", &["--resume", "--set", "train.iterations=6"])
        .expect_success();
    assert_eq!(losses(&experiment, "short"), losses(&experiment, "long"));
}

/// Starts a run and kills it (SIGKILL) in the middle, once it has told of its first checkpoint.
fn kill_after_first_checkpoint(experiment: &Experiment, run: &str) {
    let (config, root) = (experiment.path("tiny.toml"), experiment.path(run));
    let mut child = retinanet()
        .args(["train", &config, "--run-dir", &root])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(
        stderr.any(|line| line.unwrap().contains("step 2: wrote")),
        "the run told of no checkpoint"
    );
    child.kill().unwrap();
    assert!(
        !child.wait().unwrap().success(),
        "the run ended before the kill"
    );
}

/// A run of version 0.1: its checkpoints have no format.
#[test]
fn a_run_of_an_older_version_is_refused_with_what_to_do_and_stays_as_it_is() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let run_directory = experiment.path("run");
    for name in ["best", "last"] {
        let folder = Path::new(&run_directory).join("checkpoints").join(name);
        let mut state: Value = read_state(&folder).unwrap();
        let keys = state.as_object_mut().unwrap();
        keys.remove("crc32");
        assert!(keys.remove("format").is_some());
        fs_err::write(folder.join("state.json"), sealed_state(&state).unwrap()).unwrap();
    }
    let said = ["state.json", "another version", "`export`"];
    run(&["eval", "--run", &run_directory]).expect_refusal(1, &said);
    experiment
        .train("run", &["--resume"])
        .expect_refusal(1, &said);
    assert!(
        Path::new(&run_directory)
            .join("checkpoints/last/state.json")
            .exists()
    );
}
