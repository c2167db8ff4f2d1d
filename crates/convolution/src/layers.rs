//! The layers: kernels of ours where there are some for the device, else Burn's own operations.

use std::iter;
use std::sync::Arc;

use burn::backend::{Dispatch, DispatchDevice, Flex};
use burn::nn::{BatchNorm, GroupNorm};
use burn::tensor::module::batch_norm_train;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation, module};

use crate::convolve::{ConvCall, Convolve};
use crate::extension::{ChannelsLast, NormCall, PoolCall, UpsampleCall, contiguous, values};
use crate::kernels::norm::{Groups, Moments};
use crate::kernels::resample::{Pool, nearest};
use crate::levels::Levels;
use crate::problem::Problem;
use crate::record::{EpilogueParts, LayerCall, record};
#[cfg(not(target_family = "wasm"))]
use crate::run::Step;
use crate::shape::{ConvOptions, Maps};
use crate::synchronised::over_processes;

/// What is fused to the end of a layer: `relu(x * scale + bias + residual)`, each part where it is
/// asked for.
#[derive(Clone, Debug)]
pub struct FusedEpilogue<T> {
    /// `[channels]`, a constant: no gradient reaches it. A frozen norm's.
    pub scale: Option<Tensor<1>>,
    /// `[channels]`
    pub bias: Option<Tensor<1>>,
    /// As the output.
    pub residual: Option<T>,
    /// Whether negative values become 0.
    pub relu: bool,
    /// Whether the output is f32 even where the input is of half precision.
    pub in_f32: bool,
}

impl<T> FusedEpilogue<T> {
    /// The layer's values as they are.
    pub const NOTHING: Self = Self {
        scale: None,
        bias: None,
        residual: None,
        relu: false,
        in_f32: false,
    };
}

impl EpilogueParts {
    pub(crate) const fn of<T>(end: &FusedEpilogue<T>) -> Self {
        Self {
            scale: end.scale.is_some(),
            bias: end.bias.is_some(),
            residual: end.residual.is_some(),
            relu: end.relu,
        }
    }
}

/// Convolves.
///
/// # Shapes
///
/// - `input`: `[batch, height, width, channels_in]`
/// - `weight`: `[channels_out, channels_in / groups, kernel height, kernel width]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, height_out, width_out, channels_out]`
///
/// # Panics
///
/// Panics if the shapes do not fit together.
pub fn conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions,
) -> Tensor<4> {
    let end = FusedEpilogue {
        bias,
        ..FusedEpilogue::NOTHING
    };
    conv2d_with_epilogue(input, weight, options, end)
}

/// [`conv2d`] with what follows it.
///
/// # Panics
///
/// Panics if the shapes do not fit together.
pub fn conv2d_with_epilogue(
    input: Tensor<4>,
    weight: Tensor<4>,
    options: ConvOptions,
    end: FusedEpilogue<Tensor<4>>,
) -> Tensor<4> {
    let [batch, height, width, channels] = input.dims();
    record(|| LayerCall::Convolution {
        levels: vec![[height, width]],
        weight: weight.dims(),
        options,
        end: EpilogueParts::of(&end),
    });
    #[cfg(feature = "ndarray")]
    if is_ndarray(&input.device()) {
        return end.apply(plain_conv2d(input, weight, options));
    }
    let maps = Maps::batch(batch, height, width);
    let problem = Problem::new(maps, channels, weight.dims(), options);
    let [height, width] = options.output_size([height, width], problem.kernel);
    let shape = vec![batch, height, width, problem.outputs];
    convolve(input, weight, problem, shape, end)
}

/// Convolves every level with the same weights.
///
/// # Shapes
///
/// - `weight`: `[channels_out, channels_in / groups, kernel height, kernel width]`
///
/// # Panics
///
/// Panics if the shapes do not fit together.
pub fn conv2d_levels(
    input: Levels,
    weight: Tensor<4>,
    options: ConvOptions,
    end: FusedEpilogue<Tensor<3>>,
) -> Levels {
    record(|| LayerCall::Convolution {
        levels: input.sizes.clone(),
        weight: weight.dims(),
        options,
        end: EpilogueParts::of(&end),
    });
    #[cfg(feature = "ndarray")]
    if is_ndarray(&input.values.device()) {
        let convolved = input.map_each(|map| plain_conv2d(map, weight.clone(), options));
        return Levels {
            values: end.apply(convolved.values),
            ..convolved
        };
    }
    let [batch, _, channels] = input.values.dims();
    let maps = Maps::levels(batch, &input.sizes);
    let problem = Problem::new(maps, channels, weight.dims(), options);
    let sizes = problem.maps_out.sizes()[..input.sizes.len()].to_vec();
    let shape = vec![batch, problem.maps_out.pixels() / batch, problem.outputs];
    Levels {
        values: convolve(input.values, weight, problem, shape, end),
        sizes,
    }
}

