//! Winograd's F(4×4, 3×3) for 3×3 convolutions with stride 1 and padding 1
//! ([Lavin and Gray 2016](https://arxiv.org/abs/1509.09308)).
//!
//! The map is cut into tiles of 4×4 output pixels. A tile sees 6×6 input pixels; transformed, its
//! convolution is 36 products, one for each of the 6×6 places ("frequencies"), that sum over
//! channels: with `X = BᵀxB`, `W = GwGᵀ` and `y = AᵀYA`, `Y = W ⊙ X`. The gradients are the adjoint
//! maps: `dX` through the forward with the kernel turned round, `dw = Gᵀ(Σ X ⊙ (A dy Aᵀ))G`.

use std::ops::{Add, Mul, Range, Sub};

use pulp::Arch;
use rayon::prelude::*;

use super::direct::split_by;
use super::epilogue::Epilogue;
use super::matrix::{Matrix, Product, Threads, multiply};
use super::{weights, with_scratch};
use crate::problem::Problem;
use crate::shape::{Maps, split};

/// Output pixels along a tile's side.
const TILE: usize = 4;
/// Input pixels along a tile's side.
const PATCH: usize = 6;
/// Places of a transformed tile.
const FREQUENCIES: usize = PATCH * PATCH;

/// Tiles that are transformed and multiplied together: enough to keep the products busy, few
/// enough to stay in the cache.
const BLOCK_TILES: [usize; 2] = [16, 96];

