//! What the box subnet says of the positive anchors.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use retinanet_anchors::BoxCoder;

use crate::distribution::integral;
use crate::targets::Positives;

/// What stands behind the values that the box subnet gives an anchor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct BoxForm {
    pub(crate) coder: BoxCoder,
    /// Whether a logit of centerness stands behind them.
    pub(crate) centerness: bool,
}

/// The predictions of the positive anchors.
pub(crate) struct BoxPredictions {
    /// `[positives, 4]`: the four numbers of the box coder.
    pub(crate) deltas: Tensor<2>,
    /// `[positives, 4, bins]`: the logits of what they are the mean of.
    pub(crate) distributions: Option<Tensor<3>>,
    /// `[positives]`: logits.
    pub(crate) centerness: Option<Tensor<1>>,
}

impl BoxForm {
    /// Reads the values of the positive anchors.
    ///
    /// # Shapes
    ///
    /// - `boxes`: `[batch, anchors, values]`
    pub(crate) fn read(&self, boxes: Tensor<3>, positives: &Positives) -> BoxPredictions {
        let [batch, anchors, values] = boxes.dims();
        let rows = boxes.reshape([batch * anchors, values]);
        let rows = rows.select(0, positives.indices.clone());
        let count = positives.images.len();
        let of_box = self.coder.predicted_values();
        let centerness = self
            .centerness
            .then(|| rows.clone().narrow(1, of_box, 1).squeeze_dim(1));
        let rows = rows.narrow(1, 0, of_box);
        let Some(bins) = self.coder.bins() else {
            return BoxPredictions {
                deltas: rows,
                distributions: None,
                centerness,
            };
        };
        let distributions = rows.reshape([count, 4, bins]);
        BoxPredictions {
            deltas: integral(distributions.clone()),
            distributions: Some(distributions),
            centerness,
        }
    }
}

/// How near the positive anchors are to the middle of their objects (Tian et al. 2019, equation 3), `[positives]`: 1 in the
/// middle, 0 on the border.
///
/// ```text
/// sqrt(min(left, right) / max(left, right) * min(up, down) / max(up, down))
/// ```
pub(crate) fn centerness(positives: &Positives) -> Tensor<1> {
    let part = |boxes: &Tensor<2>, first| boxes.clone().narrow(1, first, 2);
    let [anchors, objects] = [&positives.anchors, &positives.objects];
    let centers = (part(anchors, 0) + part(anchors, 2)) * 0.5;
    let before = centers.clone() - part(objects, 0); // [positives, 2]
    let behind = part(objects, 2) - centers;
    let nearer = before.clone().min_pair(behind.clone()).clamp_min(0.0);
    let ratios = nearer / before.max_pair(behind); // across and down
    let product = ratios.clone().narrow(1, 0, 1) * ratios.narrow(1, 1, 1);
    product.sqrt().squeeze_dim(1)
}

/// Cross-entropy of centerness, `[positives]`.
pub(crate) fn centerness_loss(logits: Tensor<1>, targets: Tensor<1>) -> Tensor<1> {
    let not = -targets.clone() + 1.0;
    -(targets * log_sigmoid(logits.clone())) - not * log_sigmoid(-logits)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, Tolerance};

    use super::*;

    fn positives(anchors: [[f32; 4]; 3], objects: [[f32; 4]; 3]) -> Positives {
        let device = Device::flex();
        Positives {
            indices: Tensor::<1, Int>::from_ints([0, 1, 2], &device),
            classes: Tensor::<1, Int>::from_ints([0, 0, 0], &device),
            images: vec![0; 3],
            deltas: Tensor::zeros([3, 4], &device),
            anchors: Tensor::from_floats(anchors, &device),
            objects: Tensor::from_floats(objects, &device),
            qualities: None,
        }
    }

    /// In the middle; a quarter of the way across and a third of the way down; and outside.
    #[test]
    fn centerness_worked_by_hand() {
        let around = |x: f32, y: f32| [x - 4.0, y - 2.0, x + 4.0, y + 2.0];
        let positives = positives(
            [around(50.0, 30.0), around(25.0, 20.0), around(120.0, 30.0)],
            [[0.0, 0.0, 100.0, 60.0]; 3],
        );
        let expected = ((25.0_f32 / 75.0) * (20.0 / 40.0)).sqrt();
        let expected = Tensor::<1>::from_floats([1.0, expected, 0.0], &Device::flex());
        centerness(&positives)
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn the_loss_of_centerness_is_cross_entropy() {
        let device = Device::flex();
        let logits = Tensor::<1>::from_floats([0.3, -2.0, 90.0], &device);
        let targets = Tensor::<1>::from_floats([0.25, 1.0, 0.0], &device);
        let reference = |logit: f64, target: f64| {
            let p = 1.0 / (1.0 + (-logit).exp());
            -target * p.ln() - (1.0 - target) * (1.0 - p).ln()
        };
        let [first, second] = [(0.3, 0.25), (-2.0, 1.0)].map(|(x, t)| reference(x, t) as f32);
        let expected = Tensor::<1>::from_floats([first, second, 90.0], &device);
        centerness_loss(logits, targets)
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }
}
