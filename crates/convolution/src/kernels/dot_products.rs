//! Convolution of bytes by whole weights with the CPU's dot products of four bytes (AVX-512 VNNI), on windows where they lie:
//! nothing is gathered and nothing packed but the weights.

use std::ops::Range;

use rayon::prelude::*;

use super::direct::split_by;
use super::matrix::multiply_windows;
use crate::problem::Problem;
use crate::shape::split;

/// Outputs of a panel, four vectors of 16.
pub(crate) const PANEL: usize = 64;

/// Pixels of a tile, whose sums fill 24 of the CPU's 32 registers.
pub(crate) const TILE: usize = 6;

/// Channels of a dot product.
const QUAD: usize = 4;

/// Weights of four channels for a panel's outputs.
pub(crate) type PanelQuad = [[i8; PANEL]; QUAD];

/// Weights, panel after panel, and how their sums are dequantised.
#[derive(Debug)]
pub(crate) struct Panels {
    /// `[panels, taps, channels / 4]`
    weights: Vec<PanelQuad>,
    /// `[panels]`
    scales: Vec<PanelScales>,
    outputs: usize,
}

/// How a panel's sums are dequantised: `(sum - excess) * scale`.
#[derive(Clone, Debug)]
pub(crate) struct PanelScales {
    pub(crate) excess: [i32; PANEL],
    pub(crate) scale: [f32; PANEL],
}

/// The windows of a tile's pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileWindows<'a> {
    pub(crate) bytes: &'a [u8],
    /// Where each window begins.
    pub(crate) starts: [usize; TILE],
    /// Where each tap is in a window.
    pub(crate) taps: &'a [usize],
    /// Channels of a tap, a multiple of 4.
    pub(crate) channels: usize,
}

impl Panels {
    /// Packs whole weights, `[outputs, inputs, taps]`.
    pub(crate) fn new(
        problem: &Problem,
        weights: &[i8],
        excess: &[i32],
        sum_scales: &[f32],
    ) -> Self {
        let (taps, inputs, outputs) = (problem.taps(), problem.inputs, problem.outputs);
        let (quads, panels) = (inputs.div_ceil(QUAD), outputs.div_ceil(PANEL));
        let mut packed = vec![[[0; PANEL]; QUAD]; panels * taps * quads];
        for (index, weight) in weights.iter().enumerate() {
            let (output, input, tap) = (index / taps / inputs, index / taps % inputs, index % taps);
            let place = (output / PANEL * taps + tap) * quads + input / QUAD;
            let byte = output % PANEL * QUAD + input % QUAD;
            packed[place][byte / PANEL][byte % PANEL] = *weight;
        }
        let scales = excess.chunks(PANEL).zip(sum_scales.chunks(PANEL));
        let scales = scales.map(|(excess, sum_scales)| {
            let mut scales = PanelScales {
                excess: [0; PANEL],
                scale: [0.0; PANEL],
            };
            scales.excess[..excess.len()].copy_from_slice(excess);
            scales.scale[..sum_scales.len()].copy_from_slice(sum_scales);
            scales
        });
        Self {
            weights: packed,
            scales: scales.collect(),
            outputs,
        }
    }

