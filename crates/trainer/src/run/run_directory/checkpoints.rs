//! The checkpoints of a run: written, kept, and read again, also where one is damaged.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use retinanet_checkpoint::{Checkpoints, SealError, aside, read_state, recover};
use retinanet_detector::CheckpointError;

use super::error::RunDirectoryError;
use super::{ID_FILE, RunDirectory};
use crate::run::checkpoint::{self, Checkpoint, Content};

/// The newest checkpoint that is whole, if there is one, and the newer ones that are not.
pub type NewestCheckpoint = (Option<Checkpoint>, Vec<DamagedCheckpoint>);

impl RunDirectory {
    /// Writes the checkpoint `last`. The one that was there stays as `step-N`, and of those the
    /// newest `keep`.
    pub(crate) fn write_last(
        &self,
        content: Content<'_>,
        keep: usize,
    ) -> Result<PathBuf, RunDirectoryError> {
        let last = self.last();
        let step_now = content.state.iteration;
        let beside = checkpoint::write_beside(&last, content)?;
        if let Some(iteration) = iteration_of(&last)
            && iteration != step_now
        {
            replace(&last, &self.checkpoints().step(iteration))?;
        }
        replace(&beside, &last)?;
        for (_, folder) in self.steps()?.into_iter().skip(keep) {
            fs_err::remove_dir_all(folder).map_err(RunDirectoryError::Io)?;
        }
        Ok(last)
    }

    /// Makes `last` the run's `best` too.
    pub(crate) fn keep_best(&self) -> Result<(), RunDirectoryError> {
        self.keep_as_best(&self.last())
    }

    pub(crate) fn keep_as_best(&self, checkpoint: &Path) -> Result<(), RunDirectoryError> {
        retinanet_checkpoint::copy(checkpoint, &self.best()).map_err(RunDirectoryError::Io)
    }

    /// The step of the checkpoint `last`.
    pub fn last_iteration(&self) -> Option<u64> {
        iteration_of(&self.last())
    }

    /// The newest checkpoint that is whole, and the newer ones that are not, with what is wrong
    /// with them; `None` if the run has not written one yet.
    ///
    /// # Errors
    ///
    /// Returns an error if there are checkpoints and none is whole.
    pub fn newest(&self) -> Result<NewestCheckpoint, RunDirectoryError> {
        self.retrying(
            || self.newest_now(),
            |found| matches!(found, Ok((Some(_), _))),
        )
    }

    /// Looks again where a program that trains there may have replaced a checkpoint between two of its files.
    fn retrying<T>(&self, look: impl Fn() -> T, is_sure: impl Fn(&T) -> bool) -> T {
        const TRIES: usize = 20;
        for _ in 1..TRIES {
            let found = look();
            if is_sure(&found) || !self.is_running() {
                return found;
            }
        }
        look()
    }

