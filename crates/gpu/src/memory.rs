//! The memory of a GPU.

use burn::backend::DispatchDevice;
use burn::tensor::Device;
use cubecl::client::Client;
use cubecl_runtime::memory_management::MemoryScope;

/// The memory of a GPU that tells how much it has.
pub struct Memory {
    client: Client,
    capacity: u64,
}

impl Memory {
    /// Nothing if the device is not a GPU, or does not tell.
    pub fn of(device: &Device) -> Option<Self> {
        let device = device.clone().inner();
        let DispatchDevice::Cube(device) = device.as_dispatch() else {
            return None;
        };
        let client = device.client();
        Some(Self {
            capacity: client.properties().memory.max_memory()?,
            client,
        })
    }

    /// How many bytes there are, of which other programs may hold some.
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The bytes that this program holds; what it took it keeps.
    pub fn held(&self) -> u64 {
        let report = self.client.memory_report(MemoryScope::Device);
        report.usage().bytes_reserved
    }
}
