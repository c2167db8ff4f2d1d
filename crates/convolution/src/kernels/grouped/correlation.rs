//! The output of a grouped convolution, or the gradient of its input, row by row.

use std::marker::PhantomData;
use std::mem;

use pulp::Simd;
use pulp::bytemuck::cast_slice;
use rayon::prelude::*;

use super::{Groups, LANES, TAPS, load};
use crate::kernels::direct::split_by;
use crate::kernels::lanes::{Spread, Width, Work};
use crate::kernels::{memory, with_scratch};
use crate::shape::{Maps, RowPiece};

/// Pixels of a row that are computed at once: as many sums as hide an addition's latency, and fit into 16 registers
/// beside a row of taps and what meets them.
const PIXELS: usize = 10;

/// Computes the second maps from the first row by row; `finish(first value, values)` ends a row.
pub(super) fn correlate<P: Strip + Sync>(
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
            channels,
            size,
            lanes,
        } = *self.groups;
        let vectors = self.groups.vectors();
        let values = mem::take(&mut self.values);
        let pixels = values.len() / channels;
        let length = P::first((pixels - 1) / PIXELS * PIXELS) + P::READ;
        let spreading = self.groups.spreading::<S>();
        let (weights, _) = S::as_simd_f32s(self.weights);
        let weights = weights.as_chunks::<TAPS>().0;
        with_scratch(TAPS * vectors * length * lanes, |scratch| {
            let (rows, _) = S::as_mut_simd_f32s(scratch);
            for first in (0..channels / lanes).step_by(vectors) {
                self.gather(simd, first, rows, length);
                for block in first..first + vectors {
                    let filters = Filters {
                        weights: &weights[block * TAPS * size..][..TAPS * size],
                        spreading: (!self.groups.fill_vectors()).then_some(&spreading),
                    };
                    for x in (0..pixels).step_by(PIXELS) {
                        let sums = self.sums(simd, &filters, (rows, length), x);
                        let values = values[x * channels..].chunks_exact_mut(channels);
                        for (pixel, sum) in values.zip(sums) {
                            S::as_mut_simd_f32s(&mut pixel[block * lanes..]).0[0] = sum;
                        }
                    }
                }
            }
        });
    }
}

impl<P: Strip> Row<'_, P> {
    /// The row that is read through a row of taps.
    fn read(&self, tap_row: usize) -> Option<&[f32]> {
        let [height, width] = self.size;
        let y = P::row(self.y, tap_row).filter(|y| *y < height)?;
        let length = width * self.groups.channels;
        Some(&self.map[y * length..][..length])
    }

    /// Lays out what a block's group meets, `[rows of taps, vectors, length]`, with zeros around the pixels of each row. Where
    /// no row is read through a row of taps, there is whatever was.
    #[inline(always)]
    fn gather<S: Simd>(&self, simd: S, block: usize, rows: &mut [S::f32s], length: usize) {
        let ([_, width], zero) = (self.size, simd.splat_f32s(0.0));
        let rows = rows.chunks_exact_mut(self.groups.vectors() * length);
        for (tap_row, rows) in rows.enumerate() {
            let Some(row) = self.read(tap_row) else {
                continue;
            };
            let others = self.groups.others(block);
            for (into, first) in rows.chunks_exact_mut(length).zip(others) {
                let (pixels, after) = into[1..].split_at_mut(width.min(length - 1));
                let read = row.chunks_exact(self.groups.channels);
                for (pixel, read) in pixels.iter_mut().zip(read) {
                    *pixel = load::<S>(&read[first..]);
                }
                after.fill(zero);
                into[0] = zero;
            }
        }
    }

    /// The values of a block's channels in a strip.
    #[inline(always)]
    fn sums<S: Spread>(
        &self,
        simd: S,
        filters: &Filters<'_, S>,
        (rows, length): (&[S::f32s], usize),
        x: usize,
    ) -> [S::f32s; PIXELS] {
        let mut sums = [simd.splat_f32s(0.0); PIXELS];
        let rows = rows.chunks_exact(self.groups.vectors() * length);
        let weights = filters.weights.chunks_exact(self.groups.size);
        for (tap_row, (rows, weights)) in rows.zip(weights).enumerate() {
            if self.read(tap_row).is_none() {
                continue;
            }
            let weights = weights.chunks_exact(self.groups.spreads());
            for (row, weights) in rows.chunks_exact(length).zip(weights) {
                let pixels = &row[P::first(x)..][..P::READ];
                if let Some(spreading) = filters.spreading {
                    for (weights, lanes) in weights.iter().zip(spreading) {
                        add_channel::<S, P>(
                            simd,
                            #[inline(always)]
                            |read| simd.spread(pixels[read], *lanes),
                            weights,
                            &mut sums,
                        );
                    }
                } else {
                    let values: &[f32] = cast_slice(pixels);
                    for (channel, weights) in weights.iter().enumerate() {
                        let values = &values[channel..][..=(P::READ - 1) * S::F32_LANES];
                        add_channel::<S, P>(
                            simd,
                            #[inline(always)]
                            |read| simd.splat_f32s(values[read * S::F32_LANES]),
                            weights,
                            &mut sums,
                        );
                    }
                }
            }
        }
        sums
    }
}

/// What a block's channels are multiplied by.
struct Filters<'a, S: Simd> {
    /// `[rows of taps, others of the group, taps of a row]`
    weights: &'a [[S::f32s; TAPS]],
    /// How others are spread, where groups share a vector.
    spreading: Option<&'a [S::u32s; LANES]>,
}

/// Adds a row of taps of one channel of each group. `pixel` has it in all of the group's lanes.
#[inline(always)]
fn add_channel<S: Simd, P: Strip>(
    simd: S,
    pixel: impl Fn(usize) -> S::f32s,
    weights: &[S::f32s; TAPS],
    sums: &mut [S::f32s; PIXELS],
) {
    for (place, sum) in sums.iter_mut().enumerate() {
        for (tap, weight) in weights.iter().enumerate() {
            if let Some(read) = P::read(place, tap) {
                *sum = simd.mul_add_f32s(pixel(read), *weight, *sum);
            }
        }
    }
}

/// How the pixels of a strip of [`PIXELS`] and those that they are computed from lie to each other.
pub(super) trait Strip {
    /// How many pixels a strip is computed from.
    const READ: usize;

    /// The first of them, in a row with a pixel of zeros before it.
    fn first(x: usize) -> usize;

    /// Which of them comes to a place of the strip through a tap.
    fn read(place: usize, tap: usize) -> Option<usize>;

    /// The row that comes to row `y` through a row of taps; beyond all others where it is none.
    fn row(y: usize, tap: usize) -> Option<usize>;
}

/// From a window to the pixel at its middle.
pub(super) struct Forward<const STRIDE: usize>;

impl<const STRIDE: usize> Strip for Forward<STRIDE> {
    const READ: usize = STRIDE * (PIXELS - 1) + TAPS;

    fn first(x: usize) -> usize {
        x * STRIDE
    }

    fn read(place: usize, tap: usize) -> Option<usize> {
        Some(place * STRIDE + tap)
    }

    fn row(y: usize, tap: usize) -> Option<usize> {
        (y * STRIDE + tap).checked_sub(1)
    }
}

/// From a pixel back to its window.
pub(super) struct Backward<const STRIDE: usize>;

impl<const STRIDE: usize> Strip for Backward<STRIDE> {
    const READ: usize = (PIXELS + TAPS - STRIDE - 1) / STRIDE + 1;

    fn first(x: usize) -> usize {
        x / STRIDE + STRIDE - 1
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
