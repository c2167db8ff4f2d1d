//! The training loop, as one story from the plan to the last checkpoint.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use retinanet_convolution::set_winograd;
use retinanet_criterion::BatchTargets;
use retinanet_data::{Batch, CoverageReport, DataError, Depth};
use retinanet_detector::{LoadedWeights, RetinaNet};
use retinanet_evaluation::Metrics;

use crate::checkpoint::{CheckpointError, CheckpointState};
use crate::config::ExperimentConfig;
use crate::detector::{Detector, EvaluateError};
use crate::metrics_log::MetricsLog;
use crate::observer::{Observer, StepReport};
use crate::optimizer::Optimizer;
use crate::plan::{Plan, PlanError};
use crate::run_directory::{RunDirectory, RunDirectoryError};
use crate::step::{Learner, StepError};

/// How a run ended.
#[derive(Clone, Debug)]
pub struct TrainOutcome {
    /// Where the run lies.
    pub run: PathBuf,
    /// Steps done.
    pub iteration: u64,
    /// The best AP on the validation images, if one was measured.
    pub best_ap: Option<f64>,
    /// The last evaluation, if there was one.
    pub last: Option<Metrics>,
    /// Whether the observer asked to stop before the end.
    pub interrupted: bool,
    /// How often an image was left out because it could not be read, since the run went on last.
    pub skipped: usize,
}

/// Trains a plan in a run directory on a device, from the run's newest whole checkpoint or from
/// the start.
///
/// # Errors
///
/// Returns an error where an image cannot be read, the loss is no number, or the run directory
/// cannot be written. The checkpoints written before stay.
pub fn train(
    plan: &Plan,
    run: &RunDirectory,
    device: &Device,
    observer: &mut dyn Observer,
) -> Result<TrainOutcome, TrainError> {
    set_winograd(plan.config.compute.winograd);
    let device = device.clone().autodiff();
    let mut session = Session::start(plan, run, &device, observer)?;
    observer.training_starts(session.iteration, plan.iterations);

    let mut batches = plan.loader.start(session.iteration, plan.iterations);
    let mut last = None;
    let mut interrupted = false;
    while session.iteration < plan.iterations && !interrupted {
        let started = Instant::now();
        let Some(batch) = batches.next() else { break };
        let waited = started.elapsed();
        session.step(batch?, started, waited, observer)?;

        interrupted = observer.stop_requested();
        let is_best = if session.is_due(plan.eval_every) {
            let (metrics, is_best) = session.evaluate(observer)?;
            last = Some(metrics);
            is_best
        } else {
            false
        };
        if session.is_due(plan.checkpoint_every) || is_best || interrupted {
            session.write_checkpoint(is_best, observer)?;
        }
    }
    Ok(TrainOutcome {
        run: run.root().to_owned(),
        iteration: session.iteration,
        best_ap: session.best_ap,
        last,
        interrupted,
        skipped: session.skipped,
    })
}

/// All that changes while training.
struct Session<'a> {
    plan: &'a Plan,
    run: &'a RunDirectory,
    device: &'a Device,
    learner: Learner,
    log: MetricsLog,
    /// Steps done.
    iteration: u64,
    best_ap: Option<f64>,
    /// Images left out because they could not be read.
    skipped: usize,
}

