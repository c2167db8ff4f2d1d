//! The updates of SGD and AdamW: one pass over weights, gradients and state, where a chain of tensor operations
//! makes eight. The chain is for devices without kernels of ours.

#[cfg(feature = "gpu")]
use std::sync::PoisonError;
use std::sync::{Arc, Mutex};

use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, Flex};
use burn::optim::{
    AdamWState, AdaptiveMomentumState, LearningRate, Optimizer, RecordState, StateSink, StateSource,
};
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

#[cfg(feature = "gpu")]
use crate::optimisation::gpu;

/// Values that a thread takes at once.
const CHUNK: usize = 1 << 14;

/// How an optimiser takes its next step.
#[derive(Clone, Default)]
pub(crate) enum Mode {
    /// As the gradients say.
    #[default]
    Plain,
    /// As a verdict says too, which the host does not know.
    #[cfg(feature = "gpu")]
    OnDevice(gpu::Verdict),
    /// Not at all: so many steps that moved nothing are to be forgotten.
    #[cfg(feature = "gpu")]
    Forget(usize),
}

/// A [`Mode`] that all groups of an optimiser see.
#[derive(Clone, Default)]
#[cfg_attr(
    not(feature = "gpu"),
    expect(dead_code, reason = "without GPUs there is one mode")
)]
pub(crate) struct ModeCell(Arc<Mutex<Mode>>);

impl ModeCell {
    #[cfg(feature = "gpu")]
    pub(crate) fn set(&self, mode: Mode) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    #[cfg(feature = "gpu")]
    fn get(&self) -> Mode {
        (self.0.lock().unwrap_or_else(PoisonError::into_inner)).clone()
    }
}

/// Stochastic gradient descent with momentum and weight decay, as PyTorch's:
///
/// ```text
/// g = gradient + decay * w,   v = momentum * v + g,   w = w - rate * v
/// ```
#[derive(Clone)]
pub(crate) struct Sgd {
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
    /// Factor on the learning rate.
    pub(crate) rate_factor: f64,
    pub(crate) mode: ModeCell,
}

/// What [`Sgd`] remembers of a parameter.
#[derive(Clone)]
pub(crate) struct Velocity<const D: usize>(Tensor<D>);

impl<const D: usize> RecordState for Velocity<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, "velocity", self.0.to_data());
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, device: &Device) -> Option<Self> {
        let velocity = source.take_tensor(prefix, "velocity")?;
        Some(Self(Tensor::from_data(velocity, device)))
    }
}