/// Convolves maps that lie as a problem says, by the kernels of the tensors' device.
pub(crate) fn convolve<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<4>,
    problem: Problem,
    output_shape: Vec<usize>,
    end: FusedEpilogue<Tensor<D>>,
) -> Tensor<D> {
    // To read the scale the host would have to wait for a GPU.
    #[cfg(feature = "gpu")]
    let mut end = end;
    #[cfg(feature = "gpu")]
    let gpu_scale = if is_flex(&input.device()) {
        None
    } else {
        end.scale.take().and_then(retinanet_gpu::to_gpu)
    };
    let absent = {
        let any = without_gradient(weight.clone());
        move || any.clone().into_dispatch()
    };
    let call = ConvCall {
        problem: Arc::new(problem),
        scale: end
            .scale
            .map(|scale| Arc::new(floats(&scale.to_data()).to_vec())),
        #[cfg(feature = "gpu")]
        gpu_scale,
        has_bias: end.bias.is_some(),
        has_residual: end.residual.is_some(),
        relu: end.relu,
        output_shape,
        #[cfg(not(target_family = "wasm"))]
        step: Step::next(),
        #[cfg(feature = "gpu")]
        output_type: if end.in_f32 {
            DType::F32
        } else {
            input.dtype()
        },
    };
    let bias = end.bias.map_or_else(&absent, Tensor::into_dispatch);
    let residual = end.residual.map_or_else(&absent, Tensor::into_dispatch);
    let output = <Dispatch as Convolve>::convolve(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias,
        residual,
        call,
    );
    Tensor::from_dispatch(output)
}

/// The tensor as a constant, beside tensors with autodiff of any kind. Burn's `detach` of a parameter would be a
/// parameter again.
fn without_gradient<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.device().is_autodiff() {
        tensor.inner()
    } else {
        tensor
    }
}

/// Scale and bias of a batch norm with its running statistics, `x * scale + bias`, of which nothing learns.
pub fn frozen_scale_and_bias(norm: &BatchNorm) -> (Tensor<1>, Tensor<1>) {
    #[cfg(feature = "gpu")]
    if let Some(folded) = fold_on_gpu(norm) {
        return folded;
    }
    let deviation = (norm.running_var.value() + norm.epsilon).sqrt();
    let scale = norm.gamma.val() / deviation;
    let bias = norm.beta.val() - norm.running_mean.value() * scale.clone();
    (scale, bias)
}

/// The same by one kernel; nothing if the norm is not on a GPU.
#[cfg(feature = "gpu")]
fn fold_on_gpu(norm: &BatchNorm) -> Option<(Tensor<1>, Tensor<1>)> {
    let tensors = [
        norm.gamma.val(),
        norm.beta.val(),
        norm.running_mean.value(),
        norm.running_var.value(),
    ];
    let [Some(gamma), Some(beta), Some(mean), Some(variance)] = tensors.map(retinanet_gpu::to_gpu)
    else {
        return None;
    };
    let folded = crate::gpu::fold_norm([gamma, beta, mean, variance], norm.epsilon as f32);
    let [scale, bias] = folded.map(retinanet_gpu::from_gpu);
    Some((scale, bias))
}

/// Burn's convolution, for the one backend without kernels of ours. Compiled only where it is asked
/// for, because it brings all GPU kernels for products of matrices along.
#[cfg(any(test, feature = "ndarray"))]
fn plain_conv2d(input: Tensor<4>, weight: Tensor<4>, options: ConvOptions) -> Tensor<4> {
    let options = burn::tensor::ops::ConvOptions::new(
        options.stride,
        options.padding,
        options.dilation,
        options.groups,
    );
    let output = module::conv2d(channels_first(input), weight, None, options);
    channels_last(output)
}

