//! A training step: forward, loss, backward, update.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use retinanet_criterion::{BatchTargets, Criterion, Loss, LossOptions, Normalizer};
use retinanet_detector::{Predictions, RetinaNet};
use retinanet_experiment::OptimizerConfig;

use crate::optimisation::optimizer::{Optimizer, SumOfSquares};
use crate::processes::process_group::ProcessGroup;

/// All that a training step moves on: the model, the optimiser's state and the loss's normaliser.
pub struct Learner {
    pub(crate) model: RetinaNet,
    pub(crate) optimizer: Optimizer,
    pub(crate) criterion: Criterion,
    pub(crate) group: ProcessGroup,
}

/// A micro-batch on the device that trains: a batch, or a part of one.
pub struct DeviceBatch {
    /// `[batch, 3, height, width]`, normalised.
    pub images: Tensor<4>,
    /// What the anchors of the images shall learn.
    pub targets: BatchTargets,
}

/// How a step is taken.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    /// The learning rate.
    pub learning_rate: f64,
    /// What sampling of anchors by chance follows from.
    pub seed: u64,
    /// Whether the losses of the pyramid's levels are told.
    pub by_level: bool,
}

impl StepOptions {
    /// A step at a learning rate, its losses told as a whole.
    pub const fn at(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            seed: 0,
            by_level: false,
        }
    }

    /// With sampling by chance that is the same for a run that goes on: a function of its seed and the iteration.
    #[must_use]
    pub const fn with_seed(self, seed: u64, iteration: u64) -> Self {
        // Odd factors, so that neighbours in one number are not neighbours in the seed.
        let seed = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_add(iteration.wrapping_mul(0xBF58_476D_1CE4_E5B9));
        Self { seed, ..self }
    }
}

/// How a step went.
#[derive(Clone, Debug, PartialEq)]
pub struct StepLoss {
    /// The class part of the loss.
    pub class: f64,
    /// The box part of the loss.
    pub bbox: f64,
    /// Class and box loss of each pyramid level, finest first, if they were asked for.
    pub levels: Vec<[f64; 2]>,
    /// The gradients' norm before clipping.
    pub gradient_norm: f64,
    /// Images of the batch, with those of other processes.
    pub images: usize,
    /// Their positive anchors.
    pub positives: usize,
}

/// What a forward pass moves: running statistics and the normaliser.
struct MovedByForward {
    model: RetinaNet,
    normalizer: Normalizer,
}

impl Learner {
    /// A learner at its start. The model has the weights to start from and is on a device with
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
    pub(crate) fn in_group(self, group: ProcessGroup) -> Self {
        Self { group, ..self }
    }

    /// The model as it stands.
    pub const fn model(&self) -> &RetinaNet {
        &self.model
    }

    /// One step over a batch, part after part with the gradients of all, as if it were one. Batch norms that learn
    /// see each part by itself.
    ///
    /// # Errors
    ///
    /// Returns an error if the loss or the gradients are non-finite; weights, optimiser and
    /// normaliser stay as they were.
    pub fn step(
        &mut self,
        micro_batches: &[DeviceBatch],
        options: StepOptions,
    ) -> Result<StepLoss, StepError> {
        let before = self.moved_by_forward();
        let step = self.gradients(micro_batches, options);
        let (step, gradients) = step.inspect_err(|_| self.restore(before))?;
        self.model = (self.optimizer).step(
            options.learning_rate,
            self.model.clone(),
            gradients,
            step.gradient_norm,
        );
        Ok(step)
    }

    /// Lets `look` send images through as training does, and undoes what that moves.
    pub(crate) fn undisturbed<T>(&mut self, look: impl FnOnce(&Self) -> T) -> T {
        let before = self.moved_by_forward();
        let seen = look(self);
        self.restore(before);
        seen
    }

    fn moved_by_forward(&self) -> MovedByForward {
        MovedByForward {
            model: self.model.valid(),
            normalizer: *self.criterion.normalizer(),
        }
    }

