//! The transforms of Winograd's algorithm, on registers of as many channels as the CPU has lanes;
//! the matrices are Lavin and Gray's for F(4×4, 3×3).

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};

/// Output pixels along a tile's side.
pub(super) const TILE: usize = 4;
/// Input pixels along a tile's side.
pub(super) const PATCH: usize = 6;

/// Of `N`×`N` pixels; `None` outside the map.
pub(super) type Offsets<const N: usize> = [[Option<usize>; N]; N];

/// Whether kernels are turned by half a turn, as the gradient of the input wants them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    Half,
}

/// A loop over at most six pixels, written out: left as loops, the pixels lie on the stack and not in
/// registers.
macro_rules! unrolled {
    ($pixel:ident < $count:expr, $work:block) => {
        unrolled!($pixel, $count, $work, 0, 1, 2, 3, 4, 5)
    };
    ($pixel:ident, $count:expr, $work:block, $($number:literal),+) => {
        $(if $number < $count {
            let $pixel: usize = $number;
            $work
        })+
    };
}

/// Patches of `N`×`N` pixels to `[tiles, channels]` of every frequency.
pub(super) struct ToFrequencies<'a, T, const N: usize> {
    pub(super) tiles: Vec<Offsets<N>>,
    pub(super) values: &'a [f32],
    pub(super) channels: usize,
    pub(super) result: Vec<&'a mut [f32]>,
    pub(super) transform: PhantomData<T>,
}

impl<T: Transform<N, PATCH>, const N: usize> WithSimd for ToFrequencies<'_, T, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for (tile, offsets) in self.tiles.iter().enumerate() {
            for channel in (0..self.channels).step_by(S::F32_LANES) {
                let lanes = S::F32_LANES.min(self.channels - channel);
                let mut patch = [[simd.splat_f32s(0.0); N]; N];
                unrolled!(y < N, {
                    unrolled!(x < N, {
                        if let Some(offset) = offsets[y][x] {
                            patch[y][x] = load(simd, &self.values[offset + channel..], lanes);
                        }
                    });
                });
                let patch = both_ways::<T, S, N, PATCH>(simd, &patch);
                let place = tile * self.channels + channel;
                unrolled!(y < PATCH, {
                    unrolled!(x < PATCH, {
                        let result = &mut self.result[y * PATCH + x][place..];
                        store(simd, patch[y][x], result, lanes);
                    });
                });
            }
        }
    }
}

/// `[frequencies, tiles, channels]` to pixels.
pub(super) struct ToPixels<'a> {
    pub(super) tiles: Vec<Offsets<TILE>>,
    /// The offset of the first value of `output`.
    pub(super) first: usize,
    pub(super) products: &'a [f32],
    pub(super) step: usize,
    pub(super) channels: usize,
    pub(super) output: &'a mut [f32],
}

impl WithSimd for ToPixels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (tile, offsets) in self.tiles.iter().enumerate() {
            for channel in (0..self.channels).step_by(S::F32_LANES) {
                let lanes = S::F32_LANES.min(self.channels - channel);
                let products = &self.products[tile * self.channels + channel..];
                let patch = load_columns(simd, products, self.step, lanes);
                let pixels = both_ways::<Output, S, PATCH, TILE>(simd, &patch);
                unrolled!(y < TILE, {
                    unrolled!(x < TILE, {
                        if let Some(offset) = offsets[y][x] {
                            let output = &mut self.output[offset - self.first + channel..];
                            store(simd, pixels[y][x], output, lanes);
                        }
                    });
                });
            }
        }
    }
}

/// A row of kernels, `[9, to]`, to a row of each frequency, `[to]`.
pub(super) struct KernelsToFrequencies<'a> {
    pub(super) kernels: &'a [f32],
    pub(super) turn: Turn,
    pub(super) result: Vec<&'a mut [f32]>,
}

