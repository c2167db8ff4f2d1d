//! Convolution as a plain product: of the input itself for 1×1, of blocks of columns otherwise.

use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::Epilogue;
use super::factor::with_factor;
use super::gather::{Columns, Windows};
use super::matrix::{Matrix, Product, Threads};
use super::phase::{Phase, PhaseRow, RowBlock};
use super::{memory, weights, with_scratch};
use crate::problem::Problem;
use crate::shape::split;

/// Values of a block of columns: they should stay in a core's own cache until multiplied.
const BLOCK_VALUES: usize = 1 << 18;

/// Pieces that the weights' gradient is shared out in where it is large enough.
const PIECES: usize = 8;

/// Outputs of such a piece at least and at most.
const PIECE_OUTPUTS: [usize; 2] = [64, 512];

/// Rows of a block of columns at least and at most.
const BLOCK_ROWS: [usize; 2] = [48, 512];

/// Computes the output, `[pixels, outputs]`.
pub(crate) fn forward(
    problem: &Problem,
    input: &[f32],
    parameters: &[f32],
    end: Epilogue<'_>,
) -> Vec<f32> {
    let mut output = memory::zeros(problem.maps_out.pixels() * problem.outputs);
    let (outputs, depth) = (problem.outputs_per_group(), depth_per_group(problem));
    for (group, parameters) in parameters.chunks_exact(outputs * depth).enumerate() {
        if problem.options.arithmetic.bf16 && problem.taps() == 1 {
            // Packing turns them.
            let factor = Matrix::dense(parameters, outputs, depth).transposed();
            forward_group(problem, group, input, factor, end, &mut output);
            continue;
        }
        with_scratch(outputs * depth, |factor| {
            lay_out_group(problem, parameters, factor);
            let factor = Matrix::dense(factor, depth, outputs);
            forward_group(problem, group, input, factor, end, &mut output);
        });
    }
    output
}

/// [`forward`] with weights that were laid out before.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn forward_laid_out(
    problem: &Problem,
    input: &[f32],
    factors: &[f32],
    end: Epilogue<'_>,
) -> Vec<f32> {
    let mut output = memory::zeros(problem.maps_out.pixels() * problem.outputs);
    let (outputs, depth) = (problem.outputs_per_group(), depth_per_group(problem));
    for (group, factor) in factors.chunks_exact(outputs * depth).enumerate() {
        let factor = Matrix::dense(factor, depth, outputs);
        forward_group(problem, group, input, factor, end, &mut output);
    }
    output
}

/// The weights as [`forward`] multiplies by them, `[groups, taps, inputs, outputs]`.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn lay_out(problem: &Problem, parameters: &[f32]) -> Vec<f32> {
    let size = problem.outputs_per_group() * depth_per_group(problem);
    let mut factors = vec![0.0; parameters.len()];
    let groups = factors.chunks_exact_mut(size);
    for (factor, parameters) in groups.zip(parameters.chunks_exact(size)) {
        lay_out_group(problem, parameters, factor);
    }
    factors
}

/// Of one group, from `[outputs, inputs, taps]` to `[taps, inputs, outputs]`.
fn lay_out_group(problem: &Problem, parameters: &[f32], factor: &mut [f32]) {
    let (inputs, taps) = (problem.inputs_per_group(), problem.taps());
    let outputs = problem.outputs_per_group();
    if taps == 1 {
        return weights::transpose(parameters, [outputs, inputs], factor);
    }
    with_scratch(parameters.len(), |by_input| {
        weights::transpose(parameters, [outputs, inputs * taps], by_input);
        weights::swap_rows(by_input, [inputs, taps], outputs, factor);
    });
}

/// Inputs of a window in one group.
fn depth_per_group(problem: &Problem) -> usize {
    problem.taps() * problem.inputs_per_group()
}

