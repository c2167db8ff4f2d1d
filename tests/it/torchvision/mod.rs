//! The same numbers as torchvision: features, losses, gradients, steps, detections, anchors and
//! prepared images, against outputs that torchvision itself computed.

mod fixture;
mod images;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::store::ModuleSnapshot;
use burn::tensor::{Device, Tensor, TensorData};
use fixture::{Fixture, parameter, sample_error, unit};
use retinanet_anchors::PyramidAnchors;
use retinanet_boxes::{AnchorTargets, BoundingBox, ClassId, ClassList, GroundTruth};
use retinanet_criterion::{BatchTargets, Loss, LossOptions};
use retinanet_detector::{Names, Predictions, RetinaNet, WeightFormat, load_weights, save_weights};
use retinanet_experiment::{ExperimentConfig, OptimizerConfig, load_config};
use retinanet_settings::Factor;
use retinanet_tests::Experiment;
use retinanet_trainer::{DeviceBatch, Learner, StepOptions};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

/// With the background, as torchvision counts.
const CLASSES: usize = 6;
/// Height and width of the images.
const SIZES: [[usize; 2]; 2] = [[70, 96], [96, 61]];
/// Height and width of the batch.
const PADDED: [usize; 2] = [96, 96];

#[test]
fn resnet18_first_version() {
    agrees("v1_resnet18", "freeze_at = 0");
}

#[test]
fn resnet50_first_version() {
    agrees("v1_resnet50", "freeze_at = 2");
}

#[test]
fn resnext50_first_version() {
    agrees("v1_resnext50_32x4d", "freeze_at = 2");
}

#[test]
fn resnet18_second_version() {
    agrees("v2_resnet18", "freeze_at = 0");
}

#[test]
fn resnet50_second_version() {
    agrees("v2_resnet50", "freeze_at = 0\nnorm = \"fixed_statistics\"");
}

#[test]
fn resnext50_second_version() {
    agrees(
        "v2_resnext50_32x4d",
        "freeze_at = 0\nnorm = \"fixed_statistics\"",
    );
}

fn agrees(name: &str, settings: &str) {
    let (version, backbone) = name.split_once('_').unwrap();
    let preset = match version {
        "v1" => "torchvision",
        _ => "torchvision_v2",
    };
    let experiment = Experiment::new();
    let text = format!("preset = \"{preset}\"\n[model]\nbackbone = \"{backbone}\"\n{settings}");
    let path = experiment.write("model.toml", &text);
    let config = load_config(path.as_ref(), &[]).unwrap();
    let model = Parity {
        fixture: Fixture::read(name),
        weights: weights(&config, &experiment),
        config,
    };
    model.outputs_agree();
    model.detections_agree();
    for (case, images) in [("single", 1), ("pair", 2)] {
        model.losses_and_gradients_agree(case, images);
    }
    model.steps_agree();
}

/// A model with parameters from the hash, held against what torchvision computed with them.
struct Parity {
    fixture: Fixture,
    config: ExperimentConfig,
    weights: String,
}

impl Parity {
    fn outputs_agree(&self) {
        let device = Device::flex();
        let model = self.model(&device);
        let channels_last = images(2, &device).permute([0, 2, 3, 1]);
        let features = model.backbone().forward(channels_last);
        let levels = model.pyramid().forward(features.clone());
        let maps = [features.c3, features.c4, features.c5];
        let names = ["c3", "c4", "c5", "p3", "p4", "p5", "p6", "p7"];
        for (name, map) in names.iter().zip(maps.into_iter().chain(levels)) {
            self.fixture.check(name, map.permute([0, 3, 1, 2]), 1e-4);
        }
        let Predictions { logits, boxes, .. } = model.forward(images(2, &device));
        self.fixture.check("logits", logits, 1e-4);
        self.fixture.check("deltas", boxes, 1e-4);
    }

    fn detections_agree(&self) {
        let device = Device::flex();
        let predictions = self.model(&device).forward(images(2, &device));
        let decoder = self.config.decoder();
        let sizes = SIZES.map(|[height, width]| (width as u32, height as u32));
        let found = decoder.decode(predictions, &self.anchors(), &sizes);
        for (image, found) in found.iter().enumerate() {
            let boxes = self.fixture.floats(&format!("detections{image}.boxes"));
            let scores = self.fixture.floats(&format!("detections{image}.scores"));
            let labels = self.fixture.integers(&format!("detections{image}.labels"));
            assert_eq!(found.len(), labels.len(), "image {image}");
            assert!(found.len() > 10, "{} detections", found.len());
            let mut left = found.clone();
            for ((bbox, score), label) in boxes.as_chunks().0.iter().zip(scores).zip(labels) {
                // Scores that are equal to the last place may come in another order.
                let same = left.iter().position(|it| {
                    it.class == ClassId(label as u32)
                        && (it.score - score).abs() < 1e-4
                        && distance(it.bbox, *bbox) < 0.01
                });
                let place = same.unwrap_or_else(|| panic!("image {image}: no {bbox:?} {score}"));
                left.remove(place);
            }
        }
    }

