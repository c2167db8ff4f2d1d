//! Training by several processes that `mpirun` starts. Built only with the feature `mpi`, which the
//! program must have too.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use retinanet_tests::{Experiment, Finished, retinanet, run};
use serde_json::Value;

use crate::overnight::exported;
use crate::training::steps;

/// Twenty steps of 4 images, with norms that are frozen: with others each process normalises its own
/// images.
const SETTINGS: [&str; 9] = [
    "train.batch_size=4",
    "criterion.normalizer=moving_average",
    "optimizer.clip_norm=2.0",
    "train.iterations=20",
    "train.eval_every=20",
    "train.checkpoint_every=10",
    "train.ema_decay=0.9",
    "model.norm=frozen_batch_norm",
    "optimizer.lr=0.002",
];

fn mpirun(processes: usize, experiment: &Experiment, name: &str, more: &[&str]) -> Command {
    let program = retinanet();
    let mut command = Command::new("mpirun");
    // What hangs shall fail.
    command.args(["--timeout", "240"]);
    command.args(["-n", &processes.to_string(), "--oversubscribe"]);
    // Containers run as root.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1");
    command.env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.arg(program.get_program());
    command.args(["train", &experiment.path("tiny.toml")]);
    command.args(["--run-dir", &experiment.path(name)]);
    command.args(SETTINGS.iter().flat_map(|set| ["--set", *set]));
    command.args(more);
    command
}

fn train(processes: usize, experiment: &Experiment, name: &str, more: &[&str]) -> Finished {
    let output = mpirun(processes, experiment, name, more).output();
    output.expect("mpirun starts").into()
}

fn hash(experiment: &Experiment, name: &str) -> String {
    let finished = run(&["runs", &experiment.path(name), "--hash"]).expect_success();
    let line = finished.stdout.lines().last().unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

/// Each tensor within 1e-5 of the other's, relative to its largest value.
fn assert_same_weights(experiment: &Experiment, a: &str, b: &str) {
    let [a, b] = [a, b].map(|name| exported(experiment, name, "best"));
    assert_eq!(a.len(), b.len());
    for ((name, a), (_, b)) in a.iter().zip(&b) {
        let largest = a
            .iter()
            .fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-5 * largest, "{name}: {a}, {b}");
        }
    }
}

fn assert_same_steps(a: &[Value], b: &[Value]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        for key in ["class_loss", "box_loss", "gradient_norm"] {
            let [a, b] = [a, b].map(|step| step[key].as_f64().unwrap());
            assert!((a / b - 1.0).abs() < 1e-5, "{key}: {a}, {b}");
        }
        for key in ["iteration", "images", "positives", "lr", "epoch"] {
            assert_eq!(a[key], b[key]);
        }
        let levels = |step: &Value| -> Vec<[f64; 2]> {
            serde_json::from_value(step["levels"].clone()).unwrap()
        };
        for (a, b) in levels(a)
            .as_flattened()
            .iter()
            .zip(levels(b).as_flattened())
        {
            assert!((a - b).abs() <= 1e-5 * a.abs() + 1e-7, "{a}, {b}");
        }
    }
}

#[test]
fn any_number_of_processes_learns_the_same() {
    let experiment = Experiment::new();
    train(1, &experiment, "one", &[]).expect_success();
    let alone = steps(&experiment, "one");
    assert_eq!(alone.len(), 20);
    for (processes, name) in [(2, "two"), (3, "three"), (4, "four")] {
        train(processes, &experiment, name, &[]).expect_success();
        let together = steps(&experiment, name);
        assert_same_steps(&alone, &together);
        assert_eq!(together[0]["processes"], processes);
        assert!(together[0]["communicated_seconds"].as_f64().unwrap() > 0.0);
        assert_same_weights(&experiment, "one", name);
    }
    // The same number gives the same bits, and one alone those of the program without MPI.
    train(2, &experiment, "again", &[]).expect_success();
    assert_eq!(hash(&experiment, "two"), hash(&experiment, "again"));
    let set: Vec<_> = SETTINGS.iter().flat_map(|set| ["--set", *set]).collect();
    experiment.train("without", &set).expect_success();
    assert_eq!(hash(&experiment, "one"), hash(&experiment, "without"));
}

