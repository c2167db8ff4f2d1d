//! The gradient of a grouped convolution's weights.

use pulp::Simd;
use pulp::bytemuck::cast_slice;

use super::{Groups, LANES, TAPS, load};
use crate::kernels::lanes::{Spread, Work};
use crate::problem::Problem;
use crate::shape::{Maps, RowPiece};

/// Channels that weights' gradients are summed for at once.
const CHANNELS: usize = 4;

/// The sums of some rows for the gradient of the weights, as they are packed.
pub(super) struct WeightSums<'a> {
    pub(super) problem: &'a Problem,
    pub(super) groups: &'a Groups,
    pub(super) rows: &'a [RowPiece],
    pub(super) input: &'a [f32],
    pub(super) gradient: &'a [f32],
    pub(super) sums: &'a mut [f32],
}

impl Work for WeightSums<'_> {
    #[inline(always)]
    fn run<S: Spread>(self, simd: S) {
        let Groups {
            channels,
            size,
            lanes,
        } = *self.groups;
        let zero = simd.splat_f32s(0.0);
        let spreading = self.groups.spreading::<S>();
        let stride = self.problem.options.stride[0];
        let starts = |maps: &Maps| -> Vec<usize> { maps.ranges().map(|it| it.start).collect() };
        let (starts_in, starts_out) = (
            starts(&self.problem.maps_in),
            starts(&self.problem.maps_out),
        );
        let (sums, _) = S::as_mut_simd_f32s(self.sums);
        // A block's row lies in neighbouring vectors then; that of the input has a zero at each end.
        let (mut gradients, mut inputs) = (Vec::new(), Vec::new());
        for row in self.rows {
            let [height, width] = self.problem.maps_in.sizes()[row.map];
            let first_out = starts_out[row.map] + row.y * row.x.len();
            for block in 0..channels / lanes {
                gradients.clear();
                gradients.extend(row.x.clone().map(|x| {
                    load::<S>(&self.gradient[(first_out + x) * channels + block * lanes..])
                }));
                for tap_row in 0..TAPS {
                    let y = (row.y * stride + tap_row).wrapping_sub(1);
                    if y >= height {
                        continue;
                    }
                    let first_in = starts_in[row.map] + y * width;
                    let sums = &mut sums[(block * TAPS + tap_row) * size * TAPS..][..size * TAPS];
                    let sums = sums.chunks_exact_mut(self.groups.spreads() * TAPS);
                    for (first, sums) in self.groups.others(block).zip(sums) {
                        inputs.clear();
                        inputs.push(zero);
                        inputs.extend(
                            (0..width).map(|x| {
                                load::<S>(&self.input[(first_in + x) * channels + first..])
                            }),
                        );
                        inputs.extend([zero; 2]);
                        let row = InputRow {
                            inputs: &inputs,
                            stride,
                            spreading: (!self.groups.fill_vectors()).then_some(&spreading),
                        };
                        if self.groups.spreads().is_multiple_of(CHANNELS) {
                            row.sum::<CHANNELS>(simd, &gradients, sums);
                        } else {
                            row.sum::<1>(simd, &gradients, sums);
                        }
                    }
                }
            }
        }
    }
}

/// A row of the input that a row of gradients came from, a vector of each pixel.
struct InputRow<'a, S: Simd> {
    inputs: &'a [S::f32s],
    /// From a gradient's pixels to the next one's.
    stride: usize,
    /// How channels are spread, where groups share a vector.
    spreading: Option<&'a [S::u32s; LANES]>,
}

impl<S: Spread> InputRow<'_, S> {
    /// Adds the products to the sums, `[channels, taps]`, of so many channels at once.
    #[inline(always)]
    fn sum<const AT_ONCE: usize>(&self, simd: S, gradients: &[S::f32s], sums: &mut [S::f32s]) {
        let sums = sums.as_chunks_mut::<TAPS>().0.as_chunks_mut::<AT_ONCE>().0;
        let lanes = S::F32_LANES;
        for (place, sums) in sums.iter_mut().enumerate() {
            let first = place * AT_ONCE;
            if let Some(spreading) = self.spreading {
                let spreading = &spreading.as_chunks::<AT_ONCE>().0[place];
                let windows = self.inputs.windows(TAPS).step_by(self.stride);
                let inputs = windows.map(
                    #[inline(always)]
                    |window| {
                        #[inline(always)]
                        move |tap: usize, channel: usize| {
                            simd.spread(window[tap], spreading[channel])
                        }
                    },
                );
                sum_channels(simd, gradients, inputs, sums);
            } else {
                let values: &[f32] = &cast_slice(self.inputs)[first..];
                let window = (TAPS - 1) * lanes + AT_ONCE;
                let windows = values.windows(window).step_by(self.stride * lanes);
                let inputs = windows.map(
                    #[inline(always)]
                    |window| {
                        #[inline(always)]
                        move |tap: usize, channel: usize| {
                            simd.splat_f32s(window[tap * lanes + channel])
                        }
                    },
                );
                sum_channels(simd, gradients, inputs, sums);
            }
        }
    }
}

/// Adds a row's products to the sums of some channels. For each gradient the inputs are had by tap and channel.
#[inline(always)]
fn sum_channels<S: Simd, const AT_ONCE: usize, F: Fn(usize, usize) -> S::f32s>(
    simd: S,
    gradients: &[S::f32s],
    inputs: impl Iterator<Item = F>,
    sums: &mut [[S::f32s; TAPS]; AT_ONCE],
) {
    let mut row = [[simd.splat_f32s(0.0); TAPS]; AT_ONCE];
    for (gradient, input) in gradients.iter().zip(inputs) {
        for tap in 0..TAPS {
            for (channel, sums) in row.iter_mut().enumerate() {
                sums[tap] = simd.mul_add_f32s(input(tap, channel), *gradient, sums[tap]);
            }
        }
    }
    for (sums, row) in sums.iter_mut().flatten().zip(row.as_flattened()) {
        *sums = simd.add_f32s(*sums, *row);
    }
}
