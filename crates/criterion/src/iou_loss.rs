//! Box losses over the overlap of boxes instead of their deltas.

use burn::tensor::Tensor;
use retinanet_anchors::{BoxCoder, DeltaCoder};

use crate::targets::Positives;

/// Keeps divisions finite (`torchvision/ops/giou_loss.py`).
const EPSILON: f64 = 1e-7;

/// `1 - IoU` with a penalty that has a gradient where boxes do not meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IouLoss {
    pub(crate) penalty: Penalty,
    pub(crate) coder: BoxCoder,
}

/// What is added to `1 - IoU`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Penalty {
    /// GIoU (Rezatofighi et al. 2019): the share of the enclosing box that neither covers.
    Enclosing,
    /// DIoU (Zheng et al. 2020): the squared distance of the centres over the squared diagonal of
    /// the enclosing box.
    Distance,
    /// CIoU (Zheng et al. 2020): DIoU's, and how much the aspect ratios differ.
    DistanceAndAspect,
}

impl IouLoss {
    /// Computes the loss of every box; the caller reduces.
    ///
    /// # Shapes
    ///
    /// - `deltas`, `anchors` and `objects`: `[boxes, 4]`; the latter two `[x1, y1, x2, y2]`
    /// - output: `[boxes, 1]`
    pub fn forward(&self, deltas: Tensor<2>, anchors: Tensor<2>, objects: Tensor<2>) -> Tensor<2> {
        let predicted = decode(self.coder, deltas, Corners::of(anchors));
        let object = Corners::of(objects);
        let enclosing = predicted.clone().enclosing(object.clone());
        let intersection = predicted.clone().intersection(object.clone());
        let union = predicted.clone().area() + object.clone().area() - intersection.clone();
        let iou = intersection / (union.clone() + EPSILON);
        let penalty = match self.penalty {
            Penalty::Enclosing => {
                let area = enclosing.area();
                (area.clone() - union) / (area + EPSILON)
            }
            Penalty::Distance => distance(predicted, object, enclosing),
            Penalty::DistanceAndAspect => {
                distance(predicted.clone(), object.clone(), enclosing)
                    + aspect(predicted, object, iou.clone())
            }
        };
        penalty - iou + 1.0
    }

    /// How well predicted boxes overlap their objects, `[positives]`, a constant to the gradient.
    ///
    /// # Shapes
    ///
    /// - `deltas`: `[positives, 4]`
    pub(crate) fn overlaps(coder: BoxCoder, deltas: Tensor<2>, positives: &Positives) -> Tensor<1> {
        let predicted = decode(
            coder,
            deltas.detach(),
            Corners::of(positives.anchors.clone()),
        );
        let object = Corners::of(positives.objects.clone());
        let intersection = predicted.clone().intersection(object.clone());
        let union = predicted.area() + object.area() - intersection.clone();
        let overlaps = intersection / (union + EPSILON);
        overlaps.clamp(0.0, 1.0).squeeze_dim(1)
    }
}

/// The boxes that deltas describe; the tensor form of the box coder's decoding, but that distances below 0 stay, since
/// they have to be learnt from.
fn decode(coder: BoxCoder, deltas: Tensor<2>, anchors: Corners) -> Corners {
    match coder {
        BoxCoder::Deltas(coder) => decode_deltas(coder, deltas, anchors),
        BoxCoder::Distances(coder) => {
            let unit = anchors.clone().size() / coder.units_per_side();
            let center = anchors.center();
            let [before, behind] = halves(deltas);
            Corners {
                low: center.clone() - before * unit.clone(),
                high: center + behind * unit,
            }
        }
    }
}

fn decode_deltas(coder: DeltaCoder, deltas: Tensor<2>, anchors: Corners) -> Corners {
    let weights = Tensor::<1>::from_floats(coder.weights(), &deltas.device());
    let deltas = deltas / weights.unsqueeze();
    let [shift, log_scale] = halves(deltas);
    let anchor_size = anchors.clone().size();
    let center = anchors.center() + shift * anchor_size.clone();
    let [smallest, largest] = coder.log_scale_limits();
    let half = log_scale.clamp(smallest, largest).exp() * anchor_size * 0.5;
    Corners {
        low: center.clone() - half.clone(),
        high: center + half,
    }
}

/// DIoU's penalty, `[boxes, 1]`.
fn distance(predicted: Corners, object: Corners, enclosing: Corners) -> Tensor<2> {
    let between = (predicted.center() - object.center()).square().sum_dim(1);
    between / (enclosing.size().square().sum_dim(1) + EPSILON)
}

