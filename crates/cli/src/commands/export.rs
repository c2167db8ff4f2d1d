use retinanet_detector::save_safetensors;
use retinanet_trainer::{Detector, RunDirectory};

use crate::args::{ExportArguments, Format};
use crate::console;
use crate::device;
use crate::failure::Failure;

pub(crate) fn run(arguments: &ExportArguments) -> Result<(), Failure> {
    let run = RunDirectory::open(&arguments.run)?;
    let config = run.config()?;
    let device = device::open("flex").map_err(Failure::usage)?;
    let checkpoint = run.best_checkpoint()?;
    let detector = Detector::from_checkpoint(&config, &checkpoint, &device)?;
    match arguments.format {
        Format::Safetensors => {
            save_safetensors(detector.model(), detector.classes(), &arguments.out)
                .map_err(Failure::work)?;
        }
    }
    let out = arguments.out.display();
    console::result(&format!(
        "wrote step {} to {out}\nnext:\n  retinanet eval --weights {out} --config {}",
        checkpoint.state.iteration,
        arguments.run.join("config.toml").display()
    ));
    Ok(())
}
