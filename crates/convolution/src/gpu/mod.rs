//! Convolution on GPUs, by kernels of our own: each computes a tile of a matrix product whose one
//! factor, the windows, is gathered while it goes and never stored (implicit GEMM). Nothing is
//! tuned by timing, so that a device gives the same numbers every time.

mod kernels;

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::reshape;
use cubecl::prelude::{CubeCount, CubeDim};
use retinanet_gpu::{CubeTensor, MOST_CUBES, element, empty, empty_of, owned, unit_for_each};

use self::kernels::{
    MapArgumentsLaunch, Order, ROWS, WeightSizesLaunch, WindowArgumentsLaunch, units,
};
use crate::problem::Problem;
use crate::shape::{Maps, split};

/// Cubes that keep a large GPU busy.
const BUSY_CUBES: usize = 512;

/// Pixels below which another part of a weight gradient costs more than it gains.
const FEWEST_PIXELS: usize = 256;

/// Rows that one unit sums up at once.
const SUMMED_ROWS: usize = 128;

static BREAKS_WEIGHT_GRADIENTS: AtomicBool = AtomicBool::new(false);

/// Lets the weights' gradients leave a pixel out from now on, in the whole process: so that tests see
/// whether a wrong kernel is found.
#[doc(hidden)]
pub fn break_weight_gradients() {
    BREAKS_WEIGHT_GRADIENTS.store(true, Ordering::Relaxed);
}

/// Convolves: `relu(input ∗ weight + bias + residual)`.
pub(crate) fn forward(
    problem: &Problem,
    input: CubeTensor,
    weight: CubeTensor,
    scale: Option<&CubeTensor>,
    end: ForwardEnd,
    (output_shape, output_type): (&[usize], DType),
) -> CubeTensor {
    let input = into_contiguous(input);
    let orders = [Order::Own, Order::Forward];
    let weight = arranged(problem, weight, scale, orders, input.dtype);
    let output = empty_of(&input, output_shape, output_type);
    let end = ForwardEnd {
        bias: end.bias.map(into_contiguous),
        residual: end.residual.map(into_contiguous),
        relu: end.relu,
    };
    for levels in levels(problem, batch(output_shape)) {
        convolve(
            problem,
            Direction::Forward,
            levels,
            &input,
            &weight,
            &end,
            &output,
        );
    }
    output
}

/// The gradient of the input.
pub(crate) fn input_gradient(
    problem: &Problem,
    gradient: CubeTensor,
    weight: CubeTensor,
    scale: Option<&CubeTensor>,
    (input_shape, input_type): (&[usize], DType),
) -> CubeTensor {
    let gradient = into_contiguous(gradient);
    let orders = [Order::Own, Order::Backward];
    let weight = arranged(problem, weight, scale, orders, gradient.dtype);
    let input = empty_of(&gradient, input_shape, input_type);
    for [inputs, outputs] in levels(problem, batch(input_shape)) {
        let maps = [outputs, inputs];
        convolve(
            problem,
            Direction::Backward,
            maps,
            &gradient,
            &weight,
            &ForwardEnd::default(),
            &input,
        );
    }
    input
}