fn forward_group(
    problem: &Problem,
    group: usize,
    input: &[f32],
    factor: Matrix<'_>,
    end: Epilogue<'_>,
    output: &mut [f32],
) {
    let (inputs, outputs) = (problem.inputs_per_group(), problem.outputs_per_group());
    let depth = problem.taps() * inputs;
    let end = end.of_channels_from(group * outputs);
    let part = Columns {
        taps: 0..problem.taps(),
        channels: group * inputs..(group + 1) * inputs,
    };
    let (blocks, threads) = blocks(problem.maps_out.pixels(), depth);
    let chunks = split_by(
        output,
        blocks.iter().map(|block| block.len() * problem.outputs),
    );
    with_factor(problem, factor, Threads::All, |factor| {
        for_each(threads, blocks.into_iter().zip(chunks), |(block, chunk)| {
            let start = block.start * problem.outputs;
            with_columns(problem, input, block, &part, |columns| {
                let product = Product {
                    values: &mut chunk[group * outputs..],
                    stride: problem.outputs,
                    accumulate: false,
                };
                factor.multiply(columns, product, threads);
            });
            if problem.options.groups == 1 {
                end.at(start).apply(chunk, outputs);
            } else {
                for (pixel, values) in chunk.chunks_exact_mut(problem.outputs).enumerate() {
                    let values = &mut values[group * outputs..][..outputs];
                    end.at(start + pixel * problem.outputs)
                        .apply(values, outputs);
                }
            }
        });
    });
}

/// Computes the gradient of the input, `[pixels, inputs]`.
pub(crate) fn input_gradient(
    problem: &Problem,
    gradient: &[f32],
    parameters: &[f32],
    scale: Option<&[f32]>,
) -> Vec<f32> {
    let mut result = memory::zeros(problem.maps_in.pixels() * problem.inputs);
    let (inputs, outputs) = (problem.inputs_per_group(), problem.outputs_per_group());
    for group in 0..problem.options.groups {
        let size = outputs * inputs * problem.taps();
        let parameters = &parameters[group * size..][..size];
        let scale = scale.map(|scale| &scale[group * outputs..][..outputs]);
        if problem.is_pointwise() {
            weights::with_scaled(parameters, inputs, scale, |factor| {
                pointwise_input_gradient(problem, group, gradient, factor, &mut result);
            });
            continue;
        }
        with_scratch(2 * size, |scratch| {
            let (by_output, by_tap) = scratch.split_at_mut(size);
            weights::taps_before_inputs(parameters, [inputs, problem.taps()], scale, by_output);
            weights::swap_rows(by_output, [outputs, problem.taps()], inputs, by_tap);
            input_gradient_group(problem, group, gradient, by_tap, &mut result);
        });
    }
    result
}

fn pointwise_input_gradient(
    problem: &Problem,
    group: usize,
    gradient: &[f32],
    factor: &[f32],
    result: &mut [f32],
) {
    let (inputs, outputs) = (problem.inputs_per_group(), problem.outputs_per_group());
    let factor = Matrix::dense(factor, outputs, inputs);
    let (blocks, threads) = blocks(problem.maps_in.pixels(), outputs);
    let chunks = split_by(
        result,
        blocks.iter().map(|block| block.len() * problem.inputs),
    );
    with_factor(problem, factor, Threads::All, |factor| {
        for_each(threads, blocks.into_iter().zip(chunks), |(block, chunk)| {
            let values = &gradient[block.start * problem.outputs + group * outputs..];
            let gradient = Matrix::new(values, block.len(), outputs, problem.outputs);
            let product = Product {
                values: &mut chunk[group * inputs..],
                stride: problem.inputs,
                accumulate: false,
            };
            factor.multiply(gradient, product, threads);
        });
    });
}

/// Every input pixel gathers the windows it was in, phase by phase.
fn input_gradient_group(
    problem: &Problem,
    group: usize,
    gradient: &[f32],
    factor: &[f32],
    result: &mut [f32],
) {
    let (inputs, outputs) = (problem.inputs_per_group(), problem.outputs_per_group());
    let plane = outputs * inputs;
    let phases: Vec<(Phase, Vec<f32>)> = Phase::all(problem)
        .map(|phase| {
            let planes = phase.taps.iter();
            let factor = planes.flat_map(|tap| &factor[tap.index * plane..][..plane]);
            let factor = factor.copied().collect();
            (phase, factor)
        })
        .collect();
    let deepest = phases.iter().map(|(phase, _)| phase.taps.len()).max();
    let depth = deepest.unwrap_or(0) * outputs;
    let (blocks, threads) = row_blocks(problem, depth);
    let chunks = split_by(
        result,
        blocks.iter().map(|block| block.pixels * problem.inputs),
    );
    for_each(threads, blocks.into_iter().zip(chunks), |(block, chunk)| {
        for (phase, factor) in &phases {
            let pixels = phase.pixels(problem, &block);
            let rows: usize = pixels.iter().map(PhaseRow::len).sum();
            let depth = phase.taps.len() * outputs;
            if rows == 0 || depth == 0 {
                continue;
            }
            with_scratch(rows * (depth + inputs), |scratch| {
                let (columns, product) = scratch.split_at_mut(rows * depth);
                phase.gather(problem, group, gradient, &pixels, columns);
                let columns = Matrix::dense(columns, rows, depth);
                let into = Product {
                    values: product,
                    stride: inputs,
                    accumulate: false,
                };
                let factor = Matrix::dense(factor, depth, inputs);
                with_factor(problem, factor, threads, |factor| {
                    factor.multiply(columns, into, threads);
                });
                let places = pixels.iter().flat_map(PhaseRow::places);
                for (place, values) in places.zip(product.chunks_exact(inputs)) {
                    let start = place * problem.inputs + group * inputs;
                    chunk[start..start + inputs].copy_from_slice(values);
                }
            });
        }
    });
}

