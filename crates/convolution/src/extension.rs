//! The kernels as operations of Burn's CPU backend, flex, with their gradients.
#![allow(
    unreachable_pub,
    reason = "the macro makes a public trait, which brings its types along"
)]

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, TensorData};

use crate::kernels::epilogue::{Epilogue, relu_gradient};
use crate::kernels::memory;
use crate::kernels::norm::{Groups, Moments, NormGradients};
use crate::kernels::resample::{Pool, add_upsampled, upsampled_gradient};
use crate::shape::Maps;

/// A normalisation with its end.
#[derive(Clone, Debug)]
pub struct NormCall {
    pub(crate) groups: Arc<Groups>,
    pub(crate) moments: Arc<Moments>,
    pub(crate) epsilon: f32,
    pub(crate) has_residual: bool,
    pub(crate) relu: bool,
}

/// A pooling.
#[derive(Clone, Debug)]
pub struct PoolCall {
    pub(crate) pool: Pool,
    pub(crate) maps: Arc<[Maps; 2]>,
    pub(crate) output_shape: Vec<usize>,
}

/// An upsampling: the finer and the coarser maps.
#[derive(Clone, Debug)]
pub struct UpsampleCall {
    pub(crate) maps: Arc<[Maps; 2]>,
}

/// Operations on maps with the channels last. Tensors that a call says are absent are any at all.
#[backend_extension(Flex, Autodiff)]
pub trait ChannelsLast: Backend {
    /// Normalises with statistics of the input that were taken before.
    fn normalize(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        call: NormCall,
    ) -> FloatTensor<Self>;

    /// Takes the largest value under every window.
    fn max_pool(input: FloatTensor<Self>, call: PoolCall) -> FloatTensor<Self>;

    /// Adds the coarser map, enlarged by repeating pixels, to the finer.
    fn add_upsampled(
        finer: FloatTensor<Self>,
        coarser: FloatTensor<Self>,
        call: UpsampleCall,
    ) -> FloatTensor<Self>;
}

pub(crate) type FlexTensor = FloatTensor<Flex>;

pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("parameters and maps are f32 and were made contiguous")
}

pub(crate) fn new_tensor(values: Vec<f32>, shape: impl Into<Vec<usize>>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// Hands on the memory of a large tensor that is all of it, and that nobody else holds.
pub(crate) fn hand_on(tensor: FlexTensor) {
    let length = tensor.shape().num_elements();
    if memory::keeps(length)
        && tensor.dtype() == DType::F32
        && tensor.is_unique()
        && tensor.storage::<f32>().len() == length
        && let Ok(values) = tensor.into_data().try_into_vec()
    {
        memory::hand_on(values);
    }
}

pub(crate) fn shape_of(tensor: &FlexTensor) -> Vec<usize> {
    tensor.shape().to_vec()
}

/// The gradient before the ReLU, where there was one; in place where nobody else holds it.
pub(crate) fn before_relu(gradient: FlexTensor, output: Option<&FlexTensor>) -> FlexTensor {
    let mut gradient = contiguous(gradient);
    let Some(output) = output else {
        return gradient;
    };
    if gradient.layout().start_offset() != 0 {
        gradient = new_tensor(memory::copied(values(&gradient)), shape_of(&gradient));
    }
    let length = values(output).len();
    relu_gradient(&mut gradient.storage_mut::<f32>()[..length], values(output));
    gradient
}

impl ChannelsLast for Flex {
    fn normalize(
        input: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        residual: FlexTensor,
        call: NormCall,
    ) -> FlexTensor {
        let [input, gamma, beta, residual] = [input, gamma, beta, residual].map(contiguous);
        let end = Epilogue {
            residual: call.has_residual.then(|| values(&residual)),
            relu: call.relu,
            ..Epilogue::default()
        };
        let affine = [values(&gamma), values(&beta)];
        let output =
            call.groups
                .normalize(values(&input), &call.moments, call.epsilon, affine, end);
        let output = new_tensor(output, shape_of(&input));
        [input, residual].into_iter().for_each(hand_on);
        output
    }

    fn max_pool(input: FlexTensor, call: PoolCall) -> FlexTensor {
        pool(input, &call, false).0
    }

    fn add_upsampled(finer: FlexTensor, coarser: FlexTensor, call: UpsampleCall) -> FlexTensor {
        let [finer, coarser] = [finer, coarser].map(contiguous);
        let [finer_maps, coarser_maps] = &*call.maps;
        let channels = channels(&finer);
        let maps = [finer_maps, coarser_maps];
        let sum = add_upsampled(maps, values(&finer), values(&coarser), channels);
        let sum = new_tensor(sum, shape_of(&finer));
        [finer, coarser].into_iter().for_each(hand_on);
        sum
    }
}

fn channels(tensor: &FlexTensor) -> usize {
    shape_of(tensor).last().copied().unwrap_or(1)
}

fn pool(input: FlexTensor, call: &PoolCall, with_taps: bool) -> (FlexTensor, Vec<u8>) {
    let input = contiguous(input);
    let [maps_in, maps_out] = &*call.maps;
    let maps = [maps_in, maps_out];
    let (output, taps) = (call.pool).forward(maps, values(&input), channels(&input), with_taps);
    hand_on(input);
    (new_tensor(output, call.output_shape.clone()), taps)
}

#[derive(Debug)]
struct NormalizeBackward;

#[derive(Clone, Debug)]
struct NormalizeState {
    input: FlexTensor,
    gamma: FlexTensor,
    output: Option<FlexTensor>,
    call: NormCall,
}

impl Backward<Flex, 4> for NormalizeBackward {
    type State = NormalizeState;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [input, gamma, beta, residual] = ops.parents;
        let NormalizeState {
            input: inputs,
            gamma: scale,
            output,
            call,
        } = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node);
        let gradient = before_relu(gradient, output.as_ref());
        let NormGradients {
            input: of_input,
            gamma: of_gamma,
            beta: of_beta,
        } = call.groups.gradients(
            values(&inputs),
            values(&gradient),
            &call.moments,
            call.epsilon,
            values(&scale),
        );
        let shape = shape_of(&inputs);
        [Some(inputs), output]
            .into_iter()
            .flatten()
            .for_each(hand_on);
        match input {
            Some(node) => grads.register::<Flex>(node.id, new_tensor(of_input, shape)),
            None => memory::hand_on(of_input),
        }
        for (node, gradient) in [(gamma, of_gamma), (beta, of_beta)] {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, new_tensor(gradient, shape_of(&scale)));
            }
        }
        match residual {
            Some(node) => grads.register::<Flex>(node.id, gradient),
            None => hand_on(gradient),
        }
    }
}

