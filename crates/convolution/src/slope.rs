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

/// A number to go backward from, or a term of one: then the output's gradient is this slope. Its value is 0.
///
/// # Shapes
///
/// - `slope`: as the output
pub fn with_slope<const D: usize>(output: Tensor<D>, slope: Tensor<D>) -> Tensor<1> {
    let slope = slope.autodiff();
    let number = <Dispatch as WithSlope>::with_slope(output.into_dispatch(), slope.into_dispatch());
    Tensor::from_dispatch(number)
}

/// An output with its gradient.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait WithSlope: Backend {
    /// The number.
    fn with_slope(output: FloatTensor<Self>, slope: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl WithSlope for Flex {
    fn with_slope(output: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        zero::<Self>(&output)
    }
}

#[cfg(feature = "gpu")]
impl WithSlope for burn::backend::Cube {
    fn with_slope(output: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        zero::<Self>(&output)
    }
}

fn zero<B: Backend>(beside: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros([1].into(), &beside.device(), FloatDType::F32)
}

#[derive(Debug)]
struct SlopeBackward;

impl<B: Backend> Backward<B, 1> for SlopeBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, ops.state);
        }
    }
}

impl<B: WithSlope, C: CheckpointStrategy> WithSlope for Autodiff<B, C> {
    fn with_slope(output: FloatTensor<Self>, slope: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = SlopeBackward
            .prepare::<C>([output.node()])
            .compute_bound()
            .stateful();
        let [output, slope] = [output, slope].map(FloatTensor::<Self>::into_primitive);
        let number = zero::<B>(&output);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(slope, number),
            OpsKind::UnTracked(prepared) => prepared.finish(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn gradients_go_on_from_the_slope_and_terms_add_up() {
        let device = Device::flex().autodiff();
        let tensor = |values: [f32; 3]| Tensor::<1>::from_floats(values, &device);
        let input = tensor([1.0, 2.0, 3.0]).require_grad();
        let output = input.clone() * 2.0;
        let slope = tensor([1.0, 10.0, 100.0]).inner();
        let own = tensor([0.5, 0.5, 0.5]).inner();
        let number = with_slope(output, slope) + with_slope(input.clone(), own);
        assert_eq!(number.clone().into_scalar::<f32>(), 0.0);
        let gradient = input.grad(&number.backward()).unwrap();
        let expected = tensor([2.5, 20.5, 200.5]).inner();
        gradient.into_data().assert_eq(&expected.into_data(), true);
    }
}