/// Computes the gradient of the weights, `[outputs, inputs / groups, kernel height, width]`.
pub(crate) fn weight_gradient(
    problem: &Problem,
    input: &[f32],
    gradient: &[f32],
    scale: Option<&[f32]>,
) -> Vec<f32> {
    let outputs = problem.outputs_per_group();
    let depth = depth_per_group(problem);
    let mut result = vec![0.0; problem.outputs * depth];
    let groups = result.chunks_exact_mut(outputs * depth).enumerate();
    for (group, result) in groups {
        let first = group * outputs;
        let scale = scale.map(|scale| &scale[first..][..outputs]);
        let parts = weight_parts(problem, group);
        let ranges = output_ranges(outputs, parts.len());
        with_scratch(outputs * depth, |sums| {
            weight_sums(problem, (first, &parts, &ranges), input, gradient, sums);
            for range in ranges {
                let sums = &sums[range.start * depth..range.end * depth];
                let result = &mut result[range.start * depth..range.end * depth];
                let scale = scale.map(|scale| &scale[range]);
                in_parameter_order(problem, &parts, sums, scale, result);
            }
        });
    }
    result
}

/// Gives, for some outputs after others, `[outputs, taps, inputs]` of one part after another. Threads share the weights, not the
/// pixels, so that no sum depends on how many there are.
fn weight_sums(
    problem: &Problem,
    (first, parts, ranges): (usize, &[Columns], &[Range<usize>]),
    input: &[f32],
    gradient: &[f32],
    sums: &mut [f32],
) {
    let pieces = ranges.iter();
    let pieces = pieces.flat_map(|range| parts.iter().map(move |part| (range, part)));
    let pieces: Vec<_> = pieces.collect();
    let lengths = pieces.iter().map(|(range, part)| range.len() * part.len());
    let chunks = split_by(sums, lengths);
    for_each(
        Threads::One,
        pieces.iter().zip(chunks),
        |((range, part), chunk)| {
            let at_once = (BLOCK_VALUES / 2 / part.len()).clamp(128, 1024);
            for block in split(problem.maps_out.pixels(), at_once) {
                let values = &gradient[block.start * problem.outputs + first + range.start..];
                let gradient = Matrix::new(values, block.len(), range.len(), problem.outputs);
                let product = Product {
                    values: chunk,
                    stride: part.len(),
                    accumulate: block.start > 0,
                };
                with_columns(problem, input, block, part, |columns| {
                    with_factor(problem, columns, Threads::One, |columns| {
                        columns.multiply(gradient.transposed(), product, Threads::One);
                    });
                });
            }
        },
    );
}

/// From what [`weight_sums`] gives of some outputs to the order of the weights.
fn in_parameter_order(
    problem: &Problem,
    parts: &[Columns],
    sums: &[f32],
    scale: Option<&[f32]>,
    result: &mut [f32],
) {
    let (inputs, taps) = (problem.inputs_per_group(), problem.taps());
    let outputs = result.len() / (inputs * taps);
    let weights = result.par_chunks_exact_mut(inputs * taps).enumerate();
    weights.for_each(|(output, weights)| {
        let scale = scale.map_or(1.0, |scale| scale[output]);
        let mut rest = sums;
        for part in parts {
            let (sums, after) = rest.split_at(outputs * part.len());
            let sums = &sums[output * part.len()..][..part.len()];
            let part_of_group = part.in_group_of(inputs);
            weights::place_scaled(sums, (&part_of_group, taps), scale, weights);
            rest = after;
        }
    });
}

