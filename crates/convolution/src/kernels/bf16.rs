//! Products of factors that are rounded to bf16, with sums in f32: the CPU's dot products of two numbers (AVX512-BF16), or
//! the same without them, slowly.

use std::ops::Range;

use pulp::bytemuck::cast_slice_mut;
use rayon::prelude::*;

use super::matrix::{Matrix, Product, Threads, multiply_pairs};
use super::{vectorized, with_scratch};

/// Columns of a panel, four vectors of 16.
pub(crate) const PANEL: usize = 64;

/// Rows of a tile, whose sums fill 24 of the CPU's 32 registers.
pub(crate) const TILE: usize = 6;

/// Two neighbours along the depth in bf16, the first in the lower half.
pub(crate) type Pair = u32;

/// A pair for each of a panel's columns.
pub(crate) type PanelPairs = [Pair; PANEL];

/// A right factor, `[depth, columns]`, panel after panel of `[pairs, PANEL]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    pairs: &'a [PanelPairs],
    depth: usize,
    columns: usize,
}

/// Some rows of a left factor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LeftTile<'a> {
    /// Each row's pairs.
    Rows([&'a [Pair]; TILE]),
    /// For each pair the rows at these places of a line.
    Columns {
        lines: &'a [Pair],
        stride: usize,
        first: usize,
    },
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
    /// Pairs that a thread packs at once.
    const AT_ONCE: usize = 128;
    let [depth, columns] = right.size();
    let pairs = depth.div_ceil(2);
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
    for (place, into) in into.iter_mut().enumerate() {
        let row = first + 2 * place;
        let upper = &right.row(row)[columns.clone()];
        let lower = if row + 1 < depth {
            &right.row(row + 1)[columns.clone()]
        } else {
            &[0.0; PANEL][..columns.len()]
        };
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
        let numbers = first..depth.min(first + 2 * AT_ONCE);
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
    assert!(right.columns <= product.stride);
    let Product {
        values,
        stride,
        accumulate,
    } = product;
    let length = depth.div_ceil(2) * rows.next_multiple_of(TILE);
    with_scratch(length, |scratch| {
        let left = Left::pack(left, cast_slice_mut(scratch));
        match threads {
            Threads::One => left.multiply(0, right, (values, stride), accumulate),
            Threads::All => {
                let tiles = values.par_chunks_mut(TILE * stride).enumerate();
                let tiles = tiles.take(rows.div_ceil(TILE));
                tiles.for_each(|(tile, values)| {
                    left.multiply(tile, right, (values, stride), accumulate);
                });
            }
        }
    });
}

/// A left factor in pairs.
#[derive(Clone, Copy, Debug)]
struct Left<'a> {
    pairs: &'a [Pair],
    rows: usize,
    /// Pairs of a row.
    depth: usize,
    /// Whether pair after pair holds all rows, filled up to whole tiles, in place of row after row all pairs.
    by_columns: bool,
}

impl<'a> Left<'a> {
    fn pack(left: Matrix<'_>, into: &'a mut [Pair]) -> Self {
        let [rows, depth] = left.size();
        let pairs = depth.div_ceil(2);
        let by_columns = !left.has_rows_in_one_piece();
        vectorized(
            #[inline(always)]
            || {
                if by_columns {
                    pack_columns(left.transposed(), into);
                } else {
                    pack_rows(left, into);
                }
            },
        );
        Self {
            pairs: into,
            rows,
            depth: pairs,
            by_columns,
        }
    }

    /// Multiplies the rows from a tile on, as many as there is room for.
    fn multiply(
        &self,
        first: usize,
        right: Panels<'_>,
        (values, stride): (&mut [f32], usize),
        accumulate: bool,
    ) {
        let mut sums = [[0.0; PANEL]; TILE];
        let panels = right.pairs.chunks(self.depth.max(1));
        for (panel, pairs) in panels.enumerate() {
            let columns = panel * PANEL..right.columns.min((panel + 1) * PANEL);
            let tiles = first..self.rows.div_ceil(TILE);
            for (tile, values) in tiles.zip(values.chunks_mut(TILE * stride)) {
                multiply_pairs(self.tile(tile), pairs, &mut sums);
                let rows = values.chunks_mut(stride).zip(&sums);
                for (row, sums) in rows.take(self.rows - tile * TILE) {
                    let row = row[columns.clone()].iter_mut().zip(sums);
                    if accumulate {
                        row.for_each(|(value, sum)| *value += sum);
                    } else {
                        row.for_each(|(value, sum)| *value = *sum);
                    }
                }
            }
        }
    }

    /// The last row is repeated where there are fewer.
    fn tile(&self, tile: usize) -> LeftTile<'a> {
        if self.by_columns {
            return LeftTile::Columns {
                lines: self.pairs,
                stride: self.rows.next_multiple_of(TILE),
                first: tile * TILE,
            };
        }
        LeftTile::Rows(std::array::from_fn(|row| {
            let row = (tile * TILE + row).min(self.rows - 1);
            &self.pairs[row * self.depth..][..self.depth]
        }))
    }
}

