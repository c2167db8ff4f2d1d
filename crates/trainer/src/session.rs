//! All that changes while training, step by step.

mod evaluation;
mod steps;

use std::time::Instant;

use retinanet_evaluation::CocoDetection;
use retinanet_experiment::{Observer, config_to_toml};
use retinanet_settings::ShareBelowOne;

use crate::error::TrainError;
use crate::evaluation::report::Reporter;
use crate::optimisation::average::ModelAverage;
use crate::optimisation::step::Learner;
use crate::planning::plan::Plan;
use crate::processes::process_group::Process;
use crate::run::announce::{tell, tell_schedule, tell_start};
use crate::run::checkpoint::{Checkpoint, CheckpointState, Content};
use crate::run::data_changes::{DataMark, class_differences};
use crate::run::metrics_log::MetricsLog;
use crate::run::run_directory::{RunDirectory, RunDirectoryError};
use crate::session::steps::StepInFlight;
use crate::train_state::TrainState;

/// Why training ended before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The observer asked for it.
    Asked,
    /// Evaluations brought nothing better, for as many as the config has patience for.
    OutOfPatience,
}

/// All that changes while training.
pub(crate) struct Session<'a> {
    plan: &'a Plan,
    run: &'a RunDirectory,
    pub(crate) train_state: TrainState<'a>,
    log: MetricsLog,
    /// What is trained and evaluated on.
    data: (DataMark, DataMark),
    /// The best evaluation, by the config's metric.
    pub(crate) best: Option<f64>,
    /// The step that it was made at.
    best_iteration: Option<u64>,
    /// The score of the last evaluation's largest F1.
    pub(crate) best_score: Option<f64>,
    /// Of the last evaluation.
    detections: Vec<CocoDetection>,
    /// What the last report says to do next.
    pub(crate) advice: Vec<String>,
    evaluations_since_best: u64,
    /// Whether the model as it stands is to be evaluated.
    pub(crate) awaits_evaluation: bool,
    last_checkpoint: Instant,
    /// Steps in a row whose loss or gradients were non-finite.
    non_finite: u64,
    /// The last step, where it is not known yet how it went.
    in_flight: Option<StepInFlight>,
    /// Images left out because they could not be read.
    pub(crate) skipped: usize,
    /// In a run that went on, from the first evaluation on.
    reporter: Option<Reporter>,
}

fn marks(plan: &Plan) -> (DataMark, DataMark) {
    (DataMark::of(&plan.train), DataMark::of(&plan.val))
}

/// Refuses other classes than those that the weights were trained for, and tells other images and
/// boxes.
fn tell_data_changes(
    plan: &Plan,
    run: &RunDirectory,
    state: &CheckpointState,
    data: (DataMark, DataMark),
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    if state.classes != plan.train.classes {
        return Err(TrainError::OtherClasses {
            annotations: plan.train.annotations.clone(),
            differences: class_differences(&state.classes, &plan.train.classes),
        });
    }
    for (annotations, was, is) in [
        (&plan.train.annotations, state.train_data, data.0),
        (&plan.val.annotations, state.val_data, data.1),
    ] {
        if was != is {
            let file = annotations.display();
            let text = format!("changed: {file} had {was}, and now has others: {is}");
            tell(run, observer, &text)?;
        }
    }
    Ok(())
}

impl<'a> Session<'a> {
    /// Initialises the model, and puts the run's newest whole checkpoint into it if there is one.
    pub(crate) fn start(
        plan: &'a Plan,
        run: &'a RunDirectory,
        process: Process<'a>,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        run.recover()?;
        let (checkpoint, damaged) = run.newest()?;
        for damaged in &damaged {
            tell(run, observer, &format!("not used: {}", damaged.error))?;
            damaged.set_aside()?;
        }
        match checkpoint {
            Some(checkpoint) => Self::resume(plan, run, process, &checkpoint, observer),
            None => Self::begin(plan, run, process, observer),
        }
    }

    fn begin(
        plan: &'a Plan,
        run: &'a RunDirectory,
        Process { group, device }: Process<'a>,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let (model, pretrained) = plan.initialise_model(device)?;
        run.write_classes(&plan.train.classes)?;
        let coverage = tell_start(plan, run, &model, pretrained.as_ref(), observer)?;
        let decay = plan.config.train.ema_decay.map(ShareBelowOne::get);
        Ok(Self {
            log: MetricsLog::open(run, 0, false, plan.generator.strides())
                .map_err(TrainError::Log)?,
            train_state: TrainState {
                plan,
                device,
                average: decay.map(|decay| ModelAverage::new(decay, &model)),
                learner: Learner::new(model, &plan.config.optimizer, plan.criterion.clone())
                    .in_group(group.clone()),
                iteration: 0,
            },
            plan,
            run,
            data: marks(plan),
            best: None,
            best_iteration: None,
            best_score: None,
            detections: Vec::new(),
            advice: Vec::new(),
            evaluations_since_best: 0,
            awaits_evaluation: false,
            last_checkpoint: Instant::now(),
            non_finite: 0,
            in_flight: None,
            skipped: 0,
            reporter: Some(Reporter::with_coverage(plan, coverage)),
        })
    }

