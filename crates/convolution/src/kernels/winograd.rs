//! Winograd's F(4×4, 3×3) for 3×3 convolutions with stride 1 and padding 1
//! ([Lavin and Gray 2016](https://arxiv.org/abs/1509.09308)).
//!
//! The map is cut into tiles of 4×4 output pixels. A tile sees 6×6 input pixels; transformed, its
//! convolution is 36 products, one for each of the 6×6 places ("frequencies"), that sum over
//! channels: with `X = BᵀxB`, `W = GwGᵀ` and `y = AᵀYA`, `Y = W ⊙ X`. The gradients are the adjoint
//! maps: `dX` through the forward with the kernel turned round, `dw = Gᵀ(Σ X ⊙ (A dy Aᵀ))G`.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::direct::split_by;
use super::epilogue::Epilogue;
use super::matrix::{Matrix, Product, Threads, multiply};
use super::winograd_transforms::{
    FrequenciesToKernels, Input, KernelsToFrequencies, Offsets, OutputAdjoint, PATCH, TILE,
    ToFrequencies, ToPixels, Turn,
};
use super::{LINE, memory, weights, with_scratch};
use crate::problem::Problem;
use crate::shape::{Maps, split};

/// Places of a transformed tile.
const FREQUENCIES: usize = PATCH * PATCH;

/// Tiles that a thread transforms at once.
const BLOCK_TILES: [usize; 2] = [4, 32];

/// Tiles whose transforms are held at once: enough to keep the products busy, few enough to stay
/// in a cache.
const HELD_TILES: usize = 256;

/// How far the values of two frequencies are apart, as many as there are of one and some more: an odd number of a cache's lines.
/// A tile's transform writes to all frequencies or reads from them, and if a power of two is between them, all those places
/// share a few lines of a cache.
const fn apart(values: usize) -> usize {
    (values.div_ceil(LINE) | 1) * LINE
}

/// How many tiles cover the maps.
pub(crate) fn tiles(maps: &Maps) -> usize {
    let sizes = maps.sizes().iter();
    sizes
        .map(|[height, width]| height.div_ceil(TILE) * width.div_ceil(TILE))
        .sum()
}

/// Computes the output, `[pixels, outputs]`.
pub(crate) fn forward(
    problem: &Problem,
    input: &[f32],
    parameters: &[f32],
    end: Epilogue<'_>,
) -> Vec<f32> {
    let length = FREQUENCIES * apart(problem.inputs * problem.outputs);
    with_scratch(length, |kernels| {
        lay_out_into(problem, parameters, kernels);
        forward_laid_out(problem, input, kernels, end)
    })
}

/// [`forward`] with weights that were laid out before.
pub(crate) fn forward_laid_out(
    problem: &Problem,
    input: &[f32],
    kernels: &[f32],
    end: Epilogue<'_>,
) -> Vec<f32> {
    let channels = [problem.inputs, problem.outputs];
    convolve(&problem.maps_in, input, kernels, channels, end)
}

/// The weights as [`forward`] multiplies by them: of each frequency `[inputs, outputs]`, [`apart`].
#[cfg(not(target_family = "wasm"))]
pub(crate) fn lay_out(problem: &Problem, parameters: &[f32]) -> Vec<f32> {
    let mut kernels = vec![0.0; FREQUENCIES * apart(problem.inputs * problem.outputs)];
    lay_out_into(problem, parameters, &mut kernels);
    kernels
}

fn lay_out_into(problem: &Problem, parameters: &[f32], result: &mut [f32]) {
    let (inputs, outputs) = (problem.inputs, problem.outputs);
    with_scratch(9 * inputs * outputs, |by_input| {
        weights::transpose(parameters, [outputs, inputs * 9], by_input);
        transform_kernels(by_input, [inputs, outputs], Turn::None, result);
    });
}

/// Computes the gradient of the input, `[pixels, inputs]`.
pub(crate) fn input_gradient(
    problem: &Problem,
    gradient: &[f32],
    parameters: &[f32],
    scale: Option<&[f32]>,
) -> Vec<f32> {
    let (inputs, outputs) = (problem.inputs, problem.outputs);
    let channels = [outputs, inputs];
    let length = FREQUENCIES * apart(inputs * outputs);
    with_scratch(length + 9 * inputs * outputs, |scratch| {
        let (transformed, kernels) = scratch.split_at_mut(length);
        weights::taps_before_inputs(parameters, [inputs, 9], scale, kernels);
        transform_kernels(kernels, channels, Turn::Half, transformed);
        let end = Epilogue::default();
        convolve(&problem.maps_in, gradient, transformed, channels, end)
    })
}

