use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};

/// A checkpoint's file of the weights.
pub const MODEL_FILE: &str = "model.bpk";
/// A checkpoint's file of the moving average of the weights, where there is one.
pub const AVERAGE_FILE: &str = "average.bpk";
/// A checkpoint's file of all that a detector needs besides weights.
pub const DETECTOR_FILE: &str = "detector.json";
/// A checkpoint's file that seals the others; it is written last.
pub const STATE_FILE: &str = "state.json";

/// Whether a folder is a checkpoint, whole or not.
pub fn is_checkpoint(folder: &Path) -> bool {
    folder.join(STATE_FILE).exists()
}

/// Where the checkpoints of a run are.
#[derive(Clone, Debug)]
pub struct Checkpoints(PathBuf);

impl Checkpoints {
    /// The checkpoints of the run in this folder.
    pub fn of(run: &Path) -> Self {
        Self(run.join("checkpoints"))
    }

    /// The folder that they are in.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The newest.
    pub fn last(&self) -> PathBuf {
        self.0.join("last")
    }

    /// The best by the run's metric.
    pub fn best(&self) -> PathBuf {
        self.0.join("best")
    }

    /// An older one, by its step.
    pub fn step(&self, iteration: u64) -> PathBuf {
        self.0.join(format!("step-{iteration}"))
    }

    /// The older ones with their steps, newest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be read.
    pub fn steps(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut steps = Vec::new();
        for entry in fs_err::read_dir(&self.0)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.strip_prefix("step-")?.parse().ok());
            steps.extend(number.map(|iteration| (iteration, path)));
        }
        steps.sort_by_key(|(iteration, _)| Reverse(*iteration));
        Ok(steps)
    }
}
