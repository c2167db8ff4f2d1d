//! Whether a step fits into a GPU's memory, tried in a process of its own.

use std::io;
use std::process::{Command, Stdio};

use anyhow::Context;
use retinanet_experiment::{ExperimentConfig, Observer};
use retinanet_settings::Whole;
use retinanet_trainer::{try_batch, Plan};

use crate::args::FitsArguments;
use crate::device;
use crate::failure::Failure;

struct Quiet;
impl Observer for Quiet {}

pub(crate) fn run(arguments: &FitsArguments) -> Result<(), Failure> {
    let config: ExperimentConfig = serde_json::from_reader(io::stdin().lock())
        .context("the config on stdin is not one")
        .map_err(Failure::usage)?;
    super::set_threads(config.compute.threads.map(Whole::as_usize));
    let device = device::open(&config.compute.device).map_err(Failure::usage)?;
    let plan = Plan::new(config, &mut Quiet)?;
    Ok(try_batch(&plan, &device, arguments.images)?)
}

/// Lets another process of this program try; nothing if it does not start.
pub(crate) fn fits(config: &ExperimentConfig, images: usize) -> Option<bool> {
    let config = serde_json::to_vec(config).ok()?;
    let mut child = Command::new(std::env::current_exe().ok()?)
        .args(["device", "fits", "--images", &images.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // It may end before it has read all.
    let _ = io::Write::write_all(&mut child.stdin.take()?, &config);
    Some(child.wait().ok()?.success())
}