/// What CIoU adds: `v^2 / (1 - IoU + v)`, of which the quotient counts as a constant.
fn aspect(predicted: Corners, object: Corners, iou: Tensor<2>) -> Tensor<2> {
    let angle = |corners: Corners| {
        let size = corners.size();
        let (width, height) = (size.clone().narrow(1, 0, 1), size.narrow(1, 1, 1));
        (width / height).atan()
    };
    let four_over_pi_squared = 4.0 / std::f64::consts::PI.powi(2);
    let v = (angle(object) - angle(predicted)).square() * four_over_pi_squared;
    let rest: Tensor<2> = 1.0 - iou + v.clone() + EPSILON;
    let weight = (v.clone() / rest).detach();
    v * weight
}

/// Boxes as `[boxes, 2]` of `(x1, y1)` and of `(x2, y2)`.
#[derive(Clone)]
struct Corners {
    low: Tensor<2>,
    high: Tensor<2>,
}

impl Corners {
    fn of(boxes: Tensor<2>) -> Self {
        let [low, high] = halves(boxes);
        Self { low, high }
    }

    fn size(self) -> Tensor<2> {
        self.high - self.low
    }

    fn center(self) -> Tensor<2> {
        (self.low + self.high) * 0.5
    }

    /// `[boxes, 1]`; 0 where the corners are swapped.
    fn area(self) -> Tensor<2> {
        let size = self.size().clamp_min(0.0);
        size.clone().narrow(1, 0, 1) * size.narrow(1, 1, 1)
    }

    fn intersection(self, other: Self) -> Tensor<2> {
        Self {
            low: self.low.max_pair(other.low),
            high: self.high.min_pair(other.high),
        }
        .area()
    }

    fn enclosing(self, other: Self) -> Self {
        Self {
            low: self.low.min_pair(other.low),
            high: self.high.max_pair(other.high),
        }
    }
}

