//! Checkpoints: everything that a run needs to go on bit-identically. A checkpoint is a folder,
//! written beside its place and renamed over it; its `state.json` seals the other files and itself
//! with checksums, and names the run, so that a damaged or strange one is recognised.
//!
//! The learning rate and the order of the data are functions of the config and the iteration, so
//! neither schedule nor random generator has a state of its own.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::RecordError;
use burn::tensor::Bytes;
use retinanet_boxes::ClassList;
use retinanet_checkpoint::{
    AVERAGE_FILE, DETECTOR_FILE, FORMAT, MODEL_FILE, STATE_FILE, SealError, Seals, read_state,
    sealed_state, write_to_disk,
};
use retinanet_criterion::Normalizer;
use retinanet_detector::{
    CheckpointError, DetectorConfig, DetectorFile, RetinaNet, faulty_number, load_record,
};
use serde::{Deserialize, Serialize};

use crate::optimisation::loss_scale::LossScale;
use crate::optimisation::optimizer::Optimizer;
use crate::run::data_changes::DataMark;

const OPTIMIZER_FILE: &str = "optimizer.bpk";
const CONFIG_FILE: &str = "config.toml";

/// The large files, which are checked when they are read.
const READ_BELOW: [&str; 3] = [MODEL_FILE, AVERAGE_FILE, OPTIMIZER_FILE];

/// What a checkpoint knows besides weights and optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// The run that it is of: [`RunDirectory::id`](crate::RunDirectory::id).
    pub run: String,
    /// Steps done.
    pub iteration: u64,
    /// Steps that training shall have.
    pub total: u64,
    /// The loss's normaliser.
    pub normalizer: Normalizer,
    /// The run's best evaluation so far, by `train.best_metric`.
    pub best: Option<f64>,
    /// The step of that evaluation; of equal ones the latest.
    pub best_iteration: Option<u64>,
    /// The score at which the last evaluation's F1 over all classes is largest, if a detection was right.
    #[serde(default)]
    pub best_score: Option<f64>,
    /// Evaluations since one was better than all before it; those where the metric is undefined do
    /// not count.
    pub evaluations_since_best: u64,
    /// Whether an evaluation is due that has not been yet.
    pub awaits_evaluation: bool,
    /// Steps in a row, up to this one, whose loss or gradients were non-finite.
    pub non_finite: u64,
    /// The loss scale, with f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// The classes that the model tells apart.
    pub classes: ClassList,
    /// What it was trained on.
    pub train_data: DataMark,
    /// What it was evaluated on.
    pub val_data: DataMark,
}

/// A checkpoint, read and found whole.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it lies.
    pub folder: PathBuf,
    /// What it knows besides weights and optimiser.
    pub state: CheckpointState,
    model: Vec<u8>,
    average: Option<Vec<u8>>,
    optimizer: Vec<u8>,
}

/// What a checkpoint is made of.
pub(crate) struct Content<'a> {
    pub(crate) model: &'a RetinaNet,
    pub(crate) average: Option<&'a RetinaNet>,
    pub(crate) optimizer: &'a Optimizer,
    /// For those who detect with it and know nothing of training.
    pub(crate) detector: DetectorConfig,
    /// As TOML.
    pub(crate) config: &'a str,
    pub(crate) state: CheckpointState,
}

#[derive(Serialize, Deserialize)]
struct SealedState {
    format: u32,
    #[serde(flatten)]
    state: CheckpointState,
    files: Seals,
}

