//! Updates on GPUs, each parameter's by one kernel, and the gradients' norm, which stays on the device.

mod kernels;

use burn::tensor::Tensor;
use cubecl::prelude::CubeDim;
use retinanet_criterion::Loss;
use retinanet_gpu::{
    CubeTensor, Reading, cubes, empty, from_gpu, owned, require_computed, to_gpu, unit_for_each,
    units,
};

use self::kernels::AdamWArgumentsLaunch;
use super::update::AdamWFactors;

/// Values that a cube squares before another cube is worth its place.
const VALUES_OF_CUBE: usize = 1 << 14;

/// The most cubes that add up one tensor.
const MOST_PARTS: usize = 64;

/// The sum of the squares of all values of all tensors, `[1]`; nothing if there are none.
pub(crate) fn sum_of_squares(tensors: Vec<CubeTensor>) -> Option<Tensor<1>> {
    let first = tensors.first()?.clone();
    require_computed(&tensors);
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

/// Makes sure that the device was able to compute losses.
pub(crate) fn require_losses(losses: &[Loss]) {
    let all = losses.iter().flat_map(|loss| [&loss.class, &loss.bbox]);
    let all: Vec<_> = all.filter_map(|loss| to_gpu(loss.clone())).collect();
    require_computed(&all);
}

/// Whether a step is taken, and what its gradients are multiplied by: `[2 + numbers]`, the factor, 1 or 0, and the
/// numbers that it was judged by.
#[derive(Clone, Debug)]
pub(crate) struct Verdict(Box<CubeTensor>);

impl Verdict {
    /// The verdict on a step from its losses and the sum of its gradients' squares, `[numbers]`, the last; the
    /// gradients are of a loss that was scaled. A step is taken if all numbers are finite and the step before was
    /// taken.
    pub(crate) fn on(
        numbers: &Tensor<1>,
        before: Option<&Self>,
        clip_norm: Option<f64>,
        loss_scale: f64,
    ) -> Self {
        let numbers = on_gpu(numbers.clone());
        let verdict = empty(&numbers, &[2 + numbers.meta.shape().num_elements()]);
        kernels::judge::launch(
            &verdict.client,
            cubes(1),
            CubeDim::new_1d(1),
            numbers.into_buffer_arg(),
            before
                .map(|before| before.0.clone().into_buffer_arg())
                .into(),
            verdict.clone().into_buffer_arg(),
            clip_norm.map_or(f32::MAX, |limit| limit as f32),
            (1.0 / loss_scale) as f32,
        );
        Self(Box::new(verdict))
    }

    /// Begins to read it.
    pub(crate) fn read(&self) -> Reading {
        Reading::begin((*self.0).clone())
    }
}

/// The weights and the velocity after a step of SGD, from gradient and velocity; `factors` are rate, momentum and
/// decay.
pub(crate) fn sgd<const D: usize>(
    weights: Tensor<D>,
    tensors: [Tensor<D>; 2],
    [rate, momentum, decay]: [f32; 3],
    verdict: Option<Verdict>,
) -> [Tensor<D>; 2] {
    let weights = on_gpu(weights);
    let [gradient, velocity] = tensors.map(|tensor| owned(on_gpu(tensor)));
    kernels::sgd::launch(
        &weights.client,
        unit_for_each(weights.meta.shape().num_elements()),
        units(),
        weights.clone().into_buffer_arg(),
        gradient.clone().into_buffer_arg(),
        velocity.clone().into_buffer_arg(),
        verdict.map(|verdict| verdict.0.into_buffer_arg()).into(),
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
    verdict: Option<Verdict>,
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
        verdict.map(|verdict| verdict.0.into_buffer_arg()).into(),
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
