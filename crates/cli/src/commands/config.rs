use retinanet_experiment::{config_to_toml, load_config};

use crate::args::ShowArguments;
use crate::console;
use crate::failure::Failure;

pub(crate) fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let config = load_config(&arguments.config, &arguments.settings.set)?;
    console::result(config_to_toml(&config)?.trim_end());
    Ok(())
}
