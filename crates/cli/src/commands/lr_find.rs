use anyhow::anyhow;
use retinanet_experiment::{load_config, require_data, BatchSize, DataSplit};
use retinanet_settings::Whole;
use retinanet_trainer::{check_precision, find_learning_rate, Plan};

use crate::args::LrFindArguments;
use crate::console::{self, Console};
use crate::device;
use crate::failure::Failure;
use crate::fitness;

pub(crate) fn run(arguments: &LrFindArguments) -> Result<(), Failure> {
    let mut config = load_config(&arguments.config, &arguments.settings.set)?;
    require_data(&config.data, &[DataSplit::Train, DataSplit::Val])?;
    if let Some(device) = &arguments.device {
        config.compute.device.clone_from(device);
    }
    super::set_threads(config.compute.threads.map(Whole::as_usize));
    let device = device::open(&config.compute.device).map_err(Failure::usage)?;
    check_precision(&config.compute, &config.compute.device, &device).map_err(Failure::usage)?;
    let mut console = Console::new(config.train.log_every.get());
    if config.train.batch_size == BatchSize::Auto {
        return Err(Failure::usage(anyhow!(
            "a learning rate is for a batch size: give `train.batch_size` a number"
        )));
    }
    let plan = Plan::new(config, &mut console)?;
    if !arguments.trust_device {
        let name = plan.config.compute.device.as_str();
        fitness::require(&plan.device_check(), &device, name, &mut console)?;
    }
    let search = find_learning_rate(&plan, &device, arguments.steps, &mut console)?;

    if search.losses.is_empty() {
        return Err(Failure::work(anyhow!(
            "the loss is not finite from the first step on; `retinanet train` writes a non-finite report of it"
        )));
    }
    // The config's rate is for another batch size.
    let batch_size = plan.config.train.batch_size.images() as f64;
    let reference = plan.config.optimizer.reference_batch.get() as f64;
    let for_config = |rate: f64| rate * reference / batch_size;
    for (rate, loss) in &search.losses {
        console::result(&format!("lr {:.2e}  loss {loss:.4}", for_config(*rate)));
    }
    for (what, rate) in [
        (
            "a tenth of the rate with the least loss",
            search.tenth_of_best,
        ),
        ("where the loss falls fastest", search.steepest),
    ] {
        if let Some(rate) = rate {
            console::result(&format!(
                "optimizer.lr = {:.2e}  # {what}",
                for_config(rate)
            ));
        }
    }
    Ok(())
}
