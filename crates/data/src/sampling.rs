//! Repeat-factor sampling: images of rare classes come more often.

use std::collections::{HashMap, HashSet};

use rand::{Rng, RngExt};
use retinanet_boxes::ClassId;

use crate::{CocoDataset, ImageRecord};

/// How often each image should come in an epoch, at least 1, by the rarest class on it.
///
/// With `f` the share of the images that a class is on, the class asks for
/// `max(1, sqrt(threshold / f))`, and an image does what the most demanding of its classes asks
/// for; an image without objects comes once. Crowds count as nothing.
///
/// Source: [Gupta et al. 2019](https://arxiv.org/abs/1908.03195), appendix B.2; detectron2's
/// `RepeatFactorTrainingSampler.repeat_factors_from_category_frequency`.
pub(crate) fn repeat_factors(dataset: &CocoDataset, threshold: f64) -> Vec<f64> {
    let mut images_with: HashMap<ClassId, usize> = HashMap::new();
    for class in dataset.images.iter().flat_map(classes) {
        *images_with.entry(class).or_default() += 1;
    }
    let images = dataset.images.len() as f64;
    let factors: HashMap<ClassId, f64> = (images_with.into_iter())
        .map(|(class, with)| (class, (threshold / (with as f64 / images)).sqrt()))
        .collect();
    (dataset.images.iter())
        .map(|image| {
            (classes(image).iter())
                .filter_map(|class| factors.get(class).copied())
                .fold(1.0, f64::max)
        })
        .collect()
}

/// Draws how often each image comes in an epoch, so that all epochs are of one length.
#[derive(Clone, Debug)]
pub(crate) struct Repeats {
    /// The factors in units of 2⁻³², since sums of whole numbers know no rounding.
    factors: Vec<u64>,
    sum: u128,
}

impl Repeats {
    const ONE: u64 = 1 << 32;

    /// Takes a factor for each image, at least 1.
    pub(crate) fn new(factors: &[f64]) -> Self {
        let factors: Vec<u64> = (factors.iter())
            .map(|factor| (factor * Self::ONE as f64).round() as u64)
            .collect();
        Self {
            sum: factors.iter().copied().map(u128::from).sum(),
            factors,
        }
    }

    /// The sum of the factors, rounded up.
    pub(crate) fn samples_per_epoch(&self) -> u64 {
        self.sum.div_ceil(Self::ONE.into()) as u64
    }

    /// The samples of one epoch: the images in their order, each as often as it comes.
    ///
    /// By systematic sampling, which spaces the samples evenly, from a random offset, over the
    /// factors laid end to end. So with the factors scaled up to add up to the length of an epoch,
    /// an image comes as often as its factor says, rounded down or up, and on average exactly so.
    /// Neighbours in `order` are rounded with regard to each other, so the order should be random.
    pub(crate) fn sample(&self, order: &[u32], rng: &mut impl Rng) -> Vec<u32> {
        let length = u128::from(self.samples_per_epoch());
        // In units of 1 / length: one sample to every `sum`.
        let offset = rng.random_range(0..self.sum);
        let mut end = 0;
        let mut samples = Vec::with_capacity(length as usize);
        for &image in order {
            end += u128::from(self.factors[image as usize]) * length;
            let samples_before_end = (end - offset).div_ceil(self.sum);
            samples.resize(samples_before_end as usize, image);
        }
        samples
    }
}

