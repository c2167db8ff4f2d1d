//! The steps of a session. A GPU computes one while the host reads how the one before went.

use std::time::{Duration, Instant};

use retinanet_data::{Batch, BatchIter, DataError};
use retinanet_experiment::{Observer, OnNonFinite, StepReport};

use super::Session;
use crate::error::TrainError;
use crate::non_finite::NonFiniteStep;
use crate::optimisation::loss_scale::LossScale;
use crate::optimisation::losses::{StepError, StepLoss};
use crate::planning::memory::memory;
use crate::run::announce::tell;
use crate::train_state::{Begun, TrainState};

/// A step that was begun.
pub(super) struct StepInFlight {
    begun: Begun,
    taken: Taken,
}

/// What a step is taken on.
struct Taken {
    batch: Vec<Batch>,
    learning_rate: f64,
    started: Instant,
    waited: Duration,
}

impl Session<'_> {
    /// Begins a step, and tells of the one before; of this one too if it is done at once.
    pub(crate) fn step(
        &mut self,
        batch: Vec<Batch>,
        started: Instant,
        waited: Duration,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        for skipped in self.train_state.skipped(&batch)? {
            tell(self.run, observer, &format!("skipped: {skipped}"))?;
            self.skipped += 1;
        }
        if self.train_state.unfreezes_now() {
            self.settle(observer)?;
            self.train_state.unfreeze_if_due()?;
            let text = format!("step {}: everything learns from here on", self.iteration());
            tell(self.run, observer, &text)?;
        }
        let mut taken = Taken {
            batch,
            learning_rate: self.plan.schedule.learning_rate(self.iteration()),
            started,
            waited,
        };
        let begun = self.train_state.begin(&mut taken.batch);
        let is_done = begun.is_done();
        let before = self.in_flight.replace(StepInFlight { begun, taken });
        if let Some(before) = before {
            self.land(before, Some(started), observer)?;
        }
        if is_done {
            self.settle(observer)?;
        }
        Ok(())
    }

    /// The micro-batches of the next batch. Where they cannot be read, the last step is told of before.
    pub(crate) fn next_batch(
        &mut self,
        batches: &mut BatchIter,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Batch>, TrainError> {
        match self.plan.next_batch(batches) {
            Ok(batch) => Ok(batch),
            Err(error) => {
                self.settle(observer)?;
                Err(error.into())
            }
        }
    }

    /// Waits for the last step, and tells of it.
    pub(crate) fn settle(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        match self.in_flight.take() {
            Some(step) => self.land(step, None, observer),
            None => Ok(()),
        }
    }

    /// Tells how a step went, whose time ended then, or once it is known. If it failed, the one that was begun after it has moved nothing, and
    /// is taken again.
    fn land(
        &mut self,
        step: StepInFlight,
        until: Option<Instant>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let StepInFlight { begun, taken } = step;
        let iteration = begun.iteration;
        match self.train_state.finish(begun) {
            Ok(loss) => {
                let until = until.unwrap_or_else(Instant::now);
                self.report(iteration, loss, (&taken, until), observer)
            }
            Err(error) => {
                let later = self.in_flight.take();
                self.failed(iteration, &error, taken, observer)?;
                match later {
                    Some(later) => self.take_again(later.taken, observer),
                    None => Ok(()),
                }
            }
        }
    }

    /// Takes a step that was forgotten, and waits for it.
    fn take_again(
        &mut self,
        mut taken: Taken,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let begun = self.train_state.begin(&mut taken.batch);
        self.land(StepInFlight { begun, taken }, None, observer)
    }

    /// Takes a step again with a lower loss scale if that may mend it, else writes what is left of it.
    fn failed(
        &mut self,
        iteration: u64,
        error: &StepError,
        taken: Taken,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let learner = &mut self.train_state.learner;
        if !learner.lower_loss_scale(error) {
            return self.non_finite(iteration, error, taken, observer);
        }
        let scale = learner.loss_scale.map_or(1.0, LossScale::factor);
        let text =
            format!("step {iteration}: gradients overflowed; loss scale {scale} from here on");
        tell(self.run, observer, &text)?;
        self.train_state.iteration = iteration - 1;
        self.take_again(taken, observer)
    }

    fn report(
        &mut self,
        iteration: u64,
        loss: StepLoss,
        (taken, until): (&Taken, Instant),
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        self.non_finite = 0;
        let learner = &self.train_state.learner;
        let seen = iteration * self.plan.config.train.batch_size.images() as u64;
        let report = StepReport {
            iteration,
            total: self.plan.iterations,
            epoch: seen as f64 / self.plan.loader.samples_per_epoch() as f64,
            learning_rate: taken.learning_rate,
            class_loss: loss.class,
            box_loss: loss.bbox,
            gradient_norm: loss.gradient_norm,
            positives: loss.positives,
            images: loss.images,
            levels: loss.levels,
            loss_scale: loss.loss_scale,
            memory: memory(),
            duration: until - taken.started,
            waited: taken.waited,
            processes: learner.group.size(),
            communicated: learner.group.communicated(),
        };
        self.log.step(&report).map_err(TrainError::Log)?;
        observer.step(&report);
        Ok(())
    }

    /// Writes a non-finite report of a step whose loss or gradients are non-finite, and stops or goes on, as
    /// the config says.
    fn non_finite(
        &mut self,
        iteration: u64,
        error: &StepError,
        Taken {
            mut batch,
            learning_rate,
            ..
        }: Taken,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let TrainState { plan, device, .. } = self.train_state;
        let config = &plan.config.train;
        self.non_finite += 1;
        let skips =
            config.on_nonfinite == OnNonFinite::Skip && self.non_finite <= config.max_skipped.get();
        if skips && self.non_finite > 1 {
            // The first of a row has its non-finite report, and disks are not endless.
            let text = format!("skipped: step {iteration}: {error}");
            return Ok(tell(self.run, observer, &text)?);
        }
        let folder = self.run.root().join(format!("non_finite/step-{iteration}"));
        let processes = self.train_state.learner.group.size();
        if processes > 1 {
            // What is wrong may be in another's shard.
            let shard = |rank| {
                let loader = plan.loader.clone().shard(rank, processes)?;
                loader.start(iteration - 1, iteration).collect()
            };
            let shards: Result<Vec<Vec<Batch>>, DataError> = (0..processes).map(shard).collect();
            batch = shards?.into_iter().flatten().collect();
        }
        let cause = self.train_state.learner.undisturbed(|learner| {
            let step = NonFiniteStep {
                iteration,
                learning_rate,
                error,
                batch: &batch,
                learner,
                preparation: plan.transform.preparation(),
                device,
            };
            step.examine(&folder)
        });
        let cause = cause.map_err(TrainError::NonFiniteReport)?;
        let text = format!("step {iteration}: {error}; {cause}");
        if skips {
            let text = format!("skipped: {text}; see {}", folder.display());
            return Ok(tell(self.run, observer, &text)?);
        }
        self.run.log(&text)?;
        Err(TrainError::NonFinite {
            iteration,
            error: *error,
            cause,
            folder,
        })
    }
}
