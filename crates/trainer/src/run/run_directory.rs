//! The run directory: `config.toml` (resolved), `classes.json`, `metrics.jsonl`, `log.txt`,
//! TensorBoard's events, `checkpoints/{last,best,step-N}`, `eval/` and `non_finite/`.

mod changes;
mod checkpoints;
mod continuing;
mod error;

use std::fs::TryLockError;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use retinanet_boxes::ClassList;
use retinanet_checkpoint::{SealError, read_state};
use retinanet_detector::CheckpointError;
use retinanet_evaluation::Metrics;
use retinanet_experiment::{ConfigError, ExperimentConfig, config_to_toml, load_config};

pub use self::changes::{Change, Changes};
pub use self::checkpoints::{DamagedCheckpoint, NewestCheckpoint};
pub use self::error::RunDirectoryError;

/// The files and folders of a run, besides TensorBoard's `events.…`.
const KEPT: [&str; 9] = [
    "checkpoints",
    "classes.json",
    CONFIG_FILE,
    "eval",
    ID_FILE,
    "lock",
    "log.txt",
    "metrics.jsonl",
    "report.html",
];
const CONFIG_FILE: &str = "config.toml";
const ID_FILE: &str = "id";

/// Where a run keeps all it makes.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// Makes the directory of a new run.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder holds a run already, or cannot be written.
    pub fn create(root: &Path, config: &ExperimentConfig) -> Result<Self, RunDirectoryError> {
        if Self::is_run(root) {
            return Err(Self::holds_run(root));
        }
        let directory = Self {
            root: root.to_owned(),
        };
        fs_err::create_dir_all(directory.checkpoints().root()).map_err(RunDirectoryError::Io)?;
        fs_err::create_dir_all(root.join("eval")).map_err(RunDirectoryError::Io)?;
        // The config last: with it the folder is a run.
        write_over(&root.join(ID_FILE), new_id().as_bytes())?;
        directory.write_config(config)?;
        Ok(directory)
    }

    /// Opens the directory of a run.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder holds no run, or one of another version.
    pub fn open(root: &Path) -> Result<Self, RunDirectoryError> {
        if !Self::is_run(root) {
            return Err(RunDirectoryError::NoRun {
                root: root.to_owned(),
            });
        }
        let run = Self {
            root: root.to_owned(),
        };
        run.require_format()?;
        Ok(run)
    }

    /// Refuses a run of another version before its config is, which says less.
    fn require_format(&self) -> Result<(), RunDirectoryError> {
        let checkpoints = self.checkpoints();
        for folder in [checkpoints.best(), checkpoints.last()] {
            let state = read_state::<serde::de::IgnoredAny>(&folder);
            if let Err(error @ SealError::Format { .. }) = state {
                return Err(CheckpointError::from(error).into());
            }
        }
        Ok(())
    }

    /// Whether a folder holds a run.
    pub fn is_run(root: &Path) -> bool {
        root.join(CONFIG_FILE).exists()
    }

    /// What tells this run from all others, and its checkpoints from theirs.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn id(&self) -> Result<String, RunDirectoryError> {
        fs_err::read_to_string(self.root.join(ID_FILE)).map_err(RunDirectoryError::Io)
    }

    /// Whether a path is one of the files that the run in a folder keeps: not what a person has put
    /// there besides.
    pub fn keeps(root: &Path, path: &Path) -> bool {
        let (Ok(root), Some(file)) = (root.canonicalize(), retinanet_files::file_of(path)) else {
            return false;
        };
        let Ok(inside) = file.strip_prefix(root) else {
            return false;
        };
        let name = inside.iter().next().unwrap_or_default();
        KEPT.iter().any(|kept| name == *kept) || name.to_string_lossy().starts_with("events.")
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The run's config.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn config(&self) -> Result<ExperimentConfig, ConfigError> {
        load_config(&self.root.join(CONFIG_FILE), &[])
    }

    pub(crate) fn write_config(&self, config: &ExperimentConfig) -> Result<(), RunDirectoryError> {
        let text = config_to_toml(config).map_err(RunDirectoryError::Config)?;
        write_over(&self.root.join(CONFIG_FILE), text.as_bytes())
    }

    pub(crate) fn write_classes(&self, classes: &ClassList) -> Result<(), RunDirectoryError> {
        self.write_json("classes.json", classes)
    }

    pub(crate) fn write_evaluation(
        &self,
        iteration: u64,
        metrics: &Metrics,
    ) -> Result<(), RunDirectoryError> {
        self.write_json(&format!("eval/step-{iteration}.json"), metrics)
    }

    /// Adds a line to `log.txt`.
    pub(crate) fn log(&self, line: &str) -> Result<(), RunDirectoryError> {
        let mut file = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.root.join("log.txt"))
            .map_err(RunDirectoryError::Io)?;
        writeln!(file, "{line}").map_err(RunDirectoryError::Io)
    }

    /// Keeps other programs from training in the same directory, until it is dropped.
    pub(crate) fn lock(&self) -> Result<fs_err::File, RunDirectoryError> {
        let mut options = fs_err::OpenOptions::new();
        let lock = (options
            .create(true)
            .append(true)
            .open(self.root.join("lock")))
        .map_err(RunDirectoryError::Io)?;
        match lock.file().try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(RunDirectoryError::Locked {
                root: self.root.clone(),
            }),
            Err(TryLockError::Error(error)) => Err(RunDirectoryError::Io(error)),
        }
    }

    /// The refusal to begin a run where there is one.
    pub fn holds_run(root: &Path) -> RunDirectoryError {
        let newest = Self::open(root).and_then(|run| run.newest());
        let done = match newest {
            Ok((Some(checkpoint), _)) => {
                let state = checkpoint.state;
                format!(" of {} of {} steps", state.iteration, state.total)
            }
            _ => String::new(),
        };
        RunDirectoryError::HoldsRun {
            root: root.to_owned(),
            done,
        }
    }

    /// Whether a program trains in the directory now.
    pub fn is_running(&self) -> bool {
        let Ok(lock) = fs_err::File::open(self.root.join("lock")) else {
            return false;
        };
        matches!(lock.file().try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    pub(crate) fn write_json(
        &self,
        name: &str,
        value: &impl serde::Serialize,
    ) -> Result<(), RunDirectoryError> {
        self.write_text(name, serde_json::to_string_pretty(value))
    }

    /// As JSON for programs: without line breaks.
    pub(crate) fn write_compact(
        &self,
        name: &str,
        value: &impl serde::Serialize,
    ) -> Result<(), RunDirectoryError> {
        self.write_text(name, serde_json::to_string(value))
    }

    fn write_text(
        &self,
        name: &str,
        text: serde_json::Result<String>,
    ) -> Result<(), RunDirectoryError> {
        let text = text.map_err(|error| RunDirectoryError::Io(std::io::Error::other(error)))?;
        write_over(&self.root.join(name), text.as_bytes())
    }
}

/// A name that no other run has.
fn new_id() -> String {
    // Each of them is keyed from the system's randomness.
    format!("{:016x}", RandomState::new().hash_one(SystemTime::now()))
}

fn write_over(path: &Path, content: &[u8]) -> Result<(), RunDirectoryError> {
    retinanet_files::write(path, content).map_err(RunDirectoryError::Io)
}
