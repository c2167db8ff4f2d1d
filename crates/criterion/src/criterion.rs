use std::ops::Range;

use burn::tensor::Tensor;
use retinanet_anchors::{AssignerConfig, AssignerKind, BoxCoder, ImagePredictions, TargetAssigner};
use retinanet_boxes::AnchorTargets;
use retinanet_settings::SettingError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::batch_sums::{dense_class_loss, quality_loss};
use crate::box_criterion::BoxCriterion;
use crate::box_loss::{BoxLossConfig, BoxWeighting};
use crate::box_predictions::BoxForm;
use crate::class_loss::{ClassLoss, ClassLossConfig};
use crate::normalizer::{Normalizer, NormalizerKind};
use crate::sampling::{Sampler, SamplingConfig};
use crate::targets::{BatchTargets, DeviceTargets, of_range};

/// Settings of the whole loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CriterionConfig {
    /// The loss over the classes of all anchors.
    pub class: ClassLossConfig,
    /// The loss over the boxes of positive anchors.
    #[serde(rename = "box")]
    pub bbox: BoxLossConfig,
    /// Which anchors are positive, negative or ignored.
    pub assigner: AssignerConfig,
    /// Which of them the loss counts over.
    pub sampling: SamplingConfig,
    /// What both losses are divided by.
    pub normalizer: NormalizerKind,
}

/// What a model's predictions mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PredictionForm {
    /// Whether an anchor's logits are those of a softmax over the classes and the background, whose
    /// own is 0, and not of independent sigmoids.
    pub softmax: bool,
    /// What encodes boxes as deltas.
    pub coder: BoxCoder,
    /// Whether a logit of centerness stands behind an anchor's box.
    pub centerness: bool,
}

impl PredictionForm {
    const fn boxes(&self) -> BoxForm {
        BoxForm {
            coder: self.coder,
            centerness: self.centerness,
        }
    }
}

impl CriterionConfig {
    /// The same for a data set whose classes have so many objects, as
    /// [`ClassLossConfig::for_objects`].
    ///
    /// # Errors
    ///
    /// Returns an error if weights are given for another number of classes.
    pub fn for_objects(&self, objects: &[usize]) -> Result<Self, SettingError> {
        let class = self.class.clone().for_objects(objects);
        Ok(Self {
            class: class.map_err(|error| error.within("class"))?,
            ..self.clone()
        })
    }

    /// Builds the criterion.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting means nothing for such predictions.
    pub fn init(&self, predictions: PredictionForm) -> Result<Criterion, SettingError> {
        Ok(Criterion {
            class: (self.class.init(predictions)).map_err(|error| error.within("class"))?,
            boxes: BoxCriterion::new(&self.bbox, predictions.boxes())
                .map_err(|error| error.within("box"))?,
            normalizer: self.normalizer.init(),
            sampler: self.sampling.init(),
            assigner: self.predicted_assigner(predictions)?,
        })
    }

    /// The assigner, if it goes by predictions.
    fn predicted_assigner(
        &self,
        predictions: PredictionForm,
    ) -> Result<Option<TargetAssigner>, SettingError> {
        if !matches!(self.assigner.kind, AssignerKind::TaskAligned(_)) {
            return Ok(None);
        }
        let soft = matches!(
            self.class,
            ClassLossConfig::QualityFocal(_) | ClassLossConfig::Varifocal(_)
        );
        let refusal = if !soft {
            "another than \"task_aligned\" without soft targets: it needs `class.kind` \"quality_focal\" or \"varifocal\""
        } else if self.bbox.weigh_by != BoxWeighting::Equal {
            "another where boxes are weighted already"
        } else {
            let assigner = TargetAssigner::new(&self.assigner, predictions.coder);
            return assigner.map(Some).map_err(|error| error.within("assigner"));
        };
        Err(SettingError::new(
            "assigner.kind",
            refusal,
            "\"task_aligned\"",
        ))
    }
}

