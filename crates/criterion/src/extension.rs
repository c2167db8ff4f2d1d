//! The focal loss of a batch as one operation of Burn's CPU backend, flex.
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
#[backend_extension(Flex, Autodiff)]
pub trait FocalBackend: Backend {
    /// The weighted sum of the focal losses of logits `[batch, anchors, classes]`, `[1]`.
    fn focal_sum(logits: FloatTensor<Self>, call: FocalCall) -> FloatTensor<Self>;
}

type FlexTensor = FloatTensor<Flex>;

impl FocalBackend for Flex {
    fn focal_sum(logits: FlexTensor, call: FocalCall) -> FlexTensor {
        compute(&logits, &call).0
    }
}

/// The sum, and the gradient of the logits.
fn compute(logits: &FlexTensor, call: &FocalCall) -> (FlexTensor, FlexTensor) {
    let shape = logits.shape().to_vec();
    let logits = logits.to_contiguous();
    let logits: &[f32] = logits.as_slice().expect("logits are f32 and contiguous");
    let batch = call.weights.len();
    let mut gradient = vec![0.0; logits.len()];
    let mut total = 0.0;
    let images = logits
        .chunks_exact(logits.len() / batch)
        .zip(gradient.chunks_exact_mut(logits.len() / batch))
        .zip(call.labels.chunks_exact(call.labels.len() / batch))
        .zip(&call.weights);
    for (((logits, gradient), labels), weight) in images {
        let alphas = call.focal.alphas.map(|alpha| alpha * weight);
        let focal = Focal {
            alphas,
            ..call.focal
        };
        total += loss_and_gradient(focal, logits, labels, gradient);
    }
    let gradient = FlexTensor::from_data(TensorData::new(gradient, shape));
    let total = FlexTensor::from_data(TensorData::new(vec![total as f32], [1]));
    (total, gradient)
}

#[derive(Debug)]
struct FocalBackward;

impl Backward<Flex, 1> for FocalBackward {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = ops.state;
        let above = grads.consume::<Flex>(&ops.node);
        let above: Option<&[f32]> = above.as_slice();
        let [Some(node)] = ops.parents else { return };
        if let Some(&[factor]) = above
            && factor != 1.0
        {
            let values = gradient.storage_mut::<f32>();
            values.par_iter_mut().for_each(|value| *value *= factor);
        }
        grads.register::<Flex>(node.id, gradient);
    }
}

impl<C: CheckpointStrategy> FocalBackend for Autodiff<Flex, C> {
    fn focal_sum(logits: FloatTensor<Self>, call: FocalCall) -> FloatTensor<Self> {
        let prepared = FocalBackward
            .prepare::<C>([logits.node()])
            .compute_bound()
            .stateful();
        let (total, gradient) = compute(logits.primitive(), &call);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(gradient, total),
            OpsKind::UnTracked(prepared) => prepared.finish(total),
        }
    }
}
