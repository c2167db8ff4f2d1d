//! Checkpoints: everything that a run needs to go on to the last bit. A checkpoint is a folder,
//! written beside its place and renamed over it; its `state.json` seals the other files with their
//! sizes and checksums, so that a damaged one is recognised.
//!
//! The learning rate and the order of the data are functions of the config and the iteration, so
//! neither schedule nor random generator has a state of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Bytes;
use retinanet_boxes::ClassList;
use retinanet_criterion::Normalizer;
use retinanet_detector::RetinaNet;
use serde::{Deserialize, Serialize};

use crate::optimizer::Optimizer;

const MODEL_FILE: &str = "model.bpk";
const OPTIMIZER_FILE: &str = "optimizer.bpk";
const CONFIG_FILE: &str = "config.toml";
const STATE_FILE: &str = "state.json";

/// What a checkpoint knows besides weights and optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Steps done.
    pub iteration: u64,
    /// The loss's normaliser.
    pub normalizer: Normalizer,
    /// The best AP of the run so far.
    pub best_ap: Option<f64>,
    /// The classes that the model tells apart.
    pub classes: ClassList,
}

/// A checkpoint, read and found whole.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it lies.
    pub folder: PathBuf,
    /// What it knows besides weights and optimiser.
    pub state: CheckpointState,
    model: Vec<u8>,
    optimizer: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct SealedState {
    #[serde(flatten)]
    state: CheckpointState,
    files: BTreeMap<String, Seal>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Seal {
    bytes: u64,
    crc32: u32,
}

impl Seal {
    fn of(content: &[u8]) -> Self {
        Self {
            bytes: content.len() as u64,
            crc32: crc32fast::hash(content),
        }
    }
}

impl Checkpoint {
    /// Reads a checkpoint and checks that all of it is there.
    ///
    /// # Errors
    ///
    /// Returns an error that names the file that is missing, cut short or changed.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let state_path = folder.join(STATE_FILE);
        let text = fs_err::read_to_string(&state_path).map_err(CheckpointError::Io)?;
        let sealed: SealedState =
            serde_json::from_str(&text).map_err(|error| CheckpointError::State {
                path: state_path,
                reason: error.to_string(),
            })?;
        let file = |name: &str| -> Result<Vec<u8>, CheckpointError> {
            let path = folder.join(name);
            let content = fs_err::read(&path).map_err(CheckpointError::Io)?;
            let expected = sealed.files.get(name);
            if expected != Some(&Seal::of(&content)) {
                return Err(CheckpointError::Damaged {
                    path,
                    bytes: content.len() as u64,
                    expected: expected.map_or(0, |seal| seal.bytes),
                });
            }
            Ok(content)
        };
        Ok(Self {
            model: file(MODEL_FILE)?,
            optimizer: file(OPTIMIZER_FILE)?,
            folder: folder.to_owned(),
            state: sealed.state,
        })
    }

    /// Puts the weights into a model of the same config.
    ///
    /// # Errors
    ///
    /// Returns an error where the weights do not fit the model.
    pub fn load_model(&self, model: RetinaNet) -> Result<RetinaNet, CheckpointError> {
        let unfit = |error: RecordError| CheckpointError::Unfit {
            folder: self.folder.clone(),
            reason: error.to_string(),
        };
        let record =
            ModuleRecord::from_bytes(Bytes::from_bytes_vec(self.model.clone())).map_err(unfit)?;
        model.try_load_record(record).map_err(unfit)
    }

    pub(crate) fn load_optimizer(
        &self,
        optimizer: Optimizer,
    ) -> Result<Optimizer, CheckpointError> {
        optimizer
            .load_bytes(Bytes::from_bytes_vec(self.optimizer.clone()))
            .map_err(|error| CheckpointError::Unfit {
                folder: self.folder.clone(),
                reason: error.to_string(),
            })
    }
}