    /// Undoes what the forward pass moves.
    fn restore(&mut self, before: MovedByForward) {
        self.criterion.set_normalizer(before.normalizer);
        // Batch norms hold their last update back until somebody asks; without this it would come
        // on top of what is put back.
        self.model.valid();
        // It is the same model, so that its record fits.
        if let Ok(model) = (self.model.clone()).try_load_record(before.model.into_record()) {
            self.model = model;
        }
    }

    /// The loss and its gradients, both finite.
    fn gradients(
        &mut self,
        micro_batches: &[DeviceBatch],
        options: StepOptions,
    ) -> Result<(StepLoss, GradientsParams), StepError> {
        // Positives are counted over the whole batch, so that its micro-batches make one loss.
        let counts: Vec<_> = (micro_batches.iter())
            .flat_map(|part| part.targets.positives_per_image())
            .collect();
        let (counts, own) = self.group.gather_counts(&counts);
        let weights = self.criterion.weights(&counts);
        let (losses, gradients) = self.accumulate(micro_batches, &weights[own], options);
        let squares = (self.group.is_single()).then(|| SumOfSquares::of(&self.model, &gradients));
        let (mut sums, squares) = read(losses, squares);
        self.group.all_reduce(&mut sums.losses);
        let [class, bbox] = sums.losses;
        let error = |gradient_norm| StepError {
            class,
            bbox,
            gradient_norm,
        };
        if !(class.is_finite() && bbox.is_finite()) {
            return Err(error(None));
        }
        let gradients = self.group.all_reduce_gradients(&self.model, gradients);
        let squares = squares.unwrap_or_else(|| SumOfSquares::of(&self.model, &gradients));
        // The leader's, since other devices may round otherwise and would clip otherwise.
        let gradient_norm = self.group.leaders(squares.norm());
        if !gradient_norm.is_finite() {
            return Err(error(Some(gradient_norm)));
        }
        self.group.all_reduce(sums.levels.as_flattened_mut());
        let step = StepLoss {
            class,
            bbox,
            levels: sums.levels,
            gradient_norm,
            images: counts.len(),
            positives: counts.iter().sum(),
        };
        Ok((step, gradients))
    }

    /// The losses and gradients of this process's micro-batches. No loss is read: the host would wait for a GPU.
    fn accumulate(
        &self,
        micro_batches: &[DeviceBatch],
        mut weights: &[f64],
        options: StepOptions,
    ) -> (Vec<Loss>, GradientsParams) {
        let mut gradients = GradientsAccumulator::new();
        let mut losses = Vec::with_capacity(micro_batches.len());
        let first_micro_batch = self.group.rank() * micro_batches.len();
        for (place, DeviceBatch { images, targets }) in micro_batches.iter().enumerate() {
            let of_part = weights
                .split_off(..targets.images().len())
                .unwrap_or_default();
            let options = LossOptions {
                weights: of_part,
                seed: (options.seed).wrapping_add(((first_micro_batch + place) as u64) << 32),
                by_level: options.by_level,
            };
            let Predictions { logits, deltas, .. } = self.model.forward(images.clone());
            let loss = self.criterion.forward(logits, deltas, targets, options);
            let of_part = GradientsParams::from_grads(loss.total().backward(), &self.model);
            gradients.accumulate(&self.model, of_part);
            losses.push(loss);
        }
        (losses, gradients.grads())
    }
}

