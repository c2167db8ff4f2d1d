//! The same model on the CPU (flex) and on a GPU (wgpu): the same losses, the same gradients. CI
//! has a GPU in software, Mesa's llvmpipe.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use retinanet_boxes::{AnchorLabel, AnchorTargets, BoundingBox, ClassId, PositiveAnchor};
use retinanet_criterion::{
    BatchTargets, BoxLossConfig, CriterionConfig, LossParts, NormalizerKind,
};
use retinanet_detector::{Architecture, HeadNorm, ModelConfig, NormKind, Predictions, RetinaNet};

const CLASSES: usize = 2;
const SIDE: usize = 64;
const SEED: u64 = 11;

/// What one backend computes.
struct Computed {
    class_loss: f64,
    box_loss: f64,
    /// For each parameter its gradient.
    gradients: BTreeMap<String, Vec<f32>>,
}

/// The first pass of a fresh process is compared: nothing may depend on what was computed before.
#[test]
fn wgpu_gives_the_losses_and_gradients_of_flex_and_trains_ten_steps() {
    let Some(wgpu) = wgpu_device() else { return };
    let flex = Device::flex();
    for norm in [
        NormKind::BatchNorm,
        NormKind::GroupNorm,
        NormKind::FrozenBatchNorm,
        NormKind::FixedStatistics,
    ] {
        let config = config(norm);
        let [on_flex, on_wgpu] = [&flex, &wgpu].map(|device| compute(&model(&config, device)));
        compare(norm, &on_flex, &on_wgpu);
    }
    ten_steps(model(&config(NormKind::BatchNorm), &wgpu));
}

fn compare(kind: NormKind, on_flex: &Computed, on_wgpu: &Computed) {
    for (name, a, b) in [
        ("class", on_flex.class_loss, on_wgpu.class_loss),
        ("box", on_flex.box_loss, on_wgpu.box_loss),
    ] {
        assert!(
            (a / b - 1.0).abs() < 1e-6,
            "{kind:?}: {name} loss {a} and {b}"
        );
    }
    assert!(on_flex.gradients.len() > 40, "{}", on_flex.gradients.len());
    assert!(on_flex.gradients.keys().eq(on_wgpu.gradients.keys()));
    let mut differing = Vec::new();
    for (name, a) in &on_flex.gradients {
        let b = &on_wgpu.gradients[name];
        let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        assert!(norm(a) > 0.0, "{name} has no gradient");
        let relative = norm(&difference) / norm(a);
        if relative >= 1e-3 {
            differing.push((name, relative));
        }
    }
    assert!(
        differing.is_empty(),
        "{kind:?}: gradients that differ: {differing:?}"
    );
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

/// Opens the GPU, or tells that there is none.
#[expect(clippy::print_stderr, reason = "a skipped test tells why")]
fn wgpu_device() -> Option<Device> {
    Device::wgpu_options()
        .init()
        .inspect_err(|error| eprintln!("skipped: no wgpu adapter ({error})"))
        .ok()
}

/// With channels by which one level's part of a tensor can be taken for a tensor of its own.
fn config(norm: NormKind) -> ModelConfig {
    let mut config = ModelConfig {
        backbone: Architecture::Resnet18,
        width: 8,
        norm,
        freeze_at: 0,
        fpn_channels: 64,
        ..ModelConfig::default()
    };
    config.head.depth = 1;
    if norm == NormKind::GroupNorm {
        config.head.norm = HeadNorm::GroupNorm;
        config.head.conv_bias = false;
    }
    config.anchors.scales_per_octave = 1;
    config
}

/// A model on this device, ready to learn.
fn model(config: &ModelConfig, device: &Device) -> RetinaNet {
    let device = device.clone().autodiff();
    config.init(CLASSES, SEED, &device).unwrap()
}

fn loss(model: &RetinaNet) -> LossParts {
    let device = model.devices()[0].clone().autodiff();
    let Predictions { logits, deltas, .. } = model.forward(images(&device));
    let targets = BatchTargets::new(&targets(logits.dims()[1]), &device);
    let config = CriterionConfig {
        // L1's slope jumps where a box is right, and rounding would tell on which side.
        bbox: BoxLossConfig {
            beta: 0.1,
            ..BoxLossConfig::default()
        },
        normalizer: NormalizerKind::Batch,
        ..CriterionConfig::default()
    };
    config.init().unwrap().forward(logits, deltas, &targets)
}

fn compute(model: &RetinaNet) -> Computed {
    let parts = loss(model);
    let gradients = parts.total().backward();
    Computed {
        class_loss: f64::from(parts.class.into_scalar::<f32>()),
        box_loss: f64::from(parts.bbox.into_scalar::<f32>()),
        gradients: gradients_by_name(model, &gradients),
    }
}

/// Two images of waves, the same on every backend.
fn images(device: &Device) -> Tensor<4> {
    let values = 2 * 3 * SIDE * SIDE;
    let pixels: Vec<f32> = (0..values)
        .map(|index| (index as f32 * 0.37).sin() + (index as f32 * 0.011).cos())
        .collect();
    Tensor::from_data(TensorData::new(pixels, [2, 3, SIDE, SIDE]), device)
}

/// Every seventh anchor positive, every fifth ignored.
fn targets(anchors: usize) -> Vec<AnchorTargets> {
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
                anchor_box: BoundingBox::default(),
                object_box: BoundingBox::default(),
                deltas: [0.3, -0.2, 0.1, -0.4].map(|delta| delta * (anchor as f32 * 0.1).cos()),
            })
            .collect(),
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

fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt()
}
