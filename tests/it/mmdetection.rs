//! Against numbers of mmdetection's, as `scripts/make_mmdetection_fixtures.py` stored them.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use retinanet_anchors::{AnchorConfig, Assignment, AtssConfig, Lengths};
use retinanet_backbone::{BackboneFeatures, FeaturePyramid, FeaturePyramidConfig};
use retinanet_boxes::{BoundingBox, ClassId, GroundTruth};
use retinanet_convolution::{Conv2d, channels_first, channels_last};
use retinanet_criterion::{
    BatchTargets, ClassLoss, ClassLossConfig, LossOptions, PredictionForm, QualityFocalConfig,
    VarifocalConfig,
};
use retinanet_experiment::{ExperimentConfig, load_config};
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

#[derive(Deserialize)]
struct Heads {
    /// Height and width of the images.
    size: [usize; 2],
    /// Of each image: `[x1, y1, x2, y2, class]`.
    objects: Vec<Vec<[f32; 5]>>,
    classes: usize,
    atss: Head,
    gfl: Head,
    tood: Head,
}

/// What a head was told and what it made of it.
#[derive(Deserialize)]
struct Head {
    /// Values of an anchor behind its logits.
    values: usize,
    /// `[images, anchors, classes + values]`
    predictions: Vec<f32>,
    class_loss: f32,
    box_loss: f32,
    gradients: Vec<f32>,
}

/// With the presets' own settings: anchors, assigner, losses, their weights and what they are divided by.
#[test]
fn heads_make_the_same_losses_of_the_same_predictions() {
    let stored: Heads =
        serde_json::from_str(include_str!("../fixtures/mmdetection/heads.json")).unwrap();
    // Fewer bins than GFL has, and of TOOD what is not its own layers.
    let task_aligned = "\
        [model]\n\
        box_coder = { kind = 'distances' }\n\
        head = { centerness = false }\n\
        [criterion]\n\
        assigner = { kind = 'task_aligned' }\n\
        class = { kind = 'quality_focal' }\n\
        box = { weigh_by = 'equal' }";
    for (preset, more, head) in [
        ("atss", "", &stored.atss),
        ("gfl", "[model]\nbox_coder = { bins = 5 }", &stored.gfl),
        ("atss", task_aligned, &stored.tood),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.toml");
        fs_err::write(&path, format!("preset = \"{preset}\"\n{more}")).unwrap();
        let config = load_config(&path, &[]).unwrap();
        assert_eq!(config.model.values_per_anchor(), head.values, "{preset}");
        stored.compare(&config, head);
    }
}

impl Heads {
    fn compare(&self, config: &ExperimentConfig, head: &Head) {
        let device = Device::flex().autodiff();
        let generator = config.model.anchor_generator().unwrap();
        let anchors = Arc::new(generator.generate(self.size[0], self.size[1]));
        let images = self.objects.len();
        let rows = [images, anchors.len(), self.classes + head.values];
        let predictions = TensorData::new(head.predictions.clone(), rows);
        let predictions = Tensor::<3>::from_data(predictions, &device).require_grad();
        let logits = predictions.clone().narrow(2, 0, self.classes);
        let boxes = (predictions.clone()).narrow(2, self.classes, head.values);

        let assigner = config.target_assigner().unwrap();
        let targets: Vec<_> = (self.objects.iter())
            .map(|objects| {
                let objects: Vec<_> = objects.iter().map(ground_truth).collect();
                assigner.assign(&anchors, &objects)
            })
            .collect();
        let targets = BatchTargets::new(targets, Arc::clone(&anchors), &device);
        let mut criterion = config.criterion().unwrap();
        let weights = criterion.weights(&targets.positives_per_image());
        let options = LossOptions {
            by_level: true,
            ..LossOptions::new(&weights)
        };
        let loss = criterion.forward(logits, boxes, &targets, options);
        let number = |loss: &Tensor<1>| loss.clone().into_scalar::<f32>();
        let of_levels = |part: usize| -> f32 {
            let levels = loss.levels.iter();
            levels.map(|level| number(&level[part])).sum()
        };
        for (found, expected) in [
            (number(&loss.class), head.class_loss),
            (number(&loss.bbox), head.box_loss),
            (of_levels(0), head.class_loss),
            (of_levels(1), head.box_loss),
        ] {
            let off = (found - expected).abs();
            assert!(off < 1e-5 * expected, "{found} and {expected}");
        }
        let gradients = loss.total().backward();
        let gradients = predictions.grad(&gradients).unwrap().into_data();
        let gradients: Vec<f32> = gradients.try_to_vec().unwrap();
        let largest = head
            .gradients
            .iter()
            .fold(0.0_f32, |most, it| most.max(it.abs()));
        for (found, expected) in gradients.iter().zip(&head.gradients) {
            let off = (found - expected).abs();
            assert!(off < 1e-5 * largest, "{found} and {expected}");
        }
    }
}