impl WithSimd for KernelsToFrequencies<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let to = self.kernels.len() / 9;
        for start in (0..to).step_by(S::F32_LANES) {
            let lanes = S::F32_LANES.min(to - start);
            let mut kernel = [[simd.splat_f32s(0.0); 3]; 3];
            for tap in 0..9 {
                let place = if self.turn == Turn::Half {
                    8 - tap
                } else {
                    tap
                };
                kernel[place / 3][place % 3] = load(simd, &self.kernels[tap * to + start..], lanes);
            }
            let patch = both_ways::<Kernel, S, 3, PATCH>(simd, &kernel);
            unrolled!(y < PATCH, {
                unrolled!(x < PATCH, {
                    let result = &mut self.result[y * PATCH + x][start..];
                    store(simd, patch[y][x], result, lanes);
                });
            });
        }
    }
}

/// A row of each frequency, `step` apart, to a row of kernels, `[9, to]`.
pub(super) struct FrequenciesToKernels<'a> {
    pub(super) values: &'a [f32],
    pub(super) step: usize,
    pub(super) result: &'a mut [f32],
}

impl WithSimd for FrequenciesToKernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let to = self.result.len() / 9;
        for start in (0..to).step_by(S::F32_LANES) {
            let lanes = S::F32_LANES.min(to - start);
            let patch = load_columns(simd, &self.values[start..], self.step, lanes);
            let kernel = both_ways::<KernelAdjoint, S, PATCH, 3>(simd, &patch);
            unrolled!(y < 3, {
                unrolled!(x < 3, {
                    let result = &mut self.result[(y * 3 + x) * to + start..];
                    store(simd, kernel[y][x], result, lanes);
                });
            });
        }
    }
}

#[inline(always)]
fn load<S: Simd>(simd: S, values: &[f32], lanes: usize) -> S::f32s {
    if lanes == S::F32_LANES {
        let (registers, _) = S::as_simd_f32s(&values[..lanes]);
        registers[0]
    } else {
        simd.partial_load_f32s(&values[..lanes])
    }
}

#[inline(always)]
fn store<S: Simd>(simd: S, register: S::f32s, values: &mut [f32], lanes: usize) {
    if lanes == S::F32_LANES {
        let (registers, _) = S::as_mut_simd_f32s(&mut values[..lanes]);
        registers[0] = register;
    } else {
        simd.partial_store_f32s(&mut values[..lanes], register);
    }
}

/// A patch whose places are `step` apart.
#[inline(always)]
fn load_columns<S: Simd>(
    simd: S,
    values: &[f32],
    step: usize,
    lanes: usize,
) -> [[S::f32s; PATCH]; PATCH] {
    let mut patch = [[simd.splat_f32s(0.0); PATCH]; PATCH];
    unrolled!(y < PATCH, {
        unrolled!(x < PATCH, {
            patch[y][x] = load(simd, &values[(y * PATCH + x) * step..], lanes);
        });
    });
    patch
}

/// Applies a transform to the columns, then to the rows.
#[inline(always)]
fn both_ways<T: Transform<N, M>, S: Simd, const N: usize, const M: usize>(
    simd: S,
    patch: &[[S::f32s; N]; N],
) -> [[S::f32s; M]; M] {
    let zero = simd.splat_f32s(0.0);
    let mut columns = [[zero; M]; N];
    unrolled!(x < N, {
        let mut column = [zero; N];
        unrolled!(y < N, {
            column[y] = patch[y][x];
        });
        columns[x] = T::apply(simd, column);
    });
    let mut result = [[zero; M]; M];
    unrolled!(y < M, {
        let mut row = [zero; N];
        unrolled!(x < N, {
            row[x] = columns[x][y];
        });
        result[y] = T::apply(simd, row);
    });
    result
}

/// One of the algorithm's matrices, times a vector.
pub(super) trait Transform<const N: usize, const M: usize> {
    fn apply<S: Simd>(simd: S, vector: [S::f32s; N]) -> [S::f32s; M];
}

/// `a * factor + b`
#[inline(always)]
fn scaled<S: Simd>(simd: S, a: S::f32s, factor: f32, b: S::f32s) -> S::f32s {
    simd.mul_add_f32s(a, simd.splat_f32s(factor), b)
}

