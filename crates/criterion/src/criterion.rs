use burn::backend::DispatchDevice;
use burn::tensor::{Device, Int, Tensor, TensorData};
use retinanet_anchors::BoxCoder;

use crate::CriterionError;
use crate::box_loss::{BoxLoss, BoxLossConfig};
use crate::class_loss::{ClassLoss, ClassLossConfig};
use crate::normalizer::{Normalizer, NormalizerKind};
use crate::targets::{BatchTargets, IGNORED};

/// Settings of the whole loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CriterionConfig {
    /// The loss over the classes of all anchors.
    pub class: ClassLossConfig,
    /// Whether an anchor's logits are those of a softmax over the classes and the background, whose
    /// own is 0, and not of independent sigmoids.
    pub softmax: bool,
    /// The loss over the boxes of positive anchors.
    pub bbox: BoxLossConfig,
    /// What both are divided by.
    pub normalizer: NormalizerKind,
    /// What encodes boxes as the deltas that are learnt.
    pub coder: BoxCoder,
}

impl CriterionConfig {
    /// Checks the settings and builds the criterion.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first setting out of range.
    pub fn init(&self) -> Result<Criterion, CriterionError> {
        Ok(Criterion {
            class: if self.softmax {
                ClassLoss::Softmax(self.class.init_softmax()?)
            } else {
                ClassLoss::Sigmoid(self.class.init()?)
            },
            bbox: self.bbox.init(self.coder)?,
            box_weight: self.bbox.weight,
            normalizer: self.normalizer.init(),
        })
    }
}

/// The loss of RetinaNet.
///
/// Should be created with [`CriterionConfig`].
#[derive(Clone, Debug)]
pub struct Criterion {
    class: ClassLoss,
    bbox: BoxLoss,
    box_weight: f64,
    normalizer: Normalizer,
}

/// The parts of the loss, `[1]` each, normalised and weighted: the total is their sum.
#[derive(Clone, Debug)]
pub struct LossParts {
    /// Over the classes of all anchors that are not ignored.
    pub class: Tensor<1>,
    /// Over the boxes of positive anchors.
    pub bbox: Tensor<1>,
}

impl LossParts {
    /// What training minimises.
    pub fn total(&self) -> Tensor<1> {
        self.class.clone() + self.bbox.clone()
    }
}

impl Criterion {
    /// Computes the loss of a batch; a moving normaliser moves.
    ///
    /// # Shapes
    ///
    /// - `logits`: `[batch, anchors, classes]`
    /// - `deltas`: `[batch, anchors, 4]`
    pub fn forward(
        &mut self,
        logits: Tensor<3>,
        deltas: Tensor<3>,
        targets: &BatchTargets,
    ) -> LossParts {
        let weights = self.normalizer.weights(&targets.positives_per_image);
        self.weighted(logits, deltas, targets, &weights)
    }

    /// The factor on the summed loss of each image of a batch, by how many positive anchors each
    /// has; a moving normaliser moves.
    pub fn weights(&mut self, positives_per_image: &[usize]) -> Vec<f64> {
        self.normalizer.weights(positives_per_image)
    }

    /// Computes the loss of a part of a batch with these [`weights`](Self::weights); the sum over
    /// the parts is the batch's.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward).
    pub fn weighted(
        &self,
        logits: Tensor<3>,
        deltas: Tensor<3>,
        targets: &BatchTargets,
        weights: &[f64],
    ) -> LossParts {
        LossParts {
            class: self.class_loss(logits, targets, weights),
            bbox: self.box_loss(deltas, targets, weights),
        }
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

    fn class_loss(&self, logits: Tensor<3>, targets: &BatchTargets, weights: &[f64]) -> Tensor<1> {
        let device = logits.device();
        if let ClassLoss::Sigmoid(loss) = &self.class
            && is_flex(&device)
            && loss.has_kernel()
        {
            return loss.weighted_sum(logits, &targets.labels, to_f32(weights));
        }
        let [batch, anchors, classes] = logits.dims();
        let labels = TensorData::new(targets.labels.to_vec(), [batch, anchors, 1]);
        let labels = Tensor::<3, Int>::from_data(labels, &device);
        let class_ids =
            Tensor::<1, Int>::arange(0..classes as i64, &device).reshape([1, 1, classes]);
        let one_hot = labels
            .clone()
            .expand([-1, -1, classes as i64])
            .equal(class_ids.expand(logits.dims()))
            .float();
        let counted = labels.not_equal_elem(IGNORED).float(); // [batch, anchors, 1]

        let losses = self.class.forward(logits, one_hot) * counted;
        let weights = Tensor::<1>::from_floats(&*to_f32(weights), &device);
        (sum_of_each(losses) * weights).sum()
    }

    fn box_loss(&self, deltas: Tensor<3>, targets: &BatchTargets, weights: &[f64]) -> Tensor<1> {
        let [batch, anchors, _] = deltas.dims();
        let device = deltas.device();
        let Some(positives) = &targets.positives else {
            // Keeps the box subnet in the graph, with a gradient of 0.
            return deltas.sum() * 0.0;
        };
        let predicted = deltas
            .reshape([batch * anchors, 4])
            .select(0, positives.indices.clone());
        let weights: Vec<f64> = positives
            .images
            .iter()
            .map(|&image| weights[image] * self.box_weight)
            .collect();
        let weights = Tensor::<1>::from_floats(&*to_f32(&weights), &device);
        let weights = weights.unsqueeze_dim::<2>(1); // [positives, 1]
        (self.bbox.forward(predicted, positives) * weights).sum()
    }
}

/// Values that are added up in one go.
const SUMMED_AT_ONCE: usize = 256;

/// The sum over all anchors and classes of each image, in three rounds: one sum over millions of
/// values in f32 would lose the last digits of most.
///
/// # Shapes
///
/// - `losses`: `[batch, anchors, classes]`
/// - output: `[batch]`
fn sum_of_each(losses: Tensor<3>) -> Tensor<1> {
    let [batch, anchors, _] = losses.dims();
    let of_anchors = losses.sum_dim(2).reshape([batch, anchors]);
    let parts = anchors.div_ceil(SUMMED_AT_ONCE);
    let missing = parts * SUMMED_AT_ONCE - anchors;
    let of_anchors = of_anchors.pad([(0, 0), (0, missing)], 0.0);
    let of_parts = of_anchors.reshape([batch, parts, SUMMED_AT_ONCE]);
    of_parts.sum_dim(2).sum_dim(1).reshape([batch])
}

fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

fn is_flex(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Flex(_)
    )
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use retinanet_boxes::{AnchorLabel, AnchorTargets, BoundingBox, ClassId, PositiveAnchor};

