use burn::module::{Module, Param};
use burn::nn::GroupNorm;
use burn::tensor::{Device, Tensor};
use retinanet_convolution::{
    Arithmetic, Conv2d, ConvOptions, FusedEpilogue, Levels, Parameter, WeightDistribution,
    conv2d_levels, group_norm, group_norm_parameters, new_conv2d, new_group_norm,
};
use retinanet_settings::Whole;

use crate::config::{ClassScores, HeadConfig, HeadNorm};

/// The weights of a fresh head (section 4.1, "Initialization").
const WEIGHTS: WeightDistribution = WeightDistribution::Normal { std: 0.01 };

const RELU: FusedEpilogue<Tensor<3>> = FusedEpilogue {
    relu: true,
    ..FusedEpilogue::NOTHING
};

/// Added to the variance by a [`HeadNorm::GroupNorm`].
const NORM_EPSILON: f64 = 1e-5;

impl HeadConfig {
    /// Makes a subnet that gives `classes` logits for each anchor, biased so that every class
    /// starts with probability π; with a softmax, all together. Its weights are a function of the
    /// seed alone.
    pub fn init_class_subnet(
        &self,
        channels_in: usize,
        anchors_per_cell: usize,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Subnet {
        let prior = self.prior.get();
        let foreground = -((1.0 - prior) / prior).ln();
        let bias = match self.scores {
            ClassScores::Sigmoid => foreground,
            ClassScores::Softmax => foreground - (classes as f64).ln(),
        };
        let subnet = self.uninitialised(channels_in, anchors_per_cell, classes, bias, device);
        WEIGHTS.sample(subnet, seed, "class_subnet")
    }

    /// Makes a subnet that gives the values of a box for each anchor, about 0 at first, and behind them its centerness if
    /// that is wanted. Its weights are a function of the seed alone.
    pub fn init_box_subnet(
        &self,
        channels_in: usize,
        boxes: PredictedBoxes,
        seed: u64,
        device: &Device,
    ) -> Subnet {
        let values = boxes.values + usize::from(self.centerness);
        let cell = boxes.anchors_per_cell;
        let mut subnet = self.uninitialised(channels_in, cell, values, 0.0, device);
        if self.level_scales {
            subnet.scales = Some(Param::from_tensor(Tensor::ones([boxes.levels], device)));
            subnet.scaled_values = boxes.values;
        }
        WEIGHTS.sample(subnet, seed, "box_subnet")
    }

    fn uninitialised(
        &self,
        channels_in: usize,
        anchors_per_cell: usize,
        values_per_anchor: usize,
        output_bias: f64,
        device: &Device,
    ) -> Subnet {
        let width = self.channels.map_or(channels_in, Whole::as_usize);
        let depth = self.depth.as_usize();
        let channels_into = |layer: usize| if layer == 0 { channels_in } else { width };
        let convs = (0..depth)
            .map(|layer| {
                let bias = self.conv_bias.then_some(0.0);
                convolution([channels_into(layer), width], bias, device)
            })
            .collect();
        let norms = match self.norm {
            HeadNorm::None => Vec::new(),
            HeadNorm::GroupNorm => (0..depth)
                .map(|_| new_group_norm(width, NORM_EPSILON, device))
                .collect(),
        };
        let channels_out = anchors_per_cell * values_per_anchor;
        Subnet {
            convs,
            norms,
            output: convolution(
                [channels_into(depth), channels_out],
                Some(output_bias),
                device,
            ),
            scales: None,
            values_per_anchor,
            scaled_values: 0,
        }
    }
}

/// What a box subnet predicts.
#[derive(Clone, Copy, Debug)]
pub struct PredictedBoxes {
    /// Anchors at each place of a level.
    pub anchors_per_cell: usize,
    /// Values of a box: four, or their distributions.
    pub values: usize,
    /// Levels of the pyramid.
    pub levels: usize,
}

/// A small fully convolutional network, shared over the pyramid's levels.
///
/// Should be created with [`HeadConfig`].
#[derive(Module, Debug)]
pub struct Subnet {
    /// The hidden convolutions.
    pub convs: Vec<Conv2d>,
    /// As many as `convs`, or none.
    pub norms: Vec<GroupNorm>,
    /// The last convolution.
    pub output: Conv2d,
    /// `[levels]`: each level's factor on the first values of its anchors, if it has one.
    pub scales: Option<Param<Tensor<1>>>,
    /// How many values an anchor has: one for each class, or those of a box and perhaps its centerness.
    pub values_per_anchor: usize,
    /// How many of them have the level's factor.
    pub scaled_values: usize,
}

impl Subnet {
    /// Says what the CPU may do for speed in all convolutions.
    pub fn compute_by(&mut self, arithmetic: Arithmetic) {
        let convolutions = self.convs.iter_mut().chain([&mut self.output]);
        convolutions.for_each(|conv| conv.compute_by(arithmetic));
    }

