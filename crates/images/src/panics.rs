use std::panic::{self, AssertUnwindSafe};

/// Runs `work`; a panic becomes an error that says what the panic said.
///
/// # Errors
///
/// Returns the panic's message.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // What `work` shares with others is behind locks, which a panic marks, or never changes.
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        (payload.downcast_ref::<&str>().map(ToString::to_string))
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into())
    })
}
