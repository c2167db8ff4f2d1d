//! Convolution where the pixels are fewer than the outputs: deep in a network nearly all the
//! memory is weights. They are read as they lie, and the small maps are turned instead, to
//! `[channels, pixels]`.

use rayon::prelude::*;

use super::epilogue::Epilogue;
use super::factor::with_factor;
use super::matrix::{Matrix, Product, Threads};
use super::weights::transpose;
use super::with_scratch;
use crate::problem::Problem;
use crate::shape::RowPiece;

/// Parts that the rows of a product are shared out in.
const PARTS: usize = 8;

/// Rows of a part at least.
const FEWEST_ROWS: usize = 24;

/// Whether turning the maps costs less than ordering the weights.
pub(crate) fn pays(problem: &Problem) -> bool {
    problem.options.groups == 1 && problem.maps_out.pixels() <= problem.outputs / 2
}

/// Computes the output, `[pixels, outputs]`.
pub(crate) fn forward(
    problem: &Problem,
    input: &[f32],
    parameters: &[f32],
    end: Epilogue<'_>,
) -> Vec<f32> {
    let (outputs, pixels, depth) = sizes(problem);
    let mut output = vec![0.0; pixels * outputs];
    with_columns(problem, input, |columns| {
        let columns = Matrix::dense(columns, depth, pixels);
        with_scratch(outputs * pixels, |product| {
            with_factor(problem, columns, Threads::All, |columns| {
                in_parts(product, outputs, pixels, |first, rows, values| {
                    let weights = Matrix::dense(&parameters[first * depth..], rows, depth);
                    columns.multiply(weights, dense(values, pixels), Threads::One);
                });
            });
            transpose(product, [outputs, pixels], &mut output);
        });
    });
    end.apply(&mut output, outputs);
    output
}

/// Computes the gradient of the input, `[pixels, inputs]`.
pub(crate) fn input_gradient(
    problem: &Problem,
    gradient: &[f32],
    parameters: &[f32],
    scale: Option<&[f32]>,
) -> Vec<f32> {
    let (outputs, pixels, depth) = sizes(problem);
    let (inputs, pixels_in) = (problem.inputs, problem.maps_in.pixels());
    let mut result = vec![0.0; pixels_in * inputs];
    with_turned_gradient(problem, gradient, scale, |gradient| {
        let gradient = Matrix::dense(gradient, outputs, pixels);
        with_scratch(depth * pixels, |columns| {
            with_factor(problem, gradient, Threads::All, |gradient| {
                in_parts(columns, depth, pixels, |first, rows, values| {
                    let weights = Matrix::new(&parameters[first..], outputs, rows, depth);
                    let product = dense(values, pixels);
                    gradient.multiply(weights.transposed(), product, Threads::One);
                });
            });
            if problem.is_pointwise() {
                return transpose(columns, [inputs, pixels], &mut result);
            }
            with_scratch(inputs * pixels_in, |turned| {
                scatter(problem, columns, turned);
                transpose(turned, [inputs, pixels_in], &mut result);
            });
        });
    });
    result
}

/// Computes the gradient of the weights, `[outputs, inputs, kernel height, kernel width]`.
pub(crate) fn weight_gradient(
    problem: &Problem,
    input: &[f32],
    gradient: &[f32],
    scale: Option<&[f32]>,
) -> Vec<f32> {
    let (outputs, pixels, depth) = sizes(problem);
    let mut result = vec![0.0; outputs * depth];
    with_turned_gradient(problem, gradient, scale, |gradient| {
        with_columns(problem, input, |columns| {
            let columns = Matrix::dense(columns, depth, pixels).transposed();
            with_factor(problem, columns, Threads::All, |columns| {
                in_parts(&mut result, outputs, depth, |first, rows, values| {
                    let gradient = Matrix::dense(&gradient[first * pixels..], rows, pixels);
                    columns.multiply(gradient, dense(values, depth), Threads::One);
                });
            });
        });
    });
    result
}

/// Outputs, pixels of the output, and inputs times taps.
fn sizes(problem: &Problem) -> (usize, usize, usize) {
    let depth = problem.inputs * problem.taps();
    (problem.outputs, problem.maps_out.pixels(), depth)
}

const fn dense(values: &mut [f32], stride: usize) -> Product<'_> {
    Product {
        values,
        stride,
        accumulate: false,
    }
}

/// Works on the rows of a product part by part, side by side: `work(first row, rows, values)`.
fn in_parts(
    product: &mut [f32],
    rows: usize,
    columns: usize,
    work: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let at_once = rows.div_ceil(PARTS).max(FEWEST_ROWS);
    let parts = product.par_chunks_mut(at_once * columns).enumerate();
    parts.with_max_len(1).for_each(|(part, values)| {
        let rows = values.len() / columns;
        work(part * at_once, rows, values);
    });
}