impl<'a> Session<'a> {
    /// Draws the model, and puts the run's newest whole checkpoint into it if there is one.
    fn start(
        plan: &'a Plan,
        run: &'a RunDirectory,
        device: &'a Device,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let (checkpoint, damaged) = run.newest()?;
        for damaged in &damaged {
            tell(run, observer, &format!("not used: {}", damaged.error))?;
            damaged.set_aside()?;
        }
        let (model, pretrained) = match &checkpoint {
            Some(checkpoint) => (checkpoint.load_model(plan.fresh_model(device)?)?, None),
            None => plan.draw_model(device)?,
        };
        let mut optimizer = Optimizer::new(&plan.config.optimizer, &model);
        let mut criterion = plan.criterion.clone();
        let (mut iteration, mut best_ap) = (0, None);
        if let Some(checkpoint) = &checkpoint {
            optimizer = checkpoint.load_optimizer(optimizer)?;
            criterion.set_normalizer(checkpoint.state.normalizer);
            iteration = checkpoint.state.iteration;
            best_ap = run.best_ap();
            let folder = checkpoint.folder.display();
            tell(
                run,
                observer,
                &format!("going on from {folder}, step {iteration}"),
            )?;
        } else {
            run.write_classes(&plan.train.classes)?;
            tell_start(plan, run, &model, pretrained.as_ref(), observer)?;
        }
        Ok(Self {
            log: MetricsLog::open(&run.metrics(), iteration).map_err(TrainError::Log)?,
            plan,
            run,
            device,
            learner: Learner {
                model,
                optimizer,
                criterion,
            },
            iteration,
            best_ap,
            skipped: 0,
        })
    }

    /// One step, and what is told of it.
    fn step(
        &mut self,
        batch: Batch,
        started: Instant,
        waited: Duration,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        for skipped in &batch.skipped {
            tell(self.run, observer, &format!("skipped: {skipped}"))?;
        }
        self.skipped += batch.skipped.len();
        let images = batch.items.len();
        let shape = [images, 3, batch.height, batch.width];
        let targets = BatchTargets::new(&batch.targets, self.device);
        let pixels = Tensor::from_data(TensorData::new(batch.images, shape), self.device);

        let learning_rate = self.plan.schedule.learning_rate(self.iteration);
        let loss = (self.learner)
            .step(pixels, &targets, learning_rate)
            .map_err(|StepError { class, bbox }| TrainError::NotFinite {
                iteration: self.iteration + 1,
                class_loss: class,
                box_loss: bbox,
                learning_rate,
            })?;
        self.iteration += 1;

        let seen = self.iteration * self.plan.config.train.batch_size as u64;
        let report = StepReport {
            iteration: self.iteration,
            total: self.plan.iterations,
            epoch: seen as f64 / self.plan.loader.samples_per_epoch() as f64,
            learning_rate,
            class_loss: loss.class,
            box_loss: loss.bbox,
            gradient_norm: loss.gradient_norm,
            positives: targets.positives(),
            images,
            duration: started.elapsed(),
            waited,
        };
        self.log.step(&report).map_err(TrainError::Log)?;
        observer.step(&report);
        Ok(())
    }

    /// Evaluates the model as it stands; tells whether it is the run's best.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<(Metrics, bool), TrainError> {
        let detector = Detector::of_plan(self.plan, &self.learner.model, self.device);
        let workers = self.plan.config.data.workers;
        let metrics = detector.evaluate(&self.plan.val, &self.plan.evaluator, workers, observer)?;
        let is_best = self.best_ap.is_none_or(|best| metrics.ap > best);
        if is_best {
            self.best_ap = Some(metrics.ap);
        }
        self.log
            .evaluation(self.iteration, &metrics)
            .map_err(TrainError::Log)?;
        self.run.write_evaluation(self.iteration, &metrics)?;
        self.run.log(&format!(
            "step {}: AP {:.4}, AP50 {:.4}{}",
            self.iteration,
            metrics.ap,
            metrics.ap50,
            if is_best { ", the best so far" } else { "" }
        ))?;
        observer.evaluated(self.iteration, &metrics, is_best);
        Ok((metrics, is_best))
    }

    fn write_checkpoint(
        &mut self,
        is_best: bool,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let state = CheckpointState {
            iteration: self.iteration,
            normalizer: *self.learner.criterion.normalizer(),
            best_ap: self.best_ap,
            classes: self.plan.train.classes.clone(),
        };
        let folder = self.run.write_last(
            &self.learner.model,
            &self.learner.optimizer,
            &self.plan.config,
            state,
            self.plan.config.train.keep_last,
        )?;
        if is_best {
            self.run.keep_best()?;
        }
        observer.checkpoint_written(self.iteration, &folder);
        Ok(())
    }

    /// Whether something that happens every so many steps, and at the end, happens now.
    fn is_due(&self, every: u64) -> bool {
        self.iteration.is_multiple_of(every) || self.iteration == self.plan.iterations
    }
}