/// Computes the gradient of the weights, `[outputs, inputs, 3, 3]`.
pub(crate) fn weight_gradient(
    problem: &Problem,
    input: &[f32],
    gradient: &[f32],
    scale: Option<&[f32]>,
) -> Vec<f32> {
    let (inputs, outputs) = (problem.inputs, problem.outputs);
    let maps = &problem.maps_in;
    let blocks = blocks(maps);
    let length = FREQUENCIES * apart(inputs * outputs);
    with_scratch(length + 9 * inputs * outputs, |scratch| {
        let (sums, kernels) = scratch.split_at_mut(length);
        sums.fill(0.0);
        for held in held_together(&blocks) {
            add_products(maps, held, input, gradient, [inputs, outputs], sums);
        }
        gather_kernels(sums, [inputs, outputs], kernels);
        weights::in_parameter_order(kernels, outputs, scale)
    })
}

/// Adds `X ⊙ (A dy Aᵀ)` of some tiles to `sums`, of each frequency `[inputs, outputs]`, [`apart`].
fn add_products(
    maps: &Maps,
    blocks: &[Block],
    input: &[f32],
    gradient: &[f32],
    [inputs, outputs]: [usize; 2],
    sums: &mut [f32],
) {
    let tiles: usize = blocks.iter().map(|block| block.tiles).sum();
    let (of_seen, of_wanted) = (apart(tiles * inputs), apart(tiles * outputs));
    with_scratch(FREQUENCIES * (of_seen + of_wanted), |scratch| {
        let (seen, wanted) = scratch.split_at_mut(FREQUENCIES * of_seen);
        for_each_block(blocks, seen, inputs, |block, pieces| {
            block.transform_input(maps, input, inputs, pieces);
        });
        for_each_block(blocks, wanted, outputs, |block, pieces| {
            block.transform_gradient(maps, gradient, outputs, pieces);
        });
        let frequencies = sums
            .par_chunks_mut(apart(inputs * outputs))
            .zip(seen.par_chunks(of_seen))
            .zip(wanted.par_chunks(of_wanted));
        let frequencies = frequencies.with_max_len(1);
        frequencies.for_each(|((sums, seen), wanted)| {
            let seen = Matrix::dense(seen, tiles, inputs);
            let wanted = Matrix::dense(wanted, tiles, outputs);
            let product = Product {
                values: sums,
                stride: outputs,
                accumulate: true,
            };
            multiply(seen.transposed(), wanted, product, Threads::One);
        });
    });
}

/// Convolves with transformed kernels, of each frequency `[inputs, outputs]`, [`apart`].
fn convolve(
    maps: &Maps,
    input: &[f32],
    kernels: &[f32],
    channels: [usize; 2],
    end: Epilogue<'_>,
) -> Vec<f32> {
    let [_, outputs] = channels;
    let mut output = memory::zeros(maps.pixels() * outputs);
    let blocks = blocks(maps);
    let held = held_together(&blocks);
    let pixels = |blocks: &[Block]| blocks.iter().map(|block| block.pixels.len()).sum::<usize>();
    let chunks = split_by(&mut output, held.iter().map(|held| pixels(held) * outputs));
    for (held, chunk) in held.iter().zip(chunks) {
        convolve_blocks(maps, held, input, kernels, channels, end, chunk);
    }
    output
}