/// The gradient of the weights.
pub(crate) fn weight_gradient(
    problem: &Problem,
    input: CubeTensor,
    gradient: CubeTensor,
    scale: Option<&CubeTensor>,
) -> CubeTensor {
    let (input, gradient) = (into_contiguous(input), into_contiguous(gradient));
    let images = batch(gradient.meta.shape());
    let [groups, inputs, outputs] = [
        problem.options.groups,
        problem.inputs_per_group(),
        problem.outputs_per_group(),
    ];
    let terms = problem.taps() * inputs;
    let columns = tile_columns(outputs);
    let cubes = [terms.div_ceil(ROWS), outputs.div_ceil(columns)];
    let levels: Vec<_> = (levels(problem, images).into_iter())
        .map(|maps| {
            let left_out = usize::from(BREAKS_WEIGHT_GRADIENTS.load(Ordering::Relaxed));
            let pixels = maps[1].pixels * images - left_out;
            let busy = BUSY_CUBES.div_ceil(cubes[0] * cubes[1] * groups);
            let parts = busy.min(pixels.div_ceil(FEWEST_PIXELS)).max(1);
            let pixels_of_part = pixels.div_ceil(parts);
            (
                maps,
                pixels,
                pixels_of_part,
                pixels.div_ceil(pixels_of_part),
            )
        })
        .collect();
    let all_parts = levels.iter().map(|(.., parts)| parts).sum();
    let values = groups * terms * outputs;
    let sums = empty(&input, &[all_parts, values]);
    let mut first_part = 0;
    for ([read, differentiated], pixels, pixels_of_part, parts) in levels {
        kernels::weight_gradient::launch(
            &input.client,
            CubeCount::Static(cubes[0] as u32, cubes[1] as u32, (parts * groups) as u32),
            CubeDim::new_1d(units(columns) as u32),
            input.clone().into_buffer_arg(),
            gradient.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            read.arguments(),
            differentiated.arguments(),
            window(problem),
            groups,
            first_part,
            pixels,
            pixels_of_part,
            terms,
            columns,
            [element(input.dtype), element(gradient.dtype)],
        );
        first_part += parts;
    }
    let [height, width] = problem.kernel;
    let orders = [Order::Forward, Order::Own];
    let sum = arranged(problem, sum_rows(sums), scale, orders, DType::F32);
    reshape(sum, Shape::new([groups * outputs, inputs, height, width]))
}

/// The gradient of the bias.
pub(crate) fn bias_gradient(problem: &Problem, gradient: CubeTensor) -> CubeTensor {
    let gradient = into_contiguous(gradient);
    let rows = gradient.meta.shape().num_elements() / problem.outputs;
    sum_rows(reshape(gradient, Shape::new([rows, problem.outputs])))
}

/// The gradient before the ReLU that gave `output`.
pub(crate) fn before_relu(gradient: CubeTensor, output: &CubeTensor) -> CubeTensor {
    let gradient = owned(into_contiguous(gradient));
    kernels::before_relu::launch(
        &gradient.client,
        unit_for_each(gradient.meta.shape().num_elements()),
        retinanet_gpu::units(),
        gradient.clone().into_buffer_arg(),
        output.clone().into_buffer_arg(),
        element(gradient.dtype),
    );
    gradient
}