    fn newest_now(&self) -> Result<NewestCheckpoint, RunDirectoryError> {
        let mut damaged = Vec::new();
        let steps = self.steps()?.into_iter().map(|(_, folder)| folder);
        for folder in std::iter::once(self.last()).chain(steps) {
            if !folder.exists() {
                continue;
            }
            match self.read_own_now(&folder) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                // It may be whole all the same.
                Err(CheckpointError::Seal(SealError::Io(error)))
                    if error.kind() != ErrorKind::NotFound =>
                {
                    return Err(RunDirectoryError::Io(error));
                }
                Err(error) => damaged.push(DamagedCheckpoint { folder, error }),
            }
        }
        match damaged.into_iter().next() {
            Some(newest) => Err(RunDirectoryError::NoWholeCheckpoint {
                root: self.root.clone(),
                source: newest.error,
            }),
            None => Ok((None, Vec::new())),
        }
    }

    /// The checkpoint of this name: `last`, `best` or `step-N`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none of that name, or it is damaged.
    pub fn checkpoint(&self, name: &str) -> Result<Checkpoint, RunDirectoryError> {
        let folder = self.checkpoints().root().join(name);
        if folder.is_dir() {
            return Ok(self.read_own(&folder)?);
        }
        let named = [("last", self.last()), ("best", self.best())];
        let named = named.into_iter().filter(|(_, folder)| folder.is_dir());
        let steps = self.steps()?.into_iter();
        let there: Vec<_> = named
            .map(|(name, _)| name.to_owned())
            .chain(steps.map(|(step, _)| format!("step-{step}")))
            .collect();
        Err(RunDirectoryError::NoSuchCheckpoint {
            root: self.root.clone(),
            name: name.to_owned(),
            there: there.join(", "),
        })
    }

    /// Reads a checkpoint that this run must have written.
    fn read_own(&self, folder: &Path) -> Result<Checkpoint, CheckpointError> {
        self.retrying(|| self.read_own_now(folder), Result::is_ok)
    }

    fn read_own_now(&self, folder: &Path) -> Result<Checkpoint, CheckpointError> {
        let checkpoint = Checkpoint::read(folder)?;
        let id = fs_err::read_to_string(self.root.join(ID_FILE)).map_err(SealError::Io)?;
        if checkpoint.state.run == id {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::OtherRun {
                folder: folder.to_owned(),
            })
        }
    }

    /// The best checkpoint by the config's metric, or the newest where nothing was evaluated yet.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none, or it is damaged.
    pub fn best_checkpoint(&self) -> Result<Checkpoint, RunDirectoryError> {
        // A kill may have left it under the other name.
        for best in [self.best(), aside(&self.best())] {
            if best.exists() {
                return Ok(self.read_own(&best)?);
            }
        }
        let (newest, _) = self.newest()?;
        newest.ok_or_else(|| RunDirectoryError::NoCheckpoint {
            root: self.root.clone(),
        })
    }

    /// The step of the checkpoint `best`, if there is one.
    pub(crate) fn best_iteration(&self) -> Option<u64> {
        iteration_of(&self.best())
    }

    /// Puts back what a kill left under another name.
    pub(crate) fn recover(&self) -> Result<(), RunDirectoryError> {
        for folder in [self.last(), self.best()] {
            recover(&folder).map_err(RunDirectoryError::Io)?;
        }
        Ok(())
    }

    pub(super) fn checkpoints(&self) -> Checkpoints {
        Checkpoints::of(&self.root)
    }

    fn last(&self) -> PathBuf {
        self.checkpoints().last()
    }

    fn best(&self) -> PathBuf {
        self.checkpoints().best()
    }

    /// The folders `step-N`, newest first.
    fn steps(&self) -> Result<Vec<(u64, PathBuf)>, RunDirectoryError> {
        self.checkpoints().steps().map_err(RunDirectoryError::Io)
    }
}

/// A checkpoint that cannot be used.
#[derive(Debug)]
pub struct DamagedCheckpoint {
    /// Where it lies.
    pub folder: PathBuf,
    /// What is wrong with it.
    pub error: CheckpointError,
}

impl DamagedCheckpoint {
    /// Renames the folder to `….damaged-N`, out of the way of the run's next checkpoints.
    pub(crate) fn set_aside(&self) -> Result<(), RunDirectoryError> {
        let aside = |number: u32| self.folder.with_extension(format!("damaged-{number}"));
        let free = (1..1000).map(aside).find(|aside| !aside.exists());
        let aside = free.unwrap_or_else(|| aside(1000));
        replace(&self.folder, &aside)
    }
}

/// Renames a folder over what is there.
fn replace(folder: &Path, over: &Path) -> Result<(), RunDirectoryError> {
    retinanet_checkpoint::replace(folder, over).map_err(RunDirectoryError::Io)
}

/// The iteration that a checkpoint's state tells, if there is one to read.
fn iteration_of(folder: &Path) -> Option<u64> {
    state_of(folder)?["iteration"].as_u64()
}

fn state_of(folder: &Path) -> Option<serde_json::Value> {
    read_state(folder).ok()
}