/// Convolves some tiles, whose output pixels are `output`. Threads share the tiles while they are
/// transformed and the frequencies while they are multiplied, so that each kernel is read once.
fn convolve_blocks(
    maps: &Maps,
    blocks: &[Block],
    input: &[f32],
    kernels: &[f32],
    [inputs, outputs]: [usize; 2],
    end: Epilogue<'_>,
    output: &mut [f32],
) {
    let tiles: usize = blocks.iter().map(|block| block.tiles).sum();
    let (of_seen, of_products) = (apart(tiles * inputs), apart(tiles * outputs));
    with_scratch(FREQUENCIES * (of_seen + of_products), |scratch| {
        let (seen, products) = scratch.split_at_mut(FREQUENCIES * of_seen);
        for_each_block(blocks, seen, inputs, |block, pieces| {
            block.transform_input(maps, input, inputs, pieces);
        });
        let frequencies = products
            .par_chunks_mut(of_products)
            .zip(seen.par_chunks(of_seen))
            .zip(kernels.par_chunks(apart(inputs * outputs)));
        let frequencies = frequencies.with_max_len(1);
        frequencies.for_each(|((product, seen), kernels)| {
            let product = Product {
                values: product,
                stride: outputs,
                accumulate: false,
            };
            let seen = Matrix::dense(seen, tiles, inputs);
            let kernels = Matrix::dense(kernels, inputs, outputs);
            multiply(seen, kernels, product, Threads::One);
        });
        let chunks = split_by(output, blocks.iter().map(|b| b.pixels.len() * outputs));
        let first_tiles = blocks.iter().scan(0, |next, block| {
            *next += block.tiles;
            Some(*next - block.tiles)
        });
        let work: Vec<_> = blocks.iter().zip(first_tiles).zip(chunks).collect();
        let work = work.into_par_iter().with_max_len(1);
        work.for_each(|((block, first), chunk)| {
            let products = &products[first * outputs..];
            block.transform_output(maps, products, of_products, outputs, chunk);
            end.at(block.pixels.start * outputs).apply(chunk, outputs);
        });
    });
}

/// Works on blocks side by side, each with its piece of every frequency's `[tiles, channels]`.
fn for_each_block(
    blocks: &[Block],
    values: &mut [f32],
    channels: usize,
    work: impl Fn(&Block, Vec<&mut [f32]>) + Sync,
) {
    let mut pieces: Vec<Vec<&mut [f32]>> = blocks
        .iter()
        .map(|_| Vec::with_capacity(FREQUENCIES))
        .collect();
    let length = values.len() / FREQUENCIES;
    for plane in values.chunks_exact_mut(length) {
        let parts = split_by(plane, blocks.iter().map(|block| block.tiles * channels));
        for (pieces, part) in pieces.iter_mut().zip(parts) {
            pieces.push(part);
        }
    }
    let blocks = blocks.par_iter().zip(pieces).with_max_len(1);
    blocks.for_each(|(block, pieces)| work(block, pieces));
}

/// Rows of tiles, one after another.
struct Block {
    /// `[map, row]`
    rows: Vec<[usize; 2]>,
    tiles: usize,
    pixels: Range<usize>,
}

/// The maps' tiles in blocks. They do not depend on the number of threads.
fn blocks(maps: &Maps) -> Vec<Block> {
    let [least, most] = BLOCK_TILES;
    let length = (tiles(maps) / 8).clamp(least, most);
    let mut blocks: Vec<Block> = Vec::new();
    for (map, ([height, width], pixels)) in maps.sizes().iter().zip(maps.ranges()).enumerate() {
        let across = width.div_ceil(TILE);
        for row in 0..height.div_ceil(TILE) {
            let end = pixels.start + height.min(&((row + 1) * TILE)) * width;
            match blocks.last_mut() {
                Some(block) if block.tiles + across <= length => {
                    block.rows.push([map, row]);
                    block.tiles += across;
                    block.pixels.end = end;
                }
                _ => blocks.push(Block {
                    rows: vec![[map, row]],
                    tiles: across,
                    pixels: pixels.start + row * TILE * width..end,
                }),
            }
        }
    }
    blocks
}

fn held_together(blocks: &[Block]) -> Vec<&[Block]> {
    let tiles = blocks.iter().map(|block| block.tiles).max().unwrap_or(1);
    let at_once = (HELD_TILES / tiles).max(1);
    let parts = split(blocks.len(), at_once).into_iter();
    parts.map(|part| &blocks[part]).collect()
}

impl Block {
    /// Where each tile is: its map, and its first output pixel there.
    fn places(&self, maps: &Maps) -> impl Iterator<Item = (usize, [usize; 2])> {
        self.rows.iter().flat_map(move |&[map, row]| {
            let across = maps.sizes()[map][1].div_ceil(TILE);
            (0..across).map(move |column| (map, [row * TILE, column * TILE]))
        })
    }

    /// `BᵀxB` of every tile, to `[tiles, channels]` of every frequency.
    fn transform_input(
        &self,
        maps: &Maps,
        input: &[f32],
        channels: usize,
        result: Vec<&mut [f32]>,
    ) {
        Arch::new().dispatch(ToFrequencies::<Input, PATCH> {
            tiles: self.tile_offsets(maps, channels, -1),
            values: input,
            channels,
            result,
            transform: PhantomData,
        });
    }

