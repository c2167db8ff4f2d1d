//! The shapes that convolutions go by.

use std::ops::Range;

use crate::kernels::matrix::{has_pair_products, has_tiles};

/// Stride, padding, dilation and groups of a convolution, `[vertical, horizontal]`, and how the CPU may compute
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvOptions {
    /// Pixels between two windows, at least 1.
    pub stride: [usize; 2],
    /// Zeros around the map, on both sides alike, as PyTorch's.
    pub padding: [usize; 2],
    /// Pixels between two taps of a window, at least 1.
    pub dilation: [usize; 2],
    /// How many parts the channels are split into; each part sees only itself.
    pub groups: usize,
    /// What the CPU may do for speed.
    pub arithmetic: Arithmetic,
}

/// How the CPU may compute a convolution other than by plain products in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arithmetic {
    /// Whether it may go by Winograd's algorithm.
    ///
    /// It computes 3×3 convolutions with stride 1 with a quarter of the multiplications, tile by tile
    /// of 4×4 pixels (F(4×4, 3×3), [Lavin and Gray 2016](https://arxiv.org/abs/1509.09308)). Its sums
    /// cancel more than plain ones: against f64, the largest error is about 1e-5 of the output's
    /// largest value, where the plain product's is about 1e-6. Forbid it to compare numbers with
    /// another framework to the last digit.
    pub winograd: bool,
    /// Whether plain products, those of all convolutions that do not go by Winograd's algorithm, may round their factors to
    /// bf16; sums stay in f32. Quicker where [`has_bf16_products`](crate::has_bf16_products), and slow elsewhere.
    pub bf16: bool,
}

impl Arithmetic {
    /// Winograd's algorithm, and no rounding.
    pub const STANDARD: Self = Self {
        winograd: true,
        bf16: false,
    };
}

/// Whether the CPU has instructions for products of bf16 (AVX512-BF16 or AMX-BF16).
pub fn has_bf16_products() -> bool {
    has_pair_products() || has_tiles()
}

impl ConvOptions {
    /// The same both ways, without dilation and groups, and with Winograd's algorithm.
    pub const fn new(stride: usize, padding: usize) -> Self {
        Self {
            stride: [stride; 2],
            padding: [padding; 2],
            dilation: [1; 2],
            groups: 1,
            arithmetic: Arithmetic::STANDARD,
        }
    }

    /// The size of the output of a map, `[height, width]`.
    ///
    /// # Panics
    ///
    /// Panics if the map, padded, is smaller than the kernel.
    pub fn output_size(&self, size: [usize; 2], kernel: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let reach = self.dilation[axis] * (kernel[axis] - 1) + 1;
            let padded = size[axis] + 2 * self.padding[axis];
            assert!(
                padded >= reach,
                "a map of {size:?} under a kernel of {kernel:?}"
            );
            (padded - reach) / self.stride[axis] + 1
        })
    }
}

/// Maps that lie one after another in one buffer, each row by row and pixel by pixel: the images of
/// a batch, or the levels of a pyramid for each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Maps(Vec<[usize; 2]>);

impl Maps {
    /// A batch of maps of one size.
    pub(crate) fn batch(batch: usize, height: usize, width: usize) -> Self {
        Self(vec![[height, width]; batch])
    }

    /// For each image of a batch all levels.
    pub(crate) fn levels(batch: usize, levels: &[[usize; 2]]) -> Self {
        Self(levels.repeat(batch))
    }

    pub(crate) fn sizes(&self) -> &[[usize; 2]] {
        &self.0
    }

    pub(crate) fn pixels(&self) -> usize {
        self.0.iter().map(|[height, width]| height * width).sum()
    }

    /// Where each map's pixels are.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.0.iter().scan(0, |start, [height, width]| {
            let range = *start..*start + height * width;
            *start = range.end;
            Some(range)
        })
    }

    /// The maps after a convolution.
    pub(crate) fn convolved(&self, kernel: [usize; 2], options: &ConvOptions) -> Self {
        let sizes = self.0.iter();
        Self(
            sizes
                .map(|size| options.output_size(*size, kernel))
                .collect(),
        )
    }

    /// The pieces of rows that a range of pixels is made of.
    pub(crate) fn rows_in(&self, range: Range<usize>) -> impl Iterator<Item = RowPiece> {
        let maps = self.0.iter().enumerate().zip(self.ranges());
        maps.filter(move |(_, pixels)| pixels.start < range.end && pixels.end > range.start)
            .flat_map(move |((map, [_, width]), pixels)| {
                let start = range.start.max(pixels.start) - pixels.start;
                let end = range.end.min(pixels.end) - pixels.start;
                (start / width..end.div_ceil(*width)).map(move |y| RowPiece {
                    map,
                    y,
                    x: start.max(y * width) - y * width..end.min((y + 1) * width) - y * width,
                })
            })
    }
}

/// Neighbouring pixels of one row of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowPiece {
    pub(crate) map: usize,
    pub(crate) y: usize,
    pub(crate) x: Range<usize>,
}

/// Splits `0..total` into ranges of at most `length`, as equal as can be.
pub(crate) fn split(total: usize, length: usize) -> Vec<Range<usize>> {
    let parts = total.div_ceil(length.max(1)).max(1);
    (0..parts)
        .map(|part| part * total / parts..(part + 1) * total / parts)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_range_cross_maps() {
        let maps = Maps(vec![[2, 3], [1, 2], [2, 2]]);
        let rows: Vec<_> = maps
            .rows_in(2..9)
            .map(|row| (row.map, row.y, row.x))
            .collect();
        assert_eq!(
            rows,
            [(0, 0, 2..3), (0, 1, 0..3), (1, 0, 0..2), (2, 0, 0..1)]
        );
        assert_eq!(maps.rows_in(0..maps.pixels()).count(), 5);
    }

    #[test]
    fn sizes_follow_stride_and_dilation() {
        let options = ConvOptions {
            stride: [2, 1],
            padding: [1, 0],
            dilation: [1, 2],
            groups: 1,
            arithmetic: Arithmetic::STANDARD,
        };
        assert_eq!(options.output_size([7, 9], [3, 3]), [4, 5]);
    }

    #[test]
    fn parts_cover_everything_once() {
        assert_eq!(split(10, 4), [0..3, 3..6, 6..10]);
        assert_eq!(split(0, 4).len(), 1);
    }
}
