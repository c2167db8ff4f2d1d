//! A detector as one [ONNX](https://onnx.ai) graph, from pixels to detections, for onnxruntime, OpenVINO, TensorRT and
//! whatever else reads it.
//!
//! ```text
//! images ─ pixels ─ backbone ─ pyramid ─┬─ class subnet ─┐
//! [batch, 3, height, width]             └─ box subnet ───┴─ candidates ─ detections ─ boxes, scores, labels
//!                             anchors, from the shape ───────┘
//! ```
//!
//! Batch, height and width are the caller's choice with every call: images are normalised and padded in the graph, and
//! anchors are made in it. A file stands for each part, as in the paper.

mod anchors;
mod backbone;
mod boxes;
mod candidates;
#[cfg(feature = "tract")]
mod check;
mod detections;
mod graph;
mod heads;
mod layers;
mod metadata;
mod pixels;
mod proto;
mod pyramid;

#[cfg(feature = "tract")]
pub use check::{CheckError, check_onnx};

use prost::Message;
use retinanet_detector::{Detector, DetectorConfig, ModelError, SuppressionConfig};
use retinanet_settings::SettingError;

use crate::anchors::{LevelAnchors, join};
use crate::boxes::BoxReader;
use crate::candidates::{Candidates, LevelDecoder};
use crate::detections::{Detections, Suppressor};
use crate::graph::{GraphBuilder, Length, Value};
use crate::pixels::sides;
use crate::proto::DataType;

/// The version of ONNX's operators that graphs are made of: what onnxruntime 1.12, OpenVINO 2022.3 and TensorRT 8.6 read,
/// and all after them.
pub const OPSET: i64 = 17;

/// The version of the file's own form that goes with [`OPSET`].
const IR_VERSION: i64 = 8;

/// The most bytes that a message of protobuf may have.
const MOST_BYTES: usize = i32::MAX as usize;

/// How a graph is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnnxOptions {
    /// What the input `images` is made of.
    pub input: PixelType,
    /// What the graph gives.
    pub output: GraphOutput,
    /// Whether batch norms are folded into the convolutions before them: the same numbers but for rounding.
    pub fold: bool,
    /// Whether convolutions' weights are kept as f16, in half the space; what is computed is f32.
    pub half: bool,
}

/// The numbers of an input image, red, green, blue, in `[0, 255]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PixelType {
    /// Bytes.
    #[default]
    Uint8,
    /// Single precision.
    Float32,
}

/// What a graph gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GraphOutput {
    /// `boxes` `[batch, detections, 4]`, `scores` and `labels` `[batch, detections]`, best first, and `num_detections`
    /// `[batch]`: boxes are `[x1, y1, x2, y2]` in pixels of the input, labels count from 0. What stands behind an image's
    /// last detection has a score of 0 and a label of -1.
    #[default]
    Detections,
    /// `logits` `[batch, anchors, classes]`, `deltas` `[batch, anchors, 4]` and `anchors` `[anchors, 4]`, and the logits
    /// `centerness` `[batch, anchors, 1]` where there is one: for what decodes and suppresses by itself.
    Raw,
}

/// The file of a detector, in ONNX's form.
///
/// `config` is the detector's own.
///
/// # Errors
///
/// Returns an error if the graph cannot say what the config says, or if weights do not fit the form.
pub fn to_onnx(
    detector: &Detector,
    config: &DetectorConfig,
    options: OnnxOptions,
) -> Result<Vec<u8>, ExportError> {
    let graph = build(detector, config, options)?;
    let model = proto::Model {
        ir_version: IR_VERSION,
        producer_name: "retinanet".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        opset_import: vec![proto::OperatorSetId {
            domain: String::new(),
            version: OPSET,
        }],
        metadata_props: metadata::metadata(detector.classes(), config, options),
    };
    let bytes = model.encoded_len();
    if bytes > MOST_BYTES {
        return Err(ExportError::TooLarge { bytes });
    }
    Ok(model.encode_to_vec())
}

fn build(
    detector: &Detector,
    config: &DetectorConfig,
    options: OnnxOptions,
) -> Result<proto::Graph, ExportError> {
    let mut graph = GraphBuilder::new(options.half, options.fold);
    let graph_ref = &mut graph;
    let pixels = pixels::pixels(graph_ref, &config.images, options.input);
    let model = detector.model();
    let features = backbone::backbone(graph_ref, model.backbone(), &pixels.images)?;
    let levels = pyramid::pyramid(graph_ref, model.pyramid(), &features)?;
    let logits = heads::subnet(graph_ref, "class_subnet", model.class_subnet(), &levels)?;
    let boxes = heads::subnet(graph_ref, "box_subnet", model.box_subnet(), &levels)?;
    let anchors = graph_ref.within("anchors", |graph| {
        level_anchors(graph, config, &pixels.images, &levels)
    })?;
    let predictions = LevelPredictions {
        logits,
        boxes,
        reader: BoxReader {
            coder: config.model.box_coder.init(),
            centerness: config.model.head.centerness,
        },
        anchors,
    };
    match options.output {
        GraphOutput::Raw => raw(graph_ref, &predictions, model.classes()),
        GraphOutput::Detections => {
            let classes = model.classes();
            decoded(graph_ref, config, &predictions, classes, &pixels.size)?;
        }
    }
    Ok(graph.finish("retinanet"))
}

