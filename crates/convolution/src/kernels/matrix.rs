//! The matrix product, on the `gemm` crate, and those of bytes and of bf16 where the CPU has instructions for them. This file
//! alone holds `unsafe`.
#![allow(
    unsafe_code,
    reason = "gemm takes pointers, and every access is checked against the slices here; what a CPU has is known only when it runs"
)]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::sync::OnceLock;

use gemm::Parallelism;

use super::bf16::tiles::{self, Tile};
use super::bf16::vectors::{self, LeftTile};
use super::bf16::{self, PanelPairs};

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
    left: LeftTile<'_>,
    panel: &[PanelPairs],
    sums: &mut [[f32; bf16::PANEL]; vectors::TILE],
) {
    #[cfg(target_arch = "x86_64")]
    if has_pair_products() {
        // SAFETY: the CPU has the features that the function was compiled for; all else in it is safe.
        return unsafe { vectors::dot::multiply(left, panel, sums) };
    }
    vectors::multiply_one_by_one(left, panel, sums);
}

/// Whether the CPU has a matrix unit for bf16, and the kernel lets this process use it.
pub(crate) fn has_tiles() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        static ANSWER: OnceLock<bool> = OnceLock::new();
        *ANSWER.get_or_init(amx::request)
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// Multiplies a tile's rows by the columns of one panel after another, with the CPU's matrix unit if it has one, and hands on
/// the products to `take`, which must not multiply by tiles itself.
///
/// # Panics
///
/// Panics if a panel is not as deep as the rows.
pub(crate) fn multiply_tiles<'a, K>(
    left: &[Tile],
    panels: impl Iterator<Item = (K, &'a [PanelPairs])>,
    mut take: impl FnMut(K, &tiles::Sums),
) {
    let mut sums = [[0.0; bf16::PANEL]; tiles::ROWS];
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    let unit = has_tiles().then(amx::Unit::configured);
    for (key, panel) in panels {
        assert_eq!(panel.len(), left.len() * tiles::PAIRS, "inner dimensions");
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(unit) = &unit {
            unit.multiply(left, panel, &mut sums);
            take(key, &sums);
            continue;
        }
        tiles::multiply_one_by_one(left, panel, &mut sums);
        take(key, &sums);
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    //! The matrix unit's instructions, for which Rust has no stable functions yet.

    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::marker::PhantomData;

    use super::tiles::{PAIRS, ROWS, Sums, Tile};
    use super::{PanelPairs, bf16::PANEL};

    /// Bytes of a tile's row: those of its pairs, or of the sums of as many columns.
    const ROW: usize = size_of::<[u32; PAIRS]>();

    /// Asks the kernel for the unit's registers, which it saves only for those who ask (Linux, `Documentation/arch/x86/xstate.rst`).
    pub(super) fn request() -> bool {
        const EXTENDED_FEATURES: u32 = 7;
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        let needed = AMX_BF16 | AMX_TILE;
        if __cpuid(0).eax < EXTENDED_FEATURES
            || __cpuid_count(EXTENDED_FEATURES, 0).edx & needed != needed
        {
            return false;
        }
        // SAFETY: the call changes nothing but what this process may use, and how small its signals' stacks may be.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILEDATA,
            )
        };
        answer == 0
    }

    /// What `ldtilecfg` reads.
    #[repr(C, align(64))]
    struct Shapes {
        palette: u8,
        first_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// All eight registers as large as they are.
    static WHOLE: Shapes = {
        let mut shapes = Shapes {
            palette: 1,
            first_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let mut tile = 0;
        while tile < 8 {
            shapes.row_bytes[tile] = ROW as u16;
            shapes.rows[tile] = ROWS as u8;
            tile += 1;
        }
        shapes
    };

    /// The unit, with its registers configured on this thread until it is dropped.
    pub(super) struct Unit(PhantomData<*const ()>);

    impl Unit {
        /// # Panics
        ///
        /// Panics if it may not be used.
        pub(super) fn configured() -> Self {
            assert!(super::has_tiles(), "the CPU has no matrix unit for bf16");
            // SAFETY: the CPU has the instruction, which reads 64 bytes; Rust uses no tiles.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, preserves_flags, readonly));
            }
            Self(PhantomData)
        }

        /// Multiplies a tile's rows by a panel's columns.
        ///
        /// # Panics
        ///
        /// Panics if they are not as deep.
        #[expect(
            clippy::unused_self,
            reason = "who has a unit has its registers configured"
        )]
        pub(super) fn multiply(&self, left: &[Tile], panel: &[PanelPairs], sums: &mut Sums) {
            assert_eq!(panel.len(), left.len() * PAIRS);
            if left.is_empty() {
                *sums = [[0.0; PANEL]; ROWS];
                return;
            }
            // SAFETY: the registers are configured as long as `self` is there. Each turn reads a tile of `left` and as many
            // rows of `panel` as it has pairs, as many as the assertion says there are; `sums` has the size of four tiles.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{left} + {left_stride}]",
                    "tileloadd tmm5, [{right} + {right_stride}]",
                    "tdpbf16ps tmm0, tmm4, tmm5",
                    "tileloadd tmm6, [{right} + {right_stride} + 64]",
                    "tdpbf16ps tmm1, tmm4, tmm6",
                    "tileloadd tmm7, [{right} + {right_stride} + 128]",
                    "tdpbf16ps tmm2, tmm4, tmm7",
                    "tileloadd tmm5, [{right} + {right_stride} + 192]",
                    "tdpbf16ps tmm3, tmm4, tmm5",
                    "add {left}, {left_step}",
                    "add {right}, {right_step}",
                    "dec {turns}",
                    "jnz 2b",
                    "tilestored [{sums} + {right_stride}], tmm0",
                    "tilestored [{sums} + {right_stride} + 64], tmm1",
                    "tilestored [{sums} + {right_stride} + 128], tmm2",
                    "tilestored [{sums} + {right_stride} + 192], tmm3",
                    left = inout(reg) left.as_ptr() => _,
                    right = inout(reg) panel.as_ptr() => _,
                    turns = inout(reg) left.len() => _,
                    sums = in(reg) sums.as_mut_ptr(),
                    left_stride = in(reg) ROW,
                    right_stride = in(reg) size_of::<PanelPairs>(),
                    left_step = const size_of::<Tile>(),
                    right_step = const PAIRS * size_of::<PanelPairs>(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }

    impl Drop for Unit {
        fn drop(&mut self) {
            // SAFETY: the CPU has the instruction, or there would be no unit.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
        }
    }
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
