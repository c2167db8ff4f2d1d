//! What a graph tells about itself besides its operators.

use retinanet_boxes::ClassList;
use retinanet_detector::{DetectorConfig, SuppressionConfig};
use serde_json::{Value, json};

use crate::proto::StringStringEntry;
use crate::{GraphOutput, OnnxOptions};

/// Names, sizes, normalisation and thresholds: texts as they are, all else as JSON.
pub(crate) fn metadata(
    classes: &ClassList,
    config: &DetectorConfig,
    options: OnnxOptions,
) -> Vec<StringStringEntry> {
    let images = &config.images;
    let normalization = &images.normalization;
    let names: Vec<&str> = classes.iter().map(|(_, class)| &*class.name).collect();
    let ids: Vec<u64> = (classes.iter())
        .map(|(_, class)| class.category.0)
        .collect();
    let mut entries = vec![
        ("retinanet_version", json!(env!("CARGO_PKG_VERSION"))),
        ("classes", json!(names)),
        ("category_ids", json!(ids)),
        ("short_side", json!(images.short_side)),
        ("long_side", json!(images.long_side)),
        ("size_divisor", json!(images.padding.size_divisor)),
        ("interpolation", json!(images.interpolation)),
        ("channels", json!(normalization.channels)),
        ("mean", json!(normalization.mean)),
        ("std", json!(normalization.std)),
        ("box_coder", json!(config.model.box_coder)),
        ("class_scores", json!(config.model.head.scores)),
    ];
    if let (GraphOutput::Detections, SuppressionConfig::Hard(hard)) =
        (options.output, &config.decode.nms)
    {
        entries.extend([
            ("score_threshold", json!(config.decode.score_threshold)),
            ("nms_iou", json!(hard.iou)),
            ("pre_nms_top_k", json!(config.decode.pre_nms_top_k)),
            ("max_detections", json!(config.decode.max_detections)),
        ]);
    }
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let entry = |(key, value): (&str, Value)| StringStringEntry {
        key: key.to_owned(),
        value: text(value),
    };
    entries.into_iter().map(entry).collect()
}
