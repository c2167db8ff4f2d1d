//! What a run will take, told before it starts: by steps with one small image, which cost little.

use std::time::{Duration, Instant};

use burn::tensor::Device;

use crate::auto_batch::grey_step;
use crate::memory::{memory_to_take, peak_memory, reset_peak_memory};
use crate::plan::{Plan, PlanError};
use crate::step::Learner;
use crate::update::is_flex;

/// Sides of the images that are tried, in pixels: the difference tells what a pixel takes, apart from what
/// weights, gradients and moments do.
const SIDES: [usize; 2] = [64, 128];

/// What a step takes, and a run of so many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// How long a step takes.
    pub step: Duration,
    /// How many steps there are.
    pub steps: u64,
    /// The most memory that a step takes, in bytes, where the system tells.
    pub memory: Option<u64>,
    /// The memory that there is to take, in bytes, where the system tells.
    pub available: Option<u64>,
}

impl Estimate {
    /// How long all steps take, in seconds.
    pub fn seconds(&self) -> f64 {
        self.step.as_secs_f64() * self.steps as f64
    }
}

/// What a plan's steps will take on a device, for one of so many ranks that shard the batch. Nothing on
/// GPUs, where kernels are compiled at first.
///
/// # Errors
///
/// Returns an error if a setting of the model is out of range.
pub fn estimate(
    plan: &Plan,
    device: &Device,
    processes: usize,
) -> Result<Option<Estimate>, PlanError> {
    if !is_flex(device) {
        return Ok(None);
    }
    let device = device.clone().autodiff();
    let mut learner = Learner::new(
        plan.fresh_model(0, &device)?,
        &plan.config.optimizer,
        plan.criterion.clone(),
    );
    let mut measure = |side: usize| {
        let resets = reset_peak_memory();
        let started = Instant::now();
        grey_step(plan, &mut learner, 1, (side, side), &device);
        let peak = resets.and_then(|()| peak_memory());
        (
            started.elapsed().as_secs_f64(),
            peak.map(|bytes| bytes as f64),
        )
    };
    // The first step makes the moments and fills the caches.
    measure(SIDES[0]);
    let [small, large] = SIDES.map(&mut measure);
    let (height, width) = plan.loader.largest_input();
    let images = plan.config.train.batch_size.images().div_ceil(processes);
    let micro_batch = images.div_ceil(plan.config.train.accumulate);
    let pixels = SIDES.map(|side| (side * side) as f64);
    let line = |[small, large]: [f64; 2], images: usize| {
        let each = ((large - small) / (pixels[1] - pixels[0])).max(0.0);
        let all = (images * height * width) as f64;
        (small + each * (all - pixels[0])).max(0.0)
    };
    let memory = |peaks: [f64; 2]| line(peaks, micro_batch) as u64;
    Ok(Some(Estimate {
        step: Duration::try_from_secs_f64(line([small.0, large.0], images))
            .unwrap_or(Duration::MAX),
        steps: plan.iterations,
        memory: small
            .1
            .zip(large.1)
            .map(|(small, large)| memory([small, large])),
        available: memory_to_take(),
    }))
}
