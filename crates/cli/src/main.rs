//! `retinanet`: trains, evaluates and uses RetinaNet detectors.

mod adapters;
mod args;
mod commands;
mod console;
mod device;
mod drawings;
mod failure;
mod fitness;
mod inputs;
mod machine;
mod outputs;
mod pretrained;
mod signals;
mod timing;
mod world;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{
    AnchorsCommand, Arguments, Command, ConfigCommand, DatasetCommand, DeviceCommand,
};
use crate::failure::Failure;

fn main() -> ExitCode {
    device::set_default();
    keep_freed_memory();
    match run(Arguments::parse().command).and_then(|()| console::all_told()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console::error(&failure);
            failure.exit_code()
        }
    }
}

/// Lets glibc keep freed memory instead of giving it back to the system, which would clear it page by
/// page when the next image needs it again. What it keeps follows the largest block that was freed,
/// up to 32 MiB (`mallopt(3)`, `M_MMAP_THRESHOLD`); elsewhere this does nothing.
fn keep_freed_memory() {
    const BLOCK: usize = 31 << 20;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(BLOCK)));
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => commands::init::run(&arguments),
        Command::Train(arguments) => commands::train::run(&arguments),
        Command::LrFind(arguments) => commands::lr_find::run(&arguments),
        Command::Tune(arguments) => commands::tune::run(&arguments),
        Command::Study(arguments) => commands::study::run(&arguments),
        Command::Runs(arguments) => commands::runs::run(&arguments),
        Command::Eval(arguments) => commands::eval::run(&arguments),
        Command::Predict(arguments) => commands::predict::run(&arguments),
        Command::Serve(arguments) => commands::serve::run(&arguments),
        Command::Export(arguments) => commands::export::run(&arguments),
        Command::Import(arguments) => commands::import::run(&arguments),
        Command::Anchors(AnchorsCommand::Report(arguments)) => {
            commands::anchors::report(&arguments)
        }
        Command::Anchors(AnchorsCommand::View(arguments)) => commands::anchors::view(&arguments),
        Command::Anchors(AnchorsCommand::Optimize(arguments)) => {
            commands::anchors::optimize(&arguments)
        }
        Command::Device(DeviceCommand::Check(arguments)) => commands::device_check::run(&arguments),
        Command::Device(DeviceCommand::Fits(arguments)) => commands::fits::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(&arguments),
        Command::Dataset(DatasetCommand::Check(arguments)) => commands::check::run(&arguments),
        Command::Dataset(DatasetCommand::Stats(arguments)) => commands::stats::run(&arguments),
        Command::Dataset(DatasetCommand::View(arguments)) => commands::view::run(&arguments),
        Command::Dataset(DatasetCommand::Split(arguments)) => commands::split::run(&arguments),
        Command::Dataset(DatasetCommand::Convert(arguments)) => commands::convert::run(&arguments),
        Command::Dataset(DatasetCommand::Rank(arguments)) => commands::rank::run(&arguments),
        Command::Dataset(DatasetCommand::Errors(arguments)) => commands::errors::run(&arguments),
        Command::Dataset(DatasetCommand::Synth(arguments)) => commands::synth::run(&arguments),
        Command::Config(ConfigCommand::Show(arguments)) => commands::config::show(&arguments),
        Command::Config(ConfigCommand::Keys(arguments)) => commands::keys::run(&arguments),
    }
}
