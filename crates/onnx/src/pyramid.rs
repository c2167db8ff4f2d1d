//! The feature pyramid (Lin et al. 2017): P3 to P7, and P2 where there is one.

use retinanet_backbone::{BottomUpStep, FeaturePyramid, P6Source};

use crate::ExportError;
use crate::graph::{GraphBuilder, Setting, Value};
use crate::layers::{convolve, relu};

/// The levels, finest first.
pub(crate) fn pyramid(
    graph: &mut GraphBuilder,
    pyramid: &FeaturePyramid,
    features: &[Value; 4],
) -> Result<Vec<Value>, ExportError> {
    graph.within("pyramid", |graph| levels(graph, pyramid, features))
}

fn levels(
    graph: &mut GraphBuilder,
    pyramid: &FeaturePyramid,
    [c2, c3, c4, c5]: &[Value; 4],
) -> Result<Vec<Value>, ExportError> {
    let top_down5 = convolve(graph, "lateral5", &pyramid.lateral5, c5)?;
    let lateral4 = convolve(graph, "lateral4", &pyramid.lateral4, c4)?;
    let top_down4 = add_upsampled(graph, &lateral4, &top_down5);
    let lateral3 = convolve(graph, "lateral3", &pyramid.lateral3, c3)?;
    let top_down3 = add_upsampled(graph, &lateral3, &top_down4);

    let mut levels = Vec::new();
    if let (Some(lateral), Some(output)) = (&pyramid.lateral2, &pyramid.output2) {
        let lateral2 = convolve(graph, "lateral2", lateral, c2)?;
        let top_down2 = add_upsampled(graph, &lateral2, &top_down3);
        levels.push(convolve(graph, "output2", output, &top_down2)?);
    }
    levels.push(convolve(graph, "output3", &pyramid.output3, &top_down3)?);
    levels.push(convolve(graph, "output4", &pyramid.output4, &top_down4)?);
    levels.push(convolve(graph, "output5", &pyramid.output5, &top_down5)?);
    bottom_up(graph, &pyramid.bottom_up, &mut levels)?;
    let p5 = &levels[levels.len() - 1];
    let p6_input = match pyramid.p6_from {
        P6Source::C5 => c5,
        P6Source::P5 => p5,
    };
    let p6 = convolve(graph, "p6", &pyramid.p6, p6_input)?;
    let p7 = if pyramid.relu_before_p7 {
        let positive = relu(graph, &p6);
        convolve(graph, "p7", &pyramid.p7, &positive)?
    } else {
        convolve(graph, "p7", &pyramid.p7, &p6)?
    };
    levels.extend([p6, p7]);
    Ok(levels)
}

/// Leads the levels up to P5, finest first, up again.
fn bottom_up(
    graph: &mut GraphBuilder,
    steps: &[BottomUpStep],
    levels: &mut [Value],
) -> Result<(), ExportError> {
    let mut finer = levels[0].clone();
    for (index, (step, level)) in steps.iter().zip(&mut levels[1..]).enumerate() {
        let part = format!("bottom_up.{index}");
        let halved = graph.within(&part, |graph| convolve(graph, "down", &step.down, &finer))?;
        finer = graph.op("Add", &[level, &halved], &[]);
        *level = graph.within(&part, |graph| {
            convolve(graph, "output", &step.output, &finer)
        })?;
    }
    Ok(())
}

/// The nearest pixels of the coarser map, as PyTorch's `interpolate(mode="nearest")` has them, added to the finer one.
fn add_upsampled(graph: &mut GraphBuilder, finer: &Value, coarser: &Value) -> Value {
    let sizes = graph.op("Shape", &[finer], &[]);
    let absent = GraphBuilder::absent();
    let upsampled = graph.op(
        "Resize",
        &[coarser, &absent, &absent, &sizes],
        &[
            ("mode", Setting::Text("nearest")),
            (
                "coordinate_transformation_mode",
                Setting::Text("asymmetric"),
            ),
            ("nearest_mode", Setting::Text("floor")),
        ],
    );
    graph.op("Add", &[finer, &upsampled], &[])
}