/// Tiles whose transforms are held at once for the gradient of the weights.
const HELD_TILES: usize = 1024;

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
    let (inputs, outputs) = (problem.inputs, problem.outputs);
    let channels = [inputs, outputs];
    with_scratch((9 + FREQUENCIES) * inputs * outputs, |scratch| {
        let (kernels, transformed) = scratch.split_at_mut(9 * inputs * outputs);
        weights::transpose(parameters, [outputs, inputs * 9], kernels);
        transform_kernels(kernels, channels, Turn::None, transformed);
        convolve(&problem.maps_in, input, transformed, channels, end)
    })
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
    with_scratch((9 + FREQUENCIES) * inputs * outputs, |scratch| {
        let (kernels, transformed) = scratch.split_at_mut(9 * inputs * outputs);
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
    with_scratch((9 + FREQUENCIES) * inputs * outputs, |scratch| {
        let (kernels, sums) = scratch.split_at_mut(9 * inputs * outputs);
        sums.fill(0.0);
        for held in held_together(&blocks) {
            add_products(maps, held, input, gradient, [inputs, outputs], sums);
        }
        gather_kernels(sums, [inputs, outputs], kernels);
        weights::in_parameter_order(kernels, outputs, scale)
    })
}

/// Adds `X ⊙ (A dy Aᵀ)` of some tiles to `sums`, `[frequencies, inputs, outputs]`.
fn add_products(
    maps: &Maps,
    blocks: &[Block],
    input: &[f32],
    gradient: &[f32],
    [inputs, outputs]: [usize; 2],
    sums: &mut [f32],
) {
    let of_a_tile = FREQUENCIES * (inputs + outputs);
    let tiles: usize = blocks.iter().map(|block| block.tiles).sum();
    with_scratch(of_a_tile * tiles, |scratch| {
        let pieces = split_by(scratch, blocks.iter().map(|block| block.tiles * of_a_tile));
        let mut pieces: Vec<(&Block, [&mut [f32]; 2])> = blocks
            .iter()
            .zip(pieces)
            .map(|(block, piece)| {
                let (seen, wanted) = piece.split_at_mut(FREQUENCIES * block.tiles * inputs);
                (block, [seen, wanted])
            })
            .collect();
        let work = pieces.par_iter_mut().with_max_len(1);
        work.for_each(|(block, [seen, wanted])| {
            block.transform_input(maps, input, inputs, seen);
            block.transform_gradient(maps, gradient, outputs, wanted);
        });
        let frequencies = sums.par_chunks_mut(inputs * outputs).with_max_len(1);
        frequencies.enumerate().for_each(|(frequency, sums)| {
            for (block, [seen, wanted]) in &pieces {
                let (tiles, at) = (block.tiles, frequency * block.tiles);
                let seen = Matrix::dense(&seen[at * inputs..], tiles, inputs);
                let wanted = Matrix::dense(&wanted[at * outputs..], tiles, outputs);
                let product = Product {
                    values: &mut *sums,
                    stride: outputs,
                    accumulate: true,
                };
                multiply(seen.transposed(), wanted, product, Threads::One);
            }
        });
    });
}

/// Convolves with transformed kernels, `[frequencies, inputs, outputs]`.
fn convolve(
    maps: &Maps,
    input: &[f32],
    kernels: &[f32],
    [inputs, outputs]: [usize; 2],
    end: Epilogue<'_>,
) -> Vec<f32> {
    let mut output = vec![0.0; maps.pixels() * outputs];
    let blocks = blocks(maps);
    let chunks = split_by(&mut output, blocks.iter().map(|b| b.pixels.len() * outputs));
    let work: Vec<_> = blocks.iter().zip(chunks).collect();
    work.into_par_iter()
        .with_max_len(1)
        .for_each(|(block, chunk)| {
            let tiles = block.tiles;
            with_scratch(FREQUENCIES * tiles * (inputs + outputs), |scratch| {
                let (seen, products) = scratch.split_at_mut(FREQUENCIES * tiles * inputs);
                block.transform_input(maps, input, inputs, seen);
                let frequencies = products.chunks_exact_mut(tiles * outputs).enumerate();
                for (frequency, product) in frequencies {
                    let seen = &seen[frequency * tiles * inputs..];
                    let kernels = &kernels[frequency * inputs * outputs..];
                    let product = Product {
                        values: product,
                        stride: outputs,
                        accumulate: false,
                    };
                    multiply(
                        Matrix::dense(seen, tiles, inputs),
                        Matrix::dense(kernels, inputs, outputs),
                        product,
                        Threads::One,
                    );
                }
                block.transform_output(maps, products, outputs, chunk);
            });
            end.at(block.pixels.start * outputs).apply(chunk, outputs);
        });
    output
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
    let length = (tiles(maps) / 4).clamp(least, most);
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

    /// `BᵀxB` of every tile, to `[frequencies, tiles, channels]`.
    fn transform_input(&self, maps: &Maps, input: &[f32], channels: usize, result: &mut [f32]) {
        let starts: Vec<usize> = maps.ranges().map(|range| range.start).collect();
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (tile, (map, [y, x])) in self.places(maps).enumerate() {
                    let window = Window::new(maps.sizes()[map], starts[map], channels);
                    let offsets = window.offsets::<PATCH>([y as isize - 1, x as isize - 1]);
                    let place = tile * channels;
                    let step = self.tiles * channels;
                    for channel in (0..channels).step_by(LANES) {
                        let lanes = LANES.min(channels - channel);
                        let patch = load(input, &offsets, channel, lanes);
                        let patch = both_ways::<Input, _, _>(&patch);
                        store(result, &patch, place + channel, step, lanes);
                    }
                }
            },
        );
    }

    /// `A dy Aᵀ` of every tile, to `[frequencies, tiles, channels]`.
    fn transform_gradient(&self, maps: &Maps, values: &[f32], channels: usize, result: &mut [f32]) {
        let starts: Vec<usize> = maps.ranges().map(|range| range.start).collect();
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (tile, (map, [y, x])) in self.places(maps).enumerate() {
                    let window = Window::new(maps.sizes()[map], starts[map], channels);
                    let offsets = window.offsets::<TILE>([y as isize, x as isize]);
                    let place = tile * channels;
                    let step = self.tiles * channels;
                    for channel in (0..channels).step_by(LANES) {
                        let lanes = LANES.min(channels - channel);
                        let patch = load(values, &offsets, channel, lanes);
                        let patch = both_ways::<OutputAdjoint, _, _>(&patch);
                        store(result, &patch, place + channel, step, lanes);
                    }
                }
            },
        );
    }

    /// `AᵀYA` of every tile, to the block's own output pixels.
    fn transform_output(&self, maps: &Maps, products: &[f32], channels: usize, output: &mut [f32]) {
        let starts: Vec<usize> = maps.ranges().map(|range| range.start).collect();
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (tile, (map, [y, x])) in self.places(maps).enumerate() {
                    let size = maps.sizes()[map];
                    let window = Window::new(size, starts[map], channels);
                    let offsets = window.offsets::<TILE>([y as isize, x as isize]);
                    let step = self.tiles * channels;
                    for channel in (0..channels).step_by(LANES) {
                        let lanes = LANES.min(channels - channel);
                        let place = tile * channels + channel;
                        let patch = load_columns::<PATCH>(products, place, step, lanes);
                        let pixels = both_ways::<Output, _, _>(&patch);
                        for y in 0..TILE {
                            for x in 0..TILE {
                                if let Some(offset) = offsets[y][x] {
                                    let start = offset - self.pixels.start * channels + channel;
                                    pixels[y][x].store(&mut output[start..], lanes);
                                }
                            }
                        }
                    }
                }
            },
        );
    }
}

/// Whether kernels are turned by half a turn, as the gradient of the input wants them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    None,
    Half,
}

