//! The run directory: `config.toml` (resolved), `classes.json`, `metrics.jsonl`, `log.txt`,
//! TensorBoard's events, `checkpoints/{last,best,step-N}`, `eval/` and `non_finite/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::TryLockError;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use retinanet_boxes::ClassList;
use retinanet_detector::{CheckpointError, read_state};
use retinanet_evaluation::Metrics;
use retinanet_experiment::{ConfigError, ExperimentConfig, config_to_toml, load_config};

use crate::checkpoint::{self, Checkpoint, Content};

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

/// Keys, and sections, that a resumed run may change: they do not change what a step does.
const MAY_CHANGE: [&str; 22] = [
    "compute.device",
    "compute.gradient_checkpointing",
    "compute.threads",
    "data.cache_mib",
    "data.on_bad_image",
    "data.prefetch",
    "data.root",
    "data.val",
    "data.workers",
    "eval",
    "model.pretrained",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.epochs",
    "train.eval_every",
    "train.iterations",
    "train.keep_last",
    "train.log_every",
    "train.max_skipped",
    "train.memory_share",
    "train.on_nonfinite",
    "train.patience",
];

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
    /// Returns an error where the folder holds a run already, or cannot be written.
    pub fn create(root: &Path, config: &ExperimentConfig) -> Result<Self, RunDirectoryError> {
        if Self::is_run(root) {
            return Err(Self::holds_run(root));
        }
        let directory = Self {
            root: root.to_owned(),
        };
        fs_err::create_dir_all(directory.checkpoints()).map_err(RunDirectoryError::Io)?;
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
    /// Returns an error where the folder holds no run.
    pub fn open(root: &Path) -> Result<Self, RunDirectoryError> {
        if !Self::is_run(root) {
            return Err(RunDirectoryError::NoRun {
                root: root.to_owned(),
            });
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Whether a folder holds a run.
    pub fn is_run(root: &Path) -> bool {
        root.join(CONFIG_FILE).exists()
    }

    /// What tells this run from all others, and its checkpoints from theirs.
    ///
    /// # Errors
    ///
    /// Returns an error where it cannot be read.
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
    /// Returns an error where it cannot be read.
    pub fn config(&self) -> Result<ExperimentConfig, ConfigError> {
        load_config(&self.root.join(CONFIG_FILE), &[])
    }

    /// Checks that a config continues this run, as [`check_continues`](Self::check_continues); the
    /// config is then the run's. Returns what has changed.
    ///
    /// # Errors
    ///
    /// Returns an error that names the keys that differ and may not.
    pub fn continue_with(
        &self,
        config: &ExperimentConfig,
    ) -> Result<Vec<Change>, RunDirectoryError> {
        let changes = self.check_continues(config)?;
        self.write_config(config)?;
        Ok(changes)
    }

    /// Checks that a config continues this run: all that decides how the weights move must be as
    /// it was; how long it goes on and how it is watched may change. Returns what has changed.
    ///
    /// # Errors
    ///
    /// Returns an error that names the keys that differ and may not.
    pub fn check_continues(
        &self,
        config: &ExperimentConfig,
    ) -> Result<Vec<Change>, RunDirectoryError> {
        let was = flatten(&self.config().map_err(RunDirectoryError::Config)?)?;
        let is = flatten(config)?;
        let keys: BTreeSet<_> = was.keys().chain(is.keys()).collect();
        let show = |values: &BTreeMap<String, String>, key: &String| {
            values.get(key).map_or("not set", String::as_str).to_owned()
        };
        let changes = (keys.into_iter())
            .filter(|&key| was.get(key) != is.get(key))
            .map(|key| Change {
                key: key.clone(),
                was: show(&was, key),
                is: show(&is, key),
            });
        let has_checkpoint = self.newest()?.0.is_some();
        let may_change = |change: &Change| match change.key.as_str() {
            // A length in another unit would be another for what else counts in it.
            key @ ("train.iterations" | "train.epochs") => {
                was.contains_key(key) == is.contains_key(key)
                    && !config.schedule.follows_the_length()
            }
            "model.pretrained" => has_checkpoint,
            key => MAY_CHANGE.iter().any(|allowed| is_within(key, allowed)),
        };
        let (allowed, refused): (Vec<_>, Vec<_>) = changes.partition(may_change);
        if !refused.is_empty() {
            return Err(RunDirectoryError::Differs {
                root: self.root.clone(),
                refused: Changes(refused),
            });
        }
        Ok(allowed)
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

    /// Writes the checkpoint `last`. The one that stood there stays as `step-N`, and of those the
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
            let step = self.checkpoints().join(format!("step-{iteration}"));
            checkpoint::replace(&last, &step)?;
        }
        checkpoint::replace(&beside, &last)?;
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
        Ok(checkpoint::copy(checkpoint, &self.best())?)
    }

    /// The step of the checkpoint `last`.
    pub fn last_iteration(&self) -> Option<u64> {
        iteration_of(&self.last())
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

    /// The newest checkpoint that is whole, and the newer ones that are not, with what is wrong
    /// with them; `None` where the run has not written one yet.
    ///
    /// # Errors
    ///
    /// Returns an error where there are checkpoints and none is whole.
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
                Err(CheckpointError::Io(error)) if error.kind() != ErrorKind::NotFound => {
                    return Err(CheckpointError::Io(error).into());
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
    /// Returns an error where there is none of that name, or it is damaged.
    pub fn checkpoint(&self, name: &str) -> Result<Checkpoint, RunDirectoryError> {
        let folder = self.checkpoints().join(name);
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
        let id = fs_err::read_to_string(self.root.join(ID_FILE)).map_err(CheckpointError::Io)?;
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
    /// Returns an error where there is none, or it is damaged.
    pub fn best_checkpoint(&self) -> Result<Checkpoint, RunDirectoryError> {
        // A kill may have left it under the other name.
        for best in [self.best(), checkpoint::aside(&self.best())] {
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
            checkpoint::recover(&folder)?;
        }
        Ok(())
    }

    fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    fn last(&self) -> PathBuf {
        self.checkpoints().join("last")
    }

    fn best(&self) -> PathBuf {
        self.checkpoints().join("best")
    }

    /// The folders `step-N`, newest first.
    fn steps(&self) -> Result<Vec<(u64, PathBuf)>, RunDirectoryError> {
        let mut steps = Vec::new();
        for entry in fs_err::read_dir(self.checkpoints()).map_err(RunDirectoryError::Io)? {
            let path = entry.map_err(RunDirectoryError::Io)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(iteration) = name
                .and_then(|name| name.strip_prefix("step-"))
                .and_then(|iteration| iteration.parse().ok())
            {
                steps.push((iteration, path));
            }
        }
        steps.sort_by_key(|(iteration, _)| std::cmp::Reverse(*iteration));
        Ok(steps)
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

/// Whether a key is another, or in the section of that name.
fn is_within(key: &str, section: &str) -> bool {
    let rest = key.strip_prefix(section);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The config as dotted keys and their values.
fn flatten(config: &ExperimentConfig) -> Result<BTreeMap<String, String>, RunDirectoryError> {
    fn collect(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
        if let toml::Value::Table(table) = value {
            for (key, value) in table {
                collect(&format!("{prefix}.{key}"), value, into);
            }
        } else {
            into.insert(prefix.trim_start_matches('.').to_owned(), value.to_string());
        }
    }
    let text = config_to_toml(config).map_err(RunDirectoryError::Config)?;
    let table: toml::Table = text
        .parse()
        .map_err(|error| RunDirectoryError::Io(std::io::Error::other(error)))?;
    let mut flat = BTreeMap::new();
    collect("", &toml::Value::Table(table), &mut flat);
    Ok(flat)
}

/// A key of a config that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, with dots.
    pub key: String,
    /// What the run was made with.
    pub was: String,
    /// What the config says now.
    pub is: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, was, is } = self;
        write!(f, "`{key}` was {was} and is {is}")
    }
}

/// Several [`Change`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes(pub Vec<Change>);

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(", "))
    }
}

/// The newest checkpoint that is whole, if there is one, and the newer ones that are not.
pub type NewestCheckpoint = (Option<Checkpoint>, Vec<DamagedCheckpoint>);

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
        Ok(checkpoint::replace(&self.folder, &aside)?)
    }
}

/// The iteration that a checkpoint's state tells, if there is one to read.
fn iteration_of(folder: &Path) -> Option<u64> {
    state_of(folder)?["iteration"].as_u64()
}

fn state_of(folder: &Path) -> Option<serde_json::Value> {
    read_state(folder).ok()
}

/// A name that no other run has.
fn new_id() -> String {
    // Each of them is keyed from the system's randomness.
    format!("{:016x}", RandomState::new().hash_one(SystemTime::now()))
}

fn write_over(path: &Path, content: &[u8]) -> Result<(), RunDirectoryError> {
    retinanet_files::write(path, content).map_err(RunDirectoryError::Io)
}

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
         it began with, but for {}",
        root.display(),
        MAY_CHANGE.join(", ")
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
