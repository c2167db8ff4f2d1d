//! Normalisation over groups of channels: batch norm (every channel a group, all maps together) and
//! group norm (each map apart).

use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::Epilogue;
use super::sums::{channel_sums, squared_distances, weighted_distances};
use super::{memory, vectorized};
use crate::synchronised::sum_over_processes;

/// Over what statistics are taken.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    /// Pixels that share statistics.
    pub(crate) segments: Vec<Range<usize>>,
    /// Groups of channels in each.
    pub(crate) count: usize,
    pub(crate) channels: usize,
    /// Values that share statistics over all processes, where those of several do; then every channel is a group.
    pub(crate) of_all_processes: Option<f64>,
}

/// Mean and variance (over n, not n - 1) of every group of every segment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) mean: Vec<f32>,
    pub(crate) variance: Vec<f32>,
}

/// The gradients of a normalisation.
pub(crate) struct NormGradients {
    pub(crate) input: Vec<f32>,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// Pixels that a thread takes at once.
const BLOCK: usize = 64;

impl Groups {
    fn group_of(&self, segment: usize, channel: usize) -> usize {
        segment * self.count + channel / (self.channels / self.count)
    }

    /// Values that share statistics in a segment.
    pub(crate) fn values(&self, segment: usize) -> f64 {
        self.of_all_processes
            .unwrap_or_else(|| (self.segments[segment].len() * self.channels / self.count) as f64)
    }

    /// Adds those of the other processes to sums of channels, where they share statistics.
    fn over_processes(&self, sums: &mut [f64]) {
        if self.of_all_processes.is_some() {
            sum_over_processes(sums);
        }
    }

    /// Takes the statistics, in two passes: squares of values far from 0 would cancel.
    pub(crate) fn moments(&self, input: &[f32]) -> Moments {
        let mean =
            self.means(|segment| channel_sums(self.of_segment(input, segment), self.channels));
        let variance = self.means(|segment| {
            let means = self.per_channel(&mean, segment);
            squared_distances(self.of_segment(input, segment), &means)
        });
        Moments { mean, variance }
    }

    fn means(&self, sums_of: impl Fn(usize) -> Vec<f64>) -> Vec<f32> {
        let mut totals = vec![0.0; self.segments.len() * self.count];
        for segment in 0..self.segments.len() {
            let mut sums = sums_of(segment);
            self.over_processes(&mut sums);
            for (channel, sum) in sums.into_iter().enumerate() {
                totals[self.group_of(segment, channel)] += sum / self.values(segment);
            }
        }
        totals.into_iter().map(|total| total as f32).collect()
    }

