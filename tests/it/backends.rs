//! The same model on the CPU (flex) and on a GPU (wgpu): the same losses, the same gradients. CI
//! has a GPU in software, Mesa's llvmpipe.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use retinanet_anchors::PyramidAnchors;
use retinanet_boxes::{AnchorLabel, AnchorTargets, BoundingBox, ClassId, PositiveAnchor};
use retinanet_criterion::{
    BatchTargets, BoxLossConfig, BoxLossKind, Criterion, CriterionConfig, Loss, LossOptions,
    NormalizerKind, PredictionForm, SmoothL1Config,
};
use retinanet_detector::{Architecture, HeadNorm, ModelConfig, NormKind, Predictions, RetinaNet};
use retinanet_experiment::{ExperimentConfig, load_config};
use retinanet_settings::{NonNegative, Whole};

const CLASSES: usize = 2;
const SIDE: usize = 64;
const SEED: u64 = 11;
/// About as far as two orders of summation are from each other.
const NUDGE: f32 = 8.0 * f32::EPSILON;

/// What one backend computes.
struct Computed {
    class_loss: f64,
    box_loss: f64,
    /// For each parameter its gradient.
    gradients: BTreeMap<String, Vec<f32>>,
}

/// From the first pass of a fresh process on: nothing may depend on what was computed before.
#[test]
fn wgpu_gives_the_losses_and_gradients_of_flex_and_trains_ten_steps() {
    let Some(wgpu) = wgpu_device() else { return };
    for norm in [
        NormKind::BatchNorm,
        NormKind::GroupNorm,
        NormKind::FrozenBatchNorm,
        NormKind::FixedStatistics,
    ] {
        Network::small(norm).follow(&wgpu);
    }
    ten_steps(model(&config(NormKind::BatchNorm), &wgpu));
}

/// A network with images of its size, and the config that names its loss.
struct Network {
    name: String,
    config: ExperimentConfig,
    side: usize,
    images: usize,
    steps: usize,
}

impl Network {
    fn new(name: &str, toml: &str, [side, images, steps]: [usize; 3]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.toml");
        fs_err::write(&path, toml).unwrap();
        Self {
            name: name.to_owned(),
            config: load_config(&path, &[]).unwrap(),
            side,
            images,
            steps,
        }
    }

    fn small(norm: NormKind) -> Self {
        let mut experiment = ExperimentConfig {
            model: config(norm),
            ..ExperimentConfig::default()
        };
        experiment.criterion.normalizer = NormalizerKind::Batch;
        experiment.criterion.bbox = rounded_l1();
        Self {
            name: format!("{norm:?}"),
            config: experiment,
            side: SIDE,
            images: 2,
            steps: 5,
        }
    }

    fn quickstart() -> Self {
        let quickstart = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/quickstart.toml");
        Self::new(
            "quickstart",
            &format!("extends = {quickstart:?}"),
            [128, 8, 7],
        )
    }

    fn others() -> Vec<Self> {
        let resnet = |depth: u32, norm: &str| {
            format!(
                "[model]\nbackbone = \"resnet{depth}\"\nnorm = \"{norm}\"\nfreeze_at = 0\n\
                 [criterion]\nnormalizer = \"batch\"\nbox = {{ beta = 0.1 }}"
            )
        };
        let preset = |name: &str| format!("preset = \"{name}\"\n[model]\nfreeze_at = 0");
        let thin = |name: &str| format!("{}\nbackbone = \"resnet18\"", preset(name));
        vec![
            Self::new("R18, ATSS", &thin("atss"), [64, 2, 3]),
            Self::new("R18, GFL", &thin("gfl"), [64, 2, 3]),
            Self::new("torchvision_v2", &preset("torchvision_v2"), [64, 2, 3]),
            Self::new("torchvision", &preset("torchvision"), [64, 2, 3]),
            Self::new("R18, frozen", &resnet(18, "frozen_batch_norm"), [64, 2, 7]),
            Self::new("R18, group norm", &resnet(18, "group_norm"), [64, 2, 7]),
            Self::new("R18, batch norm", &resnet(18, "batch_norm"), [128, 2, 7]),
            Self::new("R50, frozen", &resnet(50, "frozen_batch_norm"), [64, 2, 3]),
            Self::new("R50, group norm", &resnet(50, "group_norm"), [64, 2, 3]),
            Self::new("R50, batch norm", &resnet(50, "batch_norm"), [256, 1, 1]),
        ]
    }
}