/// Columns 0 and 1, and columns 2 and 3.
fn halves(values: Tensor<2>) -> [Tensor<2>; 2] {
    [values.clone().narrow(1, 0, 2), values.narrow(1, 2, 2)]
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, Tolerance};
    use retinanet_anchors::{BoxCoderConfig, DeltaConfig, DistanceConfig};
    use retinanet_boxes::BoundingBox;
    use retinanet_settings::Positive;

    use super::*;

    const ANCHORS: [[f32; 4]; 3] = [
        [10.0, 20.0, 50.0, 40.0],
        [0.0, 0.0, 32.0, 32.0],
        [100.0, 100.0, 164.0, 228.0],
    ];
    const OBJECTS: [[f32; 4]; 3] = [
        [14.0, 18.0, 58.0, 44.0],
        [40.0, 4.0, 60.0, 60.0],
        [90.0, 120.0, 170.0, 200.0],
    ];
    const DELTAS: [[f32; 4]; 3] = [
        [0.1, -0.05, 0.2, 0.0],
        [0.0, 0.1, -0.3, 0.2],
        [-0.2, 0.15, 0.4, -0.5],
    ];

    fn coder(weights: [f32; 4], limit_shrinking: bool) -> BoxCoder {
        let config = DeltaConfig {
            weights: weights.map(|weight| Positive::new(f64::from(weight)).unwrap()),
            limit_shrinking,
        };
        BoxCoderConfig::Deltas(config).init()
    }

    fn loss_and_gradient(loss: IouLoss, deltas: [[f32; 4]; 3]) -> ([f32; 3], Vec<f32>) {
        let device = Device::flex().autodiff();
        let deltas = Tensor::from_floats(deltas, &device).require_grad();
        let losses = loss.forward(
            deltas.clone(),
            Tensor::from_floats(ANCHORS, &device),
            Tensor::from_floats(OBJECTS, &device),
        );
        let gradients = losses.clone().sum().backward();
        let gradient = deltas.grad(&gradients).unwrap();
        let losses: Vec<f32> = losses.into_data().try_to_vec().unwrap();
        (
            losses.try_into().unwrap(),
            gradient.into_data().try_to_vec().unwrap(),
        )
    }

    /// ```python
    /// # torchvision 0.29
    /// boxes = BoxCoder((1., 1., 1., 1.)).decode_single(deltas, anchors)
    /// generalized_box_iou_loss(boxes, objects, eps=1e-7)   # distance_…, complete_…
    /// ```
    #[test]
    fn losses_and_gradients_are_torchvisions() {
        for (penalty, losses, gradients) in [
            (
                Penalty::Enclosing,
                [0.313_902, 1.392_77, 0.602_804],
                [
                    [0.0, 0.0, 0.766_048, -0.730_01],
                    [-0.347_901, -0.322_018, -0.146_051, -0.078_259],
                    [-0.802_825, 1.706_918, -0.068_322, -0.184_317],
                ],
            ),
            (
                Penalty::Distance,
                [0.293_576, 1.195_22, 0.583_687],
                [
                    [-0.052_238, -0.026_119, 0.554_146, -0.653_551],
                    [-0.218_639, -0.009_655, -0.038_233, -0.068_102],
                    [-0.589_287, 1.749_681, -0.069_74, -0.117_71],
                ],
            ),
            (
                Penalty::DistanceAndAspect,
                [0.293_82, 1.195_49, 0.583_72],
                [
                    [-0.052_238, -0.026_119, 0.555_322, -0.654_727],
                    [-0.218_639, -0.009_655, -0.037_049, -0.069_286],
                    [-0.589_287, 1.749_681, -0.069_426, -0.118_024],
                ],
            ),
        ] {
            let loss = IouLoss {
                penalty,
                coder: BoxCoder::default(),
            };
            let found = loss_and_gradient(loss, DELTAS);
            for (loss, expected) in found.0.iter().zip(losses) {
                assert!((loss - expected).abs() < 2e-6, "{penalty:?}: {found:?}");
            }
            for (slope, expected) in found.1.iter().zip(gradients.as_flattened()) {
                assert!((slope - expected).abs() < 5e-6, "{penalty:?}: {found:?}");
            }
        }
    }

    #[test]
    fn the_coders_weights_are_taken_off() {
        let weights = [10.0, 10.0, 5.0, 5.0];
        let weighted = DELTAS.map(|deltas| std::array::from_fn(|i| deltas[i] * weights[i]));
        let loss = |weights| IouLoss {
            penalty: Penalty::Enclosing,
            coder: coder(weights, false),
        };
        let (plain, _) = loss_and_gradient(loss([1.0; 4]), DELTAS);
        let (found, _) = loss_and_gradient(loss(weights), weighted);
        for (found, plain) in found.iter().zip(plain) {
            assert!((found - plain).abs() < 1e-6, "{found} {plain}");
        }
    }

    /// Log scales on both sides of both limits, `ln(1000 / 16)` is about 4.135.
    const EXTREME: [[f32; 4]; 3] = [
        [0.1, 0.2, -6.0, -4.2],
        [0.0, 0.1, 5.0, 4.1],
        [-0.2, 0.15, -4.1, 0.3],
    ];

    #[test]
    fn boxes_are_those_that_the_coder_decodes() {
        for limit_shrinking in [false, true] {
            let coder = coder([1.0, 2.0, 1.0, 0.5], limit_shrinking);
            let device = Device::flex();
            let corners = decode(
                coder,
                Tensor::from_floats(EXTREME, &device),
                Corners::of(Tensor::from_floats(ANCHORS, &device)),
            );
            let found = Tensor::cat(vec![corners.low, corners.high], 1).into_data();
            let found: Vec<f32> = found.try_to_vec().unwrap();
            for ((found, anchor), deltas) in found.chunks(4).zip(ANCHORS).zip(EXTREME) {
                let expected = coder.decode(&BoundingBox::from(anchor), deltas).to_array();
                for (found, expected) in found.iter().zip(expected) {
                    let off = (found - expected).abs();
                    assert!(off <= 1e-4 * expected.abs().max(1.0), "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_side_beyond_the_limit_of_shrinking_has_no_gradient() {
        let loss = |limit_shrinking| IouLoss {
            penalty: Penalty::Enclosing,
            coder: coder([1.0; 4], limit_shrinking),
        };
        let mut deltas = DELTAS;
        deltas[0][2] = -5.0;
        let (_, limited) = loss_and_gradient(loss(true), deltas);
        let (_, free) = loss_and_gradient(loss(false), deltas);
        assert!(limited[2].abs() < f32::EPSILON, "{limited:?}");
        assert!(free[2].abs() > 1e-4, "{free:?}");
    }

    /// Distances of 1, 2, 3 and 4 strides from the centre of an anchor of eight strides of 4 are the object itself: no loss,
    /// and an overlap of 1. With the right one 0: an overlap of a quarter.
    #[test]
    fn distances_are_decoded_as_their_coder_does() {
        let device = Device::flex();
        let coder = BoxCoderConfig::Distances(DistanceConfig::default()).init();
        let deltas =
            Tensor::<2>::from_floats([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 0.0, 4.0]], &device);
        let anchors = Tensor::<2>::from_floats([[4.0, 4.0, 36.0, 36.0]; 2], &device);
        let objects = Tensor::<2>::from_floats([[16.0, 12.0, 32.0, 36.0]; 2], &device);
        let loss = IouLoss {
            penalty: Penalty::Enclosing,
            coder,
        };
        let losses = loss.forward(deltas.clone(), anchors.clone(), objects.clone());
        let expected = Tensor::<2>::from_floats([[0.0], [0.75]], &device);
        losses
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
        let positives = Positives {
            indices: Tensor::<1, Int>::from_ints([0, 1], &device),
            classes: Tensor::<1, Int>::from_ints([0, 0], &device),
            images: vec![0; 2],
            deltas: deltas.clone(),
            anchors,
            objects,
            qualities: None,
        };
        let expected = Tensor::<1>::from_floats([1.0, 0.25], &device);
        IouLoss::overlaps(coder, deltas, &positives)
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
    }
}