/// The loss of RetinaNet.
///
/// Should be created with [`CriterionConfig`].
#[derive(Clone, Debug)]
pub struct Criterion {
    class: ClassLoss,
    boxes: BoxCriterion,
    normalizer: Normalizer,
    sampler: Sampler,
    /// What assigns anchors by what is predicted, if that counts.
    assigner: Option<TargetAssigner>,
}

/// How the loss of a batch, or of a micro-batch, is computed.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions<'a> {
    /// The factor on the summed loss of each image, by [`Criterion::weights`].
    pub weights: &'a [f64],
    /// What sampling of anchors by chance follows from; each image adds its place.
    pub seed: u64,
    /// Whether the loss is told level by level too.
    pub by_level: bool,
}

impl<'a> LossOptions<'a> {
    /// The loss with these weights, as a whole.
    pub const fn new(weights: &'a [f64]) -> Self {
        Self {
            weights,
            seed: 0,
            by_level: false,
        }
    }
}

/// The loss of a batch, normalised and weighted: the total is the sum of its parts, `[1]` each.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Over the classes of all anchors that are not ignored.
    pub class: Tensor<1>,
    /// Over the boxes of positive anchors.
    pub bbox: Tensor<1>,
    /// Class and box loss of each pyramid level, `[1]` each, finest first, if they were asked for; their sum is the
    /// loss.
    pub levels: Vec<[Tensor<1>; 2]>,
}

impl Loss {
    /// What training minimises.
    pub fn total(&self) -> Tensor<1> {
        self.class.clone() + self.bbox.clone()
    }
}

impl Criterion {
    /// The factor on the summed loss of each image of a batch, by how many positive anchors each
    /// has; a moving normaliser moves.
    pub fn weights(&mut self, positives_per_image: &[usize]) -> Vec<f64> {
        self.normalizer.weights(positives_per_image)
    }

    /// Computes the loss of a batch, or of a micro-batch; the sum over the micro-batches is the batch's.
    ///
    /// # Shapes
    ///
    /// - `logits`: `[batch, anchors, classes]`
    /// - `boxes`: `[batch, anchors, values]`: deltas or their distributions, and perhaps centerness behind them
    pub fn forward(
        &self,
        logits: Tensor<3>,
        boxes: Tensor<3>,
        targets: &BatchTargets,
        options: LossOptions<'_>,
    ) -> Loss {
        let predicted = self.assign(&logits, &boxes, targets);
        let images = predicted.as_deref().unwrap_or(targets.images());
        let sampled = self.sample(&logits, images, targets, options.seed);
        let images = sampled.as_deref().unwrap_or(images);
        let on_device;
        let counted = if predicted.is_some() || sampled.is_some() {
            on_device = DeviceTargets::new(images, &logits.device());
            &on_device
        } else {
            targets.on_device()
        };
        let importance = self.boxes.importance(&logits, &boxes, counted);
        let scale = match &predicted {
            // Both losses are divided by the sum of the qualities in place of the positives' number, which the weights know.
            Some(_) => {
                let known = targets.positives_per_image().iter().sum::<usize>().max(1);
                let device = logits.device();
                let qualities = importance.clone();
                let qualities = qualities.unwrap_or_else(|| Tensor::zeros([1], &device));
                Some(BoxCriterion::scale_of(qualities, known))
            }
            None => importance.clone().map(|importance| {
                let [count] = importance.dims();
                BoxCriterion::scale_of(importance, count)
            }),
        };
        let scales = Scales {
            boxes: scale.clone(),
            classes: scale.filter(|_| predicted.is_some()),
        };
        let levels = if options.by_level {
            self.levels(&logits, &boxes, (targets, images), options.weights, &scales)
        } else {
            Vec::new()
        };
        let class = self.class_loss(logits, &boxes, counted, options.weights);
        Loss {
            class: scaled(class, scales.classes.as_ref()),
            bbox: (self.boxes).forward(
                boxes,
                counted,
                options.weights,
                importance.map(|it| scaled(it, scales.boxes.as_ref())),
            ),
            levels,
        }
    }

