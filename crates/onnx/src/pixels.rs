//! From pixels to what the backbone reads.

use retinanet_images::{ChannelMean, ChannelOrder, ChannelStd, PreparationConfig};

use crate::PixelType;
use crate::graph::{GraphBuilder, Length, Setting, Value};
use crate::proto::DataType;

/// Images on their way to the backbone.
pub(crate) struct Pixels {
    /// `[batch, 3, height, width]`, normalised, then padded with zeros.
    pub(crate) images: Value,
    /// Height and width before padding, `[2]`.
    pub(crate) size: Value,
}

/// The input `images`, `[batch, 3, height, width]` in RGB with values in `[0, 255]`: normalised, and padded on the right
/// and below to sides that the size divisor divides.
pub(crate) fn pixels(
    graph: &mut GraphBuilder,
    preparation: &PreparationConfig,
    pixel_type: PixelType,
) -> Pixels {
    let data_type = match pixel_type {
        PixelType::Uint8 => DataType::Uint8,
        PixelType::Float32 => DataType::Float,
    };
    let shape = [
        Length::Free("batch"),
        Length::Fixed(3),
        Length::Free("height"),
        Length::Free("width"),
    ];
    let images = graph.input("images", data_type, &shape);
    graph.within("pixels", |graph| {
        let size = sides(graph, &images);
        let numbers = match pixel_type {
            PixelType::Uint8 => graph.cast(&images, DataType::Float),
            PixelType::Float32 => images,
        };
        let normalized = normalize(graph, preparation, &numbers);
        let divisor = preparation.padding.size_divisor.get() as i64;
        Pixels {
            images: pad(graph, &normalized, &size, divisor),
            size,
        }
    })
}

/// Height and width of maps, `[2]`.
pub(crate) fn sides(graph: &mut GraphBuilder, maps: &Value) -> Value {
    let shape = graph.op("Shape", &[maps], &[]);
    let places = graph.ints(&[2, 3]);
    graph.op("Gather", &[&shape, &places], &[])
}

fn normalize(graph: &mut GraphBuilder, preparation: &PreparationConfig, images: &Value) -> Value {
    let normalization = &preparation.normalization;
    let ordered = match normalization.channels {
        ChannelOrder::Rgb => images.clone(),
        ChannelOrder::Bgr => {
            let places = graph.ints(&[2, 1, 0]);
            graph.op("Gather", &[images, &places], &[("axis", Setting::Int(1))])
        }
    };
    let mean = normalization.mean.map(ChannelMean::as_f32);
    let std = normalization.std.map(ChannelStd::as_f32);
    let [mean, std] = [mean, std].map(|values| graph.floats(&values, &[3, 1, 1]));
    let centered = graph.op("Sub", &[&ordered, &mean], &[]);
    graph.op("Div", &[&centered, &std], &[])
}

/// Zeros to the next multiple on the right and below. (`-side mod divisor` says as much in one operator, and tract takes the
/// sign of its result from the wrong side.)
fn pad(graph: &mut GraphBuilder, images: &Value, size: &Value, divisor: i64) -> Value {
    if divisor == 1 {
        return images.clone();
    }
    let [divisors, less] = [divisor, divisor - 1].map(|it| graph.ints(&[it, it]));
    let up = graph.op("Add", &[size, &less], &[]);
    let multiples = graph.op("Div", &[&up, &divisors], &[]);
    let padded = graph.op("Mul", &[&multiples, &divisors], &[]);
    let missing = graph.op("Sub", &[&padded, size], &[]);
    let before_and_other_axes = graph.ints(&[0; 6]);
    let pads = graph.op(
        "Concat",
        &[&before_and_other_axes, &missing],
        &[("axis", Setting::Int(0))],
    );
    let zero = graph.float(0.0);
    graph.op("Pad", &[images, &pads, &zero], &[])
}
