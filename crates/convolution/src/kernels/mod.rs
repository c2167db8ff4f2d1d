//! The CPU's kernels, on plain slices: `[pixels, channels]`, map after map.

pub(crate) mod bf16;
pub(crate) mod direct;
#[cfg(not(target_family = "wasm"))]
pub(crate) mod dot_products;
pub(crate) mod epilogue;
pub(crate) mod factor;
pub(crate) mod few_pixels;
pub(crate) mod gather;
pub(crate) mod grouped;
pub(crate) mod lanes;
pub(crate) mod matrix;
pub(crate) mod memory;
pub(crate) mod norm;
mod phase;
#[cfg(not(target_family = "wasm"))]
pub(crate) mod quantized;
pub(crate) mod resample;
pub(crate) mod sums;
pub(crate) mod weights;
pub(crate) mod winograd;
mod winograd_transforms;

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};

/// Runs loops that the compiler vectorises for the CPU at hand.
///
/// Only what is inlined is compiled so. Hence the closure must be `#[inline(always)]`, and change
/// something that it captures: only then is it called as it is, and not through a function of its
/// own that the attribute does not reach.
pub(crate) fn vectorized(work: impl FnMut()) {
    struct Inlined<F>(F);

    impl<F: FnMut()> WithSimd for Inlined<F> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) {
            (self.0)();
        }
    }

    Arch::new().dispatch(Inlined(work));
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers in a line of a cache.
pub(crate) const LINE: usize = 16;

/// Lends a thread's scratch memory from the beginning of a line on, with whatever was left in it: fresh memory costs a page
/// fault for each 4 KiB. Work may lend more in its turn.
pub(crate) fn with_scratch<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let whole = length + LINE - 1;
    let lent = SCRATCH.with_borrow_mut(|free| {
        // The smallest that is large enough, or else the largest.
        let fits = free.iter().position(|memory| memory.len() >= whole);
        let place = fits.or_else(|| free.len().checked_sub(1))?;
        Some(free.remove(place))
    });
    let mut memory = lent.unwrap_or_default();
    if memory.len() < whole {
        memory = vec![0.0; whole];
    }
    let start = memory.as_ptr().align_offset(LINE * size_of::<f32>());
    let result = work(&mut memory[start.min(LINE - 1)..][..length]);
    SCRATCH.with_borrow_mut(|free| {
        let place = free.partition_point(|other| other.len() < memory.len());
        free.insert(place, memory);
    });
    result
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::lanes::Width;
    use super::*;

    struct Lanes;

    impl WithSimd for Lanes {
        type Output = usize;

        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }

    /// pulp leaves a width out where its feature is not asked for: one that is named does not compile then.
    #[test]
    fn loops_are_vectorised_for_the_widest_vectors_of_the_cpu() {
        let arch = Arch::new();
        assert_eq!(arch.dispatch(Lanes), Width::widest().lanes());
        let named = match arch {
            Arch::V4(_) => 16,
            Arch::V3(_) => 8,
            _ => 1,
        };
        assert_eq!(arch.dispatch(Lanes), named);
    }
}
