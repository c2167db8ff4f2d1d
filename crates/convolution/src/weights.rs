//! How weights are sampled: on the host, from a generator of our own, each tensor by its name, so that
//! a seed gives the same bits on every device.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

/// Values that are sampled from one stream of the generator.
const STREAM_VALUES: usize = 4096;

/// The distribution that the weights of convolutions are sampled from.
///
/// Fans are as `PyTorch` counts them: channels in, of one group, times taps; and all channels out
/// times taps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightDistribution {
    /// Normal with a variance of 2 / fan out (He et al. 2015): torchvision's `ResNet`.
    KaimingNormal,
    /// Uniform with a variance of 1 / fan in: detectron2's pyramid, `c2_xavier_fill`.
    XavierUniform,
    /// Normal.
    Normal {
        /// Its standard deviation.
        std: f64,
    },
}

impl WeightDistribution {
    /// Draws the weights of every convolution of a module anew, as a function of the seed, the
    /// module's name and the weights' place in it.
    #[must_use]
    pub fn sample<M: Module>(self, module: M, seed: u64, name: &str) -> M {
        module.map(&mut Drawer {
            distribution: self,
            seed,
            path: vec![name.to_owned()],
        })
    }

    /// The values of weights `[outputs, inputs / groups, height, width]`.
    fn values(self, shape: &[usize], seed: u64, path: &str) -> Vec<f32> {
        let taps: usize = shape[2..].iter().product();
        let (fan_in, fan_out) = ((shape[1] * taps) as f64, (shape[0] * taps) as f64);
        let mut values = vec![0.0; shape.iter().product()];
        let streams = values.par_chunks_mut(STREAM_VALUES).enumerate();
        streams.for_each(|(stream, values)| {
            let random = &mut generator(seed, path, stream as u64);
            match self {
                Self::KaimingNormal => fill_normal(values, (2.0 / fan_out).sqrt(), random),
                Self::XavierUniform => fill_uniform(values, (3.0 / fan_in).sqrt(), random),
                Self::Normal { std } => fill_normal(values, std, random),
            }
        });
        values
    }
}

struct Drawer {
    distribution: WeightDistribution,
    seed: u64,
    path: Vec<String>,
}

impl ModuleMapper for Drawer {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Of what a network is made of, only the weights of convolutions have four axes.
        if D != 4 {
            return param;
        }
        let shape = param.lazy_shape();
        let path = self.path.join(".");
        let values = self.distribution.values(&shape, self.seed, &path);
        param.map(|zeros| {
            let (device, learns) = (zeros.device(), zeros.is_require_grad());
            let sampled = Tensor::from_data(TensorData::new(values, shape), &device);
            sampled.set_require_grad(learns)
        })
    }
}

/// Values of the standard normal distribution, which are a function of seed and name alone.
pub fn normal_values(count: usize, seed: u64, name: &str) -> Vec<f32> {
    WeightDistribution::Normal { std: 1.0 }.values(&[count, 1, 1, 1], seed, name)
}

/// The generator of one stream of one tensor's values. Of `rand` nothing else is used, since only
/// `ChaCha` itself is promised to stay as it is.
fn generator(seed: u64, path: &str, stream: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&xxh3_64(path.as_bytes()).to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(stream);
    generator
}

/// A number from 0 up to 1, without 1.
fn fraction(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 * (0.5_f64).powi(53)
}

fn fill_uniform(values: &mut [f32], bound: f64, random: &mut ChaCha8Rng) {
    for value in values {
        *value = ((2.0 * fraction(random) - 1.0) * bound) as f32;
    }
}

