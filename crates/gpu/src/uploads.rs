//! How many bytes the host hands to devices: nothing else can tell, for whoever measures.

use std::sync::atomic::{AtomicU64, Ordering};

static UPLOADED: AtomicU64 = AtomicU64::new(0);

/// Counts bytes that go to a device.
pub fn count_upload(bytes: usize) {
    UPLOADED.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// The bytes counted so far: of pixels, targets and what kernels look up.
pub fn uploaded() -> u64 {
    UPLOADED.load(Ordering::Relaxed)
}
