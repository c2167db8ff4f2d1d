//! Updates on GPUs, each parameter's by one kernel, and the gradients' norm, which stays on the device.

mod kernels;

use burn::tensor::Tensor;
use retinanet_gpu::{CubeTensor, cubes, empty, from_gpu, to_gpu, unit_for_each, units};

use self::kernels::AdamWArgumentsLaunch;
use super::update::AdamWFactors;

/// Values that a cube squares before another cube is worth its place.
const VALUES_OF_CUBE: usize = 1 << 14;

/// The most cubes that add up one tensor.
const MOST_PARTS: usize = 64;

/// The sum of the squares of all values of all tensors, `[1]`; nothing if there are none.
pub(crate) fn sum_of_squares(tensors: Vec<CubeTensor>) -> Option<Tensor<1>> {
    let first = tensors.first()?.clone();
    let cubes_of = |tensor: &CubeTensor| {
        let values = tensor.meta.shape().num_elements();
        values.div_ceil(VALUES_OF_CUBE).clamp(1, MOST_PARTS)
    };
    let parts = empty(&first, &[tensors.iter().map(cubes_of).sum()]);
    let mut place = 0;
    for tensor in tensors {
        let count = cubes_of(&tensor);
        kernels::sum_of_squares::launch(
            &first.client,
            cubes(count),
            units(),
            tensor.into_buffer_arg(),
            parts.clone().into_buffer_arg(),
            place,
            count,
        );
        place += count;
    }
    Some(from_gpu(retinanet_gpu::sum(parts)))
}

/// The weights and the velocity after a step of SGD; `factors` are rate, momentum and decay.
pub(crate) fn sgd<const D: usize>(
    weights: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Tensor<D>,
    [rate, momentum, decay]: [f32; 3],
) -> [Tensor<D>; 2] {
    let weights = on_gpu(weights);
    let [gradient, velocity] = [gradient, velocity].map(|tensor| owned(on_gpu(tensor)));
    kernels::sgd::launch(
        &weights.client,
        unit_for_each(weights.meta.shape().num_elements()),
        units(),
        weights.clone().into_buffer_arg(),
        gradient.clone().into_buffer_arg(),
        velocity.clone().into_buffer_arg(),
        rate,
        momentum,
        decay,
    );
    [gradient, velocity].map(from_gpu)
}

/// The weights, the mean and the mean square after a step of AdamW, from gradient, mean and mean square.
pub(crate) fn adamw<const D: usize>(
    weights: Tensor<D>,
    tensors: [Tensor<D>; 3],
    factors: &AdamWFactors,
) -> [Tensor<D>; 3] {
    let weights = on_gpu(weights);
    let tensors = tensors.map(|tensor| owned(on_gpu(tensor)));
    let [gradient, mean, square] = tensors.clone();
    let [beta1, beta2] = factors.betas.map(|beta| beta as f32);
    kernels::adamw::launch(
        &weights.client,
        unit_for_each(weights.meta.shape().num_elements()),
        units(),
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
    tensors.map(from_gpu)
}

fn on_gpu<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    to_gpu(tensor).expect("the device was asked before")
}

/// The tensor to write to: a copy where somebody else holds it.
fn owned(tensor: CubeTensor) -> CubeTensor {
    if tensor.can_mut() {
        tensor
    } else {
        tensor.copy()
    }
}
