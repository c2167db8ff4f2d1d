//! The kernels themselves, in `CubeCL`'s subset of Rust. A cube is a workgroup, a unit a thread.
#![expect(
    clippy::too_many_lines,
    reason = "a kernel is one straight line, whose parts share registers and shared memory"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "a kernel's arguments are its bindings"
)]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro reads the types of floats, the kernel itself does not"
)]

use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// Rows of the product that a cube computes.
pub(super) const ROWS: usize = 64;

/// Terms of the sums that are in shared memory at once.
const DEPTH: usize = 16;

/// Rows and columns of the product that a unit computes.
const PATCH: usize = 4;

/// From one term's values to the next in shared memory; one more than there are, so that units
/// that write neighbouring terms write to different banks.
const PITCH: usize = ROWS + 1;

/// Units of a cube that computes so many columns of the product.
pub(super) const fn units(columns: usize) -> usize {
    (ROWS / PATCH) * (columns / PATCH)
}

/// Further down and right than any map reaches, with room to be multiplied by a stride.
const NOWHERE: usize = 1 << 24;

/// Where the maps of one size are in a buffer, `[image, height, width, channels]`, with other
/// sizes' between one image's and the next's.
#[derive(CubeLaunch, CubeType)]
pub(super) struct MapArguments {
    /// Values before the first map.
    pub(super) start: usize,
    /// Values from one image's map to the next's.
    pub(super) image: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Of all groups.
    pub(super) channels: usize,
    /// Of one group.
    pub(super) group_channels: usize,
}

/// Where a window's taps are.
#[derive(CubeLaunch, CubeType)]
pub(super) struct WindowArguments {
    /// Taps of a row.
    pub(super) width: usize,
    pub(super) stride_y: usize,
    pub(super) stride_x: usize,
    pub(super) padding_y: usize,
    pub(super) padding_x: usize,
    pub(super) dilation_y: usize,
    pub(super) dilation_x: usize,
}

/// `target = relu(source ∗ weight + bias + residual)` for the pixels from `first_pixel` on, as a
/// product of the matrix of windows, `[pixels, terms]`, that is never stored, and the weights,
/// `[groups, terms, channels]`. A term is a tap and a channel that is read.
///
/// `backward` goes the other way: from the outputs' gradient to the inputs'. What is read, weights too, is of one
/// precision, what is written of another; sums are f32.
#[cube(launch)]
pub(super) fn convolve<N: Float, M: Float>(
    source: &[N],
    weight: &[N],
    bias: ComptimeOption<&[f32]>,
    residual: ComptimeOption<&[M]>,
    target: &mut [M],
    read: MapArguments,
    written: MapArguments,
    window: WindowArguments,
    first_pixel: usize,
    pixels: usize,
    terms: usize,
    #[comptime] columns: usize,
    #[comptime] backward: bool,
    #[comptime] relu: bool,
    #[define(N, M)] _precisions: [ElemType; 2],
) {
    let units = comptime!(units(columns));
    let unit = UNIT_POS as usize;
    let group = CUBE_POS_Z as usize;
    let first_row = first_pixel + CUBE_POS_X as usize * ROWS;
    let first_column = CUBE_POS_Y as usize * columns;
    let mut windows = Shared::<[N]>::new_slice(DEPTH * PITCH);
    let mut weights = Shared::<[N]>::new_slice(comptime!(DEPTH * (columns + 1)));

    // The pixels whose windows this unit reads.
    let loads = comptime!(ROWS * DEPTH / units);
    let mut ys = Array::<usize>::new(loads);
    let mut xs = Array::<usize>::new(loads);
    let mut origins = Array::<usize>::new(loads);
    #[unroll]
    for load in 0..loads {
        let pixel = first_row + unit / DEPTH + load * comptime!(units / DEPTH);
        let area = written.height * written.width;
        let image = pixel / area;
        let within = pixel % area;
        ys[load] = select(pixel < pixels, within / written.width, NOWHERE);
        xs[load] = within % written.width;
        origins[load] = read.start + image * read.image + group * read.group_channels;
    }

    let mut sums = zeros();
    for step in 0..terms.div_ceil(DEPTH) {
        let term = step * DEPTH + unit % DEPTH;
        let tap = term / read.group_channels;
        let channel = term % read.group_channels;
        let shift_y = (tap / window.width) * window.dilation_y;
        let shift_x = (tap % window.width) * window.dilation_x;
        #[unroll]
        for load in 0..loads {
            let mut value = N::cast_from(0.0f32);
            if term < terms {
                let (y, inside_y) = tapped(
                    ys[load],
                    shift_y,
                    window.stride_y,
                    window.padding_y,
                    read.height,
                    backward,
                );
                let (x, inside_x) = tapped(
                    xs[load],
                    shift_x,
                    window.stride_x,
                    window.padding_x,
                    read.width,
                    backward,
                );
                if inside_y && inside_x {
                    let pixel = y * read.width + x;
                    value = source[origins[load] + pixel * read.channels + channel];
                }
            }
            let row = unit / DEPTH + load * comptime!(units / DEPTH);
            windows[(unit % DEPTH) * PITCH + row] = value;
        }
        #[unroll]
        for load in 0..comptime!(columns * DEPTH / units) {
            let depth = unit / columns + load * comptime!(units / columns);
            let term = step * DEPTH + depth;
            let column = first_column + unit % columns;
            let mut value = N::cast_from(0.0f32);
            if term < terms && column < written.group_channels {
                value = weight[(group * terms + term) * written.group_channels + column];
            }
            weights[depth * comptime!(columns + 1) + unit % columns] = value;
        }
        sync_cube();
        multiply::<N, N>(&windows, &weights, &mut sums, columns);
        sync_cube();
    }

    #[unroll]
    for i in 0..PATCH {
        let pixel = first_row + (unit / comptime!(columns / PATCH)) * PATCH + i;
        let area = written.height * written.width;
        let start = written.start
            + (pixel / area) * written.image
            + (pixel % area) * written.channels
            + group * written.group_channels;
        #[unroll]
        for j in 0..PATCH {
            let column = first_column + (unit % comptime!(columns / PATCH)) * PATCH + j;
            if pixel < pixels && column < written.group_channels {
                let mut value = sums[i * PATCH + j];
                let place = group * written.group_channels + column;
                let bias: ComptimeOption<f32> = bias.as_ref().map(|bias| bias[place]);
                value += bias.unwrap_or(0.0f32);
                let residual: ComptimeOption<f32> =
                    (residual.as_ref()).map(|residual| f32::cast_from(residual[start + column]));
                value += residual.unwrap_or(0.0f32);
                if comptime!(relu) {
                    // Not `max`, which would hide non-finite values.
                    value = select(value < 0.0f32, 0.0f32, value);
                }
                target[start + column] = M::cast_from(value);
            }
        }
    }
}

