//! Whether a device computes a model's layers, losses and the rest as the CPU does.

mod beside_layers;

use std::collections::HashSet;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use retinanet_anchors::PyramidAnchors;
use retinanet_boxes::{
    AnchorLabel, AnchorTargets, BoundingBox, ClassId, GroundTruth, PositiveAnchor,
};
use retinanet_convolution::{Deviation, LayerCall, record_calls};
use retinanet_criterion::{BatchTargets, Criterion, LossOptions};
use retinanet_detector::{ModelConfig, ModelError, Precision};
use retinanet_experiment::{ExperimentConfig, ExperimentError, Observer, Progress};
use retinanet_settings::Whole;
use xxhash_rust::xxh3::xxh3_64;

use crate::planning::plan::Plan;

/// Named values.
type Parts = Vec<(&'static str, Vec<f32>)>;

/// What a device may be off by, relative to the values' norm. The CPU's own algorithms differ by
/// 1e-5 of the largest value; a kernel that reads or writes the wrong place is off by far more.
pub const TOLERANCE: f64 = 1e-4;

/// Images that go through a layer at once: more than one, so that what one image's values have to do
/// with another's place is seen.
const IMAGES: usize = 2;

/// The layers and the loss of a model, to be computed on a device and compared with the CPU's.
#[derive(Clone, Debug)]
pub struct DeviceCheck {
    model: ModelConfig,
    criterion: Criterion,
    classes: usize,
    /// `[height, width]` of the images, in pixels.
    size: [usize; 2],
    images: usize,
    precision: Precision,
    is_short: bool,
}

/// A layer or loss that was compared.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What was computed.
    pub what: String,
    /// How it differs from the CPU's.
    pub deviation: Deviation,
    /// What it may be off by, relative to the values' norm.
    pub tolerance: f64,
}

impl Checked {
    /// Whether a part of it is off by more than its tolerance, or non-finite.
    pub fn is_wrong(&self) -> bool {
        self.deviation.worst().1 > self.tolerance
    }
}

impl DeviceCheck {
    /// All layers that a model calls on images of a size, `[height, width]` in pixels, each once,
    /// and its loss.
    pub const fn new(
        model: ModelConfig,
        criterion: Criterion,
        classes: usize,
        size: [usize; 2],
    ) -> Self {
        Self {
            model,
            criterion,
            classes,
            size,
            images: IMAGES,
            precision: Precision::F32,
            is_short: false,
        }
    }

    /// With so many images at once in place of two.
    #[must_use]
    pub fn with_images(self, images: usize) -> Self {
        Self { images, ..self }
    }

    /// With maps of this precision, which the device must have; on CPUs they are f32.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Each kind of layer once, on the first maps that have it: what differs in nothing but the
    /// maps' sizes is computed by the same kernel.
    #[must_use]
    pub fn short(self) -> Self {
        Self {
            is_short: true,
            ..self
        }
    }

    /// A number that stands for all that is computed.
    pub fn fingerprint(&self) -> u64 {
        xxh3_64(format!("{self:?} {TOLERANCE}").as_bytes())
    }