/// `GwGᵀ` of every kernel: from `[from, 9, to]` to `[frequencies, from, to]`.
fn transform_kernels(kernels: &[f32], [from, to]: [usize; 2], turn: Turn, result: &mut [f32]) {
    let planes: Vec<&mut [f32]> = result.chunks_exact_mut(from * to).collect();
    let rows = rows_of(planes, to);
    rows.into_par_iter()
        .zip(kernels.par_chunks(9 * to))
        .for_each(|(mut result, kernels)| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for start in (0..to).step_by(LANES) {
                        let lanes = LANES.min(to - start);
                        let mut kernel = [[Lanes::ZERO; 3]; 3];
                        for tap in 0..9 {
                            let place = if turn == Turn::Half { 8 - tap } else { tap };
                            kernel[place / 3][place % 3] =
                                Lanes::load(&kernels[tap * to + start..], lanes);
                        }
                        let patch = both_ways::<Kernel, _, _>(&kernel);
                        for place in 0..FREQUENCIES {
                            patch[place / PATCH][place % PATCH]
                                .store(&mut result[place][start..], lanes);
                        }
                    }
                },
            );
        });
}

/// `GᵀWG` of every kernel: from `[frequencies, from, to]` to `[from, 9, to]`.
fn gather_kernels(values: &[f32], [from, to]: [usize; 2], result: &mut [f32]) {
    let rows = result.par_chunks_mut(9 * to).enumerate();
    rows.for_each(|(row, result)| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for start in (0..to).step_by(LANES) {
                    let lanes = LANES.min(to - start);
                    let patch = load_columns::<PATCH>(values, row * to + start, from * to, lanes);
                    let kernel = both_ways::<KernelAdjoint, _, _>(&patch);
                    for tap in 0..9 {
                        kernel[tap / 3][tap % 3].store(&mut result[tap * to + start..], lanes);
                    }
                }
            },
        );
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

/// Where the pixels of a map lie in its buffer.
struct Window {
    size: [usize; 2],
    start: usize,
    channels: usize,
}

impl Window {
    const fn new(size: [usize; 2], start: usize, channels: usize) -> Self {
        Self {
            size,
            start,
            channels,
        }
    }

    /// Of each of `N`×`N` pixels from `first` on; `None` outside the map.
    #[inline(always)]
    fn offsets<const N: usize>(&self, first: [isize; 2]) -> [[Option<usize>; N]; N] {
        let [height, width] = self.size.map(|side| side as isize);
        let mut offsets = [[None; N]; N];
        for y in 0..N {
            for x in 0..N {
                let [row, column] = [first[0] + y as isize, first[1] + x as isize];
                if row >= 0 && row < height && column >= 0 && column < width {
                    let pixel = self.start + (row * width + column) as usize;
                    offsets[y][x] = Some(pixel * self.channels);
                }
            }
        }
        offsets
    }
}

// Plain loops and static calls from here on: closures that an iterator or `array::from_fn` calls are
// compiled apart, and so not for the CPU at hand.

#[inline(always)]
fn load<const N: usize>(
    values: &[f32],
    offsets: &[[Option<usize>; N]; N],
    channel: usize,
    lanes: usize,
) -> [[Lanes; N]; N] {
    let mut patch = [[Lanes::ZERO; N]; N];
    for y in 0..N {
        for x in 0..N {
            if let Some(offset) = offsets[y][x] {
                patch[y][x] = Lanes::load(&values[offset + channel..], lanes);
            }
        }
    }
    patch
}

#[inline(always)]
fn load_columns<const N: usize>(
    values: &[f32],
    place: usize,
    step: usize,
    lanes: usize,
) -> [[Lanes; N]; N] {
    let mut patch = [[Lanes::ZERO; N]; N];
    for y in 0..N {
        for x in 0..N {
            patch[y][x] = Lanes::load(&values[place + (y * N + x) * step..], lanes);
        }
    }
    patch
}

#[inline(always)]
fn store(
    result: &mut [f32],
    patch: &[[Lanes; PATCH]; PATCH],
    place: usize,
    step: usize,
    lanes: usize,
) {
    for y in 0..PATCH {
        for x in 0..PATCH {
            patch[y][x].store(&mut result[place + (y * PATCH + x) * step..], lanes);
        }
    }
}

/// Applies a transform to the columns, then to the rows.
#[inline(always)]
fn both_ways<T: Transform<N, M>, const N: usize, const M: usize>(
    patch: &[[Lanes; N]; N],
) -> [[Lanes; M]; M] {
    let mut columns = [[Lanes::ZERO; M]; N];
    for x in 0..N {
        let mut column = [Lanes::ZERO; N];
        for y in 0..N {
            column[y] = patch[y][x];
        }
        columns[x] = T::apply(column);
    }
    let mut result = [[Lanes::ZERO; M]; M];
    for y in 0..M {
        let mut row = [Lanes::ZERO; N];
        for x in 0..N {
            row[x] = columns[x][y];
        }
        result[y] = T::apply(row);
    }
    result
}

