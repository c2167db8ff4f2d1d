//! What a checkpoint of a run tells a detector. A checkpoint is a folder; its `state.json` seals the
//! other files with their sizes and checksums, and itself with one of its own, so that a damaged one
//! is recognised.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::iter;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Bytes;
use retinanet_boxes::ClassList;
use serde::{Deserialize, Serialize};

use crate::numbers::faulty_number;
use crate::{DetectorConfig, RetinaNet};

/// A checkpoint's file of the weights.
pub const MODEL_FILE: &str = "model.bpk";
/// A checkpoint's file of the moving average of the weights, where there is one.
pub const AVERAGE_FILE: &str = "average.bpk";
/// A checkpoint's file of all that a detector needs besides weights.
pub const DETECTOR_FILE: &str = "detector.json";
/// A checkpoint's file that seals the others; it is written last.
pub const STATE_FILE: &str = "state.json";

/// What the files of a checkpoint are written as. 1 was version 0.1 of this program.
pub const FORMAT: u32 = 2;

/// What comes before the checksum of `state.json`, which is that of all before this.
const SEAL: &[u8] = b",\n  \"crc32\": ";

/// Sizes and checksums of a checkpoint's files.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seals(BTreeMap<String, Seal>);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Seals {
    /// Seals a file.
    pub fn add(&mut self, name: &str, content: &[u8]) {
        self.0.insert(name.to_owned(), Seal::of(content));
    }

    /// Whether the checkpoint has such a file.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Reads a file of a checkpoint.
    ///
    /// # Errors
    ///
    /// Returns an error where it is missing, cut short or changed.
    pub fn read(&self, checkpoint: &Path, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let path = checkpoint.join(name);
        let content = fs_err::read(&path).map_err(CheckpointError::Io)?;
        let expected = self.0.get(name);
        if expected != Some(&Seal::of(&content)) {
            return Err(CheckpointError::Damaged {
                path,
                bytes: content.len() as u64,
                expected: expected.map_or(0, |seal| seal.bytes),
            });
        }
        Ok(content)
    }
}

/// The text of a checkpoint's `state.json`, sealed.
///
/// # Errors
///
/// Returns an error where the state, an object with keys, has no form in JSON.
pub fn sealed_state(state: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(state)?;
    text.truncate(text.len().saturating_sub(END.len()));
    let seal = seal_of(&text);
    text.extend(seal);
    Ok(text)
}

/// Reads a checkpoint's `state.json`, or the part of it that `T` asks for.
///
/// # Errors
///
/// Returns an error if it cannot be read or understood, is not as it was written, or was written by another version.
pub fn read_state<T: for<'de> Deserialize<'de>>(checkpoint: &Path) -> Result<T, CheckpointError> {
    let path = checkpoint.join(STATE_FILE);
    let text = fs_err::read(&path).map_err(CheckpointError::Io)?;
    let seal = text.windows(SEAL.len()).rposition(|part| part == SEAL);
    let is_whole = seal.is_some_and(|seal| text[seal..] == seal_of(&text[..seal]));
    if !is_whole {
        return Err(CheckpointError::BrokenSeal { path });
    }
    match parse::<Written>(&text, path.clone())?.format {
        FORMAT => parse(&text, path),
        format => Err(CheckpointError::Format { path, format }),
    }
}

/// What the version that wrote a `state.json` says of itself.
#[derive(Deserialize)]
struct Written {
    #[serde(default = "first_format")]
    format: u32,
}

const fn first_format() -> u32 {
    1
}

/// What ends a JSON object of several lines.
const END: &str = "\n}";

fn seal_of(text: &[u8]) -> Vec<u8> {
    let checksum = crc32fast::hash(text).to_string();
    [SEAL, checksum.as_bytes(), END.as_bytes()].concat()
}

fn parse<T: for<'de> Deserialize<'de>>(text: &[u8], path: PathBuf) -> Result<T, CheckpointError> {
    serde_json::from_slice(text).map_err(|error| CheckpointError::State {
        path,
        reason: error.to_string(),
    })
}

/// Puts a checkpoint's weights into a model of the same config.
///
/// # Errors
///
/// Returns an error that names the checkpoint where they do not fit.
pub fn load_record(
    weights: &[u8],
    model: RetinaNet,
    checkpoint: &Path,
) -> Result<RetinaNet, CheckpointError> {
    let unfit = |error: RecordError| CheckpointError::Unfit {
        folder: checkpoint.to_owned(),
        reason: error.to_string(),
    };
    let record = ModuleRecord::from_bytes(Bytes::from_bytes_vec(weights.to_vec()));
    let model = model
        .try_load_record(record.map_err(unfit)?)
        .map_err(unfit)?;
    match faulty_number(&model) {
        None => Ok(model),
        Some(reason) => Err(CheckpointError::NotFinite {
            folder: checkpoint.to_owned(),
            reason,
        }),
    }
}

