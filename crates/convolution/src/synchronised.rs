//! Batch norms over all processes that share a batch.

use std::cell::RefCell;
use std::rc::Rc;

/// Sums the values of all processes, place by place; all get the same bits.
type SumOverProcesses = Rc<dyn Fn(&mut [f64])>;

thread_local! {
    static SUM: RefCell<Option<SumOverProcesses>> = const { RefCell::new(None) };
}

/// While `compute` goes forward and backward on this thread, batch norms that learn take their statistics over the maps
/// of all processes, on the CPU. `sum` adds values up over the processes, all of which must compute the same layers.
pub fn synchronise_batch_norms<T>(
    sum: impl Fn(&mut [f64]) + 'static,
    compute: impl FnOnce() -> T,
) -> T {
    let before = SUM.replace(Some(Rc::new(sum)));
    let computed = compute();
    SUM.set(before);
    computed
}

/// The number's sum over the processes, if there are several.
pub(crate) fn over_processes(number: usize) -> Option<f64> {
    let sum = current()?;
    let mut number = [number as f64];
    sum(&mut number);
    Some(number[0])
}

/// Sums over the processes.
///
/// # Panics
///
/// Panics outside of [`synchronise_batch_norms`]: the gradients of one process alone would be wrong.
pub(crate) fn sum_over_processes(values: &mut [f64]) {
    let sum = current().expect("a synchronised norm goes back where it went forward");
    sum(values);
}

fn current() -> Option<SumOverProcesses> {
    SUM.with_borrow(Clone::clone)
}
