//! The loss of the box subnet, over positive anchors only.

use burn::tensor::Tensor;
use retinanet_anchors::BoxCoder;
use retinanet_settings::NonNegative;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::iou_loss::{IouLoss, Penalty};
use crate::targets::Positives;

/// Settings of the box loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BoxLossConfig {
    /// Which loss.
    #[serde(flatten)]
    pub kind: BoxLossKind,
    /// Factor on the box loss in the total.
    pub weight: NonNegative,
    /// What of the positive anchors counts for more. Those of a micro-batch weigh as much together as if they weighed the
    /// same.
    pub weigh_by: BoxWeighting,
    /// Factor on distribution focal loss in the total, where boxes are predicted as distributions; GFL's 0.25 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution_weight: Option<NonNegative>,
    /// Factor on the cross-entropy of centerness in the total, where that is predicted; 1 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub centerness_weight: Option<NonNegative>,
}

/// What a positive anchor's box loss is weighted by, a constant to the gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BoxWeighting {
    /// All weigh the same: the paper.
    #[default]
    Equal,
    /// The anchor's highest score: GFL (Li et al. 2020).
    Score,
    /// The overlap of the predicted box with its object: VarifocalNet (Zhang et al. 2021).
    Overlap,
    /// How near the anchor is to the middle of its object: ATSS (Zhang et al. 2020).
    Centerness,
}

impl Default for BoxLossConfig {
    /// L1 with weight 1: detectron2's RetinaNet.
    fn default() -> Self {
        Self {
            kind: BoxLossKind::default(),
            weight: NonNegative::literal(1.0),
            weigh_by: BoxWeighting::default(),
            distribution_weight: None,
            centerness_weight: None,
        }
    }
}

/// The box losses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BoxLossKind {
    /// Smooth L1 of the four deltas, summed (Girshick 2015).
    SmoothL1(SmoothL1Config),
    /// Generalised IoU of the decoded box (Rezatofighi et al. 2019): torchvision's second version.
    Giou {},
    /// Distance IoU (Zheng et al. 2020).
    Diou {},
    /// Complete IoU (Zheng et al. 2020).
    Ciou {},
}

impl Default for BoxLossKind {
    fn default() -> Self {
        Self::SmoothL1(SmoothL1Config::default())
    }
}

/// Settings of smooth L1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SmoothL1Config {
    /// Where it turns from a parabola into a line, in units of the deltas; at 0 it is L1.
    pub beta: NonNegative,
}

impl Default for SmoothL1Config {
    fn default() -> Self {
        Self {
            beta: NonNegative::literal(0.0),
        }
    }
}

impl BoxLossConfig {
    /// Builds the loss, for deltas that this coder encoded.
    pub fn init(&self, coder: BoxCoder) -> BoxLoss {
        let over_boxes = |penalty| BoxLoss::Iou(IouLoss { penalty, coder });
        match self.kind {
            BoxLossKind::SmoothL1(config) => BoxLoss::SmoothL1(SmoothL1 {
                beta: config.beta.get(),
            }),
            BoxLossKind::Giou {} => over_boxes(Penalty::Enclosing),
            BoxLossKind::Diou {} => over_boxes(Penalty::Distance),
            BoxLossKind::Ciou {} => over_boxes(Penalty::DistanceAndAspect),
        }
    }
}

/// A box loss.
///
/// Should be created with [`BoxLossConfig`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BoxLoss {
    /// Over deltas.
    SmoothL1(SmoothL1),
    /// Over the boxes that they describe.
    Iou(IouLoss),
}

impl BoxLoss {
    /// Computes the losses of positive anchors, `[positives, 4]` or `[positives, 1]`; their sum is
    /// what counts.
    pub(crate) fn forward(&self, deltas: Tensor<2>, positives: &Positives) -> Tensor<2> {
        match self {
            Self::SmoothL1(loss) => loss.forward(deltas, positives.deltas.clone()),
            Self::Iou(loss) => {
                loss.forward(deltas, positives.anchors.clone(), positives.objects.clone())
            }
        }
    }
}

/// Smooth L1.
///
/// ```text
/// d = |prediction - target|
/// L = d^2 / (2 beta)   if d < beta
///     d - beta / 2     otherwise
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmoothL1 {
    beta: f64,
}

impl SmoothL1 {
    /// Computes the loss of every element; the caller reduces.
    ///
    /// # Shapes
    ///
    /// - `predictions`, `targets` and output: `[..dims]`
    pub fn forward<const D: usize>(&self, predictions: Tensor<D>, targets: Tensor<D>) -> Tensor<D> {
        let distance = (predictions - targets).abs();
        if self.beta == 0.0 {
            return distance;
        }
        let within = distance.clone().clamp_max(self.beta);
        within.clone().square() / (2.0 * self.beta) + (distance - within)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    fn loss_and_gradient(beta: f64, differences: [f32; 5]) -> (Vec<f32>, Vec<f32>) {
        let device = Device::flex().autodiff();
        let config = BoxLossConfig {
            kind: BoxLossKind::SmoothL1(SmoothL1Config {
                beta: NonNegative::new(beta).unwrap(),
            }),
            ..BoxLossConfig::default()
        };
        let predictions = Tensor::<1>::from_floats(differences, &device).require_grad();
        let BoxLoss::SmoothL1(loss) = config.init(BoxCoder::default()) else {
            panic!("another loss");
        };
        let losses = loss.forward(predictions.clone(), Tensor::zeros([5], &device));
        let gradients = losses.clone().sum().backward();
        (
            losses.into_data().try_to_vec().unwrap(),
            predictions
                .grad(&gradients)
                .unwrap()
                .into_data()
                .try_to_vec()
                .unwrap(),
        )
    }

    #[test]
    fn beta_zero_is_l1() {
        let (losses, gradients) = loss_and_gradient(0.0, [-2.0, -0.1, 0.0, 0.5, 3.0]);
        assert_eq!(losses, [2.0, 0.1, 0.0, 0.5, 3.0]);
        assert_eq!(gradients, [-1.0, -1.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn beta_rounds_the_corner() {
        // beta 0.5: 0.1 -> 0.01 / 1 = 0.01; 2 -> 2 - 0.25.
        let (losses, gradients) = loss_and_gradient(0.5, [-2.0, -0.1, 0.0, 0.25, 3.0]);
        let tensor = |values: &[f32]| Tensor::<1>::from_floats(values, &Device::flex()).into_data();
        tensor(&losses).assert_approx_eq::<f32>(
            &tensor(&[1.75, 0.01, 0.0, 0.0625, 2.75]),
            Tolerance::absolute(1e-6),
        );
        // Inside, the slope is d / beta.
        tensor(&gradients).assert_approx_eq::<f32>(
            &tensor(&[-1.0, -0.2, 0.0, 0.5, 1.0]),
            Tolerance::absolute(1e-6),
        );
    }

    #[test]
    fn beta_beside_an_iou_loss_is_refused() {
        let read = |json: &str| serde_json::from_str::<BoxLossConfig>(json);
        let config = read(r#"{"kind": "giou", "weight": 2}"#).unwrap();
        assert_eq!(
            (config.kind, config.weight.get()),
            (BoxLossKind::Giou {}, 2.0)
        );
        let error = read(r#"{"kind": "giou", "beta": 0.1}"#).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `beta`"),
            "{error}"
        );
    }
}