/// What a person wants to know before leaving the run alone.
fn tell_start(
    plan: &Plan,
    run: &RunDirectory,
    model: &RetinaNet,
    pretrained: Option<&LoadedWeights>,
    observer: &mut dyn Observer,
) -> Result<(), RunDirectoryError> {
    let ExperimentConfig { model: config, .. } = &plan.config;
    let classes: Vec<_> = plan
        .train
        .classes
        .iter()
        .map(|(_, class)| &*class.name)
        .collect();
    let lines = [
        format!("run        {}", run.root().display()),
        format!(
            "data       {} images to train on, {} to evaluate on",
            plan.train.images.len(),
            plan.val.images.len()
        ),
        format!("classes    {}: {}", classes.len(), classes.join(", ")),
        format!(
            "model      {:?}, {:.2} M parameters",
            config.backbone,
            model.parameters() as f64 / 1e6
        ),
    ];
    for line in &lines {
        tell(run, observer, line)?;
    }
    tell_coverage(plan, run, observer)?;
    if let (Some(loaded), Some(file)) = (pretrained, &config.pretrained) {
        tell(run, observer, &format!("weights    {file}: {loaded}"))?;
    } else if config.norm.is_fixed() || config.freeze_at > 0 {
        tell(
            run,
            observer,
            "warning: the weights are drawn at random, and `model.norm` or `model.freeze_at` keeps \
             some of them from learning; from scratch use norm = \"batch_norm\" or \
             \"group_norm\", and freeze_at = 0",
        )?;
    }
    Ok(())
}

/// Tells how many boxes the anchors reach, and warns where that is too few.
fn tell_coverage(
    plan: &Plan,
    run: &RunDirectory,
    observer: &mut dyn Observer,
) -> Result<(), RunDirectoryError> {
    const FEW: f64 = 0.95;
    let report = CoverageReport::new(
        &plan.train,
        &plan.transform,
        &plan.generator,
        &plan.matcher,
        Depth::Reach,
    );
    let reached = report.all.share_of_foreground();
    let line = format!(
        "anchors    reach {:.1} % of {} boxes with IoU {}, {:.1} % with {}; best IoU {:.2} on average",
        100.0 * reached,
        report.all.boxes,
        report.foreground,
        100.0 * report.all.share_of_background(),
        report.background,
        report.all.mean_iou(),
    );
    tell(run, observer, &line)?;
    if reached < FEW {
        tell(
            run,
            observer,
            "warning: more than 5 % of the boxes are out of the anchors' reach, and are learnt from \
             low-quality matches at best; `retinanet anchors report` shows which, `retinanet \
             anchors optimize` proposes anchors that fit",
        )?;
    }
    Ok(())
}

/// Tells the person who watches, and the run's log.
fn tell(
    run: &RunDirectory,
    observer: &mut dyn Observer,
    text: &str,
) -> Result<(), RunDirectoryError> {
    observer.message(text);
    run.log(text)
}

/// Training failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The loss is no number.
    #[error(
        "the loss is no longer finite at step {iteration} (class {class_loss}, box {box_loss}, \
         learning rate {learning_rate}); a lower `optimizer.lr`, a longer `schedule.warmup` or \
         `optimizer.clip_norm` may help"
    )]
    NotFinite {
        /// The step, counted from 1.
        iteration: u64,
        /// The class part.
        class_loss: f64,
        /// The box part.
        box_loss: f64,
        /// The step's learning rate.
        learning_rate: f64,
    },
    /// The metrics cannot be logged; the cause names the file.
    #[error("cannot write the metrics")]
    Log(#[source] std::io::Error),
    /// The model cannot be drawn.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// An image cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The run directory cannot be used.
    #[error(transparent)]
    Run(#[from] RunDirectoryError),
    /// A checkpoint does not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model cannot be evaluated.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}
