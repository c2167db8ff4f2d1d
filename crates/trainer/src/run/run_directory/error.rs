use std::path::PathBuf;

use retinanet_detector::CheckpointError;
use retinanet_experiment::ConfigError;

use super::changes::Changes;

/// The run directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirectoryError {
    /// It has no checkpoint of that name.
    #[error("the run `{}` has no checkpoint `{name}`; it has {there}", root.display())]
    NoSuchCheckpoint {
        /// The run.
        root: PathBuf,
        /// The name.
        name: String,
        /// Those that it has.
        there: String,
    },
    /// The folder holds a run already.
    #[error(
        "`{}` already holds a run{done}; go on with it by `retinanet train --resume {}`, or name another \
         folder with --run-dir",
        root.display(),
        root.display()
    )]
    HoldsRun {
        /// Which folder.
        root: PathBuf,
        /// How far the run is, in words.
        done: String,
    },
    /// Another program trains there.
    #[error("another program trains in `{}` right now", root.display())]
    Locked {
        /// Which run.
        root: PathBuf,
    },
    /// The run was made with another config.
    #[error(
        "the run `{}` was made with another config: {refused}; a run goes on with the config that \
         it began with, but for the keys that `retinanet config keys` shows as free to change",
        root.display()
    )]
    Differs {
        /// Which run.
        root: PathBuf,
        /// What differs and may not.
        refused: Changes,
    },
    /// The folder holds no run.
    #[error("`{}` holds no run: it has no config.toml", root.display())]
    NoRun {
        /// Which folder.
        root: PathBuf,
    },
    /// The run has no checkpoint yet.
    #[error("the run `{}` has no checkpoint yet", root.display())]
    NoCheckpoint {
        /// Which run.
        root: PathBuf,
    },
    /// All checkpoints are damaged.
    #[error("no checkpoint of `{}` is whole", root.display())]
    NoWholeCheckpoint {
        /// Which run.
        root: PathBuf,
        /// What is wrong with the newest.
        #[source]
        source: CheckpointError,
    },
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The config has no TOML form.
    #[error("cannot write the config")]
    Config(#[source] ConfigError),
    /// A file cannot be read or written; the cause names it.
    #[error("cannot use the run directory")]
    Io(#[source] std::io::Error),
}
