//! The program measures itself.

use retinanet_tests::{Experiment, run};
use serde_json::Value;

/// What `bench --json` prints, measured once and without warming up.
fn bench(more: &[&str]) -> Value {
    let mut arguments = vec!["bench", "--json", "--repeats", "1", "--warmup", "0"];
    arguments.extend(more);
    let finished = run(&arguments).expect_success();
    serde_json::from_str(&finished.stdout).unwrap()
}

fn assert_measured(report: &Value) {
    for result in report["results"].as_array().unwrap() {
        let seconds = result["seconds"].as_array().unwrap();
        assert_eq!(seconds.len(), 1, "{result}");
        for key in ["median_s", "min_s", "max_s"] {
            assert_eq!(result[key], seconds[0], "{result}");
        }
        assert!(result["median_s"].as_f64().unwrap() > 0.0, "{result}");
    }
}

#[test]
fn only_what_is_asked_for_is_measured() {
    let report = bench(&["--only", "matcher", "--only", "convolution"]);
    assert_measured(&report);
    let results = report["results"].as_array().unwrap();
    let of = |name: &'static str| results.iter().filter(move |result| result["name"] == name);
    // Six layers, each forward and with its gradients.
    assert_eq!((of("convolution").count(), of("matcher").count()), (12, 1));
    assert_eq!(results.len(), 13);
    for result in of("convolution") {
        assert!(result["gflops"].as_f64().unwrap() > 0.0, "{result}");
    }
    assert_eq!(report["device"], "flex");
    assert!(report["threads"].as_u64().unwrap() >= 1, "{report}");
    assert!(
        report["machine"]["cores"].as_u64().unwrap() >= 1,
        "{report}"
    );
    if cfg!(target_os = "linux") {
        assert!(report["peak_rss_mib"].as_f64().unwrap() > 1.0, "{report}");
    }
}

#[test]
fn inference_in_eight_bits_is_measured_where_it_is_asked_for() {
    let model = ["--backbone", "resnet18", "--size", "64", "--classes", "3"];
    let report = bench(&[&["--only", "int8", "--only", "inference"], &model[..]].concat());
    assert_measured(&report);
    let names = report["results"].as_array().unwrap().iter();
    let names: Vec<_> = names
        .map(|result| result["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["inference", "int8"]);
}

#[test]
fn each_layer_is_measured_beside_what_the_machine_can_do() {
    let model = ["--backbone", "resnet18", "--size", "64", "--classes", "3"];
    let report = bench(&[&["--only", "layers"], &model[..]].concat());
    let results = report["results"].as_array().unwrap();
    let (machine, layers) = results.split_at(2);
    assert!(machine.iter().all(|result| result["name"] == "machine"));
    assert!(machine[0]["gflops"].as_f64().unwrap() > 0.0);
    let of_step = |pair: &[Value]| {
        let [forward, all] = pair else { unreachable!() };
        assert!(forward["what"].as_str().unwrap().ends_with(", forward"));
        assert_eq!(forward["times"], all["times"]);
        assert!(forward["least_s"].as_f64().unwrap() > 0.0, "{forward}");
        all["median_s"].as_f64().unwrap() * all["times"].as_f64().unwrap()
    };
    let seconds: Vec<f64> = layers.chunks(2).map(of_step).collect();
    assert!(seconds.is_sorted_by(|a, b| a >= b), "{seconds:?}");
    // The eight layers of the subnets, over five levels.
    let subnets = layers.iter().filter(|result| {
        let what = result["what"].as_str().unwrap();
        what.starts_with("convolution 3×3, 256 → 256 + bias + ReLU, on 8×8 4×4 2×2 1×1 1×1")
    });
    assert!(subnets.clone().all(|result| result["times"] == 8));
    assert_eq!(subnets.count(), 2);
}

#[test]
fn a_step_inference_and_the_loader_are_measured_in_images() {
    let experiment = Experiment::new();
    // Draws the data.
    experiment.train("run", &[]).expect_success();
    let config = experiment.path("tiny.toml");
    let model = [
        "--only",
        "step",
        "--only",
        "inference",
        "--only",
        "loader",
        "--backbone",
        "resnet18",
        "--size",
        "64x96",
        "--batch",
        "2",
        "--classes",
        "3",
    ];
    let of_config = bench(&[&model[..], &["--data", &config]].concat());
    let annotations = experiment.path("data/train.json");
    let images = experiment.path("data/images");
    let of_files = bench(&[
        "--only",
        "loader",
        "--annotations",
        &annotations,
        "--images",
        &images,
        "--workers",
        "0",
    ]);
    for report in [&of_config, &of_files] {
        assert_measured(report);
        for result in report["results"].as_array().unwrap() {
            assert!(result["images_per_s"].as_f64().unwrap() > 0.0, "{result}");
        }
    }
    assert_eq!(
        of_config["results"][0]["what"], "resnet18 64x96 batch 2",
        "{of_config}"
    );
    assert_eq!(of_config["results"].as_array().unwrap().len(), 3);
}

#[test]
fn a_config_is_measured_as_it_is() {
    let experiment = Experiment::new();
    let model = "[model]\nbackbone = \"resnet18\"\nwidth = 8\nfpn_channels = 32";
    let config = experiment.write("thin.toml", &format!("preset = \"gfl\"\n{model}"));
    let work = ["step", "inference", "matcher"].map(|name| ["--only", name]);
    let size = ["--size", "64", "--objects", "7", "--config", &config];
    let report = bench(&[&work.concat()[..], &size].concat());
    assert_measured(&report);
    let what = |place: usize| report["results"][place]["what"].as_str().unwrap();
    let all = [what(0), what(1), what(2)];
    assert_eq!(
        all,
        [
            "thin 64x64 batch 1",
            "thin 64x64 batch 1",
            "800x1333, 7 boxes"
        ]
    );
    run(&["bench", "--config", &config, "--backbone", "resnet18"])
        .expect_refusal(2, &["--backbone"]);
}

#[test]
#[ignore = "takes a minute: a step of ResNeXt-50 at 800 pixels"]
fn mlperfs_network_is_measured_in_its_words() {
    let work = ["bench", "--mlperf", "--repeats", "1", "--warmup", "0"];
    let told = run(&work).expect_success().stdout;
    for part in [
        "MLPerf 800x800 batch 1",
        "MLPerf Training: ",
        "a core",
        "SingleStream ",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_can() {
    let finished = run(&["bench", "--only", "nonsense"]);
    assert_eq!(finished.code, Some(2), "{finished:#?}");
    for name in [
        "nonsense",
        "convolution",
        "step",
        "inference",
        "loader",
        "matcher",
        "decode",
    ] {
        assert!(
            finished.stderr.contains(name),
            "no `{name}` in {finished:#?}"
        );
    }
    run(&["bench", "--only", "loader"]).expect_refusal(2, &["loader", "--data", "--annotations"]);
    run(&["bench", "--backbone", "resnet19"]).expect_refusal(2, &["--backbone", "`resnet18`"]);
    run(&["bench", "--size", "512x"]).expect_refusal(2, &["512x"]);
}