    /// Computes the output, `[pixels, outputs]`, and finishes it block by block with `finish`, which gets where a block begins.
    pub(crate) fn forward(
        &self,
        problem: &Problem,
        maps: &ByteMaps<'_>,
        output: &mut [f32],
        finish: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        /// Pixels of a block at most and at least: enough to use a panel's weights often, and to share out.
        const BLOCK: [usize; 2] = [96, 12];
        let pixels = problem.maps_out.pixels();
        let length = pixels.div_ceil(8).clamp(BLOCK[1], BLOCK[0]);
        let blocks = split(pixels, length.next_multiple_of(TILE));
        let chunks = split_by(output, blocks.iter().map(|it| it.len() * self.outputs));
        let blocks: Vec<_> = blocks.into_iter().zip(chunks).collect();
        blocks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(block, chunk)| {
                let start = block.start * self.outputs;
                let tiles = maps.tiles(problem, block);
                for (panel, panel_scales) in self.scales.iter().enumerate() {
                    self.multiply(panel, panel_scales, maps, &tiles, chunk);
                }
                finish(start, chunk);
            });
    }

    fn multiply(
        &self,
        panel: usize,
        scales: &PanelScales,
        maps: &ByteMaps<'_>,
        tiles: &[Tile],
        chunk: &mut [f32],
    ) {
        let depth = self.weights.len() / self.scales.len();
        let weights = &self.weights[panel * depth..][..depth];
        let first = panel * PANEL;
        let count = PANEL.min(self.outputs - first);
        let mut values = [[0.0; PANEL]; TILE];
        let mut pixels = chunk.chunks_exact_mut(self.outputs);
        for tile in tiles {
            let windows = TileWindows {
                bytes: maps.bytes,
                starts: tile.starts,
                taps: &maps.taps[tile.map],
                channels: maps.channels,
            };
            multiply_windows(windows, weights, scales, &mut values);
            for (values, pixel) in values.iter().zip(pixels.by_ref().take(tile.pixels)) {
                pixel[first..first + count].copy_from_slice(&values[..count]);
            }
        }
    }
}

/// Neighbouring pixels of one map.
#[derive(Debug)]
struct Tile {
    map: usize,
    pixels: usize,
    /// The last one's repeated, where there are fewer pixels.
    starts: [usize; TILE],
}

/// Maps in bytes with their padding around them, channels in fours.
#[derive(Debug)]
pub(crate) struct ByteMaps<'a> {
    bytes: &'a [u8],
    channels: usize,
    /// Where each map begins.
    starts: Vec<usize>,
    /// For each map where the taps of a window are.
    taps: Vec<Vec<usize>>,
}

impl<'a> ByteMaps<'a> {
    /// How many bytes the maps take.
    pub(crate) fn length(problem: &Problem) -> usize {
        Self::lengths(problem).sum()
    }

    fn lengths(problem: &Problem) -> impl Iterator<Item = usize> + Clone {
        let channels = problem.inputs.next_multiple_of(QUAD);
        let sizes = problem.maps_in.sizes().iter();
        sizes.map(move |size| padded(problem, *size).into_iter().product::<usize>() * channels)
    }

    /// Lays maps out in memory of this length; `write` turns values into bytes, `zero_point` is the byte of 0.
    pub(crate) fn new(
        problem: &Problem,
        input: &[f32],
        bytes: &'a mut [u8],
        zero_point: u8,
        write: impl Fn(&[f32], &mut [u8]) + Sync,
    ) -> Self {
        let (padding, inputs) = (problem.options.padding, problem.inputs);
        let channels = inputs.next_multiple_of(QUAD);
        let sizes = problem.maps_in.sizes();
        let lengths = Self::lengths(problem);
        if padding != [0, 0] || channels != inputs {
            bytes.fill(zero_point);
        }
        let mut rows = Vec::new();
        let of_maps = split_by(bytes, lengths.clone());
        for ((map, [_, width]), range) in
            of_maps.into_iter().zip(sizes).zip(problem.maps_in.ranges())
        {
            let row_length = (width + 2 * padding[1]) * channels;
            let inside = map.chunks_exact_mut(row_length).skip(padding[0]);
            let values =
                input[range.start * inputs..range.end * inputs].chunks_exact(width * inputs);
            rows.extend(inside.zip(values).map(|(row, values)| {
                (
                    &mut row[padding[1] * channels..][..width * channels],
                    values,
                )
            }));
        }
        rows.into_par_iter()
            .with_min_len(4)
            .for_each(|(row, values)| {
                if channels == inputs {
                    write(values, row);
                } else {
                    let pixels = row
                        .chunks_exact_mut(channels)
                        .zip(values.chunks_exact(inputs));
                    pixels.for_each(|(pixel, values)| write(values, &mut pixel[..inputs]));
                }
            });
        let starts = lengths.scan(0, |start, length| {
            let place = *start;
            *start += length;
            Some(place)
        });
        let taps = sizes.iter().map(|size| {
            let [_, width] = padded(problem, *size);
            let [_, kernel_width] = problem.kernel;
            let taps = (0..problem.taps()).map(|tap| [tap / kernel_width, tap % kernel_width]);
            let [down, right] = problem.options.dilation;
            taps.map(|[y, x]| (y * down * width + x * right) * channels)
                .collect()
        });
        Self {
            channels,
            starts: starts.collect(),
            taps: taps.collect(),
            bytes,
        }
    }

