//! Gradient checkpointing ([Chen et al. 2016](https://arxiv.org/abs/1604.06174)): the forward pass keeps the maps between
//! segments of the network alone, and the backward pass computes each segment anew.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, Tensor};
use retinanet_backbone::{BackboneFeatures, Segment};
use retinanet_convolution::{Levels, channels_last, with_gradient};
use retinanet_detector::RetinaNet;

/// The gradients of a micro-batch, bit for bit those of one graph. `loss` takes logits and boxes, as
/// [`Predictions`](retinanet_detector::Predictions) has them, and gives what all gradients are of.
pub(super) fn gradients(
    model: &RetinaNet,
    images: Tensor<4>,
    loss: impl FnOnce(Tensor<3>, Tensor<3>) -> Tensor<1>,
) -> GradientsParams {
    let mut found = Found {
        model,
        gradients: GradientsAccumulator::new(),
    };
    let without_graph = model.valid();
    let Forward {
        calls,
        features,
        levels,
    } = Forward::run(model, &without_graph, images.inner());
    let boxes = leaf(without_graph.box_subnet().forward(levels.clone()));
    // The class subnet is the largest segment and the last, so that its graph need not wait.
    let (of_classes, of_boxes) = found.of_class_subnet(&levels, boxes, loss);
    let of_boxes = of_boxes.and_then(|it| found.of_box_subnet(&levels, it));
    let of_levels = [of_classes, of_boxes].into_iter().flatten();
    let of_levels = of_levels.reduce(|a, b| a + b);
    drop(levels);
    if let Some(of_levels) = of_levels {
        let first = calls.first().map(|call| call.place);
        let learns = |feature| first.is_some_and(|first| first <= feature + 1);
        let of_features = found.of_pyramid(features, learns, of_levels);
        found.of_backbone(calls, of_features);
    }
    found.gradients.grads()
}

/// The forward pass without a graph: what it keeps.
struct Forward<'a> {
    /// From the first on that learns.
    calls: Vec<Call<'a>>,
    /// C2, C3, C4 and C5.
    features: [Tensor<4>; 4],
    levels: Levels,
}

/// A segment of the backbone and what it was called on.
struct Call<'a> {
    segment: Segment<'a>,
    /// Its place among the segments: 0 is the stem.
    place: usize,
    input: Tensor<4>,
}

impl Call<'_> {
    /// Which of C2 to C5 its input is, if it is one.
    fn feature(&self) -> Option<usize> {
        self.place.checked_sub(2)
    }
}

impl<'a> Forward<'a> {
    fn run(model: &'a RetinaNet, without_graph: &RetinaNet, images: Tensor<4>) -> Self {
        let precision = model.precision().of_maps(&images.device());
        let mut map = channels_last(images.cast(precision));
        let mut calls = Vec::new();
        let segments = model.backbone().segments().into_iter();
        let mut segments = segments
            .zip(without_graph.backbone().segments())
            .enumerate();
        let [_, c2, c3, c4, c5] = [(); 5].map(|()| {
            if let Some((place, (segment, without_graph))) = segments.next() {
                if !calls.is_empty() || segment.learns() {
                    calls.push(Call {
                        segment,
                        place,
                        input: map.clone(),
                    });
                }
                map = without_graph.forward(map.clone());
            }
            map.clone()
        });
        let features = [c2, c3, c4, c5];
        let levels = without_graph.pyramid().forward(named(features.clone()));
        Self {
            calls,
            features,
            levels: Levels::pack(levels),
        }
    }
}

fn named([c2, c3, c4, c5]: [Tensor<4>; 4]) -> BackboneFeatures {
    BackboneFeatures { c2, c3, c4, c5 }
}

/// The gradients as they are found, from the loss back to the images.
struct Found<'a> {
    model: &'a RetinaNet,
    gradients: GradientsAccumulator<RetinaNet>,
}

