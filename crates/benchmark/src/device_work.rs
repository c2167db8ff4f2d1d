//! What a GPU is asked to do for a piece of work, counted where it is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use burn::backend::DispatchDevice;
use burn::tensor::Device;
use cubecl::client::Client;
use cubecl_runtime::logging::{LaunchObservation, LaunchObserver};
use cubecl_runtime::memory_management::MemoryScope;
use log::{LevelFilter, Log, Metadata, Record};
use retinanet_gpu::uploaded;

use crate::measurement::DeviceWork;

/// Counts until it is stopped.
pub(crate) struct Counter {
    client: Client,
    launches: Arc<Launches>,
    observation: LaunchObservation,
    /// Bytes before.
    uploaded: u64,
}

impl Counter {
    /// Counts from here on; nothing if the device is the CPU.
    pub(crate) fn start(device: &Device) -> Option<Self> {
        let device = device.clone().inner();
        let DispatchDevice::Cube(device) = device.as_dispatch() else {
            return None;
        };
        let launches = Arc::new(Launches::default());
        let observation = LaunchObservation::new(Arc::clone(&launches) as _);
        Reads::start();
        Some(Self {
            client: device.client(),
            launches,
            observation,
            uploaded: uploaded(),
        })
    }

    /// What was asked for in each of so many rounds.
    pub(crate) fn stop(self, rounds: usize) -> DeviceWork {
        drop(self.observation);
        let [reads, bytes] = Reads::stop();
        let report = self.client.memory_report(MemoryScope::Device);
        let each = |count: u64| count as f64 / rounds as f64;
        let counts = self.launches.0.lock();
        let counts = counts.unwrap_or_else(PoisonError::into_inner);
        let mut kernels = BTreeMap::new();
        for (kernel, count) in counts.iter() {
            *kernels.entry(short(kernel)).or_default() += each(*count);
        }
        DeviceWork {
            dispatches: each(counts.values().sum()),
            kernels,
            host_reads: each(reads),
            bytes_down: each(bytes),
            bytes_up: each(uploaded() - self.uploaded),
            memory_bytes: report.usage().bytes_reserved,
        }
    }
}

/// How often each kernel was launched.
#[derive(Default)]
struct Launches(Mutex<BTreeMap<&'static str, u64>>);

impl LaunchObserver for Launches {
    fn launched(&self, kernel: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kernel).or_default() += 1;
    }
}

/// A kernel's name without the path of its modules and its parameters.
fn short(kernel: &str) -> String {
    let path = kernel.split('<').next().unwrap_or(kernel);
    let mut names = path.rsplit("::");
    let last = names.next().unwrap_or(path);
    let module = names.next().unwrap_or_default();
    format!("{module}::{last}")
}

/// Buffers that the host read, as wgpu's log tells them: nothing else sees reads, whoever asks for them.
struct Reads {
    count: AtomicU64,
    bytes: AtomicU64,
}

static READS: Reads = Reads {
    count: AtomicU64::new(0),
    bytes: AtomicU64::new(0),
};

impl Reads {
    fn start() {
        static ONCE: Once = Once::new();
        // Where the program has a log of its own, reads are counted as none.
        ONCE.call_once(|| drop(log::set_logger(&READS)));
        READS.count.store(0, Ordering::Relaxed);
        READS.bytes.store(0, Ordering::Relaxed);
        log::set_max_level(LevelFilter::Trace);
    }

    fn stop() -> [u64; 2] {
        log::set_max_level(LevelFilter::Off);
        [&READS.count, &READS.bytes].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Log for Reads {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("wgpu_core::device")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if let Some(bytes) = bytes_read(&record.args().to_string()) {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

/// The bytes of a read that a line of wgpu's log tells; nothing if it tells something else.
fn bytes_read(line: &str) -> Option<u64> {
    let asked = line.strip_prefix("Buffer::map_async ")?;
    let (_, after) = asked.split_once("size Some(")?;
    let (size, rest) = after.split_once(')')?;
    rest.contains("host: Read").then(|| size.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_told_from_other_lines_of_wgpus_log() {
        let read = "Buffer::map_async Id(31,1) offset 0 size Some(512) op: BufferMapOperation { host: Read, \
                    callback: Some(\"?\") }";
        assert_eq!(bytes_read(read), Some(512));
        assert_eq!(bytes_read(&read.replace("host: Read", "host: Write")), None);
        assert_eq!(bytes_read("Queue::submit"), None);
    }
}
