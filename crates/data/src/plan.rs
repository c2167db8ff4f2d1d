//! Which samples make which batch.

use std::ops::Range;
use std::{iter, mem};

use rand::seq::SliceRandom;

use crate::random::epoch_rng;
use crate::sampling::{Repeats, repeat_factors};
use crate::{Batching, CocoDataset, ImageRecord, LoaderConfig};

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
    /// How many times the image came before in this epoch, which varies the sample too.
    pub(crate) repeat: u32,
}

/// The part of each batch that one of several processes takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// Which process, from 0.
    pub(crate) rank: usize,
    /// Of how many.
    pub(crate) of: usize,
}

impl Shard {
    /// All of it.
    pub(crate) const WHOLE: Self = Self { rank: 0, of: 1 };

    /// Its part of a batch; no process has more than one sample more than another.
    fn of<'a, T>(&self, samples: &'a [T]) -> &'a [T] {
        piece(samples, self.rank, self.of)
    }
}

/// A piece of a slice that is cut into `of` of them as evenly as can be.
fn piece<T>(all: &[T], place: usize, of: usize) -> &[T] {
    let start = |place: usize| place * all.len() / of;
    &all[start(place)..start(place + 1)]
}

/// Which samples make which batch in training.
#[derive(Clone, Debug)]
pub(crate) struct TrainingPlan {
    images: usize,
    batch_size: usize,
    /// Whose samples of each batch these are.
    shard: Shard,
    /// Into how many micro-batches they are divided, of which none is larger than another by more than one.
    micro_batches: usize,
    seed: u64,
    /// How often each image comes in an epoch; once where there is nothing.
    repeats: Option<Repeats>,
    /// Whether each image is wider than high, where that may not differ within a batch.
    wide: Option<Vec<bool>>,
}

impl TrainingPlan {
    /// Takes settings that are in their ranges and a data set with images.
    pub(crate) fn new(dataset: &CocoDataset, config: &LoaderConfig, batching: Batching) -> Self {
        let wide = || dataset.images.iter().map(ImageRecord::is_wide);
        Self {
            images: dataset.images.len(),
            batch_size: batching.batch_size.as_usize(),
            shard: Shard::WHOLE,
            micro_batches: batching.micro_batches.as_usize(),
            seed: batching.seed,
            repeats: (config.repeat_threshold)
                .map(|threshold| Repeats::new(&repeat_factors(dataset, threshold.get()))),
            wide: config.group_by_aspect.then(|| wide().collect()),
        }
    }

    /// The same for one of several processes.
    pub(crate) fn with_shard(self, shard: Shard) -> Self {
        Self { shard, ..self }
    }

    /// How many samples an epoch has, repeats included; the same for all epochs.
    pub(crate) fn samples_per_epoch(&self) -> u64 {
        match &self.repeats {
            Some(repeats) => repeats.samples_per_epoch(),
            None => self.images as u64,
        }
    }

    /// The batches of these iterations, or the shard of each, micro-batch after micro-batch.
    pub(crate) fn jobs(
        &self,
        iterations: Range<u64>,
    ) -> impl Iterator<Item = Job> + Send + 'static + use<> {
        let batch_size = self.batch_size;
        let (first_sample, batches_before) = match self.wide {
            None => (iterations.start.saturating_mul(batch_size as u64), 0),
            // Which samples wait for their batch follows from all that came before.
            Some(_) => (0, iterations.start as usize),
        };
        let samples = self.clone().samples(first_sample);
        let batches = batches(samples, batch_size, self.wide.clone()).skip(batches_before);
        let (shard, micro_batches) = (self.shard, self.micro_batches);
        iterations.zip(batches).flat_map(move |(number, samples)| {
            let samples = shard.of(&samples);
            let micro_batches = (0..micro_batches).map(|micro_batch| Job {
                number,
                samples: piece(samples, micro_batch, micro_batches).to_vec(),
            });
            micro_batches.collect::<Vec<_>>()
        })
    }

    /// Shuffled epochs, one after another without a seam, from a sample on.
    fn samples(self, first: u64) -> impl Iterator<Item = SampleKey> + Send {
        let per_epoch = self.samples_per_epoch();
        (first / per_epoch..)
            .flat_map(move |epoch| self.epoch(epoch))
            .skip((first % per_epoch) as usize)
    }

    fn epoch(&self, epoch: u64) -> impl Iterator<Item = SampleKey> + Send + use<> {
        let mut repeats = vec![0; self.images];
        self.order(epoch).into_iter().map(move |index| {
            let index = index as usize;
            let repeat = repeats[index];
            repeats[index] += 1;
            SampleKey {
                index,
                epoch: Some(epoch),
                repeat,
            }
        })
    }

    /// The order of the images in one epoch, repeats included.
    fn order(&self, epoch: u64) -> Vec<u32> {
        let mut rng = epoch_rng(self.seed, epoch);
        let mut order: Vec<u32> = (0..self.images as u32).collect();
        order.shuffle(&mut rng);
        if let Some(repeats) = &self.repeats {
            order = repeats.sample(&order, &mut rng);
            order.shuffle(&mut rng);
        }
        order
    }
}