/// Reads the losses of micro-batches, and a sum of squares that is on the device too, in one go: for each read the
/// host would wait for a GPU.
fn read(losses: Vec<Loss>, squares: Option<SumOfSquares>) -> (LossSums, Option<SumOfSquares>) {
    let mut on_device = Vec::new();
    let levels: Vec<usize> = losses.iter().map(|loss| loss.levels.len()).collect();
    for loss in losses {
        on_device.extend([loss.class, loss.bbox].map(Tensor::inner));
        on_device.extend(loss.levels.into_iter().flatten().map(Tensor::inner));
    }
    let squares = match squares {
        Some(SumOfSquares::Device(sum)) => {
            on_device.push(*sum);
            None
        }
        other => other,
    };
    let values: Vec<f64> = if on_device.is_empty() {
        Vec::new()
    } else {
        Tensor::cat(on_device, 0).into_data().iter().collect()
    };
    let (pairs, rest) = values.as_chunks::<2>();
    let mut pairs = pairs.iter().copied();
    let mut sums = LossSums::default();
    for levels in levels {
        let losses = pairs.next().unwrap_or_default();
        let levels: Vec<_> = pairs.by_ref().take(levels).collect();
        sums.add(losses, &levels);
    }
    let read = rest.first().copied().map(SumOfSquares::Host);
    (sums, squares.or(read))
}

/// The losses of a batch's micro-batches, added up.
#[derive(Default)]
pub(crate) struct LossSums {
    /// Over classes, and over boxes.
    losses: [f64; 2],
    pub(crate) levels: Vec<[f64; 2]>,
}

impl LossSums {
    pub(crate) fn add(&mut self, losses: [f64; 2], levels: &[[f64; 2]]) {
        self.losses = sum(self.losses, losses);
        if self.levels.is_empty() {
            self.levels = levels.to_vec();
            return;
        }
        for (level, other) in self.levels.iter_mut().zip(levels) {
            *level = sum(*level, *other);
        }
    }
}

fn sum([a, b]: [f64; 2], [c, d]: [f64; 2]) -> [f64; 2] {
    [a + c, b + d]
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
    use std::sync::Arc;

    use burn::tensor::Device;
    use retinanet_boxes::{AnchorLabel, AnchorTargets};
    use retinanet_criterion::{CriterionConfig, PredictionForm};
    use retinanet_detector::{Architecture, ModelConfig, NormKind};
    use retinanet_settings::Whole;

    use super::*;
    use crate::fingerprint;

    /// Batch norms take the poisoned batch in while it goes forward, and so does the normaliser.
    #[test]
    fn a_step_that_is_non_finite_leaves_nothing_behind() {
        let device = Device::flex().autodiff();
        let config = ModelConfig {
            backbone: Architecture::Resnet18,
            width: Whole::literal(2),
            fpn_channels: Whole::literal(4),
            norm: NormKind::BatchNorm,
            freeze_at: Whole::literal(0),
            ..ModelConfig::default()
        };
        let anchors = config.anchor_generator().unwrap().generate(32, 32);
        let targets = AnchorTargets {
            labels: vec![AnchorLabel::Background; anchors.len()],
            positives: Vec::new(),
        };
        let targets = BatchTargets::new(vec![targets], Arc::new(anchors), &device);
        let batch = |images: &Tensor<4>| {
            [DeviceBatch {
                images: images.clone(),
                targets: targets.clone(),
            }]
        };
        let model = config.init(1, 0, &device).unwrap();
        let criterion = CriterionConfig::default()
            .init(PredictionForm::default())
            .unwrap();
        let mut learner = Learner::new(model, &OptimizerConfig::default(), criterion);
        let images = Tensor::<4>::ones([1, 3, 32, 32], &device);
        learner
            .step(&batch(&images), StepOptions::at(0.01))
            .unwrap();

        let before = fingerprint(learner.model());
        let normalizer = *learner.criterion.normalizer();
        let poisoned = images.clone() * f32::INFINITY;
        let error = learner
            .step(&batch(&poisoned), StepOptions::at(0.01))
            .unwrap_err();
        assert!(!error.class.is_finite(), "{error}");
        assert_eq!(fingerprint(learner.model()), before);
        assert_eq!(*learner.criterion.normalizer(), normalizer);

        // Nor does a non-finite report, which sends the batch through again.
        learner.undisturbed(|learner| learner.model.forward(poisoned.clone()));
        assert_eq!(fingerprint(learner.model()), before);

        // And it goes on as if nothing had been.
        learner
            .step(&batch(&images), StepOptions::at(0.01))
            .unwrap();
        assert_ne!(fingerprint(learner.model()), before);
    }
}