    /// The targets of each image by what is predicted of it, if the assigner goes by that.
    fn assign(
        &self,
        logits: &Tensor<3>,
        boxes: &Tensor<3>,
        targets: &BatchTargets,
    ) -> Option<Vec<AnchorTargets>> {
        let assigner = self.assigner.as_ref()?;
        let ([_, anchors, classes], [_, _, values]) = (logits.dims(), boxes.dims());
        let on_host = |tensor: &Tensor<3>| -> Vec<f32> {
            tensor.clone().detach().into_data().iter().collect()
        };
        let (logits, boxes) = (on_host(logits), on_host(boxes));
        let predictions = logits
            .chunks(anchors * classes)
            .zip(boxes.chunks(anchors * values));
        let images = targets.images().iter().zip(predictions);
        images
            .map(|(image, (logits, boxes))| {
                let predictions = ImagePredictions {
                    logits,
                    boxes,
                    classes,
                    values,
                };
                assigner.assign_predicted(targets.anchors(), &image.objects, predictions)
            })
            .collect()
    }

    /// The targets of each image with those anchors alone that count; nothing if all do.
    fn sample(
        &self,
        logits: &Tensor<3>,
        images: &[AnchorTargets],
        targets: &BatchTargets,
        seed: u64,
    ) -> Option<Vec<AnchorTargets>> {
        if self.sampler.takes_all() {
            return None;
        }
        let [_, anchors, classes] = logits.dims();
        let logits: Vec<f32> = logits.clone().into_data().iter().collect();
        let sampled = images
            .iter()
            .zip(logits.chunks(anchors * classes))
            .zip(0_u64..);
        let sampled = sampled.map(|((image, logits), place)| {
            let seed = seed.wrapping_add(place);
            (self.sampler).choose(image, logits, &self.class, targets.anchors(), seed)
        });
        Some(sampled.collect())
    }

    /// Class and box loss of each level, finest first. Nothing of this is learnt from.
    fn levels(
        &self,
        logits: &Tensor<3>,
        boxes: &Tensor<3>,
        (targets, images): (&BatchTargets, &[AnchorTargets]),
        weights: &[f64],
        scales: &Scales,
    ) -> Vec<[Tensor<1>; 2]> {
        let (logits, boxes) = (logits.clone().detach(), boxes.clone().detach());
        let loss = |level: Range<usize>| {
            let images: Vec<_> = images.iter().map(|image| of_range(image, &level)).collect();
            let targets = DeviceTargets::new(&images, &logits.device());
            let part = |of: &Tensor<3>| of.clone().narrow(1, level.start, level.len());
            let (logits, boxes) = (part(&logits), part(&boxes));
            let importance = self.boxes.importance(&logits, &boxes, &targets);
            let importance = importance.map(|it| scaled(it, scales.boxes.as_ref()));
            let class = self.class_loss(logits, &boxes, &targets, weights);
            [
                scaled(class, scales.classes.as_ref()),
                (self.boxes).forward(boxes, &targets, weights, importance),
            ]
        };
        targets.anchors().levels().map(loss).collect()
    }

    /// The loss over classes, without a normaliser.
    pub const fn class(&self) -> &ClassLoss {
        &self.class
    }

    /// The normaliser as it stands, for a checkpoint.
    pub const fn normalizer(&self) -> &Normalizer {
        &self.normalizer
    }

    /// Puts back a normaliser from a checkpoint.
    pub const fn set_normalizer(&mut self, normalizer: Normalizer) {
        self.normalizer = normalizer;
    }

    fn class_loss(
        &self,
        logits: Tensor<3>,
        boxes: &Tensor<3>,
        targets: &DeviceTargets,
        weights: &[f64],
    ) -> Tensor<1> {
        if let ClassLoss::Quality(loss) = &self.class {
            return quality_loss(loss, logits, (boxes, self.boxes.form()), targets, weights);
        }
        dense_class_loss(&self.class, logits, &targets.labels, weights)
    }
}

/// Factors `[1]` on what an image's weights were not told of, where there are any.
struct Scales {
    boxes: Option<Tensor<1>>,
    classes: Option<Tensor<1>>,
}

