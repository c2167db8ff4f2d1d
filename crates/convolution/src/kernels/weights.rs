//! Weights in the orders that the products need, from Burn's `[outputs, inputs, taps]`, and
//! gradients back into it.

use std::array;

use rayon::prelude::*;

use super::gather::Columns;
use super::with_scratch;

/// Side of the squares that a transposition goes by: their rows are cache lines.
const SQUARE: usize = 16;

/// Values that a thread moves at once, at least: fewer take less time than waking it.
const AT_ONCE: usize = 1 << 14;

/// `[rows, columns]` to `[columns, rows]`.
pub(crate) fn transpose(values: &[f32], [rows, columns]: [usize; 2], result: &mut [f32]) {
    assert!(values.len() == rows * columns && result.len() == values.len());
    let strip = (SQUARE * rows).max(1);
    let strips = result.par_chunks_mut(strip).enumerate();
    let strips = strips.with_min_len(AT_ONCE.div_ceil(strip));
    strips.for_each(|(strip, result)| {
        let first = strip * SQUARE;
        let width = SQUARE.min(columns - first);
        for row in (0..rows).step_by(SQUARE) {
            let height = SQUARE.min(rows - row);
            if [width, height] == [SQUARE; 2] {
                let turned = turned_square(&values[row * columns + first..], columns);
                for (x, line) in turned.iter().enumerate() {
                    result[x * rows + row..][..SQUARE].copy_from_slice(line);
                }
            } else {
                for (x, y) in (0..width).flat_map(|x| (0..height).map(move |y| (x, y))) {
                    result[x * rows + row + y] = values[(row + y) * columns + first + x];
                }
            }
        }
    });
}

/// The square at the start of some rows, transposed by fours, for which every CPU has instructions.
fn turned_square(values: &[f32], columns: usize) -> [[f32; SQUARE]; SQUARE] {
    const FOUR: usize = 4;
    let mut turned = [[0.0; SQUARE]; SQUARE];
    for y in (0..SQUARE).step_by(FOUR) {
        let lines: [&[f32]; FOUR] =
            array::from_fn(|line| &values[(y + line) * columns..][..SQUARE]);
        for x in (0..SQUARE).step_by(FOUR) {
            let [a, b, c, d] = lines.map(|line| &line[x..x + FOUR]);
            for place in 0..FOUR {
                let column = [a[place], b[place], c[place], d[place]];
                turned[x + place][y..y + FOUR].copy_from_slice(&column);
            }
        }
    }
    turned
}

/// Lends `[outputs, inputs]`, each output's weights times its scale.
pub(crate) fn with_scaled<R>(
    weights: &[f32],
    inputs: usize,
    scale: Option<&[f32]>,
    work: impl FnOnce(&[f32]) -> R,
) -> R {
    let Some(scale) = scale else {
        return work(weights);
    };
    with_scratch(weights.len(), |scaled| {
        let outputs = scaled.par_chunks_mut(inputs.max(1)).zip(scale);
        let outputs = outputs.zip(weights.par_chunks(inputs.max(1)));
        let outputs = outputs.with_min_len(AT_ONCE.div_ceil(inputs.max(1)));
        outputs.for_each(|((scaled, scale), weights)| {
            for (scaled, weight) in scaled.iter_mut().zip(weights) {
                *scaled = weight * scale;
            }
        });
        work(scaled)
    })
}

/// Sums of one output, `[some taps, some inputs]`, times its scale to their places among its weights, `[inputs, taps]`.
pub(crate) fn place_scaled(
    sums: &[f32],
    (part, taps): (&Columns, usize),
    scale: f32,
    weights: &mut [f32],
) {
    let inputs = part.channels.clone();
    if taps == 1 {
        for (weight, sum) in weights[inputs].iter_mut().zip(sums) {
            *weight = sum * scale;
        }
        return;
    }
    for (tap, sums) in part.taps.clone().zip(sums.chunks_exact(inputs.len())) {
        let weights = weights[inputs.start * taps + tap..].iter_mut();
        for (weight, sum) in weights.step_by(taps).zip(sums) {
            *weight = sum * scale;
        }
    }
}

/// `[outputs, inputs, taps]` to `[outputs, taps, inputs]`, each output's weights times its scale.
pub(crate) fn taps_before_inputs(
    weights: &[f32],
    [inputs, taps]: [usize; 2],
    scale: Option<&[f32]>,
    result: &mut [f32],
) {
    let output = (inputs * taps).max(1);
    let outputs = result
        .par_chunks_mut(output)
        .zip(weights.par_chunks(output));
    let outputs = outputs.with_min_len(AT_ONCE.div_ceil(output));
    outputs.enumerate().for_each(|(output, (result, weights))| {
        let scale = scale.map_or(1.0, |scale| scale[output]);
        for (tap, values) in result.chunks_exact_mut(inputs).enumerate() {
            for (value, weights) in values.iter_mut().zip(weights.chunks_exact(taps)) {
                *value = weights[tap] * scale;
            }
        }
    });
}

/// `[outer, inner, length]` to `[inner, outer, length]`.
pub(crate) fn swap_rows(
    values: &[f32],
    [outer, inner]: [usize; 2],
    length: usize,
    result: &mut [f32],
) {
    let rows = result.par_chunks_mut(length.max(1)).enumerate();
    let rows = rows.with_min_len(AT_ONCE.div_ceil(length.max(1)));
    rows.for_each(|(row, result)| {
        let source = (row % outer) * inner + row / outer;
        result.copy_from_slice(&values[source * length..][..length]);
    });
}

/// A gradient, `[inputs, taps, outputs]`, in the order of the weights, each output's times its
/// scale.
pub(crate) fn in_parameter_order(
    gradient: &[f32],
    outputs: usize,
    scale: Option<&[f32]>,
) -> Vec<f32> {
    let of_an_output = gradient.len() / outputs;
    let mut result = vec![0.0; gradient.len()];
    transpose(gradient, [of_an_output, outputs], &mut result);
    if let Some(scale) = scale {
        let rows = result.par_chunks_mut(of_an_output.max(1)).zip(scale);
        rows.for_each(|(row, scale)| row.iter_mut().for_each(|value| *value *= scale));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposition_moves_every_value() {
        for [rows, columns] in [[1, 1], [3, 40], [17, 16], [40, 33]] {
            let values: Vec<f32> = (0..rows * columns).map(|place| place as f32).collect();
            let mut transposed = vec![f32::NAN; values.len()];
            transpose(&values, [rows, columns], &mut transposed);
            for (place, value) in transposed.iter().enumerate() {
                assert_eq!(*value, values[place % rows * columns + place / rows]);
            }
        }
    }
}
