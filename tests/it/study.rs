//! `study`: a table of runs.

use retinanet_tests::{Experiment, Finished, run};
use serde_json::Value;

use crate::training::steps;

const STUDY: &str = r#"
title = "Two losses"
about = "For a test."
base = "tiny.toml"
seeds = [0, 1]
metrics = ["AP", "first_loss"]
set = { "train.iterations" = 3 }
[[runs]]
name = "focal"
paper = { AP = 34.0 }
[[runs]]
name = "cross-entropy"
set = { "criterion.class.kind" = "cross_entropy" }
"#;

fn study(experiment: &Experiment, text: &str, more: &[&str]) -> Finished {
    let path = experiment.write("study.toml", text);
    let out = experiment.path("study");
    run(&[&["study", &path, "--out", &out], more].concat())
}

#[test]
fn a_study_is_a_table_and_starting_it_again_gives_the_same() {
    let experiment = Experiment::new();
    let finished = study(&experiment, STUDY, &["--jobs", "2"]).expect_success();
    let table = String::from_utf8(experiment.bytes("study/table.md")).unwrap();
    assert_eq!(finished.stdout.trim_end(), table.trim_end());
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[4], "| run | seeds | AP | first_loss | the paper |");
    assert!(lines[6].starts_with("| focal | 2 | ") && lines[6].ends_with("| AP 34 |"));
    assert!(lines[7].starts_with("| cross-entropy | 2 | "), "{table}");

    // Each run is the one that `train` gives.
    let set = ["--set", "train.iterations=3", "--set", "seed=1"];
    experiment.train("alone", &set).expect_success();
    let alone = crate::training::losses(&experiment, "alone");
    assert_eq!(
        crate::training::losses(&experiment, "study/focal-seed-1"),
        alone
    );

    // As after a kill: one run has lost its end, another is not there.
    fs_err::remove_dir_all(experiment.path("study/focal-seed-0")).unwrap();
    let cut = experiment.path("study/cross-entropy-seed-1/checkpoints/last");
    fs_err::remove_dir_all(cut).unwrap();
    study(&experiment, STUDY, &[]).expect_success();
    for name in ["table.md", "table.csv", "table.html"] {
        assert!(!experiment.bytes(&format!("study/{name}")).is_empty());
    }
    let page = String::from_utf8(experiment.bytes("study/table.html")).unwrap();
    for report in [
        "focal-seed-0/report.html",
        "cross-entropy-seed-1/report.html",
    ] {
        assert!(page.contains(&format!("href=\"{report}\"")), "{page}");
        assert!(!experiment.bytes(&format!("study/{report}")).is_empty());
    }
    let again = String::from_utf8(experiment.bytes("study/table.md")).unwrap();
    assert_eq!(again, table);
}

#[test]
fn a_study_starts_from_another_base_where_one_is_given() {
    let experiment = Experiment::new();
    let study = experiment.write("study.toml", STUDY);
    let tiny = String::from_utf8(experiment.bytes("tiny.toml")).unwrap();
    let other = experiment.write(
        "other.toml",
        &tiny.replace("short_side = 64", "short_side = 48"),
    );
    let out = experiment.path("out");
    let start = |base: &[&str]| run(&[&["study", &study, "--out", &out], base].concat());
    start(&["--base", &other]).expect_success();
    let config = String::from_utf8(experiment.bytes("out/focal-seed-0/config.toml")).unwrap();
    assert!(config.contains("short_side = [48]"), "{config}");

    // What is done there is not taken for the study's own.
    start(&[]).expect_refusal(2, &["other settings", "data.short_side", "--out"]);
    start(&["--base", &other]).expect_success();
}

#[test]
fn a_study_that_becomes_longer_goes_on_and_one_that_becomes_shorter_is_refused() {
    let experiment = Experiment::new();
    study(&experiment, STUDY, &[]).expect_success();
    let steps = |run: &str| crate::training::losses(&experiment, &format!("study/{run}")).len();
    assert_eq!(steps("focal-seed-0"), 3);
    let longer = ["--set", "train.iterations=5"];
    study(&experiment, STUDY, &longer).expect_success();
    assert_eq!(steps("focal-seed-0"), 5);
    study(&experiment, STUDY, &[]).expect_refusal(2, &["train.iterations", "--out"]);
}

#[test]
fn a_run_that_diverges_is_a_result_and_one_that_fails_is_not() {
    let experiment = Experiment::new();
    let diverges = r#"
        title = "t"
        base = "tiny.toml"
        set = { "train.iterations" = 3, "optimizer.clip_norm" = 1e30 }
        [grid]
        "optimizer.lr" = [0.01, 1e6]
        "#;
    let finished = study(&experiment, diverges, &[]).expect_success();
    assert!(
        finished.stdout.contains("| 0, 1 diverged | –"),
        "{finished:#?}"
    );
    let csv = String::from_utf8(experiment.bytes("study/table.csv")).unwrap();
    assert_eq!(
        csv.lines().filter(|line| line.contains(",done,")).count(),
        1
    );

    let fails = r#"
        title = "t"
        base = "tiny.toml"
        [[runs]]
        name = "wrong"
        set = { "train.iteration" = 3 }
        "#;
    let finished = study(&experiment, fails, &[]);
    finished.expect_refusal(1, &["1 runs failed", "wrong-seed-0.log"]);
    let why = "wrong-seed-0: failed (--set train.iteration=3: unknown key `train.iteration`, did you \
               mean `iterations`?), see ";
    assert!(finished.stderr.contains(why), "{finished:#?}");
}