/// All that a detector needs besides weights: [`DETECTOR_FILE`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorFile {
    /// Its settings.
    pub config: DetectorConfig,
    /// The classes that the model tells apart.
    pub classes: ClassList,
}

/// The part of a checkpoint that detects.
pub(crate) struct SavedDetector {
    pub(crate) file: DetectorFile,
    folder: PathBuf,
    weights: Vec<u8>,
}

impl SavedDetector {
    /// Reads a checkpoint, or a run's best; of a run that was not evaluated yet the newest that is
    /// whole.
    pub(crate) fn read(path: &Path) -> Result<Self, CheckpointError> {
        let checkpoints = path.join("checkpoints");
        let best = ["best", "best.old"].map(|name| checkpoints.join(name));
        if let Some(folder) = iter::once(path.to_owned())
            .chain(best)
            .find(|it| is_checkpoint(it))
        {
            return Self::read_folder(&folder);
        }
        let mut first_error = None;
        let last = ["last", "last.old"].map(|name| checkpoints.join(name));
        for folder in last.into_iter().chain(steps(&checkpoints)) {
            if !is_checkpoint(&folder) {
                continue;
            }
            match Self::read_folder(&folder) {
                Ok(saved) => return Ok(saved),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(
            first_error.unwrap_or_else(|| CheckpointError::NoCheckpoint {
                folder: path.to_owned(),
            }),
        )
    }

    fn read_folder(folder: &Path) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct State {
            files: Seals,
        }
        let State { files } = read_state(folder)?;
        let file = files.read(folder, DETECTOR_FILE)?;
        let weights = [AVERAGE_FILE, MODEL_FILE]
            .into_iter()
            .find(|name| files.has(name))
            .unwrap_or(MODEL_FILE);
        Ok(Self {
            file: parse(&file, folder.join(DETECTOR_FILE))?,
            weights: files.read(folder, weights)?,
            folder: folder.to_owned(),
        })
    }

    pub(crate) fn load(&self, model: RetinaNet) -> Result<RetinaNet, CheckpointError> {
        load_record(&self.weights, model, &self.folder)
    }
}

fn is_checkpoint(folder: &Path) -> bool {
    folder.join(STATE_FILE).exists()
}

/// A run's older checkpoints, the newest first.
fn steps(checkpoints: &Path) -> Vec<PathBuf> {
    let iteration = |folder: &PathBuf| -> Option<u64> {
        let name = folder.file_name()?.to_str()?;
        name.strip_prefix("step-")?.parse().ok()
    };
    let entries = fs_err::read_dir(checkpoints).into_iter().flatten();
    let folders = entries.flatten().map(|entry| entry.path());
    let mut steps: Vec<_> = folders.filter(|it| iteration(it).is_some()).collect();
    steps.sort_by_key(|folder| Reverse(iteration(folder)));
    steps
}

/// A checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be read or written; the cause names it.
    #[error("cannot read or write the checkpoint")]
    Io(#[source] std::io::Error),
    /// A JSON file cannot be understood.
    #[error(
        "the checkpoint's `{}` is damaged, or another version wrote it: {reason}",
        path.display()
    )]
    State {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another version wrote it.
    #[error(
        "`{}` was written by another version of this program (its format is {format}, this one reads {FORMAT}): \
         go on with the version that wrote it, or let that one `export` its weights, which training can \
         start from",
        path.display()
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it is written as.
        format: u32,
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
    /// The folder holds neither.
    #[error(
        "`{}` is neither a run with a checkpoint nor a checkpoint: there is no `state.json` in it, \
         in `checkpoints/best` or in `checkpoints/last`",
        folder.display()
    )]
    NoCheckpoint {
        /// Which folder.
        folder: PathBuf,
    },
    /// The file that seals the others is not as it was written.
    #[error(
        "the checkpoint's `{}` is damaged: its checksum is not that of what it says (or it has none, and \
         an older version wrote it, which this one does not read)",
        path.display()
    )]
    BrokenSeal {
        /// Which file.
        path: PathBuf,
    },
    /// It was put into a run that did not write it.
    #[error("the checkpoint `{}` is of another run", folder.display())]
    OtherRun {
        /// Which checkpoint.
        folder: PathBuf,
    },
    /// A weight or a statistic is no number that can be one.
    #[error("the checkpoint `{}` is of no use, {reason}; those before it stay", folder.display())]
    NotFinite {
        /// Which checkpoint.
        folder: PathBuf,
        /// Which number.
        reason: String,
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
