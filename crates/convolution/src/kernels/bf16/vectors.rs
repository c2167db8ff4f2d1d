//! Products by vectors: the CPU's dot products of two numbers (AVX512-BF16), or the same without them, slowly.

use pulp::bytemuck::cast_slice_mut;
use rayon::prelude::*;

use super::{PANEL, Pair, PanelPairs, Panels, halves, pack_row, pair, write};
use crate::kernels::matrix::{Matrix, Product, Threads, multiply_pairs};
use crate::kernels::{vectorized, with_scratch};

/// Rows of a tile, whose sums fill 24 of the CPU's 32 registers.
pub(crate) const TILE: usize = 6;

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

/// Multiplies as [`super::multiply`] does.
pub(super) fn multiply(
    left: Matrix<'_>,
    right: Panels<'_>,
    product: Product<'_>,
    threads: Threads,
) {
    let [rows, depth] = left.size();
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
        for (columns, pairs) in right.iter() {
            let tiles = first..self.rows.div_ceil(TILE);
            for (tile, values) in tiles.zip(values.chunks_mut(TILE * stride)) {
                multiply_pairs(self.tile(tile), pairs, &mut sums);
                let rows = TILE.min(self.rows - tile * TILE);
                write(&sums[..rows], &columns, (values, stride), accumulate);
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

/// What [`multiply_pairs`] runs where the CPU has no dot products of two: each is added as the CPU's would be, the second
/// number's product first, but for subnormal numbers, which the CPU takes for 0.
pub(crate) fn multiply_one_by_one(
    left: LeftTile<'_>,
    panel: &[PanelPairs],
    sums: &mut [[f32; PANEL]; TILE],
) {
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
                let lines = lines.get(first..).unwrap_or_default();
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

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