#[test]
#[ignore = "takes a minute on software Vulkan"]
fn wgpu_follows_flex_step_by_step_on_the_quickstart() {
    let Some(wgpu) = wgpu_device() else { return };
    Network::quickstart().follow(&wgpu);
}

#[test]
#[ignore = "takes some ten minutes on software Vulkan"]
fn wgpu_follows_flex_step_by_step_on_other_networks() {
    let Some(wgpu) = wgpu_device() else { return };
    for network in Network::others() {
        network.follow(&wgpu);
    }
}

impl Network {
    /// Some steps: at each both devices have the same weights, those that the CPU has come to.
    ///
    /// Rounding decides on which side of a ReLU's edge some values lie, and that moves gradients of
    /// layers with few pixels by more than the rounding itself: by so much as a nudge of the images
    /// moves them on the CPU. Single gradients are judged by the median over the steps.
    #[expect(clippy::print_stderr, reason = "who waits so long wants the numbers")]
    fn follow(&self, wgpu: &Device) {
        let flex = Device::flex();
        let model = |device: &Device| {
            (self.config.model)
                .init(CLASSES, SEED, &device.clone().autodiff())
                .unwrap()
                .with_winograd(false)
        };
        let mut on_flex = model(&flex);
        let mut on_wgpu = model(wgpu);
        let mut optimizer = SgdConfig::new().init();
        let mut of_gradients = BTreeMap::<String, Vec<[f64; 2]>>::new();
        for step in 0..self.steps {
            let record = on_flex.valid().into_record();
            on_wgpu = on_wgpu.try_load_record(record).unwrap();
            let (gradients, expected) = self.compute(&on_flex, step, 0.0);
            let (_, found) = self.compute(&on_wgpu, step, 0.0);
            let (_, nudged) = self.compute(&on_flex, step, NUDGE);
            let ([loss, norm], each) = deviations(&expected, &found);
            let ([loss_by_nudge, norm_by_nudge], by_nudge) = deviations(&expected, &nudged);
            eprintln!(
                "{}, step {step}: loss off by {loss:.1e} (a nudge moves it by {loss_by_nudge:.1e}), norm \
                 of all gradients by {norm:.1e} ({norm_by_nudge:.1e})",
                self.name
            );
            assert!(loss < 1e-6_f64.max(2.0 * loss_by_nudge), "{}", self.name);
            assert!(norm < 1e-4_f64.max(2.0 * norm_by_nudge), "{}", self.name);
            for ((name, off), (_, by_nudge)) in each.into_iter().zip(by_nudge) {
                of_gradients.entry(name).or_default().push([off, by_nudge]);
            }
            let gradients = GradientsParams::from_grads(gradients, &on_flex);
            on_flex = optimizer.step(1e-3, on_flex, gradients);
        }
        let [(worst, name), (by_nudge, _)] = [0, 1].map(|which| {
            let medians = (of_gradients.iter()).map(|(name, all)| (median(all, which), name));
            medians.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
        });
        eprintln!(
            "{}: worst gradient {name}, off by {worst:.1e}; a nudge moves one by {by_nudge:.1e}",
            self.name
        );
        assert!(
            worst < 1e-3_f64.max(2.0 * by_nudge),
            "{}: {name}",
            self.name
        );
    }
}

