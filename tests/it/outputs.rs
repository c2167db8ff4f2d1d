//! Where output goes: nothing that is there gets lost, and nobody has to read what is said.

use retinanet_tests::{Experiment, Finished, retinanet, run};

/// An experiment with its data rendered, and the paths of the annotations and of an image.
fn with_data() -> (Experiment, String, String) {
    let experiment = Experiment::new();
    let root = experiment.path("data");
    let few = ["--train-images", "1", "--val-images", "20"];
    run(&[&["dataset", "synth", "--out", &root][..], &few].concat()).expect_success();
    let annotations = experiment.path("data/val.json");
    let image = experiment.path("data/images/val_00000.png");
    (experiment, annotations, image)
}

/// The names in a folder of the experiment.
fn names(experiment: &Experiment, folder: &str) -> Vec<String> {
    let entries = fs_err::read_dir(experiment.path(folder)).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_output_that_is_an_input_or_another_output_is_refused() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let annotations = experiment.path("data/val.json");
    let image = experiment.path("data/images/val_00000.png");
    let (trained, new) = (experiment.path("run"), experiment.path("new.json"));
    let kept = [
        "config.toml",
        "classes.json",
        "checkpoints/last/model.bpk",
        "report.html",
    ];
    let kept = kept.map(|name| experiment.path(&format!("run/{name}")));
    let half = |path: &str| format!("{path}=0.5");
    // The same file by another name.
    let roundabout = image.replace("/images/", "/images/../images/");
    let (part, other) = (half(&annotations), half(&new));

    let mut attempts: Vec<Vec<&str>> = vec![
        vec![
            "dataset",
            "split",
            &annotations,
            "--part",
            &part,
            "--part",
            &other,
        ],
        vec![
            "dataset",
            "split",
            &annotations,
            "--part",
            &other,
            "--part",
            &other,
        ],
        vec!["dataset", "stats", &annotations, "--json", &annotations],
        vec![
            "dataset",
            "convert",
            &annotations,
            "--from",
            "coco",
            "--to",
            "csv",
            "--out",
            &annotations,
        ],
        vec![
            "predict",
            "--run",
            &trained,
            &image,
            "--no-drawings",
            "--json",
            &image,
        ],
        vec![
            "predict",
            "--run",
            &trained,
            &image,
            "--no-drawings",
            "--csv",
            &roundabout,
        ],
        vec![
            "predict",
            "--run",
            &trained,
            &image,
            "--no-drawings",
            "--json",
            &new,
            "--csv",
            &new,
        ],
    ];
    for path in &kept {
        attempts.push(vec!["export", "--run", &trained, "--out", path]);
    }
    let files: Vec<&String> = kept.iter().chain([&annotations, &image]).collect();
    let before: Vec<_> = files
        .iter()
        .map(|file| fs_err::read(file).unwrap())
        .collect();
    for attempt in attempts {
        run(&attempt).expect_refusal(2, &["nothing was written"]);
        let after: Vec<_> = files
            .iter()
            .map(|file| fs_err::read(file).unwrap())
            .collect();
        assert!(before == after, "{attempt:?}");
        assert!(!std::path::Path::new(&new).exists(), "{attempt:?}");
    }
    // What a person put into the run's folder is theirs to write over.
    let own = experiment.path("run/shapes.safetensors");
    for _ in 0..2 {
        run(&["export", "--run", &trained, "--out", &own]).expect_success();
    }
}

#[test]
fn weights_are_not_exported_under_another_formats_name() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let trained = experiment.path("run");
    for name in ["x.onnx", "x.PTH", "x.bpk"] {
        let out = experiment.path(name);
        let refused = run(&["export", "--run", &trained, "--out", &out]);
        refused.expect_refusal(2, &[name, "safetensors would be written"]);
        assert!(!std::path::Path::new(&out).exists());
    }
}