#[derive(Debug)]
struct PoolBackward;

impl Backward<Flex, 1> for PoolBackward {
    type State = (Arc<Vec<u8>>, Vec<usize>, PoolCall);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (taps, shape, call) = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let [Some(node)] = ops.parents else { return };
        let [maps_in, maps_out] = &*call.maps;
        let maps = [maps_in, maps_out];
        let channels = channels(&gradient);
        let pixels = call.pool.gradient(maps, values(&gradient), &taps, channels);
        hand_on(gradient);
        grads.register::<Flex>(node.id, new_tensor(pixels, shape));
    }
}

#[derive(Debug)]
struct UpsampleBackward;

impl Backward<Flex, 2> for UpsampleBackward {
    type State = (Vec<usize>, UpsampleCall);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (shape, call) = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let [finer, coarser] = ops.parents;
        if let Some(node) = coarser {
            let [finer_maps, coarser_maps] = &*call.maps;
            let maps = [finer_maps, coarser_maps];
            let pixels = upsampled_gradient(maps, values(&gradient), channels(&gradient));
            grads.register::<Flex>(node.id, new_tensor(pixels, shape));
        }
        match finer {
            Some(node) => grads.register::<Flex>(node.id, gradient),
            None => hand_on(gradient),
        }
    }
}

impl<C: CheckpointStrategy> ChannelsLast for Autodiff<Flex, C> {
    fn normalize(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        call: NormCall,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), gamma.node(), beta.node(), residual.node()];
        let prepared = NormalizeBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful();
        let [input, gamma] = [input, gamma].map(|tensor| contiguous(tensor.into_primitive()));
        let [beta, residual] = [beta, residual].map(FloatTensor::<Self>::into_primitive);
        match prepared {
            OpsKind::Tracked(prepared) => {
                let output =
                    Flex::normalize(input.clone(), gamma.clone(), beta, residual, call.clone());
                let state = NormalizeState {
                    input,
                    gamma,
                    output: call.relu.then(|| output.clone()),
                    call,
                };
                prepared.finish(state, output)
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(Flex::normalize(input, gamma, beta, residual, call))
            }
        }
    }

    fn max_pool(input: FloatTensor<Self>, call: PoolCall) -> FloatTensor<Self> {
        let prepared = PoolBackward
            .prepare::<C>([input.node()])
            .compute_bound()
            .stateful();
        let input = input.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => {
                let shape = shape_of(&input);
                let (output, taps) = pool(input, &call, true);
                prepared.finish((Arc::new(taps), shape, call), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(Flex::max_pool(input, call)),
        }
    }

    fn add_upsampled(
        finer: FloatTensor<Self>,
        coarser: FloatTensor<Self>,
        call: UpsampleCall,
    ) -> FloatTensor<Self> {
        let prepared = UpsampleBackward
            .prepare::<C>([finer.node(), coarser.node()])
            .compute_bound()
            .stateful();
        let [finer, coarser] = [finer, coarser].map(FloatTensor::<Self>::into_primitive);
        match prepared {
            OpsKind::Tracked(prepared) => {
                let shape = shape_of(&coarser);
                prepared.finish(
                    (shape, call.clone()),
                    Flex::add_upsampled(finer, coarser, call),
                )
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(Flex::add_upsampled(finer, coarser, call))
            }
        }
    }
}
