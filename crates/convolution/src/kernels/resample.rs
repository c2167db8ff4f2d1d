//! Max pooling and upsampling.

use rayon::prelude::*;

use super::direct::split_by;
use super::{memory, vectorized};
use crate::shape::{Maps, RowPiece};

/// A square max pooling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Pool {
    /// The largest value under every window, and, where they are asked for, which tap it was at, counted row by row.
    pub(crate) fn forward(
        self,
        maps: [&Maps; 2],
        input: &[f32],
        channels: usize,
        with_taps: bool,
    ) -> (Vec<f32>, Vec<u8>) {
        let [maps_in, maps_out] = maps;
        let mut output = memory::zeros(maps_out.pixels() * channels);
        let mut taps = vec![0; if with_taps { output.len() } else { 0 }];
        let of_rows = |row: &RowPiece| row.x.len() * channels;
        let rows: Vec<RowPiece> = maps_out.rows_in(0..maps_out.pixels()).collect();
        let outputs = split_by(&mut output, rows.iter().map(of_rows));
        let taps_of_rows = split_by(&mut taps, rows.iter().map(of_rows));
        let tasks: Vec<_> = rows.iter().zip(outputs).zip(taps_of_rows).collect();
        tasks.into_par_iter().for_each(|((row, output), taps)| {
            let [height, width] = maps_in.sizes()[row.map];
            let map = &input[start_of(maps_in, row.map) * channels..][..height * width * channels];
            let mut window = Vec::with_capacity(self.kernel * self.kernel);
            vectorized(
                #[inline(always)]
                || {
                    for (x, output) in output.chunks_exact_mut(channels).enumerate() {
                        let pixels = self.window([row.y, x], [height, width]);
                        window.clear();
                        window.extend(
                            pixels.map(|(tap, place)| {
                                (tap as u8, &map[place * channels..][..channels])
                            }),
                        );
                        let taps = taps.get_mut(x * channels..(x + 1) * channels);
                        pool_pixel(&window, output, taps.unwrap_or_default());
                    }
                },
            );
        });
        (output, taps)
    }

    /// The taps of a window that lie on the map, and which pixels they are at.
    #[inline(always)]
    fn window(
        self,
        [y, x]: [usize; 2],
        [height, width]: [usize; 2],
    ) -> impl Iterator<Item = (usize, usize)> {
        (0..self.kernel * self.kernel).filter_map(move |tap| {
            let in_y = (y * self.stride + tap / self.kernel).wrapping_sub(self.padding);
            let in_x = (x * self.stride + tap % self.kernel).wrapping_sub(self.padding);
            (in_y < height && in_x < width).then_some((tap, in_y * width + in_x))
        })
    }

    /// The gradient of the input: every pixel gathers from the windows that it was largest in.
    pub(crate) fn gradient(
        self,
        maps: [&Maps; 2],
        gradient: &[f32],
        taps: &[u8],
        channels: usize,
    ) -> Vec<f32> {
        let [maps_in, maps_out] = maps;
        let mut result = memory::zeros(maps_in.pixels() * channels);
        let rows: Vec<RowPiece> = maps_in.rows_in(0..maps_in.pixels()).collect();
        let results = split_by(&mut result, rows.iter().map(|row| row.x.len() * channels));
        let tasks: Vec<_> = rows.iter().zip(results).collect();
        tasks.into_par_iter().for_each(|(row, result)| {
            let [height, width] = maps_out.sizes()[row.map];
            let start = start_of(maps_out, row.map);
            for tap in 0..self.kernel * self.kernel {
                let from_y = (row.y + self.padding).wrapping_sub(tap / self.kernel);
                let y = from_y / self.stride;
                if !from_y.is_multiple_of(self.stride) || y >= height {
                    continue;
                }
                let windows = (start + y * width) * channels..(start + (y + 1) * width) * channels;
                let windows = (&gradient[windows.clone()], &taps[windows]);
                vectorized(
                    #[inline(always)]
                    || self.gather_tap(tap as u8, windows, channels, result),
                );
            }
        });
        result
    }

    /// Adds the gradients of a row of windows, with the taps that were largest, to a row of pixels that meet this tap.
    #[inline(always)]
    fn gather_tap(
        self,
        tap: u8,
        (gradients, taps): (&[f32], &[u8]),
        channels: usize,
        row: &mut [f32],
    ) {
        let windows = gradients
            .chunks_exact(channels)
            .zip(taps.chunks_exact(channels));
        let first = usize::from(tap) % self.kernel;
        for (x, (gradients, taps)) in windows.enumerate() {
            let x = (x * self.stride + first).wrapping_sub(self.padding);
            let Some(pixel) = row.chunks_exact_mut(channels).nth(x) else {
                continue;
            };
            for ((sum, gradient), at) in pixel.iter_mut().zip(gradients).zip(taps) {
                *sum += if *at == tap { *gradient } else { 0.0 };
            }
        }
    }
}

