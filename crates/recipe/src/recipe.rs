use std::path::PathBuf;

use crate::facts::Facts;
use crate::length::{Length, StepCost, plan};

/// Where the two halves of the data are, relative to where the program is started or absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halves {
    /// The annotations that are trained on.
    pub train: PathBuf,
    /// Their images.
    pub train_images: PathBuf,
    /// The annotations that are evaluated on.
    pub val: PathBuf,
    /// Their images.
    pub val_images: PathBuf,
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wishes {
    /// How long training may take.
    pub minutes: f64,
    /// What it runs on, as `compute.device` says.
    pub device: String,
    /// The residual network, as `model.backbone` says.
    pub backbone: String,
    /// The weights to start from, as `model.pretrained` says; none to start from random ones.
    pub pretrained: Option<String>,
    /// Why these.
    pub pretrained_because: String,
    /// Whether they have learned to predict boxes as the recipe has them, so that anchors can be assigned by what is
    /// predicted from the first step on.
    pub predicts_boxes: bool,
}

impl Wishes {
    pub(crate) fn on_cpu(&self) -> bool {
        self.device == "flex"
    }
}

/// What is to be trained on somebody's data.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    pub(crate) halves: Halves,
    pub(crate) facts: Facts,
    pub(crate) wishes: Wishes,
    pub(crate) length: Length,
}

impl Recipe {
    /// A recipe for the data whose length is unknown, to measure what its steps take.
    pub fn draft(halves: Halves, facts: Facts, wishes: Wishes) -> Self {
        const UNKNOWN: StepCost = StepCost {
            fixed: 0.0,
            per_pixel: 0.0,
        };
        let length = plan(&facts, &UNKNOWN, 0.0);
        Self {
            halves,
            facts,
            wishes,
            length,
        }
    }

    /// The same with the size and the length that fit the time.
    #[must_use]
    pub fn that_takes(mut self, cost: &StepCost) -> Self {
        self.length = plan(&self.facts, cost, 60.0 * self.wishes.minutes);
        self
    }

    /// Images of a batch.
    pub fn batch_size(&self) -> u64 {
        let fitting = if self.wishes.on_cpu() { 4 } else { 8 };
        fitting.min(self.facts.images.max(1) as u64)
    }

    /// Steps of training.
    pub fn steps(&self) -> u64 {
        self.length.samples.div_ceil(self.batch_size())
    }

    /// The input's shorter side, in pixels.
    pub fn short_side(&self) -> u64 {
        self.length.short_side
    }

    /// What training takes with its evaluations, in seconds.
    pub fn seconds(&self) -> f64 {
        self.length.seconds
    }

    /// How often training sees each image.
    pub fn epochs(&self) -> f64 {
        self.length.samples as f64 / self.facts.images.max(1) as f64
    }

    /// Whether there is less time than the data is worth.
    pub fn is_short_of_time(&self) -> bool {
        self.length.is_short
    }
}