fn median(all: &[[f64; 2]], which: usize) -> f64 {
    let mut all: Vec<f64> = all.iter().map(|pair| pair[which]).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// How far the loss and the norm of all gradients are off, and each gradient, relative to themselves.
fn deviations(expected: &Computed, found: &Computed) -> ([f64; 2], Vec<(String, f64)>) {
    let total = |computed: &Computed| computed.class_loss + computed.box_loss;
    let whole = |computed: &Computed| -> f64 {
        let squares = computed
            .gradients
            .values()
            .map(|values| norm(values).powi(2));
        squares.sum::<f64>().sqrt()
    };
    assert!(expected.gradients.keys().eq(found.gradients.keys()));
    let each = expected.gradients.iter().map(|(name, expected)| {
        let pairs = expected.iter().zip(&found.gradients[name]);
        let difference: Vec<f32> = pairs.map(|(a, b)| a - b).collect();
        let relative = norm(&difference) / norm(expected).max(f64::MIN_POSITIVE);
        (name.clone(), relative)
    });
    let off = |of: &dyn Fn(&Computed) -> f64| (of(found) / of(expected) - 1.0).abs();
    ([off(&total), off(&whole)], each.collect())
}

fn ten_steps(mut model: RetinaNet) {
    let mut optimizer = SgdConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..10 {
        let parts = loss(&model);
        let total = parts.total();
        losses.push(total.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(total.backward(), &model);
        model = optimizer.step(0.01, model, gradients);
    }
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    assert!(losses[9] < losses[0], "{losses:?}");
}

/// The GPU, or nothing, with a word why. It is opened once: a second time would be refused, and a test skipped.
#[expect(clippy::print_stderr, reason = "a skipped test tells why")]
pub(crate) fn wgpu_device() -> Option<Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let open = || {
        Device::wgpu_options()
            .init()
            .inspect_err(|error| eprintln!("skipped: no wgpu adapter ({error})"))
            .ok()
    };
    DEVICE.get_or_init(open).clone()
}

/// With channels by which one level's part of a tensor can be taken for a tensor of its own.
pub(crate) fn config(norm: NormKind) -> ModelConfig {
    let mut config = ModelConfig {
        backbone: Architecture::Resnet18,
        width: Whole::literal(8),
        norm,
        freeze_at: Whole::literal(0),
        fpn_channels: Whole::literal(64),
        ..ModelConfig::default()
    };
    config.head.depth = Whole::literal(1);
    if norm == NormKind::GroupNorm {
        config.head.norm = HeadNorm::GroupNorm;
        config.head.conv_bias = false;
    }
    config.anchors.scales_per_octave = Whole::literal(1);
    config
}

/// A model on this device, ready to learn.
pub(crate) fn model(config: &ModelConfig, device: &Device) -> RetinaNet {
    let device = device.clone().autodiff();
    config.init(CLASSES, SEED, &device).unwrap()
}

/// L1's slope jumps where a box is right, and rounding would tell on which side.
fn rounded_l1() -> BoxLossConfig {
    BoxLossConfig {
        kind: BoxLossKind::SmoothL1(SmoothL1Config {
            beta: NonNegative::literal(0.1),
        }),
        ..BoxLossConfig::default()
    }
}

fn loss(model: &RetinaNet) -> Loss {
    let device = model.devices()[0].clone().autodiff();
    loss_on(model, images([2, SIDE], 0, &device), &device)
}

fn loss_on(model: &RetinaNet, images: Tensor<4>, device: &Device) -> Loss {
    let predictions = model.forward(images);
    let targets = targets(predictions.logits.dims()[1]);
    let config = CriterionConfig {
        bbox: rounded_l1(),
        normalizer: NormalizerKind::Batch,
        ..CriterionConfig::default()
    };
    let criterion = config.init(PredictionForm::default()).unwrap();
    loss_of(criterion, predictions, targets, device)
}

/// Each parameter's gradient of so many times the loss of images of noise, which are moved by `nudge` of other noise.
pub(crate) fn gradients_of(
    model: &RetinaNet,
    [factor, nudge]: [f32; 2],
) -> BTreeMap<String, Vec<f32>> {
    let device = model.devices()[0].clone().autodiff();
    let images = images([2, SIDE], 0, &device) + images([2, SIDE], 1, &device) * nudge;
    let loss = loss_on(model, images, &device);
    gradients_by_name(model, &(loss.total() * factor).backward())
}

fn loss_of(
    mut criterion: Criterion,
    predictions: Predictions,
    targets: Vec<AnchorTargets>,
    device: &Device,
) -> Loss {
    let unit = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
    let anchors = PyramidAnchors::new([vec![unit; targets[0].labels.len()]]);
    let targets = BatchTargets::new(targets, Arc::new(anchors), device);
    let weights = criterion.weights(&targets.positives_per_image());
    let Predictions { logits, boxes, .. } = predictions;
    criterion.forward(logits, boxes, &targets, LossOptions::new(&weights))
}

impl Network {
    /// With images that are moved by `nudge` of other images.
    fn compute(&self, model: &RetinaNet, step: usize, nudge: f32) -> (Gradients, Computed) {
        let device = model.devices()[0].clone().autodiff();
        let [images, other] =
            [step, step + 1000].map(|step| images([self.images, self.side], step, &device));
        let images = images + other * nudge;
        let predictions = model.forward(images);
        let targets = vec![targets(predictions.logits.dims()[1]).remove(0); self.images];
        let criterion = self.config.criterion().unwrap();
        let parts = loss_of(criterion, predictions, targets, &device);
        let gradients = parts.total().backward();
        let computed = Computed {
            class_loss: f64::from(parts.class.into_scalar::<f32>()),
            box_loss: f64::from(parts.bbox.into_scalar::<f32>()),
            gradients: gradients_by_name(model, &gradients),
        };
        (gradients, computed)
    }
}

/// Images of noise, the same on every backend: in anything smoother neighbours are so nearly equal
/// that rounding decides which of them a pooling takes.
pub(crate) fn images([images, side]: [usize; 2], step: usize, device: &Device) -> Tensor<4> {
    let values = images * 3 * side * side;
    let noise = |index: usize| {
        // SplitMix64's last rounds.
        let mut bits = ((step * values + index) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits >> 40) as f32 / 2.0_f32.powi(23) - 1.0) * 1.7
    };
    let pixels: Vec<f32> = (0..values).map(noise).collect();
    Tensor::from_data(TensorData::new(pixels, [images, 3, side, side]), device)
}