    fn losses_and_gradients_agree(&self, case: &str, images: usize) {
        let device = Device::flex().autodiff();
        let model = self.model(&device);
        let parts = self.loss(&model, images, &device);
        let gradients = GradientsParams::from_grads(parts.total().backward(), &model);
        for (part, found) in [("class", parts.class), ("box", parts.bbox)] {
            let expected = self.fixture.float(&format!("{case}.{part}_loss"));
            let found = f64::from(found.into_scalar::<f32>());
            let error = (found / expected - 1.0).abs();
            assert!(error < 1e-4, "{case} {part}: {found}, not {expected}");
        }

        let norms = gradient_norms(&model, &gradients);
        let names = self.fixture.names("parameters");
        let expected = self.fixture.doubles(&format!("{case}.gradient_norms"));
        let noise = self.fixture.doubles(&format!("{case}.gradient_noise"));
        assert_eq!(norms.len(), names.len(), "parameters with a gradient");
        for ((name, expected), noise) in names.iter().zip(expected).zip(noise) {
            let error = (norms[name] - expected).abs();
            assert!(
                error < 1e-4 * expected + 2.0 * noise,
                "{case}, gradient of {name}: {} and not {expected}, noise {noise}",
                norms[name]
            );
        }
    }

    fn steps_agree(&self) {
        let device = Device::flex().autodiff();
        let optimizer = OptimizerConfig {
            norm_weight_decay: Factor::literal(1e-4),
            ..OptimizerConfig::default()
        };
        let criterion = self.config.criterion().unwrap();
        let mut learner = Learner::new(self.model(&device), &optimizer, criterion);
        for _ in 0..2 {
            let batch = DeviceBatch {
                images: images(2, &device),
                targets: self.targets(2, &device),
            };
            learner.step(&[batch], StepOptions::at(RATE)).unwrap();
        }
        let after = values(&learner.model().valid());
        let names = self.fixture.names("after");
        let samples = self.fixture.floats("after.values");
        let moved = self.fixture.floats("after.moved");
        let noise = self.fixture.floats("after.noise");
        // Steps that move nothing would prove nothing.
        let far = moved.iter().filter(|moved| **moved > 4e-5).count();
        assert!(2 * far > moved.len(), "only {far} of {} moved", moved.len());
        for (index, name) in names.iter().enumerate() {
            let sample = &samples[8 * index..][..8];
            let error = sample_error(&format!("after/{name}"), &after[name], sample);
            // Close, and much closer than the steps were long.
            let [moved, noise] = [moved[index], noise[index]].map(f64::from);
            let allowed = 1e-5_f64.min(1e-6 + 0.01 * moved) + 2.0 * noise;
            assert!(
                error < allowed,
                "{name} differs by {error:e}, allowed {allowed:e}, moved by {moved}"
            );
        }
    }

    fn model(&self, device: &Device) -> RetinaNet {
        let model = self.config.model.init(CLASSES, 0, device).unwrap();
        let mut model = model.with_winograd(false);
        load_weights(&mut model, self.weights.as_ref()).unwrap();
        model
    }

    fn anchors(&self) -> PyramidAnchors {
        let generator = self.config.model.anchor_generator().unwrap();
        generator.generate(PADDED[0], PADDED[1])
    }

    /// The first image has boxes, the second none.
    fn targets(&self, images: usize, device: &Device) -> BatchTargets {
        let anchors = self.anchors();
        let assigner = self.config.target_assigner().unwrap();
        let targets: Vec<AnchorTargets> = [objects(), Vec::new()][..images]
            .iter()
            .map(|objects| assigner.assign(&anchors, objects))
            .collect();
        BatchTargets::new(targets, Arc::new(anchors), device)
    }

    fn loss(&self, model: &RetinaNet, count: usize, device: &Device) -> Loss {
        let Predictions { logits, boxes, .. } = model.forward(images(count, device));
        let targets = self.targets(count, device);
        let mut criterion = self.config.criterion().unwrap();
        let weights = criterion.weights(&targets.positives_per_image());
        criterion.forward(logits, boxes, &targets, LossOptions::new(&weights))
    }
}

/// Of the two steps.
const RATE: f64 = 0.005;

