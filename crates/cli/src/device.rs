//! `--device`: which backend computes. The one place that asks which backends are compiled in.

use anyhow::{anyhow, bail, Result};
use burn::tensor::Device;

/// Makes the CPU the device that Burn takes where nobody names one. Its optimiser does so when it
/// reads a state, before it moves the state to the parameters' device; Burn's own first choice
/// would be a GPU, and a panic where there is none.
///
/// To be called first thing, while the program has one thread: `set_var` is safe no later, which is
/// why this crate stays on the edition that lets it be called without `unsafe`.
pub(crate) fn set_default() {
    std::env::set_var("BURN_DEVICE", "flex");
}

/// Opens the device of this name: `flex`, `wgpu`, `wgpu:1`, `ndarray`, `cuda`, `cuda:1`.
pub(crate) fn open(name: &str) -> Result<Device> {
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => {
            let index: usize = index
                .parse()
                .map_err(|_| anyhow!("device `{name}`: `{index}` is no number"))?;
            (backend, Some(index))
        }
        None => (name, None),
    };
    match (backend, index) {
        ("flex" | "cpu", None) => Ok(Device::flex()),
        ("wgpu", index) => wgpu(name, index),
        ("ndarray", None) => ndarray(),
        ("cuda", index) => cuda(index.unwrap_or(0)),
        _ => bail!("unknown device `{name}`; it is one of flex, wgpu, wgpu:N, ndarray, cuda:N"),
    }
}

#[cfg(feature = "wgpu")]
fn wgpu(name: &str, index: Option<usize>) -> Result<Device> {
    use burn::tensor::wgpu::WgpuInitError;
    use burn::tensor::DeviceKind;

    let kind = index.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu);
    // `Device::wgpu` would panic at the first tensor where there is no adapter.
    let options = Device::wgpu_options().device_kind(kind);
    match options.init() {
        Ok(device) => Ok(device),
        // Its text lists every adapter with all properties.
        Err(WgpuInitError::AdapterUnavailable { .. }) => bail!(no_gpu(name)),
        Err(error) => Err(anyhow!(error).context(no_gpu(name))),
    }
}

#[cfg(feature = "wgpu")]
fn no_gpu(name: &str) -> String {
    format!(
        "device `{name}` is not there: no such GPU answers through Vulkan, Metal or DirectX 12; \
         `--device flex` computes on the CPU"
    )
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(name: &str, _index: Option<usize>) -> Result<Device> {
    not_compiled(name, "wgpu")
}

#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "kept for comparison")]
fn ndarray() -> Result<Device> {
    Ok(Device::ndarray())
}

#[cfg(not(feature = "ndarray"))]
fn ndarray() -> Result<Device> {
    not_compiled("ndarray", "ndarray")
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device> {
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: usize) -> Result<Device> {
    not_compiled("cuda", "cuda")
}

#[cfg(not(all(feature = "wgpu", feature = "ndarray", feature = "cuda")))]
fn not_compiled(name: &str, feature: &str) -> Result<Device> {
    bail!("device `{name}` is not compiled in; build with `--features {feature}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_refused_with_the_known_ones() {
        for name in ["gpu", "flex:1", "wgpu:x", ""] {
            assert!(open(name).is_err(), "{name}");
        }
        let error = open("gpu").unwrap_err().to_string();
        assert!(error.contains("one of flex, wgpu"), "{error}");
    }
}
