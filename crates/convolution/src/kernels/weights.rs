//! Weights in the orders that the products need, from Burn's `[outputs, inputs, taps]`, and
//! gradients back into it.

use rayon::prelude::*;

/// Side of the squares that a transposition goes by: their rows are cache lines.
const SQUARE: usize = 16;

/// `[rows, columns]` to `[columns, rows]`.
pub(crate) fn transpose(values: &[f32], [rows, columns]: [usize; 2], result: &mut [f32]) {
    assert!(values.len() == rows * columns && result.len() == values.len());
    let strips = result.par_chunks_mut((SQUARE * rows).max(1)).enumerate();
    strips.for_each(|(strip, result)| {
        let first = strip * SQUARE;
        let width = SQUARE.min(columns - first);
        for row in (0..rows).step_by(SQUARE) {
            let height = SQUARE.min(rows - row);
            let mut square = [[0.0; SQUARE]; SQUARE];
            for (y, line) in square[..height].iter_mut().enumerate() {
                let source = &values[(row + y) * columns + first..];
                if let (Some(source), SQUARE) = (source.first_chunk(), width) {
                    *line = *source;
                } else {
                    line[..width].copy_from_slice(&source[..width]);
                }
            }
            for x in 0..width {
                let mut line = [0.0; SQUARE];
                for y in 0..SQUARE {
                    line[y] = square[y][x];
                }
                result[x * rows + row..][..height].copy_from_slice(&line[..height]);
            }
        }
    });
}

/// `[outputs, inputs, taps]` to `[outputs, taps, inputs]`, each output's weights times its scale.
pub(crate) fn taps_before_inputs(
    weights: &[f32],
    [inputs, taps]: [usize; 2],
    scale: Option<&[f32]>,
    result: &mut [f32],
) {
    let outputs = result
        .par_chunks_mut((inputs * taps).max(1))
        .zip(weights.par_chunks((inputs * taps).max(1)));
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
