//! Images that show nearly the same: neighbouring frames of one video, the same photo exported twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::RgbImage;
use image::imageops::{FilterType, grayscale, resize, thumbnail};
use rayon::prelude::*;
use retinanet_data::CocoDataset;
use retinanet_images::decode_image;

/// The groups of images that look alike, by the images' ids: images that are alone in theirs are left out, as are those
/// that cannot be read.
///
/// Two images look alike if their difference hashes
/// ([Krawetz 2013](https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html), of 16 by 16 bits)
/// differ in less than a tenth; whoever looks like one of a group belongs to it. Of images in which little differs from
/// place to place, such as black ones, nothing is said.
///
/// `progress` is told how many images of how many are done, from any thread and not always in order.
pub fn near_copies(
    dataset: &CocoDataset,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> BTreeMap<u64, usize> {
    let total = dataset.images.len();
    let done = AtomicUsize::new(0);
    let hashes: Vec<(u64, Option<Hash>)> = (dataset.images.par_iter())
        .map(|record| {
            let image = decode_image(&record.path, dataset.decoding);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            (record.id.0, image.ok().and_then(|image| Hash::of(&image)))
        })
        .collect();
    let (ids, hashes): (Vec<u64>, Vec<Hash>) = (hashes.into_iter())
        .filter_map(|(id, hash)| Some((id, hash?)))
        .unzip();
    let roots = groups(&hashes);
    let mut sizes = HashMap::new();
    for root in &roots {
        *sizes.entry(*root).or_insert(0) += 1;
    }
    let grouped = ids.into_iter().zip(roots);
    grouped.filter(|(_, root)| sizes[root] > 1).collect()
}

/// Whether each pixel of the shrunk image is brighter than its left neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash([u64; 4]);

impl Hash {
    fn of(image: &RgbImage) -> Option<Self> {
        const SIDE: u32 = 16;
        let small = thumbnail(image, 4 * (SIDE + 1), 4 * SIDE);
        let grey = grayscale(&resize(&small, SIDE + 1, SIDE, FilterType::Triangle));
        let mut bits = [0; 4];
        let mut clear = 0;
        for (place, (x, y)) in (0..SIDE)
            .flat_map(|y| (0..SIDE).map(move |x| (x, y)))
            .enumerate()
        {
            let [left, right] = [x, x + 1].map(|x| grey.get_pixel(x, y).0[0]);
            clear += usize::from(left.abs_diff(right) > 1);
            if right > left {
                bits[place / 64] |= 1 << (place % 64);
            }
        }
        (clear >= LEAST_CLEAR).then_some(Self(bits))
    }

    fn distance(self, other: Self) -> u32 {
        let pairs = self.0.into_iter().zip(other.0);
        pairs.map(|(a, b)| (a ^ b).count_ones()).sum()
    }
}

/// For each hash the first of its group, by union of all pairs that look alike.
fn groups(hashes: &[Hash]) -> Vec<usize> {
    let pairs: Vec<(usize, usize)> = (0..hashes.len())
        .into_par_iter()
        .flat_map_iter(|first| {
            let later = first + 1..hashes.len();
            let alike = later
                .filter(move |second| hashes[first].distance(hashes[*second]) <= MOST_DIFFERENT);
            alike.map(move |second| (first, second))
        })
        .collect();
    let mut parents: Vec<usize> = (0..hashes.len()).collect();
    for (first, second) in pairs {
        let (first, second) = (root(&mut parents, first), root(&mut parents, second));
        parents[first.max(second)] = first.min(second);
    }
    (0..hashes.len())
        .map(|place| root(&mut parents, place))
        .collect()
}

fn root(parents: &mut [usize], mut place: usize) -> usize {
    while parents[place] != place {
        parents[place] = parents[parents[place]];
        place = parents[place];
    }
    place
}

/// Of 256 bits.
const MOST_DIFFERENT: u32 = 25;

/// Pairs of neighbours, of 256, that differ by more than rounding: with fewer, noise decides.
const LEAST_CLEAR: usize = 64;

#[cfg(test)]
mod tests {
    use image::Rgb;
    use image::imageops::{blur, flip_horizontal};

    use super::*;

    fn hills(phase: f32) -> RgbImage {
        RgbImage::from_fn(200, 150, |x, y| {
            let (x, y) = (x as f32, y as f32);
            let value = (0.05 * x + phase).sin() * (0.07 * y - 2.0 * phase).cos()
                + (0.021 * x * phase).sin();
            Rgb([(127.0 + 60.0 * value) as u8; 3])
        })
    }

    #[test]
    fn small_changes_leave_an_image_alike_and_another_scene_does_not() {
        let hash = |image: &RgbImage| Hash::of(image).unwrap();
        let first = hash(&hills(1.0));
        let brighter = RgbImage::from_fn(200, 150, |x, y| {
            Rgb(hills(1.0).get_pixel(x, y).0.map(|it| it.saturating_add(20)))
        });
        let smaller = resize(&hills(1.0), 100, 75, FilterType::Triangle);
        for alike in [&brighter, &smaller, &blur(&hills(1.0), 1.5)] {
            let distance = first.distance(hash(alike));
            assert!(distance <= MOST_DIFFERENT, "{distance}");
        }
        for other in [&hills(2.3), &flip_horizontal(&hills(1.0))] {
            let distance = first.distance(hash(other));
            assert!(distance > 2 * MOST_DIFFERENT, "{distance}");
        }
    }

    #[test]
    fn nothing_is_said_of_an_even_image() {
        assert_eq!(Hash::of(&RgbImage::new(64, 64)), None);
    }

    #[test]
    fn whoever_looks_like_one_of_a_group_belongs_to_it() {
        let bits = |count: u32| Hash([(1_u64 << count) - 1, 0, 0, 0]);
        let far = Hash([0, u64::MAX, 0, 0]);
        // 0 and 40 bits differ by too many, but 20 is near both.
        assert_eq!(groups(&[bits(0), bits(40), far, bits(20)]), [0, 0, 2, 0]);
        assert_eq!(groups(&[bits(0), bits(40), far]), [0, 1, 2]);
    }
}