impl Checkpoint {
    /// Reads a checkpoint and checks that each of its files is what was written.
    ///
    /// # Errors
    ///
    /// Returns an error that names the file that is missing, cut short or changed.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let SealedState { state, files, .. } = read_state(folder)?;
        let file = |name: &str| files.read(folder, name);
        let average = files.has(AVERAGE_FILE).then(|| file(AVERAGE_FILE));
        for name in files.names().filter(|name| !READ_BELOW.contains(name)) {
            file(name)?;
        }
        Ok(Self {
            model: file(MODEL_FILE)?,
            average: average.transpose()?,
            optimizer: file(OPTIMIZER_FILE)?,
            folder: folder.to_owned(),
            state,
        })
    }

    /// Puts the weights into a model of the same config: to go on with.
    ///
    /// # Errors
    ///
    /// Returns an error if the weights do not fit the model.
    pub fn load_model(&self, model: RetinaNet) -> Result<RetinaNet, CheckpointError> {
        load_record(&self.model, model, &self.folder)
    }

    /// Puts the moving average of the weights, or without one the weights, into a model of the same
    /// config: to detect with.
    ///
    /// # Errors
    ///
    /// As [`load_model`](Self::load_model).
    pub fn load_to_detect(&self, model: RetinaNet) -> Result<RetinaNet, CheckpointError> {
        let weights = self.average.as_ref().unwrap_or(&self.model);
        load_record(weights, model, &self.folder)
    }

    /// The moving average of the weights, if there is one, in a model of the same config.
    pub(crate) fn load_average(
        &self,
        model: &RetinaNet,
    ) -> Result<Option<RetinaNet>, CheckpointError> {
        let average = self.average.as_ref();
        (average.map(|it| load_record(it, model.valid(), &self.folder))).transpose()
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
/// The caller renames it into place. Where that fails, nothing is left of it.
pub(crate) fn write_beside(
    folder: &Path,
    content: Content<'_>,
) -> Result<PathBuf, CheckpointError> {
    retinanet_checkpoint::write_beside(folder, |beside| write_into(beside, content))
}

fn write_into(folder: &Path, content: Content<'_>) -> Result<(), CheckpointError> {
    let failed = |error: RecordError| CheckpointError::Unfit {
        folder: folder.to_owned(),
        reason: error.to_string(),
    };
    let weights = |model: &RetinaNet| match faulty_number(&model.valid()) {
        None => weights_to_bytes(model).map_err(failed),
        Some(reason) => Err(CheckpointError::NonFinite {
            folder: folder.to_owned(),
            reason,
        }),
    };
    let mut files = Seals::default();
    let mut write = |name: &str, content: &[u8]| -> Result<(), CheckpointError> {
        files.add(name, content);
        Ok(write_to_disk(&folder.join(name), content).map_err(SealError::Io)?)
    };
    write(MODEL_FILE, &weights(content.model)?)?;
    if let Some(average) = content.average {
        write(AVERAGE_FILE, &weights(average)?)?;
    }
    write(
        OPTIMIZER_FILE,
        &content.optimizer.to_bytes().map_err(failed)?,
    )?;
    write(CONFIG_FILE, content.config.as_bytes())?;
    let detector = DetectorFile {
        config: content.detector,
        classes: content.state.classes.clone(),
    };
    write(DETECTOR_FILE, &json(&detector, folder, DETECTOR_FILE)?)?;
    let state = content.state;
    let sealed = sealed_state(&SealedState {
        format: FORMAT,
        state,
        files,
    });
    let sealed = sealed.map_err(|error| unwritable(&error, folder, STATE_FILE))?;
    Ok(write_to_disk(&folder.join(STATE_FILE), &sealed).map_err(SealError::Io)?)
}

/// A model's weights as a checkpoint has them.
pub(crate) fn weights_to_bytes(model: &RetinaNet) -> Result<Bytes, RecordError> {
    // `valid` because a batch norm holds its last update back until somebody asks, and a plain
    // record does not ask: it would save the statistics of the step before.
    model.valid().into_record().into_bytes()
}

fn json(value: &impl Serialize, folder: &Path, name: &str) -> Result<Vec<u8>, CheckpointError> {
    serde_json::to_vec_pretty(value).map_err(|error| unwritable(&error, folder, name))
}

fn unwritable(error: &serde_json::Error, folder: &Path, name: &str) -> CheckpointError {
    let (path, reason) = (folder.join(name), error.to_string());
    SealError::State { path, reason }.into()
}