    /// Computes all of it on a device, `runs` times each, and on the CPU.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting of the model is out of range.
    pub fn run(
        &self,
        device: &Device,
        runs: usize,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Checked>, ModelError> {
        let calls = self.calls()?;
        observer.progress(Progress::Start {
            what: "compiling and comparing kernels",
            total: calls.len() as u64 + 4,
        });
        let trusted = Device::flex();
        let mut checked = Vec::new();
        for call in &calls {
            let under_test = (device, self.precision.of_maps(device));
            checked.push(Checked {
                what: call.to_string(),
                deviation: call.compare(self.images, &trusted, under_test, runs),
                tolerance: self.tolerance(),
            });
            observer.progress(Progress::Tick);
        }
        let [height, width] = self.size;
        let anchors = self.model.anchor_generator()?.generate(height, width);
        let anchors = Arc::new(anchors);
        let mut compare = |what: String, run: &dyn Fn(&Device) -> Parts| {
            let deviation = Deviation::measure(&run(&trusted), runs, || run(device));
            checked.push(Checked {
                what,
                deviation,
                tolerance: TOLERANCE,
            });
            observer.progress(Progress::Tick);
        };
        let what = format!("loss over {} anchors", anchors.len());
        compare(what, &|device| self.loss(&anchors, device));
        compare("detections".to_owned(), &|device| {
            beside_layers::detections(&self.model, self.classes, &anchors, device)
        });
        compare("pixels".to_owned(), &beside_layers::pixels);
        compare("updates".to_owned(), &beside_layers::updates);
        observer.progress(Progress::Finish);
        Ok(checked)
    }

    /// What a layer may be off by: with maps of half precision a few roundings.
    const fn tolerance(&self) -> f64 {
        match self.precision {
            Precision::F32 => TOLERANCE,
            Precision::F16 => 4.0 / 2048.0,
            Precision::Bf16 => 4.0 / 256.0,
        }
    }

    /// What the model calls, recorded while an image goes through it.
    fn calls(&self) -> Result<Vec<LayerCall>, ModelError> {
        let device = Device::flex().autodiff();
        let model = self.model.init(self.classes, 0, &device)?;
        let [height, width] = self.size;
        let mut calls = record_calls(|| {
            model.forward(Tensor::zeros([1, 3, height, width], &device));
        });
        let mut seen = HashSet::new();
        calls.retain(|call| {
            seen.insert(if self.is_short {
                call.kind()
            } else {
                call.clone()
            })
        });
        Ok(calls)
    }

    /// Both losses and the gradients of what the model predicts.
    fn loss(&self, anchors: &Arc<PyramidAnchors>, device: &Device) -> Parts {
        let device = device.clone().autodiff();
        let targets = vec![self.targets(anchors); self.images];
        let targets = BatchTargets::new(targets, Arc::clone(anchors), &device);
        let wave = |values: usize, pace: f32| -> Tensor<3> {
            let shape = [self.images, anchors.len(), values];
            let count: usize = shape.iter().product();
            let wave = (0..count).map(|place| (place as f32 * pace).sin());
            Tensor::from_data(TensorData::new(wave.collect::<Vec<f32>>(), shape), &device)
        };
        let logits = (wave(self.classes, 0.37) * 3.0 - 2.0).detach();
        let boxes = (wave(self.model.values_per_anchor(), 0.73) * 0.3).detach();
        let (logits, boxes) = (logits.require_grad(), boxes.require_grad());
        let weights = (self.criterion.clone()).weights(&targets.positives_per_image());
        let options = LossOptions::new(&weights);
        let loss = (self.criterion).forward(logits.clone(), boxes.clone(), &targets, options);
        let mut gradients = loss.total().backward();
        let values = |tensor: Tensor<3>| tensor.into_data().iter::<f32>().collect();
        let mut gradient = |of: Tensor<3>| of.grad_remove(&mut gradients).map(values);
        vec![
            ("class loss", vec![loss.class.into_scalar()]),
            ("box loss", vec![loss.bbox.into_scalar()]),
            ("logits gradient", gradient(logits).unwrap_or_default()),
            ("boxes gradient", gradient(boxes).unwrap_or_default()),
        ]
    }

    /// Every seventh anchor positive, of a box that lies a little beside it, every fifth ignored.
    fn targets(&self, anchors: &[BoundingBox]) -> AnchorTargets {
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
                quality: None,
            }
        };
        AnchorTargets {
            labels: (0..anchors.len()).map(label).collect(),
            positives: (anchors.iter().enumerate().step_by(7))
                .map(positive)
                .collect(),
            // What goes by predictions takes its time for each.
            objects: (anchors.iter().enumerate().step_by(7).map(positive))
                .map(|positive| GroundTruth {
                    bbox: positive.object_box,
                    class: positive.class,
                    crowd: false,
                })
                .take(20)
                .collect(),
        }
    }
}