fn scaled(values: Tensor<1>, scale: Option<&Tensor<1>>) -> Tensor<1> {
    match scale {
        Some(scale) => values * scale.clone(),
        None => values,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use retinanet_anchors::{PyramidAnchors, TaskAlignedConfig};
    use retinanet_boxes::{AnchorLabel, BoundingBox, ClassId, PositiveAnchor};

    use std::sync::Arc;

    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::class_loss::{QualityFocalConfig, VarifocalConfig};
    use crate::iou_loss::IouLoss;

    fn positive(anchor: usize, class: u32, deltas: [f32; 4]) -> PositiveAnchor {
        let unit = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
        PositiveAnchor {
            anchor_box: unit,
            object_box: unit,
            anchor,
            class: ClassId(class),
            object: 0,
            deltas,
            quality: None,
        }
    }

    /// Two images of three anchors: one positive, one ignored and one background; then all
    /// background.
    fn images() -> Vec<AnchorTargets> {
        vec![
            AnchorTargets {
                labels: vec![
                    AnchorLabel::Object(ClassId(1)),
                    AnchorLabel::Ignored,
                    AnchorLabel::Background,
                ],
                positives: vec![positive(0, 1, [0.5, -0.5, 0.0, 1.0])],
                objects: Vec::new(),
            },
            AnchorTargets::background(3),
        ]
    }

    fn batch(images: Vec<AnchorTargets>, device: &Device) -> BatchTargets {
        let unit = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
        let anchors = PyramidAnchors::new([vec![unit; 2], vec![unit; 1]]);
        BatchTargets::new(images, Arc::new(anchors), device)
    }

    fn forward(
        criterion: &mut Criterion,
        logits: Tensor<3>,
        deltas: Tensor<3>,
        targets: &BatchTargets,
    ) -> Loss {
        let weights = criterion.weights(&targets.positives_per_image());
        criterion.forward(logits, deltas, targets, LossOptions::new(&weights))
    }

    fn criterion(normalizer: NormalizerKind) -> Criterion {
        let config = CriterionConfig {
            normalizer,
            ..CriterionConfig::default()
        };
        config.init(PredictionForm::default()).unwrap()
    }

    fn scalar(tensor: Tensor<1>) -> f32 {
        tensor.into_scalar::<f32>()
    }

    #[test]
    fn parts_are_sums_over_counted_anchors_and_positives() {
        let device = Device::flex();
        let targets = batch(images(), &device);
        // All logits 0: every element costs α_t (1/2)² ln 2, α_t = 1/4 or 3/4. Of the 5 counted
        // anchors with 2 classes, 1 element is positive and 9 are negative.
        let element = 0.25_f32 * std::f32::consts::LN_2;
        let expected_class = element * (0.25 + 9.0 * 0.75);
        let logits = Tensor::zeros([2, 3, 2], &device);
        let deltas = Tensor::zeros([2, 3, 4], &device);

        let parts = forward(
            &mut criterion(NormalizerKind::Batch),
            logits.clone(),
            deltas.clone(),
            &targets,
        );
        assert!((scalar(parts.class) - expected_class).abs() < 1e-6);
        assert_eq!(scalar(parts.bbox), 2.0);

        // By image: both divide by 1, and the mean halves.
        let parts = forward(
            &mut criterion(NormalizerKind::Image),
            logits,
            deltas,
            &targets,
        );
        assert!((scalar(parts.class.clone()) - 0.5 * expected_class).abs() < 1e-6);
        assert_eq!(scalar(parts.bbox.clone()), 1.0);
        assert_eq!(scalar(parts.total()), scalar(parts.class) + 1.0);
    }

    /// Beside the loss of every element as it is defined, with the one positive's overlap for a target.
    #[test]
    fn soft_targets_are_the_overlaps_of_predicted_boxes() {
        let device = Device::flex();
        let targets = batch(images(), &device);
        let numbers: Vec<f32> = (0..12).map(|it| (it as f32 * 0.7).sin() * 2.0).collect();
        let logits = Tensor::<3>::from_data(TensorData::new(numbers, [2, 3, 2]), &device);
        let deltas = Tensor::<3>::full([2, 3, 4], 0.1, &device);
        for class in [
            ClassLossConfig::QualityFocal(QualityFocalConfig::default()),
            ClassLossConfig::Varifocal(VarifocalConfig::default()),
        ] {
            let config = CriterionConfig {
                class,
                normalizer: NormalizerKind::Batch,
                ..CriterionConfig::default()
            };
            let criterion = config.init(PredictionForm::default()).unwrap();
            let ClassLoss::Quality(loss) = criterion.class() else {
                panic!("{config:?}")
            };
            let positives = targets.on_device().positives.clone().unwrap();
            let predicted = Tensor::<2>::full([1, 4], 0.1, &device);
            let coder = PredictionForm::default().coder;
            let quality = scalar(IouLoss::overlaps(coder, predicted, &positives));
            assert!(quality > 0.05 && quality < 0.95, "{quality}");
            let mut wanted = [0.0; 12];
            let mut counted = [1.0; 12];
            for (image, of_image) in targets.images().iter().enumerate() {
                for (anchor, label) in of_image.labels.iter().enumerate() {
                    let first = (image * 3 + anchor) * 2;
                    match label {
                        AnchorLabel::Object(class) => wanted[first + class.index()] = quality,
                        AnchorLabel::Ignored => counted[first..first + 2].fill(0.0),
                        AnchorLabel::Background => {}
                    }
                }
            }
            let tensor = |values: [f32; 12]| {
                Tensor::<3>::from_data(TensorData::new(values.to_vec(), [2, 3, 2]), &device)
            };
            let expected = loss.forward(logits.clone(), tensor(wanted)) * tensor(counted);
            let expected = expected.sum().into_scalar::<f32>();
            let (logits, deltas) = (logits.clone(), deltas.clone());
            let weights = [1.0, 1.0];
            let options = LossOptions {
                by_level: true,
                ..LossOptions::new(&weights)
            };
            let told = criterion.forward(logits, deltas, &targets, options);
            let levels: f32 = told
                .levels
                .into_iter()
                .map(|[class, _]| scalar(class))
                .sum();
            for found in [scalar(told.class), levels] {
                assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
            }
        }
    }

    #[test]
    fn what_goes_by_predictions_wants_soft_targets_and_weighs_boxes_itself() {
        let refused = |class: ClassLossConfig, weigh_by| {
            let mut config = CriterionConfig {
                class,
                ..CriterionConfig::default()
            };
            config.assigner.kind = AssignerKind::TaskAligned(TaskAlignedConfig::default());
            config.bbox.weigh_by = weigh_by;
            let criterion = config.init(PredictionForm::default());
            criterion.err().map(|error| error.to_string())
        };
        let soft = || ClassLossConfig::Varifocal(VarifocalConfig::default());
        assert_eq!(refused(soft(), BoxWeighting::Equal), None);
        for (class, weigh_by, reason) in [
            (
                ClassLossConfig::default(),
                BoxWeighting::Equal,
                "soft targets",
            ),
            (soft(), BoxWeighting::Overlap, "weighted already"),
        ] {
            let error = refused(class, weigh_by).unwrap();
            assert!(error.starts_with("`assigner.kind`"), "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_softmax_has_one_term_for_each_counted_anchor() {
        let device = Device::flex();
        let targets = batch(images(), &device);
        let config = CriterionConfig {
            normalizer: NormalizerKind::Image,
            ..CriterionConfig::default()
        };
        let class_loss = |ignored_logit: f32| {
            let mut logits = vec![0.0_f32; 12];
            logits[2] = ignored_logit;
            let logits = Tensor::<3>::from_data(TensorData::new(logits, [2, 3, 2]), &device);
            let deltas = Tensor::zeros([2, 3, 4], &device);
            let softmax = PredictionForm {
                softmax: true,
                ..PredictionForm::default()
            };
            let mut criterion = config.init(softmax).unwrap();
            scalar(forward(&mut criterion, logits, deltas, &targets).class)
        };
        // All logits 0: p_t is a third. One object and four times background are counted, and the
        // mean over images halves.
        let anchor = (2.0_f32 / 3.0).powi(2) * 3.0_f32.ln();
        let expected = 0.5 * anchor * (0.25 + 4.0 * 0.75);
        assert!((class_loss(0.0) - expected).abs() < 1e-6);
        assert_eq!(class_loss(50.0), class_loss(0.0));
    }

    #[test]
    fn ignored_anchors_have_neither_loss_nor_gradient() {
        let device = Device::flex().autodiff();
        let targets = batch(images(), &device);
        let run = |ignored_logit: f32| {
            let mut values = vec![0.3_f32; 12];
            values[2] = ignored_logit;
            values[3] = -ignored_logit;
            let logits =
                Tensor::<3>::from_data(TensorData::new(values, [2, 3, 2]), &device).require_grad();
            let deltas = Tensor::<3>::zeros([2, 3, 4], &device).require_grad();
            let parts = forward(
                &mut criterion(NormalizerKind::Batch),
                logits.clone(),
                deltas.clone(),
                &targets,
            );
            let total = parts.total();
            let gradients = total.backward();
            let values = |tensor: &Tensor<3>| -> Vec<f32> {
                tensor
                    .grad(&gradients)
                    .unwrap()
                    .into_data()
                    .try_to_vec()
                    .unwrap()
            };
            (scalar(total), values(&logits), values(&deltas))
        };
        let (loss, of_logits, of_deltas) = run(0.3);
        assert_eq!(run(50.0).0, loss);
        assert_eq!(of_logits[2..4], [0.0, 0.0]);
        assert!(
            of_logits[..2]
                .iter()
                .chain(&of_logits[4..])
                .all(|g| *g != 0.0)
        );
        assert_eq!(of_deltas[..4], [-1.0, 1.0, 0.0, -1.0]);
        assert!(of_deltas[4..].iter().all(|gradient| *gradient == 0.0));
    }

    #[test]
    fn a_batch_without_objects_has_a_class_loss_and_a_box_loss_of_zero() {
        let device = Device::flex().autodiff();
        let targets = batch(images().split_off(1), &device);
        let logits = Tensor::<3>::zeros([1, 3, 2], &device).require_grad();
        let deltas = Tensor::<3>::random([1, 3, 4], Distribution::Default, &device).require_grad();
        let parts = forward(
            &mut criterion(NormalizerKind::MovingAverage),
            logits,
            deltas.clone(),
            &targets,
        );
        assert!(scalar(parts.class.clone()) > 0.0);
        assert_eq!(scalar(parts.bbox.clone()), 0.0);
        let gradients = parts.total().backward();
        let gradient = deltas.grad(&gradients).unwrap().abs().sum();
        assert_eq!(gradient.into_scalar::<f32>(), 0.0);
    }

    /// The sum over the levels is the loss, whether all anchors count or a sample of them.
    #[test]
    fn levels_sum_to_the_loss() {
        let device = Device::flex();
        let targets = batch(images(), &device);
        let random = SamplingConfig::Random(crate::RandomConfig {
            negatives_per_positive: retinanet_settings::Positive::literal(1.0),
        });
        for sampling in [SamplingConfig::default(), random] {
            let config = CriterionConfig {
                sampling,
                ..CriterionConfig::default()
            };
            let criterion = config.init(PredictionForm::default()).unwrap();
            let random = |classes| Tensor::random([2, 3, classes], Distribution::Default, &device);
            let options = LossOptions {
                seed: 3,
                by_level: true,
                ..LossOptions::new(&[0.5, 0.25])
            };
            let loss = criterion.forward(random(2), random(4), &targets, options);
            assert_eq!(loss.levels.len(), 2);
            let value = |loss: &Tensor<1>| f64::from(loss.clone().into_scalar::<f32>());
            let sum = |part: usize| {
                loss.levels
                    .iter()
                    .map(|level| value(&level[part]))
                    .sum::<f64>()
            };
            for (part, whole) in [(0, loss.class.clone()), (1, loss.bbox.clone())] {
                let whole = f64::from(scalar(whole));
                assert!((sum(part) - whole).abs() <= 1e-6 * whole.abs(), "{loss:?}");
            }
        }
    }
}