    fn of_segment<'a>(&self, values: &'a [f32], segment: usize) -> &'a [f32] {
        let Range { start, end } = self.segments[segment];
        &values[start * self.channels..end * self.channels]
    }

    fn per_channel(&self, of_groups: &[f32], segment: usize) -> Vec<f32> {
        (0..self.channels)
            .map(|channel| of_groups[self.group_of(segment, channel)])
            .collect()
    }

    /// `relu((x - mean) / sqrt(variance + epsilon) * gamma + beta + residual)`
    pub(crate) fn normalize(
        &self,
        input: &[f32],
        moments: &Moments,
        epsilon: f32,
        [gamma, beta]: [&[f32]; 2],
        end: Epilogue<'_>,
    ) -> Vec<f32> {
        let mut output = memory::zeros(input.len());
        for (segment, pixels) in self.segments.iter().enumerate() {
            let mean = self.per_channel(&moments.mean, segment);
            let deviation = self.per_channel(&inverse_deviations(moments, epsilon), segment);
            let scale: Vec<f32> = gamma.iter().zip(&deviation).map(|(g, d)| g * d).collect();
            let centers = mean.iter().zip(&scale).map(|(mean, scale)| mean * scale);
            let bias: Vec<f32> = beta.iter().zip(centers).map(|(beta, c)| beta - c).collect();
            let end = Epilogue {
                scale: Some(&scale),
                bias: Some(&bias),
                ..end
            };
            let first = pixels.start * self.channels;
            let output = &mut output[first..pixels.end * self.channels];
            let at_once = BLOCK * self.channels;
            let blocks = output.par_chunks_mut(at_once).enumerate();
            blocks.for_each(|(block, output)| {
                let start = first + block * at_once;
                output.copy_from_slice(&input[start..start + output.len()]);
                end.at(start).apply(output, self.channels);
            });
        }
        output
    }

    /// The gradients, from the gradient before the ReLU.
    pub(crate) fn gradients(
        &self,
        input: &[f32],
        gradient: &[f32],
        moments: &Moments,
        epsilon: f32,
        gamma: &[f32],
    ) -> NormGradients {
        let mut result = NormGradients {
            input: memory::zeros(input.len()),
            gamma: vec![0.0; self.channels],
            beta: vec![0.0; self.channels],
        };
        let deviations = inverse_deviations(moments, epsilon);
        for segment in 0..self.segments.len() {
            let means = self.per_channel(&moments.mean, segment);
            let deviations = self.per_channel(&deviations, segment);
            let input = self.of_segment(input, segment);
            let gradient = self.of_segment(gradient, segment);
            let mut sums = channel_sums(gradient, self.channels);
            let mut products = weighted_distances(input, gradient, &means);
            for channel in 0..self.channels {
                products[channel] *= f64::from(deviations[channel]);
                result.beta[channel] += sums[channel] as f32;
                result.gamma[channel] += products[channel] as f32;
            }
            self.over_processes(&mut sums);
            self.over_processes(&mut products);
            let mut of_groups = vec![[0.0; 2]; self.count];
            for channel in 0..self.channels {
                let group = &mut of_groups[self.group_of(0, channel)];
                let weight = f64::from(gamma[channel]) / self.values(segment);
                group[0] += sums[channel] * weight;
                group[1] += products[channel] * weight;
            }
            // dx = (gamma g - mean(gamma g) - x̂ mean(gamma g x̂)) / deviation, with
            // x̂ = (x - mean) / deviation, as factors of g and x and a rest.
            let factors: Vec<[f32; 3]> = (0..self.channels)
                .map(|channel| {
                    let [mean, mean_product] = of_groups[self.group_of(0, channel)];
                    let deviation = f64::from(deviations[channel]);
                    let of_input = -deviation * deviation * mean_product;
                    let rest = -deviation * mean - f64::from(means[channel]) * of_input;
                    [
                        gamma[channel] * deviations[channel],
                        of_input as f32,
                        rest as f32,
                    ]
                })
                .collect();
            let Range { start, end } = self.segments[segment];
            let output = &mut result.input[start * self.channels..end * self.channels];
            combine(output, gradient, input, &factors);
        }
        result
    }
}

fn inverse_deviations(moments: &Moments, epsilon: f32) -> Vec<f32> {
    let variances = moments.variance.iter();
    variances
        .map(|variance| 1.0 / (variance + epsilon).sqrt())
        .collect()
}

/// Sums `gradient * (input - mean)` over pixels.
/// `output = gradient * factors[0] + input * factors[1] + factors[2]`, channel by channel.
fn combine(output: &mut [f32], gradient: &[f32], input: &[f32], factors: &[[f32; 3]]) {
    let channels = factors.len();
    let at_once = BLOCK * channels;
    let blocks = output
        .par_chunks_mut(at_once)
        .zip(gradient.par_chunks(at_once))
        .zip(input.par_chunks(at_once));
    blocks.for_each(|((output, gradient), input)| {
        vectorized(
            #[inline(always)]
            || {
                let pixels = output
                    .chunks_exact_mut(channels)
                    .zip(gradient.chunks_exact(channels))
                    .zip(input.chunks_exact(channels));
                for ((output, gradient), input) in pixels {
                    for (channel, [of_gradient, of_input, rest]) in factors.iter().enumerate() {
                        output[channel] =
                            gradient[channel] * of_gradient + input[channel] * of_input + rest;
                    }
                }
            },
        );
    });
}
