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
mod tests;
