//! Randomness as a function of (seed, epoch, sample), so that it depends on neither threads nor
//! what was sampled before.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What varies one sample in one epoch: the image at `index` when it comes for the first time
/// (`repeat` 0), for the second time (1), and so on.
pub(crate) fn sample_rng(seed: u64, epoch: u64, index: usize, repeat: u32) -> ChaCha8Rng {
    // Orders write an index with 32 bits too.
    rng(seed, epoch, u64::from(repeat) << 32 | index as u64)
}

/// What shuffles one epoch.
pub(crate) fn epoch_rng(seed: u64, epoch: u64) -> ChaCha8Rng {
    // No sample has this index and this repeat.
    rng(seed, epoch, u64::MAX)
}

fn rng(seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(mix(mix(mix(seed) ^ epoch) ^ index))
}

/// One step of [SplitMix64](https://prng.di.unimi.it/splitmix64.c): neighbouring numbers become
/// unrelated ones, and no two numbers become one.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    /// The first outputs of `splitmix64.c` started at 0.
    #[test]
    fn mixing_is_splitmix64() {
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(0x9E37_79B9_7F4A_7C15), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn seed_epoch_index_and_repeat_all_count() {
        let draw = |mut rng: ChaCha8Rng| rng.random::<u64>();
        let first = draw(sample_rng(1, 2, 3, 4));
        assert_eq!(first, draw(sample_rng(1, 2, 3, 4)));
        for other in [
            sample_rng(2, 1, 3, 4),
            sample_rng(1, 3, 2, 4),
            sample_rng(3, 2, 1, 4),
            sample_rng(1, 2, 4, 3),
            sample_rng(1, 2, 3, 0),
        ] {
            assert_ne!(first, draw(other));
        }
    }

    /// Stored results were trained with these numbers.
    #[test]
    fn samples_without_repeats_stay_as_they_are() {
        let number: u64 = sample_rng(1, 2, 3, 0).random();
        assert_eq!(number, 0x3511_AC0F_726E_8CC6);
    }
}
