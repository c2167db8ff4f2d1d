//! One file a command; here what several share.

pub(crate) mod anchors;
pub(crate) mod bench;
pub(crate) mod check;
mod children;
pub(crate) mod config;
pub(crate) mod convert;
pub(crate) mod device_check;
pub(crate) mod errors;
pub(crate) mod eval;
pub(crate) mod export;
mod export_onnx;
mod export_quantized;
mod export_web;
pub(crate) mod fits;
mod folds;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod keys;
mod label_studio;
pub(crate) mod lr_find;
mod mirror;
pub(crate) mod predict;
pub(crate) mod rank;
pub(crate) mod runs;
pub(crate) mod serve;
pub(crate) mod split;
pub(crate) mod stats;
pub(crate) mod study;
pub(crate) mod synth;
pub(crate) mod train;
pub(crate) mod tune;
pub(crate) mod view;

use std::io::Cursor;
use std::path::{Component, Path, PathBuf};

use anyhow::{anyhow, Context};
use burn::tensor::Device;
use image::{ImageFormat, RgbImage};
use retinanet_detector::{Detector, Precision};
use retinanet_experiment::{load_config, ComputeConfig, ExperimentConfig};
use retinanet_images::TestTimeAugmentation;
use retinanet_settings::Whole;
use retinanet_trainer::{check_precision, counted_score, Checkpoint, RunDirectory};

use crate::args::{ModelArguments, TestTimeArguments};
use crate::console;
use crate::device;
use crate::failure::Failure;

/// A trained model and the config that it was trained with.
struct LoadedModel {
    detector: Detector,
    config: ExperimentConfig,
    /// The score of the largest F1 on the validation images, if it is known.
    best_score: Option<f64>,
}

impl LoadedModel {
    /// The lowest score that counts, which is told where nobody asked for one.
    fn score(&self, asked: Option<f32>) -> f32 {
        let score = counted_score(asked, self.best_score);
        if asked.is_none() && self.best_score.is_some() {
            console::note(&format!(
                "detections from a score of {score:.2}, where F1 on the validation images is largest; \
                 `--score` takes another"
            ));
        }
        score
    }
}

/// What the model is called: as its run, or its file.
fn model_name(arguments: &ModelArguments) -> String {
    let run = arguments.run.as_ref();
    let run = run.and_then(|run| run.canonicalize().ok());
    let path = run.as_ref().or(arguments.weights.as_ref());
    let name = path.and_then(|path| path.file_name());
    name.map_or_else(|| "model".into(), |it| it.to_string_lossy().into_owned())
}

fn load_model(arguments: &ModelArguments) -> Result<LoadedModel, Failure> {
    let set = &arguments.settings.set;
    let (config, run) = match (&arguments.run, &arguments.config) {
        (Some(root), _) => {
            let run = RunDirectory::open(root)?;
            (load_config(&root.join("config.toml"), set)?, Some(run))
        }
        (None, Some(config)) => (load_config(config, set)?, None),
        (None, None) => {
            return Err(Failure::usage(anyhow!(
                "which model? give --run DIR, or --weights FILE and --config FILE"
            )))
        }
    };
    set_threads(config.compute.threads.map(Whole::as_usize));
    let name = arguments.device.as_ref().unwrap_or(&config.compute.device);
    let device = device::open(name).map_err(Failure::usage)?;
    let precision = precision(&config.compute, set, (name, &device))?;
    let mut best_score = None;
    let detector = match (run, &arguments.weights) {
        (Some(run), _) => {
            let checkpoint = match &arguments.checkpoint {
                Some(name) => run.checkpoint(name)?,
                None => run.best_checkpoint()?,
            };
            tell_checkpoint(&checkpoint, &run, &config);
            best_score = checkpoint.state.best_score;
            checkpoint.detector(&config, &device)?
        }
        (None, Some(weights)) => Detector::from_weights(&config.detector()?, weights, &device)?,
        (None, None) => return Err(Failure::usage(anyhow!("--config needs --weights FILE"))),
    };
    Ok(LoadedModel {
        detector: detector.with_precision(precision),
        config,
        best_score,
    })
}

