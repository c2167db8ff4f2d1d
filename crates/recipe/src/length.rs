//! How large the input is and how long training takes: what is worth it, and what there is time for.

use crate::facts::Facts;

/// What a step on one image takes: a line in the input's pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCost {
    /// Whatever the size, in seconds an image.
    pub fixed: f64,
    /// Of each pixel, in seconds.
    pub per_pixel: f64,
}

impl StepCost {
    /// Seconds an image of so many pixels.
    pub fn seconds(&self, pixels: f64) -> f64 {
        self.fixed + self.per_pixel * pixels
    }
}

/// An input size and a length of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Length {
    /// Of the input's shorter side, in pixels.
    pub(crate) short_side: u64,
    /// Images that training sees, each as often as it does.
    pub(crate) samples: u64,
    /// Evaluations, the last one included.
    pub(crate) evaluations: u64,
    /// What all of it takes, in seconds.
    pub(crate) seconds: f64,
    /// Whether there was less time than the data is worth.
    pub(crate) is_short: bool,
}

/// Inference beside a step: without a backward pass, and with suppression.
const EVALUATION_SHARE: f64 = 0.4;

/// The share of the time that is planned: machines are not always as fast as when they were measured.
const PLANNED: f64 = 0.85;

/// The shorter side where small objects and ordinary ones are large enough for the anchors of P3 and P4 to see what they
/// are, in pixels.
const ENOUGH_SMALL: f64 = 16.0;
const ENOUGH_MEDIAN: f64 = 48.0;

const LEAST_SIDE: u64 = 128;
const MOST_SIDE: u64 = 800;

/// What sizes are multiples of, as `data.size_divisor` says: padding would fill the rest.
const SIDE_STEP: u64 = 32;

/// Longest and shortest training that is worth its time: each image so often, as long as it is not more in all.
const MOST_EPOCHS: f64 = 100.0;
const LEAST_EPOCHS: f64 = 12.0;
const SAMPLES: f64 = 6_000.0;

/// How much longer it may be for few images where there is time: 13 photos of fruits went from 0.594 to 0.638, 205 of blood
/// cells, with 6,000 samples before, from 0.586 to 0.582.
const LONGER: f64 = 2.0;

/// The share of that length for which a smaller input is taken rather than fewer samples.
const LEAST_SHARE: f64 = 0.5;

/// The size at which the objects are large enough, at most the images' own.
pub(crate) fn enough_side(facts: &Facts) -> u64 {
    let for_small = ENOUGH_SMALL / facts.small.max(1e-3);
    let for_median = ENOUGH_MEDIAN / facts.median.max(1e-3);
    let enough = for_small.max(for_median).min(facts.short_side);
    let steps = (enough / SIDE_STEP as f64).round() as u64;
    (steps * SIDE_STEP).clamp(least_side(facts), MOST_SIDE)
}

/// The images' own size, filled up to the stride.
fn own_side(facts: &Facts) -> u64 {
    let steps = (facts.short_side / SIDE_STEP as f64).ceil() as u64;
    steps.max(1) * SIDE_STEP
}

/// The smallest input: it is no larger than the images.
fn least_side(facts: &Facts) -> u64 {
    LEAST_SIDE.min(own_side(facts))
}

/// How many samples training is worth.
pub(crate) fn worth(facts: &Facts) -> f64 {
    let images = facts.images.max(1) as f64;
    images * (SAMPLES / images).clamp(LEAST_EPOCHS, MOST_EPOCHS)
}

/// An input and a length that fit the time. Where there is more than enough, the input is larger than the objects need,
/// since boxes become more exact; where there is less, it is smaller, as long as training would be too short.
pub(crate) fn plan(facts: &Facts, cost: &StepCost, seconds: f64) -> Length {
    let enough = enough_side(facts);
    let most = (2 * enough).min(own_side(facts)).clamp(enough, MOST_SIDE);
    let mut side = most;
    loop {
        let length = at(facts, cost, PLANNED * seconds, side);
        let needed = if side > enough { 1.0 } else { LEAST_SHARE };
        if length.samples as f64 >= needed * worth(facts).floor() || side <= least_side(facts) {
            return length;
        }
        side -= SIDE_STEP;
    }
}

/// The sizes that training images are resized to, around the one that is evaluated at.
pub(crate) fn sides(short_side: u64) -> [u64; 3] {
    [short_side * 9 / 10, short_side, short_side * 11 / 10]
}

/// The pixels of an image in a batch, which is as large as its largest and filled up to the stride.
fn pixels(facts: &Facts, short_side: u64) -> f64 {
    let [_, _, largest] = sides(short_side);
    let filled = |side: f64| (side / SIDE_STEP as f64).ceil() * SIDE_STEP as f64;
    filled(largest as f64) * filled(largest as f64 * facts.aspect)
}

/// The most samples, where there is time.
fn longest(facts: &Facts) -> f64 {
    let worth = worth(facts);
    (LONGER * worth).min(SAMPLES).max(worth)
}

