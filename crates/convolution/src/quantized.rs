//! Convolutions in whole numbers of eight bits: what is measured of their inputs, and that they are computed so.
//!
//! Inputs become bytes by one scale and zero a layer (Jacob et al. 2018, [arXiv 1712.05877](https://arxiv.org/abs/1712.05877),
//! section 2.1), weights whole numbers of seven bits by one scale an output; sums are exact, and what follows them is in f32.

use std::sync::{Arc, OnceLock};

use crate::kernels::epilogue::Epilogue;
use crate::kernels::quantized::{PackedWeights, round_weights};
use crate::problem::Problem;
use crate::run::{Scope, within};

/// The values of a convolution's input that bytes stand for, 0 among them; those outside become the nearest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputRange {
    /// The least, at most 0.
    pub low: f32,
    /// The largest, at least 0.
    pub high: f32,
}

/// How the convolutions of a model are computed in eight bits, on the CPU.
///
/// It belongs to one model with its weights, which are packed at its first run.
#[derive(Clone, Debug)]
pub struct Quantization {
    layers: Arc<Vec<Layer>>,
}

impl Quantization {
    /// Takes the input ranges of a model's convolutions, in the order in which it calls them.
    pub fn new(ranges: &[InputRange]) -> Self {
        let layers = ranges.iter().map(|range| Layer {
            range: *range,
            weights: OnceLock::new(),
        });
        Self {
            layers: Arc::new(layers.collect()),
        }
    }

    /// Input channels of each group below which a convolution stays in f32: the stem, whose pixels need more digits.
    pub const FEWEST_CHANNELS: usize = 16;

    /// The nearest whole numbers of the weights of so many outputs, and the scale of each output.
    pub fn round_weights(weights: &[f32], outputs: usize) -> (Vec<i8>, Vec<f32>) {
        round_weights(weights, outputs)
    }

    /// The ranges, in the order of the calls.
    pub fn ranges(&self) -> impl Iterator<Item = InputRange> {
        self.layers.iter().map(|layer| layer.range)
    }

    /// Runs the model, or another that calls the same convolutions, in eight bits: all but those in groups and those of
    /// few channels, which stay in f32.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        within(Scope::Quantized(Arc::clone(&self.layers)), work).0
    }
}

/// What the inputs of a model's convolutions hold.
#[derive(Debug, Default)]
pub struct InputHistograms(Vec<Histogram>);

impl InputHistograms {
    /// Runs the model, and counts what its convolutions are given.
    pub fn observe<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let (result, scope) = within(Scope::Observed(std::mem::take(&mut self.0)), work);
        if let Some(Scope::Observed(histograms)) = scope {
            self.0 = histograms;
        }
        result
    }

    /// The ranges whose bytes are nearest to what was counted, in the order of the calls.
    pub fn ranges(&self) -> Vec<InputRange> {
        self.0.iter().map(Histogram::best_range).collect()
    }
}

#[derive(Debug)]
pub(crate) struct Layer {
    range: InputRange,
    weights: OnceLock<PackedWeights>,
}

impl Layer {
    /// The output in eight bits, if the problem is one of those that pay.
    pub(crate) fn forward(
        &self,
        problem: &Problem,
        input: &[f32],
        weights: &[f32],
        end: Epilogue<'_>,
    ) -> Option<Vec<f32>> {
        if problem.options.groups > 1 || problem.inputs < Quantization::FEWEST_CHANNELS {
            return None;
        }
        let pack = || PackedWeights::new(problem, weights, self.range);
        let weights = self.weights.get_or_init(pack);
        Some(weights.forward(problem, input, end))
    }
}

/// Bits of a float that tell its bin: all but the sign, the exponent and four digits of the mantissa are left out, so that
/// bins are a sixteenth of their values wide.
const BIN_SHIFT: u32 = 19;