/// Lends the gradient turned, `[outputs, pixels]`, each output's times its scale.
fn with_turned_gradient(
    problem: &Problem,
    gradient: &[f32],
    scale: Option<&[f32]>,
    work: impl FnOnce(&[f32]),
) {
    let (outputs, pixels, _) = sizes(problem);
    with_scratch(outputs * pixels, |turned| {
        transpose(gradient, [pixels, outputs], turned);
        if let Some(scale) = scale {
            for (row, scale) in turned.chunks_exact_mut(pixels).zip(scale) {
                for value in row {
                    *value *= scale;
                }
            }
        }
        work(turned);
    });
}

/// Lends the columns turned, `[inputs, taps, pixels]`.
fn with_columns(problem: &Problem, input: &[f32], work: impl FnOnce(&[f32])) {
    let (_, pixels, depth) = sizes(problem);
    let (inputs, pixels_in) = (problem.inputs, problem.maps_in.pixels());
    with_scratch(inputs * pixels_in, |turned| {
        transpose(input, [pixels_in, inputs], turned);
        if problem.is_pointwise() {
            return work(turned);
        }
        with_scratch(depth * pixels, |columns| {
            let pieces = pieces(problem);
            let channels = columns
                .par_chunks_mut(problem.taps() * pixels)
                .zip(turned.par_chunks(pixels_in));
            channels.for_each(|(columns, input)| {
                for (tap, column) in columns.chunks_exact_mut(pixels).enumerate() {
                    column.fill(0.0);
                    for piece in &pieces[tap] {
                        let values = input[piece.input..].iter().step_by(piece.step);
                        let column = &mut column[piece.output..][..piece.length];
                        column
                            .iter_mut()
                            .zip(values)
                            .for_each(|(to, from)| *to = *from);
                    }
                }
            });
            work(columns);
        });
    });
}

/// Adds the columns' gradients, `[inputs, taps, pixels]`, up to the input's, `[inputs, pixels]`.
fn scatter(problem: &Problem, columns: &[f32], turned: &mut [f32]) {
    let pixels = problem.maps_out.pixels();
    let pieces = pieces(problem);
    let channels = turned
        .par_chunks_mut(problem.maps_in.pixels())
        .zip(columns.par_chunks(problem.taps() * pixels));
    channels.for_each(|(input, columns)| {
        input.fill(0.0);
        for (tap, column) in columns.chunks_exact(pixels).enumerate() {
            for piece in &pieces[tap] {
                let values = input[piece.input..].iter_mut().step_by(piece.step);
                let column = &column[piece.output..][..piece.length];
                values.zip(column).for_each(|(to, from)| *to += *from);
            }
        }
    });
}

/// Neighbouring output pixels of a row and the input pixels that a tap sees from them.
struct Piece {
    output: usize,
    length: usize,
    input: usize,
    step: usize,
}

/// Of each tap its pieces inside the map.
fn pieces(problem: &Problem) -> Vec<Vec<Piece>> {
    let options = problem.options;
    let starts_in: Vec<usize> = problem.maps_in.ranges().map(|range| range.start).collect();
    let starts_out: Vec<usize> = problem.maps_out.ranges().map(|range| range.start).collect();
    let [_, kernel_width] = problem.kernel;
    let mut pieces: Vec<Vec<Piece>> = (0..problem.taps()).map(|_| Vec::new()).collect();
    for RowPiece { map, y, x } in problem.maps_out.rows_in(0..problem.maps_out.pixels()) {
        let [height, width] = problem.maps_in.sizes()[map];
        for (tap, pieces) in pieces.iter_mut().enumerate() {
            let (tap_y, tap_x) = (tap / kernel_width, tap % kernel_width);
            let in_y = (y * options.stride[0] + tap_y * options.dilation[0])
                .wrapping_sub(options.padding[0]);
            let see = |x: usize| {
                (x * options.stride[1] + tap_x * options.dilation[1])
                    .wrapping_sub(options.padding[1])
            };
            let mut inside = x.clone().filter(|x| see(*x) < width);
            let (Some(first), true) = (inside.next(), in_y < height) else {
                continue;
            };
            pieces.push(Piece {
                output: starts_out[map] + y * x.len() + first,
                length: inside.count() + 1,
                input: starts_in[map] + in_y * width + see(first),
                step: options.stride[1],
            });
        }
    }
    pieces
}