#[test]
fn what_is_no_study_is_refused() {
    let experiment = Experiment::new();
    study(&experiment, "title = 3", &[]).expect_refusal(2, &["study.toml", "is not a study"]);
}

/// A third of three changes goes on, to the same bits as if it had never stopped.
#[test]
fn tuning_trains_the_better_ones_on() {
    let experiment = Experiment::new();
    let study = r#"
title = "Rates"
base = "tiny.toml"
seeds = [5, 6]
metrics = ["AR100", "AP"]
set = { "train.iterations" = 18, "train.checkpoint_every" = 18, "train.eval_every" = 18 }
[[runs]]
name = "still"
set = { "optimizer.lr" = 1e-9 }
[[runs]]
name = "usual"
set = { "optimizer.lr" = 0.01 }
[[runs]]
name = "too fast"
set = { "optimizer.lr" = 1e6 }
"#;
    let (study, out) = (
        experiment.write("rates.toml", study),
        experiment.path("out"),
    );
    let tune = ["tune", &study, "--out", &out];
    let none = [&tune[..], &["--minutes", "0"]].concat();
    let began = run(&none).expect_success();
    assert!(began.stderr.contains("the time is over"), "{began:#?}");
    let told = run(&tune).expect_success();
    let table = String::from_utf8(experiment.bytes("out/tuning.md")).unwrap();
    assert_eq!(told.stdout.trim(), table.trim());
    assert!(
        table.contains("| change | 33 % | 100 % | other seeds |"),
        "{table}"
    );
    let rows: Vec<Vec<&str>> = (table
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1))
    .map(|line| line.split('|').map(str::trim).collect())
    .collect();
    assert_eq!(rows.len(), 3, "{table}");
    let best = rows[0][1];
    assert!(["still", "usual"].contains(&best), "{table}");
    // A third and the end by the first seed, the end by the second.
    assert!(
        rows[0][2..5].iter().all(|cell| cell.parse::<f64>().is_ok()),
        "{table}"
    );
    assert_eq!(rows[1][3..5], ["", ""], "{table}");
    let failed = rows.iter().find(|row| row[1] == "too fast").unwrap();
    assert_eq!(failed[2], "diverged", "{table}");

    let folder = best.replace(' ', "-");
    let finished = format!("out/{folder}-seed-5");
    assert_eq!(steps(&experiment, &finished).len(), 18);
    let rate = if best == "still" { "1e-9" } else { "0.01" };
    let set = [
        format!("optimizer.lr={rate}"),
        "seed=5".to_owned(),
        "train.iterations=18".to_owned(),
        "train.checkpoint_every=18".to_owned(),
        "train.eval_every=18".to_owned(),
    ];
    let set: Vec<&str> = set.iter().flat_map(|it| ["--set", it]).collect();
    experiment.train("whole", &set).expect_success();
    let losses = |run: &str| -> Vec<Value> {
        let steps = steps(&experiment, run).into_iter();
        steps.map(|step| step["class_loss"].clone()).collect()
    };
    assert_eq!(losses(&finished), losses("whole"));
    let again = run(&tune).expect_success();
    assert!(!again.stderr.contains("% of its steps"), "{again:#?}");
    assert_eq!(again.stdout, told.stdout);
    let none = run(&[&tune[..], &["--minutes", "0"]].concat()).expect_success();
    assert_eq!(none.stdout, told.stdout);

    // Numbers of other settings, of a longer training or of no evaluation are none of this study's.
    let longer = [&tune[..], &["--set", "train.iterations=36"]].concat();
    run(&longer).expect_refusal(2, &["seed-5", "other settings"]);
    run(&[&tune[..], &["--jobs", "2"]].concat()).expect_refusal(2, &["--jobs"]);
    let text = fs_err::read_to_string(&study).unwrap();
    let four = text.clone() + "[[runs]]\nname = \"slow\"\nset = { \"optimizer.lr\" = 1e-4 }\n";
    experiment.write("rates.toml", &four);
    run(&tune).expect_refusal(2, &["step 18 of 18 already", "--out"]);
    experiment.write("rates.toml", &text.replace("\"AR100\"", "\"first_loss\""));
    run(&tune).expect_refusal(2, &["first_loss"]);
    experiment.write("rates.toml", &text.replace("1e6", "-1.0"));
    run(&tune).expect_refusal(2, &["optimizer.lr"]);
}
