//! Convolution of bytes by weights of seven bits, on the `rten-gemm` crate.

use std::fmt;

use pulp::bytemuck::cast_slice_mut;
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

use super::direct::{blocks, split_by};
use super::dot_products::{ByteMaps, Panels};
use super::epilogue::Epilogue;
use super::gather::{Columns, Windows};
use super::matrix::has_dot_products;
use super::{memory, vectorized, with_scratch};
use crate::problem::Problem;
use crate::quantized::InputRange;

/// The largest whole weight: seven bits with the sign. With eight, two products of bytes and weights would not fit the
/// sixteen bits in which AVX2 adds them up, and other CPUs would compute something else.
const LARGEST_WEIGHT: f32 = 63.0;

type Executor = GemmExecutor<u8, i8, i32>;

/// How an input becomes bytes.
#[derive(Clone, Copy, Debug)]
struct Quantizer {
    /// What one byte stands for more than the byte before.
    scale: f32,
    /// The byte of 0.
    zero_point: u8,
}

impl Quantizer {
    fn of(range: InputRange) -> Self {
        let scale = (range.high - range.low) / 255.0;
        if scale.is_normal() {
            let zero_point = (-range.low / scale).round() as u8;
            Self { scale, zero_point }
        } else {
            // Nothing but zeros.
            Self {
                scale: 1.0,
                zero_point: 0,
            }
        }
    }

    /// The nearest byte of each value.
    fn write(self, values: &[f32], bytes: &mut [u8]) {
        /// To this the CPU adds numbers below 2^22 by rounding them to whole ones, in its last bits.
        const ROUNDS: f32 = 12_582_912.0;
        let (inverse, zero_point) = (1.0 / self.scale, f32::from(self.zero_point));
        vectorized(
            #[inline(always)]
            || {
                for (byte, value) in bytes.iter_mut().zip(values) {
                    let place = (value * inverse + zero_point).clamp(0.0, 255.0);
                    *byte = (place + ROUNDS).to_bits() as u8;
                }
            },
        );
    }

    fn of_all(self, input: &[f32]) -> Vec<u8> {
        /// How many values a thread takes at once.
        const CHUNK: usize = 1 << 15;
        let mut bytes = vec![0; input.len()];
        let chunks = bytes.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK));
        chunks.for_each(|(bytes, values)| self.write(values, bytes));
        bytes
    }
}

/// A convolution's weights as whole numbers, packed for the product.
#[derive(Debug)]
pub(crate) struct PackedWeights {
    quantizer: Quantizer,
    factor: Factor,
}

/// Weights as a kernel wants them.
#[derive(Debug)]
enum Factor {
    /// For the CPU's dot products of bytes.
    Panels(Panels),
    /// For all others.
    Matrix(MatrixFactor),
}

impl PackedWeights {
    /// Packs weights `[outputs, inputs, kernel height, kernel width]` of a convolution without groups.
    pub(crate) fn new(problem: &Problem, weights: &[f32], range: InputRange) -> Self {
        Self::with_kernel(problem, weights, range, has_dot_products())
    }

    /// The same for the CPU's dot products of bytes, or for any CPU.
    pub(crate) fn with_kernel(
        problem: &Problem,
        weights: &[f32],
        range: InputRange,
        dot_products: bool,
    ) -> Self {
        let quantizer = Quantizer::of(range);
        let (whole, mut scales) = round_weights(weights, problem.outputs);
        for scale in &mut scales {
            *scale *= quantizer.scale;
        }
        let of_outputs = whole.chunks_exact(problem.taps() * problem.inputs);
        let excess = of_outputs.map(|weights| {
            let sum: i32 = weights.iter().copied().map(i32::from).sum();
            sum * i32::from(quantizer.zero_point)
        });
        let excess: Vec<i32> = excess.collect();
        let factor = if dot_products {
            Factor::Panels(Panels::new(problem, &whole, &excess, &scales))
        } else {
            Factor::Matrix(MatrixFactor::new(problem, &whole, excess, scales))
        };
        Self { quantizer, factor }
    }

    /// Computes the output, `[pixels, outputs]`.
    pub(crate) fn forward(
        &self,
        problem: &Problem,
        input: &[f32],
        epilogue: Epilogue<'_>,
    ) -> Vec<f32> {
        let mut output = memory::zeros(problem.maps_out.pixels() * problem.outputs);
        let finish = |start, chunk: &mut [f32]| epilogue.at(start).apply(chunk, problem.outputs);
        match &self.factor {
            Factor::Panels(panels) => {
                let write = |values: &[f32], bytes: &mut [u8]| self.quantizer.write(values, bytes);
                with_bytes(ByteMaps::length(problem), |bytes| {
                    let maps =
                        ByteMaps::new(problem, input, bytes, self.quantizer.zero_point, write);
                    panels.forward(problem, &maps, &mut output, finish);
                });
            }
            Factor::Matrix(factor) => {
                factor.forward(problem, input, self.quantizer, &mut output, finish);
            }
        }
        output
    }
}