impl Optimizer for Sgd {
    type State<const D: usize> = Velocity<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        weights: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Velocity<D>>,
    ) -> (Tensor<D>, Option<Velocity<D>>) {
        let rate = rate * self.rate_factor;
        #[cfg(feature = "gpu")]
        let verdict = match self.mode.get() {
            Mode::Plain => None,
            Mode::OnDevice(verdict) => Some(verdict),
            Mode::Forget(_) => return (weights, state),
        };
        let velocity = state.map_or_else(|| gradient.zeros_like(), |velocity| velocity.0);
        #[cfg(feature = "gpu")]
        if retinanet_gpu::is_gpu(&weights.device()) {
            let factors = [rate, self.momentum, self.weight_decay].map(|x| x as f32);
            let [weights, velocity] = gpu::sgd(weights, [gradient, velocity], factors, verdict);
            return (weights, Some(Velocity(velocity)));
        }
        if !is_flex(&weights.device()) {
            let gradient = gradient + weights.clone() * self.weight_decay;
            let velocity = velocity * self.momentum + gradient;
            return (weights - velocity.clone() * rate, Some(Velocity(velocity)));
        }
        let [rate, momentum, decay] = [rate, self.momentum, self.weight_decay].map(|x| x as f32);
        let weights = to_flex(weights);
        let (mut updated, mut velocity) = (to_flex(gradient), to_flex(velocity));
        let chunks = values_mut(&mut updated)
            .par_chunks_mut(CHUNK)
            .zip(values_mut(&mut velocity).par_chunks_mut(CHUNK))
            .zip(values(&weights).par_chunks(CHUNK));
        chunks.for_each(|((gradients, velocities), weights)| {
            for ((gradient, velocity), weight) in gradients.iter_mut().zip(velocities).zip(weights)
            {
                *velocity = momentum * *velocity + (*gradient + decay * weight);
                *gradient = weight - rate * *velocity;
            }
        });
        let velocity = Tensor::from_primitive::<Flex>(velocity);
        (
            Tensor::from_primitive::<Flex>(updated),
            Some(Velocity(velocity)),
        )
    }

    fn to_device<const D: usize>(state: Velocity<D>, device: &Device) -> Velocity<D> {
        Velocity(state.0.to_device(device))
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019), as PyTorch's.
#[derive(Clone)]
pub(crate) struct AdamW {
    pub(crate) betas: [f64; 2],
    pub(crate) epsilon: f64,
    pub(crate) weight_decay: f64,
    /// Factor on the learning rate.
    pub(crate) rate_factor: f64,
    pub(crate) mode: ModeCell,
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        weights: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        #[cfg(feature = "gpu")]
        let verdict = match self.mode.get() {
            Mode::Plain => None,
            Mode::OnDevice(verdict) => Some(verdict),
            Mode::Forget(steps) => return (weights, forget_steps(state, steps)),
        };
        let rate = rate * self.rate_factor;
        let (time, mean, square) = state.map_or_else(
            || (0, gradient.zeros_like(), gradient.zeros_like()),
            |state| {
                (
                    state.momentum.time,
                    state.momentum.moment_1,
                    state.momentum.moment_2,
                )
            },
        );
        let time = time + 1;
        let factors = self.factors(rate, time);
        let tensors = [gradient, mean, square];
        #[cfg(feature = "gpu")]
        if retinanet_gpu::is_gpu(&weights.device()) {
            let [weights, mean, square] = gpu::adamw(weights, tensors, &factors, verdict);
            let momentum = AdaptiveMomentumState::new(time, mean, square);
            return (weights, Some(AdamWState::new(momentum)));
        }
        let [weights, mean, square] = factors.step_on_host(weights, tensors);
        let momentum = AdaptiveMomentumState::new(time, mean, square);
        (weights, Some(AdamWState::new(momentum)))
    }

    fn to_device<const D: usize>(mut state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

/// The state before so many steps that moved nothing.
#[cfg(feature = "gpu")]
fn forget_steps<const D: usize>(
    state: Option<AdamWState<D>>,
    steps: usize,
) -> Option<AdamWState<D>> {
    state.map(|mut state| {
        state.momentum.time = state.momentum.time.saturating_sub(steps);
        state
    })
}

impl AdamW {
    /// The factors of a step, counted from 1.
    fn factors(&self, rate: f64, step: usize) -> AdamWFactors {
        let [beta1, beta2] = self.betas;
        let steps = i32::try_from(step).unwrap_or(i32::MAX);
        AdamWFactors {
            betas: self.betas,
            epsilon: self.epsilon,
            size: rate / (1.0 - beta1.powi(steps)),
            square_correction: 1.0 / (1.0 - beta2.powi(steps)).sqrt(),
            keep: 1.0 - rate * self.weight_decay,
        }
    }
}

/// What a step of [`AdamW`] multiplies with. Both corrections of the moments' start at 0 stand where
/// they cost least.
pub(crate) struct AdamWFactors {
    pub(crate) betas: [f64; 2],
    pub(crate) epsilon: f64,
    /// The learning rate, with the mean's correction.
    pub(crate) size: f64,
    /// Of the square's root.
    pub(crate) square_correction: f64,
    /// What the decay leaves of the weights.
    pub(crate) keep: f64,
}

impl AdamWFactors {
    /// In one pass on the CPU, or by a chain of operations.
    fn step_on_host<const D: usize>(
        &self,
        weights: Tensor<D>,
        tensors: [Tensor<D>; 3],
    ) -> [Tensor<D>; 3] {
        if is_flex(&weights.device()) {
            self.step_in_one_pass(weights, tensors)
        } else {
            self.step(weights, tensors)
        }
    }

    /// From weights, gradient, mean and square to weights, mean and square.
    fn step<const D: usize>(
        &self,
        weights: Tensor<D>,
        [gradient, mean, square]: [Tensor<D>; 3],
    ) -> [Tensor<D>; 3] {
        let [beta1, beta2] = self.betas;
        let mean = mean * beta1 + gradient.clone() * (1.0 - beta1);
        let square = square * beta2 + gradient.square() * (1.0 - beta2);
        let deviation = square.clone().sqrt() * self.square_correction + self.epsilon;
        let weights = weights * self.keep - mean.clone() * self.size / deviation;
        [weights, mean, square]
    }

    /// The same on the CPU.
    fn step_in_one_pass<const D: usize>(
        &self,
        weights: Tensor<D>,
        tensors: [Tensor<D>; 3],
    ) -> [Tensor<D>; 3] {
        let weights = to_flex(weights);
        // The gradient's memory becomes the weights'.
        let [mut updated, mut mean, mut square] = tensors.map(to_flex);
        let [beta1, beta2] = self.betas.map(|x| x as f32);
        let [size, correction, keep, epsilon] =
            [self.size, self.square_correction, self.keep, self.epsilon].map(|x| x as f32);
        let chunks = values_mut(&mut updated)
            .par_chunks_mut(CHUNK)
            .zip(values_mut(&mut mean).par_chunks_mut(CHUNK))
            .zip(values_mut(&mut square).par_chunks_mut(CHUNK))
            .zip(values(&weights).par_chunks(CHUNK));
        chunks.for_each(|(((gradients, means), squares), weights)| {
            let moments = means.iter_mut().zip(squares);
            for ((gradient, (mean, square)), weight) in
                gradients.iter_mut().zip(moments).zip(weights)
            {
                *mean = beta1 * *mean + (1.0 - beta1) * *gradient;
                *square = beta2 * *square + (1.0 - beta2) * *gradient * *gradient;
                let deviation = square.sqrt() * correction + epsilon;
                *gradient = keep * weight - size * *mean / deviation;
            }
        });
        [updated, mean, square].map(Tensor::from_primitive::<Flex>)
    }
}

/// The sum of all squares of a tensor, taken in f64 block by block, so that it does not depend on
/// the number of threads.
pub(crate) fn sum_of_squares<const D: usize>(tensor: Tensor<D>) -> f64 {
    if !is_flex(&tensor.device()) {
        return f64::from(tensor.square().sum().into_scalar::<f32>());
    }
    let tensor = to_flex(tensor);
    let blocks = values(&tensor).par_chunks(CHUNK).map(|block| {
        // Side by side, so that the compiler may add them in one register.
        let mut sums = [0.0_f32; 16];
        for values in block.chunks(sums.len()) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value * value;
            }
        }
        sums.iter().map(|sum| f64::from(*sum)).sum::<f64>()
    });
    blocks.collect::<Vec<f64>>().iter().sum()
}