impl Found<'_> {
    /// Those of the class subnet; gives those of the levels and of the predicted boxes.
    fn of_class_subnet(
        &mut self,
        levels: &Levels,
        boxes: Tensor<3>,
        loss: impl FnOnce(Tensor<3>, Tensor<3>) -> Tensor<1>,
    ) -> (Option<Tensor<3>>, Option<Tensor<3>>) {
        let levels = leaves(levels);
        let logits = self.model.class_subnet().forward(levels.clone());
        let mut gradients = loss(logits, boxes.clone()).backward();
        let found = [levels.values, boxes].map(|it| it.grad_remove(&mut gradients));
        self.keep(gradients);
        found.into()
    }

    /// Those of the box subnet; gives that of the levels.
    fn of_box_subnet(&mut self, levels: &Levels, of_boxes: Tensor<3>) -> Option<Tensor<3>> {
        let levels = leaves(levels);
        let boxes = self.model.box_subnet().forward(levels.clone());
        let mut gradients = with_gradient(boxes, of_boxes).backward();
        let of_levels = levels.values.grad_remove(&mut gradients);
        self.keep(gradients);
        of_levels
    }

    /// Those of the pyramid; gives those of the features behind something that learns.
    fn of_pyramid(
        &mut self,
        features: [Tensor<4>; 4],
        learns: impl Fn(usize) -> bool,
        of_levels: Tensor<3>,
    ) -> [Option<Tensor<4>>; 4] {
        let mut place = 0..;
        let features = features.map(|feature| {
            if place.next().is_some_and(&learns) {
                leaf(feature)
            } else {
                feature.autodiff()
            }
        });
        let levels = self.model.pyramid().forward(named(features.clone()));
        let mut gradients = with_gradient(Levels::pack(levels).values, of_levels).backward();
        let of_features = features.map(|feature| feature.grad_remove(&mut gradients));
        self.keep(gradients);
        of_features
    }

    /// Those of the backbone.
    fn of_backbone(&mut self, mut calls: Vec<Call<'_>>, mut of_features: [Option<Tensor<4>>; 4]) {
        let mut of_next = of_features[3].take();
        while let (Some(call), Some(of_output)) = (calls.pop(), of_next.take()) {
            let goes_on = !calls.is_empty();
            let feature = call.feature();
            let input = if goes_on {
                leaf(call.input)
            } else {
                call.input.autodiff()
            };
            let of_pyramid = feature.and_then(|feature| of_features[feature].take());
            let mut total = with_gradient(call.segment.forward(input.clone()), of_output);
            if let (true, Some(of_pyramid)) = (goes_on, of_pyramid) {
                // In the graph, so that it is the first summand, as where all is one graph.
                total = with_gradient(input.clone(), of_pyramid) + total;
            }
            let mut gradients = total.backward();
            of_next = input.grad_remove(&mut gradients);
            self.keep(gradients);
        }
    }

    fn keep(&mut self, gradients: Gradients) {
        let found = GradientsParams::from_grads(gradients, self.model);
        self.gradients.accumulate(self.model, found);
    }
}

/// The beginning of a graph.
fn leaf<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.autodiff().require_grad()
}

fn leaves(levels: &Levels) -> Levels {
    Levels {
        values: leaf(levels.values.clone()),
        sizes: levels.sizes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{Device, Distribution};
    use retinanet_anchors::{AssignerConfig, BoxCoder, TargetAssigner};
    use retinanet_backbone::FinestLevel;
    use retinanet_boxes::{BoundingBox, ClassId, GroundTruth};
    use retinanet_convolution::record_calls;
    use retinanet_criterion::{BatchTargets, CriterionConfig, PredictionForm};
    use retinanet_detector::{Architecture, ModelConfig, NormKind};
    use retinanet_experiment::OptimizerConfig;
    use retinanet_settings::Whole;

    use super::*;
    use crate::fingerprint;
    use crate::optimisation::step::{DeviceBatch, Learner, StepOptions};

    /// The weights after two steps, and how many layers were called.
    fn trained(config: &ModelConfig, checkpointing: bool) -> (String, usize) {
        let device = Device::flex().autodiff();
        let model = config.init(2, 0, &device).unwrap();
        let anchors = Arc::new(config.anchor_generator().unwrap().generate(96, 64));
        let object = GroundTruth {
            bbox: BoundingBox::new(10.0, 20.0, 42.0, 50.0),
            class: ClassId(1),
            crowd: false,
        };
        let assigner = TargetAssigner::new(&AssignerConfig::default(), BoxCoder::default());
        let targets = assigner.unwrap().assign(&anchors, &[object]);
        device.seed(1);
        let batch = DeviceBatch {
            images: Tensor::random([2, 3, 96, 64], Distribution::Normal(0.0, 1.0), &device),
            targets: BatchTargets::new(vec![targets; 2], anchors, &device),
        };
        let criterion = CriterionConfig::default().init(PredictionForm::default());
        let model = model.with_gradient_checkpointing(checkpointing);
        let optimizer = OptimizerConfig::default();
        let mut learner = Learner::new(model, &optimizer, criterion.unwrap());
        let calls = record_calls(|| {
            for _ in 0..2 {
                let step = learner.step(std::slice::from_ref(&batch), StepOptions::at(0.01));
                step.unwrap();
            }
        });
        (fingerprint(learner.model()), calls.len())
    }

    #[test]
    fn the_gradients_are_those_of_one_graph() {
        let tiny = ModelConfig {
            width: Whole::literal(4),
            fpn_channels: Whole::literal(8),
            ..ModelConfig::default()
        };
        let bottlenecks = ModelConfig {
            backbone: Architecture::Resnet50,
            ..tiny.clone()
        };
        let blocks = ModelConfig {
            backbone: Architecture::Resnet18,
            ..tiny
        };
        let with_norm = |norm, freeze_at| ModelConfig {
            norm,
            freeze_at,
            ..bottlenecks.clone()
        };
        for config in [
            with_norm(NormKind::FrozenBatchNorm, Whole::literal(2)),
            with_norm(NormKind::FixedStatistics, Whole::literal(0)),
            with_norm(NormKind::GroupNorm, Whole::literal(1)),
            with_norm(NormKind::FrozenBatchNorm, Whole::literal(5)),
            ModelConfig {
                finest_level: FinestLevel::P2,
                bottom_up_path: true,
                freeze_at: Whole::literal(0),
                anchors: serde_json::from_str(r#"{"sizes": [16, 32, 64, 128, 256, 512]}"#).unwrap(),
                ..blocks
            },
        ] {
            let (kept, calls) = trained(&config, false);
            let (anew, more) = trained(&config, true);
            assert_eq!(anew, kept, "{config:?}");
            assert!(more > calls, "{more} calls, and {calls}");
        }
    }
}