/// Channels that are compared at once, in registers.
const AT_ONCE: usize = 16;

/// The largest of each channel under a window, and its tap where there is room for it.
#[inline(always)]
fn pool_pixel(window: &[(u8, &[f32])], output: &mut [f32], taps: &mut [u8]) {
    let (output, output_rest) = output.as_chunks_mut::<AT_ONCE>();
    let (taps, taps_rest) = taps.as_chunks_mut::<AT_ONCE>();
    let rest = output.len() * AT_ONCE;
    for (place, output) in output.iter_mut().enumerate() {
        let at;
        (*output, at) = largest(window, place * AT_ONCE);
        if let Some(taps) = taps.get_mut(place) {
            *taps = at;
        }
    }
    for (place, output) in output_rest.iter_mut().enumerate() {
        let ([value], [at]) = largest(window, rest + place);
        *output = value;
        if let Some(tap) = taps_rest.get_mut(place) {
            *tap = at;
        }
    }
}

/// The largest of some channels from `first` on, and their taps. A NaN wins: non-finite values must not get lost.
#[inline(always)]
fn largest<const CHANNELS: usize>(
    window: &[(u8, &[f32])],
    first: usize,
) -> ([f32; CHANNELS], [u8; CHANNELS]) {
    let mut best = [f32::NEG_INFINITY; CHANNELS];
    let mut taps = [0_u32; CHANNELS];
    for (tap, pixel) in window {
        let Some(pixel) = pixel[first..].first_chunk::<CHANNELS>() else {
            continue;
        };
        let tap = u32::from(*tap);
        // By index: iterators over all three are not compiled to vectors.
        for channel in 0..CHANNELS {
            let wins = (pixel[channel] > best[channel]) | pixel[channel].is_nan();
            best[channel] = if wins { pixel[channel] } else { best[channel] };
            taps[channel] = if wins { tap } else { taps[channel] };
        }
    }
    (best, taps.map(|tap| tap as u8))
}

/// `finer + coarser`, the coarser map enlarged by repeating its pixels.
pub(crate) fn add_upsampled(
    [finer_maps, coarser_maps]: [&Maps; 2],
    finer: &[f32],
    coarser: &[f32],
    channels: usize,
) -> Vec<f32> {
    let mut sum = memory::copied(finer);
    let pixels = sum.par_chunks_mut(channels).zip(places(finer_maps));
    pixels.for_each(|(sum, (map, place))| {
        let [y, x] = nearest(finer_maps.sizes()[map], coarser_maps.sizes()[map], place);
        let pixel = start_of(coarser_maps, map) + y * coarser_maps.sizes()[map][1] + x;
        for (sum, value) in sum.iter_mut().zip(&coarser[pixel * channels..]) {
            *sum += value;
        }
    });
    sum
}

/// The gradient of the coarser map: each of its pixels sums those that repeat it.
pub(crate) fn upsampled_gradient(
    [finer_maps, coarser_maps]: [&Maps; 2],
    gradient: &[f32],
    channels: usize,
) -> Vec<f32> {
    let mut result = memory::zeros(coarser_maps.pixels() * channels);
    let images = split_by(
        &mut result,
        coarser_maps.ranges().map(|range| range.len() * channels),
    );
    images
        .into_par_iter()
        .enumerate()
        .for_each(|(map, result)| {
            let (finer, coarser) = (finer_maps.sizes()[map], coarser_maps.sizes()[map]);
            let start = start_of(finer_maps, map);
            for pixel in 0..finer[0] * finer[1] {
                let [y, x] = nearest(finer, coarser, [pixel / finer[1], pixel % finer[1]]);
                let result = &mut result[(y * coarser[1] + x) * channels..][..channels];
                let gradient = &gradient[(start + pixel) * channels..];
                for (sum, value) in result.iter_mut().zip(gradient) {
                    *sum += value;
                }
            }
        });
    result
}

/// PyTorch's `nearest`: the floor of the scaled place.
pub(crate) fn nearest(finer: [usize; 2], coarser: [usize; 2], place: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|axis| place[axis] * coarser[axis] / finer[axis])
}

fn start_of(maps: &Maps, map: usize) -> usize {
    let sizes = maps.sizes()[..map].iter();
    sizes.map(|[height, width]| height * width).sum()
}

/// Every pixel's map and place in it.
fn places(maps: &Maps) -> Vec<(usize, [usize; 2])> {
    let sizes = maps.sizes().iter().enumerate();
    sizes
        .flat_map(|(map, &[height, width])| {
            (0..height * width).map(move |pixel| (map, [pixel / width, pixel % width]))
        })
        .collect()
}
