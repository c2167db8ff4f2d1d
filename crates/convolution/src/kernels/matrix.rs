//! The matrix product, on the `gemm` crate, and those of bytes and of bf16 where the CPU has instructions for them. This file
//! alone holds `unsafe`.
#![allow(
    unsafe_code,
    reason = "gemm takes pointers, and every access is checked against the slices here; what a CPU has is known only when it runs"
)]

use gemm::Parallelism;

use super::bf16;

#[cfg(not(target_family = "wasm"))]
use super::dot_products::{PANEL, PanelQuad, PanelScales, TILE, TileWindows};

/// A matrix in a slice with any strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after another, `stride` apart.
    ///
    /// # Panics
    ///
    /// Panics if the slice is too short.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows == 0 || columns == 0 || (rows - 1) * stride + columns <= values.len());
        Self {
            values,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// Rows one after another without a gap.
    pub(crate) fn dense(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::new(values, rows, columns, columns)
    }

    /// Rows and columns.
    pub(crate) const fn size(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Whether a row's values lie side by side.
    pub(crate) const fn has_rows_in_one_piece(&self) -> bool {
        self.column_stride == 1
    }

    /// A row whose values lie side by side.
    ///
    /// # Panics
    ///
    /// Panics if they do not, or if there is no such row.
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        assert!(self.has_rows_in_one_piece() && row < self.rows);
        &self.values[row * self.row_stride..][..self.columns]
    }

    pub(crate) const fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Where a product goes: rows one after another, `stride` apart.
#[derive(Debug)]
pub(crate) struct Product<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
    /// Adds to what is there instead of writing over it.
    pub(crate) accumulate: bool,
}

/// How many threads share one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The caller's alone; for products that run side by side.
    One,
    /// All of rayon's.
    All,
}

/// Multiplies `left`, `[m, k]`, by `right`, `[k, n]`.
///
/// # Panics
///
/// Panics if the shapes do not fit together or into the product.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a product lends its memory to one multiplication"
)]
pub(crate) fn multiply(
    left: Matrix<'_>,
    right: Matrix<'_>,
    product: Product<'_>,
    threads: Threads,
) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    assert_eq!(k, right.rows, "inner dimensions");
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * product.stride + n <= product.values.len() && n <= product.stride);
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: the constructors of `Matrix` and the assertion above keep every element of the three
    // matrices inside its slice; rows of the product do not overlap, as its stride is at least n;
    // `product` is borrowed mutably, so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            product.values.as_mut_ptr(),
            1,
            product.stride as isize,
            product.accumulate,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Whether the CPU has [`multiply_windows`].
#[cfg(not(target_family = "wasm"))]
pub(crate) fn has_dot_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Multiplies the windows of a tile by a panel of weights.
///
/// # Panics
///
/// Panics if a window reaches beyond the bytes, or the CPU does not have it.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn multiply_windows(
    windows: TileWindows<'_>,
    weights: &[PanelQuad],
    scales: &PanelScales,
    values: &mut [[f32; PANEL]; TILE],
) {
    assert!(has_dot_products(), "the CPU has no dot products of bytes");
    // SAFETY: the CPU has the features that the function was compiled for; all else in it is safe.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        super::dot_products::vnni::multiply(windows, weights, scales, values);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (windows, weights, scales, values);
}

/// Whether the CPU has dot products of two numbers in bf16.
pub(crate) fn has_pair_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Multiplies a tile's rows by a panel's columns, both in pairs of bf16, with the CPU's dot products if it has them.
///
/// # Panics
///
/// Panics if the rows are shorter than the panel.
pub(crate) fn multiply_pairs(
    left: bf16::LeftTile<'_>,
    panel: &[bf16::PanelPairs],
    sums: &mut [[f32; bf16::PANEL]; bf16::TILE],
) {
    #[cfg(target_arch = "x86_64")]
    if has_pair_products() {
        // SAFETY: the CPU has the features that the function was compiled for; all else in it is safe.
        return unsafe { bf16::dot::multiply(left, panel, sums) };
    }
    bf16::multiply_one_by_one(left, panel, sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    const RIGHT: [f32; 6] = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0];

    #[test]
    fn products_are_written_added_and_strided() {
        let mut values = [7.0_f32; 5];
        for (accumulate, expected) in [
            (false, [5.0, 11.0, 7.0, 14.0, 23.0]),
            (true, [10.0, 22.0, 7.0, 28.0, 46.0]),
        ] {
            let product = Product {
                values: &mut values,
                stride: 3,
                accumulate,
            };
            let (left, right) = (Matrix::dense(&LEFT, 2, 3), Matrix::dense(&RIGHT, 3, 2));
            multiply(left, right, product, Threads::One);
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn factors_can_be_transposed() {
        let mut values = [0.0_f32; 9];
        let product = Product {
            values: &mut values,
            stride: 3,
            accumulate: false,
        };
        let left = Matrix::dense(&LEFT, 2, 3).transposed();
        let right = Matrix::dense(&RIGHT, 3, 2).transposed();
        multiply(left, right, product, Threads::All);
        assert_eq!(values, [1.0, 6.0, 12.0, 2.0, 9.0, 15.0, 3.0, 12.0, 18.0]);
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn a_product_too_large_for_its_slice_is_refused() {
        let product = Product {
            values: &mut [0.0; 3],
            stride: 2,
            accumulate: false,
        };
        let (left, right) = (Matrix::dense(&LEFT, 2, 3), Matrix::dense(&RIGHT, 3, 2));
        multiply(left, right, product, Threads::One);
    }
}
