//! Steps that a GPU judges itself, and steps in half precision.

use std::path::Path;

use burn::tensor::Device;
use image::{Rgb, RgbImage};
use retinanet_detector::{ModelConfig, NormKind, Precision};
use retinanet_tests::{Experiment, run};
use serde_json::Value;

use crate::backends::{config, gradients_of, model, norm, wgpu_device};
use crate::overnight::{exported, set, weights};
use crate::training::steps;

/// An infinite pixel in any image whose red is not the mean.
const POISON: [&str; 3] = [
    "data.normalization.mean=[124.0, 116.0, 104.0]",
    "data.normalization.std=[2e-38, 57.0, 57.0]",
    "train.on_nonfinite=skip",
];

fn train(experiment: &Experiment, run: &str, device: &str, settings: &[&str]) -> String {
    let mut arguments = vec!["--device", device, "--trust-device"];
    arguments.extend(set(settings));
    experiment.train(run, &arguments).expect_success().stderr
}

fn numbers(steps: &[Value], key: &str) -> Vec<f64> {
    steps
        .iter()
        .map(|step| step[key].as_f64().unwrap())
        .collect()
}

/// Gives all images but one of training the mean as their red.
fn poison_one(experiment: &Experiment) {
    let images: Vec<_> = fs_err::read_dir(experiment.path("data/images"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(images.len() > 8, "{images:?}");
    for path in images {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let red = if name == "train_00003" { 125 } else { 124 };
        let mut picture: RgbImage = image::open(&path).unwrap().into_rgb8();
        for Rgb([value, ..]) in picture.pixels_mut() {
            *value = red;
        }
        picture.save(&path).unwrap();
    }
}

/// The step before it is known to be non-finite when the next has begun, and with it go running statistics, the
/// normaliser, the optimiser's count of steps and the moving average.
#[test]
fn a_gpu_leaves_nothing_of_a_step_that_is_non_finite_as_the_cpu_does() {
    if wgpu_device().is_none() {
        return;
    }
    let experiment = Experiment::new();
    // Renders the images.
    experiment.train("first", &[]).expect_success();
    poison_one(&experiment);
    for kind in ["sgd", "adamw"] {
        let optimizer = format!("optimizer.kind={kind}");
        let settings = [
            &POISON[..],
            &[
                &optimizer,
                "optimizer.lr=0.001",
                "criterion.normalizer=moving_average",
                "train.ema_decay=0.9",
                "train.iterations=8",
                "train.eval_every=100",
                "train.checkpoint_every=100",
            ],
        ]
        .concat();
        let [on_cpu, on_gpu] = ["flex", "wgpu"].map(|device| {
            let run = format!("{kind}-{device}");
            let told = train(&experiment, &run, device, &settings);
            let skipped: Vec<String> = (told
                .lines()
                .filter(|line| line.starts_with("skipped: step")))
            .map(|line| line.split(';').next().unwrap().to_owned())
            .collect();
            let state = experiment.json(&format!("{run}/checkpoints/last/state.json"));
            let steps = steps(&experiment, &run);
            let report = experiment.path(&format!("{run}/non_finite"));
            assert!(Path::new(&report).exists());
            (
                skipped,
                steps,
                state["normalizer"].clone(),
                exported(&experiment, &run, "last"),
            )
        });
        assert_eq!(on_gpu.0, on_cpu.0, "{kind}");
        assert!(on_cpu.0.len() >= 2, "{:?}", on_cpu.0);
        assert_eq!(on_gpu.2, on_cpu.2, "{kind}");
        assert_eq!(
            numbers(&on_gpu.1, "iteration"),
            numbers(&on_cpu.1, "iteration")
        );
        // The moving average with its running statistics; another count of AdamW's steps would be off by a hundredth.
        for (name, expected) in &on_cpu.3 {
            let difference: Vec<f32> = expected
                .iter()
                .zip(&on_gpu.3[name])
                .map(|(a, b)| a - b)
                .collect();
            let off = norm(&difference) / norm(expected).max(1e-3);
            assert!(off < 1e-3, "{kind} {name}: off by {off:.1e}");
        }
        for key in ["loss", "gradient_norm"] {
            let [expected, found] = [&on_cpu.1, &on_gpu.1].map(|steps| numbers(steps, key));
            for (expected, found) in expected.iter().zip(&found) {
                assert!(
                    (found / expected - 1.0).abs() < 1e-2,
                    "{kind} {key}: {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn half_precision_gives_the_gradients_of_f32_to_a_hundredth() {
    let Some(wgpu) = wgpu_device() else { return };
    if !Precision::F16.is_on(&wgpu) {
        return;
    }
    for norm_kind in [
        NormKind::FrozenBatchNorm,
        NormKind::FixedStatistics,
        NormKind::BatchNorm,
        NormKind::GroupNorm,
    ] {
        let config = config(norm_kind);
        let gradients = |precision, nudge| gradients_in(&config, &wgpu, precision, nudge);
        let expected = gradients(Precision::F32, 0.0);
        let off = |found: Vec<f32>| {
            let difference: Vec<f32> = expected.iter().zip(found).map(|(a, b)| a - b).collect();
            norm(&difference) / norm(&expected)
        };
        let half = off(gradients(Precision::F16, 0.0));
        let nudged = off(gradients(Precision::F32, 2.0_f32.powi(-11)));
        // Norms that take the statistics of so few pixels magnify what any layer rounds.
        let allowed = 3.0 * nudged.max(3e-3);
        assert!(
            half > 0.0 && half < allowed,
            "{norm_kind:?}: off by {half:.1e}, {nudged:.1e}"
        );
    }
}

/// All gradients in a row, of a loss that was scaled as in training.
fn gradients_in(
    config: &ModelConfig,
    device: &Device,
    precision: Precision,
    nudge: f32,
) -> Vec<f32> {
    const SCALE: f32 = 1024.0;
    let model = model(config, device).with_precision(precision);
    let gradients = gradients_of(&model, [SCALE, nudge]);
    gradients
        .into_values()
        .flatten()
        .map(|it| it / SCALE)
        .collect()
}

#[test]
fn training_in_half_precision_follows_f32_and_goes_on_bit_identically() {
    let Some(wgpu) = wgpu_device() else { return };
    if !Precision::F16.is_on(&wgpu) {
        return;
    }
    let experiment = Experiment::new();
    experiment
        .train("refused", &["--set", "compute.precision=f16"])
        .expect_refusal(2, &["`compute.precision`", "\"f32\"", "\"f16\""]);
    // Gradients of so heavy boxes overflow at the scale that training begins with.
    let heavy = ["criterion.box.weight=300.0", "optimizer.lr=1e-5"];
    let half = [&heavy[..], &["compute.precision=f16"]].concat();
    train(&experiment, "f32", "wgpu", &heavy);
    let told = train(&experiment, "f16", "wgpu", &half);
    assert!(
        told.contains("step 1: gradients overflowed; loss scale 32768 from here on"),
        "{told}"
    );
    let [f32s, f16s] = ["f32", "f16"].map(|run| steps(&experiment, run));
    assert_eq!(numbers(&f16s, "iteration"), numbers(&f32s, "iteration"));
    for key in ["loss", "gradient_norm"] {
        for (expected, found) in numbers(&f32s, key).iter().zip(numbers(&f16s, key)) {
            let off = (found / expected - 1.0).abs();
            assert!(off > 0.0 && off < 0.02, "{key}: {found} {expected}");
        }
    }
    let scale = f16s[5]["loss_scale"].as_f64().unwrap();
    assert!(scale <= 32_768.0 && f32s[5].get("loss_scale").is_none());
    let state = experiment.json("f16/checkpoints/last/state.json");
    assert_eq!(state["loss_scale"]["factor"].as_f64(), Some(scale));

    // It stops where no checkpoint is due, and goes on.
    train(
        &experiment,
        "again",
        "wgpu",
        &[&half[..], &["train.iterations=3"]].concat(),
    );
    let resumed = [&half[..], &["train.iterations=6"]].concat();
    let mut arguments = vec!["--resume", "--device", "wgpu", "--trust-device"];
    arguments.extend(set(&resumed));
    experiment.train("again", &arguments).expect_success();
    assert_eq!(weights(&experiment, "again"), weights(&experiment, "f16"));

    // A detector that was trained in half precision detects on the CPU too.
    let (root, json) = (experiment.path("f16"), experiment.path("eval.json"));
    let arguments = ["eval", "--run", &root, "--json", &json, "--device", "flex"];
    let evaluated = run(&arguments).expect_success();
    assert!(
        evaluated.stderr.contains("computing in f32"),
        "{evaluated:#?}"
    );
}
