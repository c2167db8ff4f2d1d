//! Batch norms whose running statistics stay as they are.

use std::cell::Cell;

thread_local! {
    static ARE_KEPT: Cell<bool> = const { Cell::new(false) };
}

/// While `compute` goes forward on this thread, batch norms that learn normalise with their batch's statistics, as ever, and
/// do not move the running ones.
pub fn keep_running_statistics<T>(compute: impl FnOnce() -> T) -> T {
    let before = ARE_KEPT.replace(true);
    let computed = compute();
    ARE_KEPT.set(before);
    computed
}

pub(crate) fn are_kept() -> bool {
    ARE_KEPT.get()
}