#[test]
fn synchronised_norms_are_those_of_the_whole_batch() {
    let experiment = Experiment::new();
    let settings = |norm| ["--set", norm, "--set", "train.iterations=4"];
    let synchronised = settings("model.norm=sync_batch_norm");
    train(1, &experiment, "one", &settings("model.norm=batch_norm")).expect_success();
    train(1, &experiment, "alone", &synchronised).expect_success();
    let one = steps(&experiment, "one");
    assert_same_steps(&one, &steps(&experiment, "alone"));
    for (processes, name) in [(2, "two"), (3, "three")] {
        train(processes, &experiment, name, &synchronised).expect_success();
        assert_same_steps(&one, &steps(&experiment, name));
        assert_same_weights(&experiment, "one", name);
    }
}

#[test]
fn a_shared_evaluation_finds_what_one_process_finds() {
    let experiment = Experiment::new();
    // An odd number of images, shared by two and by three.
    let images = ["--set", "data.synth.val_images=7"];
    for (processes, name) in [(2, "two"), (3, "three")] {
        train(processes, &experiment, name, &images).expect_success();
        let [json, detections] = ["json", "detections"].map(|it| format!("{name}-{it}.json"));
        run(&[
            "eval",
            "--run",
            &experiment.path(name),
            "--json",
            &experiment.path(&json),
            "--write-detections",
            &experiment.path(&detections),
        ])
        .expect_success();
        let together = experiment.json(&format!("{name}/eval/detections.json"));
        assert!(together.as_array().unwrap().len() > 100);
        assert_eq!(experiment.json(&detections), together);
        let metrics = experiment.json(&format!("{name}/eval/step-20.json"));
        assert_eq!(experiment.json(&json)["metrics"], metrics);
    }
}

/// Parts of 2, 3 and 3 images, each in two.
#[test]
fn shares_that_differ_in_parts_give_the_whole() {
    let experiment = Experiment::new();
    let parts = ["--set", "train.batch_size=8", "--set", "train.accumulate=2"];
    for (processes, name) in [(1, "one"), (3, "three")] {
        train(processes, &experiment, name, &parts).expect_success();
    }
    assert_same_steps(&steps(&experiment, "one"), &steps(&experiment, "three"));
    assert_same_weights(&experiment, "one", "three");
}

#[test]
fn an_image_that_one_process_cannot_read_ends_all_or_is_told_of() {
    let experiment = Experiment::new();
    train(2, &experiment, "before", &[]).expect_success();
    let broken = |name: &str| {
        let path = experiment.path(&format!("data/images/{name}"));
        let content = fs_err::read(&path).unwrap();
        // Whole from outside, so that only decoding finds it.
        let mut changed = content.clone();
        changed[content.len() / 2] ^= 0xff;
        fs_err::write(&path, changed).unwrap();
        move || fs_err::write(&path, &content).unwrap()
    };
    // The second image to evaluate is the second process's.
    let repair = broken("val_00001.png");
    let finished = train(2, &experiment, "run", &[]);
    assert_ne!(finished.code, Some(0));
    let told = |line: &str| line.contains("error: rank 1") && line.contains("val_00001.png");
    assert!(finished.stderr.lines().any(told), "{finished:#?}");
    let skip = ["--set", "data.on_bad_image=skip"];
    let finished = train(2, &experiment, "left-out", &skip).expect_success();
    let told = "1 images could not be read and are left out of the evaluation";
    assert!(finished.stderr.contains(told), "{finished:#?}");
    repair();

    // One of six: with batches of 4, each process always has another.
    let _mend = broken("train_00002.png");
    train(2, &experiment, "skipped", &skip).expect_success();
    let log = String::from_utf8(experiment.bytes("skipped/log.txt")).unwrap();
    let skipped = log.lines().filter(|line| line.contains("train_00002.png"));
    let images = steps(&experiment, "skipped");
    let seen: u64 = images
        .iter()
        .map(|step| step["images"].as_u64().unwrap())
        .sum();
    assert!(seen < 20 * 4);
    assert_eq!(skipped.count() as u64, 20 * 4 - seen);
}