    /// The tiles of a range of output pixels.
    fn tiles(&self, problem: &Problem, pixels: Range<usize>) -> Vec<Tile> {
        let [down, right] = problem.options.stride;
        let mut tiles: Vec<Tile> = Vec::new();
        for row in problem.maps_out.rows_in(pixels) {
            let [_, width] = padded(problem, problem.maps_in.sizes()[row.map]);
            for x in row.x {
                let start =
                    self.starts[row.map] + (row.y * down * width + x * right) * self.channels;
                match tiles.last_mut() {
                    Some(tile) if tile.map == row.map && tile.pixels < TILE => {
                        tile.starts[tile.pixels..].fill(start);
                        tile.pixels += 1;
                    }
                    _ => tiles.push(Tile {
                        map: row.map,
                        pixels: 1,
                        starts: [start; TILE],
                    }),
                }
            }
        }
        tiles
    }
}

/// A map's height and width with its padding.
fn padded(problem: &Problem, size: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|axis| size[axis] + 2 * problem.options.padding[axis])
}

/// What [`multiply_windows`] runs where the CPU has VNNI.
#[cfg(target_arch = "x86_64")]
pub(crate) mod vnni {
    use std::arch::x86_64::{
        __m512i, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_mul_ps, _mm512_set1_epi32,
        _mm512_setzero_si512, _mm512_sub_epi32,
    };

    use pulp::cast;

    use super::{PANEL, PanelQuad, PanelScales, QUAD, TILE, TileWindows};

    /// Lanes of a vector.
    const LANES: usize = 16;

    /// The values of a tile's pixels for a panel's outputs.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(crate) fn multiply(
        windows: TileWindows<'_>,
        weights: &[PanelQuad],
        scales: &PanelScales,
        values: &mut [[f32; PANEL]; TILE],
    ) {
        let mut sums = [[_mm512_setzero_si512(); QUAD]; TILE];
        let quads = windows.channels / QUAD;
        for (tap, weights) in windows.taps.iter().zip(weights.chunks_exact(quads)) {
            let rows = windows.starts.map(|start| {
                let bytes = &windows.bytes[start + tap..][..windows.channels];
                &bytes.as_chunks::<QUAD>().0[..quads]
            });
            for quad in 0..quads {
                let weights: [__m512i; QUAD] = weights[quad].map(cast);
                for row in 0..TILE {
                    let bytes = _mm512_set1_epi32(i32::from_ne_bytes(rows[row][quad]));
                    for vector in 0..QUAD {
                        sums[row][vector] =
                            _mm512_dpbusd_epi32(sums[row][vector], bytes, weights[vector]);
                    }
                }
            }
        }
        let (excess, sum_scales) = (
            scales.excess.as_chunks::<LANES>().0,
            scales.scale.as_chunks::<LANES>().0,
        );
        for (values, sums) in values.iter_mut().zip(sums) {
            let vectors = values.as_chunks_mut::<LANES>().0.iter_mut();
            for (((values, sum), excess), scale) in vectors.zip(sums).zip(excess).zip(sum_scales) {
                let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, cast(*excess)));
                *values = cast(_mm512_mul_ps(sum, cast(*scale)));
            }
        }
    }
}
