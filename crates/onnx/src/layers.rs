//! Convolutions and what normalises them.

use burn::module::Param;
use burn::nn::{BatchNorm, GroupNorm};
use burn::tensor::Tensor;
use retinanet_backbone::Norm;
use retinanet_convolution::{Conv2d, ConvOptions};

use crate::ExportError;
use crate::graph::{GraphBuilder, Setting, Value};

/// A convolution whose weights stand in the graph.
pub(crate) struct Convolution {
    weight: Value,
    bias: Option<Value>,
    /// Height and width of a window.
    kernel: [usize; 2],
    options: ConvOptions,
}

/// A group norm whose parameters stand in the graph.
pub(crate) struct GroupNormalization {
    scale: Option<Value>,
    bias: Option<Value>,
    groups: usize,
    epsilon: f32,
}

impl Convolution {
    /// Lays a convolution's weights down, and its bias where it has one.
    ///
    /// # Errors
    ///
    /// Returns an error if a weight is too large for half precision, where that was asked for.
    pub(crate) fn new(
        graph: &mut GraphBuilder,
        name: &str,
        conv: &Conv2d,
    ) -> Result<Self, ExportError> {
        let bias = conv.bias.as_ref().map(Param::val);
        Self::of(graph, name, conv.weight.val(), bias, conv.options)
    }

    /// Folds a batch norm into a convolution without bias: the weights are multiplied by `γ / √(σ² + ε)`, and the bias
    /// is `β − μ · γ / √(σ² + ε)`.
    fn folded(
        graph: &mut GraphBuilder,
        name: &str,
        conv: &Conv2d,
        norm: &BatchNorm,
    ) -> Result<Self, ExportError> {
        let deviation = (norm.running_var.value_sync() + norm.epsilon).sqrt();
        let scale = norm.gamma.val() / deviation;
        let bias = norm.beta.val() - norm.running_mean.value_sync() * scale.clone();
        let channels = scale.dims()[0];
        let weight = conv.weight.val() * scale.reshape([channels, 1, 1, 1]);
        Self::of(graph, name, weight, Some(bias), conv.options)
    }

    fn of(
        graph: &mut GraphBuilder,
        name: &str,
        weight: Tensor<4>,
        bias: Option<Tensor<1>>,
        options: ConvOptions,
    ) -> Result<Self, ExportError> {
        let [_, _, height, width] = weight.dims();
        graph.within(name, |graph| {
            Ok(Self {
                weight: graph.weights(&weight.into_data())?,
                bias: bias.map(|bias| graph.parameter("bias", bias, &[])),
                kernel: [height, width],
                options,
            })
        })
    }

    pub(crate) fn apply(&self, graph: &mut GraphBuilder, input: &Value) -> Value {
        let ConvOptions {
            stride,
            padding: [vertical, horizontal],
            dilation,
            groups,
            arithmetic: _,
        } = self.options;
        let inputs: Vec<&Value> = [input, &self.weight]
            .into_iter()
            .chain(&self.bias)
            .collect();
        let pads = [vertical, horizontal, vertical, horizontal];
        graph.op(
            "Conv",
            &inputs,
            &[
                ("kernel_shape", Setting::Lengths(&self.kernel)),
                ("strides", Setting::Lengths(&stride)),
                ("pads", Setting::Lengths(&pads)),
                ("dilations", Setting::Lengths(&dilation)),
                ("group", Setting::Int(groups as i64)),
            ],
        )
    }
}

impl GroupNormalization {
    pub(crate) fn new(graph: &mut GraphBuilder, name: &str, norm: &GroupNorm) -> Self {
        let channels = norm.num_channels;
        let [scale, bias] =
            [("weight", &norm.gamma), ("bias", &norm.beta)].map(|(parameter, values)| {
                values.as_ref().map(|values| {
                    graph.within(name, |graph| {
                        graph.parameter(parameter, values.val(), &[channels, 1, 1])
                    })
                })
            });
        Self {
            scale,
            bias,
            groups: norm.num_groups,
            epsilon: norm.epsilon as f32,
        }
    }

    /// `GroupNormalization` scales by groups until opset 21, which few programs read: so each group is normalised as if
    /// it were a channel, and the channels are scaled after that, as PyTorch exports it.
    pub(crate) fn apply(&self, graph: &mut GraphBuilder, input: &Value) -> Value {
        let shape = graph.op("Shape", &[input], &[]);
        let by_group = graph.ints(&[0, self.groups as i64, -1]);
        let grouped = graph.op("Reshape", &[input, &by_group], &[]);
        let ones = graph.floats(&vec![1.0; self.groups], &[self.groups]);
        let zeros = graph.floats(&vec![0.0; self.groups], &[self.groups]);
        let normalized = graph.op(
            "InstanceNormalization",
            &[&grouped, &ones, &zeros],
            &[("epsilon", Setting::Float(self.epsilon))],
        );
        let mut output = graph.op("Reshape", &[&normalized, &shape], &[]);
        for (kind, parameter) in [("Mul", &self.scale), ("Add", &self.bias)] {
            if let Some(parameter) = parameter {
                output = graph.op(kind, &[&output, parameter], &[]);
            }
        }
        output
    }
}

/// A convolution of the pyramid.
///
/// # Errors
///
/// As [`Convolution::new`].
pub(crate) fn convolve(
    graph: &mut GraphBuilder,
    name: &str,
    conv: &Conv2d,
    input: &Value,
) -> Result<Value, ExportError> {
    let convolution = Convolution::new(graph, name, conv)?;
    Ok(graph.within(name, |graph| convolution.apply(graph, input)))
}

/// A convolution of the backbone and its norm. A batch norm is an operator of its own, or folded into the convolution.
///
/// # Errors
///
/// As [`Convolution::new`].
pub(crate) fn convolve_and_normalize(
    graph: &mut GraphBuilder,
    [conv_name, norm_name]: [&str; 2],
    conv: &Conv2d,
    norm: &Norm,
    input: &Value,
) -> Result<Value, ExportError> {
    if let (Norm::Batch(norm) | Norm::FixedStatistics(norm), true) = (norm, graph.folds_norms()) {
        let convolution = Convolution::folded(graph, conv_name, conv, norm)?;
        return Ok(graph.within(conv_name, |graph| convolution.apply(graph, input)));
    }
    let convolved = convolve(graph, conv_name, conv, input)?;
    Ok(match norm {
        Norm::Batch(norm) | Norm::FixedStatistics(norm) => {
            graph.within(norm_name, |graph| batch_norm(graph, norm, &convolved))
        }
        Norm::Group(norm) => {
            let norm = GroupNormalization::new(graph, norm_name, norm);
            graph.within(norm_name, |graph| norm.apply(graph, &convolved))
        }
    })
}

/// With its running statistics.
fn batch_norm(graph: &mut GraphBuilder, norm: &BatchNorm, input: &Value) -> Value {
    let parts = [
        ("weight", norm.gamma.val()),
        ("bias", norm.beta.val()),
        ("running_mean", norm.running_mean.value_sync()),
        ("running_var", norm.running_var.value_sync()),
    ];
    let [scale, bias, mean, variance] = parts.map(|(name, part)| graph.parameter(name, part, &[]));
    graph.op(
        "BatchNormalization",
        &[input, &scale, &bias, &mean, &variance],
        &[("epsilon", Setting::Float(norm.epsilon as f32))],
    )
}

pub(crate) fn relu(graph: &mut GraphBuilder, input: &Value) -> Value {
    graph.op("Relu", &[input], &[])
}
