//! The settings that a graph must follow.

use std::path::Path;

use proptest::prelude::*;
use retinanet_detector::DetectorConfig;
use retinanet_experiment::load_config;
use retinanet_onnx::{OnnxOptions, PixelType};
use serde_json::{Value, json};

use super::case::Case;

/// The detector of a config's text.
pub(super) fn of_config(text: &str) -> DetectorConfig {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    fs_err::write(file.path(), text).unwrap();
    of_file(file.path())
}

/// The detector of a config's file.
pub(super) fn of_file(path: &Path) -> DetectorConfig {
    load_config(path, &[]).unwrap().detector().unwrap()
}

fn config(model: &Value, decode: &Value, images: &Value) -> DetectorConfig {
    let config = json!({ "model": model, "decode": decode, "images": images });
    serde_json::from_value(config).unwrap()
}

/// Any detector that fits into a second.
pub(super) fn any_case() -> impl Strategy<Value = Case> {
    let sizes = (1_usize..9, 1_usize..4, 40_u32..200, 40_u32..200);
    (
        any_model(),
        any_decode(),
        any_images(),
        any_options(),
        sizes,
        any::<u16>(),
    )
        .prop_map(
            |(model, decode, images, options, (classes, batch, height, width), seed)| Case {
                config: config(&model, &decode, &images),
                classes,
                batch,
                size: [height, width],
                photos: None,
                options,
                seed: seed.into(),
            },
        )
}

fn any_options() -> impl Strategy<Value = OnnxOptions> {
    (any::<bool>(), any::<bool>()).prop_map(|(bytes, fold)| OnnxOptions {
        input: if bytes {
            PixelType::Uint8
        } else {
            PixelType::Float32
        },
        fold,
        ..OnnxOptions::default()
    })
}

fn any_model() -> impl Strategy<Value = Value> {
    let backbones = prop::sample::select(vec![
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnext50_32x4d",
        "wide_resnet50_2",
    ]);
    let norms = prop::sample::select(vec![
        "frozen_batch_norm",
        "fixed_statistics",
        "batch_norm",
        "group_norm",
    ]);
    let epsilon = prop::sample::select(vec![0.0, 1e-5, 1e-3]);
    let channels = prop::sample::select(vec![(8, 64), (16, 96), (4, 128)]);
    (
        (backbones, norms, epsilon, channels),
        any::<[bool; 5]>(),
        any_head(),
        any_anchors(),
        any_coder(),
    )
        .prop_map(|(network, switches, head, mut anchors, coder)| {
            let (backbone, norm, norm_epsilon, (width, fpn_channels)) = network;
            let [stride_in_1x1, from_p5, relu_before_p7, bottom_up_path, p2] = switches;
            // Thin random networks of group norms make much of rounding: groups of equal values are divided by ε
            // alone, and behind 101 layers, or 50 of narrow groups, onnxruntime and OpenVINO differ from each other by
            // more than 1e-4.
            let (norm_epsilon, backbone) = match (norm, backbone) {
                ("group_norm", "resnet101" | "resnext50_32x4d") => (1e-5, "resnet18"),
                ("group_norm", other) => (f64::max(norm_epsilon, 1e-5), other),
                (_, other) => (norm_epsilon, other),
            };
            if p2 {
                anchors["sizes"] = json!([16, 32, 48, 64, 96, 128]);
            }
            json!({
                "backbone": backbone,
                "norm": norm,
                "norm_epsilon": norm_epsilon,
                "width": width,
                "fpn_channels": fpn_channels,
                "stride_in_1x1": stride_in_1x1,
                "p6_from": if from_p5 { "p5" } else { "c5" },
                "relu_before_p7": relu_before_p7,
                "bottom_up_path": bottom_up_path,
                "finest_level": if p2 { "p2" } else { "p3" },
                "head": head,
                "anchors": anchors,
                "box_coder": coder,
            })
        })
}

fn any_coder() -> impl Strategy<Value = Value> {
    let deltas = (prop::array::uniform4(0.5_f64..10.0), any::<bool>()).prop_map(
        |(weights, limit_shrinking)| {
            json!({ "kind": "deltas", "weights": weights, "limit_shrinking": limit_shrinking })
        },
    );
    let distances = (0.5_f64..10.0, prop::option::of(2_u64..20)).prop_map(|(units, bins)| {
        let mut coder = json!({ "kind": "distances", "units_per_side": units });
        if let Some(bins) = bins {
            coder["bins"] = json!(bins);
        }
        coder
    });
    prop_oneof![deltas, distances]
}

fn any_head() -> impl Strategy<Value = Value> {
    let channels = prop::option::of(prop::sample::select(vec![64, 80]));
    let switches = any::<[bool; 5]>();
    (0..4, channels, switches).prop_map(|(depth, channels, switches)| {
        let [norm, bias, softmax, centerness, level_scales] = switches;
        let mut head = json!({
            "depth": depth,
            "norm": if norm { "group_norm" } else { "none" },
            "conv_bias": bias,
            "prior": 0.2,
            "scores": if softmax { "softmax" } else { "sigmoid" },
            "centerness": centerness,
            "level_scales": level_scales,
        });
        if let Some(channels) = channels {
            head["channels"] = json!(channels);
        }
        head
    })
}

fn any_anchors() -> impl Strategy<Value = Value> {
    let ratios = prop::collection::vec(0.3_f64..3.0, 1..4);
    (1..4, ratios, any::<[bool; 4]>()).prop_map(
        |(scales, aspect_ratios, [middle, rounded, by_ratio, measured])| {
            json!({
                "sizes": [24, 32, 64, 96, 160],
                "scales_per_octave": scales,
                "aspect_ratios": aspect_ratios,
                "center": if middle { "middle" } else { "corner" },
                "rounding": if rounded { "torchvision" } else { "exact" },
                "order": if by_ratio { "ratio_major" } else { "size_major" },
                "spacing": if measured { "measured" } else { "stride" },
            })
        },
    )
}

fn any_decode() -> impl Strategy<Value = Value> {
    let thresholds = (0.02_f64..0.5, prop::option::of(0.0_f64..0.3));
    let counts = (20..400, 5..120);
    (thresholds, counts, 0.2_f64..0.9, any::<[bool; 3]>()).prop_map(
        |((threshold, coarsest), (top_k, detections), iou, [agnostic, clip, drop])| {
            let mut decode = json!({
                "score_threshold": threshold,
                "pre_nms_top_k": top_k,
                "max_detections": detections,
                "nms": { "kind": "hard", "iou": iou },
                "class_agnostic": agnostic,
                "clip_before_nms": clip,
                "drop_empty": drop,
            });
            if let Some(coarsest) = coarsest {
                decode["coarsest_score_threshold"] = json!(coarsest);
            }
            decode
        },
    )
}

fn any_images() -> impl Strategy<Value = Value> {
    let divisor = prop::sample::select(vec![1, 32, 64, 128]);
    (divisor, any::<bool>()).prop_map(|(size_divisor, bgr)| {
        json!({
            "size_divisor": size_divisor,
            "normalization": {
                "channels": if bgr { "bgr" } else { "rgb" },
                "mean": [100.0, 110.0, 120.0],
                "std": [50.0, 60.0, 70.0],
            },
        })
    })
}
