//! 3×3 convolution in many groups of few channels, as ResNeXt's ([Xie et al. 2017](https://arxiv.org/abs/1611.05431)).
//!
//! A group's product is too small to pay for columns. Instead a vector holds neighbouring channels of one pixel, of
//! several groups at once; each channel of a group is spread over the group's lanes and meets the weights of all of the
//! group's outputs.

use std::array;
use std::marker::PhantomData;
use std::mem;

use pulp::Simd;
use rayon::prelude::*;

use super::direct::split_by;
use super::epilogue::Epilogue;
use super::lanes::{Spread, Width, Work};
use super::memory;
use crate::problem::Problem;
use crate::shape::{ConvOptions, Maps, RowPiece, split};

/// Taps of a row of the kernel, and rows of them.
const TAPS: usize = 3;

/// Pixels of a row that are computed at once: as many sums as hide an addition's latency, and fit into 16 registers
/// beside a row of taps.
const PIXELS: usize = 8;

/// Pixels that these go by, at most: those of stride 2.
const MOST_PIXELS: usize = 2 * (PIXELS - 1) + TAPS;

/// Channels that weights' gradients are summed for at once.
const CHANNELS: usize = 4;

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

    /// The vectors of others that a block meets, by their first channels: its own, or all of its group's.
    fn others(&self, block: usize) -> impl Iterator<Item = usize> {
        let first = block * self.lanes;
        let (first, count) = if self.size <= self.lanes {
            (first, 1)
        } else {
            (first / self.size * self.size, self.size / self.lanes)
        };
        (0..count).map(move |place| first + place * self.lanes)
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

/// How the pixels of a strip of [`PIXELS`] and those that they are computed from lie to each other.
trait Strip {
    /// How many pixels a strip is computed from.
    const READ: usize;

    /// The first of them; beyond all others where it is none.
    fn first(x: usize) -> usize;

    /// Which of them comes to a place of the strip through a tap.
    fn read(place: usize, tap: usize) -> Option<usize>;

    /// The row that comes to row `y` through a row of taps; beyond all others where it is none.
    fn row(y: usize, tap: usize) -> Option<usize>;
}

/// From a window to the pixel at its middle.
struct Forward<const STRIDE: usize>;

impl<const STRIDE: usize> Strip for Forward<STRIDE> {
    const READ: usize = STRIDE * (PIXELS - 1) + TAPS;

    fn first(x: usize) -> usize {
        (x * STRIDE).wrapping_sub(1)
    }

    fn read(place: usize, tap: usize) -> Option<usize> {
        Some(place * STRIDE + tap)
    }

    fn row(y: usize, tap: usize) -> Option<usize> {
        (y * STRIDE + tap).checked_sub(1)
    }
}

/// From a pixel back to its window.
struct Backward<const STRIDE: usize>;

impl<const STRIDE: usize> Strip for Backward<STRIDE> {
    const READ: usize = (PIXELS + TAPS - STRIDE - 1) / STRIDE + 1;

    fn first(x: usize) -> usize {
        (x / STRIDE).wrapping_sub(2 - STRIDE)
    }

    fn read(place: usize, tap: usize) -> Option<usize> {
        let steps = (place + TAPS - STRIDE).checked_sub(tap)?;
        (steps % STRIDE == 0).then_some(steps / STRIDE)
    }

    fn row(y: usize, tap: usize) -> Option<usize> {
        let steps = (y + 1).checked_sub(tap)?;
        (steps % STRIDE == 0).then_some(steps / STRIDE)
    }
}

/// Computes the second maps from the first row by row; `finish(first value, values)` ends a row.
fn correlate<P: Strip + Sync>(
    groups: &Groups,
    weights: &[f32],
    [maps_read, maps]: [&Maps; 2],
    read: &[f32],
    width: Width,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let channels = groups.channels;
    let starts: Vec<usize> = maps_read.ranges().map(|range| range.start).collect();
    let rows: Vec<RowPiece> = maps.rows_in(0..maps.pixels()).collect();
    let mut result = memory::zeros(maps.pixels() * channels);
    let firsts = rows.iter().scan(0, |next, row| {
        let first = *next;
        *next += row.x.len() * channels;
        Some(first)
    });
    let chunks = split_by(&mut result, rows.iter().map(|row| row.x.len() * channels));
    let tasks: Vec<_> = rows.iter().zip(firsts).zip(chunks).collect();
    tasks.into_par_iter().for_each(|((row, first), values)| {
        width.run(Row::<P> {
            groups,
            weights,
            map: &read[starts[row.map] * channels..],
            size: maps_read.sizes()[row.map],
            y: row.y,
            values: &mut *values,
            strip: PhantomData,
        });
        finish(first, values);
    });
    result
}

/// A row that is computed.
struct Row<'a, P> {
    groups: &'a Groups,
    weights: &'a [f32],
    /// The map that is read, and its size.
    map: &'a [f32],
    size: [usize; 2],
    y: usize,
    values: &'a mut [f32],
    strip: PhantomData<P>,
}

impl<P: Strip> Work for Row<'_, P> {
    #[inline(always)]
    fn run<S: Spread>(mut self, simd: S) {
        let Groups {
            channels, lanes, ..
        } = *self.groups;
        let spreading = self.groups.spreading::<S>();
        let values = mem::take(&mut self.values);
        let strips = values.chunks_mut(PIXELS * channels).enumerate();
        for (strip, values) in strips {
            for block in 0..channels / lanes {
                let sums = self.sums(simd, &spreading, strip * PIXELS, block);
                for (pixel, sum) in values.chunks_exact_mut(channels).zip(sums) {
                    S::as_mut_simd_f32s(&mut pixel[block * lanes..]).0[0] = sum;
                }
            }
        }
    }
}

