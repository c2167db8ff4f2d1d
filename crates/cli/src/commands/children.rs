//! Processes of this program that train for another command.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use retinanet_trainer::RunDirectory;

use crate::console;
use crate::failure::Failure;
use crate::signals;

/// A run that a process of its own trains.
pub(super) struct Training<'a> {
    /// The config.
    pub(super) config: &'a Path,
    /// The run's folder; a run that is there goes on.
    pub(super) run: &'a Path,
    /// Keys and values of the config.
    pub(super) set: Vec<(String, String)>,
    pub(super) device: Option<&'a str>,
}

impl Training<'_> {
    /// The command that trains it, or goes on with it.
    pub(super) fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("train").arg(self.config);
        command.arg("--run-dir").arg(self.run);
        for (key, value) in &self.set {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        if let Some(device) = self.device {
            command.args(["--device", device]);
        }
        if RunDirectory::is_run(self.run) {
            command.arg("--resume");
        }
        Ok(command)
    }
}

/// Waits for a process, whose results are not this command's. A signal, which it gets too, is why this one ends.
pub(super) fn run_to_end(mut command: Command) -> Result<ExitStatus, Failure> {
    let status = command.stdout(Stdio::null()).status();
    if let Some(signal) = signals::received() {
        console::note("stopped; the same command goes on where it was");
        return Err(Failure::Signal(signal));
    }
    status.map_err(Failure::work)
}
