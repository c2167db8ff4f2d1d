//! Products of factors that are rounded to bf16, with sums in f32.

pub(crate) mod tiles;
pub(crate) mod vectors;

use std::ops::Range;

use pulp::bytemuck::cast_slice_mut;
use rayon::prelude::*;

use super::matrix::{Matrix, Product, Threads, has_tiles};
use super::{vectorized, with_scratch};

/// Columns of a panel, four vectors of 16.
pub(crate) const PANEL: usize = 64;

/// Two neighbours along the depth in bf16, the first in the lower half.
pub(crate) type Pair = u32;

/// A pair for each of a panel's columns.
pub(crate) type PanelPairs = [Pair; PANEL];

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Vectors, by dot products of two numbers (AVX512-BF16).
    Vectors,
    /// Tiles of the matrix unit (AMX-BF16), which sums in another order.
    Tiles,
}

impl Unit {
    /// The quickest that the CPU has; vectors are imitated where it has neither.
    fn of_cpu() -> Self {
        if has_tiles() {
            Self::Tiles
        } else {
            Self::Vectors
        }
    }

    /// Pairs along a depth, filled up with zeros.
    const fn pairs(self, depth: usize) -> usize {
        let pairs = depth.div_ceil(2);
        match self {
            Self::Vectors => pairs,
            Self::Tiles => pairs.next_multiple_of(tiles::PAIRS),
        }
    }
}

/// A right factor, `[depth, columns]`, panel after panel of `[pairs, PANEL]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    unit: Unit,
    pairs: &'a [PanelPairs],
    depth: usize,
    columns: usize,
}

impl<'a> Panels<'a> {
    /// Each panel's columns with its pairs.
    fn iter(self) -> impl Iterator<Item = (Range<usize>, &'a [PanelPairs])> {
        let pairs = self.unit.pairs(self.depth);
        (0..self.columns.div_ceil(PANEL)).map(move |panel| {
            let columns = panel * PANEL..self.columns.min((panel + 1) * PANEL);
            (columns, &self.pairs[panel * pairs..][..pairs])
        })
    }
}

