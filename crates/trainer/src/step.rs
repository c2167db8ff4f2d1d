use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use retinanet_criterion::{BatchTargets, Criterion};
use retinanet_detector::{Predictions, RetinaNet};

use crate::config::OptimizerConfig;
use crate::optimizer::Optimizer;

/// All that a training step moves on: the model, the optimiser's state and the loss's normaliser.
pub struct Learner {
    pub(crate) model: RetinaNet,
    pub(crate) optimizer: Optimizer,
    pub(crate) criterion: Criterion,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    /// The class part of the loss.
    pub class: f64,
    /// The box part of the loss.
    pub bbox: f64,
    /// The gradients' norm before clipping.
    pub gradient_norm: f64,
}

impl Learner {
    /// A learner at its start. The model has the weights to start from and lies on a device with
    /// autodiff.
    pub fn new(model: RetinaNet, optimizer: &OptimizerConfig, criterion: Criterion) -> Self {
        Self {
            optimizer: Optimizer::new(optimizer, &model),
            model,
            criterion,
        }
    }

    /// The model as it stands.
    pub const fn model(&self) -> &RetinaNet {
        &self.model
    }

    /// One step: forward, loss, backward, update.
    ///
    /// # Shapes
    ///
    /// - `images`: `[batch, 3, height, width]`, normalised
    ///
    /// # Errors
    ///
    /// Returns an error where the loss is no number; the weights stay as they were.
    pub fn step(
        &mut self,
        images: Tensor<4>,
        targets: &BatchTargets,
        learning_rate: f64,
    ) -> Result<StepLoss, StepError> {
        let Predictions { logits, deltas, .. } = self.model.forward(images);
        let parts = self.criterion.forward(logits, deltas, targets);
        let class = f64::from(parts.class.clone().into_scalar::<f32>());
        let bbox = f64::from(parts.bbox.clone().into_scalar::<f32>());
        if !(class.is_finite() && bbox.is_finite()) {
            return Err(StepError { class, bbox });
        }
        let gradients = GradientsParams::from_grads(parts.total().backward(), &self.model);
        let (model, gradient_norm) =
            self.optimizer
                .step(learning_rate, self.model.clone(), gradients);
        self.model = model;
        Ok(StepLoss {
            class,
            bbox,
            gradient_norm,
        })
    }
}

/// The loss of a step is no number.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the loss is not finite (class {class}, box {bbox})")]
pub struct StepError {
    /// The class part.
    pub class: f64,
    /// The box part.
    pub bbox: f64,
}
