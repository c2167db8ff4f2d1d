//! The two subnets, with the same weights on every level.

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
                by_anchor(graph, &map, subnet.values_per_anchor)
            })
        };
        Ok(levels.iter().enumerate().map(on_level).collect())
    })
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
