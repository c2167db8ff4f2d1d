//! The GPUs of this machine, as its drivers tell of them.

use std::fmt;

/// A GPU, or what takes its place.
pub(crate) struct Adapter {
    pub(crate) name: String,
    /// The driver and its version.
    pub(crate) driver: String,
    /// Such as `discrete GPU`.
    kind: &'static str,
    /// What it is spoken to through.
    api: String,
    /// Bytes of the largest tensor.
    largest_tensor: u64,
    /// Bytes that the units of a workgroup share.
    shared_memory: u32,
    /// Units of a subgroup, from and to.
    subgroup: [u32; 2],
    has_half_precision: bool,
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [fewest, most] = self.subgroup;
        let subgroup = if fewest == most {
            format!("{most}")
        } else {
            format!("{fewest} to {most}")
        };
        write!(
            f,
            "{}: {}, {}, driver {}; tensors up to {:.1} GiB, {} KiB shared, subgroups of {subgroup}, \
             half precision: {}",
            self.name,
            self.kind,
            self.api,
            self.driver,
            self.largest_tensor as f64 / f64::from(1 << 30),
            self.shared_memory >> 10,
            if self.has_half_precision { "yes" } else { "no" },
        )
    }
}

/// All adapters that can compute.
#[cfg(feature = "wgpu")]
pub(crate) fn list() -> Vec<Adapter> {
    use burn::backend::wgpu::wgpu::{
        Adapter as Found, Backends, DeviceType, Features, Instance, InstanceDescriptor,
    };

    let describe = |adapter: Found| {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        Adapter {
            driver: format!("{} {}", info.driver, info.driver_info),
            kind: match info.device_type {
                DeviceType::DiscreteGpu => "discrete GPU",
                DeviceType::IntegratedGpu => "integrated GPU",
                DeviceType::VirtualGpu => "virtual GPU",
                DeviceType::Cpu => "software on the CPU",
                DeviceType::Other => "other",
            },
            api: format!("{:?}", info.backend),
            largest_tensor: (limits.max_storage_buffer_binding_size).min(limits.max_buffer_size),
            shared_memory: limits.max_compute_workgroup_storage_size,
            subgroup: [info.subgroup_min_size, info.subgroup_max_size],
            has_half_precision: adapter.features().contains(Features::SHADER_F16),
            name: info.name,
        }
    };
    let descriptor = InstanceDescriptor::new_without_display_handle();
    let found = Instance::new(descriptor).enumerate_adapters(Backends::PRIMARY);
    let found = cubecl::future::block_on(found);
    found.into_iter().map(describe).collect()
}

/// None, without the feature.
#[cfg(not(feature = "wgpu"))]
pub(crate) fn list() -> Vec<Adapter> {
    Vec::new()
}
