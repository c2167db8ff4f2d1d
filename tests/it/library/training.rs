use std::error::Error;
use std::path::Path;

use retinanet_experiment::{Observer, StepReport, load_config};
use retinanet_trainer::{LaunchOptions, PlainHost, launch};

struct Losses;

impl Observer for Losses {
    fn step(&mut self, step: &StepReport) {
        println!("step {}: loss {:.4}", step.iteration, step.loss());
    }
}

pub fn train(config: &Path, run: &Path) -> Result<(), Box<dyn Error>> {
    let options = LaunchOptions::new(load_config(config, &[])?, run);
    let outcome = launch(&options, &PlainHost, &mut Losses)?;
    println!("best {:?}, in {}", outcome.best, outcome.run.display());
    Ok(())
}
