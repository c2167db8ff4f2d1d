//! Convolution as one operation, with its gradients, for each backend that has kernels of ours.
#![allow(
    unreachable_pub,
    reason = "the macro makes a public trait, which brings its types along"
)]

use std::marker::PhantomData;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::DType;

use crate::extension::{self, FlexTensor, contiguous, new_tensor, values};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::sums::channel_sums;
use crate::problem::Problem;
#[cfg(not(target_family = "wasm"))]
use crate::run::Step;

/// A convolution with its epilogue.
#[derive(Clone, Debug)]
pub struct ConvCall {
    pub(crate) problem: Arc<Problem>,
    /// `[outputs]`, what the product is multiplied by; constant. For the CPU's kernels alone.
    pub(crate) scale: Option<Arc<Vec<f32>>>,
    /// The same for a GPU.
    #[cfg(feature = "gpu")]
    pub(crate) gpu_scale: Option<FloatTensor<burn::backend::Cube>>,
    pub(crate) has_bias: bool,
    pub(crate) has_residual: bool,
    pub(crate) relu: bool,
    pub(crate) output_shape: Vec<usize>,
    /// What the run that it is of does with it.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) step: Option<Step>,
    /// On the CPU all is f32.
    #[cfg(feature = "gpu")]
    pub(crate) output_type: DType,
}

/// Convolution of maps with the channels last. Tensors that a call says are absent are any at all.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait Convolve: Backend {
    /// Convolves, and finishes with scale, bias, residual and ReLU.
    fn convolve(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        call: ConvCall,
    ) -> FloatTensor<Self>;
}

/// What a backend computes of a convolution and its gradients.
pub trait Kernels: Convolve {
    /// The tensor as it is laid out in memory, copied where it is a view.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Hands on the memory of a tensor that nobody else holds.
    fn hand_on(tensor: FloatTensor<Self>);

    /// The gradient before the ReLU that gave `output`, where there was one.
    fn before_relu(
        gradient: FloatTensor<Self>,
        output: Option<&FloatTensor<Self>>,
    ) -> FloatTensor<Self>;

    /// The gradient of the bias.
    fn bias_gradient(gradient: &FloatTensor<Self>, call: &ConvCall) -> FloatTensor<Self>;

    /// The gradient of the weights.
    fn weight_gradient(
        input: FloatTensor<Self>,
        gradient: &FloatTensor<Self>,
        call: &ConvCall,
        shape: &[usize],
    ) -> FloatTensor<Self>;

    /// The gradient of the input, which has this shape and type.
    fn input_gradient(
        gradient: &FloatTensor<Self>,
        weight: FloatTensor<Self>,
        call: &ConvCall,
        input: (&[usize], DType),
    ) -> FloatTensor<Self>;
}

fn scale(call: &ConvCall) -> Option<&[f32]> {
    call.scale.as_ref().map(|scale| &***scale)
}

impl Convolve for Flex {
    fn convolve(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        residual: FlexTensor,
        call: ConvCall,
    ) -> FlexTensor {
        let [input, weight] = [input, weight].map(contiguous);
        let [bias, residual] = [bias, residual].map(contiguous);
        let end = Epilogue {
            scale: scale(&call),
            bias: call.has_bias.then(|| values(&bias)),
            residual: call.has_residual.then(|| values(&residual)),
            relu: call.relu,
        };
        let output = forward(&call, values(&input), values(&weight), end);
        [input, residual].into_iter().for_each(extension::hand_on);
        new_tensor(output, call.output_shape)
    }
}

fn forward(call: &ConvCall, input: &[f32], weight: &[f32], end: Epilogue<'_>) -> Vec<f32> {
    #[cfg(not(target_family = "wasm"))]
    if let Some(step) = &call.step
        && let Some(output) = step.forward(&call.problem, input, weight, end)
    {
        return output;
    }
    call.problem.forward(input, weight, end)
}

impl Kernels for Flex {
    fn contiguous(tensor: FlexTensor) -> FlexTensor {
        contiguous(tensor)
    }

    fn hand_on(tensor: FlexTensor) {
        extension::hand_on(tensor);
    }

    fn before_relu(gradient: FlexTensor, output: Option<&FlexTensor>) -> FlexTensor {
        extension::before_relu(gradient, output)
    }

    fn bias_gradient(gradient: &FlexTensor, call: &ConvCall) -> FlexTensor {
        let outputs = call.problem.outputs;
        let sums = channel_sums(values(gradient), outputs);
        new_tensor(sums.into_iter().map(|sum| sum as f32).collect(), [outputs])
    }

    fn weight_gradient(
        input: FlexTensor,
        gradient: &FlexTensor,
        call: &ConvCall,
        shape: &[usize],
    ) -> FlexTensor {
        let (input, gradient) = (values(&input), values(gradient));
        let weights = call.problem.weight_gradient(input, gradient, scale(call));
        new_tensor(weights, shape)
    }