fn ground_truth(object: &[f32; 5]) -> GroundTruth {
    let [x1, y1, x2, y2, class] = *object;
    GroundTruth {
        bbox: BoundingBox::new(x1, y1, x2, y2),
        class: ClassId(class as u32),
        crowd: false,
    }
}

#[derive(Deserialize)]
struct Pafpn {
    /// Of C2 to C5.
    channels: [usize; 4],
    weights: BTreeMap<String, Stored>,
    maps: [Stored; 4],
    levels: Vec<Stored>,
}

#[derive(Deserialize)]
struct Stored {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Stored {
    fn tensor<const D: usize>(&self) -> Tensor<D> {
        let data = TensorData::new(self.values.clone(), self.shape.clone());
        Tensor::from_data(data, &Device::flex())
    }
}

#[test]
fn a_path_leads_up_again_as_in_pafpn() {
    let stored: Pafpn =
        serde_json::from_str(include_str!("../fixtures/mmdetection/pafpn.json")).unwrap();
    let mut pyramid = FeaturePyramidConfig::new(stored.channels)
        .with_channels(3)
        .with_bottom_up_path(true)
        .init(0, &Device::flex());
    for (name, conv) in stored_convolutions(&mut pyramid) {
        conv.weight = Param::from_tensor(stored.weights[&format!("{name}.conv.weight")].tensor());
        let bias = stored.weights[&format!("{name}.conv.bias")].tensor();
        conv.bias = Some(Param::from_tensor(bias));
    }
    let [c2, c3, c4, c5] = (stored.maps.each_ref()).map(|map| channels_last(map.tensor()));
    let levels = pyramid.forward(BackboneFeatures { c2, c3, c4, c5 });
    assert_eq!(levels.len(), stored.levels.len());
    for (level, expected) in levels.into_iter().zip(&stored.levels) {
        let level = channels_first(level);
        assert_eq!(level.dims()[..], expected.shape[..]);
        let level: Vec<f32> = level.into_data().try_to_vec().unwrap();
        for (found, expected) in level.iter().zip(&expected.values) {
            let off = (found - expected).abs();
            assert!(off < 1e-4, "{found} and {expected}");
        }
    }
}

/// The pyramid's convolutions under mmdetection's names.
fn stored_convolutions(pyramid: &mut FeaturePyramid) -> Vec<(String, &mut Conv2d)> {
    let FeaturePyramid {
        lateral3,
        lateral4,
        lateral5,
        output3,
        output4,
        output5,
        bottom_up,
        p6,
        p7,
        ..
    } = pyramid;
    let (downs, outputs) = (bottom_up.iter_mut())
        .map(|step| (&mut step.down, &mut step.output))
        .unzip();
    let parts: [(&str, Vec<&mut Conv2d>); 4] = [
        ("lateral_convs", vec![lateral3, lateral4, lateral5]),
        ("fpn_convs", vec![output3, output4, output5, p6, p7]),
        ("downsample_convs", downs),
        ("pafpn_convs", outputs),
    ];
    let numbered = parts.into_iter().flat_map(|(part, convs)| {
        let convs = convs.into_iter().enumerate();
        convs.map(move |(index, conv)| (format!("{part}.{index}"), conv))
    });
    numbered.collect()
}
