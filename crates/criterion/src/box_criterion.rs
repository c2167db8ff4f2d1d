//! All that is learnt from the boxes of the positive anchors, in sum.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use retinanet_settings::{NonNegative, SettingError};

use crate::batch_sums::sum_of_each;
use crate::box_loss::{BoxLoss, BoxLossConfig, BoxWeighting};
use crate::box_predictions::{BoxForm, centerness, centerness_loss};
use crate::distribution::distribution_focal_loss;
use crate::iou_loss::IouLoss;
use crate::targets::DeviceTargets;

/// GFL's weight of distribution focal loss (mmdetection's `gfl_r50_fpn_1x_coco`).
const DISTRIBUTION_WEIGHT: f64 = 0.25;

/// The losses of boxes, with their weights.
#[derive(Clone, Debug)]
pub(crate) struct BoxCriterion {
    form: BoxForm,
    loss: BoxLoss,
    weight: f64,
    weigh_by: BoxWeighting,
    distribution_weight: f64,
    centerness_weight: f64,
}

impl BoxCriterion {
    /// The losses with these settings, for predictions of this form.
    ///
    /// # Errors
    ///
    /// Returns an error if something is weighted that is not predicted.
    pub(crate) fn new(config: &BoxLossConfig, form: BoxForm) -> Result<Self, SettingError> {
        for (key, weight, predicted, missing) in [
            (
                "distribution_weight",
                config.distribution_weight,
                form.coder.bins().is_some(),
                "boxes are no distributions",
            ),
            (
                "centerness_weight",
                config.centerness_weight,
                form.centerness,
                "no centerness is predicted",
            ),
        ] {
            if let Some(weight) = weight.filter(|_| !predicted) {
                let allowed = format!("left out where {missing}");
                return Err(SettingError::new(key, allowed, weight.get()));
            }
        }
        Ok(Self {
            form,
            loss: config.init(form.coder),
            weight: config.weight.get(),
            weigh_by: config.weigh_by,
            distribution_weight: (config.distribution_weight)
                .map_or(DISTRIBUTION_WEIGHT, NonNegative::get),
            centerness_weight: config.centerness_weight.map_or(1.0, NonNegative::get),
        })
    }

    pub(crate) const fn form(&self) -> BoxForm {
        self.form
    }

    /// The sum over the positive anchors of a batch, or of a level of it, each by its image's weight and its importance, `[1]`.
    ///
    /// # Shapes
    ///
    /// - `boxes`: `[batch, anchors, values]`
    /// - `importance`: `[positives]`
    pub(crate) fn forward(
        &self,
        boxes: Tensor<3>,
        targets: &DeviceTargets,
        weights: &[f64],
        importance: Option<Tensor<1>>,
    ) -> Tensor<1> {
        let Some(positives) = &targets.positives else {
            // Keeps the box subnet in the graph, with a gradient of 0.
            return boxes.sum() * 0.0;
        };
        let device = boxes.device();
        let predicted = self.form.read(boxes, positives);
        let of_images = positives.weights(weights, 1.0, &device); // [positives]
        let of_boxes = match importance {
            Some(importance) => of_images.clone() * importance,
            None => of_images.clone(),
        };
        let column = |weights: Tensor<1>| weights.unsqueeze_dim::<2>(1); // [positives, 1]
        let losses = self.loss.forward(predicted.deltas, positives);
        let mut total = in_sum(losses * column(of_boxes.clone() * self.weight));
        if let Some(distributions) = predicted.distributions {
            let losses = distribution_focal_loss(distributions, positives.deltas.clone());
            let weights = of_boxes * (self.distribution_weight / 4.0);
            total = total + in_sum(losses * column(weights));
        }
        if let Some(logits) = predicted.centerness {
            let losses = centerness_loss(logits, centerness(positives));
            let losses = losses * of_images * self.centerness_weight;
            total = total + in_sum(column(losses));
        }
        total
    }

    /// What each positive weighs beside the others, `[positives]`, a constant to the gradient; nothing if all weigh the same.
    ///
    /// # Shapes
    ///
    /// - `logits`: `[batch, anchors, classes]`
    /// - `boxes`: `[batch, anchors, values]`
    pub(crate) fn importance(
        &self,
        logits: &Tensor<3>,
        boxes: &Tensor<3>,
        targets: &DeviceTargets,
    ) -> Option<Tensor<1>> {
        let positives = targets.positives.as_ref()?;
        if positives.qualities.is_some() {
            return positives.qualities.clone();
        }
        Some(match self.weigh_by {
            BoxWeighting::Equal => return None,
            BoxWeighting::Score => {
                let [batch, anchors, classes] = logits.dims();
                let rows = logits.clone().detach().reshape([batch * anchors, classes]);
                let rows = rows.select(0, positives.indices.clone());
                sigmoid(rows.max_dim(1)).squeeze_dim(1)
            }
            BoxWeighting::Overlap => {
                let deltas = self.form.read(boxes.clone().detach(), positives).deltas;
                IouLoss::overlaps(self.form.coder, deltas, positives)
            }
            BoxWeighting::Centerness => centerness(positives),
        })
    }

    /// The factor `[1]` by which positives of this importance weigh as much together as so many that weigh the same, or
    /// less where all weigh little.
    pub(crate) fn scale_of(importance: Tensor<1>, count: usize) -> Tensor<1> {
        // Not above the count, as mmdetection has it.
        importance.sum().clamp_min(1.0).recip() * count as f64
    }
}