    /// `A dy Aᵀ` of every tile, to `[tiles, channels]` of every frequency.
    fn transform_gradient(
        &self,
        maps: &Maps,
        values: &[f32],
        channels: usize,
        result: Vec<&mut [f32]>,
    ) {
        Arch::new().dispatch(ToFrequencies::<OutputAdjoint, TILE> {
            tiles: self.tile_offsets(maps, channels, 0),
            values,
            channels,
            result,
            transform: PhantomData,
        });
    }

    /// `AᵀYA` of every tile, whose frequencies are `step` apart, to the block's own output pixels.
    fn transform_output(
        &self,
        maps: &Maps,
        products: &[f32],
        step: usize,
        channels: usize,
        output: &mut [f32],
    ) {
        Arch::new().dispatch(ToPixels {
            tiles: self.tile_offsets(maps, channels, 0),
            first: self.pixels.start * channels,
            products,
            step,
            channels,
            output,
        });
    }

    /// Where the pixels of each tile are in a buffer, from `shift` pixels beside its first one.
    fn tile_offsets<const N: usize>(
        &self,
        maps: &Maps,
        channels: usize,
        shift: isize,
    ) -> Vec<Offsets<N>> {
        let starts: Vec<usize> = maps.ranges().map(|range| range.start).collect();
        let places = self.places(maps);
        places
            .map(|(map, first)| {
                let first = first.map(|pixel| pixel as isize + shift);
                offsets(maps.sizes()[map], starts[map], first, channels)
            })
            .collect()
    }
}

fn offsets<const N: usize>(
    size: [usize; 2],
    start: usize,
    first: [isize; 2],
    channels: usize,
) -> Offsets<N> {
    let [height, width] = size.map(|side| side as isize);
    std::array::from_fn(|y| {
        let y = first[0] + y as isize;
        std::array::from_fn(|x| {
            let x = first[1] + x as isize;
            let inside = (0..height).contains(&y) && (0..width).contains(&x);
            inside.then(|| (start + (y * width + x) as usize) * channels)
        })
    })
}

/// `GwGᵀ` of every kernel: from `[from, 9, to]` to each frequency's `[from, to]`.
fn transform_kernels(kernels: &[f32], [from, to]: [usize; 2], turn: Turn, result: &mut [f32]) {
    let planes = result.chunks_exact_mut(apart(from * to));
    let planes = planes.map(|plane| &mut plane[..from * to]).collect();
    let rows = rows_of(planes, to).into_par_iter();
    rows.zip(kernels.par_chunks(9 * to))
        .for_each(|(result, kernels)| {
            Arch::new().dispatch(KernelsToFrequencies {
                kernels,
                turn,
                result,
            });
        });
}

/// `GᵀWG` of every kernel: from each frequency's `[from, to]` to `[from, 9, to]`.
fn gather_kernels(values: &[f32], [from, to]: [usize; 2], result: &mut [f32]) {
    let rows = result.par_chunks_mut(9 * to).enumerate();
    rows.for_each(|(row, result)| {
        Arch::new().dispatch(FrequenciesToKernels {
            values: &values[row * to..],
            step: apart(from * to),
            result,
        });
    });
}

/// Of several planes of rows the first row of each, the second of each, and so on.
fn rows_of(planes: Vec<&mut [f32]>, length: usize) -> Vec<Vec<&mut [f32]>> {
    let mut rows: Vec<Vec<&mut [f32]>> = Vec::new();
    for plane in planes {
        for (row, values) in plane.chunks_exact_mut(length).enumerate() {
            if rows.len() <= row {
                rows.push(Vec::with_capacity(FREQUENCIES));
            }
            rows[row].push(values);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the beginning of one on.
    #[test]
    fn frequencies_are_an_odd_number_of_lines_apart() {
        for values in [1, 16, 17, 250 * 256, 256 * 256, 512 * 512] {
            let apart = apart(values);
            assert!((values..=values + 2 * LINE).contains(&apart), "{values}");
            assert_eq!((apart % LINE, apart / LINE % 2), (0, 1), "{values}");
            with_scratch(apart, |scratch| {
                assert_eq!(scratch.as_ptr().align_offset(LINE * size_of::<f32>()), 0);
            });
        }
    }
}