impl<const D: usize> FusedEpilogue<Tensor<D>> {
    fn apply(self, mut values: Tensor<D>) -> Tensor<D> {
        let mut shape = [1; D];
        shape[D - 1] = values.dims()[D - 1];
        if let Some(scale) = self.scale {
            values = values * scale.detach().reshape(shape);
        }
        if let Some(bias) = self.bias {
            values = values + bias.reshape(shape);
        }
        if let Some(residual) = self.residual {
            values = values + residual;
        }
        if self.relu {
            values = activation::relu(values);
        }
        values
    }
}

/// Batch norm that learns: normalises with the batch's statistics, and moves the running ones.
/// `end` gives residual and ReLU.
///
/// The running variance follows the batch's unbiased one, as PyTorch's; Burn's follows the biased
/// one.
///
/// # Shapes
///
/// - `input` and output: `[batch, height, width, channels]`
pub fn batch_norm(norm: &BatchNorm, input: Tensor<4>, end: FusedEpilogue<Tensor<4>>) -> Tensor<4> {
    let [batch, height, width, channels] = input.dims();
    record(|| LayerCall::BatchNorm {
        size: [height, width],
        channels,
        end: EpilogueParts::of(&end),
    });
    let (gamma, beta) = (norm.gamma.val(), norm.beta.val());
    let device = input.device();
    let values = batch * height * width;
    let (output, mean, variance, values) = if is_flex(&device) {
        let all = 0..values;
        let groups = Groups {
            segments: iter::once(all).collect(),
            count: channels,
            channels,
            of_all_processes: over_processes(values),
        };
        let values = groups.values(0);
        let moments = moments(&groups, &input);
        let statistic = |values: &[f32]| {
            Tensor::<1>::from_data(TensorData::new(values.to_vec(), [channels]), &device)
        };
        let (mean, variance) = (statistic(&moments.mean), statistic(&moments.variance));
        let output = normalize(input, [gamma, beta], groups, moments, norm.epsilon, end);
        (output, mean, variance, values)
    } else {
        let precision = input.dtype();
        let input = channels_first(input.cast(DType::F32));
        let result = batch_norm_train(input, gamma, beta, norm.epsilon);
        let output = end.apply(channels_last(result.output).cast(precision));
        let (mean, variance) = (result.mean.detach(), result.variance.detach());
        (output, mean, variance, values as f64)
    };
    let unbiased = variance * (values / (values - 1.0).max(1.0));
    for (running, statistic) in [(&norm.running_mean, mean), (&norm.running_var, unbiased)] {
        let moved = running.value_sync().to_device(&device) * (1.0 - norm.momentum);
        running.update((moved + statistic * norm.momentum).detach());
    }
    output
}

/// Group norm over each level of each image. `end` gives residual and ReLU.
pub fn group_norm(norm: &GroupNorm, input: Levels, end: FusedEpilogue<Tensor<3>>) -> Levels {
    record(|| LayerCall::GroupNorm {
        levels: input.sizes.clone(),
        channels: input.values.dims()[2],
        groups: norm.num_groups,
        end: EpilogueParts::of(&end),
    });
    let on_flex = is_flex(&input.values.device());
    let (Some(gamma), Some(beta), true) = (&norm.gamma, &norm.beta, on_flex) else {
        let normalized = input.map_each(|map| {
            let precision = map.dtype();
            let map = norm.forward(channels_first(map.cast(DType::F32)));
            channels_last(map).cast(precision)
        });
        return Levels {
            values: end.apply(normalized.values),
            ..normalized
        };
    };
    let [batch, _, channels] = input.values.dims();
    let groups = Groups {
        segments: Maps::levels(batch, &input.sizes).ranges().collect(),
        count: norm.num_groups,
        channels,
        of_all_processes: None,
    };
    let moments = moments(&groups, &input.values);
    let affine = [gamma.val(), beta.val()];
    Levels {
        values: normalize(input.values, affine, groups, moments, norm.epsilon, end),
        sizes: input.sizes,
    }
}

/// The statistics of a map of flex, where it lies.
fn moments<const D: usize>(groups: &Groups, input: &Tensor<D>) -> Moments {
    let input = without_gradient(input.clone());
    let input = input.try_into_primitive::<Flex>();
    let input = contiguous(input.expect("the device is flex"));
    groups.moments(values(&input))
}