#[test]
fn anchors_and_matches_are_torchvisions() {
    let fixture = Fixture::read("anchors");
    let experiment = Experiment::new();
    let path = experiment.write("model.toml", "preset = \"torchvision\"");
    let config = load_config(path.as_ref(), &[]).unwrap();
    let generator = config.model.anchor_generator().unwrap();

    let anchors = generator.generate(PADDED[0], PADDED[1]);
    let expected = fixture.floats("anchors");
    assert_eq!(4 * anchors.len(), expected.len());
    for (anchor, expected) in anchors.iter().zip(expected.as_chunks().0) {
        assert!(
            distance(*anchor, *expected) < 1e-4,
            "{anchor:?} {expected:?}"
        );
    }

    let large = generator.generate(800, 1344);
    assert_eq!(
        large.len() as i64,
        fixture.integers("anchors_800x1344.count")[0]
    );
    let expected = fixture.floats("anchors_800x1344");
    for (index, expected) in (0..).zip(expected.as_chunks().0) {
        let place = fixture::bits("sample/anchors_800x1344", index) as usize % large.len();
        assert!(distance(large[place], *expected) < 1e-4, "anchor {place}");
    }

    let targets = config
        .target_assigner()
        .unwrap()
        .assign(&anchors, &objects());
    let positives = targets.positives.iter();
    let mut found: Vec<i64> = (targets.labels.iter())
        .map(|label| match label {
            retinanet_boxes::AnchorLabel::Ignored => -2,
            _ => -1,
        })
        .collect();
    for positive in positives {
        found[positive.anchor] = positive.object as i64;
    }
    assert_eq!(found, fixture.integers("matched"));
    assert!([-2, 0, 1, 2].iter().all(|kind| found.contains(kind)));
}

/// The boxes of the first image.
fn objects() -> Vec<GroundTruth> {
    let fixture = Fixture::read("anchors");
    let boxes = fixture.floats("boxes");
    let labels = fixture.integers("labels");
    let objects = boxes.as_chunks().0.iter().zip(labels);
    objects
        .map(|(bbox, label)| GroundTruth {
            bbox: BoundingBox::from(*bbox),
            class: ClassId(label as u32),
            crowd: false,
        })
        .collect()
}

/// The first images of the batch, `[images, 3, 96, 96]`, normalised.
fn images(count: usize, device: &Device) -> Tensor<4> {
    let [padded_height, padded_width] = PADDED;
    let mut pixels = vec![0.0_f32; count * 3 * padded_height * padded_width];
    for (index, [height, width]) in SIZES.into_iter().take(count).enumerate() {
        for place in 0..3 * height * width {
            let (row, x) = (place / width, place % width);
            let (channel, y) = (row / height, row % height);
            let plane = 3 * index + channel;
            let value = 2.0 * unit(&format!("image{index}"), place as u32);
            pixels[(plane * padded_height + y) * padded_width + x] = value as f32;
        }
    }
    let shape = [count, 3, padded_height, padded_width];
    Tensor::from_data(TensorData::new(pixels, shape), device)
}

/// A weight file in torchvision's names, as torchvision would save it.
fn weights(config: &ExperimentConfig, experiment: &Experiment) -> String {
    let model = config.model.init(CLASSES, 0, &Device::flex()).unwrap();
    let (fresh, filled) = (experiment.path("fresh"), experiment.path("filled"));
    let classes = ClassList::new(Vec::new()).unwrap();
    let format = WeightFormat::Safetensors;
    save_weights(&model, &classes, fresh.as_ref(), format, Names::Torchvision).unwrap();

    let bytes = experiment.bytes("fresh");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .map(|(name, view)| {
            let values = parameter(name, view.shape());
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (name.to_owned(), view.shape().to_vec(), bytes.collect())
        })
        .collect();
    let views = values.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name, view)
    });
    serialize_to_file(views, None, filled.as_ref()).unwrap();
    filled
}

/// The values of every parameter and statistic, by torchvision's names.
fn values(model: &RetinaNet) -> BTreeMap<String, Vec<f32>> {
    let parameters = model.collect(None, None, true);
    let names = Names::Torchvision.all(&parameters);
    names
        .into_iter()
        .zip(parameters)
        .map(|(name, parameter)| {
            let bytes = parameter.to_bytes().unwrap();
            let numbers = bytes.chunks_exact(4);
            let numbers = numbers.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            (name, numbers.collect())
        })
        .collect()
}

/// The length of every gradient, by torchvision's names.
fn gradient_norms(model: &RetinaNet, gradients: &GradientsParams) -> BTreeMap<String, f64> {
    struct Collector<'a> {
        gradients: &'a GradientsParams,
        norms: Vec<Option<f64>>,
    }
    impl ModuleVisitor for Collector<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id);
            self.norms.push(gradient.map(|gradient| {
                let values = gradient.into_data();
                values
                    .iter::<f64>()
                    .map(|value| value * value)
                    .sum::<f64>()
                    .sqrt()
            }));
        }
    }
    let mut collector = Collector {
        gradients,
        norms: Vec::new(),
    };
    model.visit(&mut collector);
    let names = Names::Torchvision.all(&model.collect(None, None, true));
    assert_eq!(names.len(), collector.norms.len());
    let norms = names.into_iter().zip(collector.norms);
    norms
        .filter_map(|(name, norm)| Some((name, norm?)))
        .collect()
}

/// The largest distance between two boxes' edges.
fn distance(bbox: BoundingBox, other: [f32; 4]) -> f32 {
    let edges = bbox.to_array().into_iter().zip(other);
    edges.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
