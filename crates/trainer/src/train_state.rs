//! What every process of a run does alike: learning from its share of each batch.

use std::mem;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::store::RecordError;
use burn::tensor::{Bytes, Device, Tensor, TensorData};
use retinanet_boxes::AnchorTargets;
use retinanet_criterion::{BatchTargets, Normalizer};
use retinanet_data::{Batch, OnBadImage};
use retinanet_detector::{CheckpointError, Predictions, RetinaNet, load_record};
use serde::{Deserialize, Serialize};

use crate::average::ModelAverage;
use crate::checkpoint::weights_to_bytes;
use crate::error::TrainError;
use crate::levels::{add_levels, level_losses};
use crate::plan::Plan;
use crate::process_group::ProcessGroup;
use crate::sampling::{Draw, choose};
use crate::step::{Learner, StepError, StepLoss};

/// A model in training, with all that moves on with its steps.
pub(crate) struct TrainState<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) device: &'a Device,
    pub(crate) learner: Learner,
    pub(crate) average: Option<ModelAverage>,
    /// Steps done.
    pub(crate) iteration: u64,
}

/// What goes with the leader's weights to the others.
#[derive(Serialize, Deserialize)]
struct Beginning {
    iteration: u64,
    normalizer: Normalizer,
}

impl<'a> TrainState<'a> {
    /// Broadcasts what the leader begins with.
    pub(crate) fn broadcast(&self) -> Result<(), TrainError> {
        let group = &self.learner.group;
        if group.is_single() {
            return Ok(());
        }
        let beginning = Beginning {
            iteration: self.iteration,
            normalizer: *self.learner.criterion.normalizer(),
        };
        group.broadcast(serde_json::to_vec(&beginning).map_err(not_received)?);
        let bytes = |bytes: Result<Bytes, RecordError>| bytes.map_err(not_received);
        group.broadcast(bytes(weights_to_bytes(&self.learner.model))?.to_vec());
        group.broadcast(bytes(self.learner.optimizer.to_bytes())?.to_vec());
        Ok(())
    }

    /// Begins with what the leader gives.
    pub(crate) fn join(
        plan: &'a Plan,
        device: &'a Device,
        group: ProcessGroup,
    ) -> Result<Self, TrainError> {
        let receive = || group.broadcast(Vec::new());
        let beginning: Beginning = serde_json::from_slice(&receive()).map_err(not_received)?;
        let fresh = plan.fresh_model(beginning.iteration, device)?;
        let model = load_record(&receive(), fresh, Path::new(LEADER))?;
        let optimizer = Bytes::from_bytes_vec(receive());
        let mut learner = Learner::new(model, &plan.config.optimizer, plan.criterion.clone());
        learner.optimizer = learner
            .optimizer
            .load_bytes(optimizer)
            .map_err(not_received)?;
        learner.criterion.set_normalizer(beginning.normalizer);
        Ok(Self {
            plan,
            device,
            learner: learner.with_team(group),
            // The leader has it.
            average: None,
            iteration: beginning.iteration,
        })
    }

    /// The model that is evaluated: with the leader's running statistics, where each process has
    /// seen other images.
    pub(crate) fn to_evaluate(&self) -> Result<RetinaNet, TrainError> {
        let model = self.average.as_ref().map(ModelAverage::model);
        let model = model.unwrap_or(&self.learner.model).valid();
        let group = &self.learner.group;
        if group.is_single() {
            return Ok(model);
        }
        let own = if group.rank() == 0 {
            weights_to_bytes(&model).map_err(not_received)?.to_vec()
        } else {
            Vec::new()
        };
        Ok(load_record(
            &group.broadcast(own),
            model,
            Path::new(LEADER),
        )?)
    }

    /// Lets what was frozen learn, from the step on that the config names; tells whether that is
    /// now.
    pub(crate) fn unfreeze_if_due(&mut self) -> Result<bool, TrainError> {
        if self.plan.unfreeze_at != Some(self.iteration) {
            return Ok(false);
        }
        let unfrozen = self.plan.fresh_model(self.iteration, self.device)?;
        let weights = self.learner.model.valid().into_record();
        self.learner.model = unfrozen
            .try_load_record(weights)
            .map_err(TrainError::Unfreeze)?;
        if let Some(average) = &mut self.average {
            (average.follow(&self.learner.model)).map_err(TrainError::Unfreeze)?;
        }
        Ok(true)
    }