type FlexTensor = FloatTensor<Flex>;

/// Whether a device is the CPU.
pub(crate) fn is_flex(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Flex(_)
    )
}

/// The tensor as flex has it, dense from the start of its memory.
fn to_flex<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let tensor = tensor
        .try_into_primitive::<Flex>()
        .expect("the device was asked before, and optimisers see no autodiff");
    if tensor.is_contiguous() && tensor.layout().start_offset() == 0 {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("parameters are f32 and dense")
}

/// In place where nobody else holds the tensor, otherwise of a copy.
fn values_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    let length = tensor.layout().num_elements();
    &mut tensor.storage_mut()[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: [f32; 3]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    fn assert_close(tensor: &Tensor<1>, expected: [f64; 3]) {
        for (value, expected) in tensor.to_data().iter::<f64>().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
    }

    /// ```python
    /// w = torch.nn.Parameter(torch.tensor([1., -2., 3.]))
    /// o = torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01)
    /// for g in ([.5, .5, -1.], [.1, -.2, .3]): w.grad = torch.tensor(g); o.step()
    /// ```
    #[test]
    fn sgd_steps_as_pytorchs() {
        let sgd = Sgd {
            momentum: 0.9,
            weight_decay: 0.01,
            rate_factor: 1.0,
            mode: ModeCell::default(),
        };
        let (weights, state) = sgd.step(
            0.1,
            tensor([1.0, -2.0, 3.0]),
            tensor([0.5, 0.5, -1.0]),
            None,
        );
        assert_close(&weights, [0.949, -2.048, 3.097]);
        let (weights, _) = sgd.step(0.1, weights, tensor([0.1, -0.2, 0.3]), state);
        assert_close(&weights, [0.892_151, -2.069_152, 3.151_203]);
    }

    /// As above, `torch.optim.AdamW([w], lr=0.1, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.01)`.
    #[test]
    fn adamw_steps_as_pytorchs() {
        let adamw = AdamW {
            betas: [0.9, 0.99],
            epsilon: 1e-3,
            weight_decay: 0.01,
            rate_factor: 1.0,
            mode: ModeCell::default(),
        };
        let start = tensor([1.0, -2.0, 3.0]);
        let (weights, state) = adamw.step(0.1, start, tensor([0.5, 0.5, -1.0]), None);
        assert_close(&weights, [0.899_199_6, -2.097_800_4, 3.096_900_1]);
        let (weights, _) = adamw.step(0.1, weights, tensor([0.1, -0.2, 0.3]), state);
        assert_close(&weights, [0.818_051_1, -2.130_229_1, 3.136_611_0]);
    }

    #[test]
    fn adamw_in_one_pass_is_the_chain_of_operations() {
        let adamw = AdamW {
            betas: [0.9, 0.99],
            epsilon: 1e-3,
            weight_decay: 0.1,
            rate_factor: 0.5,
            mode: ModeCell::default(),
        };
        let state = || [[0.5, -0.25, -1.0], [0.1, 0.2, -0.3], [0.04, 0.5, 0.01]].map(tensor);
        let weights = [1.0, -2.0, 3.0];
        let factors = adamw.factors(0.1, 3);
        let fused = factors.step_in_one_pass(tensor(weights), state());
        let chain = factors.step(tensor(weights), state());
        for (fused, chain) in fused.iter().zip(chain) {
            let chain: Vec<f64> = chain.into_data().iter().collect();
            assert_close(fused, [chain[0], chain[1], chain[2]]);
        }
    }

    #[test]
    fn squares_are_summed_over_blocks() {
        let values: Vec<f32> = (0..50_000).map(|place| (place % 7) as f32).collect();
        let expected: f64 = values.iter().map(|value| f64::from(value * value)).sum();
        let tensor = Tensor::<1>::from_floats(&*values, &Device::flex());
        assert_eq!(sum_of_squares(tensor), expected);
    }
}
