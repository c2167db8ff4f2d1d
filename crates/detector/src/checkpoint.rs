//! What a checkpoint of a run tells a detector.

use std::iter;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Bytes;
use retinanet_boxes::ClassList;
use retinanet_checkpoint::{
    AVERAGE_FILE, Checkpoints, DETECTOR_FILE, MODEL_FILE, SealError, Seals, aside, is_checkpoint,
    read_state,
};
use serde::{Deserialize, Serialize};

use crate::numbers::faulty_number;
use crate::{DetectorConfig, RetinaNet};

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
        Some(reason) => Err(CheckpointError::NonFinite {
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
        let checkpoints = Checkpoints::of(path);
        // A kill may have left it under the other name.
        let best = [checkpoints.best(), aside(&checkpoints.best())];
        if let Some(folder) = iter::once(path.to_owned())
            .chain(best)
            .find(|it| is_checkpoint(it))
        {
            return Self::read_folder(&folder);
        }
        let mut first_error = None;
        let last = [checkpoints.last(), aside(&checkpoints.last())];
        let steps = checkpoints.steps().unwrap_or_default().into_iter();
        for folder in last.into_iter().chain(steps.map(|(_, folder)| folder)) {
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
            file: Seals::parse(&file, folder, DETECTOR_FILE)?,
            weights: files.read(folder, weights)?,
            folder: folder.to_owned(),
        })
    }

    pub(crate) fn load(&self, model: RetinaNet) -> Result<RetinaNet, CheckpointError> {
        load_record(&self.weights, model, &self.folder)
    }
}

/// A checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file of it is not as it was written.
    #[error(transparent)]
    Seal(#[from] SealError),
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
    /// It was put into a run that did not write it.
    #[error("the checkpoint `{}` is of another run", folder.display())]
    OtherRun {
        /// Which checkpoint.
        folder: PathBuf,
    },
    /// A weight or a statistic is non-finite, or a variance negative.
    #[error("the checkpoint `{}` is of no use, {reason}; those before it stay", folder.display())]
    NonFinite {
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
