//! Sums over pixels, block by block, so that they do not depend on the number of threads; a block's
//! in f32, the blocks' in f64.

use rayon::prelude::*;

use super::vectorized;

/// Pixels of a block.
const BLOCK: usize = 64;

/// Channels whose sums stay in registers while pixels go by.
const STRIP: usize = 64;

/// The sum of every channel.
pub(crate) fn channel_sums(values: &[f32], channels: usize) -> Vec<f64> {
    paired_sums(values, values, &vec![0.0; channels], |value, _, _| value)
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
                    for (strip, sums) in sums.chunks_mut(STRIP).enumerate() {
                        strip_sums([values, weights], means, strip * STRIP, sums, &term);
                    }
                },
            );
            sums
        });
    total(blocks.collect(), channels)
}

/// The sums of neighbouring channels, the first of which is `first`.
#[inline(always)]
fn strip_sums(
    [values, weights]: [&[f32]; 2],
    means: &[f32],
    first: usize,
    sums: &mut [f32],
    term: &impl Fn(f32, f32, f32) -> f32,
) {
    let channels = means.len();
    let pixels = values
        .chunks_exact(channels)
        .zip(weights.chunks_exact(channels));
    let pixels = pixels.map(|(values, weights)| (&values[first..], &weights[first..]));
    let means = &means[first..];
    if let (Some(means), Some(sums)) = (means.first_chunk(), sums.first_chunk_mut()) {
        let mut in_registers: [f32; STRIP] = *sums;
        for (values, weights) in pixels {
            let (Some(values), Some(weights)) = (values.first_chunk(), weights.first_chunk())
            else {
                continue;
            };
            let (means, values, weights): (&[f32; STRIP], &[f32; STRIP], &[f32; STRIP]) =
                (means, values, weights);
            for channel in 0..STRIP {
                in_registers[channel] += term(values[channel], means[channel], weights[channel]);
            }
        }
        *sums = in_registers;
        return;
    }
    for (values, weights) in pixels {
        let terms = values.iter().zip(means).zip(weights);
        for (sum, ((value, mean), weight)) in sums.iter_mut().zip(terms) {
            *sum += term(*value, *mean, *weight);
        }
    }
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
