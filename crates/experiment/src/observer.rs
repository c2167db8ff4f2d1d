use std::path::Path;
use std::time::Duration;

use retinanet_evaluation::Metrics;

/// Is told what a run does. Every method has an empty default.
pub trait Observer {
    /// A sentence for the person who watches.
    fn message(&mut self, _text: &str) {}

    /// Training begins at iteration `first` of `total`.
    fn training_starts(&mut self, _first: u64, _total: u64) {}

    /// A step is done.
    fn step(&mut self, _report: &StepReport) {}

    /// Some long work begins, is under way, or ends.
    fn progress(&mut self, _progress: Progress<'_>) {}

    /// The model was evaluated.
    fn evaluated(&mut self, _evaluated: &Evaluated<'_>) {}

    /// A checkpoint was written.
    fn checkpoint_written(&mut self, _iteration: u64, _folder: &Path) {}

    /// Whether to write a checkpoint and end after the current step.
    fn stop_requested(&self) -> bool {
        false
    }
}

/// What an evaluation gave.
#[derive(Clone, Copy, Debug)]
pub struct Evaluated<'a> {
    /// After how many steps.
    pub iteration: u64,
    /// The numbers.
    pub metrics: &'a Metrics,
    /// The loss on the validation images: the mean over images of each image's loss
    /// divided by its own positive anchors.
    pub loss: f64,
    /// Whether it is the best so far.
    pub is_best: bool,
}

/// Work other than training steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// It begins and has this many parts.
    Start {
        /// What is done, such as `evaluating`.
        what: &'a str,
        /// How many parts it has.
        total: u64,
    },
    /// One part is done.
    Tick,
    /// All is done.
    Finish,
}

/// How a step went.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Which step, counted from 1.
    pub iteration: u64,
    /// Of how many.
    pub total: u64,
    /// How often all training images were seen.
    pub epoch: f64,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// The class part of the loss.
    pub class_loss: f64,
    /// The box part of the loss.
    pub box_loss: f64,
    /// The gradients' norm before clipping.
    pub gradient_norm: f64,
    /// Positive anchors of the batch.
    pub positives: usize,
    /// Images of the batch.
    pub images: usize,
    /// Class and box loss of each level from the finest, every `train.log_every` steps; nothing at
    /// others.
    pub levels: Vec<[f64; 2]>,
    /// The factor on the loss that keeps gradients of half precision from becoming 0; none where there is none.
    pub loss_scale: Option<f64>,
    /// Memory that the process holds, in bytes, where the system tells.
    pub memory: Option<u64>,
    /// How long the step took, waiting for its batch included.
    pub duration: Duration,
    /// How much of that was waiting for the batch.
    pub waited: Duration,
    /// How many processes shared the batch.
    pub processes: usize,
    /// How much of it was communication with them, waiting for them included.
    pub communicated: Duration,
}

impl StepReport {
    /// What the step minimised.
    pub fn loss(&self) -> f64 {
        self.class_loss + self.box_loss
    }

    /// Positive anchors of an image, on average.
    pub fn positives_per_image(&self) -> f64 {
        self.positives as f64 / self.images.max(1) as f64
    }

    /// How much of the step was communication with other processes, in `[0, 1]`.
    pub fn communicated_share(&self) -> f64 {
        self.communicated.as_secs_f64() / self.duration.as_secs_f64().max(1e-9)
    }

    /// How much of the step was waiting for its batch, in `[0, 1]`.
    pub fn waited_share(&self) -> f64 {
        self.waited.as_secs_f64() / self.duration.as_secs_f64().max(1e-9)
    }
}
