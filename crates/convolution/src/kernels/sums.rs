//! Sums over pixels, block by block, so that they do not depend on the number of threads; a block's
//! in f32, the blocks' in f64.

use rayon::prelude::*;

use super::vectorized;

/// Pixels of a block.
const BLOCK: usize = 64;

/// The sum of every channel.
pub(crate) fn channel_sums(values: &[f32], channels: usize) -> Vec<f64> {
    let blocks = values.par_chunks(BLOCK * channels).map(|block| {
        let mut sums = vec![0.0; channels];
        vectorized(
            #[inline(always)]
            || {
                for pixel in block.chunks_exact(channels) {
                    for channel in 0..channels {
                        sums[channel] += pixel[channel];
                    }
                }
            },
        );
        sums
    });
    total(blocks.collect(), channels)
}

/// The sum of every channel's squared distance from its mean.
pub(crate) fn squared_distances(values: &[f32], means: &[f32]) -> Vec<f64> {
    paired_sums(values, values, means, |value, mean, _| {
        (value - mean) * (value - mean)
    })
}

/// The sum of `weight * (value - mean)` of every channel.
pub(crate) fn weighted_distances(values: &[f32], weights: &[f32], means: &[f32]) -> Vec<f64> {
    paired_sums(values, weights, means, |value, mean, weight| {
        weight * (value - mean)
    })
}

fn paired_sums(
    values: &[f32],
    weights: &[f32],
    means: &[f32],
    term: impl Fn(f32, f32, f32) -> f32 + Sync,
) -> Vec<f64> {
    let channels = means.len();
    let blocks = values
        .par_chunks(BLOCK * channels)
        .zip(weights.par_chunks(BLOCK * channels))
        .map(|(values, weights)| {
            let mut sums = vec![0.0; channels];
            vectorized(
                #[inline(always)]
                || {
                    let pixels = values
                        .chunks_exact(channels)
                        .zip(weights.chunks_exact(channels));
                    for (values, weights) in pixels {
                        for channel in 0..channels {
                            sums[channel] +=
                                term(values[channel], means[channel], weights[channel]);
                        }
                    }
                },
            );
            sums
        });
    total(blocks.collect(), channels)
}

fn total(blocks: Vec<Vec<f32>>, channels: usize) -> Vec<f64> {
    let mut totals = vec![0.0; channels];
    for block in blocks {
        for (total, sum) in totals.iter_mut().zip(block) {
            *total += f64::from(sum);
        }
    }
    totals
}
