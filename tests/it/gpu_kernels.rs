//! What our kernels compute on a GPU, against the CPU's: pixels, the loss over classes, candidates, and the
//! optimisers' steps.

use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use image::{Rgb, RgbImage};
use retinanet_anchors::PyramidAnchors;
use retinanet_boxes::{BoundingBox, Detection};
use retinanet_criterion::{
    BatchTargets, ClassLossConfig, CriterionConfig, LossOptions, PredictionForm,
};
use retinanet_detector::{
    DecodeConfig, ModelConfig, NormKind, Predictions, RetinaNet, images_to_device, pixel_form,
};
use retinanet_experiment::{AdamwConfig, OptimizerConfig, OptimizerKind, SgdConfig};
use retinanet_images::{
    ChannelOrder, Normalization, PixelData, PixelForm, Preparation, PreparationConfig, Prepared,
    Region, View,
};
use retinanet_settings::{Count, Positive};
use retinanet_trainer::{DeviceBatch, Learner, StepOptions};

use crate::backends::{config, images, model, norm, targets, wgpu_device};

const ANCHORS: usize = 1_111;
const CLASSES: usize = 7;

#[test]
fn wgpu_computes_every_class_loss_and_its_gradient() {
    let Some(wgpu) = wgpu_device() else { return };
    for loss in [
        r#"{"kind": "focal"}"#,
        r#"{"kind": "focal", "gamma": 1.0, "alpha": 0.4}"#,
        r#"{"kind": "focal", "gamma": 0.5, "alpha": "none", "label_smoothing": 0.1}"#,
        r#"{"kind": "focal_star"}"#,
        r#"{"kind": "cross_entropy"}"#,
        r#"{"kind": "balanced_cross_entropy", "alpha": 0.75}"#,
    ] {
        let config: ClassLossConfig = serde_json::from_str(loss).unwrap();
        let (expected, gradient) = class_loss(&config, &Device::flex());
        let (found, found_gradient) = class_loss(&config, &wgpu);
        let off = (found / expected - 1.0).abs();
        assert!(off < 3e-7, "{loss}: {found} {expected}");
        let difference: Vec<f32> = (gradient.iter().zip(&found_gradient))
            .map(|(a, b)| a - b)
            .collect();
        let off = norm(&difference) / norm(&gradient);
        assert!(off < 1e-6, "{loss}: the gradient is off by {off:.1e}");
    }
}

/// The loss of two images, of which the second weighs more, and the gradient of the logits; some saturate.
fn class_loss(config: &ClassLossConfig, device: &Device) -> (f64, Vec<f32>) {
    let device = device.clone().autodiff();
    let criterion = CriterionConfig {
        class: config.clone(),
        ..CriterionConfig::default()
    };
    let criterion = criterion.init(PredictionForm::default()).unwrap();
    let values = 2 * ANCHORS * CLASSES;
    let logits: Vec<f32> = (0..values)
        .map(|place| 12.0 * (place as f32 * 0.37).sin())
        .map(|logit| if logit > 11.9 { 120.0 } else { logit })
        .collect();
    let logits = TensorData::new(logits, [2, ANCHORS, CLASSES]);
    let logits = Tensor::<3>::from_data(logits, &device).require_grad();
    let deltas = Tensor::<3>::zeros([2, ANCHORS, 4], &device);
    let unit = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
    let anchors = Arc::new(PyramidAnchors::new([vec![unit; ANCHORS]]));
    let targets = BatchTargets::new(targets(ANCHORS), anchors, &device);
    let options = LossOptions::new(&[0.5, 2.0]);
    let loss = criterion.forward(logits.clone(), deltas, &targets, options);
    // A gradient that is not 1 comes from above.
    let gradients = (loss.class.clone() * 3.0).backward();
    let gradient = logits.grad(&gradients).unwrap();
    (
        f64::from(loss.class.into_scalar::<f32>()),
        gradient.into_data().iter::<f32>().collect(),
    )
}

