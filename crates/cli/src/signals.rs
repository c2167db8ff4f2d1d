//! Ctrl-C, SIGTERM and SIGHUP: the first lets the work end in order, the second ends the program.

use std::io;
use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What a shell adds to a signal's number for the exit code.
const SIGNALLED: c_int = 128;

static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// The signal that asked the work to end, if one came since [`catch`].
pub(crate) fn received() -> Option<u8> {
    u8::try_from(RECEIVED.load(Ordering::SeqCst))
        .ok()
        .filter(|signal| *signal > 0)
}

/// The exit code of a program that a signal ended.
pub(crate) const fn exit_code(signal: u8) -> u8 {
    signal + SIGNALLED as u8
}

/// From now on the first signal is [`received`], and the second ends the program at once.
pub(crate) fn catch() -> io::Result<()> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in caught() {
        // In this order, so that the first signal does not yet find what it sets.
        flag::register_conditional_shutdown(signal, SIGNALLED + signal, Arc::clone(&again))?;
        flag::register(signal, Arc::clone(&again))?;
        flag::register_usize(signal, Arc::clone(&RECEIVED), signal as usize)?;
    }
    Ok(())
}

/// [`catch`], and work that the first signal starts, on a thread of its own.
#[cfg(unix)]
pub(crate) fn on_first(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    catch()?;
    let mut signals = signal_hook::iterator::Signals::new(caught())?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            work();
        }
    });
    Ok(())
}

/// As on Unix; here signals can only be looked for.
#[cfg(not(unix))]
pub(crate) fn on_first(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    catch()?;
    std::thread::spawn(move || {
        while received().is_none() {
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        work();
    });
    Ok(())
}

#[cfg(unix)]
fn caught() -> Vec<c_int> {
    use signal_hook::consts::SIGHUP;
    // What was started by `nohup` is to go on when the terminal closes.
    let terminal = Some(SIGHUP).filter(|signal| !is_ignored(*signal));
    [SIGINT, SIGTERM].into_iter().chain(terminal).collect()
}

#[cfg(not(unix))]
fn caught() -> Vec<c_int> {
    vec![SIGINT, SIGTERM]
}

/// Whether the program was started with a signal ignored. Known on Linux alone (`proc(5)`, `SigIgn`).
#[cfg(unix)]
fn is_ignored(signal: c_int) -> bool {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
