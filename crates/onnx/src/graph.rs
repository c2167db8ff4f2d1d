//! A graph under construction: operators, constants, and the values between them.

use burn::tensor::{Tensor, TensorData, f16};

use crate::ExportError;
use crate::proto::{
    self, Attribute, AttributeType, DataType, Dimension, DimensionValue, Graph, Node, TensorShape,
    TensorType, Type, ValueInfo,
};

/// The name of what an operator gives, or of a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value(String);

/// An attribute of an operator.
pub(crate) enum Setting<'a> {
    Int(i64),
    Float(f32),
    Text(&'a str),
    Ints(&'a [i64]),
    Lengths(&'a [usize]),
}

/// A length of an input or output.
pub(crate) enum Length {
    Fixed(usize),
    /// The caller's choice, by name.
    Free(&'static str),
}

/// Builds a graph, operator by operator, in an order that computes it.
#[derive(Default)]
pub(crate) struct GraphBuilder {
    graph: Graph,
    /// The part of the network that is being built, such as `backbone.layer1.0`.
    scope: Vec<String>,
    /// Whether weights of convolutions are kept in half precision, and become f32 as they are read.
    half_weights: bool,
    folds_norms: bool,
}

impl GraphBuilder {
    pub(crate) fn new(half_weights: bool, folds_norms: bool) -> Self {
        Self {
            half_weights,
            folds_norms,
            ..Self::default()
        }
    }

    /// Whether batch norms are folded into the convolutions before them.
    pub(crate) const fn folds_norms(&self) -> bool {
        self.folds_norms
    }

    /// Names what is built inside after this part.
    pub(crate) fn within<T>(&mut self, part: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(part.to_owned());
        let built = build(self);
        self.scope.pop();
        built
    }

    fn unique(&self, kind: &str) -> String {
        let number = self.graph.node.len() + self.graph.initializer.len();
        let mut path = self.scope.clone();
        path.push(format!("{kind}_{number}"));
        path.join(".")
    }

    pub(crate) fn input(&mut self, name: &str, data_type: DataType, shape: &[Length]) -> Value {
        self.graph.input.push(value_info(name, data_type, shape));
        Value(name.to_owned())
    }

    /// Gives a value to the caller, under this name.
    pub(crate) fn output(
        &mut self,
        value: &Value,
        name: &str,
        data_type: DataType,
        shape: &[Length],
    ) {
        self.graph.node.push(Node {
            input: vec![value.0.clone()],
            output: vec![name.to_owned()],
            name: format!("output.{name}"),
            op_type: "Identity".to_owned(),
            attribute: Vec::new(),
        });
        self.graph.output.push(value_info(name, data_type, shape));
    }

    /// An operator with one output.
    pub(crate) fn op(
        &mut self,
        kind: &str,
        inputs: &[&Value],
        settings: &[(&str, Setting<'_>)],
    ) -> Value {
        let [output] = self.op_with_outputs(kind, inputs, settings);
        output
    }

    pub(crate) fn op_with_outputs<const N: usize>(
        &mut self,
        kind: &str,
        inputs: &[&Value],
        settings: &[(&str, Setting<'_>)],
    ) -> [Value; N] {
        let name = self.unique(kind);
        let outputs: [Value; N] = std::array::from_fn(|place| match place {
            0 => Value(name.clone()),
            _ => Value(format!("{name}.{place}")),
        });
        self.graph.node.push(Node {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: outputs.iter().map(|value| value.0.clone()).collect(),
            name,
            op_type: kind.to_owned(),
            attribute: settings.iter().map(attribute).collect(),
        });
        outputs
    }

    /// An input of an operator that is left out.
    pub(crate) const fn absent() -> Value {
        Value(String::new())
    }

    pub(crate) fn cast(&mut self, value: &Value, to: DataType) -> Value {
        self.op("Cast", &[value], &[("to", Setting::Int(to as i64))])
    }

    /// A constant of whole numbers with one axis.
    pub(crate) fn ints(&mut self, values: &[i64]) -> Value {
        self.int_tensor(values, &[values.len()])
    }

    /// A constant whole number without an axis.
    pub(crate) fn int(&mut self, value: i64) -> Value {
        self.int_tensor(&[value], &[])
    }

    pub(crate) fn int_tensor(&mut self, values: &[i64], shape: &[usize]) -> Value {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let name = self.unique("ints");
        self.constant(name, DataType::Int64, shape, bytes)
    }

    pub(crate) fn floats(&mut self, values: &[f32], shape: &[usize]) -> Value {
        let name = self.unique("floats");
        self.constant(name, DataType::Float, shape, f32_bytes(values))
    }

    pub(crate) fn float(&mut self, value: f32) -> Value {
        self.floats(&[value], &[])
    }

    /// A parameter of a norm, or a bias, of this shape; `[channels]` if none is given.
    pub(crate) fn parameter(&mut self, name: &str, values: Tensor<1>, shape: &[usize]) -> Value {
        let name = self.parameter_name(name);
        let values = numbers(&values.into_data());
        let channels = [values.len()];
        let shape = if shape.is_empty() { &channels } else { shape };
        self.constant(name, DataType::Float, shape, f32_bytes(&values))
    }

    /// The weights of a convolution.
    ///
    /// # Errors
    ///
    /// Returns an error if they shall be of half precision and one is too large for that.
    pub(crate) fn weights(&mut self, data: &TensorData) -> Result<Value, ExportError> {
        let name = self.parameter_name("weight");
        let values = numbers(data);
        let shape: Vec<usize> = data.shape().iter().copied().collect();
        if !self.half_weights {
            return Ok(self.constant(name, DataType::Float, &shape, f32_bytes(&values)));
        }
        let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        if let Some(place) = halves.iter().position(|half| !half.is_finite()) {
            let value = values[place];
            return Err(ExportError::TooLargeForHalf { name, value });
        }
        let bytes = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        let stored = self.constant(name, DataType::Float16, &shape, bytes);
        Ok(self.cast(&stored, DataType::Float))
    }

    fn parameter_name(&self, name: &str) -> String {
        let mut path = self.scope.clone();
        path.push(name.to_owned());
        path.join(".")
    }

    fn constant(
        &mut self,
        name: String,
        data_type: DataType,
        shape: &[usize],
        raw_data: Vec<u8>,
    ) -> Value {
        self.graph.initializer.push(proto::Tensor {
            dims: shape.iter().map(|length| *length as i64).collect(),
            data_type: data_type.into(),
            name: name.clone(),
            raw_data,
        });
        Value(name)
    }

    pub(crate) fn finish(self, name: &str) -> Graph {
        Graph {
            name: name.to_owned(),
            ..self.graph
        }
    }
}

/// A parameter's numbers on the host.
fn numbers(data: &TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn attribute((name, setting): &(&str, Setting<'_>)) -> Attribute {
    let named = Attribute {
        name: (*name).to_owned(),
        ..Attribute::default()
    };
    match setting {
        Setting::Int(value) => Attribute {
            i: Some(*value),
            r#type: AttributeType::Int.into(),
            ..named
        },
        Setting::Float(value) => Attribute {
            f: Some(*value),
            r#type: AttributeType::Float.into(),
            ..named
        },
        Setting::Text(text) => Attribute {
            s: Some(text.as_bytes().to_vec()),
            r#type: AttributeType::String.into(),
            ..named
        },
        Setting::Ints(values) => Attribute {
            ints: values.to_vec(),
            r#type: AttributeType::Ints.into(),
            ..named
        },
        Setting::Lengths(values) => Attribute {
            ints: values.iter().map(|value| *value as i64).collect(),
            r#type: AttributeType::Ints.into(),
            ..named
        },
    }
}

fn value_info(name: &str, data_type: DataType, shape: &[Length]) -> ValueInfo {
    let dim = shape.iter().map(|length| Dimension {
        value: Some(match length {
            Length::Fixed(length) => DimensionValue::Fixed(*length as i64),
            Length::Free(name) => DimensionValue::Named((*name).to_owned()),
        }),
    });
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(Type {
            tensor_type: Some(TensorType {
                elem_type: data_type.into(),
                shape: Some(TensorShape { dim: dim.collect() }),
            }),
        }),
    }
}
