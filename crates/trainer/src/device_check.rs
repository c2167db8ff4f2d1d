//! Whether a device computes a model's layers and losses as the CPU does.

use std::collections::HashSet;

use burn::tensor::{Device, Tensor, TensorData};
use retinanet_boxes::{AnchorLabel, AnchorTargets, BoundingBox, ClassId, PositiveAnchor};
use retinanet_convolution::{Deviation, LayerCall, record_calls};
use retinanet_criterion::{BatchTargets, Criterion};
use retinanet_detector::{ModelConfig, ModelError};
use xxhash_rust::xxh3::xxh3_64;

use crate::observer::{Observer, Progress};
use crate::plan::{Plan, PlanError};

/// What a device may be off by, relative to the values' norm. The CPU's own algorithms differ by
/// 1e-5 of the largest value; a kernel that reads or writes the wrong place is off by far more.
pub const TOLERANCE: f64 = 1e-4;

/// Images that go through a layer at once: more than one, so that what one image's values have to do
/// with another's place is seen.
const IMAGES: usize = 2;

/// The layers and losses of a model, to be computed on a device and compared with the CPU's.
#[derive(Clone, Debug)]
pub struct DeviceCheck {
    calls: Vec<LayerCall>,
    images: usize,
    loss: LossCheck,
}

#[derive(Clone, Debug)]
struct LossCheck {
    criterion: Criterion,
    anchors: Vec<BoundingBox>,
    classes: usize,
}

/// A layer or loss that was compared.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What was computed.
    pub what: String,
    /// How it differs from the CPU's.
    pub deviation: Deviation,
}

impl Checked {
    /// Whether a part of it is off by more than [`TOLERANCE`], or not finite.
    pub fn is_wrong(&self) -> bool {
        self.deviation.worst().1 > TOLERANCE
    }
}

impl DeviceCheck {
    /// All layers that a model calls on images of a size, in pixels, each once, and its loss.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting of the model is out of range.
    pub fn new(
        model: &ModelConfig,
        criterion: Criterion,
        classes: usize,
        [height, width]: [usize; 2],
    ) -> Result<Self, ModelError> {
        let device = Device::flex().autodiff();
        let network = model.init(classes, 0, &device)?;
        let mut calls = record_calls(|| {
            network.forward(Tensor::zeros([1, 3, height, width], &device));
        });
        let mut seen = HashSet::new();
        calls.retain(|call| seen.insert(call.clone()));
        Ok(Self {
            calls,
            images: IMAGES,
            loss: LossCheck {
                criterion,
                anchors: model.anchor_generator()?.generate(height, width),
                classes,
            },
        })
    }

    /// With so many images at once in place of two.
    #[must_use]
    pub fn with_images(self, images: usize) -> Self {
        Self { images, ..self }
    }

    /// Each kind of layer once, on the first maps that have it: what differs in nothing but the
    /// maps' sizes is computed by the same kernel.
    #[must_use]
    pub fn short(mut self) -> Self {
        let mut seen = HashSet::new();
        self.calls.retain(|call| seen.insert(call.kind()));
        self
    }

    /// A number that stands for all that is computed.
    pub fn fingerprint(&self) -> u64 {
        xxh3_64(format!("{:?} {}", self, TOLERANCE).as_bytes())
    }

    /// Computes all of it on a device, `runs` times each, and on the CPU.
    pub fn run(
        &self,
        device: &Device,
        runs: usize,
        observer: &mut dyn Observer,
    ) -> Vec<Checked> {
        observer.progress(Progress::Start {
            what: "comparing the device with the CPU",
            total: self.calls.len() as u64 + 1,
        });
        let trusted = Device::flex();
        let mut checked = Vec::new();
        for call in &self.calls {
            checked.push(Checked {
                what: call.to_string(),
                deviation: call.compare(self.images, &trusted, device, runs),
            });
            observer.progress(Progress::Tick);
        }
        let run = |device: &Device| self.loss.run(self.images, device);
        checked.push(Checked {
            what: format!("loss over {} anchors", self.loss.anchors.len()),
            deviation: Deviation::measure(&run(&trusted), runs, || run(device)),
        });
        observer.progress(Progress::Finish);
        checked
    }
}

impl LossCheck {
    /// Both losses and the gradients of what the model predicts.
    fn run(&self, images: usize, device: &Device) -> Vec<(&'static str, Vec<f32>)> {
        let device = device.clone().autodiff();
        let targets = BatchTargets::new(&vec![self.targets(); images], &device);
        let wave = |values: usize, pace: f32| -> Tensor<3> {
            let shape = [images, self.anchors.len(), values];
            let count: usize = shape.iter().product();
            let wave = (0..count).map(|place| (place as f32 * pace).sin());
            Tensor::from_data(TensorData::new(wave.collect::<Vec<f32>>(), shape), &device)
        };
        let logits = (wave(self.classes, 0.37) * 3.0 - 2.0).detach();
        let deltas = (wave(4, 0.73) * 0.3).detach();
        let (logits, deltas) = (logits.require_grad(), deltas.require_grad());
        let mut criterion = self.criterion.clone();
        let loss = criterion.forward(logits.clone(), deltas.clone(), &targets);
        let mut gradients = loss.total().backward();
        let values = |tensor: Tensor<3>| tensor.into_data().iter::<f32>().collect();
        let mut gradient = |of: Tensor<3>| of.grad_remove(&mut gradients).map(values);
        vec![
            ("class loss", vec![loss.class.into_scalar()]),
            ("box loss", vec![loss.bbox.into_scalar()]),
            ("logits gradient", gradient(logits).unwrap_or_default()),
            ("deltas gradient", gradient(deltas).unwrap_or_default()),
        ]
    }

