//! How large a batch can be: on the CPU by the memory that steps with one image and with more take, on a GPU by trying.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use retinanet_boxes::AnchorTargets;
use retinanet_criterion::BatchTargets;
use retinanet_experiment::{ExperimentError, TrainConfig};
use retinanet_settings::{SettingError, ShareBelowOne};

use crate::optimisation::average::ModelAverage;
use crate::optimisation::step::{DeviceBatch, Learner, StepOptions};
use crate::planning::memory::{memory_to_take, peak_memory, reset_peak_memory};
use crate::planning::plan::Plan;
use crate::training::prepare;

/// More images a step than this are seldom of use.
const MOST_IMAGES: u64 = 64;

/// How many images at once take at most a share of the CPU's memory, by the config's
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
            "a number where the program cannot see how much memory a step takes: on other systems than Linux",
            "\"auto\"",
        ))
    };
    let device = device.clone().autodiff();
    let mut learner = Learner::new(
        plan.fresh_model(0, &device)?,
        &plan.config.optimizer,
        plan.criterion.clone(),
    );
    let may_take =
        memory_to_take().ok_or_else(unmeasured)? as f64 * plan.config.train.memory_share.get();
    let mut measured = Vec::new();
    let mut images = 1;
    loop {
        reset_peak_memory().ok_or_else(unmeasured)?;
        let size = plan.loader.largest_input();
        grey_step(plan, &mut learner, images, size, &device);
        measured.push((images as u64, peak_memory().ok_or_else(unmeasured)?));
        if is_enough(&measured, may_take as u64) {
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

/// How many images at once a GPU has room for, and a share of that by the config's `train.memory_share`, times the
/// micro-batches of a batch. `fits` tries a step on so many, where it can: the most are found to a third.
///
/// # Errors
///
/// Returns an error where nothing can be tried, or one image is too many.
pub(crate) fn try_batch_sizes(
    config: &TrainConfig,
    fits: impl FnMut(usize) -> Option<bool>,
) -> Result<usize, ExperimentError> {
    let refuse = |allowed: &str| {
        ExperimentError::Setting(SettingError::new("train.batch_size", allowed, "\"auto\""))
    };
    let most = most_that_fit(fits).ok_or_else(|| {
        refuse("a number where the program that launches cannot try how many images fit")
    })?;
    if most == 0 {
        return Err(refuse(
            "a number, and images smaller: not even one fits, or the GPU failed",
        ));
    }
    let share = (most as f64 * config.memory_share.get()) as usize;
    Ok(share.max(1) * config.accumulate.as_usize())
}

/// 1, 2, 3, 4, 6, 8, 12 and so on, up to the last that fits; nothing if that cannot be tried.
fn most_that_fit(mut fits: impl FnMut(usize) -> Option<bool>) -> Option<usize> {
    let mut most = 0;
    let mut next = 1;
    while fits(next)? {
        most = next;
        if most as u64 >= MOST_IMAGES {
            return Some(most);
        }
        next *= 2;
    }
    let between = usize::midpoint(most, next);
    if between > most && fits(between)? {
        most = between;
    }
    Some(most)
}

/// Takes two steps on so many images, all of the largest size that a batch can have.
///
/// # Errors
///
/// Returns an error if the config makes no model.
///
/// # Panics
///
/// Panics if the device fails: if its memory does not suffice.
pub fn try_batch(plan: &Plan, device: &Device, images: usize) -> Result<(), ExperimentError> {
    let device = prepare(plan, device);
    let model = plan.fresh_model(0, &device)?;
    let decay = plan.config.train.ema_decay.map(ShareBelowOne::get);
    let mut average = decay.map(|decay| ModelAverage::new(decay, &model));
    let mut learner = Learner::new(model, &plan.config.optimizer, plan.criterion.clone());
    for step in 1..=2 {
        grey_step(
            plan,
            &mut learner,
            images,
            plan.loader.largest_input(),
            &device,
        );
        if let Some(average) = &mut average {
            average.update(learner.model(), step);
        }
    }
    Ok(())
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
    let targets = vec![AnchorTargets::background(anchors.len()); images];
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

/// How many images fit, by a line through the first and the last peak.
fn fitting(measured: &[(u64, u64)], may_take: u64) -> u64 {
    let ((_, one), (images, last)) = (measured[0], measured[measured.len() - 1]);
    if one > may_take {
        return 0;
    }
    let each = last.saturating_sub(one) / (images - 1).max(1);
    let more = (may_take - one).checked_div(each).unwrap_or(MOST_IMAGES);
    (1 + more).min(MOST_IMAGES)
}

#[cfg(test)]
mod tests {
    use retinanet_settings::PositiveShare;

    use super::*;

    #[test]
    fn the_most_that_fit_are_found_in_few_tries() {
        for (room, found, tries) in [
            (0, 0, 1),
            (1, 1, 2),
            (3, 3, 4),
            (5, 4, 5),
            (7, 6, 5),
            (900, 64, 7),
        ] {
            let mut tried = 0;
            let most = most_that_fit(|images| {
                tried += 1;
                Some(images <= room)
            });
            assert_eq!((most, tried), (Some(found), tries), "{room}");
        }
        assert_eq!(most_that_fit(|_| None), None);
    }

    #[test]
    fn a_share_of_what_fits_is_taken_but_at_least_one() {
        let config = |share| TrainConfig {
            memory_share: share,
            ..TrainConfig::default()
        };
        let most = |share, room: usize| {
            try_batch_sizes(&config(PositiveShare::literal(share)), |images| {
                Some(images <= room)
            })
            .unwrap()
        };
        assert_eq!(most(0.8, 8), 6);
        assert_eq!(most(0.1, 8), 1);
        let error = try_batch_sizes(&config(PositiveShare::literal(0.8)), |_| None).unwrap_err();
        assert!(error.to_string().contains("`train.batch_size`"), "{error}");
    }

    #[test]
    fn what_fits_is_a_line_through_the_peaks() {
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
