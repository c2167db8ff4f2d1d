//! How large a batch can be: by the memory that steps with one and with two images take.

use burn::tensor::{Device, Tensor};
use retinanet_boxes::{AnchorLabel, AnchorTargets};
use retinanet_criterion::BatchTargets;

use crate::memory::{memory_to_take, peak_memory};
use crate::plan::{Plan, PlanError};
use crate::step::Learner;
use crate::update::is_flex;

/// More images a step than this are seldom of use.
const MOST_IMAGES: u64 = 64;

/// The largest batch whose step takes at most a share of the memory that there is, by the config's
/// `train.memory_share`. The plan's batch size does not matter.
///
/// # Errors
///
/// Returns an error where memory cannot be measured, or one image is too many.
pub fn measure_batch_size(plan: &Plan, device: &Device) -> Result<usize, PlanError> {
    let unmeasured = || {
        PlanError::out_of_range(
            "train.batch_size",
            "\"auto\"",
            "a number where the program cannot see how much memory a step takes: on GPUs, and other \
         systems than Linux",
        )
    };
    if !is_flex(device) {
        return Err(unmeasured());
    }
    let device = device.clone().autodiff();
    let mut learner = Learner::new(
        plan.fresh_model(0, &device)?,
        &plan.config.optimizer,
        plan.criterion.clone(),
    );
    let mut peaks = [0; 2];
    for (images, peak) in (1..).zip(&mut peaks) {
        step(plan, &mut learner, images, &device);
        *peak = peak_memory().ok_or_else(unmeasured)?;
    }
    let may_take = memory_to_take().ok_or_else(unmeasured)? as f64 * plan.config.train.memory_share;
    let images = fitting(peaks, may_take as u64);
    if images == 0 {
        return Err(PlanError::out_of_range(
            "train.memory_share",
            plan.config.train.memory_share,
            "large enough for a step with one image; smaller images take less",
        ));
    }
    Ok(images as usize)
}

/// A step on grey images of the largest size that training has.
fn step(plan: &Plan, learner: &mut Learner, images: usize, device: &Device) {
    let (height, width) = plan.largest_input();
    let anchors = plan.generator.generate(height, width).len();
    let targets = vec![
        AnchorTargets {
            labels: vec![AnchorLabel::Background; anchors],
            positives: Vec::new(),
        };
        images
    ];
    let targets = BatchTargets::new(&targets, device);
    let images = Tensor::<4>::zeros([images, 3, height, width], device);
    // What it learns is forgotten; a loss that is not finite took the memory all the same.
    let _ = learner.step(&images, &targets, 0.0);
}

/// How many images fit, where one and two take so much.
const fn fitting([one, two]: [u64; 2], may_take: u64) -> u64 {
    let each = two.saturating_sub(one);
    if may_take < one {
        return 0;
    }
    if each == 0 {
        return MOST_IMAGES;
    }
    let images = 1 + (may_take - one) / each;
    if images < MOST_IMAGES {
        images
    } else {
        MOST_IMAGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_a_line_through_both_peaks() {
        assert_eq!(fitting([300, 400], 299), 0);
        assert_eq!(fitting([300, 400], 300), 1);
        assert_eq!(fitting([300, 400], 1099), 8);
        assert_eq!(fitting([300, 400], 1100), 9);
        assert_eq!(fitting([300, 400], u64::MAX), MOST_IMAGES);
        assert_eq!(fitting([300, 300], 300), MOST_IMAGES);
    }
}