/// What the network says of each level, and of which anchors.
struct LevelPredictions {
    logits: Vec<Value>,
    boxes: Vec<Value>,
    reader: BoxReader,
    anchors: Vec<LevelAnchors>,
}

fn level_anchors(
    graph: &mut GraphBuilder,
    config: &DetectorConfig,
    images: &Value,
    levels: &[Value],
) -> Result<Vec<LevelAnchors>, ExportError> {
    let generator = config.model.anchor_generator()?;
    let image_size = sides(graph, images);
    let levels = levels.iter().enumerate();
    Ok(levels
        .map(|(level, map)| {
            let sizes = [map, &image_size];
            LevelAnchors::new(graph, &config.model.anchors, &generator, level, sizes)
        })
        .collect())
}

fn raw(graph: &mut GraphBuilder, predictions: &LevelPredictions, classes: usize) {
    let logits = join(graph, &predictions.logits, 1);
    let boxes = join(graph, &predictions.boxes, 1);
    let (deltas, centerness) = predictions.reader.read(graph, &boxes);
    let anchors = predictions.anchors.iter();
    let anchors: Vec<Value> = anchors.map(|anchors| anchors.all(graph)).collect();
    let anchors = join(graph, &anchors, 0);
    let [batch, count] = [|| Length::Free("batch"), || Length::Free("anchors")];
    let of_logits = [batch(), count(), Length::Fixed(classes)];
    graph.output(&logits, "logits", DataType::Float, &of_logits);
    let of_deltas = [batch(), count(), Length::Fixed(4)];
    graph.output(&deltas, "deltas", DataType::Float, &of_deltas);
    let of_anchors = [count(), Length::Fixed(4)];
    graph.output(&anchors, "anchors", DataType::Float, &of_anchors);
    if let Some(centerness) = centerness {
        let of_centerness = [batch(), count(), Length::Fixed(1)];
        graph.output(&centerness, "centerness", DataType::Float, &of_centerness);
    }
}

fn decoded(
    graph: &mut GraphBuilder,
    config: &DetectorConfig,
    predictions: &LevelPredictions,
    classes: usize,
    size: &Value,
) -> Result<(), ExportError> {
    let SuppressionConfig::Hard(hard) = &config.decode.nms else {
        let kind = serde_json::to_value(config.decode.nms);
        let kind = kind.ok().and_then(|nms| nms.get("kind").cloned());
        let allowed = "\"hard\" for a graph that suppresses, since ONNX has no soft suppression; a raw graph leaves it to \
                       who reads it";
        let got = kind.unwrap_or_default();
        return Err(ExportError::Decode(SettingError::new(
            "nms.kind", allowed, got,
        )));
    };
    let levels = (predictions.logits.iter())
        .zip(&predictions.boxes)
        .zip(&predictions.anchors)
        .enumerate();
    let thresholds = config.decode.thresholds(predictions.logits.len());
    let candidates: Vec<Candidates> = levels
        .map(|(level, ((logits, boxes), anchors))| {
            let decoder = LevelDecoder {
                boxes: predictions.reader,
                scores: config.model.head.scores,
                classes,
                threshold: thresholds[level],
                top_k: config.decode.pre_nms_top_k.as_usize(),
            };
            graph.within(&format!("candidates.{level}"), |graph| {
                decoder.candidates(graph, [logits, boxes], anchors)
            })
        })
        .collect();
    let suppressor = Suppressor {
        decode: &config.decode,
        iou: hard.iou.as_f32(),
        classes,
        size,
    };
    let found = graph.within("detections", |graph| {
        let [scores, labels, boxes] = [
            |it: &Candidates| it.scores.clone(),
            |it: &Candidates| it.labels.clone(),
            |it: &Candidates| it.boxes.clone(),
        ]
        .map(|part| {
            let parts: Vec<Value> = candidates.iter().map(part).collect();
            join(graph, &parts, 1)
        });
        let candidates = Candidates {
            scores,
            labels,
            boxes,
        };
        suppressor.detections(graph, candidates)
    });
    give(graph, &found);
    Ok(())
}

fn give(graph: &mut GraphBuilder, found: &Detections) {
    let [batch, count] = [|| Length::Free("batch"), || Length::Free("detections")];
    let of_boxes = [batch(), count(), Length::Fixed(4)];
    graph.output(&found.boxes, "boxes", DataType::Float, &of_boxes);
    let of_each = [batch(), count()];
    graph.output(&found.scores, "scores", DataType::Float, &of_each);
    graph.output(&found.labels, "labels", DataType::Int64, &of_each);
    graph.output(&found.count, "num_detections", DataType::Int64, &[batch()]);
}

/// The detector cannot be written as an ONNX graph.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// ONNX has no operator for how predictions are decoded.
    #[error(transparent)]
    Decode(SettingError),
    /// A weight outgrows f16.
    #[error("`{name}` holds {value}, which half precision has no number for")]
    TooLargeForHalf {
        /// The weights.
        name: String,
        /// The first that is too large.
        value: f32,
    },
    /// Protobuf ends at 2 GiB.
    #[error(
        "the network takes {bytes} bytes, where a file of ONNX has at most 2147483647; a thinner one fits"
    )]
    TooLarge {
        /// What it would take.
        bytes: usize,
    },
    /// The settings make no model.
    #[error(transparent)]
    Model(#[from] ModelError),
}