impl DeviceCheck {
    /// The check of what a config trains on some classes, as far as it can be told without the
    /// data: at the largest size that its images may have.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting of the model or the loss is out of range.
    pub fn of_config(config: &ExperimentConfig, classes: usize) -> Result<Self, ExperimentError> {
        // Weights by the classes' numbers of objects: all have the same.
        let criterion = config.criterion_for(&vec![1; classes])?;
        let (resize, padding) = (
            &config.data.transform.resize,
            &config.data.transform.padding,
        );
        let short = resize.short_side.largest();
        let divisor = padding.size_divisor.as_usize();
        let sides = [short, resize.long_side.max(short)];
        let size = sides.map(|side| side.as_usize().next_multiple_of(divisor));
        let check = Self::new(config.model.clone(), criterion, classes, size);
        Ok(check.with_precision(config.compute.precision))
    }
}

impl Plan {
    /// The check of what this plan trains, at the largest size of a batch.
    pub fn device_check(&self) -> DeviceCheck {
        let mut model = self.config.model.clone();
        if self.unfreeze_at.is_some() {
            model.freeze_at = Whole::literal(0);
        }
        let (height, width) = self.loader.largest_input();
        let (criterion, classes) = (self.criterion.clone(), self.train.classes.len());
        DeviceCheck::new(model, criterion, classes, [height, width])
            .with_precision(self.config.compute.precision)
    }
}

#[cfg(test)]
mod tests {
    use retinanet_criterion::{BoxLossKind, CriterionConfig, PredictionForm};
    use retinanet_detector::{Architecture, NormKind};

    use super::*;

    fn check() -> DeviceCheck {
        let model = ModelConfig {
            backbone: Architecture::Resnet18,
            width: Whole::literal(4),
            fpn_channels: Whole::literal(8),
            norm: NormKind::BatchNorm,
            freeze_at: Whole::literal(0),
            ..ModelConfig::default()
        };
        let criterion = CriterionConfig::default()
            .init(PredictionForm::default())
            .unwrap();
        DeviceCheck::new(model, criterion, 3, [64, 96])
    }

    struct Quiet;
    impl Observer for Quiet {}

    #[test]
    fn the_cpu_agrees_with_itself_on_every_kind_of_layer() {
        let checked = check().run(&Device::flex(), 1, &mut Quiet).unwrap();
        for kind in [
            "convolution 7×7",
            "convolution 1×1",
            "batch norm",
            "max pool",
            "loss",
            "detections",
            "pixels",
            "updates",
        ] {
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
        let (all, few) = (full.calls().unwrap(), short.calls().unwrap());
        assert!(few.len() < all.len());
        let kinds: HashSet<_> = all.iter().map(LayerCall::kind).collect();
        assert_eq!(few.len(), kinds.len());
        assert_ne!(short.fingerprint(), full.fingerprint());
        assert_eq!(full.fingerprint(), check().fingerprint());
        assert_ne!(
            full.clone().with_images(3).fingerprint(),
            full.fingerprint()
        );
    }

    #[test]
    fn what_is_off_is_wrong() {
        let checked = |worst| Checked {
            what: String::new(),
            deviation: Deviation {
                parts: vec![("output", 0.0), ("input gradient", worst)],
                seconds: 0.0,
            },
            tolerance: TOLERANCE,
        };
        assert!(!checked(1e-5).is_wrong());
        assert!(checked(1e-3).is_wrong());
        assert!(checked(f64::INFINITY).is_wrong());
    }

    /// A loss that moves a box's edges must have a slope everywhere, or nothing is compared.
    #[test]
    fn all_box_losses_are_compared_where_they_slope() {
        for kind in [BoxLossKind::default(), BoxLossKind::Giou {}] {
            let mut config = CriterionConfig::default();
            config.bbox.kind = kind;
            let mut check = check();
            check.criterion = config.init(PredictionForm::default()).unwrap();
            let anchors = check.model.anchor_generator().unwrap().generate(64, 96);
            let anchors = Arc::new(anchors);
            for (part, values) in check.loss(&anchors, &Device::flex()) {
                assert!(values.iter().any(|value| *value != 0.0), "{kind:?}: {part}");
            }
        }
    }
}
