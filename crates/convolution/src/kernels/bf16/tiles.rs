//! Products by tiles of the CPU's matrix unit (AMX-BF16), or the same without it, slowly.
//!
//! Such a unit multiplies 16 rows of 16 pairs by 16 pairs of 16 columns at once. Intel's manual says in which order it sums,
//! and that it takes subnormal numbers for 0 (`TDPBF16PS`).

use pulp::bytemuck::cast_slice_mut;
use rayon::prelude::*;

use super::{PANEL, Pair, PanelPairs, Panels, halves, pack_row, pair, write};
use crate::kernels::matrix::{Matrix, Product, Threads, multiply_tiles};
use crate::kernels::{vectorized, with_scratch};

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;

/// Pairs of a tile's row, and rows of a panel that are multiplied at once.
pub(crate) const PAIRS: usize = 16;

/// Some rows of a left factor, as deep as a tile.
pub(crate) type Tile = [[Pair; PAIRS]; ROWS];

/// The products of a tile's rows and a panel's columns.
pub(crate) type Sums = [[f32; PANEL]; ROWS];

/// Multiplies as [`super::multiply`] does.
pub(super) fn multiply(
    left: Matrix<'_>,
    right: Panels<'_>,
    product: Product<'_>,
    threads: Threads,
) {
    let [rows, _] = left.size();
    let Product {
        values,
        stride,
        accumulate,
    } = product;
    let bands = rows.div_ceil(ROWS);
    let multiply = |(band, values): (usize, &mut [f32])| {
        multiply_band(left, band * ROWS, right, (values, stride), accumulate);
    };
    match threads {
        Threads::One => {
            let values = values.chunks_mut(ROWS * stride).enumerate();
            values.take(bands).for_each(multiply);
        }
        Threads::All => {
            let values = values.par_chunks_mut(ROWS * stride).enumerate();
            values.take(bands).for_each(multiply);
        }
    }
}

/// Multiplies the rows of one tile.
fn multiply_band(
    left: Matrix<'_>,
    first: usize,
    right: Panels<'_>,
    (values, stride): (&mut [f32], usize),
    accumulate: bool,
) {
    let [rows, depth] = left.size();
    let rows = ROWS.min(rows - first);
    let length = right.unit.pairs(depth) * ROWS;
    with_scratch(length, |scratch| {
        let tiles: &mut [Tile] = cast_slice_mut(scratch);
        pack(left, first, tiles);
        multiply_tiles(tiles, right.iter(), |columns, sums| {
            write(&sums[..rows], &columns, (values, stride), accumulate);
        });
    });
}

/// Packs the rows of one tile from a row on; where there are none, zeros.
fn pack(left: Matrix<'_>, first: usize, into: &mut [Tile]) {
    vectorized(
        #[inline(always)]
        || {
            if left.has_rows_in_one_piece() {
                pack_rows(left, first, into);
            } else {
                pack_columns(left.transposed(), first, into);
            }
        },
    );
}

#[inline(always)]
fn pack_rows(left: Matrix<'_>, first: usize, into: &mut [Tile]) {
    let [rows, depth] = left.size();
    for row in 0..ROWS {
        let numbers = if first + row < rows {
            left.row(first + row)
        } else {
            &[]
        };
        for (place, tile) in into.iter_mut().enumerate() {
            let from = |pair: usize| (2 * pair).min(depth).min(numbers.len());
            let mut pairs = [0; PAIRS];
            pack_row(
                &numbers[from(place * PAIRS)..from((place + 1) * PAIRS)],
                &mut pairs,
            );
            tile[row] = pairs;
        }
    }
}

/// Of a factor whose rows are the left one's columns.
#[inline(always)]
fn pack_columns(columns: Matrix<'_>, first: usize, into: &mut [Tile]) {
    let [depth, rows] = columns.size();
    let column = |column: usize| {
        let mut numbers = [0.0; ROWS];
        if column < depth {
            let there = &columns.row(column)[first..rows.min(first + ROWS)];
            numbers[..there.len()].copy_from_slice(there);
        }
        numbers
    };
    for (block, tile) in into.iter_mut().enumerate() {
        for place in 0..PAIRS {
            let number = 2 * (block * PAIRS + place);
            let (upper, lower) = (column(number), column(number + 1));
            for row in 0..ROWS {
                tile[row][place] = pair(upper[row], lower[row]);
            }
        }
    }
}