/// How many columns of the product a cube computes, for so many in all: few where many would lie
/// beyond the last.
const fn tile_columns(columns: usize) -> usize {
    match columns {
        0..=16 | 33..=48 => 16,
        17..=32 => 32,
        _ => 64,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// The weights in another order and precision, those of each output times its scale: for a product a matrix for each
/// group, `[groups, taps × channels read, channels written]`.
fn arranged(
    problem: &Problem,
    weight: CubeTensor,
    scale: Option<&CubeTensor>,
    [from, to]: [Order; 2],
    precision: DType,
) -> CubeTensor {
    let weight = into_contiguous(weight);
    let values = weight.meta.shape().num_elements();
    let target = empty_of(&weight, &[values], precision);
    let client = weight.client.clone();
    kernels::arrange::launch(
        &client,
        unit_for_each(values),
        retinanet_gpu::units(),
        weight.into_buffer_arg(),
        scale.cloned().map(CubeTensor::into_buffer_arg).into(),
        target.clone().into_buffer_arg(),
        WeightSizesLaunch::new(
            problem.taps(),
            problem.inputs_per_group(),
            problem.outputs_per_group(),
        ),
        from,
        to,
        element(precision),
    );
    target
}

/// Scale and shift of a batch norm with fixed statistics.
pub(crate) fn fold_norm(
    [gamma, beta, mean, variance]: [CubeTensor; 4],
    epsilon: f32,
) -> [CubeTensor; 2] {
    let [gamma, beta, mean, variance] = [gamma, beta, mean, variance].map(into_contiguous);
    let channels = gamma.meta.shape().num_elements();
    let [scale, shift] = [(); 2].map(|()| empty(&gamma, &[channels]));
    let client = gamma.client.clone();
    kernels::fold_norm::launch(
        &client,
        unit_for_each(channels),
        retinanet_gpu::units(),
        gamma.into_buffer_arg(),
        beta.into_buffer_arg(),
        mean.into_buffer_arg(),
        variance.into_buffer_arg(),
        scale.clone().into_buffer_arg(),
        shift.clone().into_buffer_arg(),
        epsilon,
    );
    [scale, shift]
}

/// Maps of one size: one level of every image.
#[derive(Clone, Copy, Debug)]
struct Level {
    /// Pixels before the first.
    start: usize,
    /// Pixels of one map.
    pixels: usize,
    /// Pixels from one image's map to the next's.
    image: usize,
    size: [usize; 2],
    channels: usize,
    groups: usize,
}

impl Level {
    fn arguments(self) -> MapArgumentsLaunch {
        MapArgumentsLaunch::new(
            self.start * self.channels,
            self.image * self.channels,
            self.size[0],
            self.size[1],
            self.channels,
            self.channels / self.groups,
        )
    }
}

/// The levels of each image, before and after the convolution.
fn levels(problem: &Problem, batch: usize) -> Vec<[Level; 2]> {
    let of = |maps: &Maps, channels: usize| -> Vec<Level> {
        let image = maps.pixels() / batch;
        let levels = maps.sizes().len() / batch;
        (maps.sizes().iter().zip(maps.ranges()).take(levels))
            .map(|(size, pixels)| Level {
                start: pixels.start,
                pixels: pixels.len(),
                image,
                size: *size,
                channels,
                groups: problem.options.groups,
            })
            .collect()
    };
    let inputs = of(&problem.maps_in, problem.inputs);
    let outputs = of(&problem.maps_out, problem.outputs);
    inputs
        .into_iter()
        .zip(outputs)
        .map(<[Level; 2]>::from)
        .collect()
}

fn batch(shape: &[usize]) -> usize {
    shape.first().copied().unwrap_or(1)
}

fn window(problem: &Problem) -> WindowArgumentsLaunch {
    let options = &problem.options;
    WindowArgumentsLaunch::new(
        problem.kernel[1],
        options.stride[0],
        options.stride[1],
        options.padding[0],
        options.padding[1],
        options.dilation[0],
        options.dilation[1],
    )
}

/// What a kernel does to a sum before it is stored; nothing by default.
#[derive(Default)]
pub(crate) struct ForwardEnd {
    pub(crate) bias: Option<CubeTensor>,
    pub(crate) residual: Option<CubeTensor>,
    pub(crate) relu: bool,
}

fn convolve(
    problem: &Problem,
    direction: Direction,
    [read, written]: [Level; 2],
    source: &CubeTensor,
    weight: &CubeTensor,
    end: &ForwardEnd,
    target: &CubeTensor,
) {
    let ForwardEnd {
        bias,
        residual,
        relu,
    } = end;
    let groups = problem.options.groups;
    let pixels = written.pixels * batch(target.meta.shape());
    let terms = problem.taps() * read.channels / groups;
    let columns = tile_columns(written.channels / groups);
    let cubes = (written.channels / groups).div_ceil(columns);
    for part in split(pixels.div_ceil(ROWS), MOST_CUBES) {
        kernels::convolve::launch(
            &source.client,
            CubeCount::Static(part.len() as u32, cubes as u32, groups as u32),
            CubeDim::new_1d(units(columns) as u32),
            source.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            bias.clone().map(CubeTensor::into_buffer_arg).into(),
            residual.clone().map(CubeTensor::into_buffer_arg).into(),
            target.clone().into_buffer_arg(),
            read.arguments(),
            written.arguments(),
            window(problem),
            part.start * ROWS,
            pixels,
            terms,
            columns,
            direction == Direction::Backward,
            *relu,
            [element(source.dtype), element(target.dtype)],
        );
    }
}

/// The sum of a matrix's rows, in parts that are summed again.
fn sum_rows(values: CubeTensor) -> CubeTensor {
    let [rows, columns] = values.meta.shape().dims();
    let parts = rows.div_ceil(SUMMED_ROWS);
    let sums = empty(&values, &[parts, columns]);
    let (client, precision) = (values.client.clone(), values.dtype);
    kernels::sum_rows::launch(
        &client,
        unit_for_each(parts * columns),
        retinanet_gpu::units(),
        values.into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        rows,
        SUMMED_ROWS,
        columns,
        element(precision),
    );
    if parts > 1 {
        sum_rows(sums)
    } else {
        reshape(sums, Shape::new([columns]))
    }
}