/// Full batches, in the order in which their last samples come; with `wide` each of wide images
/// only or of others only, as from detectron2's `AspectRatioGroupedDataset`.
fn batches(
    samples: impl Iterator<Item = SampleKey> + Send,
    batch_size: usize,
    wide: Option<Vec<bool>>,
) -> impl Iterator<Item = Vec<SampleKey>> + Send {
    let mut waiting = [Vec::new(), Vec::new()];
    samples.filter_map(move |sample| {
        let group = wide.as_ref().is_some_and(|wide| wide[sample.index]);
        let group = &mut waiting[usize::from(group)];
        group.push(sample);
        (group.len() == batch_size).then(|| mem::take(group))
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
            .map(|index| SampleKey {
                index,
                epoch: None,
                repeat: 0,
            })
            .collect();
        (!samples.is_empty()).then_some(samples)
    });
    (0..)
        .zip(batches)
        .map(|(number, samples)| Job { number, samples })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(images: usize, batch_size: usize, seed: u64) -> TrainingPlan {
        TrainingPlan {
            images,
            batch_size,
            shard: Shard::WHOLE,
            micro_batches: 1,
            seed,
            repeats: None,
            wide: None,
        }
    }

    /// Plans with or without repeats and groups.
    fn plans() -> impl Strategy<Value = TrainingPlan> {
        let images = prop::collection::vec((1.0..4.0, any::<bool>()), 1..30);
        (images, 1_usize..20, any::<[bool; 2]>()).prop_map(
            |(images, batch_size, [repeat, group])| {
                let (factors, wide): (Vec<f64>, Vec<bool>) = images.into_iter().unzip();
                TrainingPlan {
                    repeats: repeat.then(|| Repeats::new(&factors)),
                    wide: group.then_some(wide),
                    ..plan(factors.len(), batch_size, 7)
                }
            },
        )
    }

    fn keys(jobs: impl Iterator<Item = Job>) -> Vec<SampleKey> {
        jobs.flat_map(|job| job.samples).collect()
    }

    #[test]
    fn the_parts_of_a_batch_are_the_batch() {
        let mut whole = plan(11, 6, 3);
        whole.wide = Some((0..11).map(|image| image % 3 == 0).collect());
        let micro_batches = TrainingPlan {
            micro_batches: 3,
            ..whole.clone()
        };
        let whole: Vec<Job> = whole.jobs(2..9).collect();
        let micro_batches: Vec<Job> = micro_batches.jobs(2..9).collect();
        assert_eq!(micro_batches.len(), 3 * whole.len());
        for (whole, micro_batches) in whole.iter().zip(micro_batches.chunks(3)) {
            let samples: Vec<_> = micro_batches
                .iter()
                .flat_map(|micro_batch| micro_batch.samples.clone())
                .collect();
            assert_eq!(samples, whole.samples);
            assert!(
                micro_batches
                    .iter()
                    .all(|micro_batch| micro_batch.number == whole.number
                        && micro_batch.samples.len() == 2)
            );
        }
    }

    proptest! {
        /// With any number of processes: each sample of the batches alone is in exactly one shard,
        /// and all have as many micro-batches.
        #[test]
        fn shares_are_the_batch_between_them(
            plan in plans(),
            of in 1_usize..6,
            micro_batches in 1_usize..4,
            start in 0_u64..5,
        ) {
            let whole: Vec<_> = plan.jobs(start..start + 6).collect();
            let mut shards = vec![Vec::new(); whole.len()];
            for rank in 0..of {
                let mut sharded = plan.clone().with_shard(Shard { rank, of });
                sharded.micro_batches = micro_batches;
                let jobs: Vec<_> = sharded.jobs(start..start + 6).collect();
                prop_assert_eq!(jobs.len(), micro_batches * whole.len());
                for (place, jobs) in jobs.chunks(micro_batches).enumerate() {
                    prop_assert!(jobs.iter().all(|job| job.number == whole[place].number));
                    let samples = keys(jobs.iter().cloned());
                    let even = plan.batch_size / of;
                    prop_assert!((even..=even + 1).contains(&samples.len()));
                    shards[place].extend(samples);
                }
            }
            for (whole, shards) in whole.iter().zip(shards) {
                prop_assert_eq!(&whole.samples, &shards);
            }
        }

        #[test]
        fn every_epoch_visits_every_image_once(
            images in 1_usize..40,
            batch_size in 1_usize..60,
            seed: u64,
        ) {
            let iterations = (3 * images).div_ceil(batch_size) as u64;
            let keys = keys(plan(images, batch_size, seed).jobs(0..iterations));
            prop_assert_eq!(keys.len(), iterations as usize * batch_size);
            for (epoch, keys) in keys.chunks_exact(images).enumerate() {
                let mut indices: Vec<_> = keys.iter().map(|key| key.index).collect();
                indices.sort_unstable();
                prop_assert_eq!(indices, (0..images).collect::<Vec<_>>());
                prop_assert!(keys.iter().all(|key| key.epoch == Some(epoch as u64)));
                prop_assert!(keys.iter().all(|key| key.repeat == 0));
            }
        }

        #[test]
        fn repeats_in_an_epoch_are_numbered(plan in plans()) {
            let length = plan.samples_per_epoch() as usize;
            let stream: Vec<_> = plan.clone().samples(0).take(3 * length).collect();
            for (epoch, keys) in stream.chunks_exact(length).enumerate() {
                prop_assert!(keys.iter().all(|key| key.epoch == Some(epoch as u64)));
                for image in 0..plan.images {
                    let repeats: Vec<_> = (keys.iter())
                        .filter(|key| key.index == image)
                        .map(|key| key.repeat)
                        .collect();
                    prop_assert!(!repeats.is_empty());
                    prop_assert_eq!(&repeats, &(0..repeats.len() as u32).collect::<Vec<_>>());
                }
            }
        }

        #[test]
        fn starting_late_gives_the_tail(plan in plans(), start in 0_u64..12) {
            let all: Vec<_> = plan.jobs(0..12).collect();
            prop_assert!(all.iter().map(|job| job.number).eq(0..12));
            let tail: Vec<_> = plan.jobs(start..12).collect();
            prop_assert_eq!(&all[start as usize..], tail.as_slice());
        }

        /// Every sample comes, and in its turn within its group; only what does not fill a batch
        /// waits.
        #[test]
        fn batches_take_the_stream_group_by_group(plan in plans(), iterations in 0_u64..20) {
            let wide = |key: &SampleKey| plan.wide.as_ref().is_some_and(|wide| wide[key.index]);
            let jobs: Vec<_> = plan.jobs(0..iterations).collect();
            for job in &jobs {
                prop_assert_eq!(job.samples.len(), plan.batch_size);
                prop_assert!(job.samples.iter().all(|key| wide(key) == wide(&job.samples[0])));
            }
            let last = jobs.last().map(|job| job.samples[plan.batch_size - 1]);
            let stream: Vec<_> = plan.clone().samples(0).take(1000).collect();
            let seen = stream.iter().position(|key| Some(*key) == last).map_or(0, |at| at + 1);
            for group in [false, true] {
                let streamed = stream[..seen].iter().copied().filter(|key| wide(key) == group);
                let streamed: Vec<_> = streamed.collect();
                let batched = keys(jobs.iter().cloned()).into_iter();
                let batched: Vec<_> = batched.filter(|key| wide(key) == group).collect();
                let waiting = streamed.len() - batched.len();
                prop_assert!(waiting < plan.batch_size);
                prop_assert_eq!(&streamed[..batched.len()], batched.as_slice());
            }
        }

        #[test]
        fn images_of_one_group_come_as_without_groups(plan in plans(), group: bool) {
            let ungrouped = TrainingPlan { wide: None, ..plan.clone() };
            let grouped = TrainingPlan { wide: Some(vec![group; plan.images]), ..plan };
            prop_assert!(grouped.jobs(3..12).eq(ungrouped.jobs(3..12)));
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
        let repeats = Some(Repeats::new(&[1.5; 50]));
        for repeats in [None, repeats] {
            let order = |seed, epoch| {
                let repeats = repeats.clone();
                TrainingPlan {
                    repeats,
                    ..plan(50, 1, seed)
                }
                .order(epoch)
            };
            assert_eq!(order(0, 0), order(0, 0));
            assert_ne!(order(0, 0), order(0, 1));
            assert_ne!(order(0, 0), order(1, 0));
        }
    }

    /// Stored results were trained in these orders.
    #[test]
    fn orders_without_repeats_stay_as_they_are() {
        assert_eq!(plan(8, 1, 1).order(2), [6, 0, 7, 1, 3, 5, 2, 4]);
        assert_eq!(plan(10, 1, 7).order(0), [9, 6, 0, 3, 8, 7, 5, 4, 2, 1]);
        let keys = keys(plan(5, 3, 9).jobs(3..6));
        let keys: Vec<_> = (keys.iter())
            .map(|key| (key.epoch.unwrap_or(0), key.index))
            .collect();
        let (end, epoch, next) = ([(1, 1)], [4, 0, 1, 3, 2], [0, 3, 1]);
        let epoch = epoch.map(|index| (2, index));
        let next = next.map(|index| (3, index));
        assert_eq!(keys, [&end[..], &epoch, &next].concat());
    }
}
