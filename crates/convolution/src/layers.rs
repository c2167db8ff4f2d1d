//! The layers: kernels of ours where there are some for the device, else Burn's own operations.

use std::iter;
use std::sync::Arc;

use burn::backend::{Dispatch, DispatchDevice};
use burn::nn::{BatchNorm, GroupNorm};
use burn::tensor::module::batch_norm_train;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Int, Tensor, TensorData, activation, module};

use crate::convolve::{ConvCall, Convolve};
use crate::extension::{ChannelsLast, NormCall, PoolCall, UpsampleCall};
use crate::kernels::norm::{Groups, Moments};
use crate::kernels::resample::{Pool, nearest};
use crate::levels::Levels;
use crate::problem::Problem;
use crate::record::{EpilogueParts, LayerCall, record};
use crate::shape::{ConvOptions, Maps};

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
}

impl<T> FusedEpilogue<T> {
    /// The layer's values as they are.
    pub const NOTHING: Self = Self {
        scale: None,
        bias: None,
        residual: None,
        relu: false,
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
/// Panics where the shapes do not fit together.
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
/// Panics where the shapes do not fit together.
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
/// Panics where the shapes do not fit together.
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
    mut weight: Tensor<4>,
    problem: Problem,
    output_shape: Vec<usize>,
    mut end: FusedEpilogue<Tensor<D>>,
) -> Tensor<D> {
    if !is_flex(&input.device())
        && let Some(scale) = end.scale.take()
    {
        // The CPU's kernels scale the output while it is in the cache; to read the scale there the
        // host would have to wait for a GPU.
        weight = weight * scale.detach().reshape([problem.outputs, 1, 1, 1]);
    }
    let absent = || Tensor::<1>::zeros([1], &input.device()).into_dispatch();
    let call = ConvCall {
        problem: Arc::new(problem),
        scale: end
            .scale
            .map(|scale| Arc::new(floats(&scale.to_data()).to_vec())),
        has_bias: end.bias.is_some(),
        has_residual: end.residual.is_some(),
        relu: end.relu,
        output_shape,
    };
    let bias = end.bias.map_or_else(absent, Tensor::into_dispatch);
    let residual = end.residual.map_or_else(absent, Tensor::into_dispatch);
    let output = <Dispatch as Convolve>::convolve(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias,
        residual,
        call,
    );
    Tensor::from_dispatch(output)
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
    let (output, mean, variance) = if is_flex(&device) {
        let all = 0..batch * height * width;
        let groups = Groups {
            segments: iter::once(all).collect(),
            count: channels,
            channels,
        };
        let moments = groups.moments(floats(&input.to_data()));
        let statistic = |values: &[f32]| {
            Tensor::<1>::from_data(TensorData::new(values.to_vec(), [channels]), &device)
        };
        let (mean, variance) = (statistic(&moments.mean), statistic(&moments.variance));
        let output = normalize(input, [gamma, beta], groups, moments, norm.epsilon, end);
        (output, mean, variance)
    } else {
        let result = batch_norm_train(channels_first(input), gamma, beta, norm.epsilon);
        let output = end.apply(channels_last(result.output));
        (output, result.mean.detach(), result.variance.detach())
    };
    let values = (batch * height * width) as f64;
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
        let normalized = input.map_each(|map| channels_last(norm.forward(channels_first(map))));
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
    };
    let moments = groups.moments(floats(&input.values.to_data()));
    let affine = [gamma.val(), beta.val()];
    Levels {
        values: normalize(input.values, affine, groups, moments, norm.epsilon, end),
        sizes: input.sizes,
    }
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
/// Panics where the kernel has more than 16 pixels along a side.
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
mod tests {
    use burn::nn::{BatchNormConfig, GroupNormConfig};
    use std::cell::Cell;

    use burn::tensor::Tolerance;
    use burn::tensor::module::interpolate;
    use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn device() -> Device {
        Device::flex().autodiff()
    }