/// Images alone and smaller than their batch, mirrored, upside down, side by side, and over one another.
#[test]
fn wgpu_makes_the_numbers_of_the_host_from_bytes() {
    let Some(wgpu) = wgpu_device() else { return };
    let plain = |size| View::of(0, Region::whole((50, 30)), size);
    let mut mirrored = plain((61, 37));
    mirrored.mirror();
    let mut turned = plain((33, 20));
    turned.turn_upside_down();
    let mut beside = plain((40, 30));
    beside.pieces.extend(plain((23, 30)).pieces);
    beside.pieces[1].corner = (40, 0);
    beside.size = (63, 30);
    beside.mirror();
    let mixed = mirrored.clone().mix(turned.clone(), 0.3);
    for channels in [ChannelOrder::Rgb, ChannelOrder::Bgr] {
        let config = PreparationConfig {
            normalization: Normalization {
                channels,
                ..Normalization::default()
            },
            ..PreparationConfig::default()
        };
        let preparation = Preparation::new(&config).unwrap();
        let image = |x: u32, y: u32| Rgb([x * 5, y * 8, x * y % 256].map(|value| value as u8));
        let image = Arc::new(RgbImage::from_fn(50, 30, image));
        let views = [&plain((64, 38)), &mirrored, &turned, &beside, &mixed];
        let rendered = views.map(|view| {
            let decoded = |_| Ok::<_, std::convert::Infallible>(Arc::clone(&image));
            view.render(&preparation, decoded).unwrap()
        });
        let numbers = Prepared::new(&rendered, &preparation, PixelForm::Numbers);
        let bytes = Prepared::new(&rendered, &preparation, pixel_form(&wgpu));
        assert!(matches!(bytes.pixels, PixelData::Bytes(_)));
        assert_eq!(bytes.pixels.numbers(), numbers.pixels.numbers());
        for device in [wgpu.clone(), wgpu.clone().autodiff()] {
            let shape = [views.len(), numbers.height, numbers.width];
            let images = images_to_device(&mut bytes.pixels.clone(), shape, &device);
            assert_eq!(images.device().is_autodiff(), device.is_autodiff());
            assert_eq!(images.dims(), [5, 3, 64, 64]);
            let found: Vec<f32> = images.into_data().iter().collect();
            for (found, expected) in found.iter().zip(numbers.pixels.numbers().iter()) {
                let off = (found - expected).abs();
                assert!(
                    off <= expected.abs() / f32::exp2(20.0),
                    "{found} {expected}"
                );
            }
        }
    }
}