/// Lends a right factor in panels.
///
/// # Panics
///
/// Panics if neither its rows nor its columns lie in one piece.
pub(crate) fn with_panels<R>(
    right: Matrix<'_>,
    threads: Threads,
    work: impl FnOnce(Panels<'_>) -> R,
) -> R {
    with_panels_for(Unit::of_cpu(), right, threads, work)
}

fn with_panels_for<R>(
    unit: Unit,
    right: Matrix<'_>,
    threads: Threads,
    work: impl FnOnce(Panels<'_>) -> R,
) -> R {
    /// Pairs that a thread packs at once.
    const AT_ONCE: usize = 128;
    let [depth, columns] = right.size();
    let pairs = unit.pairs(depth);
    with_scratch(columns.div_ceil(PANEL) * pairs * PANEL, |scratch| {
        let packed = cast_slice_mut(scratch);
        let pack = |(panel, part, into): (usize, usize, &mut [PanelPairs])| {
            let columns = panel * PANEL..columns.min((panel + 1) * PANEL);
            pack_panel(right, part * AT_ONCE, columns, into);
        };
        let panels = packed.chunks_mut(pairs.max(1)).enumerate();
        let parts = panels.flat_map(|(panel, into)| {
            let parts = into.chunks_mut(AT_ONCE).enumerate();
            parts.map(move |(part, into)| (panel, part, into))
        });
        match threads {
            Threads::One => parts.for_each(pack),
            Threads::All => parts.collect::<Vec<_>>().into_par_iter().for_each(pack),
        }
        work(Panels {
            unit,
            pairs: packed,
            depth,
            columns,
        })
    })
}

/// Packs some columns, from a pair on.
fn pack_panel(right: Matrix<'_>, pair: usize, columns: Range<usize>, into: &mut [PanelPairs]) {
    let first = 2 * pair;
    vectorized(
        #[inline(always)]
        || {
            if right.has_rows_in_one_piece() {
                pack_panel_by_rows(right, first, &columns, into);
            } else {
                pack_panel_by_columns(right.transposed(), first, &columns, into);
            }
        },
    );
}

#[inline(always)]
fn pack_panel_by_rows(
    right: Matrix<'_>,
    first: usize,
    columns: &Range<usize>,
    into: &mut [PanelPairs],
) {
    let [depth, _] = right.size();
    let row = |row: usize| {
        if row < depth {
            &right.row(row)[columns.clone()]
        } else {
            &[0.0; PANEL][..columns.len()]
        }
    };
    for (place, into) in into.iter_mut().enumerate() {
        let (upper, lower) = (row(first + 2 * place), row(first + 2 * place + 1));
        into[columns.len()..].fill(0);
        let columns = into.iter_mut().zip(upper.iter().zip(lower));
        columns.for_each(|(into, (upper, lower))| *into = pair(*upper, *lower));
    }
}

/// Of a factor whose rows are the right one's columns, a few pairs of all columns at a time.
#[inline(always)]
fn pack_panel_by_columns(
    rows: Matrix<'_>,
    first: usize,
    columns: &Range<usize>,
    into: &mut [PanelPairs],
) {
    const AT_ONCE: usize = 16;
    let [_, depth] = rows.size();
    for (block, into) in into.chunks_mut(AT_ONCE).enumerate() {
        let first = first + 2 * AT_ONCE * block;
        let numbers = first.min(depth)..depth.min(first + 2 * AT_ONCE);
        for place in 0..PANEL {
            let mut pairs = [0; AT_ONCE];
            if place < columns.len() {
                pack_row(
                    &rows.row(columns.start + place)[numbers.clone()],
                    &mut pairs,
                );
            }
            for (into, pair) in into.iter_mut().zip(pairs) {
                into[place] = pair;
            }
        }
    }
}

/// Multiplies `left`, `[m, k]`, by `right`, `[k, n]`, both rounded to bf16.
///
/// # Panics
///
/// Panics if the shapes do not fit together or into the product, or if neither rows nor columns of `left` lie side by side.
pub(crate) fn multiply(
    left: Matrix<'_>,
    right: Panels<'_>,
    product: Product<'_>,
    threads: Threads,
) {
    let [rows, depth] = left.size();
    assert_eq!(depth, right.depth, "inner dimensions");
    if rows == 0 || right.columns == 0 {
        return;
    }
    let length = (rows - 1) * product.stride + right.columns;
    assert!(length <= product.values.len() && right.columns <= product.stride);
    match right.unit {
        Unit::Vectors => vectors::multiply(left, right, product, threads),
        Unit::Tiles => tiles::multiply(left, right, product, threads),
    }
}

/// Writes the sums of some rows over some columns of a product, or adds them.
fn write(
    sums: &[[f32; PANEL]],
    columns: &Range<usize>,
    (values, stride): (&mut [f32], usize),
    accumulate: bool,
) {
    for (row, sums) in values.chunks_mut(stride).zip(sums) {
        let row = row[columns.clone()].iter_mut().zip(sums);
        if accumulate {
            row.for_each(|(value, sum)| *value += sum);
        } else {
            row.for_each(|(value, sum)| *value = *sum);
        }
    }
}

#[inline(always)]
fn pack_row(row: &[f32], into: &mut [Pair]) {
    let (whole, rest) = row.as_chunks::<2>();
    for (into, [first, second]) in into.iter_mut().zip(whole) {
        *into = pair(*first, *second);
    }
    if let [last] = rest {
        into[whole.len()] = pair(*last, 0.0);
    }
}

#[inline(always)]
fn pair(first: f32, second: f32) -> Pair {
    (rounded(first) >> 16) | (rounded(second) & 0xffff_0000)
}

/// A pair's numbers.
#[inline(always)]
fn halves(pair: Pair) -> [f32; 2] {
    [pair << 16, pair & 0xffff_0000].map(f32::from_bits)
}

/// The bits of a number whose upper half is the nearest bf16, to even; NaN stays NaN.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    const QUIET: u32 = 1 << 22;
    let bits = value.to_bits();
    if value.is_nan() {
        return bits | QUIET;
    }
    bits.wrapping_add(0x7fff + (bits >> 16 & 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::weights::transpose;

    fn bf16(value: f32) -> f32 {
        f32::from_bits(rounded(value) & 0xffff_0000)
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest_even_one() {
        let step = 1.0 / 128.0;
        for (value, expected) in [
            (1.0, 1.0),
            (1.0 + 0.5 * step, 1.0),
            (1.0 + 0.50001 * step, 1.0 + step),
            (1.0 + 1.5 * step, 1.0 + 2.0 * step),
            (-1.0 - 0.75 * step, -1.0 - step),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
        ] {
            assert_eq!(bf16(value), expected, "{value}");
        }
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xffff_ffff] {
            assert!(bf16(f32::from_bits(bits)).is_nan(), "{bits:x}");
        }
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn a_product_too_large_for_its_slice_is_refused() {
        let factor = Matrix::dense(&[1.0; 4], 2, 2);
        let product = Product {
            values: &mut [0.0; 3],
            stride: 2,
            accumulate: false,
        };
        with_panels(factor, Threads::One, |panels| {
            multiply(factor, panels, product, Threads::One);
        });
    }

    prop_compose! {
        fn factors()(
            rows in 1..40_usize,
            depth in 1..70_usize,
            columns in 1..150_usize,
        )(
            size in Just([rows, depth, columns]),
            left in prop::collection::vec(-2.0..2.0_f32, rows * depth),
            right in prop::collection::vec(-2.0..2.0_f32, depth * columns),
        ) -> ([usize; 3], Vec<f32>, Vec<f32>) {
            (size, left, right)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Both orders of both factors, both ways of threads, written and added, with room between rows.
        #[test]
        fn products_are_those_of_rounded_factors(
            ([rows, depth, columns], left, right) in factors(),
            gap in 0..3_usize,
        ) {
            let mut turned = vec![0.0; left.len()];
            transpose(&left, [rows, depth], &mut turned);
            let mut turned_right = vec![0.0; right.len()];
            transpose(&right, [depth, columns], &mut turned_right);
            let stride = columns + gap;
            for (unit, by_columns, accumulate, threads) in [
                (Unit::Vectors, false, false, Threads::One),
                (Unit::Vectors, true, true, Threads::One),
                (Unit::Vectors, false, true, Threads::All),
                (Unit::Vectors, true, false, Threads::All),
                (Unit::Tiles, false, false, Threads::All),
                (Unit::Tiles, true, true, Threads::All),
                (Unit::Tiles, false, true, Threads::One),
                (Unit::Tiles, true, false, Threads::One),
            ] {
                let mut values = vec![0.25; (rows - 1) * stride + columns];
                let left_factor = if by_columns {
                    Matrix::dense(&turned, depth, rows).transposed()
                } else {
                    Matrix::dense(&left, rows, depth)
                };
                let product = Product { values: &mut values, stride, accumulate };
                let right_factor = if by_columns {
                    Matrix::dense(&right, depth, columns)
                } else {
                    Matrix::dense(&turned_right, columns, depth).transposed()
                };
                with_panels_for(unit, right_factor, threads, |panels| {
                    multiply(left_factor, panels, product, threads);
                });
                for row in 0..rows {
                    for column in 0..columns {
                        let terms = (0..depth).map(|place| {
                            let left = bf16(left[row * depth + place]);
                            f64::from(left) * f64::from(bf16(right[place * columns + column]))
                        });
                        let expected = terms.sum::<f64>() + if accumulate { 0.25 } else { 0.0 };
                        let value = f64::from(values[row * stride + column]);
                        prop_assert!((value - expected).abs() < 1e-4, "{value}, not {expected}");
                    }
                    let between = row * stride + columns..((row + 1) * stride).min(values.len());
                    prop_assert!(values[between].iter().all(|value| *value == 0.25));
                }
            }
        }
    }
}