/// Box and Muller's way, with functions that are computed alike on every system.
fn fill_normal(values: &mut [f32], deviation: f64, random: &mut ChaCha8Rng) {
    for pair in values.chunks_mut(2) {
        let radius = (-2.0 * libm::log(1.0 - fraction(random))).sqrt() * deviation;
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * fraction(random));
        for (value, part) in pair.iter_mut().zip([cosine, sine]) {
            *value = (radius * part) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::fresh::new_conv2d;
    use crate::shape::ConvOptions;

    const SHAPE: [usize; 4] = [96, 16, 3, 3];

    fn moments(values: &[f32]) -> [f64; 4] {
        let mean = |power: i32| {
            let sum: f64 = values.iter().map(|v| f64::from(*v).powi(power)).sum();
            sum / values.len() as f64
        };
        [mean(1), mean(2), mean(4), mean(6)]
    }

    #[test]
    fn distributions_have_their_moments() {
        let taps = 9.0;
        let cases: [(_, f64, f64, f64); 3] = [
            (
                WeightDistribution::KaimingNormal,
                2.0 / (96.0 * taps),
                3.0,
                15.0,
            ),
            (
                WeightDistribution::XavierUniform,
                1.0 / (16.0 * taps),
                1.8,
                27.0 / 7.0,
            ),
            (WeightDistribution::Normal { std: 0.01 }, 1e-4, 3.0, 15.0),
        ];
        for (distribution, variance, kurtosis, sixth) in cases {
            let values = distribution.values(&SHAPE, 1, "a.weight");
            let [mean, second, fourth, sixth_moment] = moments(&values);
            let deviation = variance.sqrt();
            assert!(mean.abs() < 0.03 * deviation, "{distribution:?}: {mean}");
            let near = |value: f64, expected: f64, share: f64| {
                assert!(
                    (value / expected - 1.0).abs() < share,
                    "{distribution:?}: {value}"
                );
            };
            near(second, variance, 0.05);
            near(fourth, kurtosis * variance.powi(2), 0.1);
            near(sixth_moment, sixth * variance.powi(3), 0.3);
        }
    }

    /// What a seed gives may never change, or runs could not be repeated with a later version.
    /// The first values are those of a second implementation, `scripts/make_weight_draws.py`.
    #[test]
    fn a_seed_gives_the_same_bits_for_ever() {
        use WeightDistribution::{KaimingNormal, Normal, XavierUniform};
        let normal = Normal { std: 1.0 };
        for (distribution, seed, path, start, first) in [
            (
                normal,
                0,
                "a.weight",
                0,
                [-1.474_572, 0.136_581_42, 0.309_867_44, -1.651_333_7],
            ),
            (
                normal,
                0,
                "a.weight",
                STREAM_VALUES,
                [-1.322_400_7, 0.767_537_95, -2.224_192_4, 0.426_551_97],
            ),
            (
                KaimingNormal,
                7,
                "a.weight",
                0,
                [
                    0.063_018_516,
                    -0.002_368_447_6,
                    0.002_382_022,
                    -0.021_905_575,
                ],
            ),
            (
                XavierUniform,
                7,
                "b.weight",
                0,
                [-0.114_786_185, -0.054_366_47, 0.035_739_92, -0.049_642_216],
            ),
        ] {
            let values = distribution.values(&SHAPE, seed, path);
            assert_eq!(values[start..start + 4], first, "{distribution:?}");
        }
        let hash = |distribution: WeightDistribution| {
            let values = distribution.values(&SHAPE, 7, "b.weight").into_iter();
            xxh3_64(&values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
        };
        let hashes = [normal, KaimingNormal, XavierUniform].map(hash);
        assert_eq!(
            hashes,
            [
                2_525_494_480_464_198_070,
                3_138_224_224_519_698_363,
                3_801_292_593_425_132_422
            ]
        );
    }

    #[test]
    fn seeds_and_names_give_other_values() {
        let normal = WeightDistribution::Normal { std: 1.0 };
        let first = normal.values(&SHAPE, 0, "a.weight");
        assert_ne!(first, normal.values(&SHAPE, 1, "a.weight"));
        assert_ne!(first, normal.values(&SHAPE, 0, "b.weight"));
    }

    #[test]
    fn only_the_weights_of_convolutions_are_sampled() {
        let device = Device::flex().autodiff();
        let conv = new_conv2d([4, 8], 3, ConvOptions::new(1, 1), Some(0.5), &device);
        let bias = conv.bias.as_ref().map(|bias| bias.val().into_data());
        let weight = conv.weight.val().into_data();
        let sampled = WeightDistribution::KaimingNormal.sample(conv.clone().no_grad(), 1, "conv");
        assert_eq!(sampled.bias.map(|bias| bias.val().into_data()), bias);
        assert_ne!(sampled.weight.val().into_data(), weight);
        assert!(!sampled.weight.val().is_require_grad());
        let learning = WeightDistribution::KaimingNormal.sample(conv, 1, "conv");
        assert!(learning.weight.is_require_grad());
    }
}
