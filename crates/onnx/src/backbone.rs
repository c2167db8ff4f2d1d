//! The residual network (He et al. 2016): C2 to C5.

use retinanet_backbone::{Backbone, ResNet, ResidualBlock};

use crate::ExportError;
use crate::graph::{GraphBuilder, Setting, Value};
use crate::layers::{convolve_and_normalize, relu};

/// The maps C2, C3, C4 and C5.
pub(crate) fn backbone(
    graph: &mut GraphBuilder,
    backbone: &Backbone,
    images: &Value,
) -> Result<[Value; 4], ExportError> {
    let Backbone::ResNet(network) = backbone;
    graph.within("backbone", |graph| resnet(graph, network, images))
}

fn resnet(
    graph: &mut GraphBuilder,
    network: &ResNet,
    images: &Value,
) -> Result<[Value; 4], ExportError> {
    let ResNet { conv1, norm1, .. } = network;
    let stem = convolve_and_normalize(graph, ["conv1", "bn1"], conv1, norm1, images)?;
    let stem = relu(graph, &stem);
    let pooled = graph.op(
        "MaxPool",
        &[&stem],
        &[
            ("kernel_shape", Setting::Ints(&[3, 3])),
            ("strides", Setting::Ints(&[2, 2])),
            ("pads", Setting::Ints(&[1, 1, 1, 1])),
        ],
    );
    let c2 = stage(graph, "layer1", &network.layer1, pooled)?;
    let c3 = stage(graph, "layer2", &network.layer2, c2.clone())?;
    let c4 = stage(graph, "layer3", &network.layer3, c3.clone())?;
    let c5 = stage(graph, "layer4", &network.layer4, c4.clone())?;
    Ok([c2, c3, c4, c5])
}

fn stage(
    graph: &mut GraphBuilder,
    name: &str,
    blocks: &[ResidualBlock],
    input: Value,
) -> Result<Value, ExportError> {
    let mut hidden = input;
    for (place, block) in blocks.iter().enumerate() {
        hidden = graph.within(&format!("{name}.{place}"), |graph| {
            residual_block(graph, block, &hidden)
        })?;
    }
    Ok(hidden)
}

fn residual_block(
    graph: &mut GraphBuilder,
    block: &ResidualBlock,
    input: &Value,
) -> Result<Value, ExportError> {
    let ResidualBlock {
        conv1,
        norm1,
        conv2,
        norm2,
        conv3,
        norm3,
        shortcut,
    } = block;
    let identity = match shortcut {
        Some(shortcut) => {
            let names = ["downsample.0", "downsample.1"];
            convolve_and_normalize(graph, names, &shortcut.conv, &shortcut.norm, input)?
        }
        None => input.clone(),
    };
    let hidden = convolve_and_normalize(graph, ["conv1", "bn1"], conv1, norm1, input)?;
    let hidden = relu(graph, &hidden);
    let mut residual = convolve_and_normalize(graph, ["conv2", "bn2"], conv2, norm2, &hidden)?;
    if let (Some(conv3), Some(norm3)) = (conv3, norm3) {
        let hidden = relu(graph, &residual);
        residual = convolve_and_normalize(graph, ["conv3", "bn3"], conv3, norm3, &hidden)?;
    }
    let sum = graph.op("Add", &[&residual, &identity], &[]);
    Ok(relu(graph, &sum))
}
