//! Against numbers of mmdetection's, as `scripts/make_mmdetection_fixtures.py` stored them.

use burn::tensor::{Device, Tensor, TensorData};
use retinanet_anchors::{AnchorConfig, Assignment, AtssConfig, Lengths};
use retinanet_boxes::BoundingBox;
use retinanet_criterion::{
    ClassLoss, ClassLossConfig, PredictionForm, QualityFocalConfig, VarifocalConfig,
};
use retinanet_settings::Whole;
use serde::Deserialize;

#[derive(Deserialize)]
struct SoftTargets {
    classes: usize,
    logits: Vec<f32>,
    targets: Vec<f32>,
    quality_focal: Told,
    varifocal: Told,
}

/// What a loss of them is.
#[derive(Deserialize)]
struct Told {
    sum: f32,
    gradients: Vec<f32>,
}

#[test]
fn losses_with_soft_targets_are_the_same() {
    let stored: SoftTargets =
        serde_json::from_str(include_str!("../fixtures/mmdetection/soft_targets.json")).unwrap();
    let device = Device::flex().autodiff();
    let shape = [1, stored.logits.len() / stored.classes, stored.classes];
    let tensor =
        |values: &[f32]| Tensor::<3>::from_data(TensorData::new(values.to_vec(), shape), &device);
    for (config, expected) in [
        (
            ClassLossConfig::QualityFocal(QualityFocalConfig::default()),
            stored.quality_focal,
        ),
        (
            ClassLossConfig::Varifocal(VarifocalConfig::default()),
            stored.varifocal,
        ),
    ] {
        let ClassLoss::Quality(loss) = config.init(PredictionForm::default()).unwrap() else {
            panic!("{config:?}")
        };
        let logits = tensor(&stored.logits).require_grad();
        let sum = loss.forward(logits.clone(), tensor(&stored.targets)).sum();
        let gradients = logits.grad(&sum.backward()).unwrap().into_data();
        let sum = sum.into_scalar::<f32>();
        assert!((sum - expected.sum).abs() < 1e-5 * expected.sum, "{sum}");
        let gradients: Vec<f32> = gradients.try_to_vec().unwrap();
        for (found, expected) in gradients.iter().zip(&expected.gradients) {
            assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
        }
    }
}

#[derive(Deserialize)]
struct Scene {
    height: usize,
    width: usize,
    boxes: Vec<[f32; 4]>,
    /// Anchors, and the boxes that they are objects of.
    objects: Vec<(usize, usize)>,
}

#[test]
fn atss_makes_objects_of_the_same_anchors() {
    const STRIDES: [usize; 5] = [8, 16, 32, 64, 128];
    let scenes: Vec<Scene> =
        serde_json::from_str(include_str!("../fixtures/mmdetection/atss.json")).unwrap();
    assert!(scenes.len() > 30);
    let config = AnchorConfig {
        sizes: Lengths::literal(&STRIDES.map(|stride| 8.0 * stride as f32)),
        scales_per_octave: Whole::literal(1),
        aspect_ratios: Lengths::literal(&[1.0]),
        ..AnchorConfig::default()
    };
    let generator = config.init(&STRIDES).unwrap();
    let assigner = AtssConfig::default().init();
    for (place, scene) in scenes.into_iter().enumerate() {
        let anchors = generator.generate(scene.height, scene.width);
        let boxes: Vec<_> = scene.boxes.into_iter().map(BoundingBox::from).collect();
        let assignments = assigner.assign(&anchors, &boxes).into_iter().enumerate();
        let objects: Vec<_> = assignments
            .filter_map(|(anchor, assignment)| match assignment {
                Assignment::Object(index) => Some((anchor, index)),
                Assignment::Background | Assignment::Ignored => None,
            })
            .collect();
        assert_eq!(objects, scene.objects, "scene {place}");
    }
}