#[test]
fn a_loss_that_is_non_finite_is_so_for_all() {
    let experiment = Experiment::new();
    let diverges = [
        "--set",
        "optimizer.lr=1e6",
        "--set",
        "optimizer.clip_norm=1e30",
    ];
    let finished = train(2, &experiment, "run", &diverges);
    assert_ne!(finished.code, Some(0));
    assert!(finished.stderr.contains("not finite"), "{finished:#?}");
    let reports = fs_err::read_dir(experiment.path("run/non_finite")).unwrap();
    let folder = reports.last().unwrap().unwrap().path();
    let images = fs_err::read_dir(folder).unwrap();
    let pictures = images.filter(|it| it.as_ref().unwrap().path().extension().unwrap() == "png");
    assert_eq!(pictures.count(), 4);
}

#[test]
fn a_batch_too_small_to_share_is_refused_and_nobody_is_left_waiting() {
    let experiment = Experiment::new();
    let finished = train(3, &experiment, "run", &["--set", "train.batch_size=2"]);
    assert_ne!(finished.code, Some(0));
    assert!(
        finished.stderr.contains("`train.batch_size`"),
        "{finished:#?}"
    );
    assert!(!Path::new(&experiment.path("run")).exists());
    assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
}

#[test]
fn a_process_that_dies_ends_all_and_any_number_goes_on() {
    let experiment = Experiment::new();
    let long = ["--set", "train.iterations=60"];
    train(2, &experiment, "whole", &long).expect_success();
    for (processes, name) in [(2, "killed-two"), (1, "killed-one")] {
        let child = mpirun(2, &experiment, name, &long)
            .stderr(Stdio::piped())
            .spawn();
        let mut child = Mpirun(child.expect("mpirun starts"));
        let said = BufReader::new(child.0.stderr.take().unwrap()).lines();
        let mut said = said.map_while(Result::ok);
        // Steps are told one by one; the checkpoint of step 10 is there by now.
        assert!(
            said.any(|line| line.starts_with("step 14/60")),
            "it ended early"
        );
        let killed = Instant::now();
        kill_rank_1(&experiment.path(name));
        let rest: Vec<String> = said.collect();
        assert!(!child.0.wait().unwrap().success());
        assert!(killed.elapsed() < Duration::from_mins(1));
        assert!(rest.iter().any(|line| line.contains("rank 1")), "{rest:#?}");

        train(
            processes,
            &experiment,
            name,
            &[&long[..], &["--resume"]].concat(),
        )
        .expect_success();
        let (whole, resumed) = (steps(&experiment, "whole"), steps(&experiment, name));
        assert_same_steps(&whole, &resumed);
        assert_same_weights(&experiment, "whole", name);
    }
}

/// Does not outlive its test.
struct Mpirun(Child);

impl Drop for Mpirun {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// SIGKILL for the process of rank 1, found by what its starter told it.
fn kill_rank_1(run: &str) {
    for entry in fs_err::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        let read = |name: &str| fs_err::read(process.join(name)).unwrap_or_default();
        let has =
            |bytes: &[u8], text: &str| bytes.split(|it| *it == 0).any(|it| it == text.as_bytes());
        if has(&read("environ"), "OMPI_COMM_WORLD_RANK=1") && has(&read("cmdline"), run) {
            let id = process.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(
                Command::new("kill")
                    .args(["-9", &id])
                    .status()
                    .unwrap()
                    .success()
            );
            return;
        }
    }
    panic!("no process of rank 1");
}
