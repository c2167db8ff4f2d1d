//! The two subnets, with the same weights on every level.

use burn::tensor::Tensor;
use retinanet_heads::Subnet;

use crate::ExportError;
use crate::graph::{GraphBuilder, Setting, Value};
use crate::layers::{Convolution, GroupNormalization, relu};

/// The subnet's values on each level, `[batch, cells * anchors_per_cell, values_per_anchor]`. Its weights stand in the
/// graph once.
pub(crate) fn subnet(
    graph: &mut GraphBuilder,
    name: &str,
    subnet: &Subnet,
    levels: &[Value],
) -> Result<Vec<Value>, ExportError> {
    graph.within(name, |graph| {
        let mut layers = Vec::new();
        for (place, conv) in subnet.convs.iter().enumerate() {
            let convolution = Convolution::new(graph, &format!("convs.{place}"), conv)?;
            let norm = subnet.norms.get(place);
            let norm =
                norm.map(|norm| GroupNormalization::new(graph, &format!("norms.{place}"), norm));
            layers.push((convolution, norm));
        }
        let output = Convolution::new(graph, "output", &subnet.output)?;
        let on_level = |(place, level): (usize, &Value)| {
            graph.within(&format!("level.{place}"), |graph| {
                let mut hidden = level.clone();
                for (convolution, norm) in &layers {
                    hidden = convolution.apply(graph, &hidden);
                    if let Some(norm) = norm {
                        hidden = norm.apply(graph, &hidden);
                    }
                    hidden = relu(graph, &hidden);
                }
                let map = output.apply(graph, &hidden);
                let values = by_anchor(graph, &map, subnet.values_per_anchor);
                match &subnet.scales {
                    Some(scales) => {
                        let scale = scales.val().narrow(0, place, 1);
                        scaled(graph, &values, scale, subnet)
                    }
                    None => values,
                }
            })
        };
        Ok(levels.iter().enumerate().map(on_level).collect())
    })
}

/// The values with the level's factor on those that have one.
fn scaled(graph: &mut GraphBuilder, values: &Value, scale: Tensor<1>, subnet: &Subnet) -> Value {
    let scale = graph.parameter("scale", scale, &[]);
    let unscaled = subnet.values_per_anchor - subnet.scaled_values;
    if unscaled == 0 {
        return graph.op("Mul", &[values, &scale], &[]);
    }
    let lengths = graph.ints(&[subnet.scaled_values as i64, unscaled as i64]);
    let axis = [("axis", Setting::Int(-1))];
    let [boxes, rest] = graph.op_with_outputs("Split", &[values, &lengths], &axis);
    let boxes = graph.op("Mul", &[&boxes, &scale], &[]);
    graph.op("Concat", &[&boxes, &rest], &axis)
}

/// From `[batch, anchors_per_cell * values, height, width]` to the order of the anchors: row by row, column by column, in
/// a cell anchor by anchor.
fn by_anchor(graph: &mut GraphBuilder, map: &Value, values: usize) -> Value {
    let channels_last = graph.op(
        "Transpose",
        &[map],
        &[("perm", Setting::Ints(&[0, 2, 3, 1]))],
    );
    let shape = graph.ints(&[0, -1, values as i64]);
    graph.op("Reshape", &[&channels_last, &shape], &[])
}
