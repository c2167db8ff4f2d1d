//! What a run will take, told before it starts: by steps with one small image, which cost little.

use std::fmt;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use retinanet_experiment::ExperimentError;

use crate::optimisation::step::Learner;
use crate::optimisation::update::is_flex;
use crate::planning::auto_batch::grey_step;
use crate::planning::memory::{memory_to_take, peak_memory, reset_peak_memory};
use crate::planning::plan::Plan;

/// Sides of the images that are tried, in pixels: the difference tells what a pixel takes, apart from what
/// weights, gradients and moments do.
const SIDES: [usize; 2] = [64, 128];

/// How often each size is tried.
const TRIES: usize = 3;

/// The least share of a step on the CPU that its pixels take: where the small size seems to take as long as the large one,
/// something else ran meanwhile.
const LEAST_BY_PIXELS: f64 = 0.7;

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

impl Estimate {
    /// Why such a run is surely not meant, if it takes longer than a week or more memory than there is.
    pub(crate) fn objection(&self) -> Option<String> {
        /// Longer than this nobody means to wait without having been asked.
        const MOST_DAYS: f64 = 7.0;
        const DAY: f64 = 86_400.0;
        match (self.memory, self.available) {
            (Some(memory), Some(available)) if memory > available => {
                Some(format!("this machine has {} to take", in_gib(available)))
            }
            _ => (self.seconds() > MOST_DAYS * DAY).then(|| format!("more than {MOST_DAYS} days")),
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.memory.map(|bytes| format!(" and {}", in_gib(bytes)));
        write!(
            f,
            "a step takes about {}{} on this CPU; {} steps ≈ {}",
            roughly(self.step.as_secs_f64()),
            memory.unwrap_or_default(),
            self.steps,
            roughly(self.seconds())
        )
    }
}

fn in_gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// A time as a person would say it: `0.2 s`, `4 min`, `3.1 h`, `250 days`.
pub fn roughly(seconds: f64) -> String {
    const UNITS: [(f64, &str); 5] = [
        (1.0, "s"),
        (60.0, "min"),
        (3_600.0, "h"),
        (86_400.0, "days"),
        (31_557_600.0, "years"),
    ];
    // A year is told in days up to three, a day in hours up to three, and so on.
    let fits = |unit: &&(f64, &str)| seconds >= 3.0 * unit.0;
    let (length, name) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
    let count = seconds / length;
    if count >= 10.0 {
        format!("{count:.0} {name}")
    } else {
        format!("{count:.1} {name}")
    }
}

/// What a step takes, by the pixels of all its images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLine {
    /// Whatever the size, in seconds.
    pub fixed: f64,
    /// Of each pixel, in seconds.
    pub per_pixel: f64,
    /// The most memory, by pixels too, where the system tells: whatever the size, and of each pixel, in bytes.
    pub memory: Option<[f64; 2]>,
}

impl StepLine {
    /// Seconds of a step on so many pixels.
    pub fn seconds(&self, pixels: usize) -> f64 {
        (self.fixed + self.per_pixel * pixels as f64).max(0.0)
    }

    /// Bytes of a step on so many pixels.
    fn bytes(&self, pixels: usize) -> Option<u64> {
        let [fixed, per_pixel] = self.memory?;
        Some((fixed + per_pixel * pixels as f64).max(0.0) as u64)
    }
}

/// Measures steps of a plan with one square image of these sides, in pixels.
///
/// # Errors
///
/// Returns an error if a setting of the model is out of range.
pub fn measure_step(
    plan: &Plan,
    device: &Device,
    sides: [usize; 2],
) -> Result<StepLine, ExperimentError> {
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
        (started.elapsed().as_secs_f64(), peak)
    };
    // The first step makes the moments and fills the caches; on a GPU each size compiles kernels.
    measure(sides[0]);
    if !is_flex(&device) {
        measure(sides[1]);
    }
    // The least of a few: whatever else runs only adds.
    let mut least = |side: usize| {
        let tries = (0..TRIES).map(|_| measure(side));
        tries.fold((f64::INFINITY, None), |least, it| {
            (f64::min(least.0, it.0), least.1.max(it.1))
        })
    };
    let [small, large] = sides.map(&mut least);
    let pixels = sides.map(|side| (side * side) as f64);
    let line = |[small, large]: [f64; 2], least: f64| {
        let each = ((large - small) / (pixels[1] - pixels[0])).max(least);
        [large - each * pixels[1], each]
    };
    let least = if is_flex(&device) {
        LEAST_BY_PIXELS * large.0 / pixels[1]
    } else {
        0.0
    };
    let [fixed, per_pixel] = line([small.0, large.0], least);
    let peaks = small.1.zip(large.1);
    let peaks = peaks.map(|(small, large)| (small as f64, large as f64));
    Ok(StepLine {
        fixed,
        per_pixel,
        memory: peaks.map(|(small, large)| line([small, large], 0.0)),
    })
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
) -> Result<Option<Estimate>, ExperimentError> {
    if !is_flex(device) {
        return Ok(None);
    }
    let line = measure_step(plan, device, SIDES)?;
    let (height, width) = plan.loader.largest_input();
    let images = plan.config.train.batch_size.images().div_ceil(processes);
    let micro_batch = images.div_ceil(plan.config.train.accumulate.as_usize());
    let pixels = |images: usize| images * height * width;
    Ok(Some(Estimate {
        step: Duration::try_from_secs_f64(line.seconds(pixels(images))).unwrap_or(Duration::MAX),
        steps: plan.iterations,
        memory: line.bytes(pixels(micro_batch)),
        available: memory_to_take(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_fitting_units() {
        for (seconds, told) in [
            (0.0, "0.0 s"),
            (0.21, "0.2 s"),
            (12.4, "12 s"),
            (170.0, "170 s"),
            (240.0, "4.0 min"),
            (10_000.0, "167 min"),
            (11_160.0, "3.1 h"),
            (21_600_000.0, "250 days"),
            (1e12, "31688 years"),
        ] {
            assert_eq!(roughly(seconds), told);
        }
    }

    #[test]
    fn more_than_a_week_or_than_the_memory_is_objected_to() {
        let estimate = |seconds: u64, memory: u64| Estimate {
            step: Duration::from_secs(seconds),
            steps: 1_000,
            memory: Some(memory << 30),
            available: Some(8 << 30),
        };
        assert_eq!(estimate(600, 8).objection(), None);
        assert_eq!(
            estimate(610, 8).objection().as_deref(),
            Some("more than 7 days")
        );
        assert_eq!(
            estimate(1, 9).objection().as_deref(),
            Some("this machine has 8.0 GiB to take")
        );
        assert_eq!(
            estimate(12, 2).to_string(),
            "a step takes about 12 s and 2.0 GiB on this CPU; 1000 steps ≈ 3.3 h"
        );
    }
}
