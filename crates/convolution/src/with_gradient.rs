//! Where a graph begins in the middle: at an output whose gradient is known.
#![allow(
    unreachable_pub,
    reason = "the macro makes a public trait, which brings its types along"
)]

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, Tensor};

/// A number to go backward from, or a term of one: then the output has this gradient. Its value is 0.
///
/// # Shapes
///
/// - `gradient`: as the output
pub fn with_gradient<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    let gradient = gradient.autodiff();
    let number =
        <Dispatch as WithGradient>::with_gradient(output.into_dispatch(), gradient.into_dispatch());
    Tensor::from_dispatch(number)
}

/// An output with its gradient.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait WithGradient: Backend {
    /// The number.
    fn with_gradient(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl WithGradient for Flex {
    fn with_gradient(output: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        zero::<Self>(&output)
    }
}

#[cfg(feature = "gpu")]
impl WithGradient for burn::backend::Cube {
    fn with_gradient(output: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        zero::<Self>(&output)
    }
}

fn zero<B: Backend>(beside: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros([1].into(), &beside.device(), FloatDType::F32)
}

#[derive(Debug)]
struct WithGradientBackward;

impl<B: Backend> Backward<B, 1> for WithGradientBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, ops.state);
        }
    }
}

impl<B: WithGradient, C: CheckpointStrategy> WithGradient for Autodiff<B, C> {
    fn with_gradient(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = WithGradientBackward
            .prepare::<C>([output.node()])
            .compute_bound()
            .stateful();
        let [output, gradient] = [output, gradient].map(FloatTensor::<Self>::into_primitive);
        let number = zero::<B>(&output);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(gradient, number),
            OpsKind::UnTracked(prepared) => prepared.finish(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn gradients_go_on_from_the_one_that_is_given_and_terms_add_up() {
        let device = Device::flex().autodiff();
        let tensor = |values: [f32; 3]| Tensor::<1>::from_floats(values, &device);
        let input = tensor([1.0, 2.0, 3.0]).require_grad();
        let output = input.clone() * 2.0;
        let given = tensor([1.0, 10.0, 100.0]).inner();
        let own = tensor([0.5, 0.5, 0.5]).inner();
        let number = with_gradient(output, given) + with_gradient(input.clone(), own);
        assert_eq!(number.clone().into_scalar::<f32>(), 0.0);
        let gradient = input.grad(&number.backward()).unwrap();
        let expected = tensor([2.5, 20.5, 200.5]).inner();
        gradient.into_data().assert_eq(&expected.into_data(), true);
    }
}