/// As long as there is time for at a size, and no longer than the longest.
fn at(facts: &Facts, cost: &StepCost, seconds: f64, short_side: u64) -> Length {
    let step = cost.seconds(pixels(facts, short_side));
    let epochs = worth(facts) / facts.images.max(1) as f64;
    let evaluations = (epochs / 4.0).clamp(2.0, 5.0) as u64;
    let evaluation = EVALUATION_SHARE * step * facts.val_images as f64;
    // Evaluations may take a third; where they would take more there are fewer.
    let affordable = (seconds / 3.0 / evaluation.max(1e-9)) as u64;
    let evaluations = evaluations.min(affordable).max(1);
    let left = seconds - evaluations as f64 * evaluation;
    let samples = (left / step.max(1e-9)).max(1.0);
    let is_short = samples < worth(facts);
    let samples = samples.min(longest(facts)) as u64;
    Length {
        short_side,
        samples,
        evaluations,
        seconds: samples as f64 * step + evaluations as f64 * evaluation,
        is_short,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Photos of 640 by 480 with objects of 40 pixels and more.
    fn facts() -> Facts {
        Facts {
            images: 200,
            val_images: 50,
            boxes: 2_000,
            val_boxes: 500,
            classes: 3,
            short_side: 480.0,
            aspect: 4.0 / 3.0,
            small: 40.0 / 480.0,
            median: 100.0 / 480.0,
        }
    }

    #[test]
    fn the_input_is_as_large_as_the_objects_need() {
        // 16 ÷ (40 ÷ 480) = 192, 48 ÷ (100 ÷ 480) = 230.
        assert_eq!(enough_side(&facts()), 224);
        let tiny = Facts {
            small: 0.01,
            ..facts()
        };
        // Larger than the photos nothing becomes clearer.
        assert_eq!(enough_side(&tiny), 480);
        let photos_of_40 = Facts {
            short_side: 40.0,
            ..facts()
        };
        assert_eq!(enough_side(&photos_of_40), 64);
        let huge = Facts {
            small: 0.5,
            median: 0.9,
            ..facts()
        };
        assert_eq!(enough_side(&huge), LEAST_SIDE);
    }

    #[test]
    fn with_much_time_the_input_is_twice_as_large_and_at_most_the_images_own() {
        let fast = StepCost {
            fixed: 0.0,
            per_pixel: 1e-7,
        };
        assert_eq!(plan(&facts(), &fast, 3_600.0).short_side, 448);
        let small = Facts {
            short_side: 300.0,
            ..facts()
        };
        assert_eq!(plan(&small, &fast, 3_600.0).short_side, 320);
    }

    #[test]
    fn training_is_as_long_as_the_data_is_worth_where_there_is_time_and_of_few_images_longer() {
        let fast = StepCost {
            fixed: 0.0,
            per_pixel: 1e-7,
        };
        let length = plan(&facts(), &fast, 3_600.0);
        assert_eq!((length.samples, length.is_short), (6_000, false));
        assert!(length.seconds < 300.0, "{length:?}");
        let thirteen = Facts {
            images: 13,
            ..facts()
        };
        assert_eq!(plan(&thirteen, &fast, 3_600.0).samples, 2_600);
        let thousands = Facts {
            images: 20_000,
            ..facts()
        };
        assert_eq!(plan(&thousands, &fast, 36_000.0).samples, 240_000);
    }

    #[test]
    fn with_little_time_the_input_becomes_smaller_before_training_becomes_too_short() {
        let slow = StepCost {
            fixed: 0.0,
            per_pixel: 6e-6,
        };
        let length = plan(&facts(), &slow, 1_800.0);
        assert!(
            length.short_side < 224 && length.samples >= 3_000,
            "{length:?}"
        );
        let length = plan(&facts(), &slow, 60.0);
        assert_eq!((length.short_side, length.is_short), (LEAST_SIDE, true));
    }

    proptest! {
        #[test]
        fn what_is_planned_fits_into_the_time(
            images in 1_usize..100_000,
            val_images in 0_usize..10_000,
            minutes in 1.0..600.0_f64,
            fixed in 0.0..0.1_f64,
            per_pixel in 1e-8..1e-5_f64,
            small in 0.0..0.5_f64,
        ) {
            let facts = Facts { images, val_images, small, ..facts() };
            let cost = StepCost { fixed, per_pixel };
            let length = plan(&facts, &cost, 60.0 * minutes);
            prop_assert!(length.samples >= 1 && length.evaluations >= 1);
            prop_assert!(length.samples as f64 <= longest(&facts));
            // One evaluation has to be.
            let step = cost.seconds(pixels(&facts, length.short_side));
            let least = step * (1.0 + EVALUATION_SHARE * val_images as f64);
            prop_assert!(length.seconds <= (60.0 * minutes).max(least * 1.001), "{length:?}");
        }
    }
}
