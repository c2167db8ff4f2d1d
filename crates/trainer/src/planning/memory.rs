//! The memory of this process and of the machine, as far as the system tells: only Linux does.

/// The most memory that this process has held so far, in bytes.
pub fn peak_memory() -> Option<u64> {
    kib("/proc/self/status", "VmHWM")
}

/// Lets [`peak_memory`] begin anew with what is held now.
pub(crate) fn reset_peak_memory() -> Option<()> {
    // See proc(5).
    fs_err::write("/proc/self/clear_refs", "5").ok()
}

/// The memory that this process holds, in bytes.
pub fn memory() -> Option<u64> {
    kib("/proc/self/status", "VmRSS")
}

/// The memory that this process may take in all, its own included, in bytes: what the machine has
/// left, or a container's limit.
pub(crate) fn memory_to_take() -> Option<u64> {
    let of_machine = kib("/proc/meminfo", "MemAvailable")? + memory()?;
    let limit = fs_err::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    Some(limit.unwrap_or(u64::MAX).min(of_machine))
}

/// The value of the line `name:  123 kB`, in bytes.
fn kib(path: &str, name: &str) -> Option<u64> {
    let text = fs_err::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().strip_suffix("kB"))?
    })?;
    Some(1024 * value.trim().parse::<u64>().ok()?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_seen() {
        let before = memory().unwrap();
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = memory().unwrap();
        assert!(after > before + (32 << 20), "{before} and {after}");
        assert!(peak_memory().unwrap() >= after - (1 << 20));
        assert!(memory_to_take().unwrap() > after);
        drop(held);
    }
}
