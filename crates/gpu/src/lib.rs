//! What our kernels for GPUs share: tensors as `CubeCL` has them, how many cubes a launch takes, and sums in one
//! order. A cube is a workgroup, a unit a thread.
#![cfg(feature = "gpu")]

mod reading;
mod sums;
mod uploads;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Cube, DispatchDevice};
use burn::tensor::{DType, Device, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::{CubeCount, CubeDim};

pub use reading::Reading;
pub use sums::sum_of_cube;
pub use uploads::{count_upload, uploaded};

/// A tensor as GPUs have it.
pub type CubeTensor = FloatTensor<Cube>;

/// Units of a cube.
pub const UNITS: usize = 256;

/// The most cubes along one axis of a launch that WebGPU promises (`maxComputeWorkgroupsPerDimension`).
pub const MOST_CUBES: usize = 65_535;

/// Whether a device is a GPU.
pub fn is_gpu(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Cube(_)
    )
}

/// The tensor as the GPU has it, dense and without a gradient; nothing if it is elsewhere.
pub fn to_gpu<const D: usize>(tensor: Tensor<D>) -> Option<CubeTensor> {
    let device = tensor.device();
    if !is_gpu(&device) {
        return None;
    }
    let tensor = if device.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    };
    Some(into_contiguous(tensor.try_into_primitive::<Cube>().ok()?))
}

/// The tensor without a gradient.
pub fn from_gpu<const D: usize>(tensor: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(tensor)
}

/// A tensor of f32 on the device of another, not filled.
pub fn empty(like: &CubeTensor, shape: &[usize]) -> CubeTensor {
    empty_of(like, shape, DType::F32)
}

/// A tensor on the device of another, not filled.
pub fn empty_of(like: &CubeTensor, shape: &[usize], dtype: DType) -> CubeTensor {
    let shape = Shape::from(shape.to_vec());
    let handle = like.client.empty(shape.num_elements() * dtype.size());
    let (client, device) = (like.client.clone(), like.device.clone());
    CubeTensor::new_contiguous(client, device, shape, handle, dtype)
}

/// A type of floats as kernels have it.
///
/// # Panics
///
/// Panics if kernels know no such floats.
pub fn element(dtype: DType) -> ElemType {
    ElemType::Float(match dtype {
        DType::F32 => FloatKind::F32,
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        other => panic!("maps are floats, not {other:?}"),
    })
}

/// The tensor to write to: a copy where somebody else holds it.
pub fn owned(tensor: CubeTensor) -> CubeTensor {
    if tensor.can_mut() {
        tensor
    } else {
        tensor.copy()
    }
}

/// So many cubes, in two dimensions where one does not do.
pub fn cubes(count: usize) -> CubeCount {
    let rows = count.div_ceil(MOST_CUBES).max(1);
    CubeCount::Static(count.div_ceil(rows) as u32, rows as u32, 1)
}

/// Makes sure that the device was able to compute tensors, without waiting for it: `CubeCL` skips a kernel whose memory
/// could not be had and marks what it would have written, but a buffer that several kernels write loses the mark to the
/// next one that succeeds, and its values would be taken for computed.
///
/// # Panics
///
/// Panics if it was not, as all of Burn's reads do.
pub fn require_computed(tensors: &[CubeTensor]) {
    if let Some(first) = tensors.first() {
        let handles = tensors.iter().map(|tensor| &tensor.handle);
        if let Err(error) = first.client.check(handles) {
            panic!("the device could not compute: {error}");
        }
    }
}

/// Cubes that give each of so many values a unit; of the last, some have none.
pub fn unit_for_each(values: usize) -> CubeCount {
    cubes(values.div_ceil(UNITS))
}

/// The units of a cube, as a launch takes them.
pub fn units() -> CubeDim {
    CubeDim::new_1d(UNITS as u32)
}

/// The sum of all values, `[1]`.
pub fn sum(values: CubeTensor) -> CubeTensor {
    let total = empty(&values, &[1]);
    let client = values.client.clone();
    sums::sum_kernel::launch(
        &client,
        cubes(1),
        units(),
        values.into_buffer_arg(),
        total.clone().into_buffer_arg(),
    );
    total
}
