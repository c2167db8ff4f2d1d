use std::process;
use std::sync::OnceLock;

use pyo3::PyResult;

use crate::errors::RetinanetError;

/// The process that computed first.
static COMPUTES: OnceLock<u32> = OnceLock::new();

/// Refuses a process that was forked from one that computed: its threads did not come along, and it would wait for
/// them for ever.
pub(crate) fn require_own_threads() -> PyResult<()> {
    let own = process::id();
    if *COMPUTES.get_or_init(|| own) == own {
        return Ok(());
    }
    Err(RetinanetError::new_err(
        "this process was forked from one that had opened a detector or trained, and its threads did not come along: \
         start processes by `multiprocessing.get_context(\"spawn\")`, or open the detector after the fork alone",
    ))
}