    /// Adds the subnet's parameters.
    pub fn parameters(&self, into: &mut Vec<Parameter>) {
        let Self {
            convs,
            norms,
            output,
            scales,
            values_per_anchor: _,
            scaled_values: _,
        } = self;
        for conv in convs.iter().chain([output]) {
            conv.parameters(into);
        }
        for norm in norms {
            group_norm_parameters(norm, into);
        }
        into.extend(scales.iter().map(Parameter::of_scales));
    }

    /// Predicts the values of every anchor of all levels, in f32 whatever the precision of the levels.
    ///
    /// # Shapes
    ///
    /// - `levels`: `[batch, cells, channels]`
    /// - output: `[batch, cells * anchors_per_cell, values_per_anchor]`, level by level, row by
    ///   row, in a cell anchor by anchor: the order of the anchors
    pub fn forward(&self, levels: Levels) -> Tensor<3> {
        let mut hidden = levels;
        for (index, conv) in self.convs.iter().enumerate() {
            hidden = match self.norms.get(index) {
                Some(norm) => {
                    let hidden = convolve(conv, hidden, FusedEpilogue::NOTHING);
                    group_norm(norm, hidden, RELU)
                }
                None => convolve(conv, hidden, RELU),
            };
        }
        let end = FusedEpilogue {
            in_f32: true,
            ..FusedEpilogue::NOTHING
        };
        let Levels { values, sizes } = convolve(&self.output, hidden, end);
        let [batch, cells, channels] = values.dims();
        let anchors = cells * channels / self.values_per_anchor;
        let values = values.reshape([batch, anchors, self.values_per_anchor]);
        match &self.scales {
            Some(scales) => self.scaled(values, &scales.val(), &sizes),
            None => values,
        }
    }

    /// The values of every anchor `[batch, anchors, values_per_anchor]`, with their level's factor.
    fn scaled(&self, values: Tensor<3>, scales: &Tensor<1>, sizes: &[[usize; 2]]) -> Tensor<3> {
        let [_, anchors, all] = values.dims();
        let cells: usize = sizes.iter().map(|[height, width]| height * width).sum();
        let per_cell = anchors / cells;
        let of_level = |(level, [height, width]): (usize, &[usize; 2])| {
            let scale = scales.clone().narrow(0, level, 1);
            scale.expand([height * width * per_cell])
        };
        let factors = Tensor::cat(sizes.iter().enumerate().map(of_level).collect(), 0);
        let factors = factors.reshape([1, anchors, 1]);
        let scaled = values.clone().narrow(2, 0, self.scaled_values) * factors;
        if all == self.scaled_values {
            return scaled;
        }
        let rest = values.narrow(2, self.scaled_values, all - self.scaled_values);
        Tensor::cat(vec![scaled, rest], 2)
    }
}

/// With the convolution's bias.
fn convolve(conv: &Conv2d, levels: Levels, end: FusedEpilogue<Tensor<3>>) -> Levels {
    let end = FusedEpilogue {
        bias: conv.bias.as_ref().map(Param::val),
        ..end
    };
    conv2d_levels(levels, conv.weight.val(), conv.options, end)
}

fn convolution(channels: [usize; 2], bias: Option<f64>, device: &Device) -> Conv2d {
    new_conv2d(channels, 3, ConvOptions::new(1, 1), bias, device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::sigmoid;
    use burn::tensor::{Distribution, Tolerance};

    use super::*;
    use crate::Prior;

    fn features(device: &Device) -> Levels {
        let map =
            |side| Tensor::random([2, side, side, 32], Distribution::Normal(0.0, 1.0), device);
        Levels::pack([map(8), map(4)])
    }

    /// Four values for each of so many anchors a cell, on two levels.
    fn deltas_of(anchors_per_cell: usize) -> PredictedBoxes {
        PredictedBoxes {
            anchors_per_cell,
            values: 4,
            levels: 2,
        }
    }

    #[test]
    fn each_level_has_a_factor_on_its_boxes_and_none_on_centerness() {
        let device = Device::flex().autodiff();
        let config = HeadConfig {
            centerness: true,
            level_scales: true,
            ..HeadConfig::default()
        };
        let mut subnet = config.init_box_subnet(32, deltas_of(2), 3, &device);
        let levels = features(&device);
        let scales = subnet.scales.take();
        let plain = subnet.forward(levels.clone());
        assert_eq!(plain.dims(), [2, (8 * 8 + 4 * 4) * 2, 5]);
        subnet.scales = scales
            .map(|scales| scales.map(|_| Tensor::from_floats([2.0, -3.0], &device).require_grad()));
        let scaled = subnet.forward(levels);
        let fine = 8 * 8 * 2;
        for (anchors, factor) in [(0..fine, 2.0), (fine..fine + 4 * 4 * 2, -3.0)] {
            let part = |of: &Tensor<3>, values| of.clone().slice([0..2, anchors.clone(), values]);
            for (values, factor) in [(0..4, factor), (4..5, 1.0)] {
                let expected = part(&plain, values.clone()) * factor;
                part(&scaled, values)
                    .into_data()
                    .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::relative(1e-5));
            }
        }
        // The gradient of a factor is the sum of what it stands before.
        let gradients = scaled.sum().backward();
        let gradient = subnet.scales.unwrap().val().grad(&gradients).unwrap();
        let coarse = plain.slice([0..2, fine..fine + 4 * 4 * 2, 0..4]).sum();
        let [found, expected] = [gradient.slice(1..2).into_data(), coarse.into_data()];
        found.assert_approx_eq::<f32>(&expected, Tolerance::relative(1e-4));
    }

    #[test]
    fn a_fresh_class_subnet_gives_the_prior_on_average() {
        let device = Device::flex();
        device.seed(1);
        for prior in [0.01, 0.1] {
            let config = HeadConfig {
                prior: Prior::literal(prior),
                ..HeadConfig::default()
            };
            let logits = config
                .init_class_subnet(32, 9, 5, 1, &device)
                .forward(features(&device));
            let mean = sigmoid(logits).mean().into_scalar::<f32>();
            assert!(
                (f64::from(mean) / prior - 1.0).abs() < 1e-3,
                "mean probability {mean} for prior {prior}"
            );
        }
    }

    #[test]
    fn a_fresh_softmax_gives_the_prior_to_all_classes_together() {
        let device = Device::flex();
        let config = HeadConfig {
            scores: ClassScores::Softmax,
            ..HeadConfig::default()
        };
        let subnet = config.init_class_subnet(32, 9, 5, 1, &device);
        let bias = subnet.output.bias.as_ref().map(Param::val);
        let odds = bias.unwrap().exp().slice(0..5).sum().into_scalar::<f32>();
        assert!((odds / (1.0 + odds) - 0.01).abs() < 1e-6, "{odds}");
    }

    #[test]
    fn weights_spread_by_a_hundredth_and_biases_are_zero_but_for_the_prior() {
        let device = Device::flex();
        let subnet = HeadConfig::default().init_class_subnet(64, 9, 4, 2, &device);
        for conv in &subnet.convs {
            let std = conv.weight.val().var(0).mean().sqrt().into_scalar::<f32>();
            assert!((std - 0.01).abs() < 5e-4, "{std}");
            let bias = conv.bias.as_ref().map(|bias| bias.val().abs().sum());
            assert_eq!(bias.map(|sum| sum.into_scalar::<f32>()), Some(0.0));
        }
        let bias = subnet.output.bias.as_ref().map(Param::val);
        let expected = Tensor::<1>::full([36], -(99.0_f64.ln()), &device);
        bias.unwrap()
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::default());
    }