/// Writes a checkpoint into a fresh folder beside `folder`, complete and on disk; returns where.
/// The caller renames it into place.
pub(crate) fn write_beside(
    folder: &Path,
    model: &RetinaNet,
    optimizer: &Optimizer,
    config: &str,
    state: CheckpointState,
) -> Result<PathBuf, CheckpointError> {
    let beside = beside(folder);
    if beside.exists() {
        fs_err::remove_dir_all(&beside).map_err(CheckpointError::Io)?;
    }
    fs_err::create_dir_all(&beside).map_err(CheckpointError::Io)?;

    let failed = |error: RecordError| CheckpointError::Unfit {
        folder: folder.to_owned(),
        reason: error.to_string(),
    };
    // `valid` because a batch norm holds its last update back until somebody asks, and a plain
    // record does not ask: it would save the statistics of the step before.
    let model = model.valid().into_record().into_bytes().map_err(failed)?;
    let optimizer = optimizer.to_bytes().map_err(failed)?;
    let mut files = BTreeMap::new();
    for (name, content) in [
        (MODEL_FILE, &*model),
        (OPTIMIZER_FILE, &*optimizer),
        (CONFIG_FILE, config.as_bytes()),
    ] {
        write_to_disk(&beside.join(name), content)?;
        files.insert(name.to_owned(), Seal::of(content));
    }
    let sealed = serde_json::to_string_pretty(&SealedState { state, files }).map_err(|error| {
        CheckpointError::State {
            path: beside.join(STATE_FILE),
            reason: error.to_string(),
        }
    })?;
    write_to_disk(&beside.join(STATE_FILE), sealed.as_bytes())?;
    Ok(beside)
}

/// Copies a whole checkpoint to `folder`, beside first and then renamed over what is there.
pub(crate) fn copy(from: &Path, folder: &Path) -> Result<(), CheckpointError> {
    let beside = beside(folder);
    if beside.exists() {
        fs_err::remove_dir_all(&beside).map_err(CheckpointError::Io)?;
    }
    fs_err::create_dir_all(&beside).map_err(CheckpointError::Io)?;
    for name in [MODEL_FILE, OPTIMIZER_FILE, CONFIG_FILE, STATE_FILE] {
        fs_err::copy(from.join(name), beside.join(name)).map_err(CheckpointError::Io)?;
    }
    replace(&beside, folder)
}

/// Renames `beside` to `folder`. A folder cannot be renamed over another, so the old one steps
/// aside for a moment; a kill in that moment leaves both whole under other names.
pub(crate) fn replace(beside: &Path, folder: &Path) -> Result<(), CheckpointError> {
    let aside = folder.with_extension("old");
    if folder.exists() {
        if aside.exists() {
            fs_err::remove_dir_all(&aside).map_err(CheckpointError::Io)?;
        }
        fs_err::rename(folder, &aside).map_err(CheckpointError::Io)?;
    }
    fs_err::rename(beside, folder).map_err(CheckpointError::Io)?;
    if aside.exists() {
        fs_err::remove_dir_all(&aside).map_err(CheckpointError::Io)?;
    }
    Ok(())
}

fn beside(folder: &Path) -> PathBuf {
    folder.with_extension("tmp")
}

fn write_to_disk(path: &Path, content: &[u8]) -> Result<(), CheckpointError> {
    use std::io::Write;
    let mut file = fs_err::File::create(path).map_err(CheckpointError::Io)?;
    file.write_all(content).map_err(CheckpointError::Io)?;
    file.sync_all().map_err(CheckpointError::Io)
}

/// A checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be read or written; the cause names it.
    #[error("cannot read or write the checkpoint")]
    Io(#[source] std::io::Error),
    /// The state file cannot be understood.
    #[error("the checkpoint's `{}` is damaged: {reason}", path.display())]
    State {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file is not the one that was written.
    #[error(
        "the checkpoint's `{}` is damaged: it has {bytes} bytes, or others, than the {expected} \
         that were written",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The size that it was written with.
        expected: u64,
    },
    /// The weights do not fit the model.
    #[error("the checkpoint `{}` does not fit the model: {reason}", folder.display())]
    Unfit {
        /// Which checkpoint.
        folder: PathBuf,
        /// What does not fit.
        reason: String,
    },
}
