//! The focal loss of a batch as one operation, with its gradient, for each backend that has kernels of ours.
#![allow(
    unreachable_pub,
    reason = "the macro makes a public trait, which brings its types along"
)]

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::TensorData;
use rayon::prelude::*;

use crate::focal_kernel::{Focal, loss_and_gradient};

/// A batch's loss.
#[derive(Clone, Debug)]
pub struct FocalCall {
    pub(crate) focal: Focal,
    /// `[batch, anchors]`
    pub(crate) labels: Arc<Vec<i32>>,
    /// `[batch]`: what each image's sum is multiplied by.
    pub(crate) weights: Vec<f32>,
}

/// The operation.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait FocalBackend: Backend {
    /// The weighted sum of the focal losses of logits `[batch, anchors, classes]`, `[1]`.
    fn focal_sum(logits: FloatTensor<Self>, call: FocalCall) -> FloatTensor<Self>;
}

/// What a backend computes of the loss and its gradient.
pub trait FocalKernels: FocalBackend {
    /// What is kept from the one to the other.
    type Saved: Clone + Debug + Send;

    /// The weighted sum, and what its gradient needs.
    fn forward(logits: FloatTensor<Self>, call: &FocalCall) -> (FloatTensor<Self>, Self::Saved);

    /// The gradient of the logits; `above`, `[1]`, is that of the sum.
    fn gradient(saved: Self::Saved, above: FloatTensor<Self>) -> FloatTensor<Self>;
}

type FlexTensor = FloatTensor<Flex>;

impl FocalBackend for Flex {
    fn focal_sum(logits: FlexTensor, call: FocalCall) -> FlexTensor {
        Self::forward(logits, &call).0
    }
}

impl FocalKernels for Flex {
    /// The gradient itself: it comes with the sum, in one pass over the logits.
    type Saved = FlexTensor;

    fn forward(logits: FlexTensor, call: &FocalCall) -> (FlexTensor, FlexTensor) {
        let mut gradient = in_place(logits);
        let logits = gradient.storage_mut::<f32>();
        let batch = call.weights.len();
        let mut total = 0.0;
        let images = logits
            .chunks_exact_mut(logits.len() / batch)
            .zip(call.labels.chunks_exact(call.labels.len() / batch))
            .zip(&call.weights);
        for ((logits, labels), weight) in images {
            let alphas = call.focal.alphas.map(|alpha| alpha * weight);
            let focal = Focal {
                alphas,
                ..call.focal
            };
            total += loss_and_gradient(focal, logits, labels);
        }
        let total = FlexTensor::from_data(TensorData::new(vec![total as f32], [1]));
        (total, gradient)
    }

    fn gradient(mut gradient: FlexTensor, above: FlexTensor) -> FlexTensor {
        let above: Option<&[f32]> = above.as_slice();
        if let Some(&[factor]) = above
            && factor != 1.0
        {
            let values = gradient.storage_mut::<f32>();
            values.par_iter_mut().for_each(|value| *value *= factor);
        }
        gradient
    }
}

/// The tensor as all of its memory, which is copied where it is not, or where somebody else holds it.
fn in_place(tensor: FlexTensor) -> FlexTensor {
    let is_all = tensor.is_contiguous()
        && tensor.layout().start_offset() == 0
        && tensor.storage::<f32>().len() == tensor.shape().num_elements();
    if is_all {
        return tensor;
    }
    let shape = tensor.shape().to_vec();
    let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    FlexTensor::from_data(TensorData::new(values, shape))
}

#[derive(Debug)]
struct FocalBackward<B>(PhantomData<B>);

impl<B: FocalKernels> Backward<B, 1> for FocalBackward<B> {
    type State = B::Saved;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let above = grads.consume::<B>(&ops.node);
        let [Some(node)] = ops.parents else { return };
        grads.register::<B>(node.id, B::gradient(ops.state, above));
    }
}

impl<B: FocalKernels, C: CheckpointStrategy> FocalBackend for Autodiff<B, C> {
    fn focal_sum(logits: FloatTensor<Self>, call: FocalCall) -> FloatTensor<Self> {
        let prepared = FocalBackward::<B>(PhantomData)
            .prepare::<C>([logits.node()])
            .compute_bound()
            .stateful();
        let (total, saved) = B::forward(logits.into_primitive(), &call);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(saved, total),
            OpsKind::UnTracked(prepared) => prepared.finish(total),
        }
    }
}
