//! How large a batch can be: by the memory that steps with one image and with more take.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use retinanet_boxes::{AnchorLabel, AnchorTargets};
use retinanet_criterion::BatchTargets;
use retinanet_experiment::ExperimentError;
use retinanet_settings::SettingError;

use crate::optimisation::step::{DeviceBatch, Learner, StepOptions};
use crate::optimisation::update::is_flex;
use crate::planning::memory::{memory_to_take, peak_memory, reset_peak_memory};
use crate::planning::plan::Plan;

/// More images a step than this are seldom of use.
const MOST_IMAGES: u64 = 64;

/// How many images at once take at most a share of the memory that there is, by the config's
/// `train.memory_share`, times the micro-batches of a batch. The plan's batch size does not
/// matter.
///
/// # Errors
///
/// Returns an error where memory cannot be measured, or one image is too many.
pub fn measure_batch_size(plan: &Plan, device: &Device) -> Result<usize, ExperimentError> {
    let unmeasured = || {
        ExperimentError::Setting(SettingError::new(
            "train.batch_size",
            "a number where the program cannot see how much memory there is: on other systems than Linux, and on \
             GPUs in a build without the feature `vulkan`",
            "\"auto\"",
        ))
    };
    let meter = Meter::of(device).ok_or_else(unmeasured)?;
    let device = device.clone().autodiff();
    let mut learner = Learner::new(
        plan.fresh_model(0, &device)?,
        &plan.config.optimizer,
        plan.criterion.clone(),
    );
    let may_take =
        meter.may_take().ok_or_else(unmeasured)? as f64 * plan.config.train.memory_share.get();
    let mut measured = Vec::new();
    let mut images = 1;
    loop {
        meter.reset().ok_or_else(unmeasured)?;
        let size = plan.loader.largest_input();
        grey_step(plan, &mut learner, images, size, &device);
        measured.push((images as u64, meter.peak().ok_or_else(unmeasured)?));
        if is_enough(&measured, may_take as u64)
            || (meter.must_not_run_out() && fitting(&measured, may_take as u64) < 2 * images as u64)
        {
            break;
        }
        images *= 2;
    }
    let images = fitting(&measured, may_take as u64);
    if images == 0 {
        return Err(ExperimentError::Setting(SettingError::new(
            "train.memory_share",
            "large enough for a step with one image; smaller images take less",
            plan.config.train.memory_share,
        )));
    }
    Ok(images as usize * plan.config.train.accumulate.as_usize())
}

/// Where a step's memory is measured.
enum Meter {
    /// This process.
    Host,
    /// A GPU, and the most memory that it says it has.
    #[cfg(feature = "gpu")]
    Gpu(retinanet_gpu::Memory),
}

impl Meter {
    /// Nothing for a device whose memory cannot be seen.
    fn of(device: &Device) -> Option<Self> {
        if is_flex(device) {
            return Some(Self::Host);
        }
        #[cfg(feature = "gpu")]
        return retinanet_gpu::Memory::of(device).map(Self::Gpu);
        #[cfg(not(feature = "gpu"))]
        None
    }

    /// The bytes that there are to take.
    fn may_take(&self) -> Option<u64> {
        match self {
            Self::Host => memory_to_take(),
            #[cfg(feature = "gpu")]
            Self::Gpu(memory) => Some(memory.capacity()),
        }
    }

    /// Whether a step that takes too much ends the program.
    const fn must_not_run_out(&self) -> bool {
        !matches!(self, Self::Host)
    }

    /// Lets the peak begin anew.
    fn reset(&self) -> Option<()> {
        match self {
            Self::Host => reset_peak_memory(),
            // It keeps what it once took: each step takes at least as much as the one before.
            #[cfg(feature = "gpu")]
            Self::Gpu(_) => Some(()),
        }
    }

    /// The most bytes that were held.
    fn peak(&self) -> Option<u64> {
        match self {
            Self::Host => peak_memory(),
            #[cfg(feature = "gpu")]
            Self::Gpu(memory) => Some(memory.held()),
        }
    }
}

/// A step on grey images of a size, height and width in pixels. What it learns is to be forgotten.
pub(crate) fn grey_step(
    plan: &Plan,
    learner: &mut Learner,
    images: usize,
    (height, width): (usize, usize),
    device: &Device,
) {
    let anchors = plan.generator.generate(height, width);
    let targets = vec![
        AnchorTargets {
            labels: vec![AnchorLabel::Background; anchors.len()],
            positives: Vec::new(),
        };
        images
    ];
    let batch = DeviceBatch {
        images: Tensor::zeros([images, 3, height, width], device),
        targets: BatchTargets::new(targets, Arc::new(anchors), device),
    };
    // A non-finite loss took the memory all the same.
    let _ = learner.step(&[batch], StepOptions::at(0.0));
}

/// Whether the peaks of so many images tell what one takes, or that no more fit.
fn is_enough(measured: &[(u64, u64)], may_take: u64) -> bool {
    /// Less may be memory that was free already.
    const CLEAR: u64 = 128 << 20;
    let ((_, first), (images, last)) = (measured[0], measured[measured.len() - 1]);
    last >= first + CLEAR || last >= may_take || images >= MOST_IMAGES
}

/// How many images fit, by a line through the first and the last peak; after one alone, if each were to take all of it.
fn fitting(measured: &[(u64, u64)], may_take: u64) -> u64 {
    let ((_, one), (images, last)) = (measured[0], measured[measured.len() - 1]);
    if one > may_take {
        return 0;
    }
    let each = match images {
        1 => one,
        images => last.saturating_sub(one) / (images - 1),
    };
    let more = (may_take - one).checked_div(each).unwrap_or(MOST_IMAGES);
    (1 + more).min(MOST_IMAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_a_line_through_the_peaks() {
        assert_eq!(fitting(&[(1, 300)], 599), 1);
        assert_eq!(fitting(&[(1, 300)], 600), 2);
        let two = [(1, 300), (2, 400)];
        assert_eq!(fitting(&two, 299), 0);
        assert_eq!(fitting(&two, 300), 1);
        assert_eq!(fitting(&two, 1099), 8);
        assert_eq!(fitting(&two, 1100), 9);
        assert_eq!(fitting(&two, u64::MAX), MOST_IMAGES);
        assert_eq!(fitting(&[(1, 300), (2, 300), (4, 600)], 1000), 8);
        assert_eq!(fitting(&[(1, 300), (64, 300)], 300), MOST_IMAGES);
    }

    #[test]
    fn measuring_ends_where_memory_grows_clearly_or_runs_out() {
        let mib = |images, mib: u64| (images, mib << 20);
        assert!(!is_enough(&[mib(1, 300)], 10_000 << 20));
        assert!(!is_enough(&[mib(1, 300), mib(2, 400)], 10_000 << 20));
        assert!(is_enough(
            &[mib(1, 300), mib(2, 400), mib(4, 600)],
            10_000 << 20
        ));
        assert!(is_enough(&[mib(1, 300), mib(2, 400)], 400 << 20));
        assert!(is_enough(&[mib(1, 300), mib(64, 300)], 10_000 << 20));
    }
}
