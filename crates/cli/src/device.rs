//! `--device`: which backend computes. The one place that asks which backends are compiled in.

use std::sync::Once;

use anyhow::{anyhow, bail, Result};
use burn::backend::DispatchDevice;
use burn::tensor::Device;

#[cfg(feature = "wgpu")]
use crate::adapters;
use crate::console;
use crate::failure::Failure;

/// Characters of a panic's message that are told.
const LONGEST_REASON: usize = 400;

/// Makes the CPU the device that Burn takes where nobody names one. Its optimiser does so when it
/// reads a state, before it moves the state to the parameters' device; Burn's own first choice
/// would be a GPU, and a panic where there is none.
///
/// To be called first thing, while the program has one thread: `set_var` is safe no later, which is
/// why this crate stays on the edition that lets it be called without `unsafe`.
pub(crate) fn set_default() {
    std::env::set_var("BURN_DEVICE", "flex");
}

/// Opens the device of this name: `flex`, `wgpu`, `wgpu:1`, `ndarray`, `cuda`, `cuda:1`. From then on
/// a GPU that fails ends the program.
pub(crate) fn open(name: &str) -> Result<Device> {
    let device = open_backend(name)?;
    if !is_flex(&device) {
        end_where_it_fails(name);
        break_kernel();
    }
    Ok(device)
}

/// Whether a device is the CPU with kernels of ours.
pub(crate) fn is_flex(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// A device's adapter and driver.
pub(crate) fn describe(device: &Device) -> String {
    #[cfg(feature = "wgpu")]
    if let Some(identity) = device.as_dispatch().identity() {
        let adapters = adapters::list().into_iter();
        let mut drivers = adapters.filter(|adapter| adapter.name == identity.name);
        return match drivers.next() {
            Some(adapter) => format!("{} (driver {})", adapter.name, adapter.driver),
            None => identity.name,
        };
    }
    format!("{device:?}")
}

/// What a GPU's kernels are compiled to, and why; nothing on the CPU.
pub(crate) fn compiler(device: &Device) -> Option<String> {
    #[cfg(feature = "wgpu")]
    if let DispatchDevice::Cube(gpu) = device.as_dispatch() {
        let why = match (gpu.client().name(), cfg!(feature = "vulkan")) {
            ("wgpu<spirv>", _) => "SPIR-V: this build has it, and the driver what it needs",
            (_, true) => "WGSL: the driver lacks what SPIR-V needs",
            (_, false) => "WGSL: this build has no SPIR-V, which is the feature `vulkan`",
        };
        return Some(format!("kernels are compiled to {why}"));
    }
    let _ = device;
    None
}

/// Which kernel a test wants to see broken.
pub(crate) fn broken_kernel() -> Option<String> {
    std::env::var("RETINANET_BREAK_KERNEL").ok()
}

fn break_kernel() {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    if broken_kernel().as_deref() == Some("weight_gradient") {
        retinanet_convolution::break_weight_gradients();
    }
}

/// Ends the program with one message as soon as any thread panics. Burn and `CubeCL` tell by a panic,
/// in one thread or another, that memory ran out or a device was lost; whoever waits for that thread
/// could wait for ever. Files are whole at any moment, since they are written beside their places.
fn end_where_it_fails(name: &str) {
    let name = name.to_owned();
    std::panic::set_hook(Box::new(move |panic| {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let payload = panic.payload();
            let text = (payload.downcast_ref::<String>().map(String::as_str))
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no reason given");
            let place = panic.location().map_or_else(String::new, |place| {
                format!(", at {}:{}", place.file(), place.line())
            });
            let reason = root_cause(text).unwrap_or_else(|| format!("{text}{place}"));
            let reason: String = reason.chars().take(LONGEST_REASON).collect();
            console::error(&Failure::work(anyhow!(
                "computing on `{name}` failed: {reason}; where memory ran out, a smaller batch \
                 or smaller images help; `--device flex` computes on the CPU; a run goes on from its \
                 last checkpoint with `--resume`"
            )));
            #[expect(clippy::exit, reason = "other threads may wait for the one that panicked")]
            std::process::exit(1);
        });
    }));
}

/// The innermost of the causes that an error of `CubeCL` lists, on one line; none if it lists none.
fn root_cause(text: &str) -> Option<String> {
    let (_, cause) = text.rsplit_once("Caused by:")?;
    let cause = cause.split("No backtrace available").next()?;
    Some(cause.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn open_backend(name: &str) -> Result<Device> {
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => {
            let index: usize = index
                .parse()
                .map_err(|_| anyhow!("device `{name}`: `{index}` is not a number"))?;
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
    fn of_many_causes_the_innermost_is_told() {
        let text = "Execution(An error happened\nCaused by:\n  Several failures at once\nCaused by:\n  \
                    can't allocate buffer\n  of size: 268435456\n  No backtrace available\nAsked at: x)";
        let cause = root_cause(text);
        assert_eq!(
            cause.as_deref(),
            Some("can't allocate buffer of size: 268435456")
        );
        assert_eq!(root_cause("index out of bounds"), None);
    }

    #[test]
    fn an_unknown_device_is_refused_with_the_known_ones() {
        for name in ["gpu", "flex:1", "wgpu:x", ""] {
            assert!(open(name).is_err(), "{name}");
        }
        let error = open("gpu").unwrap_err().to_string();
        assert!(error.contains("one of flex, wgpu"), "{error}");
    }
}