/// What [`multiply_tiles`] runs for each panel where the CPU has no such unit.
pub(crate) fn multiply_one_by_one(left: &[Tile], panel: &[PanelPairs], sums: &mut Sums) {
    *sums = [[0.0; PANEL]; ROWS];
    for (tile, panel) in left.iter().zip(panel.as_chunks::<PAIRS>().0) {
        for (row, sums) in tile.iter().zip(&mut *sums) {
            let mut of_tile = [[0.0_f32; 2]; PANEL];
            for (left, columns) in row.iter().zip(panel) {
                let left = halves(*left).map(normal);
                for (sums, right) in of_tile.iter_mut().zip(columns) {
                    let right = halves(*right).map(normal);
                    for half in 0..2 {
                        sums[half] = normal(left[half].mul_add(right[half], sums[half]));
                    }
                }
            }
            for (sum, [first, second]) in sums.iter_mut().zip(of_tile) {
                *sum = normal(*sum + normal(first + second));
            }
        }
    }
}

/// A number, or 0 in its place if it is subnormal.
#[inline(always)]
fn normal(value: f32) -> f32 {
    if value.is_subnormal() {
        0.0_f32.copysign(value)
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::matrix::has_tiles;

    /// The sum of a row's products with ones, tile after tile.
    fn sum(tiles: &[&[[f32; 2]]]) -> f32 {
        let left: Vec<Tile> = (tiles.iter())
            .map(|pairs| {
                let mut row = [0; PAIRS];
                let numbers = row.iter_mut().zip(*pairs);
                numbers.for_each(|(into, [first, second])| *into = pair(*first, *second));
                [row; ROWS]
            })
            .collect();
        let panel = vec![[pair(1.0, 1.0); PANEL]; tiles.len() * PAIRS];
        let mut found = None;
        multiply_tiles(&left, [((), &*panel)].into_iter(), |(), sums| {
            assert!(sums.as_flattened().iter().all(|sum| *sum == sums[0][0]));
            found = Some(sums[0][0]);
        });
        found.expect("one panel has sums")
    }

    /// Intel's manual, `TDPBF16PS`: a tile's first numbers are summed by themselves, so are its second ones, and both sums
    /// are added to those of the tiles before.
    #[test]
    fn sums_are_in_the_manuals_order() {
        let large = 2.0_f32.powi(24);
        assert_eq!(sum(&[&[[large, 1.0], [-large, 1.0]]]), 2.0);
        assert_eq!(
            sum(&[&[[large, 0.0]], &[[1.0, 0.0], [1.0, 0.0]]]),
            large + 2.0
        );
        assert_eq!(sum(&[&[[large, 0.0], [1.0, 0.0], [1.0, 0.0]]]), large);
        let subnormal = 2.0_f32.powi(-127);
        assert_eq!(sum(&[&[[subnormal, 2.0 * subnormal]]]), 2.0 * subnormal);
    }

    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![
            1000 => -2.0..2.0_f32,
            200 => (-2.0..2.0_f32).prop_map(|value| value * 2.0_f32.powi(-63)),
            1 => any::<u32>().prop_map(f32::from_bits),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        /// Bit-identical: numbers whose sums are finite, some whose products are subnormal, and a few with any bits.
        #[test]
        #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
        fn the_unit_sums_as_one_by_one(
            blocks in 0..4_usize,
            seed in prop::collection::vec(number(), 2 * 3 * PAIRS * (2 * PANEL + ROWS)),
        ) {
            if !has_tiles() {
                eprintln!("skipped: the CPU has no AMX-BF16");
                return Ok(());
            }
            let mut numbers = seed.as_chunks::<2>().0.iter().map(|[first, second]| pair(*first, *second));
            let left: Vec<Tile> = (0..blocks)
                .map(|_| std::array::from_fn(|_| std::array::from_fn(|_| numbers.next().unwrap())))
                .collect();
            let panels: [Vec<PanelPairs>; 2] = std::array::from_fn(|_| {
                (0..blocks * PAIRS).map(|_| std::array::from_fn(|_| numbers.next().unwrap())).collect()
            });
            let mut found = Vec::new();
            multiply_tiles(&left, panels.iter().map(|panel| ((), &**panel)), |(), sums| found.push(*sums));
            prop_assert_eq!(found.len(), panels.len());
            for (panel, found) in panels.iter().zip(found) {
                let mut expected = [[f32::NAN; PANEL]; ROWS];
                multiply_one_by_one(&left, panel, &mut expected);
                for (found, expected) in found.as_flattened().iter().zip(expected.as_flattened()) {
                    let same = found.to_bits() == expected.to_bits();
                    prop_assert!(same || found.is_nan() && expected.is_nan(), "{found:e}, not {expected:e}");
                }
            }
        }
    }
}