#[test]
fn a_dash_is_stdout_and_nothing_else_is_said_there() {
    let (experiment, annotations, _) = with_data();
    let file = experiment.path("stats.json");
    run(&["dataset", "stats", &annotations, "--json", &file]).expect_success();
    let found = run(&["dataset", "stats", &annotations, "--json", "-"]).expect_success();
    assert_eq!(found.stdout.as_bytes(), experiment.bytes("stats.json"));
    assert!(found.stderr.contains("images"), "{found:?}");
    run(&[
        "dataset",
        "split",
        &annotations,
        "--part",
        "-=0.5",
        "--part",
        "-=0.5",
    ])
    .expect_refusal(2, &["stdout"]);
}

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::overnight::weights;

    /// The program, started by a shell after these words.
    fn after(words: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{words}; exec \"$0\" \"$@\"")]);
        command.arg(retinanet().get_program());
        command
    }

    #[test]
    fn training_goes_on_when_nobody_reads_what_it_says() {
        let experiment = Experiment::new();
        experiment.train("whole", &[]).expect_success();
        let config = experiment.path("tiny.toml");
        let start = |name: &str, stderr: Stdio| {
            let mut command = retinanet();
            command.args(["train", &config, "--run-dir", &experiment.path(name)]);
            command
                .stdout(Stdio::null())
                .stderr(stderr)
                .spawn()
                .unwrap()
        };
        // As of `2>&1 | head -1`.
        let mut closed = start("closed", Stdio::piped());
        drop(closed.stderr.take());
        assert_eq!(closed.wait().unwrap().code(), Some(0));
        assert_eq!(
            weights(&experiment, "closed"),
            weights(&experiment, "whole")
        );
        if let Ok(full) = File::options().write(true).open("/dev/full") {
            let mut full = start("full", full.into());
            assert_eq!(full.wait().unwrap().code(), Some(0));
            assert_eq!(weights(&experiment, "full"), weights(&experiment, "whole"));
        }
    }

    #[test]
    fn a_result_that_cannot_be_told_is_an_error_but_a_closed_pipe_is_none() {
        let (_experiment, annotations, _) = with_data();
        let stats = |stdout: Stdio| {
            let mut command = retinanet();
            command.args(["dataset", "stats", &annotations]);
            command
                .stdout(stdout)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut closed = stats(Stdio::piped());
        drop(closed.stdout.take());
        assert_eq!(closed.wait().unwrap().code(), Some(0));
        if let Ok(full) = File::options().write(true).open("/dev/full") {
            let full = stats(full.into()).wait_with_output().unwrap();
            Finished::from(full).expect_refusal(1, &["stdout"]);
        }
    }

    #[test]
    fn a_disk_that_is_full_leaves_the_file_that_was_there_and_no_other() {
        let (experiment, annotations, _) = with_data();
        let out = experiment.write("part.json", "as it was");
        let before = names(&experiment, ".");
        // A limit for files stands in for the disk.
        let mut command = after("trap '' XFSZ; ulimit -f 2");
        command.args([
            "dataset",
            "split",
            &annotations,
            "--part",
            &format!("{out}=1"),
        ]);
        let failed = Finished::from(command.output().unwrap());
        failed.expect_refusal(1, &["part.json"]);
        assert_eq!(experiment.bytes("part.json"), b"as it was");
        assert_eq!(names(&experiment, "."), before);
    }

    #[test]
    fn a_disk_that_is_full_leaves_the_files_of_pascal_voc_as_they_were() {
        let (experiment, annotations, _) = with_data();
        let file = "voc/Annotations/train_00000.xml";
        fs_err::create_dir_all(experiment.path("voc/Annotations")).unwrap();
        experiment.write(file, "as it was");
        let mut command = after("trap '' XFSZ; ulimit -f 0");
        command.args([
            "dataset",
            "convert",
            "--from",
            "coco",
            "--to",
            "voc",
            &annotations,
        ]);
        command.args(["--out", &experiment.path("voc")]);
        let failed = Finished::from(command.output().unwrap());
        failed.expect_refusal(1, &["cannot", "voc"]);
        assert_eq!(experiment.bytes(file), b"as it was");
        assert_eq!(names(&experiment, "voc/Annotations"), ["train_00000.xml"]);
    }

    #[test]
    fn a_hang_up_ends_a_run_in_order_unless_nohup_started_it() {
        let experiment = Experiment::new();
        let config = experiment.path("tiny.toml");
        // Whoever runs the tests may ignore it too, and a shell cannot take that back.
        let plain = if cfg!(target_os = "linux") {
            "exec env --default-signal=HUP \"$0\" \"$@\""
        } else {
            ":"
        };
        for (name, words, expected) in [("plain", plain, 129), ("nohup", "trap '' HUP", 0)] {
            let mut child = after(words)
                .args(["train", &config, "--run-dir", &experiment.path(name)])
                .args(["--set", "train.iterations=60"])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let begun = lines.any(|line| line.unwrap().starts_with("step 3/"));
            assert!(begun, "it gets to step 3");
            let id = child.id().to_string();
            assert!(
                Command::new("kill")
                    .args(["-HUP", &id])
                    .status()
                    .unwrap()
                    .success()
            );
            for _ in lines {}
            assert_eq!(child.wait().unwrap().code(), Some(expected), "{name}");
        }
    }
}
