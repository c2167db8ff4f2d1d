//! 3×3 convolution in many groups of few channels, as ResNeXt's ([Xie et al. 2017](https://arxiv.org/abs/1611.05431)).
//!
//! A group's product is too small to pay for columns. Instead a vector holds neighbouring channels of one pixel, of
//! several groups at once; each channel of a group is spread over the group's lanes and meets the weights of all of the
//! group's outputs. Of a group that fills whole vectors a channel is read from memory into all lanes, which costs less than
//! spreading it.

mod correlation;
mod weight_sums;

use pulp::Simd;
use rayon::prelude::*;

use self::correlation::{Backward, Forward, correlate};
use self::weight_sums::WeightSums;
use super::epilogue::Epilogue;
use super::lanes::Width;
use crate::problem::Problem;
use crate::shape::{ConvOptions, RowPiece, split};

/// Taps of a row of the kernel, and rows of them.
const TAPS: usize = 3;

/// Channels in a group, at most.
const MOST_IN_GROUP: usize = 64;

/// The channels are whole vectors of the widest kind.
const LANES: usize = 16;

/// Parts that the rows are summed in for the weights' gradient, at most.
const PARTS: usize = 16;

/// Rows of such a part, at least.
const FEWEST_ROWS: usize = 8;

/// Whether these kernels can compute a problem, and are quicker than plain products: they are with vectors.
pub(crate) fn pays(problem: &Problem) -> bool {
    let options = problem.options;
    let in_group = problem.inputs_per_group();
    let plain = ConvOptions {
        groups: options.groups,
        arithmetic: options.arithmetic,
        ..ConvOptions::new(options.stride[0], 1)
    };
    options.groups > 1
        && problem.kernel == [TAPS; 2]
        && options == plain
        && matches!(options.stride[0], 1 | 2)
        && problem.outputs_per_group() == in_group
        && in_group.is_power_of_two()
        && in_group <= MOST_IN_GROUP
        && problem.inputs.is_multiple_of(LANES)
        && Width::widest().lanes() > 1
}

/// Computes the output, `[pixels, outputs]`.
pub(crate) fn forward(
    problem: &Problem,
    input: &[f32],
    parameters: &[f32],
    epilogue: Epilogue<'_>,
    width: Width,
) -> Vec<f32> {
    let groups = Groups::new(problem, width);
    let weights = groups.pack(|output, input, tap| parameters[groups.place(output, input, tap)]);
    let maps = [&problem.maps_in, &problem.maps_out];
    let finish =
        |first: usize, values: &mut [f32]| epilogue.at(first).apply(values, groups.channels);
    match problem.options.stride[0] {
        1 => correlate::<Forward<1>>(&groups, &weights, maps, input, width, finish),
        _ => correlate::<Forward<2>>(&groups, &weights, maps, input, width, finish),
    }
}

/// Computes the gradient of the input, `[pixels, inputs]`.
pub(crate) fn input_gradient(
    problem: &Problem,
    gradient: &[f32],
    parameters: &[f32],
    scale: Option<&[f32]>,
    width: Width,
) -> Vec<f32> {
    let groups = Groups::new(problem, width);
    let weights = groups.pack(|input, output, tap| {
        let (first, input) = (input / groups.size * groups.size, input % groups.size);
        let output = first + output;
        let scale = scale.map_or(1.0, |scale| scale[output]);
        parameters[groups.place(output, input, tap)] * scale
    });
    let maps = [&problem.maps_out, &problem.maps_in];
    match problem.options.stride[0] {
        1 => correlate::<Backward<1>>(&groups, &weights, maps, gradient, width, |_, _| ()),
        _ => correlate::<Backward<2>>(&groups, &weights, maps, gradient, width, |_, _| ()),
    }
}

