//! Processes of this program that train for another command.

use std::io;
use std::path::Path;
use std::process::Command;

use retinanet_trainer::RunDirectory;

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
