//! Each layer that a model calls, run by itself: on two devices, to be compared, or to be timed.

use std::time::Instant;

use burn::module::Param;
use burn::nn::BatchNorm;
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};

use crate::fresh::{new_batch_norm, new_group_norm};
use crate::layers::{
    FusedEpilogue, add_upsampled, batch_norm, conv2d_levels, group_norm, max_pool2d,
};
use crate::levels::Levels;
use crate::record::{EpilogueParts, LayerCall};
use crate::shape::ConvOptions;
use crate::weights::normal_values;

/// Added to the variance by the norms under comparison.
const EPSILON: f64 = 1e-5;

/// How a device's numbers differ from another's.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    /// For the output, each gradient and each statistic the norm of the difference, relative to
    /// that of the values; the largest of all runs. Infinite if a value is non-finite.
    pub parts: Vec<(&'static str, f64)>,
    /// Seconds that the fastest run took, forward and backward, with the result read.
    pub seconds: f64,
}

/// Parts of a result, such as an output or a gradient, with their names.
type Parts = Vec<(&'static str, Vec<f32>)>;

impl Deviation {
    /// Runs something some times, and compares each part of it with what is expected.
    pub fn measure(
        expected: &[(&'static str, Vec<f32>)],
        runs: usize,
        mut run: impl FnMut() -> Vec<(&'static str, Vec<f32>)>,
    ) -> Self {
        let mut deviation = Self {
            parts: expected.iter().map(|(part, _)| (*part, 0.0)).collect(),
            seconds: f64::INFINITY,
        };
        for _ in 0..runs {
            let start = Instant::now();
            let found = run();
            deviation.seconds = deviation.seconds.min(start.elapsed().as_secs_f64());
            let pairs = deviation.parts.iter_mut().zip(expected.iter().zip(&found));
            for ((_, largest), ((_, expected), (_, found))) in pairs {
                *largest = largest.max(difference(expected, found));
            }
        }
        deviation
    }

    /// The part that differs most.
    pub fn worst(&self) -> (&'static str, f64) {
        let worst = self.parts.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        worst.copied().unwrap_or(("output", 0.0))
    }
}

impl LayerCall {
    /// Runs the layer on images of random maps, forward and backward: once on the device that is
    /// trusted, in f32, and `runs` times on the other, with maps of this precision.
    pub fn compare(
        &self,
        images: usize,
        trusted: &Device,
        (device, precision): (&Device, DType),
        runs: usize,
    ) -> Deviation {
        let slope = self.slope(images, trusted, precision);
        let trial = |device: &Device, computed| Trial::new(device, precision, computed);
        let expected = self.run(images, trial(trusted, DType::F32), &slope);
        Deviation::measure(&expected, runs, || {
            self.run(images, trial(device, precision), &slope)
        })
    }

    /// What tells which kernel computes the layer: all but the sizes of its maps.
    #[must_use]
    pub fn kind(&self) -> Self {
        let mut kind = self.clone();
        match &mut kind {
            Self::Convolution { levels, .. } | Self::GroupNorm { levels, .. } => levels.clear(),
            Self::BatchNorm { size, .. } | Self::MaxPool { size, .. } => *size = [0, 0],
            Self::Upsample { sizes, .. } => sizes.fill([0, 0]),
        }
        kind
    }

    /// The gradient that comes from behind the layer: none if the output is so near to a ReLU's
    /// edge that rounding decides on which side it lies.
    fn slope(&self, images: usize, device: &Device, precision: DType) -> Vec<f32> {
        let mut open = self.clone();
        let mut edge = 0.0;
        if let Some(end) = open.end_mut()
            && end.relu
        {
            end.relu = false;
            edge = match precision {
                DType::F32 => 1e-3,
                DType::F16 => 4e-3,
                _ => 3e-2,
            };
        }
        let trial = Trial::new(device, precision, DType::F32);
        let output = open.run(images, trial, &[]);
        let output = &output[0].1;
        let edge = edge * output.iter().copied().map(f32::abs).fold(0.0, f32::max);
        let slope = normal_values(output.len(), 0, "slope");
        let slope = slope.into_iter().zip(output);
        slope
            .map(|(slope, output)| if output.abs() < edge { 0.0 } else { slope })
            .collect()
    }

    const fn end_mut(&mut self) -> Option<&mut EpilogueParts> {
        match self {
            Self::Convolution { end, .. }
            | Self::BatchNorm { end, .. }
            | Self::GroupNorm { end, .. } => Some(end),
            Self::MaxPool { .. } | Self::Upsample { .. } => None,
        }
    }

    /// The output, and with a slope from behind all gradients.
    fn run(&self, images: usize, mut trial: Trial, slope: &[f32]) -> Parts {
        let output = trial.layer(self, images)();
        trial.finish(output, slope)
    }

    /// The layer with images of random maps on a device, to be run as often as needed. Its output,
    /// `[images, cells of all levels, channels]`, has gradients.
    pub fn prepare(&self, images: usize, device: &Device) -> impl Fn() -> Tensor<3> + use<> {
        Trial::new(device, DType::F32, DType::F32).layer(self, images)
    }
}

/// A value as floats of this precision have it.
fn rounded(value: f32, precision: DType) -> f32 {
    match precision {
        DType::F16 => burn::tensor::f16::from_f32(value).to_f32(),
        DType::BF16 => burn::tensor::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// A layer's inputs and parameters while it is run.
struct Trial {
    device: Device,
    /// What maps and slopes are rounded to, on every device.
    given: DType,
    /// What maps are computed in.
    computed: DType,
    leaves: Vec<Leaf>,
    /// The norm whose statistics move.
    norm: Option<BatchNorm>,
}

type Layer = Box<dyn Fn() -> Tensor<3>>;

/// What has a gradient: its name, and how to take that from all of them.
struct Leaf(&'static str, TakeGradient);

type TakeGradient = Box<dyn FnOnce(&mut Gradients) -> Option<Vec<f32>>>;

impl Trial {
    fn new(device: &Device, given: DType, computed: DType) -> Self {
        Self {
            device: device.clone().autodiff(),
            given,
            computed,
            leaves: Vec::new(),
            norm: None,
        }
    }

    fn layer(&mut self, call: &LayerCall, images: usize) -> Layer {
        match call {
            LayerCall::Convolution {
                levels,
                weight,
                options,
                end,
            } => self.convolution(images, levels, *weight, *options, *end),
            LayerCall::BatchNorm {
                size: [height, width],
                channels,
                end,
            } => self.batch_norm([images, *height, *width, *channels], *end),
            LayerCall::GroupNorm {
                levels,
                channels,
                groups,
                end,
            } => self.group_norm(images, levels, *channels, *groups, *end),
            LayerCall::MaxPool {
                size: [height, width],
                channels,
                window: [kernel, stride, padding],
            } => {
                let input = self.map("input", [images, *height, *width, *channels]);
                let (kernel, stride, padding) = (*kernel, *stride, *padding);
                Box::new(move || max_pool2d(input.clone(), kernel, stride, padding).flatten(1, 2))
            }
            LayerCall::Upsample { sizes, channels } => {
                let [finer, coarser] =
                    sizes.map(|[height, width]| [images, height, width, *channels]);
                let finer = self.map("finer", finer);
                let coarser = self.map("coarser", coarser);
                Box::new(move || add_upsampled(finer.clone(), coarser.clone()).flatten(1, 2))
            }
        }
    }

    fn convolution(
        &mut self,
        images: usize,
        levels: &[[usize; 2]],
        weight: [usize; 4],
        options: ConvOptions,
        end: EpilogueParts,
    ) -> Layer {
        let maps = self.levels("input", images, levels, weight[1] * options.groups);
        let scale = 1.0 / ((weight[1] * weight[2] * weight[3]) as f32).sqrt();
        let weight = self.leaf("weight", weight, scale);
        let sizes = levels.iter().map(|size| {
            let [height, width] = options.output_size(*size, [weight.dims()[2], weight.dims()[3]]);
            height * width
        });
        let end = self.end(end, [images, sizes.sum(), weight.dims()[0]]);
        Box::new(move || conv2d_levels(maps.clone(), weight.clone(), options, end.clone()).values)
    }

    fn batch_norm(&mut self, shape: [usize; 4], end: EpilogueParts) -> Layer {
        let channels = shape[3];
        let input = self.map("input", shape);
        let mut norm = new_batch_norm(channels, EPSILON, &self.device);
        norm.gamma = Param::from_tensor(self.leaf("gamma", [channels], 1.0));
        norm.beta = Param::from_tensor(self.leaf("beta", [channels], 1.0));
        let end = self.end(end, shape);
        self.norm = Some(norm.clone());
        Box::new(move || batch_norm(&norm, input.clone(), end.clone()).flatten(1, 2))
    }

    fn group_norm(
        &mut self,
        images: usize,
        levels: &[[usize; 2]],
        channels: usize,
        groups: usize,
        end: EpilogueParts,
    ) -> Layer {
        let maps = self.levels("input", images, levels, channels);
        let mut norm = new_group_norm(channels, EPSILON, &self.device);
        norm.num_groups = groups;
        norm.gamma = Some(Param::from_tensor(self.leaf("gamma", [channels], 1.0)));
        norm.beta = Some(Param::from_tensor(self.leaf("beta", [channels], 1.0)));
        let end = self.end(end, maps.values.dims());
        Box::new(move || group_norm(&norm, maps.clone(), end.clone()).values)
    }

    fn constant<const D: usize>(&self, name: &str, shape: [usize; D], scale: f32) -> Tensor<D> {
        let values = normal_values(shape.iter().product(), 0, name);
        let values = values.into_iter().map(|value| value * scale);
        let values: Vec<f32> = values.map(|value| rounded(value, self.given)).collect();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    fn leaf<const D: usize>(
        &mut self,
        name: &'static str,
        shape: [usize; D],
        scale: f32,
    ) -> Tensor<D> {
        let leaf = self.constant(name, shape, scale).require_grad();
        let held = leaf.clone();
        let gradient = move |gradients: &mut Gradients| held.grad_remove(gradients).map(values);
        self.leaves.push(Leaf(name, Box::new(gradient)));
        leaf
    }

    /// A map, computed in the trial's precision, whose gradient is wanted.
    fn map<const D: usize>(&mut self, name: &'static str, shape: [usize; D]) -> Tensor<D> {
        let precision = self.computed;
        self.leaf(name, shape, 1.0).cast(precision)
    }

    fn levels(
        &mut self,
        name: &'static str,
        images: usize,
        sizes: &[[usize; 2]],
        channels: usize,
    ) -> Levels {
        let cells = sizes.iter().map(|[height, width]| height * width).sum();
        Levels {
            values: self.map(name, [images, cells, channels]),
            sizes: sizes.to_vec(),
        }
    }

    fn end<const D: usize>(
        &mut self,
        parts: EpilogueParts,
        shape: [usize; D],
    ) -> FusedEpilogue<Tensor<D>> {
        let channels = shape[D - 1];
        FusedEpilogue {
            scale: parts.scale.then(|| self.constant("scale", [channels], 1.0)),
            bias: parts.bias.then(|| self.leaf("bias", [channels], 1.0)),
            residual: parts.residual.then(|| self.map("residual", shape)),
            relu: parts.relu,
            in_f32: false,
        }
    }

    fn finish(self, output: Tensor<3>, slope: &[f32]) -> Parts {
        let output = output.cast(DType::F32);
        let mut parts = vec![("output", values(output.clone()))];
        parts.extend(self.norm.iter().flat_map(statistics));
        if slope.is_empty() {
            return parts;
        }
        let slope: Vec<f32> = slope.iter().map(|it| rounded(*it, self.given)).collect();
        let slope = TensorData::new(slope, output.dims());
        let slope = Tensor::from_data(slope, &self.device);
        let mut gradients = (output * slope).sum().backward();
        for Leaf(name, gradient) in self.leaves {
            parts.push((
                gradient_of(name),
                gradient(&mut gradients).unwrap_or_default(),
            ));
        }
        parts
    }
}

fn statistics(norm: &BatchNorm) -> [(&'static str, Vec<f32>); 2] {
    [
        ("running mean", values(norm.running_mean.value_sync())),
        ("running variance", values(norm.running_var.value_sync())),
    ]
}

fn gradient_of(leaf: &'static str) -> &'static str {
    match leaf {
        "input" => "input gradient",
        "weight" => "weight gradient",
        "bias" => "bias gradient",
        "residual" => "residual gradient",
        "gamma" => "scale gradient",
        "beta" => "shift gradient",
        "finer" => "finer gradient",
        _ => "coarser gradient",
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The norm of the difference, relative to that of what is expected.
fn difference(expected: &[f32], found: &[f32]) -> f64 {
    if expected.len() != found.len() || !found.iter().all(|value| value.is_finite()) {
        return f64::INFINITY;
    }
    let squares = |values: &mut dyn Iterator<Item = f64>| -> f64 { values.map(|v| v * v).sum() };
    let pairs = expected.iter().zip(found);
    let off = squares(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let all = squares(&mut expected.iter().copied().map(f64::from));
    if all == 0.0 {
        off.sqrt()
    } else {
        (off / all).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::record_calls;

    fn calls() -> Vec<LayerCall> {
        let relu = EpilogueParts {
            bias: true,
            residual: true,
            relu: true,
            ..EpilogueParts::default()
        };
        vec![
            LayerCall::Convolution {
                levels: vec![[6, 5], [3, 3]],
                weight: [8, 4, 3, 3],
                options: ConvOptions::new(1, 1),
                end: relu,
            },
            LayerCall::BatchNorm {
                size: [6, 5],
                channels: 4,
                end: EpilogueParts {
                    relu: true,
                    ..EpilogueParts::default()
                },
            },
            LayerCall::GroupNorm {
                levels: vec![[6, 5], [3, 3]],
                channels: 8,
                groups: 4,
                end: EpilogueParts::default(),
            },
            LayerCall::MaxPool {
                size: [6, 5],
                channels: 4,
                window: [3, 2, 1],
            },
            LayerCall::Upsample {
                sizes: [[6, 5], [3, 3]],
                channels: 4,
            },
        ]
    }

    #[test]
    fn a_device_agrees_with_itself_in_every_part() {
        let device = Device::flex();
        for call in calls() {
            let deviation = call.compare(2, &device, (&device, DType::F32), 2);
            assert!(deviation.parts.len() >= 2, "{call}");
            let trial = Trial::new(&device, DType::F32, DType::F32);
            for (part, values) in call.run(2, trial, &[]) {
                let constant = values.iter().all(|value| *value == values[0]);
                assert!(!constant, "{call}: {part}");
            }
            assert_eq!(deviation.worst().1, 0.0, "{call}");
        }
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn every_kind_of_layer_agrees_on_a_gpu() {
        let Ok(gpu) = Device::wgpu_options().init() else {
            return;
        };
        for call in calls() {
            let deviation = call.compare(2, &Device::flex(), (&gpu, DType::F32), 2);
            assert!(deviation.worst().1 < 1e-5, "{call}: {deviation:?}");
            if gpu.supports_dtype(DType::F16) {
                let deviation = call.compare(2, &Device::flex(), (&gpu, DType::F16), 2);
                let off = deviation.worst().1;
                assert!(off > 0.0 && off < 2e-3, "{call}: {deviation:?}");
            }
        }
    }

    #[test]
    fn what_differs_is_told() {
        assert_eq!(difference(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(difference(&[3.0, 4.0], &[3.0, 3.5]), 0.1);
        assert_eq!(difference(&[3.0, 4.0], &[3.0, f32::NAN]), f64::INFINITY);
        assert_eq!(difference(&[3.0, 4.0], &[3.0]), f64::INFINITY);
        assert_eq!(difference(&[0.0], &[0.5]), 0.5);
    }

    #[test]
    fn a_model_s_calls_are_recorded_and_no_others() {
        let device = Device::flex();
        let image = || Tensor::<4>::zeros([1, 8, 6, 3], &device);
        let pool = || drop(max_pool2d(image(), 3, 2, 1));
        pool();
        let calls = record_calls(|| {
            pool();
            pool();
        });
        pool();
        let call = LayerCall::MaxPool {
            size: [8, 6],
            channels: 3,
            window: [3, 2, 1],
        };
        assert_eq!(calls, [call.clone(), call]);
        assert_eq!(record_calls(|| ()), []);
    }
}