impl<P: Strip> Row<'_, P> {
    /// The values of a block's channels in a strip.
    #[inline(always)]
    fn sums<S: Spread>(
        &self,
        simd: S,
        spreading: &[S::u32s; LANES],
        x: usize,
        block: usize,
    ) -> [S::f32s; PIXELS] {
        let Groups { channels, size, .. } = *self.groups;
        let [height, width] = self.size;
        let (weights, _) = S::as_simd_f32s(self.weights);
        let zero = simd.splat_f32s(0.0);
        let mut sums = [zero; PIXELS];
        for tap_row in 0..TAPS {
            let Some(y) = P::row(self.y, tap_row).filter(|y| *y < height) else {
                continue;
            };
            let row = &self.map[y * width * channels..][..width * channels];
            let weights = &weights[(block * TAPS + tap_row) * size * TAPS..][..size * TAPS];
            let weights = weights.chunks_exact(self.groups.spreads() * TAPS);
            for (first, weights) in self.groups.others(block).zip(weights) {
                let pixels: [S::f32s; MOST_PIXELS] = array::from_fn(|read| {
                    let x = P::first(x).wrapping_add(read);
                    if read < P::READ && x < width {
                        load::<S>(&row[x * channels + first..])
                    } else {
                        zero
                    }
                });
                for (weights, lanes) in weights.chunks_exact(TAPS).zip(spreading) {
                    for tap in 0..TAPS {
                        for (place, sum) in sums.iter_mut().enumerate() {
                            if let Some(read) = P::read(place, tap) {
                                let pixel = simd.spread(pixels[read], *lanes);
                                *sum = simd.mul_add_f32s(pixel, weights[tap], *sum);
                            }
                        }
                    }
                }
            }
        }
        sums
    }
}

#[inline(always)]
fn load<S: Simd>(values: &[f32]) -> S::f32s {
    S::as_simd_f32s(values).0[0]
}

/// The sums of some rows for the gradient of the weights, as they are packed.
struct WeightSums<'a> {
    problem: &'a Problem,
    groups: &'a Groups,
    rows: &'a [RowPiece],
    input: &'a [f32],
    gradient: &'a [f32],
    sums: &'a mut [f32],
}

impl Work for WeightSums<'_> {
    #[inline(always)]
    fn run<S: Spread>(self, simd: S) {
        let Groups {
            channels,
            size,
            lanes,
        } = *self.groups;
        let zero = simd.splat_f32s(0.0);
        let spreading = self.groups.spreading::<S>();
        let stride = self.problem.options.stride[0];
        let starts = |maps: &Maps| -> Vec<usize> { maps.ranges().map(|it| it.start).collect() };
        let (starts_in, starts_out) = (
            starts(&self.problem.maps_in),
            starts(&self.problem.maps_out),
        );
        let (sums, _) = S::as_mut_simd_f32s(self.sums);
        // A block's row lies in neighbouring vectors then; that of the input has a zero at each end.
        let (mut gradients, mut inputs) = (Vec::new(), Vec::new());
        for row in self.rows {
            let [height, width] = self.problem.maps_in.sizes()[row.map];
            let first_out = starts_out[row.map] + row.y * row.x.len();
            for block in 0..channels / lanes {
                gradients.clear();
                gradients.extend(row.x.clone().map(|x| {
                    load::<S>(&self.gradient[(first_out + x) * channels + block * lanes..])
                }));
                for tap_row in 0..TAPS {
                    let y = (row.y * stride + tap_row).wrapping_sub(1);
                    if y >= height {
                        continue;
                    }
                    let first_in = starts_in[row.map] + y * width;
                    let sums = &mut sums[(block * TAPS + tap_row) * size * TAPS..][..size * TAPS];
                    let sums = sums.chunks_exact_mut(self.groups.spreads() * TAPS);
                    for (first, sums) in self.groups.others(block).zip(sums) {
                        inputs.clear();
                        inputs.push(zero);
                        inputs.extend(
                            (0..width).map(|x| {
                                load::<S>(&self.input[(first_in + x) * channels + first..])
                            }),
                        );
                        inputs.extend([zero; 2]);
                        if self.groups.spreads().is_multiple_of(CHANNELS) {
                            sum_row::<S, CHANNELS>(
                                simd, &gradients, &inputs, stride, &spreading, sums,
                            );
                        } else {
                            sum_row::<S, 1>(simd, &gradients, &inputs, stride, &spreading, sums);
                        }
                    }
                }
            }
        }
    }
}

/// Adds a row's products to the sums, `[channels, taps]`, of so many channels at once.
#[inline(always)]
fn sum_row<S: Spread, const AT_ONCE: usize>(
    simd: S,
    gradients: &[S::f32s],
    inputs: &[S::f32s],
    stride: usize,
    spreading: &[S::u32s; LANES],
    sums: &mut [S::f32s],
) {
    let sums = sums.as_chunks_mut::<TAPS>().0.as_chunks_mut::<AT_ONCE>().0;
    for (sums, spreading) in sums.iter_mut().zip(spreading.as_chunks::<AT_ONCE>().0) {
        let mut row = [[simd.splat_f32s(0.0); TAPS]; AT_ONCE];
        for (gradient, inputs) in gradients.iter().zip(inputs.windows(TAPS).step_by(stride)) {
            for tap in 0..TAPS {
                for (sums, lanes) in row.iter_mut().zip(spreading) {
                    let input = simd.spread(inputs[tap], *lanes);
                    sums[tap] = simd.mul_add_f32s(input, *gradient, sums[tap]);
                }
            }
        }
        for (sums, row) in sums.iter_mut().flatten().zip(row.as_flattened()) {
            *sums = simd.add_f32s(*sums, *row);
        }
    }
}