    /// Other values each time, and in each test the same: Burn's generator is shared by all tests,
    /// and with chance values one lies on ReLU's edge now and then.
    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        thread_local! {
            static SEED: Cell<u64> = const { Cell::new(0) };
        }
        let seed = SEED.get();
        SEED.set(seed + 1);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| rng.random_range(-2.0..2.0)).collect();
        Tensor::from_data(TensorData::new(values, shape), &device()).require_grad()
    }

    /// Checks that two ways to compute an output from inputs agree, and their gradients, too.
    fn assert_same<const D: usize>(
        ours: Tensor<D>,
        burns: Tensor<D>,
        inputs: &[Tensor<4>],
        vectors: &[Tensor<1>],
    ) {
        assert_near(&ours.to_data(), &burns.to_data());
        // Weights tell the pixels apart, in the gradient too.
        let weights = random(ours.dims()).detach();
        let gradients = (ours * weights.clone()).sum().backward();
        let expected = (burns * weights).sum().backward();
        for input in inputs {
            let [ours, burns] = [&gradients, &expected].map(|all| input.grad(all).unwrap());
            assert_near(&ours.into_data(), &burns.into_data());
        }
        for vector in vectors {
            let [ours, burns] = [&gradients, &expected].map(|all| vector.grad(all).unwrap());
            assert_near(&ours.into_data(), &burns.into_data());
        }
    }

    /// Within what Winograd's algorithm is exact to, a share of the largest value.
    fn assert_near(ours: &TensorData, burns: &TensorData) {
        let largest = burns.iter::<f32>().map(f32::abs).fold(0.0, f32::max);
        ours.assert_approx_eq::<f32>(burns, Tolerance::absolute(2e-5 * largest));
    }

    #[test]
    fn convolutions_are_burns_with_all_ends() {
        for (kernel, options, [inputs, outputs]) in [
            (1, ConvOptions::new(1, 0), [5, 7]),
            (3, ConvOptions::new(1, 1), [18, 17]),
            (3, ConvOptions::new(2, 1), [5, 4]),
            (7, ConvOptions::new(2, 3), [3, 8]),
        ] {
            let (height, width) = (21, 18);
            let input = random([2, height, width, inputs]);
            let weight = random([outputs, inputs, kernel, kernel]);
            let bias = random([outputs]);
            let [out_height, out_width] = options.output_size([height, width], [kernel; 2]);
            let residual = random([2, out_height, out_width, outputs]);
            let scale = random([outputs]).detach();
            let end = FusedEpilogue {
                scale: Some(scale),
                bias: Some(bias.clone()),
                residual: Some(residual.clone()),
                relu: true,
            };
            let ours = conv2d_with_epilogue(input.clone(), weight.clone(), options, end.clone());
            let burns = end.apply(plain_conv2d(input.clone(), weight.clone(), options));
            assert_same(ours, burns, &[input, weight, residual], &[bias]);
        }
    }

    #[test]
    fn levels_are_convolved_each_alone() {
        let maps = [
            random([2, 9, 8, 17]),
            random([2, 4, 4, 17]),
            random([2, 1, 1, 17]),
        ];
        let weight = random([16, 17, 3, 3]);
        let options = ConvOptions::new(1, 1);
        let ours = conv2d_levels(
            Levels::pack(maps.clone()),
            weight.clone(),
            options,
            FusedEpilogue::NOTHING,
        );
        assert_eq!(ours.sizes, [[9, 8], [4, 4], [1, 1]]);
        let burns = maps
            .clone()
            .map(|map| plain_conv2d(map, weight.clone(), options));
        let burns = Levels::pack(burns).values;
        let [fine, middle, coarse] = maps;
        assert_same(ours.values, burns, &[fine, middle, coarse, weight], &[]);
    }

    #[test]
    fn an_input_that_is_not_tracked_gives_the_weights_their_gradient() {
        let input = random([1, 6, 6, 3]).detach();
        let weight = random([4, 3, 3, 3]);
        let options = ConvOptions::new(1, 1);
        let ours = conv2d(input.clone(), weight.clone(), None, options);
        let burns = plain_conv2d(input, weight.clone(), options);
        assert_same(ours, burns, &[weight], &[]);
    }

    #[test]
    fn batch_norm_is_burns_but_for_the_unbiased_running_variance() {
        let input = random([2, 5, 7, 6]) * 3.0 + 2.0;
        let input = input.detach().require_grad();
        let residual = random([2, 5, 7, 6]);
        let [ours, burns] = [(); 2].map(|()| BatchNormConfig::new(6).init(&device()));
        let end = FusedEpilogue {
            residual: Some(residual.clone()),
            relu: true,
            ..FusedEpilogue::NOTHING
        };
        let output = batch_norm(&ours, input.clone(), end.clone());
        let expected = channels_last(burns.forward(channels_first(input.clone())));
        let expected = end.clone().apply(expected);
        let (gamma, beta) = (ours.gamma.val(), ours.beta.val());
        // Of 70 values a channel; the running variance starts at 1 and moves by a tenth.
        let unbiased = (burns.running_var.value_sync() - 0.9) * (70.0 / 69.0) + 0.9;
        for (ours, expected) in [
            (&ours.running_mean, burns.running_mean.value_sync()),
            (&ours.running_var, unbiased),
        ] {
            let ours = ours.value_sync().into_data();
            ours.assert_approx_eq::<f32>(&expected.into_data(), Tolerance::default());
        }
        // Each norm has parameters of its own, so theirs are compared apart.
        let gradients = output.square().sum().backward();
        let expected_gradients = expected.square().sum().backward();
        for (ours, burns) in [(gamma, burns.gamma.val()), (beta, burns.beta.val())] {
            let (ours, burns) = (ours.grad(&gradients), burns.grad(&expected_gradients));
            let (ours, burns) = (ours.unwrap().into_data(), burns.unwrap().into_data());
            ours.assert_approx_eq::<f32>(&burns, Tolerance::<f32>::relative(1e-3));
        }
        let again = batch_norm(&ours, input.clone(), end.clone());
        let burns = end.apply(channels_last(burns.forward(channels_first(input.clone()))));
        assert_same(again, burns, &[input, residual], &[]);
    }

    #[test]
    fn group_norm_is_burns_on_each_level() {
        let maps = [random([2, 5, 7, 6]) * 2.0 + 1.0, random([2, 2, 3, 6])];
        let maps = maps.map(|map| map.detach().require_grad());
        let mut norm = GroupNormConfig::new(3, 6).init(&device());
        let (gamma, beta) = (random([6]), random([6]));
        norm.gamma = Some(burn::module::Param::from_tensor(gamma));
        norm.beta = Some(burn::module::Param::from_tensor(beta));
        let [gamma, beta] = [&norm.gamma, &norm.beta].map(|p| p.as_ref().unwrap().val());
        let end = FusedEpilogue {
            relu: true,
            ..FusedEpilogue::NOTHING
        };
        let ours = group_norm(&norm, Levels::pack(maps.clone()), end.clone());
        let burns = maps
            .clone()
            .map(|map| channels_last(norm.forward(channels_first(map))));
        let burns = end.apply(Levels::pack(burns).values);
        assert_same(ours.values, burns, &maps, &[gamma, beta]);
    }

    #[test]
    fn pooling_is_burns() {
        let input = random([2, 11, 8, 5]);
        let ours = max_pool2d(input.clone(), 3, 2, 1);
        let options = MaxPoolOptions::new([3, 3])
            .with_stride([2, 2])
            .with_padding([1, 1]);
        let burns = channels_last(module::max_pool2d(channels_first(input.clone()), options));
        assert_same(ours, burns, &[input], &[]);
    }

    #[test]
    fn upsampling_repeats_pixels_also_for_odd_sizes() {
        for ([height, width], [coarser_height, coarser_width]) in
            [([4, 4], [2, 2]), ([7, 5], [4, 3])]
        {
            let finer = random([2, height, width, 3]);
            let coarser = random([2, coarser_height, coarser_width, 3]);
            let ours = add_upsampled(finer.clone(), coarser.clone());
            let options =
                InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([height, width]);
            let enlarged = interpolate(channels_first(coarser.clone()), options);
            let burns = finer.clone() + channels_last(enlarged);
            assert_same(ours, burns, &[finer, coarser], &[]);
        }
    }
}
