//! The right factor of a product, as it is multiplied.

use super::bf16::{self, PANEL, Panels};
use super::matrix::{Matrix, Product, Threads, multiply};
use crate::problem::Problem;

/// A right factor, `[k, n]`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Factor<'a> {
    /// As it is.
    F32(Matrix<'a>),
    /// Rounded.
    Bf16(Panels<'a>),
}

impl Factor<'_> {
    /// Multiplies `left`, `[m, k]`, by it, rounded if it is.
    ///
    /// # Panics
    ///
    /// Panics if the shapes do not fit together or into the product.
    pub(crate) fn multiply(&self, left: Matrix<'_>, product: Product<'_>, threads: Threads) {
        match *self {
            Self::F32(factor) => multiply(left, factor, product, threads),
            Self::Bf16(factor) => bf16::multiply(left, factor, product, threads),
        }
    }
}

/// Columns below which rounding gains nothing: a panel is mostly padding then.
const FEWEST_COLUMNS: usize = PANEL / 2;

/// Lends a factor of a problem, rounded if its products may be.
pub(crate) fn with_factor<R>(
    problem: &Problem,
    factor: Matrix<'_>,
    threads: Threads,
    work: impl FnOnce(Factor<'_>) -> R,
) -> R {
    let [_, columns] = factor.size();
    if problem.options.arithmetic.bf16 && columns >= FEWEST_COLUMNS {
        bf16::with_panels(factor, threads, |panels| work(Factor::Bf16(panels)))
    } else {
        work(Factor::F32(factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Arithmetic, ConvOptions, Maps};

    #[test]
    fn a_problem_says_whether_its_products_are_rounded() {
        // Half a step of bf16 above 1, which rounds to 1.
        const BETWEEN: f32 = 1.0 + 1.0 / 256.0;
        for (bf16, columns, expected) in [
            (false, 40, BETWEEN),
            (true, 40, 1.0),
            (true, FEWEST_COLUMNS - 1, BETWEEN),
        ] {
            let options = ConvOptions {
                arithmetic: Arithmetic {
                    bf16,
                    ..Arithmetic::STANDARD
                },
                ..ConvOptions::new(1, 0)
            };
            let problem = Problem::new(Maps::batch(1, 1, 1), 1, [columns, 1, 1, 1], options);
            let mut values = vec![0.0; columns];
            let product = Product {
                values: &mut values,
                stride: columns,
                accumulate: false,
            };
            let right = vec![BETWEEN; columns];
            let right = Matrix::dense(&right, 1, columns);
            with_factor(&problem, right, Threads::One, |right| {
                right.multiply(Matrix::dense(&[1.0], 1, 1), product, Threads::One);
            });
            assert_eq!(values, vec![expected; columns]);
        }
    }
}
