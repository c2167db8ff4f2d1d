use std::path::Path;

use anyhow::anyhow;
use retinanet_data::ShortSides;
use retinanet_experiment::{load_config, ExperimentConfig};
use retinanet_images::Side;
use retinanet_settings::Whole;
use retinanet_trainer::DeviceCheck;

use crate::adapters;
use crate::args::DeviceCheckArguments;
use crate::console::{self, Console};
use crate::device;
use crate::failure::Failure;
use crate::fitness;

/// Side of the images where no config names a size, in pixels.
const SMALL_SIDE: u64 = 256;

/// Lists adapters, and compares one with the CPU layer by layer.
pub(crate) fn run(arguments: &DeviceCheckArguments) -> Result<(), Failure> {
    let config = read(arguments.config.as_deref(), &arguments.settings.set)?;
    super::set_threads(config.compute.threads.map(Whole::as_usize));
    for adapter in adapters::list() {
        console::result(&adapter.to_string());
    }
    let device = device::open(&arguments.device).map_err(Failure::usage)?;
    if let Some(compiler) = device::compiler(&device) {
        console::result(&compiler);
    }
    let check = DeviceCheck::of_config(&config, arguments.classes)?.with_images(arguments.batch);
    console::result(&format!(
        "comparing {} with the CPU, {} images at once, {} times:",
        device::describe(&device),
        arguments.batch,
        arguments.runs
    ));
    let checked = check.run(&device, arguments.runs, &mut Console::new(1))?;
    for checked in &checked {
        let (part, off) = checked.deviation.worst();
        let verdict = if checked.is_wrong() { "WRONG" } else { "ok" };
        console::result(&format!(
            "{verdict:5} {:28} {:9.1} ms  {}",
            format!("{off:.1e} ({part})"),
            1e3 * checked.deviation.seconds,
            checked.what
        ));
    }
    fitness::refuse_wrong(&checked, &arguments.device)?;
    console::result(&format!("all {} agree", checked.len()));
    Ok(())
}

fn read(path: Option<&Path>, set: &[(String, String)]) -> Result<ExperimentConfig, Failure> {
    if let Some(path) = path {
        return Ok(load_config(path, set)?);
    }
    if !set.is_empty() {
        return Err(Failure::usage(anyhow!(
            "`--set` changes a config: name one"
        )));
    }
    let mut config = ExperimentConfig::default();
    let resize = &mut config.data.transform.resize;
    resize.short_side = ShortSides::literal(&[SMALL_SIDE]);
    resize.long_side = Side::literal(SMALL_SIDE);
    Ok(config)
}
