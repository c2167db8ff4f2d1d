use burn::nn::{BatchNormConfig, GroupNormConfig};
use std::cell::{Cell, RefCell};

use burn::tensor::Tolerance;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::synchronised::synchronise_batch_norms;

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
            in_f32: false,
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

/// The other process has as many images, which are black and whose gradient is 0.
#[test]
fn a_synchronised_batch_norm_is_that_of_the_whole_batch() {
    let own = random([2, 5, 7, 3]) + 1.5;
    let own = own.detach().require_grad();
    let black = own.clone().detach().zeros_like();
    let epilogue = || FusedEpilogue {
        relu: true,
        ..FusedEpilogue::NOTHING
    };
    let whole = BatchNormConfig::new(3).init(&device());
    let batch = Tensor::cat(vec![own.clone(), black], 0);
    let of_whole = batch_norm(&whole, batch, epilogue()).slice(0..2);

    let values = 2.0 * 5.0 * 7.0;
    let other = RefCell::new((0, Vec::new()));
    let sum = move |sums: &mut [f64]| {
        let (call, means) = &mut *other.borrow_mut();
        match *call {
            0 => sums[0] += values,
            1 => *means = sums.iter().map(|sum| sum / (2.0 * values)).collect(),
            2 => {
                for (sum, mean) in sums.iter_mut().zip(means) {
                    *sum += values * *mean * *mean;
                }
            }
            _ => {}
        }
        *call += 1;
    };
    let mut part = BatchNormConfig::new(3).init(&device());
    (part.gamma, part.beta) = (whole.gamma.clone(), whole.beta.clone());
    let affine = [whole.gamma.val(), whole.beta.val()];
    synchronise_batch_norms(sum, || {
        let of_part = batch_norm(&part, own.clone(), epilogue());
        assert_same(of_part, of_whole, &[own], &affine);
    });
    for (whole, part) in [
        (&whole.running_mean, &part.running_mean),
        (&whole.running_var, &part.running_var),
    ] {
        let [whole, part] = [whole, part].map(|running| running.value_sync().into_data());
        part.assert_approx_eq::<f32>(&whole, Tolerance::relative(1e-5));
    }
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
    for ([height, width], [coarser_height, coarser_width]) in [([4, 4], [2, 2]), ([7, 5], [4, 3])] {
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