    #[test]
    fn values_come_out_in_the_order_of_the_anchors() {
        let device = Device::flex();
        let mut subnet = HeadConfig {
            depth: Whole::literal(0),
            ..HeadConfig::default()
        }
        .init_box_subnet(1, deltas_of(2), 0, &device);
        // The output's channel c is the input shifted by c, so each value tells where it is from.
        subnet.output.weight = subnet.output.weight.map(|_| {
            let mut kernel = [[[[0.0_f32; 3]; 3]; 1]; 8];
            for plane in &mut kernel {
                plane[0][1][1] = 1.0;
            }
            Tensor::from_floats(kernel, &device)
        });
        subnet.output.bias = subnet.output.bias.map(|bias| {
            bias.map(|_| Tensor::from_floats([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], &device))
        });
        let fine = Tensor::<3>::from_floats([[[10.0], [20.0]], [[30.0], [40.0]]], &device);
        let coarse = Tensor::<3>::from_floats([[[50.0]]], &device);
        let levels = Levels::pack([fine.unsqueeze(), coarse.unsqueeze()]);
        let rows: Vec<f32> = subnet.forward(levels).into_data().try_to_vec().unwrap();
        let expected: Vec<f32> = [10.0, 20.0, 30.0, 40.0, 50.0]
            .into_iter()
            .flat_map(|cell| (0..8).map(move |value| cell + 0.1 * value as f32))
            .collect();
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(&expected) {
            assert!((row - expected).abs() < 1e-5, "{rows:?}");
        }
    }

    #[test]
    fn group_norm_fits_any_width() {
        let device = Device::flex();
        for channels in [6, 32, 48] {
            let config = HeadConfig {
                depth: Whole::literal(1),
                channels: Some(Whole::literal(channels as u64)),
                norm: HeadNorm::GroupNorm,
                conv_bias: false,
                ..HeadConfig::default()
            };
            let deltas = config
                .init_box_subnet(32, deltas_of(3), 0, &device)
                .forward(features(&device));
            assert_eq!(deltas.dims(), [2, (8 * 8 + 4 * 4) * 3, 4]);
        }
    }
}