#[inline(always)]
fn times<S: Simd>(simd: S, a: S::f32s, factor: f32) -> S::f32s {
    simd.mul_f32s(a, simd.splat_f32s(factor))
}

/// `a + b` and `a - b`
#[inline(always)]
fn sum_and_difference<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> [S::f32s; 2] {
    [simd.add_f32s(a, b), simd.sub_f32s(a, b)]
}

/// `Bᵀ`
pub(super) struct Input;

impl Transform<6, 6> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: [S::f32s; 6]) -> [S::f32s; 6] {
        let (even, odd) = (
            scaled(simd, x[2], -4.0, x[4]),
            scaled(simd, x[1], -4.0, x[3]),
        );
        let even2 = simd.sub_f32s(x[4], x[2]);
        let odd2 = times(simd, simd.sub_f32s(x[3], x[1]), 2.0);
        let [y1, y2] = sum_and_difference(simd, even, odd);
        let [y3, y4] = sum_and_difference(simd, even2, odd2);
        let y0 = scaled(simd, x[0], 4.0, scaled(simd, x[2], -5.0, x[4]));
        let y5 = scaled(simd, x[1], 4.0, scaled(simd, x[3], -5.0, x[5]));
        [y0, y1, y2, y3, y4, y5]
    }
}

/// `Aᵀ`
struct Output;

impl Transform<6, 4> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, y: [S::f32s; 6]) -> [S::f32s; 4] {
        let [sum1, difference1] = sum_and_difference(simd, y[1], y[2]);
        let [sum2, difference2] = sum_and_difference(simd, y[3], y[4]);
        [
            simd.add_f32s(simd.add_f32s(y[0], sum1), sum2),
            scaled(simd, difference2, 2.0, difference1),
            scaled(simd, sum2, 4.0, sum1),
            simd.add_f32s(scaled(simd, difference2, 8.0, difference1), y[5]),
        ]
    }
}

/// `A`
pub(super) struct OutputAdjoint;

impl Transform<4, 6> for OutputAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, y: [S::f32s; 4]) -> [S::f32s; 6] {
        let (even, odd) = (simd.add_f32s(y[0], y[2]), simd.add_f32s(y[1], y[3]));
        let even2 = scaled(simd, y[2], 4.0, y[0]);
        let odd2 = scaled(simd, y[3], 8.0, times(simd, y[1], 2.0));
        let [y1, y2] = sum_and_difference(simd, even, odd);
        let [y3, y4] = sum_and_difference(simd, even2, odd2);
        [y[0], y1, y2, y3, y4, y[3]]
    }
}

/// `G`
struct Kernel;

impl Transform<3, 6> for Kernel {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, w: [S::f32s; 3]) -> [S::f32s; 6] {
        let even = times(simd, simd.add_f32s(w[0], w[2]), -1.0 / 6.0);
        let odd = times(simd, w[1], -1.0 / 6.0);
        let even2 = scaled(simd, w[0], 1.0 / 24.0, times(simd, w[2], 1.0 / 6.0));
        let odd2 = times(simd, w[1], 1.0 / 12.0);
        let [u1, u2] = sum_and_difference(simd, even, odd);
        let [u3, u4] = sum_and_difference(simd, even2, odd2);
        [times(simd, w[0], 0.25), u1, u2, u3, u4, w[2]]
    }
}

/// `Gᵀ`
struct KernelAdjoint;

impl Transform<6, 3> for KernelAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, u: [S::f32s; 6]) -> [S::f32s; 3] {
        let [sum1, difference1] = sum_and_difference(simd, u[1], u[2]);
        let [sum2, difference2] = sum_and_difference(simd, u[3], u[4]);
        let w0 = scaled(simd, u[0], 0.25, times(simd, sum2, 1.0 / 24.0));
        [
            scaled(simd, sum1, -1.0 / 6.0, w0),
            scaled(
                simd,
                difference2,
                1.0 / 12.0,
                times(simd, difference1, -1.0 / 6.0),
            ),
            scaled(simd, simd.sub_f32s(sum2, sum1), 1.0 / 6.0, u[5]),
        ]
    }
}