/// Every seventh anchor positive, every fifth ignored.
pub(crate) fn targets(anchors: usize) -> Vec<AnchorTargets> {
    let label = |anchor: usize| match anchor {
        anchor if anchor.is_multiple_of(7) => AnchorLabel::Object(class_of(anchor)),
        anchor if anchor.is_multiple_of(5) => AnchorLabel::Ignored,
        _ => AnchorLabel::Background,
    };
    let image = AnchorTargets {
        labels: (0..anchors).map(label).collect(),
        positives: (0..anchors)
            .step_by(7)
            .map(|anchor| PositiveAnchor {
                anchor,
                class: class_of(anchor),
                object: 0,
                anchor_box: BoundingBox::new(10.0, 10.0, 42.0, 50.0),
                object_box: BoundingBox::new(12.0, 7.0, 45.0, 48.0),
                deltas: [0.3, -0.2, 0.1, -0.4].map(|delta| delta * (anchor as f32 * 0.1).cos()),
                quality: None,
            })
            .collect(),
        objects: Vec::new(),
    };
    vec![image.clone(), image]
}

fn class_of(anchor: usize) -> ClassId {
    ClassId((anchor % CLASSES) as u32)
}

fn gradients_by_name(model: &RetinaNet, gradients: &Gradients) -> BTreeMap<String, Vec<f32>> {
    struct Collector<'a> {
        gradients: &'a Gradients,
        path: Vec<String>,
        found: BTreeMap<String, Vec<f32>>,
    }
    impl ModuleVisitor for Collector<'_> {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.gradients) {
                let values = gradient.into_data().iter::<f32>().collect();
                self.found.insert(self.path.join("."), values);
            }
        }
    }
    let mut collector = Collector {
        gradients,
        path: Vec::new(),
        found: BTreeMap::new(),
    };
    model.visit(&mut collector);
    collector.found
}

pub(crate) fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt()
}
