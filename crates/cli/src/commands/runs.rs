use std::path::{Path, PathBuf};

use anyhow::anyhow;
use retinanet_experiment::ExperimentConfig;
use retinanet_settings::Count;
use retinanet_trainer::{fingerprint, Checkpoint, RunDirectory};

use crate::args::RunsArguments;
use crate::console;
use crate::device;
use crate::failure::Failure;

pub(crate) fn run(arguments: &RunsArguments) -> Result<(), Failure> {
    let folders = runs(&arguments.folder)?;
    let width = folders.iter().map(|folder| name(folder).chars().count());
    let width = width.fold("run".len(), usize::max);
    let hash = if arguments.hash { "  weights" } else { "" };
    console::result(&format!(
        "{:width$}  {:>15}  {:>12}  {:8}{hash}",
        "run", "step", "best", "state"
    ));
    for folder in folders {
        // One run that is broken does not hide the others.
        let line = describe(&folder, arguments.hash).unwrap_or_else(|failure| {
            failure
                .error()
                .map_or_else(String::new, |it| format!("{it:#}"))
        });
        console::result(&format!("{:width$}  {line}", name(&folder)));
    }
    Ok(())
}

/// The runs of a folder by name; the folder itself where it is one.
fn runs(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    if RunDirectory::is_run(folder) {
        return Ok(vec![folder.to_owned()]);
    }
    let mut runs = Vec::new();
    for entry in fs_err::read_dir(folder).map_err(Failure::work)? {
        let path = entry.map_err(Failure::work)?.path();
        if RunDirectory::is_run(&path) {
            runs.push(path);
        }
    }
    runs.sort();
    if runs.is_empty() {
        return Err(Failure::work(anyhow!(
            "`{}` holds no runs",
            folder.display()
        )));
    }
    Ok(runs)
}

fn name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or(folder.as_os_str());
    name.to_string_lossy().into_owned()
}

fn describe(folder: &Path, with_hash: bool) -> Result<String, Failure> {
    let run = RunDirectory::open(folder)?;
    let config = run.config()?;
    let is_running = run.is_running();
    let checkpoint = match run.newest() {
        Ok((Some(checkpoint), _)) => checkpoint,
        Ok((None, _)) if is_running => return Ok("running, no checkpoint yet".to_owned()),
        Ok((None, _)) => return Ok("no checkpoint yet".to_owned()),
        Err(error) => return Err(error.into()),
    };
    let state = &checkpoint.state;
    // A longer length may have been asked for since, and the run been killed before its next checkpoint.
    let total = config
        .train
        .iterations
        .map_or(state.total, Count::get)
        .max(state.total);
    let step = format!("{}/{total}", state.iteration);
    let best = state.best.map_or_else(
        || "-".to_owned(),
        |best| format!("{} {best:.4}", config.train.best_metric),
    );
    let ended = if is_running {
        "running"
    } else if state.iteration >= total {
        "finished"
    } else {
        "stopped"
    };
    let hash = if with_hash {
        format!("  {}", weights_hash(&config, &checkpoint)?)
    } else {
        String::new()
    };
    Ok(format!("{step:>15}  {best:>12}  {ended:8}{hash}"))
}

fn weights_hash(config: &ExperimentConfig, checkpoint: &Checkpoint) -> Result<String, Failure> {
    let device = device::open("flex").map_err(Failure::usage)?;
    let model = || {
        config
            .model
            .init(checkpoint.state.classes.len(), 0, &device)
    };
    let weights = fingerprint(&checkpoint.load_model(model()?)?);
    let average = fingerprint(&checkpoint.load_to_detect(model()?)?);
    Ok(if average == weights {
        weights
    } else {
        format!("{weights}+{average}")
    })
}