/// Computes the gradient of the weights, `[outputs, inputs / groups, 3, 3]`.
pub(crate) fn weight_gradient(
    problem: &Problem,
    input: &[f32],
    gradient: &[f32],
    scale: Option<&[f32]>,
    width: Width,
) -> Vec<f32> {
    let groups = Groups::new(problem, width);
    let rows: Vec<RowPiece> = problem
        .maps_out
        .rows_in(0..problem.maps_out.pixels())
        .collect();
    let at_once = rows.len().div_ceil(PARTS).max(FEWEST_ROWS);
    let parts: Vec<Vec<f32>> = (split(rows.len(), at_once).into_par_iter())
        .with_max_len(1)
        .map(|part| {
            let mut sums = vec![0.0; groups.weights()];
            width.run(WeightSums {
                problem,
                groups: &groups,
                rows: &rows[part],
                input,
                gradient,
                sums: &mut sums,
            });
            sums
        })
        .collect();
    // In the order of the parts, so that no sum depends on the threads.
    let sum = |place: usize| parts.iter().map(|part| part[place]).sum::<f32>();
    let mut result = vec![0.0; groups.weights()];
    let outputs = result.par_chunks_mut(groups.size * TAPS * TAPS);
    outputs.enumerate().for_each(|(output, weights)| {
        let scale = scale.map_or(1.0, |scale| scale[output]);
        for (place, weight) in weights.iter_mut().enumerate() {
            let (input, tap) = (place / (TAPS * TAPS), place % (TAPS * TAPS));
            *weight = sum(groups.packed(output, input, tap)) * scale;
        }
    });
    result
}

/// Channels in their groups, and in blocks of a vector each.
struct Groups {
    channels: usize,
    /// Channels of a group.
    size: usize,
    /// Channels of a block.
    lanes: usize,
}

impl Groups {
    fn new(problem: &Problem, width: Width) -> Self {
        Self {
            channels: problem.inputs,
            size: problem.inputs_per_group(),
            lanes: width.lanes(),
        }
    }

    /// How many weights there are.
    const fn weights(&self) -> usize {
        self.channels * self.size * TAPS * TAPS
    }

    /// Where a weight is among the parameters, `[outputs, inputs of the group, taps]`.
    const fn place(&self, output: usize, input: usize, tap: usize) -> usize {
        (output * self.size + input) * TAPS * TAPS + tap
    }

    /// Where a weight is as the kernels read it: `[blocks, rows of taps, others of the group, taps of a row, lanes]`.
    const fn packed(&self, channel: usize, other: usize, tap: usize) -> usize {
        let (block, lane) = (channel / self.lanes, channel % self.lanes);
        let row = (block * TAPS + tap / TAPS) * self.size + other;
        (row * TAPS + tap % TAPS) * self.lanes + lane
    }

    /// The weights by the channel of a lane, the other channel's place in the group, and the tap.
    fn pack(&self, weight: impl Fn(usize, usize, usize) -> f32 + Sync) -> Vec<f32> {
        let mut packed = vec![0.0; self.weights()];
        let blocks = packed.par_chunks_mut(self.size * TAPS * TAPS * self.lanes);
        blocks.enumerate().for_each(|(block, packed)| {
            for channel in block * self.lanes..(block + 1) * self.lanes {
                for place in 0..self.size * TAPS * TAPS {
                    let (other, tap) = (place / (TAPS * TAPS), place % (TAPS * TAPS));
                    let start = self.packed(block * self.lanes, 0, 0);
                    packed[self.packed(channel, other, tap) - start] = weight(channel, other, tap);
                }
            }
        });
        packed
    }

    /// How many vectors a group has, or one where groups share it.
    fn vectors(&self) -> usize {
        (self.size / self.lanes).max(1)
    }

    /// The first channels of the vectors that a block meets: its own, or all of its group's.
    fn others(&self, block: usize) -> impl Iterator<Item = usize> {
        let first = block / self.vectors() * self.vectors();
        (first..first + self.vectors()).map(|vector| vector * self.lanes)
    }

    /// Whether a vector holds channels of one group only.
    const fn fill_vectors(&self) -> bool {
        self.size >= self.lanes
    }

    /// How many channels of a vector are spread: those of a group, or all.
    fn spreads(&self) -> usize {
        self.size.min(self.lanes)
    }

    /// For each of these, the lanes that take it: those of its group.
    fn spreading<S: Simd>(&self) -> [S::u32s; LANES] {
        let mut lanes = [[0; LANES]; LANES];
        for (channel, lanes) in lanes[..self.spreads()].iter_mut().enumerate() {
            for (lane, taken) in lanes.iter_mut().enumerate() {
                *taken = (lane / self.spreads() * self.spreads() + channel) as u32;
            }
        }
        lanes.map(|lanes| S::as_simd_u32s(&lanes).0[0])
    }
}

#[inline(always)]
fn load<S: Simd>(values: &[f32]) -> S::f32s {
    S::as_simd_f32s(values).0[0]
}
