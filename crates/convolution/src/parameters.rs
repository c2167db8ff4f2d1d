//! What each parameter of a layer is, by the layer's own fields: a new field does not compile before it is named here.

use burn::module::{Param, ParamId};
use burn::nn::{BatchNorm, GroupNorm};
use burn::tensor::Tensor;

use crate::conv2d::Conv2d;

/// What a parameter is to an optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// The weights of a convolution.
    Weight,
    /// The bias of a convolution.
    Bias,
    /// The scale or the bias of a norm.
    Norm,
}

/// A parameter of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its id, by which Burn has gradients and states.
    pub id: ParamId,
    /// What it is.
    pub kind: ParameterKind,
    /// How many numbers it has.
    pub elements: usize,
}

impl Parameter {
    /// Factors that a model learns, as weights.
    pub fn of_scales(param: &Param<Tensor<1>>) -> Self {
        Self::new(param, ParameterKind::Weight)
    }

    fn new<const D: usize>(param: &Param<Tensor<D>>, kind: ParameterKind) -> Self {
        Self {
            id: param.id,
            kind,
            elements: param.lazy_shape().num_elements(),
        }
    }
}

impl Conv2d {
    /// Adds the convolution's parameters.
    pub fn parameters(&self, into: &mut Vec<Parameter>) {
        let Self {
            weight,
            bias,
            options: _,
        } = self;
        into.push(Parameter::new(weight, ParameterKind::Weight));
        into.extend((bias.iter()).map(|bias| Parameter::new(bias, ParameterKind::Bias)));
    }
}

/// Adds a batch norm's parameters; its running statistics are none.
pub fn batch_norm_parameters(norm: &BatchNorm, into: &mut Vec<Parameter>) {
    let BatchNorm {
        gamma,
        beta,
        training: _,
        running_mean: _,
        running_var: _,
        momentum: _,
        epsilon: _,
    } = norm;
    into.extend([gamma, beta].map(|param| Parameter::new(param, ParameterKind::Norm)));
}

/// Adds a group norm's parameters.
pub fn group_norm_parameters(norm: &GroupNorm, into: &mut Vec<Parameter>) {
    let GroupNorm {
        gamma,
        beta,
        num_groups: _,
        num_channels: _,
        epsilon: _,
        affine: _,
    } = norm;
    let params = gamma.iter().chain(beta);
    into.extend(params.map(|param| Parameter::new(param, ParameterKind::Norm)));
}
