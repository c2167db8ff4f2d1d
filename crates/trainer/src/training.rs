//! The training loop, as one story from the plan to the last checkpoint.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use burn::tensor::Device;
use retinanet_detector::{NormKind, pixel_form};
use retinanet_evaluation::Metrics;
use retinanet_experiment::Observer;

use crate::error::TrainError;
use crate::planning::plan::Plan;
use crate::processes::communicator::Communicator;
use crate::processes::messages::Command;
use crate::processes::process_group::{Process, ProcessGroup};
use crate::run::run_directory::RunDirectory;
use crate::session::{Session, Stopped};

/// How a run ended.
#[derive(Clone, Debug)]
pub struct TrainOutcome {
    /// Where the run lies.
    pub run: PathBuf,
    /// Steps done.
    pub iteration: u64,
    /// The best evaluation, by the config's metric, if there was one.
    pub best: Option<f64>,
    /// The last evaluation, if there was one.
    pub last: Option<Metrics>,
    /// How far its AP may be from that of as many other images, with 95 % confidence, where that is known.
    pub uncertainty: Option<f64>,
    /// The score of the last evaluation's largest F1.
    pub best_score: Option<f64>,
    /// What the run should do next, in sentences.
    pub advice: Vec<String>,
    /// Why it ended before the last step, if it did.
    pub stopped: Option<Stopped>,
    /// How often an image was left out because it could not be read, since the run went on last.
    pub skipped: usize,
}

/// Trains a plan in a run directory on a device, from the run's newest whole checkpoint or from
/// the start; with the other processes of a communicator, which [`follow`](crate::follow).
///
/// # Errors
///
/// Returns an error if an image cannot be read, the loss is non-finite, or the run directory
/// cannot be written. The checkpoints written before stay.
pub fn train(
    plan: &Plan,
    run: &RunDirectory,
    device: &Device,
    communicator: Rc<dyn Communicator>,
    observer: &mut dyn Observer,
) -> Result<TrainOutcome, TrainError> {
    let device = prepare(plan, device);
    let group = ProcessGroup::new(communicator);
    let _lock = run.lock()?;
    let process = Process {
        group: &group,
        device: &device,
    };
    let mut session = Session::start(plan, run, process, observer)?;
    session.train_state.broadcast()?;
    observer.training_starts(session.iteration(), plan.iterations);

    let loader = (plan.loader.clone())
        .with_form(pixel_form(&device))
        .shard(group.rank(), group.size())?;
    let mut batches = loader.start(session.iteration(), plan.iterations);
    let mut last = None;
    if session.awaits_evaluation {
        last = session.evaluate(observer)?;
    }
    let mut stopped = session.out_of_patience();
    while session.iteration() < plan.iterations && stopped.is_none() {
        if observer.stop_requested() {
            // What is to be evaluated is so when the run goes on.
            session.write_checkpoint(observer)?;
            stopped = Some(Stopped::Asked);
            break;
        }
        let started = Instant::now();
        let batch = session.next_batch(&mut batches, observer)?;
        let waited = started.elapsed();
        // What it was before has been no part of a step.
        group.communicated();
        group.send_command(Command::Step);
        session.step(batch, started, waited, observer)?;

        session.awaits_evaluation = session.is_due(plan.eval_every);
        if observer.stop_requested() {
            continue;
        }
        // Before the evaluation, which takes time and may fail.
        if session.checkpoint_is_due() {
            session.write_checkpoint(observer)?;
        }
        if session.awaits_evaluation {
            last = session.evaluate(observer)?;
            stopped = session.out_of_patience();
        }
    }
    session.settle(observer)?;
    let is_kept = !session.awaits_evaluation && session.checkpoint_is_there();
    if stopped.is_none() && observer.stop_requested() && !is_kept {
        // The last evaluation was interrupted, or never begun.
        session.write_checkpoint(observer)?;
        stopped = Some(Stopped::Asked);
    }
    group.send_command(Command::End);
    outcome(session, run, last, stopped)
}

fn outcome(
    session: Session<'_>,
    run: &RunDirectory,
    last: Option<Metrics>,
    stopped: Option<Stopped>,
) -> Result<TrainOutcome, TrainError> {
    Ok(TrainOutcome {
        run: run.root().to_owned(),
        iteration: session.iteration(),
        best: session.best,
        uncertainty: match &last {
            Some(_) => session.uncertainty()?,
            None => None,
        },
        last,
        best_score: session.best_score,
        skipped: session.skipped,
        stopped,
        advice: session.advice,
    })
}

/// The device that a plan trains on.
pub(crate) fn prepare(plan: &Plan, device: &Device) -> Device {
    let device = device.clone().autodiff();
    let moves = matches!(
        plan.config.model.norm,
        NormKind::BatchNorm | NormKind::SyncBatchNorm
    );
    if plan.config.compute.gradient_checkpointing && moves {
        // Layers cannot be called twice, as `RetinaNet::has_gradient_checkpointing` says.
        return device.gradient_checkpointing();
    }
    device
}