    fn resume(
        plan: &'a Plan,
        run: &'a RunDirectory,
        Process { group, device }: Process<'a>,
        checkpoint: &Checkpoint,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let state = &checkpoint.state;
        let iteration = state.iteration;
        let folder = checkpoint.folder.display();
        let text = format!("going on from {folder}, step {iteration}");
        tell(run, observer, &text)?;
        let data = marks(plan);
        tell_data_changes(plan, run, state, data, observer)?;
        tell_schedule(plan, run, observer)?;
        if state.best_iteration == Some(iteration) && run.best_iteration() < state.best_iteration {
            // The end came before it was kept as best.
            run.keep_as_best(&checkpoint.folder)?;
        }

        let model = checkpoint.load_model(plan.fresh_model(iteration, device)?)?;
        let average = checkpoint.load_average(&model)?;
        let decay = plan.config.train.ema_decay.map(ShareBelowOne::get);
        let mut learner = Learner::new(model, &plan.config.optimizer, plan.criterion.clone());
        learner.optimizer = checkpoint.load_optimizer(learner.optimizer)?;
        learner.criterion.set_normalizer(state.normalizer);
        // A run that goes on in another precision begins anew.
        if learner.loss_scale.is_some() {
            learner.loss_scale = state.loss_scale.or(learner.loss_scale);
        }
        Ok(Self {
            log: MetricsLog::open(
                run,
                iteration,
                !state.awaits_evaluation,
                plan.generator.strides(),
            )
            .map_err(TrainError::Log)?,
            train_state: TrainState {
                plan,
                device,
                average: decay.map(|decay| {
                    ModelAverage::new(decay, average.as_ref().unwrap_or(&learner.model))
                }),
                learner: learner.in_group(group.clone()),
                iteration,
            },
            plan,
            run,
            data,
            best: state.best,
            best_iteration: state.best_iteration,
            best_score: state.best_score,
            detections: Vec::new(),
            advice: Vec::new(),
            evaluations_since_best: state.evaluations_since_best,
            awaits_evaluation: state.awaits_evaluation,
            last_checkpoint: Instant::now(),
            non_finite: state.non_finite,
            in_flight: None,
            skipped: 0,
            reporter: None,
        })
    }

    /// Steps done.
    pub(crate) const fn iteration(&self) -> u64 {
        self.train_state.iteration
    }

    pub(crate) fn write_checkpoint(
        &mut self,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        self.settle(observer)?;
        let state = CheckpointState {
            run: self.run.id()?,
            iteration: self.iteration(),
            total: self.plan.iterations,
            normalizer: *self.train_state.learner.criterion.normalizer(),
            best: self.best,
            best_iteration: self.best_iteration,
            best_score: self.best_score,
            evaluations_since_best: self.evaluations_since_best,
            awaits_evaluation: self.awaits_evaluation,
            non_finite: self.non_finite,
            loss_scale: self.train_state.learner.loss_scale,
            classes: self.plan.train.classes.clone(),
            train_data: self.data.0,
            val_data: self.data.1,
        };
        let config = config_to_toml(&self.plan.config).map_err(RunDirectoryError::Config)?;
        let content = Content {
            model: &self.train_state.learner.model,
            average: self.train_state.average.as_ref().map(ModelAverage::model),
            optimizer: &self.train_state.learner.optimizer,
            detector: (self.plan.config)
                .detector_with(self.plan.transform.preparation().config().clone()),
            config: &config,
            state,
        };
        let keep = self.plan.config.train.keep_last.as_usize();
        let folder = self.run.write_last(content, keep)?;
        self.last_checkpoint = Instant::now();
        observer.checkpoint_written(self.iteration(), &folder);
        Ok(())
    }

    /// Whether this step has a checkpoint, which does not know of its evaluation.
    pub(crate) fn checkpoint_is_there(&self) -> bool {
        self.run.last_iteration() == Some(self.iteration())
    }

    pub(crate) fn checkpoint_is_due(&self) -> bool {
        let minutes = self.plan.config.train.checkpoint_minutes;
        let age = self.last_checkpoint.elapsed().as_secs_f64() / 60.0;
        self.is_due(self.plan.checkpoint_every)
            || minutes.is_some_and(|minutes| age >= minutes.get())
    }

    pub(crate) fn out_of_patience(&self) -> Option<Stopped> {
        let patience = self.plan.config.train.patience?;
        (self.evaluations_since_best >= patience.get()).then_some(Stopped::OutOfPatience)
    }

    /// Whether something that happens every so many steps, and at the end, happens now.
    pub(crate) fn is_due(&self, every: u64) -> bool {
        self.iteration().is_multiple_of(every) || self.iteration() == self.plan.iterations
    }
}
