use std::collections::BTreeMap;

use serde::Serialize;

/// What a GPU is asked to do for a piece of work, each time.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceWork {
    /// Kernels launched.
    pub dispatches: f64,
    /// How often each.
    pub kernels: BTreeMap<String, f64>,
    /// Buffers that the host reads, and waits for.
    pub host_reads: f64,
    /// Bytes of those buffers.
    pub bytes_down: f64,
    /// Bytes of pixels, targets and what kernels look up that the host hands over.
    pub bytes_up: f64,
    /// Bytes of the device's memory that are held once the work is done; what was taken is kept until then.
    pub memory_bytes: u64,
}

/// The seconds that something took, each time, and what a GPU was asked to do for it.
pub(crate) struct Timing {
    pub(crate) seconds: Vec<f64>,
    pub(crate) device: Option<DeviceWork>,
}

/// How long something took, each time.
#[derive(Serialize)]
pub struct Measurement {
    /// The workload.
    pub name: &'static str,
    /// What it was done on.
    pub what: String,
    seconds: Vec<f64>,
    /// The median of all times.
    pub median_s: f64,
    /// The shortest time.
    pub min_s: f64,
    /// The longest time.
    pub max_s: f64,
    /// The time that nine of ten were within, by the nearest rank.
    pub p90_s: f64,
    /// The time that 99 of a hundred were within, by the nearest rank.
    pub p99_s: f64,
    /// Floating-point operations in a second, in billions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,
    /// How often the network does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<usize>,
    /// The seconds that the machine's arithmetic and memory let it take at least, by plain products: Winograd's algorithm
    /// does with fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_s: Option<f64>,
    /// Images in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_per_s: Option<f64>,
    /// Images in a second, for each core that computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_per_s_and_core: Option<f64>,
    /// What a GPU was asked to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceWork>,
}

impl Measurement {
    pub(crate) fn new(name: &'static str, what: String, timing: Timing) -> Self {
        let Timing { seconds, device } = timing;
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        let within = |share: f64| middle((share * sorted.len() as f64).ceil() as usize - 1);
        Self {
            name,
            what,
            median_s: 0.5 * (middle(last / 2) + middle(last.div_ceil(2))),
            min_s: middle(0),
            max_s: middle(last),
            p90_s: within(0.9),
            p99_s: within(0.99),
            seconds,
            gflops: None,
            times: None,
            least_s: None,
            images_per_s: None,
            images_per_s_and_core: None,
            device,
        }
    }

    /// Adds the rate of work of so many floating-point operations.
    pub(crate) fn with_operations(self, operations: f64) -> Self {
        Self {
            gflops: Some(operations / self.median_s / 1e9),
            ..self
        }
    }

    /// Adds how often the network does it.
    pub(crate) fn with_times(self, times: usize) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    /// Adds the seconds that it takes at least.
    pub(crate) fn with_least(self, seconds: f64) -> Self {
        Self {
            least_s: Some(seconds),
            ..self
        }
    }

    /// The seconds that it takes in all of the network.
    pub(crate) fn of_network_s(&self) -> Option<f64> {
        self.times.map(|times| times as f64 * self.median_s)
    }

    /// Adds the rate of work on so many images.
    pub(crate) fn with_images(self, images: usize) -> Self {
        Self {
            images_per_s: Some(images as f64 / self.median_s),
            ..self
        }
    }

    /// Divides the rate of images among so many cores.
    #[must_use]
    pub fn with_cores(self, cores: usize) -> Self {
        Self {
            images_per_s_and_core: self.images_per_s.map(|rate| rate / cores as f64),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_ranks_and_rates_are_shared_by_cores() {
        let timing = Timing {
            seconds: (1..=20).rev().map(f64::from).collect(),
            device: None,
        };
        let measured = Measurement::new("inference", String::new(), timing)
            .with_images(21)
            .with_cores(4);
        assert_eq!((measured.p90_s, measured.p99_s), (18.0, 20.0));
        assert_eq!(measured.images_per_s, Some(2.0));
        assert_eq!(measured.images_per_s_and_core, Some(0.5));
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        let median = |seconds: &[f64]| {
            let timing = Timing {
                seconds: seconds.to_vec(),
                device: None,
            };
            Measurement::new("step", String::new(), timing).median_s
        };
        assert_eq!(median(&[5.0]), 5.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
