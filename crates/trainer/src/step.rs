use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use retinanet_criterion::{BatchTargets, Criterion, Normalizer};
use retinanet_detector::{Predictions, RetinaNet};
use retinanet_experiment::OptimizerConfig;

use crate::optimizer::{Optimizer, gradient_norm};
use crate::process_group::ProcessGroup;

/// All that a training step moves on: the model, the optimiser's state and the loss's normaliser.
pub struct Learner {
    pub(crate) model: RetinaNet,
    pub(crate) optimizer: Optimizer,
    pub(crate) criterion: Criterion,
    pub(crate) group: ProcessGroup,
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
    /// Images of the batch, with those of other processes.
    pub images: usize,
    /// Their positive anchors.
    pub positives: usize,
}

impl Learner {
    /// A learner at its start. The model has the weights to start from and lies on a device with
    /// autodiff.
    pub fn new(model: RetinaNet, optimizer: &OptimizerConfig, criterion: Criterion) -> Self {
        Self {
            optimizer: Optimizer::new(optimizer, &model),
            model,
            criterion,
            group: ProcessGroup::single(),
        }
    }

    /// The same as one of several processes that share each batch.
    pub(crate) fn with_team(self, group: ProcessGroup) -> Self {
        Self { group, ..self }
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
    /// Returns an error where the loss or the gradients are non-finite; weights, optimiser and
    /// normaliser stay as they were.
    pub fn step(
        &mut self,
        images: &Tensor<4>,
        targets: &BatchTargets,
        learning_rate: f64,
    ) -> Result<StepLoss, StepError> {
        self.step_in_parts(
            &[targets],
            |_| images.clone(),
            learning_rate,
            |_, _, _| None,
        )
    }

    /// One step over a batch that is too large to compute at once: part after part, with the
    /// gradients of all, as if it were one. Batch norms that learn see each part by itself.
    ///
    /// `images` gives a part's images, as for [`step`](Self::step), and `look` sees what the model
    /// says of them, with the weight of each image in the loss; it may give the part other targets.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn step_in_parts(
        &mut self,
        targets: &[&BatchTargets],
        mut images: impl FnMut(usize) -> Tensor<4>,
        learning_rate: f64,
        mut look: impl FnMut(usize, &Predictions, &[f64]) -> Option<BatchTargets>,
    ) -> Result<StepLoss, StepError> {
        let before = (self.model.valid(), *self.criterion.normalizer());
        let step = self.gradients(targets, &mut images, &mut look);
        let (step, gradients) = step.inspect_err(|_| self.restore(before))?;
        self.model = (self.optimizer).step(
            learning_rate,
            self.model.clone(),
            gradients,
            step.gradient_norm,
        );
        Ok(step)
    }

    /// Lets `look` send images through as training does, and undoes what that moves.
    pub(crate) fn undisturbed<T>(&mut self, look: impl FnOnce(&Self) -> T) -> T {
        let before = (self.model.valid(), *self.criterion.normalizer());
        let seen = look(self);
        self.restore(before);
        seen
    }

    /// Undoes what the forward pass moves: running statistics and the normaliser.
    fn restore(&mut self, (model, normalizer): (RetinaNet, Normalizer)) {
        self.criterion.set_normalizer(normalizer);
        // Batch norms hold their last update back until somebody asks; without this it would come
        // on top of what is put back.
        self.model.valid();
        // It is the same model, so that its record fits.
        if let Ok(model) = (self.model.clone()).try_load_record(model.into_record()) {
            self.model = model;
        }
    }