/// The weights' gradient, in parts: the product of the matrix of windows, transposed, and the
/// outputs' gradient, summed over `pixels_of_part` pixels by each part's cubes.
///
/// `parts` is `[parts, groups, terms, channels of the gradient]`.
#[cube(launch)]
pub(super) fn weight_gradient<N: Float, M: Float>(
    source: &[N],
    gradient: &[M],
    parts: &mut [f32],
    read: MapArguments,
    differentiated: MapArguments,
    window: WindowArguments,
    groups: usize,
    first_part: usize,
    pixels: usize,
    pixels_of_part: usize,
    terms: usize,
    #[comptime] columns: usize,
    #[define(N, M)] _precisions: [ElemType; 2],
) {
    let units = comptime!(units(columns));
    let unit = UNIT_POS as usize;
    let group = CUBE_POS_Z as usize % groups;
    let part = CUBE_POS_Z as usize / groups;
    let first_row = CUBE_POS_X as usize * ROWS;
    let first_column = CUBE_POS_Y as usize * columns;
    let mut windows = Shared::<[N]>::new_slice(DEPTH * PITCH);
    let mut gradients = Shared::<[M]>::new_slice(comptime!(DEPTH * (columns + 1)));

    // The term and the channel of the gradient that this unit reads.
    let term = first_row + unit % ROWS;
    let tap = term / read.group_channels;
    let channel = group * read.group_channels + term % read.group_channels;
    let shift_y = (tap / window.width) * window.dilation_y;
    let shift_x = (tap % window.width) * window.dilation_x;
    let column = first_column + unit % columns;

    let mut sums = zeros();
    let area = differentiated.height * differentiated.width;
    let start = part * pixels_of_part;
    let end = min(start + pixels_of_part, pixels);
    for step in 0..(end - start).div_ceil(DEPTH) {
        #[unroll]
        for load in 0..comptime!(ROWS * DEPTH / units) {
            let depth = unit / ROWS + load * comptime!(units / ROWS);
            let pixel = start + step * DEPTH + depth;
            let mut value = N::cast_from(0.0f32);
            if pixel < end && term < terms {
                let (y, inside_y) = tapped(
                    (pixel % area) / differentiated.width,
                    shift_y,
                    window.stride_y,
                    window.padding_y,
                    read.height,
                    false,
                );
                let (x, inside_x) = tapped(
                    (pixel % area) % differentiated.width,
                    shift_x,
                    window.stride_x,
                    window.padding_x,
                    read.width,
                    false,
                );
                if inside_y && inside_x {
                    let image = read.start + (pixel / area) * read.image;
                    value = source[image + (y * read.width + x) * read.channels + channel];
                }
            }
            windows[depth * PITCH + unit % ROWS] = value;
        }
        #[unroll]
        for load in 0..comptime!(columns * DEPTH / units) {
            let depth = unit / columns + load * comptime!(units / columns);
            let pixel = start + step * DEPTH + depth;
            let mut value = M::cast_from(0.0f32);
            if pixel < end && column < differentiated.group_channels {
                let image = differentiated.start + (pixel / area) * differentiated.image;
                let channel = group * differentiated.group_channels + column;
                value = gradient[image + (pixel % area) * differentiated.channels + channel];
            }
            gradients[depth * comptime!(columns + 1) + unit % columns] = value;
        }
        sync_cube();
        multiply::<N, M>(&windows, &gradients, &mut sums, columns);
        sync_cube();
    }

    #[unroll]
    for i in 0..PATCH {
        let term = first_row + (unit / comptime!(columns / PATCH)) * PATCH + i;
        #[unroll]
        for j in 0..PATCH {
            let column = first_column + (unit % comptime!(columns / PATCH)) * PATCH + j;
            if term < terms && column < differentiated.group_channels {
                let row = ((first_part + part) * groups + group) * terms + term;
                parts[row * differentiated.group_channels + column] = sums[i * PATCH + j];
            }
        }
    }
}

