//! GPUs: what they compute is compared with the CPU before it is trusted, and where one fails, the
//! program says so and ends.

use retinanet_tests::{Experiment, Finished, retinanet};
use tempfile::TempDir;

use crate::training::steps;

/// Breaks the gradients of the weights on purpose.
const BREAK: (&str, &str) = ("RETINANET_BREAK_KERNEL", "weight_gradient");

/// A tiny experiment, and a place of its own for what the program remembers.
struct OnGpu {
    experiment: Experiment,
    cache: TempDir,
}

impl OnGpu {
    /// Nothing if there is no GPU, not even in software.
    #[expect(clippy::print_stderr, reason = "a skipped test tells why")]
    fn new() -> Option<Self> {
        if let Err(error) = burn::tensor::Device::wgpu_options().init() {
            eprintln!("skipped: no wgpu adapter ({error})");
            return None;
        }
        Some(Self {
            experiment: Experiment::new(),
            cache: tempfile::tempdir().unwrap(),
        })
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
        retinanet()
            .args(arguments)
            .env("XDG_CACHE_HOME", self.cache.path())
            .envs(variables.iter().copied())
            .output()
            .unwrap()
            .into()
    }

    fn train(&self, run: &str, more: &[&str], variables: &[(&str, &str)]) -> Finished {
        let (config, run) = (self.experiment.path("tiny.toml"), self.experiment.path(run));
        let mut arguments = vec!["train", &config, "--run-dir", &run];
        arguments.extend(more);
        self.run(&arguments, variables)
    }

    fn check(&self, variables: &[(&str, &str)]) -> Finished {
        let config = self.experiment.path("tiny.toml");
        self.run(
            &["device", "check", &config, "--classes", "3", "--runs", "2"],
            variables,
        )
    }
}

#[test]
fn device_check_compares_every_layer_and_names_a_broken_one() {
    let Some(gpu) = OnGpu::new() else { return };
    let sound = gpu.check(&[]).expect_success();
    for part in [
        "driver",
        "half precision",
        "kernels are compiled to WGSL",
        "detections",
        "pixels",
        "updates",
        "convolution 7×7",
        "batch norm",
        "loss over",
        "agree",
    ] {
        assert!(sound.stdout.contains(part), "no `{part}` in {sound:#?}");
    }
    assert!(!sound.stdout.contains("WRONG"), "{sound:#?}");

    let broken = gpu.check(&[BREAK]);
    broken.expect_refusal(
        1,
        &[
            "`wgpu` computes wrong numbers",
            "weight gradient",
            "convolution",
        ],
    );
    let wrong = |line: &&str| line.starts_with("WRONG");
    assert!(
        broken.stdout.lines().filter(wrong).count() > 10,
        "{broken:#?}"
    );
    let mut named = broken.stdout.lines().filter(wrong);
    assert!(
        named.all(|line| line.contains("weight gradient")),
        "{broken:#?}"
    );
}

#[test]
fn training_on_a_gpu_begins_with_a_comparison_that_is_remembered() {
    let Some(gpu) = OnGpu::new() else { return };
    let device = ["--device", "wgpu", "--set", "train.iterations=1"];
    let first = gpu.train("first", &device, &[]).expect_success();
    assert!(first.stderr.contains("compiling kernels for"), "{first:#?}");
    let second = gpu.train("second", &device, &[]).expect_success();
    assert!(
        !second.stderr.contains("compiling kernels for"),
        "{second:#?}"
    );

    gpu.train("broken", &device, &[BREAK])
        .expect_refusal(1, &["`wgpu` computes wrong numbers", "--trust-device"]);
    assert!(!std::path::Path::new(&gpu.experiment.path("broken")).exists());
    let trusted = [&device[..], &["--trust-device"]].concat();
    let trusted = gpu.train("trusted", &trusted, &[BREAK]).expect_success();
    assert!(
        !trusted.stderr.contains("compiling kernels for"),
        "{trusted:#?}"
    );
}

#[test]
fn a_seed_starts_alike_on_every_device_and_a_run_may_change_its_device() {
    let Some(gpu) = OnGpu::new() else { return };
    gpu.train("flex", &[], &[]).expect_success();
    gpu.train("both", &["--set", "train.iterations=2"], &[])
        .expect_success();
    gpu.train(
        "both",
        &[
            "--resume",
            "--device",
            "wgpu",
            "--set",
            "train.iterations=4",
        ],
        &[],
    )
    .expect_success();
    gpu.train("both", &["--resume"], &[]).expect_success();
    gpu.train("wgpu", &["--device", "wgpu"], &[])
        .expect_success();
    let losses = |run| -> Vec<f64> {
        (steps(&gpu.experiment, run).iter())
            .map(|step| step["loss"].as_f64().unwrap())
            .collect()
    };
    let flex = losses("flex");
    assert_eq!(flex.len(), 6);
    for run in ["wgpu", "both"] {
        let found = losses(run);
        let pairs = flex.iter().zip(&found);
        for (step, (a, b)) in pairs.enumerate() {
            // Each step's rounding goes into the next.
            let allowed = 1e-6 * 10_f64.powi(step as i32).min(1e3);
            assert!(
                (a / b - 1.0).abs() < allowed,
                "{run}: {flex:?} and {found:?}"
            );
        }
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test tells why")]
fn as_many_images_as_fit_into_a_gpu_are_found_by_trying() {
    let Some(gpu) = OnGpu::new() else { return };
    let adapters = gpu.check(&[]).expect_success().stdout;
    if !adapters.contains("tensors up to 0.1 GiB") {
        eprintln!("skipped: this adapter takes larger tensors than the test makes");
        return;
    }
    // Two images of this side are 142 MB.
    let settings = [
        "data.short_side=2432",
        "data.long_side=2432",
        "data.eval_short_side=64",
        "train.batch_size=auto",
        "train.iterations=1",
    ];
    let mut arguments = vec!["--device", "wgpu", "--trust-device"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    let trained = gpu.train("auto", &arguments, &[]).expect_success();
    for told in [
        "trying 1 images",
        "trying 2 images",
        "batch size 1, measured",
    ] {
        assert!(trained.stderr.contains(told), "no `{told}` in {trained:#?}");
    }
    assert!(!trained.stderr.contains("trying 4 images"), "{trained:#?}");
    let images = steps(&gpu.experiment, "auto")[0]["images"].as_u64();
    assert_eq!(images, Some(1));
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test tells why")]
fn where_memory_runs_out_one_message_says_so_and_the_checkpoint_stays() {
    let Some(gpu) = OnGpu::new() else { return };
    let adapters = gpu.check(&[]).expect_success().stdout;
    if !adapters.contains("tensors up to 0.1 GiB") {
        eprintln!("skipped: this adapter takes larger tensors than the test makes");
        return;
    }
    // Two images of this side are 142 MB.
    let large = [
        "--set",
        "data.short_side=2432",
        "--set",
        "data.long_side=2432",
        "--set",
        "data.eval_short_side=64",
    ];
    let with = |more: &[&'static str]| [&large[..], more].concat();
    gpu.train("run", &with(&["--set", "train.iterations=2"]), &[])
        .expect_success();
    let before = gpu.experiment.bytes("run/checkpoints/last/model.bpk");
    let resumed = with(&["--resume", "--device", "wgpu", "--trust-device"]);
    let failed = gpu.train("run", &resumed, &[]);
    failed.expect_refusal(
        1,
        &["computing on `wgpu` failed", "buffer", "a smaller batch"],
    );
    assert_eq!(
        gpu.experiment.bytes("run/checkpoints/last/model.bpk"),
        before
    );
}