/// The classes on an image.
fn classes(image: &ImageRecord) -> HashSet<ClassId> {
    (image.objects.iter())
        .filter(|object| !object.crowd)
        .map(|object| object.class)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::seq::SliceRandom;
    use rand_chacha::ChaCha8Rng;
    use retinanet_boxes::{BoundingBox, ClassList, GroundTruth, ImageId};
    use retinanet_images::Decoding;

    use super::*;

    /// A data set with these objects, each a class and whether it is a crowd.
    fn dataset(images: &[&[(u32, bool)]]) -> CocoDataset {
        let object = |&(class, crowd): &(u32, bool)| GroundTruth {
            bbox: BoundingBox::from_xywh([1.0, 1.0, 2.0, 2.0]),
            class: ClassId(class),
            crowd,
        };
        let images = (images.iter().zip(0..))
            .map(|(objects, id)| ImageRecord {
                id: ImageId(id),
                file_name: String::new(),
                path: PathBuf::new(),
                width: 8,
                height: 8,
                objects: objects.iter().map(object).collect(),
                outlines: Vec::new(),
            })
            .collect();
        CocoDataset {
            decoding: Decoding::default(),
            is_annotated: true,
            annotations: PathBuf::new(),
            images_root: PathBuf::new(),
            classes: ClassList::new(Vec::new()).expect("no class occurs twice"),
            images,
            dropped: Vec::new(),
        }
    }

    #[test]
    fn factors_are_those_worked_by_hand() {
        let dataset = dataset(&[
            &[(0, false)],
            &[(0, false), (0, false), (1, false)],
            &[(1, false), (2, false), (0, false)],
            &[(0, false), (2, true)],
            &[],
            &[(3, true)],
            &[(0, false)],
            &[(0, false)],
        ]);
        // Class 0 is on 6 of 8 images, class 1 on 2, class 2 on 1.
        let root = 2_f64.sqrt();
        let expected = [1.0, root, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(repeat_factors(&dataset, 0.5), expected);
        let root = (1.0 / 0.75_f64).sqrt();
        let expected = [root, 2.0, 8_f64.sqrt(), root, 1.0, 1.0, root, root];
        assert_eq!(repeat_factors(&dataset, 1.0), expected);
        assert_eq!(repeat_factors(&dataset, 0.125), [1.0; 8]);
    }

    fn order(images: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let mut order: Vec<u32> = (0..images as u32).collect();
        order.shuffle(rng);
        order
    }

    fn counts(images: usize, samples: &[u32]) -> Vec<u32> {
        let mut counts = vec![0; images];
        for &image in samples {
            counts[image as usize] += 1;
        }
        counts
    }

    proptest! {
        #[test]
        fn every_epoch_is_of_one_length_and_rounds_each_factor(
            factors in prop::collection::vec(
                prop_oneof![Just(1.0), 1.0..1.001, 1.0..100.0, (1..100).prop_map(f64::from)],
                1..200,
            ),
            seed: u64,
        ) {
            let repeats = Repeats::new(&factors);
            let length = repeats.samples_per_epoch();
            let sum: f64 = factors.iter().sum();
            // Each factor was rounded to 2⁻³², so 200 of them are less than 1e-7 off.
            prop_assert!((-1e-7..1.0 + 1e-7).contains(&(length as f64 - sum)));

            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let order = order(factors.len(), &mut rng);
            let samples = repeats.sample(&order, &mut rng);
            prop_assert_eq!(samples.len() as u64, length);
            for (count, factor) in counts(factors.len(), &samples).into_iter().zip(factors) {
                let scaled = factor * length as f64 / sum;
                prop_assert!(count >= 1);
                prop_assert!(f64::from(count) >= (scaled - 1e-6).floor());
                prop_assert!(f64::from(count) <= (scaled + 1e-6).ceil());
            }
        }
    }

    #[test]
    fn whole_factors_leave_nothing_to_chance() {
        let repeats = Repeats::new(&[1.0, 3.0, 2.0, 1.0]);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for _ in 0..100 {
            assert_eq!(
                repeats.sample(&[2, 0, 1, 3], &mut rng),
                [2, 2, 0, 1, 1, 1, 3]
            );
        }
    }

    /// A count is one of two neighbouring whole numbers, so its variance is at most 1/4 and the
    /// standard deviation of the mean over 10 000 epochs at most 0.005; 0.025 are five of them.
    #[test]
    fn images_come_as_often_as_their_factors_say_on_average() {
        let factors = [1.0, 1.1, 1.5, 1.9, 2.3, 7.25, 31.6];
        let repeats = Repeats::new(&factors);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let (epochs, mut totals) = (10_000, [0; 7]);
        for _ in 0..epochs {
            let order = order(factors.len(), &mut rng);
            let counts = counts(factors.len(), &repeats.sample(&order, &mut rng));
            totals
                .iter_mut()
                .zip(counts)
                .for_each(|(total, count)| *total += count);
        }
        let scale = repeats.samples_per_epoch() as f64 / factors.iter().sum::<f64>();
        for (factor, total) in factors.into_iter().zip(totals) {
            let mean = f64::from(total) / f64::from(epochs);
            assert!((mean - factor * scale).abs() < 0.025, "{mean} for {factor}");
        }
    }
}