/// Weights as a matrix `[taps * inputs, outputs]`, packed, and what each output's sum needs.
struct MatrixFactor {
    packed: PackedBMatrix<i8>,
    /// What the zero point adds to each output's sum.
    excess: Vec<i32>,
    /// The scale of each output's sum: its weights' times the input's.
    scales: Vec<f32>,
}

impl MatrixFactor {
    fn new(problem: &Problem, whole: &[i8], excess: Vec<i32>, scales: Vec<f32>) -> Self {
        let (taps, inputs, outputs) = (problem.taps(), problem.inputs, problem.outputs);
        let depth = taps * inputs;
        let mut factor = vec![0_i8; depth * outputs];
        for (index, weight) in whole.iter().enumerate() {
            let (output, input, tap) = (index / depth, index / taps % inputs, index % taps);
            factor[(tap * inputs + input) * outputs + output] = *weight;
        }
        let factor = NdTensorView::from_data([depth, outputs], &factor[..]);
        Self {
            packed: Executor::new().prepack_b(factor),
            excess,
            scales,
        }
    }

    /// Gathers columns and multiplies them, block by block.
    fn forward(
        &self,
        problem: &Problem,
        input: &[f32],
        quantizer: Quantizer,
        output: &mut [f32],
        finish: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let pixels = problem.maps_out.pixels();
        let depth = problem.taps() * problem.inputs;
        let (blocks, _) = blocks(pixels, depth);
        let lengths = blocks.iter().map(|block| block.len() * problem.outputs);
        let chunks = split_by(output, lengths);
        let whole = (!problem.is_pointwise()).then(|| quantizer.of_all(input));
        let part = Columns {
            taps: 0..problem.taps(),
            channels: 0..problem.inputs,
        };
        let work = |(block, chunk): (std::ops::Range<usize>, &mut [f32])| {
            let start = block.start * problem.outputs;
            with_bytes(block.len() * depth, |columns| {
                if let Some(whole) = &whole {
                    let windows = Windows::new(problem, whole, quantizer.zero_point);
                    windows.gather(block, &part, columns);
                } else {
                    let values = &input[block.start * depth..block.end * depth];
                    quantizer.write(values, columns);
                }
                self.multiply(columns, chunk);
            });
            finish(start, chunk);
        };
        let blocks: Vec<_> = blocks.into_iter().zip(chunks).collect();
        blocks.into_par_iter().with_max_len(1).for_each(work);
    }

    /// Multiplies columns, `[pixels, taps * inputs]`, and writes the sums, dequantised.
    fn multiply(&self, columns: &[u8], output: &mut [f32]) {
        let outputs = self.scales.len();
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
                        let constants = self.excess.iter().zip(&self.scales);
                        let values = pixel.iter_mut().zip(sums).zip(constants);
                        for ((value, sum), (excess, scale)) in values {
                            *value = (sum - excess) as f32 * scale;
                        }
                    }
                },
            );
        });
    }
}

impl fmt::Debug for MatrixFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MatrixFactor")
            .field("scales", &self.scales)
            .finish_non_exhaustive()
    }
}

/// The nearest whole numbers of the weights of so many outputs, and the scale of each output.
pub(crate) fn round_weights(weights: &[f32], outputs: usize) -> (Vec<i8>, Vec<f32>) {
    let of_outputs = weights.chunks_exact((weights.len() / outputs.max(1)).max(1));
    let scales: Vec<f32> = of_outputs.clone().map(weight_scale).collect();
    let whole = of_outputs.zip(&scales).flat_map(|(weights, scale)| {
        let weights = weights.iter();
        weights.map(|weight| whole_weight(*weight, *scale))
    });
    (whole.collect(), scales)
}

/// The scale of an output's weights.
fn weight_scale(weights: &[f32]) -> f32 {
    let largest = weights.iter().copied().map(f32::abs).fold(0.0, f32::max);
    if largest > 0.0 {
        largest / LARGEST_WEIGHT
    } else {
        1.0
    }
}

/// The nearest whole weight.
fn whole_weight(weight: f32, scale: f32) -> i8 {
    (weight / scale)
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
