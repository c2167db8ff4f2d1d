//! Losses over classes that want each positive anchor as sure as its box is good.

use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, sigmoid};

use crate::alpha::{Alpha, NamedAlpha};
use crate::focal::{FocalLoss, Term};

/// Keeps the gradient of `|q - p|^beta` finite where the two are equal.
const LEAST_SQUARE: f64 = 1e-12;

/// A loss of independent sigmoids whose positives have a soft target: the overlap `q` of the anchor's predicted box with
/// its object, which is a constant to the gradient.
///
/// ```text
/// p = sigmoid(logit)      CE = -q * log(p) - (1 - q) * log(1 - p)
/// quality focal loss      |q - p|^beta * CE                     (Li et al. 2020, arXiv 2006.04388, equation 2)
/// varifocal loss          q * CE               if q > 0         (Zhang et al. 2021, arXiv 2008.13367, equation 2)
///                         -alpha * p^gamma * log(1 - p)         otherwise
/// ```
///
/// A positive whose box misses its object altogether has a target of 0, and is background.
#[derive(Clone, Debug, PartialEq)]
pub struct QualityLoss {
    pub(crate) form: QualityForm,
}

/// Which loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum QualityForm {
    QualityFocal { beta: f64 },
    Varifocal { alpha: f64, gamma: f64 },
}

impl QualityLoss {
    /// The loss of what is background, and a factor on it: focal loss, without another weight of positives.
    pub(crate) const fn of_background(&self) -> (FocalLoss, f64) {
        let (gamma, factor) = match self.form {
            QualityForm::QualityFocal { beta } => (beta, 1.0),
            QualityForm::Varifocal { alpha, gamma } => (gamma, alpha),
        };
        let focal = FocalLoss {
            alpha: Alpha::Named(NamedAlpha::None),
            gamma,
            shift: None,
            smoothing: 0.0,
        };
        (focal, factor)
    }

    /// What the logits of positives for their own classes add to a sum in which they stand as background.
    ///
    /// # Shapes
    ///
    /// - `logits`, `qualities` and output: `[positives]`
    pub(crate) fn of_objects(&self, logits: Tensor<1>, qualities: Tensor<1>) -> Tensor<1> {
        let (background, factor) = self.of_background();
        let as_background = background.forward(logits.clone(), logits.zeros_like()) * factor;
        self.forward(logits, qualities) - as_background
    }

    /// Computes the loss of every element; the caller masks and reduces.
    ///
    /// # Shapes
    ///
    /// - `logits`, `targets` and output: `[..dims]`, targets in `[0, 1]`
    pub fn forward<const D: usize>(&self, logits: Tensor<D>, targets: Tensor<D>) -> Tensor<D> {
        let log_right = log_sigmoid(logits.clone());
        let log_wrong = log_sigmoid(-logits.clone());
        let cross_entropy =
            -(targets.clone() * log_right) - (-targets.clone() + 1.0) * log_wrong.clone();
        match self.form {
            QualityForm::QualityFocal { beta } => {
                let distance = targets - sigmoid(logits);
                let focus = distance
                    .square()
                    .clamp_min(LEAST_SQUARE)
                    .powf_scalar(beta / 2.0);
                focus * cross_entropy
            }
            QualityForm::Varifocal { alpha, gamma } => {
                let is_object = targets.clone().greater_elem(0.0).float();
                // p^gamma through the logarithm, as focal loss does it.
                let log_p = log_sigmoid(logits);
                let background = -log_wrong * (log_p * gamma).exp() * alpha;
                let of_background = (-is_object + 1.0) * background;
                targets * cross_entropy + of_background
            }
        }
    }

    /// The loss of one element on the host, as if the box of a positive were perfect.
    pub(crate) fn of_element(&self, logit: f32, positive: bool) -> Term {
        let (background, factor) = self.of_background();
        let mut term = background.of_element(logit, 0, positive);
        term.loss = match self.form {
            QualityForm::QualityFocal { .. } => term.loss,
            QualityForm::Varifocal { .. } if positive => term.cross_entropy,
            QualityForm::Varifocal { .. } => factor as f32 * term.loss,
        };
        term
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};
    use proptest::prelude::*;