/// The precision to detect with: the config's. A device that does not have it takes f32, unless it was asked for.
fn precision(
    compute: &ComputeConfig,
    set: &[(String, String)],
    (name, device): (&str, &Device),
) -> Result<Precision, Failure> {
    let Err(error) = check_precision(compute, name, device) else {
        return Ok(compute.precision);
    };
    if set.iter().any(|(key, _)| key == "compute.precision") {
        return Err(Failure::usage(error));
    }
    console::note(&format!(
        "computing in f32: the config says `compute.precision = \"{}\"`, which `{name}` does not have",
        compute.precision
    ));
    Ok(Precision::F32)
}

/// Which weights are looked with, and how far their run is.
fn tell_checkpoint(checkpoint: &Checkpoint, run: &RunDirectory, config: &ExperimentConfig) {
    let state = &checkpoint.state;
    let folder = checkpoint.folder.display();
    let metric = config.train.best_metric;
    let reached = match (state.best, state.best_iteration) {
        (Some(best), Some(step)) if step == state.iteration => format!(", {metric} {best:.4}"),
        (None, _) => format!("; no evaluation gave the run an {metric} so far"),
        _ => String::new(),
    };
    let stands = match run.last_iteration() {
        Some(last) if last < state.total => {
            format!("; the run is not finished, it is at step {last}")
        }
        _ => String::new(),
    };
    console::note(&format!(
        "weights: {folder}, step {} of {}{reached}{stands}",
        state.iteration, state.total
    ));
}

/// A detector with this test-time augmentation.
fn with_test_time_augmentation(
    detector: Detector,
    arguments: &TestTimeArguments,
) -> Result<Detector, Failure> {
    let test_time = TestTimeAugmentation {
        flip: arguments.flip,
        short_sides: arguments.short_sides.clone(),
        tile: arguments.tile,
        tile_overlap: arguments.tile_overlap,
    };
    (detector.with_test_time_augmentation(test_time, arguments.batch.unwrap_or(1)))
        .map_err(Failure::usage)
}

/// Limits the CPU's threads; nothing if not given.
fn set_threads(threads: Option<usize>) {
    /// The most that `compute.threads` may be; more is refused when the config is checked.
    const MOST_THREADS: usize = 1024;
    if let Some(threads) = threads.filter(|threads| *threads <= MOST_THREADS) {
        // Fails only where the pool is running already, and then it has a size.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global();
    }
}

/// So many of `total` places, or all of them, evenly spread.
fn spread(count: usize, total: usize) -> impl Iterator<Item = usize> {
    let count = count.min(total);
    (0..count).map(move |place| place * total / count)
}

/// Refuses to write over a file that a run keeps.
fn refuse_file_of_run(run: Option<&Path>, option: &str, path: &Path) -> Result<(), Failure> {
    match run {
        Some(run) if RunDirectory::keeps(run, path) => Err(Failure::usage(anyhow!(
            "{option} `{}` is a file that the run keeps; nothing was written",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// A file's name without what would lead out of the folder that it is written below.
pub(crate) fn below(file_name: impl AsRef<Path>) -> PathBuf {
    let parts = file_name.as_ref().components();
    parts
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect()
}

/// Writes a file whole, or leaves what is there.
fn write_over(path: &Path, content: &[u8]) -> Result<(), Failure> {
    retinanet_files::write(path, content)
        .with_context(|| format!("cannot write `{}`", path.display()))
        .map_err(Failure::Work)
}

/// Writes a picture whole, as PNG, or leaves what is there.
fn write_png(path: &Path, image: &RgbImage) -> Result<(), Failure> {
    let mut png = Cursor::new(Vec::new());
    let written = image
        .write_to(&mut png, ImageFormat::Png)
        .map_err(anyhow::Error::new)
        .and_then(|()| Ok(retinanet_files::write_cached(path, png.into_inner())?));
    written
        .with_context(|| format!("cannot write `{}`", path.display()))
        .map_err(Failure::Work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_spread_as_are_asked_for() {
        for (count, total) in [(16, 17), (9, 10), (3, 3), (5, 3), (1, 100), (4, 0)] {
            let places: Vec<usize> = spread(count, total).collect();
            assert_eq!(places.len(), count.min(total));
            assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
            assert!(places.iter().all(|place| *place < total), "{places:?}");
        }
    }

    #[test]
    fn no_name_leads_out_of_a_folder() {
        for (name, expected) in [
            ("a/b.png", "a/b.png"),
            ("/etc/b.png", "etc/b.png"),
            ("../../b.png", "b.png"),
            ("./b.png", "b.png"),
        ] {
            assert_eq!(below(name), Path::new(expected));
        }
    }
}