/// Where a tap of a pixel's window lies along one axis, and whether that is inside the map.
///
/// Backward it is the other way round: which output has the pixel under this tap, if there is one.
#[cube]
fn tapped(
    position: usize,
    shift: usize,
    stride: usize,
    padding: usize,
    length: usize,
    #[comptime] backward: bool,
) -> (usize, bool) {
    if comptime!(backward) {
        let reach = position + padding;
        let distance = reach - min(shift, reach);
        let inside =
            reach >= shift && distance.is_multiple_of(stride) && distance / stride < length;
        (distance / stride, inside)
    } else {
        let reach = position * stride + shift;
        let inside = reach >= padding && reach - padding < length;
        (reach - min(padding, reach), inside)
    }
}

/// A unit's sums before the first term.
#[cube]
fn zeros() -> Array<f32> {
    let mut sums = Array::<f32>::new(PATCH * PATCH);
    #[unroll]
    for index in 0..PATCH * PATCH {
        sums[index] = 0.0;
    }
    sums
}

/// Adds the product of what is in shared memory to a unit's sums.
#[cube]
fn multiply<N: Float, M: Float>(
    rows: &Shared<[N]>,
    columns: &Shared<[M]>,
    sums: &mut Array<f32>,
    #[comptime] width: usize,
) {
    let first_row = (UNIT_POS as usize / comptime!(width / PATCH)) * PATCH;
    let first_column = (UNIT_POS as usize % comptime!(width / PATCH)) * PATCH;
    let mut values = Array::<f32>::new(PATCH);
    for depth in 0..DEPTH {
        #[unroll]
        for j in 0..PATCH {
            values[j] = f32::cast_from(columns[depth * comptime!(width + 1) + first_column + j]);
        }
        #[unroll]
        for i in 0..PATCH {
            let value = f32::cast_from(rows[depth * PITCH + first_row + i]);
            #[unroll]
            for j in 0..PATCH {
                sums[i * PATCH + j] += value * values[j];
            }
        }
    }
}

/// An order of a convolution's weights in memory, within a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Order {
    /// Outputs, inputs, taps: the weights' own.
    Own,
    /// Taps, inputs, outputs: for the outputs.
    Forward,
    /// Taps, outputs, inputs: for the inputs' gradient.
    Backward,
}