/// How often values of each bin occur.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    extremes: InputRange,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; 1 << (32 - BIN_SHIFT)],
            extremes: InputRange {
                low: 0.0,
                high: 0.0,
            },
        }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, values: &[f32]) {
        for value in values {
            self.counts[(value.to_bits() >> BIN_SHIFT) as usize] += 1;
        }
        let finite = values.iter().copied().filter(|value| value.is_finite());
        for value in finite {
            self.extremes.low = self.extremes.low.min(value);
            self.extremes.high = self.extremes.high.max(value);
        }
    }

    /// The middle of each bin that has values, and how many.
    fn bins(&self) -> impl Iterator<Item = (f32, f64)> {
        let bins = (0_u32..).zip(&self.counts).filter(|(_, count)| **count > 0);
        let bins = bins.map(|(bin, count)| {
            let middle = f32::from_bits((bin << BIN_SHIFT) | (1 << (BIN_SHIFT - 1)));
            (middle, *count as f64)
        });
        bins.filter(|(middle, _)| middle.is_finite())
    }

    /// The part of the extremes for which rounding and clipping have the least squared error: few large values may cost
    /// all others their digits.
    fn best_range(&self) -> InputRange {
        /// Shares of the extremes that are tried: from a twentieth on.
        const SHARES: u16 = 20;
        let shares = (1..=SHARES).map(|share| f32::from(share) / f32::from(SHARES));
        let ranges = shares.map(|share| InputRange {
            low: self.extremes.low * share,
            high: self.extremes.high * share,
        });
        let errors = ranges.map(|range| (range, self.squared_error(range)));
        let best = errors.min_by(|(_, a), (_, b)| a.total_cmp(b));
        best.map_or(self.extremes, |(range, _)| range)
    }

    fn squared_error(&self, range: InputRange) -> f64 {
        let step = f64::from(range.high - range.low) / 255.0;
        let errors = self.bins().map(|(value, count)| {
            let beyond = f64::from(value - value.clamp(range.low, range.high));
            count * (beyond.powi(2) + step.powi(2) / 12.0)
        });
        errors.sum()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use burn::tensor::{Device, Tensor, TensorData};
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::matrix::has_dot_products;
    use crate::run::Step;
    use crate::shape::{Arithmetic, ConvOptions, Maps};
    use crate::weights::normal_values;
    use crate::{FusedEpilogue, Levels, conv2d_levels, conv2d_with_epilogue};

    fn tensor<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
        let values = normal_values(shape.iter().product(), 0, name);
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    /// A model of three convolutions: one of few channels, one of all parts, one over levels.
    fn model(images: &Tensor<4>) -> Vec<f32> {
        let stem = FusedEpilogue {
            relu: true,
            ..FusedEpilogue::NOTHING
        };
        let map = conv2d_with_epilogue(
            images.clone(),
            tensor("stem", [24, 3, 3, 3]),
            ConvOptions::new(2, 1),
            stem,
        );
        let [batch, height, width, _] = map.dims();
        let end = FusedEpilogue {
            scale: Some(tensor("scale", [20])),
            bias: Some(tensor("bias", [20])),
            residual: Some(tensor("residual", [batch, height, width, 20])),
            relu: false,
            in_f32: false,
        };
        let weight = tensor("weight", [20, 24, 3, 3]) * 0.1;
        let map = conv2d_with_epilogue(map, weight, ConvOptions::new(1, 1), end);
        let levels = Levels::pack([map.clone(), map.slice([0..batch, 0..2, 0..3])]);
        let end = FusedEpilogue::NOTHING;
        let output = conv2d_levels(
            levels,
            tensor("output", [7, 20, 1, 1]),
            ConvOptions::new(1, 0),
            end,
        );
        values(output.values)
    }

    fn off(found: &[f32], expected: &[f32]) -> f64 {
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|it| it * it).sum::<f64>();
        let pairs = found.iter().zip(expected);
        let off = square(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
        (off / square(&mut expected.iter().map(|it| f64::from(*it)))).sqrt()
    }

    #[test]
    fn a_model_in_eight_bits_is_near_to_itself() {
        let images = tensor("images", [2, 19, 22, 3]);
        let expected = model(&images);
        let mut histograms = InputHistograms::default();
        assert_eq!(histograms.observe(|| model(&images)), expected);
        let ranges = histograms.ranges();
        assert_eq!(ranges.len(), 3);
        assert!(ranges[0].low < -1.0 && ranges[1].low == 0.0 && ranges[2].low < -1.0);

        let quantization = Quantization::new(&ranges);
        let found = quantization.run(|| model(&images));
        let first = off(&found, &expected);
        assert!((1e-3..4e-2).contains(&first), "{first}");
        assert_eq!(quantization.run(|| model(&images)), found, "packed");
        assert_eq!(model(&images), expected, "outside of a run");
        assert_eq!(quantization.ranges().collect::<Vec<_>>(), ranges);
    }

    #[test]
    fn a_panic_ends_the_scope() {
        let quantization = Quantization::new(&[]);
        let run = AssertUnwindSafe(|| quantization.run(|| panic!("on purpose")));
        let panicked = std::panic::catch_unwind(run);
        assert!(panicked.is_err());
        assert!(Step::next().is_none());
    }

    /// One value of 1000 among a million from −1 to 1: the error of a range up to x, (1000 − x)² + 10⁶ (x / 255)² / 12, is
    /// least at x = 1000 / (1 + 10⁶ / (12 · 255²)) = 438. Where there are 10,000 of them, at 1000.
    #[test]
    fn a_rare_value_is_clipped_and_a_frequent_one_is_not() {
        let mut histogram = Histogram::default();
        let many: Vec<f32> = (-500_000..500_000).map(|it| it as f32 / 5e5).collect();
        histogram.add(&many);
        histogram.add(&[1000.0, f32::NAN, f32::INFINITY]);
        assert_eq!(histogram.best_range().high, 450.0);
        histogram.add(&vec![1000.0; 10_000]);
        assert_eq!(histogram.best_range().high, 1000.0);
    }

    proptest! {
        /// Whole numbers that have bytes of their own, times whole weights of seven bits: what comes out is exact, on any
        /// CPU.
        #[test]
        fn what_has_bytes_is_exact(
            size in (1_usize..7, 1_usize..7),
            channels in 1_usize..40,
            outputs in 1_usize..80,
            kernel in prop::sample::select(vec![1_usize, 3]),
            stride in 1_usize..3,
            dilation in 1_usize..3,
            zero in 0_u8..=255,
            seed: u64,
        ) {
            let maps = Maps::levels(2, &[[size.0, size.1], [2, 5]]);
            let pixels = maps.pixels();
            let options = ConvOptions {
                arithmetic: Arithmetic { winograd: false, ..Arithmetic::STANDARD },
                dilation: [dilation, 1],
                ..ConvOptions::new(stride, kernel / 2 * dilation)
            };
            let problem = Problem::new(maps, channels, [outputs, channels, kernel, kernel], options);
            let sample = |count: usize, name: &str, half: f32| -> Vec<f32> {
                let values = normal_values(count, seed, name).into_iter();
                values.map(|it| (it * half / 3.0).round().clamp(-half, half)).collect()
            };
            let (low, high) = (-f32::from(zero), 255.0 - f32::from(zero));
            let input = sample(pixels * channels, "input", 255.0);
            let input: Vec<f32> = input.into_iter().map(|it| it.clamp(low, high)).collect();
            let mut weights = sample(outputs * channels * kernel * kernel, "weights", 63.0);
            // The scale of each output is 1.
            let each = channels * kernel * kernel;
            weights.iter_mut().step_by(each).for_each(|weight| *weight = 63.0);
            let range = InputRange { low, high };
            let found = [false, has_dot_products()].map(|kernel| {
                let packed = PackedWeights::with_kernel(&problem, &weights, range, kernel);
                packed.forward(&problem, &input, Epilogue::default())
            });
            prop_assert_eq!(&found[0], &found[1]);
            let expected = problem.forward(&input, &weights, Epilogue::default());
            for (found, expected) in found[0].iter().zip(&expected) {
                prop_assert!((found - expected).abs() <= 0.5_f32.max(expected.abs() * 1e-6), "{found} {expected}");
            }
        }
    }
}
