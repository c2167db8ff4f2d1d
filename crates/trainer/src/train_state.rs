//! What every process of a run does alike: learning from its share of each batch.

use std::mem;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::store::RecordError;
use burn::tensor::{Bytes, Device};
use retinanet_criterion::{BatchTargets, Normalizer};
use retinanet_data::{Batch, OnBadImage};
use retinanet_detector::{CheckpointError, RetinaNet, images_to_device, load_record, pixel_form};
use retinanet_images::{PixelData, PixelForm};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::optimisation::average::ModelAverage;
use crate::optimisation::losses::{StepError, StepLoss};
use crate::optimisation::step::{BegunStep, DeviceBatch, Learner, StepOptions};
use crate::planning::plan::Plan;
use crate::processes::messages::Json;
use crate::processes::process_group::ProcessGroup;
use crate::run::checkpoint::weights_to_bytes;

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
        let bytes = |bytes: Result<Bytes, RecordError>| bytes.map_err(not_received);
        let weights = bytes(weights_to_bytes(&self.learner.model))?.to_vec();
        let optimizer = bytes(self.learner.optimizer.to_bytes())?.to_vec();
        group.broadcast(&Json(beginning)).map_err(not_received)?;
        group.broadcast(&weights);
        group.broadcast(&optimizer);
        Ok(())
    }

    /// Begins with what the leader gives.
    pub(crate) fn join(
        plan: &'a Plan,
        device: &'a Device,
        group: ProcessGroup,
    ) -> Result<Self, TrainError> {
        let beginning = group.receive::<Json<Beginning>>().map_err(not_received)?;
        let fresh = plan.fresh_model(beginning.iteration, device)?;
        let model = load_record(&group.receive::<Vec<u8>>(), fresh, Path::new(LEADER))?;
        let optimizer = Bytes::from_bytes_vec(group.receive::<Vec<u8>>());
        let mut learner = Learner::new(model, &plan.config.optimizer, plan.criterion.clone());
        learner.optimizer = learner
            .optimizer
            .load_bytes(optimizer)
            .map_err(not_received)?;
        learner.criterion.set_normalizer(beginning.normalizer);
        Ok(Self {
            plan,
            device,
            learner: learner.in_group(group),
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
            &group.broadcast(&own),
            model,
            Path::new(LEADER),
        )?)
    }

    /// Whether the config has what was frozen learn from the next step on.
    pub(crate) fn unfreezes_now(&self) -> bool {
        self.plan.unfreeze_at == Some(self.iteration)
    }

    /// Lets what was frozen learn, if it is time to.
    pub(crate) fn unfreeze_if_due(&mut self) -> Result<(), TrainError> {
        if !self.unfreezes_now() {
            return Ok(());
        }
        let unfrozen = self.plan.fresh_model(self.iteration, self.device)?;
        let weights = self.learner.model.valid().into_record();
        self.learner.model = unfrozen
            .try_load_record(weights)
            .map_err(TrainError::Unfreeze)?;
        if let Some(average) = &mut self.average {
            (average.follow(&self.learner.model)).map_err(TrainError::Unfreeze)?;
        }
        Ok(())
    }

    /// What could not be read of a batch, by all processes.
    pub(crate) fn skipped(&self, batch: &[Batch]) -> Result<Vec<String>, TrainError> {
        let own: Vec<_> = (batch.iter())
            .flat_map(|part| part.skipped.iter().cloned())
            .collect();
        let group = &self.learner.group;
        let skips = self.plan.config.data.loader.on_bad_image == OnBadImage::Skip;
        if group.is_single() || !skips {
            return Ok(own);
        }
        let mut all = Vec::new();
        for of_rank in group.gather(&Json(own)) {
            all.extend(of_rank.map_err(not_received)?);
        }
        Ok(all)
    }

    /// Moves on by a batch, or by this process's shard of it.
    pub(crate) fn learn(&mut self, batch: &mut [Batch]) -> Result<StepLoss, StepError> {
        let begun = self.begin(batch);
        self.finish(begun)
    }

    /// Begins to move on by a batch, or by this process's shard of it. On the CPU what is left of the batch has neither
    /// pixels nor targets, unless the step fails.
    pub(crate) fn begin(&mut self, batch: &mut [Batch]) -> Begun {
        let config = &self.plan.config;
        let options = StepOptions {
            by_level: (self.iteration + 1).is_multiple_of(config.train.log_every.get()),
            ..StepOptions::at(self.plan.schedule.learning_rate(self.iteration))
        };
        let options = options.with_seed(config.seed.get(), self.iteration);
        let micro_batches: Vec<_> = batch
            .iter_mut()
            .map(|part| to_device(part, self.device))
            .collect();
        let step = self.learner.begin(&micro_batches, options);
        if matches!(step, BegunStep::Done(Err(_))) {
            // A non-finite report needs all of it.
            for (micro_batch, on_device) in batch.iter_mut().zip(micro_batches) {
                give_back(micro_batch, on_device);
            }
        }
        self.iteration += 1;
        let average_before = self.average.as_ref().map(ModelAverage::snapshot);
        let moved = !matches!(step, BegunStep::Done(Err(_)));
        if let Some(average) = self.average.as_mut().filter(|_| moved) {
            average.update(&self.learner.model, self.iteration);
        }
        Begun {
            iteration: self.iteration,
            step,
            average_before,
        }
    }

    /// Waits for a step that was begun, the oldest first. If it fails, all is as if it and those that were begun after
    /// it had moved nothing.
    pub(crate) fn finish(&mut self, begun: Begun) -> Result<StepLoss, StepError> {
        let finished = self.learner.finish(begun.step);
        if finished.is_err() {
            self.iteration = begun.iteration;
            self.average = begun.average_before;
        }
        finished
    }
}

/// A step of a [`TrainState`] that was begun.
pub(crate) struct Begun {
    /// Which, counted from 1.
    pub(crate) iteration: u64,
    step: BegunStep,
    average_before: Option<ModelAverage>,
}

impl Begun {
    /// Whether it is done, so that nothing is won by letting it wait.
    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.step, BegunStep::Done(_))
    }
}

/// Moves a batch's pixels and targets to the device. On the CPU they are not copied, and the batch has none any more.
pub(crate) fn to_device(batch: &mut Batch, device: &Device) -> DeviceBatch {
    let shape = [batch.items.len(), batch.height, batch.width];
    let targets = match pixel_form(device) {
        PixelForm::Numbers => mem::take(&mut batch.targets),
        PixelForm::Bytes => batch.targets.clone(),
    };
    let anchors = Arc::clone(&batch.anchors);
    DeviceBatch {
        images: images_to_device(&mut batch.images, shape, device),
        targets: BatchTargets::new(targets, anchors, device),
    }
}

fn give_back(batch: &mut Batch, on_device: DeviceBatch) {
    batch.images = PixelData::Numbers(on_device.images.into_data().iter::<f32>().collect());
    batch.targets = on_device.targets.into_images();
}

/// What an error names in place of a checkpoint's folder.
const LEADER: &str = "rank 0";

fn not_received(error: impl std::fmt::Display) -> TrainError {
    TrainError::Checkpoint(CheckpointError::Unfit {
        folder: LEADER.into(),
        reason: error.to_string(),
    })
}