    use super::*;

    fn loss(form: QualityForm) -> QualityLoss {
        QualityLoss { form }
    }

    const FORMS: [QualityForm; 4] = [
        QualityForm::QualityFocal { beta: 2.0 },
        QualityForm::QualityFocal { beta: 1.5 },
        QualityForm::Varifocal {
            alpha: 0.75,
            gamma: 2.0,
        },
        QualityForm::Varifocal {
            alpha: 0.5,
            gamma: 1.0,
        },
    ];

    /// The formulas as they are written, in f64.
    fn reference(form: QualityForm, logit: f64, q: f64) -> f64 {
        let p = 1.0 / (1.0 + (-logit).exp());
        let cross_entropy = -q * p.ln() - (1.0 - q) * (1.0 - p).ln();
        match form {
            QualityForm::QualityFocal { beta } => (q - p).abs().powf(beta) * cross_entropy,
            QualityForm::Varifocal { .. } if q > 0.0 => q * cross_entropy,
            QualityForm::Varifocal { alpha, gamma } => -alpha * p.powf(gamma) * (1.0 - p).ln(),
        }
    }

    fn values(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    proptest! {
        #[test]
        fn losses_are_the_formulas(logit in -12_f32..12.0, q in 0_f32..1.0, background: bool) {
            let q = if background { 0.0 } else { q };
            let device = Device::flex();
            for form in FORMS {
                let tensor = |value| Tensor::<1>::from_floats([value], &device);
                let found = values(loss(form).forward(tensor(logit), tensor(q)))[0];
                let expected = reference(form, logit.into(), q.into());
                prop_assert!(
                    (f64::from(found) - expected).abs() < 1e-5 * expected.abs().max(1e-2),
                    "{form:?}: {found} and {expected}"
                );
            }
        }

        /// Central differences of the formula in f64.
        #[test]
        fn gradients_are_differences(logit in -6_f32..6.0, q in 0.01_f32..1.0, background: bool) {
            let q = if background { 0.0 } else { q };
            let device = Device::flex().autodiff();
            for form in FORMS {
                let logits = Tensor::<1>::from_floats([logit], &device).require_grad();
                let targets = Tensor::from_floats([q], &device);
                let gradients = loss(form).forward(logits.clone(), targets).sum().backward();
                let found = values(logits.grad(&gradients).unwrap())[0];
                let [x, q, step] = [f64::from(logit), f64::from(q), 1e-5];
                let (up, down) = (reference(form, x + step, q), reference(form, x - step, q));
                let expected = (up - down) / (2.0 * step);
                prop_assert!((f64::from(found) - expected).abs() < 2e-4, "{form:?}: {found} and {expected}");
            }
        }
    }

    #[test]
    fn what_is_as_sure_as_it_should_be_has_no_loss_and_a_gradient() {
        let device = Device::flex().autodiff();
        let logits = Tensor::<1>::from_floats([0.0], &device).require_grad();
        let targets = Tensor::from_floats([0.5], &device);
        let form = QualityForm::QualityFocal { beta: 1.0 };
        let losses = loss(form).forward(logits.clone(), targets);
        let gradients = losses.clone().sum().backward();
        assert!(values(losses)[0] < 1e-5);
        assert!(values(logits.grad(&gradients).unwrap())[0].is_finite());
    }

    #[test]
    fn objects_take_the_place_of_background() {
        let device = Device::flex();
        let logits = Tensor::<1>::from_floats([-3.0, 0.5, 2.0, 30.0, -30.0], &device);
        let qualities = Tensor::<1>::from_floats([0.3, 0.9, 0.0, 0.7, 0.2], &device);
        for form in FORMS {
            let loss = loss(form);
            let (background, factor) = loss.of_background();
            let dense = background.forward(logits.clone(), logits.zeros_like()) * factor;
            let sum = dense + loss.of_objects(logits.clone(), qualities.clone());
            let expected = loss.forward(logits.clone(), qualities.clone());
            sum.into_data()
                .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::default());
        }
    }
}