#[inline(always)]
fn pack_rows(left: Matrix<'_>, into: &mut [Pair]) {
    let [_, depth] = left.size();
    for (place, into) in into.chunks_exact_mut(depth.div_ceil(2).max(1)).enumerate() {
        if place == left.size()[0] {
            break;
        }
        pack_row(left.row(place), into);
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

/// Of a factor whose rows are the left one's columns.
#[inline(always)]
fn pack_columns(columns: Matrix<'_>, into: &mut [Pair]) {
    let [depth, rows] = columns.size();
    let lines = into.chunks_exact_mut(rows.next_multiple_of(TILE).max(1));
    for (place, into) in lines.enumerate() {
        into[rows..].fill(0);
        let first = columns.row(2 * place);
        if 2 * place + 1 < depth {
            let both = first.iter().zip(columns.row(2 * place + 1));
            for (into, (first, second)) in into.iter_mut().zip(both) {
                *into = pair(*first, *second);
            }
        } else {
            let last = into.iter_mut().zip(first);
            last.for_each(|(into, first)| *into = pair(*first, 0.0));
        }
    }
}

#[inline(always)]
fn pair(first: f32, second: f32) -> Pair {
    (rounded(first) >> 16) | (rounded(second) & 0xffff_0000)
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

/// What [`multiply_pairs`] runs where the CPU has no dot products of two: each is added as the CPU's would be, the second
/// number's product first.
pub(crate) fn multiply_one_by_one(
    left: LeftTile<'_>,
    panel: &[PanelPairs],
    sums: &mut [[f32; PANEL]; TILE],
) {
    let halves = |pair: Pair| [pair << 16, pair & 0xffff_0000].map(f32::from_bits);
    *sums = [[0.0; PANEL]; TILE];
    for (place, columns) in panel.iter().enumerate() {
        let rows = match left {
            LeftTile::Rows(rows) => rows.map(|row| row[place]),
            LeftTile::Columns {
                lines,
                stride,
                first,
            } => std::array::from_fn(|row| lines[place * stride + first + row]),
        };
        for (row, sums) in rows.into_iter().zip(&mut *sums) {
            let [first, second] = halves(row);
            for (sum, column) in sums.iter_mut().zip(columns) {
                let [of_first, of_second] = halves(*column);
                *sum = first.mul_add(of_first, second.mul_add(of_second, *sum));
            }
        }
    }
}

/// What [`multiply_pairs`] runs where the CPU has dot products of two.
#[cfg(target_arch = "x86_64")]
pub(crate) mod dot {
    use std::arch::x86_64::{
        __m512, __m512bh, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    };

    use pulp::cast;

    use super::{LeftTile, PANEL, Pair, PanelPairs, TILE};

    /// Vectors of a panel.
    const VECTORS: usize = PANEL / 16;

    /// The products of a tile's rows and a panel's columns.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(crate) fn multiply(
        left: LeftTile<'_>,
        panel: &[PanelPairs],
        sums: &mut [[f32; PANEL]; TILE],
    ) {
        let products = match left {
            LeftTile::Rows(rows) => {
                let rows = rows.map(|row| &row[..panel.len()]);
                sum(panel, |place| rows.map(|row| row[place]))
            }
            LeftTile::Columns {
                lines,
                stride,
                first,
            } => {
                let lines = &lines[first..];
                sum(panel, |place| {
                    let line = lines[place * stride..].first_chunk();
                    *line.expect("a line is filled up to whole tiles")
                })
            }
        };
        for (sums, products) in sums.iter_mut().zip(products) {
            let vectors = sums.as_chunks_mut::<16>().0.iter_mut();
            vectors
                .zip(products)
                .for_each(|(sums, products)| *sums = cast(products));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn sum(
        panel: &[PanelPairs],
        rows: impl Fn(usize) -> [Pair; TILE],
    ) -> [[__m512; VECTORS]; TILE] {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; TILE];
        for (place, columns) in panel.iter().enumerate() {
            let columns: [__m512bh; VECTORS] = cast(*columns);
            let rows = rows(place);
            for row in 0..TILE {
                let both: __m512bh = cast(_mm512_set1_epi32(rows[row].cast_signed()));
                for vector in 0..VECTORS {
                    sums[row][vector] = _mm512_dpbf16_ps(sums[row][vector], both, columns[vector]);
                }
            }
        }
        sums
    }
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
            for (by_columns, accumulate, threads) in [
                (false, false, Threads::One),
                (true, true, Threads::One),
                (false, true, Threads::All),
                (true, false, Threads::All),
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
                with_panels(right_factor, threads, |panels| {
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

        /// Bit-identical, where the CPU has dot products of two.
        #[test]
        fn the_cpu_sums_as_one_by_one(
            pairs in 1..40_usize,
            seed in prop::collection::vec(-2.0..2.0_f32, 40 * (PANEL + TILE) * 2),
        ) {
            let mut numbers = seed.as_chunks::<2>().0.iter().map(|[first, second]| pair(*first, *second));
            let panel: Vec<PanelPairs> = (0..pairs)
                .map(|_| std::array::from_fn(|_| numbers.next().unwrap()))
                .collect();
            let lines: Vec<Pair> = (0..pairs * TILE).map(|_| numbers.next().unwrap()).collect();
            let by_row = |row| (0..pairs).map(|place| lines[place * TILE + row]).collect();
            let rows: [Vec<Pair>; TILE] = std::array::from_fn(by_row);
            let tiles = [
                LeftTile::Columns { lines: &lines, stride: TILE, first: 0 },
                LeftTile::Rows(std::array::from_fn(|row| &*rows[row])),
            ];
            let mut expected = [[f32::NAN; PANEL]; TILE];
            multiply_one_by_one(tiles[0], &panel, &mut expected);
            for tile in tiles {
                let mut sums = [[f32::NAN; PANEL]; TILE];
                multiply_pairs(tile, &panel, &mut sums);
                prop_assert_eq!(sums, expected);
            }
        }
    }
}
