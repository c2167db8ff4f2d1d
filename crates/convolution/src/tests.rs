//! Every kernel against a plain reference in f64.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::kernels::epilogue::Epilogue;
use crate::kernels::lanes::Width;
use crate::kernels::{direct, few_pixels, grouped, winograd};
use crate::problem::Problem;
use crate::shape::{Arithmetic, ConvOptions, Maps};

/// A problem with its values.
#[derive(Debug)]
struct Case {
    problem: Problem,
    images: usize,
    input: Vec<f32>,
    weights: Vec<f32>,
    gradient: Vec<f32>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Case {
    /// A convolution over some levels of some images.
    fn new(
        (images, levels): (usize, &[[usize; 2]]),
        weight: [usize; 4],
        options: ConvOptions,
        seed: u64,
    ) -> Self {
        let maps = Maps::levels(images, levels);
        let problem = Problem::new(maps, weight[1] * options.groups, weight, options);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut values = |count: usize| -> Vec<f32> {
            (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
        };
        let (pixels_in, pixels_out) = (problem.maps_in.pixels(), problem.maps_out.pixels());
        let weights = problem.outputs * problem.inputs_per_group() * problem.taps();
        Self {
            input: values(pixels_in * problem.inputs),
            weights: values(weights),
            gradient: values(pixels_out * problem.outputs),
            scale: values(problem.outputs),
            bias: values(problem.outputs),
            residual: values(pixels_out * problem.outputs),
            problem,
            images,
        }
    }

    /// The same in bf16, with numbers that it has.
    fn in_bf16(mut self) -> Self {
        self.problem.options.arithmetic.bf16 = true;
        let factors = [&mut self.input, &mut self.weights, &mut self.gradient];
        for value in factors.into_iter().flatten() {
            *value = f32::from_bits(value.to_bits() & 0xffff_0000);
        }
        // A power of two rounds no weight that it scales.
        for scale in &mut self.scale {
            *scale = 0.5_f32.copysign(*scale);
        }
        self
    }

    /// Calls `visit(output, input, weight)` with the places of all factors of the convolution.
    fn visit(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let problem = &self.problem;
        let ConvOptions {
            stride,
            padding,
            dilation,
            ..
        } = problem.options;
        let (inputs, outputs) = (problem.inputs_per_group(), problem.outputs_per_group());
        let [height, width] = problem.kernel;
        let (mut first_in, mut first_out) = (0, 0);
        let sizes = problem.maps_in.sizes().iter().zip(problem.maps_out.sizes());
        for (&[height_in, width_in], &[height_out, width_out]) in sizes {
            for place in 0..height_out * width_out * height * width {
                let (pixel, tap) = (place / (height * width), place % (height * width));
                let (y, x) = (pixel / width_out, pixel % width_out);
                let in_y = (y * stride[0] + tap / width * dilation[0]).wrapping_sub(padding[0]);
                let in_x = (x * stride[1] + tap % width * dilation[1]).wrapping_sub(padding[1]);
                if in_y >= height_in || in_x >= width_in {
                    continue;
                }
                for output in 0..problem.outputs {
                    let first = output / outputs * inputs;
                    for input in 0..inputs {
                        visit(
                            (first_out + pixel) * problem.outputs + output,
                            (first_in + in_y * width_in + in_x) * problem.inputs + first + input,
                            (output * inputs + input) * height * width + tap,
                        );
                    }
                }
            }
            first_in += height_in * width_in;
            first_out += height_out * width_out;
        }
    }

    fn scale_of(&self, output: usize) -> f64 {
        f64::from(self.scale[output % self.problem.outputs])
    }

    fn forward(&self) -> Vec<f64> {
        let mut result = vec![0.0; self.gradient.len()];
        self.visit(|output, input, weight| {
            result[output] += f64::from(self.input[input]) * f64::from(self.weights[weight]);
        });
        let ends = result.iter_mut().enumerate();
        ends.for_each(|(place, value)| {
            let bias = self.bias[place % self.problem.outputs];
            *value =
                *value * self.scale_of(place) + f64::from(bias) + f64::from(self.residual[place]);
            *value = value.max(0.0);
        });
        result
    }

    fn input_gradient(&self) -> Vec<f64> {
        let mut result = vec![0.0; self.input.len()];
        self.visit(|output, input, weight| {
            result[input] += f64::from(self.gradient[output])
                * f64::from(self.weights[weight])
                * self.scale_of(output);
        });
        result
    }

    fn weight_gradient(&self) -> Vec<f64> {
        let mut result = vec![0.0; self.weights.len()];
        self.visit(|output, input, weight| {
            result[weight] += f64::from(self.gradient[output])
                * f64::from(self.input[input])
                * self.scale_of(output);
        });
        result
    }

    /// The case whose terms all add up, which tells how large the terms are.
    fn without_signs(&self) -> Self {
        let without = |values: &[f32]| values.iter().map(|value| value.abs()).collect();
        Self {
            input: without(&self.input),
            weights: without(&self.weights),
            gradient: without(&self.gradient),
            scale: without(&self.scale),
            bias: without(&self.bias),
            residual: without(&self.residual),
            problem: self.problem.clone(),
            images: self.images,
        }
    }

    fn end(&self) -> Epilogue<'_> {
        Epilogue {
            scale: Some(&self.scale),
            bias: Some(&self.bias),
            residual: Some(&self.residual),
            relu: true,
        }
    }
}

/// Compares with the largest value as the measure; where terms cancel in all of them, with a
/// fiftieth of the largest sum of terms.
fn assert_close(what: &str, values: &[f32], [expected, terms]: [Vec<f64>; 2], precision: f64) {
    assert_eq!(values.len(), expected.len(), "{what}");
    let largest = |values: &[f64]| values.iter().copied().map(f64::abs).fold(1e-3, f64::max);
    let largest = largest(&expected).max(0.02 * largest(&terms));
    for (place, (value, expected)) in values.iter().zip(expected).enumerate() {
        let error = (f64::from(*value) - expected).abs() / largest;
        assert!(
            error <= precision,
            "{what}[{place}] is {value}, not {expected} ({error:e})"
        );
    }
}

prop_compose! {
    fn any_case()(
        maps in prop::collection::vec([1..9_usize, 1..9_usize], 1..4),
        kernel in [1..4_usize, 1..4_usize],
        stride in [1..4_usize, 1..3_usize],
        padding in [0..3_usize, 0..3_usize],
        dilation in [1..3_usize, 1..3_usize],
        groups in 1..4_usize,
        inputs in 1..6_usize,
        outputs in 1..6_usize,
        images in 1..3_usize,
        seed: u64,
    ) -> Case {
        let options = ConvOptions { stride, padding, dilation, groups, arithmetic: Arithmetic::STANDARD };
        let reach = [0, 1].map(|axis| {
            (dilation[axis] * (kernel[axis] - 1) + 1).saturating_sub(2 * padding[axis])
        });
        let sizes = maps.iter().map(|size| [size[0].max(reach[0]), size[1].max(reach[1])]);
        let weights = [outputs * groups, inputs, kernel[0], kernel[1]];
        Case::new((images, &sizes.collect::<Vec<_>>()), weights, options, seed)
    }
}

prop_compose! {
    fn case_in_bf16()(
        maps in prop::collection::vec([1..9_usize, 1..9_usize], 1..3),
        kernel in 1..4_usize,
        stride in 1..3_usize,
        groups in 1..3_usize,
        inputs in 1..70_usize,
        outputs in 1..140_usize,
        seed: u64,
    ) -> Case {
        let options = ConvOptions { groups, ..ConvOptions::new(stride, kernel / 2) };
        let sizes = maps.iter().map(|size| size.map(|side| side.max(kernel)));
        let weights = [outputs * groups, inputs, kernel, kernel];
        Case::new((1, &sizes.collect::<Vec<_>>()), weights, options, seed).in_bf16()
    }
}

prop_compose! {
    fn case_for_winograd()(
        maps in prop::collection::vec([1..14_usize, 1..14_usize], 1..4),
        inputs in 1..40_usize,
        outputs in 1..40_usize,
        seed: u64,
    ) -> Case {
        Case::new((1, &maps), [outputs, inputs, 3, 3], ConvOptions::new(1, 1), seed)
    }
}

prop_compose! {
    fn case_in_groups()(
        maps in prop::collection::vec([1..12_usize, 1..20_usize], 1..3),
        log_size in 0..7_u32,
        blocks in 1..3_usize,
        stride in 1..3_usize,
        images in 1..3_usize,
        seed: u64,
    ) -> Case {
        let size = 2_usize.pow(log_size);
        let channels = blocks * size.max(16);
        let options = ConvOptions { groups: channels / size, ..ConvOptions::new(stride, 1) };
        Case::new((images, &maps), [channels, size, 3, 3], options, seed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn products_in_bf16_agree_with_f64_where_nothing_is_rounded(case in case_in_bf16()) {
        case.check(Path::Direct, 2e-6);
        if case.problem.options.groups == 1 {
            case.check(Path::FewPixels, 2e-6);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn groups_agree_with_f64(case in case_in_groups()) {
        for width in Width::all() {
            case.check(Path::Grouped(width), 2e-6);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn plain_products_agree_with_f64(case in any_case()) {
        case.check(Path::Direct, 2e-6);
        if case.problem.options.groups == 1 {
            case.check(Path::FewPixels, 2e-6);
        }
    }

    #[test]
    fn winograd_agrees_with_f64(case in case_for_winograd()) {
        case.check(Path::Winograd, 2e-5);
    }
}

/// Sizes at which the work is cut into several blocks.
#[test]
fn blocks_join_without_a_seam() {
    for (kernel, options, size, channels) in [
        (1, ConvOptions::new(1, 0), [40, 37], [70, 20]),
        (3, ConvOptions::new(2, 1), [61, 40], [33, 20]),
        (7, ConvOptions::new(2, 3), [70, 64], [3, 10]),
        (3, ConvOptions::new(1, 1), [40, 37], [130, 17]),
    ] {
        let weights = [channels[1], channels[0], kernel, kernel];
        let case = Case::new((2, &[size, [5, 3]]), weights, options, 1);
        case.check(Path::Direct, 2e-6);
        case.check(Path::FewPixels, 2e-6);
        if options == ConvOptions::new(1, 1) {
            case.check(Path::Winograd, 2e-5);
        }
        let [channels_in, channels_out] = channels;
        let weights = [channels_out + 60, channels_in, kernel, kernel];
        let case = Case::new((2, &[size, [5, 3]]), weights, options, 1).in_bf16();
        case.check(Path::Direct, 2e-6);
        case.check(Path::FewPixels, 2e-6);
    }
}

/// The same bits with one thread and with several, for every kernel and for sizes that are shared
/// out in blocks as well as those that all threads work on together.
#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let pool = |threads| {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
        builder.build().unwrap()
    };
    let (one, three) = (pool(1), pool(3));
    for (kernel, options, size, channels) in [
        (1, ConvOptions::new(1, 0), [40, 37], [70, 20]),
        (1, ConvOptions::new(2, 0), [8, 8], [512, 130]),
        (3, ConvOptions::new(1, 1), [4, 5], [300, 200]),
        (3, ConvOptions::new(1, 1), [40, 37], [130, 17]),
        (3, ConvOptions::new(2, 1), [61, 40], [33, 20]),
        (7, ConvOptions::new(2, 3), [70, 64], [3, 10]),
    ] {
        let weights = [channels[1], channels[0], kernel, kernel];
        let case = || Case::new((2, &[size, [5, 3]]), weights, options, 7);
        let is_same = |case: &Case, path| {
            let [alone, shared] = [&one, &three].map(|pool| pool.install(|| case.run(path)));
            assert!(alone == shared, "{path:?}, kernel {kernel}, {size:?}");
        };
        for path in Path::ALL {
            let fits = options == ConvOptions::new(1, 1) && kernel == 3;
            if fits || !matches!(path, Path::Winograd) {
                is_same(&case(), path);
            }
        }
        let wide = [weights[0] + 60, weights[1], kernel, kernel];
        let rounded = Case::new((2, &[size, [5, 3]]), wide, options, 7).in_bf16();
        for path in [Path::Direct, Path::FewPixels] {
            is_same(&rounded, path);
        }
    }
}

/// Channels in groups have the same bits with any number of threads, and with vectors of any width.
#[test]
fn groups_do_not_depend_on_threads_and_vectors() {
    let pool = |threads| {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
        builder.build().unwrap()
    };
    for (stride, size, channels) in [(1, 4, 32), (2, 32, 64)] {
        let options = ConvOptions {
            groups: channels / size,
            ..ConvOptions::new(stride, 1)
        };
        let case = Case::new((2, &[[40, 37], [5, 3]]), [channels, size, 3, 3], options, 7);
        let widest = Path::Grouped(Width::widest());
        let alone = pool(1).install(|| case.run(widest));
        for width in Width::all() {
            let shared = pool(3).install(|| case.run(Path::Grouped(width)));
            assert!(alone == shared, "{width:?}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Path {
    Direct,
    FewPixels,
    Winograd,
    Grouped(Width),
}

impl Path {
    const ALL: [Self; 3] = [Self::Direct, Self::FewPixels, Self::Winograd];
}

impl Case {
    /// Output and both gradients by one of the kernels.
    fn run(&self, path: Path) -> [Vec<f32>; 3] {
        let (problem, scale) = (&self.problem, Some(&*self.scale));
        let (input, gradient, weights) = (&self.input, &self.gradient, &self.weights);
        match path {
            Path::Direct => [
                direct::forward(problem, input, weights, self.end()),
                direct::input_gradient(problem, gradient, weights, scale),
                direct::weight_gradient(problem, input, gradient, scale),
            ],
            Path::FewPixels => [
                few_pixels::forward(problem, input, weights, self.end()),
                few_pixels::input_gradient(problem, gradient, weights, scale),
                few_pixels::weight_gradient(problem, input, gradient, scale),
            ],
            Path::Winograd => [
                winograd::forward(problem, input, weights, self.end()),
                winograd::input_gradient(problem, gradient, weights, scale),
                winograd::weight_gradient(problem, input, gradient, scale),
            ],
            Path::Grouped(width) => [
                grouped::forward(problem, input, weights, self.end(), width),
                grouped::input_gradient(problem, gradient, weights, scale, width),
                grouped::weight_gradient(problem, input, gradient, scale, width),
            ],
        }
    }

    fn check(&self, path: Path, precision: f64) {
        self.check_results(self.run(path), precision);
    }

    fn check_results(&self, [forward, input, weights]: [Vec<f32>; 3], precision: f64) {
        let terms = self.without_signs();
        assert_close(
            "output",
            &forward,
            [self.forward(), terms.forward()],
            precision,
        );
        let expected = [self.input_gradient(), terms.input_gradient()];
        assert_close("input gradient", &input, expected, precision);
        let expected = [self.weight_gradient(), terms.weight_gradient()];
        assert_close("weight gradient", &weights, expected, precision);
    }
}

/// The kernels for GPUs, through the operation that layers call, with its gradients.
#[cfg(feature = "wgpu")]
mod on_a_gpu {
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::layers::{FusedEpilogue, convolve};

    /// Opens the GPU, or tells that there is none.
    #[expect(clippy::print_stderr, reason = "a skipped test tells why")]
    fn gpu() -> Option<Device> {
        (Device::wgpu_options().init())
            .inspect_err(|error| eprintln!("skipped: no wgpu adapter ({error})"))
            .ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn convolution_agrees_with_f64(case in any_case()) {
            if let Some(gpu) = gpu() {
                case.check_results(case.run_on(&gpu), 2e-6);
            }
        }
    }

    /// Sizes at which the work is cut into several tiles, in all directions; and channels by which
    /// one level's gradient could be taken for a whole tensor of its own.
    #[test]
    fn tiles_join_without_a_seam() {
        let Some(gpu) = gpu() else { return };
        for (kernel, options, size, channels) in [
            (1, ConvOptions::new(1, 0), [40, 37], [70, 20]),
            (3, ConvOptions::new(2, 1), [61, 40], [33, 20]),
            (7, ConvOptions::new(2, 3), [70, 64], [3, 10]),
            (3, ConvOptions::new(1, 1), [40, 37], [130, 17]),
            (3, ConvOptions::new(1, 1), [8, 8], [64, 64]),
            (3, ConvOptions::new(1, 1), [4, 4], [16, 150]),
        ] {
            let weights = [channels[1], channels[0], kernel, kernel];
            let case = Case::new((2, &[size, [5, 3]]), weights, options, 1);
            case.check_results(case.run_on(&gpu), 2e-6);
        }
    }

    #[test]
    fn biases_and_residuals_have_their_gradients() {
        let Some(gpu) = gpu() else { return };
        let case = Case::new(
            (2, &[[40, 37], [5, 3]]),
            [5, 4, 3, 3],
            ConvOptions::new(1, 1),
            3,
        );
        let problem = &case.problem;
        let pixels = problem.maps_out.pixels();
        let Tensors {
            input,
            weight,
            bias,
            residual,
            ..
        } = case.tensors(&gpu);
        let (bias, residual) = (bias.require_grad(), residual.require_grad());
        let end = FusedEpilogue {
            bias: Some(bias.clone()),
            residual: Some(residual.clone()),
            relu: true,
            ..FusedEpilogue::NOTHING
        };
        let shape = residual.dims().to_vec();
        let output = convolve(input, weight, problem.clone(), shape, end);
        let open = output.to_data();
        let slope = tensor(&case.gradient, residual.dims(), &gpu);
        let gradients = (output * slope).sum().backward();
        let expected: Vec<f32> = (open.iter::<f32>().zip(&case.gradient))
            .map(|(output, slope)| if output > 0.0 { *slope } else { 0.0 })
            .collect();
        assert!(expected.contains(&0.0) && expected.iter().any(|slope| *slope != 0.0));
        assert_eq!(values(residual.grad(&gradients).unwrap()), expected);
        let of_bias = values(bias.grad(&gradients).unwrap());
        for (channel, sum) in of_bias.into_iter().enumerate() {
            let column = expected.iter().skip(channel).step_by(problem.outputs);
            let expected: f64 = column.map(|slope| f64::from(*slope)).sum();
            let error = (f64::from(sum) - expected).abs();
            assert!(error < 1e-6 * pixels as f64, "{sum} and {expected}");
        }
    }

    struct Tensors {
        input: Tensor<3>,
        weight: Tensor<4>,
        scale: Tensor<1>,
        bias: Tensor<1>,
        residual: Tensor<3>,
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
        let data = TensorData::new(values.to_vec(), shape);
        Tensor::from_data(data, &device.clone().autodiff())
    }

    impl Case {
        fn tensors(&self, device: &Device) -> Tensors {
            let problem = &self.problem;
            let maps = |maps: &Maps, channels| [self.images, maps.pixels() / self.images, channels];
            let [inputs, outputs] = [
                maps(&problem.maps_in, problem.inputs),
                maps(&problem.maps_out, problem.outputs),
            ];
            let [height, width] = problem.kernel;
            let weight = [problem.outputs, problem.inputs_per_group(), height, width];
            Tensors {
                input: tensor(&self.input, inputs, device).require_grad(),
                weight: tensor(&self.weights, weight, device).require_grad(),
                scale: tensor(&self.scale, [problem.outputs], device),
                bias: tensor(&self.bias, [problem.outputs], device),
                residual: tensor(&self.residual, outputs, device),
            }
        }

        /// Output and both gradients, as [`run`](Self::run).
        fn run_on(&self, device: &Device) -> [Vec<f32>; 3] {
            let Tensors {
                input,
                weight,
                scale,
                bias,
                residual,
            } = self.tensors(device);
            let shape = residual.dims();
            let plain = FusedEpilogue {
                scale: Some(scale),
                ..FusedEpilogue::NOTHING
            };
            let full = FusedEpilogue {
                bias: Some(bias),
                residual: Some(residual),
                relu: true,
                ..plain.clone()
            };
            let run = |end| {
                let problem = self.problem.clone();
                convolve(input.clone(), weight.clone(), problem, shape.to_vec(), end)
            };
            let slope = tensor(&self.gradient, shape, device);
            let gradients = (run(plain) * slope).sum().backward();
            [
                values(run(full)),
                values(input.grad(&gradients).unwrap()),
                values(weight.grad(&gradients).unwrap()),
            ]
        }
    }
}
