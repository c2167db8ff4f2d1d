//! Max pooling and upsampling.

use rayon::prelude::*;

use super::vectorized;

use crate::shape::Maps;

/// A square max pooling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Pool {
    /// The largest value under every window, and which tap it was at, counted row by row.
    pub(crate) fn forward(
        self,
        maps: [&Maps; 2],
        input: &[f32],
        channels: usize,
    ) -> (Vec<f32>, Vec<u8>) {
        let [maps_in, maps_out] = maps;
        let mut output = vec![f32::NEG_INFINITY; maps_out.pixels() * channels];
        let mut taps = vec![0; output.len()];
        let pixels = output
            .par_chunks_mut(channels)
            .zip(taps.par_chunks_mut(channels));
        pixels
            .zip(places(maps_out))
            .for_each(|((output, taps), (map, [y, x]))| {
                let ([height, width], start) = (maps_in.sizes()[map], start_of(maps_in, map));
                vectorized(
                    #[inline(always)]
                    || {
                        for tap in 0..self.kernel * self.kernel {
                            let in_y =
                                (y * self.stride + tap / self.kernel).wrapping_sub(self.padding);
                            let in_x =
                                (x * self.stride + tap % self.kernel).wrapping_sub(self.padding);
                            if in_y >= height || in_x >= width {
                                continue;
                            }
                            let input =
                                &input[(start + in_y * width + in_x) * channels..][..channels];
                            for channel in 0..channels {
                                // A NaN wins, so that it is seen.
                                if input[channel] > output[channel] || input[channel].is_nan() {
                                    output[channel] = input[channel];
                                    taps[channel] = tap as u8;
                                }
                            }
                        }
                    },
                );
            });
        (output, taps)
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
        let mut result = vec![0.0; maps_in.pixels() * channels];
        let pixels = result.par_chunks_mut(channels).zip(places(maps_in));
        pixels.for_each(|(result, (map, [y, x]))| {
            let ([height, width], start) = (maps_out.sizes()[map], start_of(maps_out, map));
            for tap in 0..self.kernel * self.kernel {
                let from_y = (y + self.padding).wrapping_sub(tap / self.kernel);
                let from_x = (x + self.padding).wrapping_sub(tap % self.kernel);
                let (out_y, out_x) = (from_y / self.stride, from_x / self.stride);
                let meets =
                    from_y.is_multiple_of(self.stride) && from_x.is_multiple_of(self.stride);
                if !meets || out_y >= height || out_x >= width {
                    continue;
                }
                let first = (start + out_y * width + out_x) * channels;
                let (gradient, taps) = (&gradient[first..], &taps[first..]);
                for channel in 0..channels {
                    if usize::from(taps[channel]) == tap {
                        result[channel] += gradient[channel];
                    }
                }
            }
        });
        result
    }
}

/// `finer + coarser`, the coarser map enlarged by repeating its pixels.
pub(crate) fn add_upsampled(
    [finer_maps, coarser_maps]: [&Maps; 2],
    finer: &[f32],
    coarser: &[f32],
    channels: usize,
) -> Vec<f32> {
    let mut sum = finer.to_vec();
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
    let mut result = vec![0.0; coarser_maps.pixels() * channels];
    let images = super::direct::split_by(
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