    /// The loss and its gradients, both finite.
    fn gradients(
        &mut self,
        targets: &[&BatchTargets],
        images: &mut impl FnMut(usize) -> Tensor<4>,
        look: &mut impl FnMut(usize, &Predictions, &[f64]) -> Option<BatchTargets>,
    ) -> Result<(StepLoss, GradientsParams), StepError> {
        // Positives are counted over the whole batch, so that its parts make one loss.
        let counts: Vec<_> = (targets.iter())
            .map(|part| part.positives_per_image())
            .collect();
        let (counts, own) = self.group.gather_counts(&counts.concat());
        let weights = self.criterion.weights(&counts);
        let mut weights = &weights[own];
        let mut sum = GradientsAccumulator::new();
        let mut losses = [0.0, 0.0];
        for (part, targets) in targets.iter().enumerate() {
            let weights = weights
                .split_off(..targets.positives_per_image().len())
                .unwrap_or_default();
            let predictions = self.model.forward(images(part));
            let chosen = look(part, &predictions, weights);
            let targets = chosen.as_ref().unwrap_or(targets);
            let Predictions { logits, deltas, .. } = predictions;
            let loss = (self.criterion).weighted(logits, deltas, targets, weights);
            losses[0] += f64::from(loss.class.clone().into_scalar::<f32>());
            losses[1] += f64::from(loss.bbox.clone().into_scalar::<f32>());
            if !losses.iter().all(|loss| loss.is_finite()) {
                break;
            }
            let gradients = GradientsParams::from_grads(loss.total().backward(), &self.model);
            sum.accumulate(&self.model, gradients);
        }
        self.group.all_reduce(&mut losses);
        let [class, bbox] = losses;
        if !(class.is_finite() && bbox.is_finite()) {
            return Err(StepError {
                class,
                bbox,
                gradient_norm: None,
            });
        }
        let gradients = self.group.all_reduce_gradients(&self.model, sum.grads());
        // The leader's, since other devices may round otherwise and would clip otherwise.
        let gradient_norm = self.group.leaders(gradient_norm(&self.model, &gradients));
        if !gradient_norm.is_finite() {
            return Err(StepError {
                class,
                bbox,
                gradient_norm: Some(gradient_norm),
            });
        }
        let step = StepLoss {
            class,
            bbox,
            gradient_norm,
            images: counts.len(),
            positives: counts.iter().sum(),
        };
        Ok((step, gradients))
    }
}

/// The loss of a step or its gradients are non-finite.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "not finite: the {} (class loss {class}, box loss {bbox})",
    if .gradient_norm.is_some() { "gradients" } else { "loss" }
)]
pub struct StepError {
    /// The class part of the loss.
    pub class: f64,
    /// The box part of the loss.
    pub bbox: f64,
    /// The gradients' norm, where the loss is finite and they are not.
    pub gradient_norm: Option<f64>,
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use retinanet_boxes::{AnchorLabel, AnchorTargets};
    use retinanet_criterion::CriterionConfig;
    use retinanet_detector::{Architecture, ModelConfig, NormKind};

    use super::*;
    use crate::fingerprint;

    /// Batch norms take the poisoned batch in while it goes forward, and so does the normaliser.
    #[test]
    fn a_step_that_is_not_finite_leaves_nothing_behind() {
        let device = Device::flex().autodiff();
        let config = ModelConfig {
            backbone: Architecture::Resnet18,
            width: 2,
            fpn_channels: 4,
            norm: NormKind::BatchNorm,
            freeze_at: 0,
            ..ModelConfig::default()
        };
        let anchors = config.anchor_generator().unwrap().generate(32, 32).len();
        let targets = AnchorTargets {
            labels: vec![AnchorLabel::Background; anchors],
            positives: Vec::new(),
        };
        let targets = BatchTargets::new(&[targets], &device);
        let model = config.init(1, 0, &device).unwrap();
        let criterion = CriterionConfig::default().init().unwrap();
        let mut learner = Learner::new(model, &OptimizerConfig::default(), criterion);
        let images = Tensor::<4>::ones([1, 3, 32, 32], &device);
        learner.step(&images, &targets, 0.01).unwrap();

        let before = fingerprint(learner.model());
        let normalizer = *learner.criterion.normalizer();
        let poisoned = images.clone() * f32::INFINITY;
        let error = learner.step(&poisoned, &targets, 0.01).unwrap_err();
        assert!(!error.class.is_finite(), "{error}");
        assert_eq!(fingerprint(learner.model()), before);
        assert_eq!(*learner.criterion.normalizer(), normalizer);

        // Nor does a non-finite report, which sends the batch through again.
        learner.undisturbed(|learner| learner.model.forward(poisoned.clone()));
        assert_eq!(fingerprint(learner.model()), before);

        // And it goes on as if nothing had been.
        learner.step(&images, &targets, 0.01).unwrap();
        assert_ne!(fingerprint(learner.model()), before);
    }
}