/// Few candidates, many, many that are equal, more equal ones than there is room for, and a level without a
/// threshold.
#[test]
fn wgpu_finds_the_candidates_of_the_host() {
    let Some(wgpu) = wgpu_device() else { return };
    for (name, scale, step, config) in [
        ("few", 3.0, 0.0, "{}"),
        ("many", 9.0, 0.0, "{}"),
        ("a small choice", 9.0, 0.0, r#"{"pre_nms_top_k": 7}"#),
        ("some equal", 9.0, 0.25, r#"{"pre_nms_top_k": 400}"#),
        ("all equal", 0.0, 0.0, r#"{"score_threshold": 0.001}"#),
        ("saturated", 60.0, 1.0, r#"{"pre_nms_top_k": 50}"#),
        (
            "no threshold",
            6.0,
            0.0,
            r#"{"coarsest_score_threshold": 0.0, "clip_before_nms": true}"#,
        ),
    ] {
        let config = DecodeConfig {
            // Nothing but the choice of candidates leaves any out.
            nms: serde_json::from_str(r#"{"kind": "hard", "iou": 1.0}"#).unwrap(),
            max_detections: Count::literal(10_000),
            ..serde_json::from_str(config).unwrap()
        };
        let expected = decode(&config, scale, step, &Device::flex());
        assert!(!expected[0].is_empty(), "{name}");
        assert_eq!(decode(&config, scale, step, &wgpu), expected, "{name}");
    }
}

/// The detections of two images of noise; logits are rounded to multiples of `step` if it is above 0.
fn decode(config: &DecodeConfig, scale: f32, step: f32, device: &Device) -> Vec<Vec<Detection>> {
    let anchors = ModelConfig::default()
        .anchor_generator()
        .unwrap()
        .generate(160, 224);
    let levels: Vec<usize> = anchors.levels().map(|level| level.len()).collect();
    let noise = |place: usize| (place as f32 * 12.9898).sin() + (place as f32 * 0.7).cos() * 0.3;
    let logits = (0..2 * anchors.len() * CLASSES).map(|place| scale * noise(place) - 4.6);
    let logits: Vec<f32> = logits
        .map(|logit| {
            if step > 0.0 {
                (logit / step).round() * step
            } else {
                logit
            }
        })
        .collect();
    let deltas: Vec<f32> = (0..2 * anchors.len() * 4).map(noise).collect();
    let predictions = Predictions {
        logits: Tensor::from_data(TensorData::new(logits, [2, anchors.len(), CLASSES]), device),
        boxes: Tensor::from_data(TensorData::new(deltas, [2, anchors.len(), 4]), device),
        level_anchors: levels,
    };
    let decoder = config.init(&ModelConfig::default());
    decoder.decode(predictions, &anchors, &[(224, 160), (200, 150)])
}

#[test]
fn wgpu_updates_weights_as_flex_does() {
    let Some(wgpu) = wgpu_device() else { return };
    for kind in [
        OptimizerKind::Sgd(SgdConfig::default()),
        OptimizerKind::Adamw(AdamwConfig::default()),
    ] {
        for clip_norm in [None, Some(Positive::literal(0.5))] {
            let optimizer = OptimizerConfig {
                kind,
                clip_norm,
                ..OptimizerConfig::default()
            };
            let (expected, norms) = three_steps(&optimizer, &Device::flex());
            let (found, found_norms) = three_steps(&optimizer, &wgpu);
            for (norm, found) in norms.iter().zip(&found_norms) {
                assert!(
                    (found / norm - 1.0).abs() < 1e-3,
                    "{found_norms:?} {norms:?}"
                );
            }
            let difference: Vec<f32> = expected.iter().zip(&found).map(|(a, b)| a - b).collect();
            let off = norm(&difference) / norm(&expected);
            // AdamW steps by the gradient's sign, and of some rounding decides that.
            assert!(off < 2e-2, "{optimizer:?}: off by {off:.1e}");
        }
    }
}

/// By how much three steps move all parameters, and the norms of their gradients.
fn three_steps(optimizer: &OptimizerConfig, device: &Device) -> (Vec<f32>, Vec<f64>) {
    let model = model(&config(NormKind::GroupNorm), device);
    let before = parameters(&model);
    let device = device.clone().autodiff();
    let criterion = CriterionConfig::default().init(PredictionForm::default());
    let mut learner = Learner::new(model, optimizer, criterion.unwrap());
    let norms = (0..3).map(|step| {
        let images = images([2, 64], step, &device);
        let anchors = learner.model().forward(images.clone()).logits.dims()[1];
        let unit = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
        let pyramid = Arc::new(PyramidAnchors::new([vec![unit; anchors]]));
        let targets = BatchTargets::new(targets(anchors), pyramid, &device);
        let batch = DeviceBatch { images, targets };
        let step = learner.step(&[batch], StepOptions::at(1e-3)).unwrap();
        step.gradient_norm
    });
    let norms = norms.collect();
    let after = parameters(learner.model());
    let moved = before
        .iter()
        .zip(after)
        .map(|(before, after)| after - before);
    (moved.collect(), norms)
}

fn parameters(model: &RetinaNet) -> Vec<f32> {
    struct Collector(Vec<f32>);
    impl ModuleVisitor for Collector {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut collector = Collector(Vec::new());
    model.visit(&mut collector);
    collector.0
}
