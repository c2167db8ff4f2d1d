//! Layers before training. Burn's own `init` goes through its `Initializer`, whose orthogonal kind
//! brings matrix products along, for every GPU: 20 MB of a program that never calls them.

use burn::module::{Param, ParamId, RunningState};
use burn::nn::{BatchNorm, GroupNorm};
use burn::tensor::{Device, Tensor};

use crate::conv2d::Conv2d;
use crate::shape::ConvOptions;

/// Groups of a fresh group norm (Wu and He 2018, section 3).
const GROUPS: usize = 32;

/// Makes a square convolution of `[channels_in, channels_out]` whose weights are 0 until they are
/// sampled ([`WeightDistribution`](crate::WeightDistribution)), with a bias of this value.
///
/// # Panics
///
/// Panics if the channels do not divide into the groups.
pub fn new_conv2d(
    [channels_in, channels_out]: [usize; 2],
    kernel: usize,
    options: ConvOptions,
    bias: Option<f64>,
    device: &Device,
) -> Conv2d {
    let groups = options.groups;
    assert!(
        channels_in.is_multiple_of(groups) && channels_out.is_multiple_of(groups),
        "{channels_in} channels to {channels_out} in {groups} groups"
    );
    let shape = [channels_out, channels_in / groups, kernel, kernel];
    Conv2d {
        weight: constant(shape, 0.0, device),
        bias: bias.map(|bias| constant([channels_out], bias, device)),
        options,
    }
}

/// Makes a batch norm that scales by 1 and adds nothing. An `epsilon` of 0 is allowed: torchvision's
/// weights are run with it.
pub fn new_batch_norm(channels: usize, epsilon: f64, device: &Device) -> BatchNorm {
    BatchNorm {
        gamma: constant([channels], 1.0, device),
        beta: constant([channels], 0.0, device),
        training: Param::from_bool(true),
        running_mean: RunningState::new(Tensor::zeros([channels], device)),
        running_var: RunningState::new(Tensor::ones([channels], device)),
        momentum: 0.1,
        epsilon,
    }
}

/// Makes a group norm that scales by 1 and adds nothing, with 32 groups, or the most that divide
/// the channels.
pub fn new_group_norm(channels: usize, epsilon: f64, device: &Device) -> GroupNorm {
    let groups = (1..=GROUPS.min(channels))
        .rev()
        .find(|groups| channels.is_multiple_of(*groups))
        .unwrap_or(1);
    GroupNorm {
        gamma: Some(constant([channels], 1.0, device)),
        beta: Some(constant([channels], 0.0, device)),
        num_groups: groups,
        num_channels: channels,
        epsilon,
        affine: true,
    }
}

/// A parameter that is made when it is first asked for.
fn constant<const D: usize>(shape: [usize; D], value: f64, device: &Device) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, learns| Tensor::full(shape, value, device).set_require_grad(learns),
        device.clone(),
        true,
        shape.into(),
    )
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, ModuleVisitor};
    use burn::nn::conv::Conv2dConfig;
    use burn::nn::{BatchNormConfig, GroupNormConfig, Initializer, PaddingConfig2d};

    use super::*;

    /// Of every parameter: shape, values, and whether it learns.
    #[derive(Default)]
    struct Parameters(Vec<(Vec<usize>, Vec<f32>, bool)>);

    impl ModuleVisitor for Parameters {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            let numbers = value.to_data().try_to_vec().unwrap();
            let learns = value.is_require_grad();
            self.0.push((value.dims().to_vec(), numbers, learns));
        }
    }

    fn parameters<M: Module>(layer: &M) -> Vec<(Vec<usize>, Vec<f32>, bool)> {
        let mut parameters = Parameters::default();
        layer.visit(&mut parameters);
        parameters.0
    }

    #[test]
    fn layers_start_as_burns_do() {
        let device = Device::flex().autodiff();
        let options = ConvOptions {
            groups: 4,
            ..ConvOptions::new(2, 1)
        };
        let ours = new_conv2d([8, 12], 3, options, Some(0.0), &device);
        let burns = Conv2dConfig::new([8, 12], [3, 3])
            .with_stride([2, 2])
            .with_groups(4)
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_initializer(Initializer::Zeros)
            .init(&device);
        assert_eq!(parameters(&ours), parameters(&burns));
        let ours = new_batch_norm(6, 1e-3, &device);
        let burns = BatchNormConfig::new(6).with_epsilon(1e-3).init(&device);
        assert_eq!(parameters(&ours), parameters(&burns));
        let rest = |norm: &BatchNorm| {
            let running = [&norm.running_mean, &norm.running_var];
            let running = running.map(|state| state.value().to_data().try_to_vec::<f32>().unwrap());
            let learns = norm.training.is_enabled();
            (running, learns, norm.momentum, norm.epsilon)
        };
        assert_eq!(rest(&ours), rest(&burns));

        for (channels, groups) in [(256, 32), (36, 18), (7, 7), (1, 1)] {
            let ours = new_group_norm(channels, 1e-5, &device);
            let burns = GroupNormConfig::new(groups, channels).init(&device);
            assert_eq!(parameters(&ours), parameters(&burns));
            let rest = |norm: &GroupNorm| {
                let sizes = (norm.num_groups, norm.num_channels);
                (sizes, norm.epsilon, norm.affine)
            };
            assert_eq!(rest(&ours), rest(&burns));
        }
    }
}