    /// Every seventh anchor positive, of a box that lies a little beside it, every fifth ignored.
    fn targets(&self) -> AnchorTargets {
        let class = |anchor: usize| ClassId((anchor % self.classes) as u32);
        let label = |anchor: usize| match anchor {
            anchor if anchor.is_multiple_of(7) => AnchorLabel::Object(class(anchor)),
            anchor if anchor.is_multiple_of(5) => AnchorLabel::Ignored,
            _ => AnchorLabel::Background,
        };
        let positive = |(anchor, anchor_box): (usize, &BoundingBox)| {
            let (width, height) = (anchor_box.width(), anchor_box.height());
            let [x1, y1, x2, y2] = anchor_box.to_array();
            PositiveAnchor {
                anchor,
                class: class(anchor),
                object: 0,
                anchor_box: *anchor_box,
                object_box: BoundingBox::new(
                    x1 + 0.1 * width,
                    y1 - 0.1 * height,
                    x2 + 0.2 * width,
                    y2,
                ),
                deltas: [0.35, -0.25, 0.15, -0.45].map(|delta| delta * (anchor as f32).cos()),
            }
        };
        AnchorTargets {
            labels: (0..self.anchors.len()).map(label).collect(),
            positives: (self.anchors.iter().enumerate().step_by(7))
                .map(positive)
                .collect(),
        }
    }
}

impl Plan {
    /// The check of what this plan trains, at the largest size of a batch.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting of the model is out of range.
    pub fn device_check(&self) -> Result<DeviceCheck, PlanError> {
        let mut model = self.config.model.clone();
        if self.unfreeze_at.is_some() {
            model.freeze_at = 0;
        }
        let (height, width) = self.loader.largest_input();
        let (criterion, classes) = (self.criterion.clone(), self.train.classes.len());
        Ok(DeviceCheck::new(
            &model,
            criterion,
            classes,
            [height, width],
        )?)
    }
}

#[cfg(test)]
mod tests {
    use retinanet_criterion::{BoxLossKind, CriterionConfig};
    use retinanet_detector::{Architecture, NormKind};

    use super::*;

    fn check() -> DeviceCheck {
        let model = ModelConfig {
            backbone: Architecture::Resnet18,
            width: 4,
            fpn_channels: 8,
            norm: NormKind::BatchNorm,
            freeze_at: 0,
            ..ModelConfig::default()
        };
        let criterion = CriterionConfig::default().init().unwrap();
        DeviceCheck::new(&model, criterion, 3, [64, 96]).unwrap()
    }

    struct Quiet;
    impl Observer for Quiet {}

    #[test]
    fn the_cpu_agrees_with_itself_on_every_kind_of_layer() {
        let checked = check().run(&Device::flex(), 1, &mut Quiet);
        for kind in ["convolution 7×7", "convolution 1×1", "batch norm", "max pool", "loss"] {
            assert!(
                checked.iter().any(|checked| checked.what.starts_with(kind)),
                "{kind}"
            );
        }
        for checked in checked {
            assert!(!checked.is_wrong(), "{checked:?}");
        }
    }

    #[test]
    fn the_short_form_has_each_kind_once_and_another_fingerprint() {
        let full = check();
        let short = full.clone().short();
        assert!(short.calls.len() < full.calls.len());
        let kinds: HashSet<_> = full.calls.iter().map(LayerCall::kind).collect();
        assert_eq!(short.calls.len(), kinds.len());
        assert_ne!(short.fingerprint(), full.fingerprint());
        assert_eq!(full.fingerprint(), check().fingerprint());
        assert_ne!(full.clone().with_images(3).fingerprint(), full.fingerprint());
    }

    #[test]
    fn what_is_off_is_wrong() {
        let checked = |worst| Checked {
            what: String::new(),
            deviation: Deviation {
                parts: vec![("output", 0.0), ("input gradient", worst)],
                seconds: 0.0,
            },
        };
        assert!(!checked(1e-5).is_wrong());
        assert!(checked(1e-3).is_wrong());
        assert!(checked(f64::INFINITY).is_wrong());
    }

    /// A loss that moves a box's edges must have a slope everywhere, or nothing is compared.
    #[test]
    fn all_box_losses_are_compared_where_they_slope() {
        for kind in [BoxLossKind::SmoothL1, BoxLossKind::Giou] {
            let mut config = CriterionConfig::default();
            config.bbox.loss = kind;
            let mut check = check();
            check.loss.criterion = config.init().unwrap();
            let parts = check.loss.run(2, &Device::flex());
            for (part, values) in parts {
                assert!(values.iter().any(|value| *value != 0.0), "{kind:?}: {part}");
            }
        }
    }
}
