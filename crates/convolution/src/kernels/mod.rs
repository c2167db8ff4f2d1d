//! The CPU's kernels, on plain slices: `[pixels, channels]`, map after map.
//!
//! Plain loops are vectorised by the compiler for the CPU at hand inside `pulp::Arch::dispatch`,
//! and only what is inlined there: hence the `inline(always)` on closures.

pub(crate) mod direct;
pub(crate) mod epilogue;
pub(crate) mod gather;
pub(crate) mod matrix;
pub(crate) mod norm;
pub(crate) mod resample;
pub(crate) mod weights;
pub(crate) mod winograd;

use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends a thread's scratch memory, with whatever was left in it: fresh memory costs a page fault
/// for each 4 KiB.
pub(crate) fn with_scratch<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out, so that work that lends scratch memory in its turn gets other memory.
    let mut scratch = SCRATCH.take();
    if scratch.len() < length {
        scratch.resize(length, 0.0);
    }
    let result = work(&mut scratch[..length]);
    SCRATCH.set(scratch);
    result
}