    /// What could not be read of a batch, by all processes.
    pub(crate) fn skipped(&self, batch: &[Batch]) -> Vec<String> {
        let own: Vec<_> = (batch.iter())
            .flat_map(|part| part.skipped.iter().cloned())
            .collect();
        let group = &self.learner.group;
        if group.is_single() || self.plan.config.data.on_bad_image == OnBadImage::Stop {
            return own;
        }
        let texts = |bytes: &Vec<u8>| -> Vec<String> {
            let text = String::from_utf8_lossy(bytes);
            text.split_terminator('\0').map(str::to_owned).collect()
        };
        let own: String = own
            .into_iter()
            .flat_map(|text| [text, "\0".into()])
            .collect();
        group
            .gather(own.as_bytes())
            .iter()
            .flat_map(texts)
            .collect()
    }

    /// Moves on by a batch, or by this process's share of it; gives the losses of the levels too
    /// where they are told. What is left of the batch has neither pixels nor targets, unless that
    /// fails.
    pub(crate) fn learn(
        &mut self,
        batch: &mut [Batch],
    ) -> Result<(StepLoss, Vec<[f64; 2]>), StepError> {
        let learnt = self.learn_from(batch);
        self.iteration += 1;
        if let (Ok(_), Some(average)) = (&learnt, &mut self.average) {
            average.update(&self.learner.model, self.iteration);
        }
        learnt
    }

    fn learn_from(&mut self, batch: &mut [Batch]) -> Result<(StepLoss, Vec<[f64; 2]>), StepError> {
        let learning_rate = self.plan.schedule.learning_rate(self.iteration);
        let anchor_targets: Vec<Vec<AnchorTargets>> = (batch.iter_mut())
            .map(|part| mem::take(&mut part.targets))
            .collect();
        let targets: Vec<_> = (anchor_targets.iter())
            .map(|part| BatchTargets::new(part, self.device))
            .collect();
        let anchors: Vec<_> = batch.iter().map(|part| Arc::clone(&part.anchors)).collect();
        // Moved to the device, not copied.
        let mut images = Vec::new();
        let to_device = |part: usize| {
            let part = &mut batch[part];
            let shape = [part.items.len(), 3, part.height, part.width];
            let data = TensorData::new(mem::take(&mut part.images), shape);
            images.push(Tensor::<4>::from_data(data, self.device));
            images[images.len() - 1].clone()
        };
        let (plan, criterion) = (self.plan, self.learner.criterion.clone());
        let tells_levels = (self.iteration + 1).is_multiple_of(self.plan.config.train.log_every);
        let mut levels = Vec::new();
        let (iteration, device) = (self.iteration, self.device);
        let first_part = self.learner.group.rank() * targets.len();
        let look = |part: usize, predictions: &Predictions, weights: &[f64]| {
            let targets = &anchor_targets[part];
            if tells_levels {
                let part = level_losses(&criterion, targets, predictions, weights);
                add_levels(&mut levels, part);
            }
            let draw = Draw {
                seed: plan.config.seed,
                iteration,
                part: first_part + part,
            };
            let sampling = (&plan.sampler, criterion.class());
            choose(sampling, draw, targets, predictions, &anchors[part], device)
        };
        let parts: Vec<_> = targets.iter().collect();
        let loss = (self.learner).step_in_parts(&parts, to_device, learning_rate, look);
        if loss.is_err() {
            // A non-finite report needs all of it.
            for (part, images) in batch.iter_mut().zip(images) {
                part.images = images.into_data().iter::<f32>().collect();
            }
            for (part, targets) in batch.iter_mut().zip(anchor_targets) {
                part.targets = targets;
            }
        }
        let loss = loss?;
        if tells_levels {
            self.learner.group.all_reduce(levels.as_flattened_mut());
        }
        Ok((loss, levels))
    }
}

/// What an error names in place of a checkpoint's folder.
const LEADER: &str = "rank 0";

fn not_received(error: impl std::fmt::Display) -> TrainError {
    TrainError::Checkpoint(CheckpointError::Unfit {
        folder: LEADER.into(),
        reason: error.to_string(),
    })
}