fn in_sum(losses: Tensor<2>) -> Tensor<1> {
    sum_of_each(losses.unsqueeze_dim::<3>(0))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use retinanet_anchors::{BoxCoderConfig, DistanceConfig};
    use retinanet_boxes::{AnchorLabel, AnchorTargets, BoundingBox, ClassId, PositiveAnchor};
    use retinanet_settings::Whole;

    use super::*;
    use crate::box_loss::BoxLossKind;

    const BINS: usize = 5;

    fn form() -> BoxForm {
        let coder = DistanceConfig {
            bins: Some(Whole::literal(BINS as u64)),
            ..DistanceConfig::default()
        };
        BoxForm {
            coder: BoxCoderConfig::Distances(coder).init(),
            centerness: true,
        }
    }

    /// Two positives of three anchors, of eight strides of 4: around the middle of its object, and away from it.
    fn targets() -> DeviceTargets {
        let object = BoundingBox::new(8.0, 8.0, 24.0, 24.0);
        let positive = |anchor: usize, x: f32| {
            let anchor_box = BoundingBox::from_center(x, 16.0, 32.0, 32.0);
            PositiveAnchor {
                anchor,
                anchor_box,
                object_box: object,
                class: ClassId(1),
                object: 0,
                deltas: form().coder.encode(&anchor_box, &object),
                quality: None,
            }
        };
        let label = AnchorLabel::Object(ClassId(1));
        let image = AnchorTargets {
            labels: vec![label, label, AnchorLabel::Background],
            positives: vec![positive(0, 16.0), positive(1, 20.0)],
            objects: Vec::new(),
        };
        DeviceTargets::new(&[image], &Device::flex())
    }

    fn values() -> Tensor<3> {
        let numbers: Vec<f32> = (0..3 * (4 * BINS + 1))
            .map(|it| (it as f32 * 1.3).sin() * 2.0)
            .collect();
        Tensor::<1>::from_floats(&*numbers, &Device::flex()).reshape([1, 3, 4 * BINS + 1])
    }

    fn loss(weigh_by: BoxWeighting, weights: [f64; 3]) -> f32 {
        let [weight, distribution, centerness] =
            weights.map(|weight| NonNegative::new(weight).unwrap());
        let config = BoxLossConfig {
            kind: BoxLossKind::Giou {},
            weight,
            weigh_by,
            distribution_weight: Some(distribution),
            centerness_weight: Some(centerness),
        };
        let criterion = BoxCriterion::new(&config, form()).unwrap();
        let logits =
            Tensor::<3>::from_floats([[[1.0, -1.0], [-2.0, -0.5], [3.0, 3.0]]], &Device::flex());
        let importance = criterion.importance(&logits, &values(), &targets());
        let importance = importance.map(|it| it.clone() * BoxCriterion::scale_of(it, 2));
        let total = criterion.forward(values(), &targets(), &[0.5], importance);
        total.into_scalar::<f32>()
    }

    /// Each of the two positives' losses, from the parts that compute them.
    fn parts() -> [[f32; 3]; 2] {
        let targets = targets();
        let positives = targets.positives.as_ref().unwrap();
        let predicted = form().read(values(), positives);
        let giou = BoxLossConfig {
            kind: BoxLossKind::Giou {},
            ..BoxLossConfig::default()
        };
        let boxes = giou.init(form().coder).forward(predicted.deltas, positives);
        let distributions = predicted.distributions.unwrap();
        let distributions =
            distribution_focal_loss(distributions, positives.deltas.clone()).mean_dim(1);
        let centers = centerness_loss(predicted.centerness.unwrap(), centerness(positives));
        let numbers = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().unwrap();
        let [boxes, distributions] =
            [boxes, distributions].map(|column| numbers(column.squeeze_dim(1)));
        let centers = numbers(centers);
        [0, 1].map(|place| [boxes[place], distributions[place], centers[place]])
    }

    #[test]
    fn the_loss_is_the_weighted_sum_of_its_parts() {
        let [first, second] = parts();
        for (place, weights) in [[2.0, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 3.0]]
            .into_iter()
            .enumerate()
        {
            let expected = 0.5 * weights[place] as f32 * (first[place] + second[place]);
            let found = loss(BoxWeighting::Equal, weights);
            assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
        }
    }

    /// Scores sigmoid(1) and sigmoid(-0.5); centernesses 1 and sqrt(4 / 12). Both sums are above 1, and centerness itself is
    /// weighted by neither.
    #[test]
    fn positives_weigh_by_what_is_asked_and_together_the_same() {
        let sigmoid = |logit: f32| 1.0 / (1.0 + (-logit).exp());
        let [first, second] = parts();
        for (weigh_by, [a, b]) in [
            (BoxWeighting::Score, [sigmoid(1.0), sigmoid(-0.5)]),
            (BoxWeighting::Centerness, [1.0, (4.0_f32 / 12.0).sqrt()]),
        ] {
            let weighted = |part: usize| 2.0 * (a * first[part] + b * second[part]) / (a + b);
            let plain = first[2] + second[2];
            let expected = 0.5 * (2.0 * weighted(0) + 0.25 * weighted(1) + plain);
            let found = loss(weigh_by, [2.0, 0.25, 1.0]);
            assert!(
                (found - expected).abs() < 1e-5,
                "{weigh_by:?}: {found} and {expected}"
            );
        }
    }

    #[test]
    fn a_weight_of_what_is_not_predicted_is_refused() {
        let config = BoxLossConfig {
            distribution_weight: Some(NonNegative::literal(0.5)),
            ..BoxLossConfig::default()
        };
        let error = BoxCriterion::new(&config, BoxForm::default()).unwrap_err();
        let expected =
            "`distribution_weight` must be left out where boxes are no distributions, got 0.5";
        assert_eq!(error.to_string(), expected);
    }
}