    fn input_gradient(
        gradient: &FlexTensor,
        weight: FlexTensor,
        call: &ConvCall,
        (shape, _): (&[usize], DType),
    ) -> FlexTensor {
        let (gradient, weight) = (values(gradient), values(&weight));
        let pixels = call.problem.input_gradient(gradient, weight, scale(call));
        new_tensor(pixels, shape)
    }
}

#[cfg(feature = "gpu")]
mod cube {
    use burn::backend::Cube;
    use burn_cubecl::kernel::into_contiguous;

    use super::{ConvCall, Convolve, DType, FloatTensor, Kernels};
    use crate::gpu::{self, ForwardEnd};

    type CubeTensor = FloatTensor<Cube>;

    impl Convolve for Cube {
        fn convolve(
            input: CubeTensor,
            weight: CubeTensor,
            bias: CubeTensor,
            residual: CubeTensor,
            call: ConvCall,
        ) -> CubeTensor {
            gpu::forward(
                &call.problem,
                input,
                weight,
                call.gpu_scale.as_ref(),
                ForwardEnd {
                    bias: call.has_bias.then_some(bias),
                    residual: call.has_residual.then_some(residual),
                    relu: call.relu,
                },
                (&call.output_shape, call.output_type),
            )
        }
    }

    impl Kernels for Cube {
        fn contiguous(tensor: CubeTensor) -> CubeTensor {
            into_contiguous(tensor)
        }

        /// The device's memory has a pool of its own.
        fn hand_on(_: CubeTensor) {}

        fn before_relu(gradient: CubeTensor, output: Option<&CubeTensor>) -> CubeTensor {
            match output {
                Some(output) => gpu::before_relu(gradient, output),
                None => gradient,
            }
        }

        fn bias_gradient(gradient: &CubeTensor, call: &ConvCall) -> CubeTensor {
            gpu::bias_gradient(&call.problem, gradient.clone())
        }

        fn weight_gradient(
            input: CubeTensor,
            gradient: &CubeTensor,
            call: &ConvCall,
            _shape: &[usize],
        ) -> CubeTensor {
            let scale = call.gpu_scale.as_ref();
            gpu::weight_gradient(&call.problem, input, gradient.clone(), scale)
        }

        fn input_gradient(
            gradient: &CubeTensor,
            weight: CubeTensor,
            call: &ConvCall,
            input: (&[usize], DType),
        ) -> CubeTensor {
            let scale = call.gpu_scale.as_ref();
            gpu::input_gradient(&call.problem, gradient.clone(), weight, scale, input)
        }
    }
}

#[derive(Debug)]
struct ConvolveBackward<B>(PhantomData<B>);

#[derive(Clone, Debug)]
struct ConvolveState<T> {
    input: T,
    weight: T,
    /// Where a ReLU ends it.
    output: Option<T>,
    call: ConvCall,
}

impl<B: Kernels> Backward<B, 4> for ConvolveBackward<B> {
    type State = ConvolveState<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [input, weight, bias, residual] = ops.parents;
        let ConvolveState {
            input: inputs,
            weight: weights,
            output,
            call,
        } = ops.state;
        let [input_shape, weight_shape] = [&inputs, &weights].map(|tensor| tensor.shape().to_vec());
        let input_type = inputs.dtype();
        let gradient = B::before_relu(grads.consume::<B>(&ops.node), output.as_ref());
        output.into_iter().for_each(B::hand_on);
        if let Some(node) = bias {
            grads.register::<B>(node.id, B::bias_gradient(&gradient, &call));
        }
        if let Some(node) = weight {
            let gradient = B::weight_gradient(inputs.clone(), &gradient, &call, &weight_shape);
            grads.register::<B>(node.id, gradient);
        }
        B::hand_on(inputs);
        if let Some(node) = input {
            let like = (&*input_shape, input_type);
            let gradient = B::input_gradient(&gradient, weights, &call, like);
            grads.register::<B>(node.id, gradient);
        }
        match residual {
            Some(node) => grads.register::<B>(node.id, gradient),
            None => B::hand_on(gradient),
        }
    }
}

impl<B: Kernels, C: CheckpointStrategy> Convolve for Autodiff<B, C> {
    fn convolve(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        call: ConvCall,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), weight.node(), bias.node(), residual.node()];
        let prepared = ConvolveBackward::<B>(PhantomData)
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful();
        // Now, so that a view is copied once for the output and the gradients together.
        let [input, weight] = [input, weight].map(|tensor| B::contiguous(tensor.into_primitive()));
        let [bias, residual] = [bias, residual].map(FloatTensor::<Self>::into_primitive);
        match prepared {
            OpsKind::Tracked(prepared) => {
                let output =
                    B::convolve(input.clone(), weight.clone(), bias, residual, call.clone());
                let state = ConvolveState {
                    input,
                    weight,
                    output: call.relu.then(|| output.clone()),
                    call,
                };
                prepared.finish(state, output)
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::convolve(input, weight, bias, residual, call))
            }
        }
    }
}
