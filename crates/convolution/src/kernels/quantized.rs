//! Convolution of bytes by weights of seven bits, on the `rten-gemm` crate.

use std::fmt;

use pulp::bytemuck::cast_slice_mut;
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

use super::direct::{blocks, split_by};
use super::epilogue::Epilogue;
use super::gather::{Columns, Windows};
use super::{memory, vectorized, with_scratch};
use crate::problem::Problem;
use crate::quantized::InputRange;

/// The largest whole weight: seven bits with the sign. With eight, two products of bytes and weights would not fit the
/// sixteen bits in which AVX2 adds them up, and other CPUs would compute something else.
const LARGEST_WEIGHT: f32 = 63.0;

type Executor = GemmExecutor<u8, i8, i32>;

/// The bytes that stand for an input.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    /// What a byte more is worth.
    step: f32,
    /// The byte of 0.
    zero: u8,
}

impl Bytes {
    fn of(range: InputRange) -> Self {
        let step = (range.high - range.low) / 255.0;
        if step > 0.0 {
            let zero = (-range.low / step).round() as u8;
            Self { step, zero }
        } else {
            // Nothing but zeros.
            Self { step: 1.0, zero: 0 }
        }
    }

    /// The nearest byte of each value; 0 for what is none.
    fn write(self, values: &[f32], bytes: &mut [u8]) {
        /// To this the CPU adds numbers below 2^22 by rounding them to whole ones, in its last bits.
        const ROUNDS: f32 = 12_582_912.0;
        let (steps, zero) = (1.0 / self.step, f32::from(self.zero));
        vectorized(
            #[inline(always)]
            || {
                for (byte, value) in bytes.iter_mut().zip(values) {
                    let place = (value * steps + zero).max(0.0).min(255.0);
                    *byte = (place + ROUNDS).to_bits() as u8;
                }
            },
        );
    }
}

/// A convolution's weights as whole numbers, packed for the product.
pub(crate) struct PackedWeights {
    packed: PackedBMatrix<i8>,
    bytes: Bytes,
    /// What each output's sum is worth.
    steps: Vec<f32>,
    /// What the byte of 0 adds to each output's sum.
    excess: Vec<i32>,
}

impl PackedWeights {
    /// Packs weights `[outputs, inputs, kernel height, kernel width]` of a convolution without groups.
    pub(crate) fn new(problem: &Problem, weights: &[f32], range: InputRange) -> Self {
        let bytes = Bytes::of(range);
        let (taps, inputs, outputs) = (problem.taps(), problem.inputs, problem.outputs);
        let depth = taps * inputs;
        let mut factor = vec![0_i8; depth * outputs];
        let (mut steps, mut excess) = (Vec::with_capacity(outputs), Vec::with_capacity(outputs));
        for (output, weights) in weights.chunks_exact(depth).enumerate() {
            let step = weight_step(weights);
            let mut sum = 0;
            for (index, weight) in weights.iter().enumerate() {
                let (input, tap) = (index / taps, index % taps);
                let whole = whole_weight(*weight, step);
                factor[(tap * inputs + input) * outputs + output] = whole;
                sum += i32::from(whole);
            }
            steps.push(step * bytes.step);
            excess.push(sum * i32::from(bytes.zero));
        }
        let factor = NdTensorView::from_data([depth, outputs], &factor[..]);
        Self {
            packed: Executor::new().prepack_b(factor),
            bytes,
            steps,
            excess,
        }
    }

    /// Computes the output, `[pixels, outputs]`.
    pub(crate) fn forward(&self, problem: &Problem, input: &[f32], end: Epilogue<'_>) -> Vec<f32> {
        let pixels = problem.maps_out.pixels();
        let depth = problem.taps() * problem.inputs;
        let mut output = memory::zeros(pixels * problem.outputs);
        let (blocks, _) = blocks(pixels, depth);
        let lengths = blocks.iter().map(|block| block.len() * problem.outputs);
        let chunks = split_by(&mut output, lengths);
        let whole = (!problem.is_pointwise()).then(|| self.in_bytes(input));
        let part = Columns {
            taps: 0..problem.taps(),
            channels: 0..problem.inputs,
        };
        let work = |(block, chunk): (std::ops::Range<usize>, &mut [f32])| {
            let start = block.start * problem.outputs;
            with_bytes(block.len() * depth, |columns| {
                if let Some(bytes) = &whole {
                    let windows = Windows::new(problem, bytes, self.bytes.zero);
                    windows.gather(block, &part, columns);
                } else {
                    let values = &input[block.start * depth..block.end * depth];
                    self.bytes.write(values, columns);
                }
                self.multiply(columns, chunk);
            });
            end.at(start).apply(chunk, problem.outputs);
        };
        let blocks: Vec<_> = blocks.into_iter().zip(chunks).collect();
        blocks.into_par_iter().with_max_len(1).for_each(work);
        output
    }

    fn in_bytes(&self, input: &[f32]) -> Vec<u8> {
        /// How many values a thread takes at once.
        const CHUNK: usize = 1 << 15;
        let mut bytes = vec![0; input.len()];
        let chunks = bytes.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK));
        chunks.for_each(|(bytes, values)| self.bytes.write(values, bytes));
        bytes
    }

    /// Multiplies columns, `[pixels, taps * inputs]`, and writes what the sums are worth.
    fn multiply(&self, columns: &[u8], output: &mut [f32]) {
        let outputs = self.steps.len();
        let rows = output.len() / outputs;
        let columns = NdTensorView::from_data([rows, columns.len() / rows.max(1)], columns);
        with_scratch(output.len(), |scratch| {
            let sums: &mut [i32] = cast_slice_mut(scratch);
            let (left, right) = (
                GemmInputA::Unpacked(columns),
                GemmInputB::Packed(&self.packed),
            );
            let product = Executor::new().gemm(sums, left, right, GemmOptions::default());
            product.expect("the weights are packed for this depth and this CPU");
            vectorized(
                #[inline(always)]
                || {
                    let pixels = output.chunks_exact_mut(outputs);
                    for (pixel, sums) in pixels.zip(sums.chunks_exact(outputs)) {
                        let constants = self.excess.iter().zip(&self.steps);
                        let values = pixel.iter_mut().zip(sums).zip(constants);
                        for ((value, sum), (excess, step)) in values {
                            *value = (sum - excess) as f32 * step;
                        }
                    }
                },
            );
        });
    }
}

impl fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedWeights")
            .field("bytes", &self.bytes)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// What a whole weight more of an output is worth.
pub(crate) fn weight_step(weights: &[f32]) -> f32 {
    let largest = weights.iter().copied().map(f32::abs).fold(0.0, f32::max);
    if largest > 0.0 {
        largest / LARGEST_WEIGHT
    } else {
        1.0
    }
}

/// The nearest whole weight.
pub(crate) fn whole_weight(weight: f32, step: f32) -> i8 {
    (weight / step)
        .round()
        .clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT) as i8
}

/// Lends a thread's scratch memory as bytes.
fn with_bytes(length: usize, work: impl FnOnce(&mut [u8])) {
    with_scratch(length.div_ceil(size_of::<f32>()), |scratch| {
        let bytes: &mut [u8] = cast_slice_mut(scratch);
        work(&mut bytes[..length]);
    });
}