/// One of the algorithm's matrices, times a vector.
trait Transform<const N: usize, const M: usize> {
    fn apply(vector: [Lanes; N]) -> [Lanes; M];
}

/// `Bᵀ`
struct Input;

impl Transform<6, 6> for Input {
    #[inline(always)]
    fn apply(x: [Lanes; 6]) -> [Lanes; 6] {
        let (even, odd) = (x[4] - x[2] * 4.0, x[3] - x[1] * 4.0);
        let (even2, odd2) = (x[4] - x[2], (x[3] - x[1]) * 2.0);
        [
            x[0] * 4.0 - x[2] * 5.0 + x[4],
            even + odd,
            even - odd,
            even2 + odd2,
            even2 - odd2,
            x[1] * 4.0 - x[3] * 5.0 + x[5],
        ]
    }
}

/// `Aᵀ`
struct Output;

impl Transform<6, 4> for Output {
    #[inline(always)]
    fn apply(y: [Lanes; 6]) -> [Lanes; 4] {
        let (sum1, difference1) = (y[1] + y[2], y[1] - y[2]);
        let (sum2, difference2) = (y[3] + y[4], y[3] - y[4]);
        [
            y[0] + sum1 + sum2,
            difference1 + difference2 * 2.0,
            sum1 + sum2 * 4.0,
            difference1 + difference2 * 8.0 + y[5],
        ]
    }
}

/// `A`
struct OutputAdjoint;

impl Transform<4, 6> for OutputAdjoint {
    #[inline(always)]
    fn apply(y: [Lanes; 4]) -> [Lanes; 6] {
        let (even, odd) = (y[0] + y[2], y[1] + y[3]);
        let (even2, odd2) = (y[0] + y[2] * 4.0, y[1] * 2.0 + y[3] * 8.0);
        [
            y[0],
            even + odd,
            even - odd,
            even2 + odd2,
            even2 - odd2,
            y[3],
        ]
    }
}

/// `G`
struct Kernel;

impl Transform<3, 6> for Kernel {
    #[inline(always)]
    fn apply(w: [Lanes; 3]) -> [Lanes; 6] {
        let even = (w[0] + w[2]) * (-1.0 / 6.0);
        let odd = w[1] * (-1.0 / 6.0);
        let even2 = w[0] * (1.0 / 24.0) + w[2] * (1.0 / 6.0);
        let odd2 = w[1] * (1.0 / 12.0);
        [
            w[0] * 0.25,
            even + odd,
            even - odd,
            even2 + odd2,
            even2 - odd2,
            w[2],
        ]
    }
}

/// `Gᵀ`
struct KernelAdjoint;

impl Transform<6, 3> for KernelAdjoint {
    #[inline(always)]
    fn apply(u: [Lanes; 6]) -> [Lanes; 3] {
        let (sum1, difference1) = (u[1] + u[2], u[1] - u[2]);
        let (sum2, difference2) = (u[3] + u[4], u[3] - u[4]);
        [
            u[0] * 0.25 - sum1 * (1.0 / 6.0) + sum2 * (1.0 / 24.0),
            difference2 * (1.0 / 12.0) - difference1 * (1.0 / 6.0),
            (sum2 - sum1) * (1.0 / 6.0) + u[5],
        ]
    }
}

const LANES: usize = 16;

/// Channels that are transformed together: one AVX-512 register.
#[derive(Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    fn load(values: &[f32], lanes: usize) -> Self {
        if let Some(values) = values.first_chunk()
            && lanes == LANES
        {
            return Self(*values);
        }
        let mut loaded = Self::ZERO;
        loaded.0[..lanes].copy_from_slice(&values[..lanes]);
        loaded
    }

    #[inline(always)]
    fn store(self, values: &mut [f32], lanes: usize) {
        if lanes == LANES
            && let Some(values) = values.first_chunk_mut()
        {
            *values = self.0;
            return;
        }
        values[..lanes].copy_from_slice(&self.0[..lanes]);
    }
}

impl Add for Lanes {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let mut result = self;
        for lane in 0..LANES {
            result.0[lane] += other.0[lane];
        }
        result
    }
}

impl Sub for Lanes {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let mut result = self;
        for lane in 0..LANES {
            result.0[lane] -= other.0[lane];
        }
        result
    }
}

impl Mul<f32> for Lanes {
    type Output = Self;

    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        let mut result = self;
        for lane in 0..LANES {
            result.0[lane] *= factor;
        }
        result
    }
}
