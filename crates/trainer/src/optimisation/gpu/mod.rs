//! Updates on GPUs, each parameter's by one kernel, and the gradients' norm, which stays on the device.

mod kernels;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Cube, DispatchDevice};
use burn::tensor::{DType, Device, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use cubecl::prelude::{CubeCount, CubeDim};

use self::kernels::{AdamWArgumentsLaunch, UNITS};
use super::update::AdamWFactors;

pub(crate) type CubeTensor = FloatTensor<Cube>;

/// The most cubes along one axis of a launch that WebGPU promises (`maxComputeWorkgroupsPerDimension`).
const MOST_CUBES: usize = 65_535;

/// Values that a cube squares before another cube is worth its place.
const VALUES_OF_CUBE: usize = 1 << 14;

/// The most cubes that add up one tensor.
const MOST_PARTS: usize = 64;

/// Whether a device is a GPU.
pub(crate) fn is_gpu(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Cube(_)
    )
}

/// The tensor as the GPU has it, dense.
pub(crate) fn to_gpu<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    into_contiguous(
        tensor
            .try_into_primitive::<Cube>()
            .expect("the device was asked before, and optimisers see no autodiff"),
    )
}

fn to_tensor<const D: usize>(tensor: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(tensor)
}

/// The sum of the squares of all values of all tensors, `[1]`; nothing if there are none.
pub(crate) fn sum_of_squares(tensors: Vec<CubeTensor>) -> Option<Tensor<1>> {
    let first = tensors.first()?.clone();
    let cubes_of = |tensor: &CubeTensor| {
        let values = tensor.meta.shape().num_elements();
        values.div_ceil(VALUES_OF_CUBE).clamp(1, MOST_PARTS)
    };
    let parts = empty(&first, tensors.iter().map(cubes_of).sum());
    let mut place = 0;
    for tensor in tensors {
        let count = cubes_of(&tensor);
        kernels::sum_of_squares::launch(
            &first.client,
            CubeCount::Static(count as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            tensor.into_buffer_arg(),
            parts.clone().into_buffer_arg(),
            place,
            count,
        );
        place += count;
    }
    let total = empty(&first, 1);
    kernels::sum::launch(
        &first.client,
        CubeCount::Static(1, 1, 1),
        CubeDim::new_1d(UNITS as u32),
        parts.into_buffer_arg(),
        total.clone().into_buffer_arg(),
    );
    Some(to_tensor(total))
}

/// The weights and the velocity after a step of SGD; `factors` are rate, momentum and decay.
pub(crate) fn sgd<const D: usize>(
    weights: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Tensor<D>,
    [rate, momentum, decay]: [f32; 3],
) -> [Tensor<D>; 2] {
    let weights = to_gpu(weights);
    let [gradient, velocity] = [gradient, velocity].map(|tensor| owned(to_gpu(tensor)));
    kernels::sgd::launch(
        &weights.client,
        unit_for_each(&weights),
        CubeDim::new_1d(UNITS as u32),
        weights.clone().into_buffer_arg(),
        gradient.clone().into_buffer_arg(),
        velocity.clone().into_buffer_arg(),
        rate,
        momentum,
        decay,
    );
    [gradient, velocity].map(to_tensor)
}

/// The weights, the mean and the mean square after a step of AdamW, from gradient, mean and mean square.
pub(crate) fn adamw<const D: usize>(
    weights: Tensor<D>,
    tensors: [Tensor<D>; 3],
    factors: &AdamWFactors,
) -> [Tensor<D>; 3] {
    let weights = to_gpu(weights);
    let tensors = tensors.map(|tensor| owned(to_gpu(tensor)));
    let [gradient, mean, square] = tensors.clone();
    let [beta1, beta2] = factors.betas.map(|beta| beta as f32);
    kernels::adamw::launch(
        &weights.client,
        unit_for_each(&weights),
        CubeDim::new_1d(UNITS as u32),
        weights.clone().into_buffer_arg(),
        gradient.into_buffer_arg(),
        mean.into_buffer_arg(),
        square.into_buffer_arg(),
        AdamWArgumentsLaunch::new(
            beta1,
            beta2,
            factors.size as f32,
            factors.square_correction as f32,
            factors.keep as f32,
            factors.epsilon as f32,
        ),
    );
    tensors.map(to_tensor)
}

/// The tensor to write to: a copy where somebody else holds it.
fn owned(tensor: CubeTensor) -> CubeTensor {
    if tensor.can_mut() {
        tensor
    } else {
        tensor.copy()
    }
}

/// Cubes that give each value a unit, in two dimensions where one does not do.
fn unit_for_each(tensor: &CubeTensor) -> CubeCount {
    let cubes = tensor.meta.shape().num_elements().div_ceil(UNITS);
    let rows = cubes.div_ceil(MOST_CUBES).max(1);
    CubeCount::Static(cubes.div_ceil(rows) as u32, rows as u32, 1)
}

fn empty(like: &CubeTensor, values: usize) -> CubeTensor {
    let shape = Shape::new([values]);
    let handle = like.client.empty(values * size_of::<f32>());
    let (client, device) = (like.client.clone(), like.device.clone());
    CubeTensor::new_contiguous(client, device, shape, handle, DType::F32)
}