    use super::*;

    fn positive(anchor: usize, class: u32, deltas: [f32; 4]) -> PositiveAnchor {
        let unit = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
        PositiveAnchor {
            anchor_box: unit,
            object_box: unit,
            anchor,
            class: ClassId(class),
            object: 0,
            deltas,
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
            },
            AnchorTargets {
                labels: vec![AnchorLabel::Background; 3],
                positives: Vec::new(),
            },
        ]
    }

    fn criterion(normalizer: NormalizerKind) -> Criterion {
        let config = CriterionConfig {
            normalizer,
            ..CriterionConfig::default()
        };
        config.init().unwrap()
    }

    fn scalar(tensor: Tensor<1>) -> f32 {
        tensor.into_scalar::<f32>()
    }

    #[test]
    fn parts_are_sums_over_counted_anchors_and_positives() {
        let device = Device::flex();
        let targets = BatchTargets::new(&images(), &device);
        // All logits 0: every element costs α_t (1/2)² ln 2, α_t = 1/4 or 3/4. Of the 5 counted
        // anchors with 2 classes, 1 element is positive and 9 are negative.
        let element = 0.25_f32 * std::f32::consts::LN_2;
        let expected_class = element * (0.25 + 9.0 * 0.75);
        let logits = Tensor::zeros([2, 3, 2], &device);
        let deltas = Tensor::zeros([2, 3, 4], &device);

        let parts =
            criterion(NormalizerKind::Batch).forward(logits.clone(), deltas.clone(), &targets);
        assert!((scalar(parts.class) - expected_class).abs() < 1e-6);
        assert_eq!(scalar(parts.bbox), 2.0);

        // By image: both divide by 1, and the mean halves.
        let parts = criterion(NormalizerKind::Image).forward(logits, deltas, &targets);
        assert!((scalar(parts.class.clone()) - 0.5 * expected_class).abs() < 1e-6);
        assert_eq!(scalar(parts.bbox.clone()), 1.0);
        assert_eq!(scalar(parts.total()), scalar(parts.class) + 1.0);
    }

    #[test]
    fn a_softmax_has_one_term_for_each_counted_anchor() {
        let device = Device::flex();
        let targets = BatchTargets::new(&images(), &device);
        let config = CriterionConfig {
            softmax: true,
            normalizer: NormalizerKind::Image,
            ..CriterionConfig::default()
        };
        let class_loss = |ignored_logit: f32| {
            let mut logits = vec![0.0_f32; 12];
            logits[2] = ignored_logit;
            let logits = Tensor::<3>::from_data(TensorData::new(logits, [2, 3, 2]), &device);
            let deltas = Tensor::zeros([2, 3, 4], &device);
            let mut criterion = config.init().unwrap();
            scalar(criterion.forward(logits, deltas, &targets).class)
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
        let targets = BatchTargets::new(&images(), &device);
        let run = |ignored_logit: f32| {
            let mut values = vec![0.3_f32; 12];
            values[2] = ignored_logit;
            values[3] = -ignored_logit;
            let logits =
                Tensor::<3>::from_data(TensorData::new(values, [2, 3, 2]), &device).require_grad();
            let deltas = Tensor::<3>::zeros([2, 3, 4], &device).require_grad();
            let parts =
                criterion(NormalizerKind::Batch).forward(logits.clone(), deltas.clone(), &targets);
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
        let targets = BatchTargets::new(&images()[1..], &device);
        let logits = Tensor::<3>::zeros([1, 3, 2], &device).require_grad();
        let deltas = Tensor::<3>::random([1, 3, 4], Distribution::Default, &device).require_grad();
        let parts =
            criterion(NormalizerKind::MovingAverage).forward(logits, deltas.clone(), &targets);
        assert!(scalar(parts.class.clone()) > 0.0);
        assert_eq!(scalar(parts.bbox.clone()), 0.0);
        let gradients = parts.total().backward();
        let gradient = deltas.grad(&gradients).unwrap().abs().sum();
        assert_eq!(gradient.into_scalar::<f32>(), 0.0);
    }
}