fn normalize<const D: usize>(
    input: Tensor<D>,
    [gamma, beta]: [Tensor<1>; 2],
    groups: Groups,
    moments: Moments,
    epsilon: f64,
    end: FusedEpilogue<Tensor<D>>,
) -> Tensor<D> {
    let call = NormCall {
        groups: Arc::new(groups),
        moments: Arc::new(moments),
        epsilon: epsilon as f32,
        has_residual: end.residual.is_some(),
        relu: end.relu,
    };
    let absent = || Tensor::<1>::zeros([1], &input.device()).into_dispatch();
    let residual = end.residual.map_or_else(absent, Tensor::into_dispatch);
    let output = <Dispatch as ChannelsLast>::normalize(
        input.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        residual,
        call,
    );
    Tensor::from_dispatch(output)
}

/// Takes the largest value under every square window.
///
/// # Shapes
///
/// - `input`: `[batch, height, width, channels]`
///
/// # Panics
///
/// Panics if the kernel has more than 16 pixels along a side.
pub fn max_pool2d(input: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<4> {
    assert!(kernel <= 16, "a pooling window of {kernel} pixels");
    let [batch, height, width, channels] = input.dims();
    record(|| LayerCall::MaxPool {
        size: [height, width],
        channels,
        window: [kernel, stride, padding],
    });
    if !is_flex(&input.device()) {
        let options = MaxPoolOptions::new([kernel; 2])
            .with_stride([stride; 2])
            .with_padding([padding; 2]);
        return channels_last(module::max_pool2d(channels_first(input), options));
    }
    let options = ConvOptions::new(stride, padding);
    let maps = Maps::batch(batch, height, width);
    let [height, width] = options.output_size([height, width], [kernel; 2]);
    let call = PoolCall {
        pool: Pool {
            kernel,
            stride,
            padding,
        },
        maps: Arc::new([maps, Maps::batch(batch, height, width)]),
        output_shape: vec![batch, height, width, channels],
    };
    Tensor::from_dispatch(<Dispatch as ChannelsLast>::max_pool(
        input.into_dispatch(),
        call,
    ))
}

/// Adds the coarser map, enlarged to the finer one's size by repeating pixels.
///
/// # Shapes
///
/// - `finer`, `coarser`: `[batch, height, width, channels]`
pub fn add_upsampled(finer: Tensor<4>, coarser: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = finer.dims();
    let [_, coarser_height, coarser_width, _] = coarser.dims();
    record(|| LayerCall::Upsample {
        sizes: [[height, width], [coarser_height, coarser_width]],
        channels,
    });
    if !is_flex(&finer.device()) {
        let sizes = [[height, width], [coarser_height, coarser_width]];
        let [rows, columns] = nearest_lines(sizes, &finer.device());
        return finer + coarser.select(1, rows).select(2, columns);
    }
    let call = UpsampleCall {
        maps: Arc::new([
            Maps::batch(batch, height, width),
            Maps::batch(batch, coarser_height, coarser_width),
        ]),
    };
    let sum = <Dispatch as ChannelsLast>::add_upsampled(
        finer.into_dispatch(),
        coarser.into_dispatch(),
        call,
    );
    Tensor::from_dispatch(sum)
}

/// Which row and which column of the coarser map each of the finer map's repeats. For Burn's
/// `interpolate`, which would be the same, every other mode would be in the program too.
fn nearest_lines([finer, coarser]: [[usize; 2]; 2], device: &Device) -> [Tensor<1, Int>; 2] {
    [0, 1].map(|axis| {
        let lines = 0..finer[axis];
        let nearest = lines.map(|line| nearest(finer, coarser, [line; 2])[axis] as i32);
        Tensor::from_data(TensorData::new(nearest.collect(), [finer[axis]]), device)
    })
}

/// From Burn's `[batch, channels, height, width]` to `[batch, height, width, channels]`.
pub fn channels_last(maps: Tensor<4>) -> Tensor<4> {
    maps.permute([0, 2, 3, 1])
}

/// From `[batch, height, width, channels]` to Burn's `[batch, channels, height, width]`.
pub fn channels_first(maps: Tensor<4>) -> Tensor<4> {
    maps.permute([0, 3, 1, 2])
}

#[cfg(feature = "ndarray")]
fn is_ndarray(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::NdArray(_)
    )
}

fn is_flex(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Flex(_)
    )
}

fn floats(data: &TensorData) -> &[f32] {
    data.as_slice().expect("parameters and maps are f32")
}

#[cfg(test)]
mod tests;