/// The sizes of a convolution's weights.
#[derive(CubeLaunch, CubeType)]
pub(super) struct WeightSizes {
    pub(super) taps: usize,
    /// Of a group.
    pub(super) inputs: usize,
    /// Of a group.
    pub(super) outputs: usize,
}

/// Brings weights from one order into another, and multiplies those of each output by its `scale`.
#[cube(launch)]
pub(super) fn arrange<N: Float>(
    source: &[f32],
    scale: ComptimeOption<&[f32]>,
    target: &mut [N],
    sizes: WeightSizes,
    #[comptime] from: Order,
    #[comptime] to: Order,
    #[define(N)] _precision: ElemType,
) {
    if ABSOLUTE_POS < target.len() {
        let (group, output, input, tap) = weight_at(ABSOLUTE_POS, &sizes, to);
        let place = place_of_weight(group, output, input, tap, &sizes, from);
        let channel = group * sizes.outputs + output;
        let factor: ComptimeOption<f32> = scale.as_ref().map(|scale| scale[channel]);
        target[ABSOLUTE_POS] = N::cast_from(source[place] * factor.unwrap_or(1.0f32));
    }
}

/// Group, output, input and tap of a place.
#[cube]
fn weight_at(
    place: usize,
    sizes: &WeightSizes,
    #[comptime] order: Order,
) -> (usize, usize, usize, usize) {
    let group = place / (sizes.taps * sizes.inputs * sizes.outputs);
    if comptime!(order == Order::Own) {
        let tap = place % sizes.taps;
        let input = place / sizes.taps % sizes.inputs;
        let output = place / sizes.taps / sizes.inputs % sizes.outputs;
        (group, output, input, tap)
    } else if comptime!(order == Order::Forward) {
        let output = place % sizes.outputs;
        let input = place / sizes.outputs % sizes.inputs;
        let tap = place / sizes.outputs / sizes.inputs % sizes.taps;
        (group, output, input, tap)
    } else {
        let input = place % sizes.inputs;
        let output = place / sizes.inputs % sizes.outputs;
        let tap = place / sizes.inputs / sizes.outputs % sizes.taps;
        (group, output, input, tap)
    }
}

#[cube]
fn place_of_weight(
    group: usize,
    output: usize,
    input: usize,
    tap: usize,
    sizes: &WeightSizes,
    #[comptime] order: Order,
) -> usize {
    let taps = sizes.taps;
    let inputs = sizes.inputs;
    let outputs = sizes.outputs;
    if comptime!(order == Order::Own) {
        ((group * outputs + output) * inputs + input) * taps + tap
    } else if comptime!(order == Order::Forward) {
        ((group * taps + tap) * inputs + input) * outputs + output
    } else {
        ((group * taps + tap) * outputs + output) * inputs + input
    }
}

/// What a batch norm with fixed statistics multiplies by and adds.
#[cube(launch)]
pub(super) fn fold_norm(
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    scale: &mut [f32],
    shift: &mut [f32],
    epsilon: f32,
) {
    let channel = ABSOLUTE_POS;
    if channel < scale.len() {
        let factor = gamma[channel] / (variance[channel] + epsilon).sqrt();
        scale[channel] = factor;
        shift[channel] = beta[channel] - mean[channel] * factor;
    }
}

/// Sums over parts of the rows of a matrix: `values` is `[rows, columns]`, `parts`
/// `[parts, columns]`.
#[cube(launch)]
pub(super) fn sum_rows<N: Float>(
    values: &[N],
    parts: &mut [f32],
    rows: usize,
    rows_of_part: usize,
    columns: usize,
    #[define(N)] _precision: ElemType,
) {
    let part = ABSOLUTE_POS / columns;
    let start = part * rows_of_part;
    if start < rows {
        let mut sum = 0.0f32;
        for row in start..min(start + rows_of_part, rows) {
            sum += f32::cast_from(values[row * columns + ABSOLUTE_POS % columns]);
        }
        parts[ABSOLUTE_POS] = sum;
    }
}

/// The gradient before a ReLU, in place: nothing where its output is 0.
#[cube(launch)]
pub(super) fn before_relu<N: Float>(
    gradient: &mut [N],
    output: &[N],
    #[define(N)] _precision: ElemType,
) {
    if ABSOLUTE_POS < gradient.len() {
        let passes = output[ABSOLUTE_POS] > N::cast_from(0.0f32);
        gradient[ABSOLUTE_POS] = select(passes, gradient[ABSOLUTE_POS], N::cast_from(0.0f32));
    }
}