/// The outputs in ranges, where the other side of the weights is in so many parts.
fn output_ranges(outputs: usize, parts: usize) -> Vec<Range<usize>> {
    let [least, most] = PIECE_OUTPUTS;
    split(outputs, (outputs * parts / PIECES).clamp(least, most))
}

/// The weights in parts of some 64 columns of the product at least, or of an eighth of the taps if that is less.
fn weight_parts(problem: &Problem, group: usize) -> Vec<Columns> {
    const COLUMNS: usize = 64;
    const PARTS: usize = 8;
    let (inputs, taps) = (problem.inputs_per_group(), problem.taps());
    let first = group * inputs;
    if inputs < COLUMNS {
        let at_once = COLUMNS.div_ceil(inputs).min(taps.div_ceil(PARTS).max(1));
        return split(taps, at_once)
            .into_iter()
            .map(|taps| Columns {
                taps,
                channels: first..first + inputs,
            })
            .collect();
    }
    let parts_of_a_tap = if taps < PARTS {
        PARTS.div_ceil(taps)
    } else {
        2
    };
    let at_once = inputs.div_ceil(parts_of_a_tap).max(COLUMNS);
    (0..taps)
        .flat_map(|tap| {
            split(inputs, at_once)
                .into_iter()
                .map(move |part| (tap, part))
        })
        .map(|(tap, part)| Columns {
            taps: tap..tap + 1,
            channels: first + part.start..first + part.end,
        })
        .collect()
}

/// Lends the columns of some output pixels, `[pixels, taps * channels]`.
fn with_columns(
    problem: &Problem,
    input: &[f32],
    pixels: Range<usize>,
    part: &Columns,
    work: impl FnOnce(Matrix<'_>),
) {
    let rows = pixels.len();
    if problem.is_pointwise() {
        let values = &input[pixels.start * problem.inputs + part.channels.start..];
        return work(Matrix::new(
            values,
            rows,
            part.channels.len(),
            problem.inputs,
        ));
    }
    let depth = part.len();
    with_scratch(rows * depth, |columns| {
        Windows::new(problem, input, 0.0).gather(pixels, part, columns);
        work(Matrix::dense(columns, rows, depth));
    });
}

/// The rows of a product of depth `depth` in blocks; where they are too few to share out, one that
/// all threads work on together. They do not depend on the number of threads.
pub(crate) fn blocks(rows: usize, depth: usize) -> (Vec<Range<usize>>, Threads) {
    let [least, most] = BLOCK_ROWS;
    if rows < 4 * least {
        return (split(rows, rows), Threads::All);
    }
    let length = (BLOCK_VALUES / depth.max(1)).clamp(least, most);
    (split(rows, length.min(rows.div_ceil(4))), Threads::One)
}

/// As [`blocks`], of whole rows of the input maps.
fn row_blocks(problem: &Problem, depth: usize) -> (Vec<RowBlock>, Threads) {
    let (ranges, threads) = blocks(problem.maps_in.pixels(), depth);
    let length = ranges.iter().map(Range::len).max().unwrap_or(1);
    let mut blocks: Vec<RowBlock> = Vec::new();
    for (map, [height, width]) in problem.maps_in.sizes().iter().enumerate() {
        for y in 0..*height {
            match blocks.last_mut() {
                Some(block) if block.pixels + width <= length || threads == Threads::All => {
                    block.rows.push([map, y]);
                    block.pixels += width;
                }
                _ => blocks.push(RowBlock {
                    rows: vec![[map, y]],
                    pixels: *width,
                }),
            }
        }
    }
    (blocks, threads)
}

/// Cuts a slice into pieces of these lengths, as far as it reaches.
pub(crate) fn split_by<T>(
    mut values: &mut [T],
    lengths: impl Iterator<Item = usize>,
) -> Vec<&mut [T]> {
    lengths
        .map(|length| values.split_off_mut(..length).unwrap_or_default())
        .collect()
}

/// Works on the items one after another where each shall have all threads, otherwise side by side.
fn for_each<T: Send>(
    threads: Threads,
    items: impl Iterator<Item = T>,
    work: impl Fn(T) + Send + Sync,
) {
    match threads {
        Threads::All => items.for_each(work),
        Threads::One => {
            let items: Vec<T> = items.collect();
            items.into_par_iter().with_max_len(1).for_each(work);
        }
    }
}
