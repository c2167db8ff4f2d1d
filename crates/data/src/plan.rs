//! Which samples make which batch.

use std::iter;
use std::ops::Range;

use rand::seq::SliceRandom;

use crate::random::epoch_rng;

/// The samples of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// In training the iteration.
    pub(crate) number: u64,
    pub(crate) samples: Vec<SampleKey>,
}

/// One sample of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SampleKey {
    /// The image's place in the data set.
    pub(crate) index: usize,
    /// The epoch, which varies the sample; none outside training.
    pub(crate) epoch: Option<u64>,
}

/// Shuffled epochs, one after another without a seam: a batch may take the end of one and the
/// beginning of the next, as detectron2's `TrainingSampler` does, so that all are full.
pub(crate) fn training_jobs(
    images: usize,
    batch_size: usize,
    seed: u64,
    iterations: Range<u64>,
) -> impl Iterator<Item = Job> + Send {
    let (images, batch_size) = (images as u64, batch_size as u64);
    let mut shuffled = (0, order(images, seed, 0));
    iterations.map(move |number| {
        let first = number * batch_size;
        let samples = (first..first + batch_size)
            .map(|position| {
                let epoch = position / images;
                if shuffled.0 != epoch {
                    shuffled = (epoch, order(images, seed, epoch));
                }
                SampleKey {
                    index: shuffled.1[(position % images) as usize] as usize,
                    epoch: Some(epoch),
                }
            })
            .collect();
        Job { number, samples }
    })
}

/// Every image once, in order; the last batch may be smaller.
pub(crate) fn evaluation_jobs(
    images: usize,
    batch_size: usize,
) -> impl Iterator<Item = Job> + Send {
    let mut indices = 0..images;
    let batches = iter::from_fn(move || {
        let samples: Vec<_> = (indices.by_ref().take(batch_size))
            .map(|index| SampleKey { index, epoch: None })
            .collect();
        (!samples.is_empty()).then_some(samples)
    });
    (0..)
        .zip(batches)
        .map(|(number, samples)| Job { number, samples })
}

/// The order of the images in one epoch.
fn order(images: u64, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..images as u32).collect();
    order.shuffle(&mut epoch_rng(seed, epoch));
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(jobs: impl Iterator<Item = Job>) -> Vec<SampleKey> {
        jobs.flat_map(|job| job.samples).collect()
    }

    proptest! {
        #[test]
        fn every_epoch_visits_every_image_once(
            images in 1_usize..40,
            batch_size in 1_usize..60,
            seed: u64,
        ) {
            let iterations = (3 * images).div_ceil(batch_size) as u64;
            let keys = keys(training_jobs(images, batch_size, seed, 0..iterations));
            prop_assert_eq!(keys.len(), iterations as usize * batch_size);
            for (epoch, keys) in keys.chunks_exact(images).enumerate() {
                let mut indices: Vec<_> = keys.iter().map(|key| key.index).collect();
                indices.sort_unstable();
                prop_assert_eq!(indices, (0..images).collect::<Vec<_>>());
                prop_assert!(keys.iter().all(|key| key.epoch == Some(epoch as u64)));
            }
        }

        #[test]
        fn starting_late_gives_the_tail(
            images in 1_usize..20,
            batch_size in 1_usize..30,
            start in 0_u64..10,
        ) {
            let all: Vec<_> = training_jobs(images, batch_size, 7, 0..12).collect();
            let tail: Vec<_> = training_jobs(images, batch_size, 7, start..12).collect();
            prop_assert_eq!(&all[start as usize..], tail.as_slice());
        }

        #[test]
        fn evaluation_visits_every_image_in_order(images in 0_usize..40, batch_size in 1_usize..60) {
            let jobs: Vec<_> = evaluation_jobs(images, batch_size).collect();
            prop_assert_eq!(jobs.len(), images.div_ceil(batch_size));
            let keys = keys(jobs.into_iter());
            let indices: Vec<_> = keys.iter().map(|key| key.index).collect();
            prop_assert_eq!(indices, (0..images).collect::<Vec<_>>());
            prop_assert!(keys.iter().all(|key| key.epoch.is_none()));
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let first = order(50, 0, 0);
        assert_ne!(first, order(50, 0, 1));
        assert_ne!(first, order(50, 1, 0));
    }
}
