//! A training step: forward, loss, backward, update.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use retinanet_convolution::synchronise_batch_norms;
use retinanet_criterion::{BatchTargets, Criterion, Loss, LossOptions, Normalizer};
use retinanet_detector::{Predictions, RetinaNet};
use retinanet_experiment::OptimizerConfig;
#[cfg(feature = "gpu")]
use retinanet_gpu::Reading;

#[cfg(feature = "gpu")]
use crate::optimisation::gpu;
use crate::optimisation::loss_scale::LossScale;
#[cfg(feature = "gpu")]
use crate::optimisation::losses::on_device;
use crate::optimisation::losses::{LossSums, StepError, StepLoss};
#[cfg(feature = "gpu")]
use crate::optimisation::optimizer::squares_on_gpu;
use crate::optimisation::optimizer::{Optimizer, sum_of_squares};
use crate::optimisation::recompute;
use crate::processes::process_group::ProcessGroup;

/// All that a training step moves on: the model, the optimiser's state and the loss's normaliser.
pub struct Learner {
    pub(crate) model: RetinaNet,
    pub(crate) optimizer: Optimizer,
    pub(crate) criterion: Criterion,
    pub(crate) group: ProcessGroup,
    pub(crate) loss_scale: Option<LossScale>,
    /// What it was before it was lowered for the step that is taken again.
    unlowered: Option<LossScale>,
    /// Of steps that a GPU judges itself.
    #[cfg(feature = "gpu")]
    on_device: OnDevice,
}

/// What a learner knows of steps on a device that the host has not read.
#[cfg(feature = "gpu")]
#[derive(Default)]
struct OnDevice {
    /// On the last of them.
    verdict: Option<gpu::Verdict>,
    /// How many there were.
    begun: usize,
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

/// What a step moves before it is known whether it is one: running statistics and the normaliser.
struct Moved {
    /// Where there are running statistics.
    model: Option<RetinaNet>,
    normalizer: Normalizer,
}

/// A step that was begun.
pub(crate) enum BegunStep {
    /// It is done.
    Done(Result<StepLoss, StepError>),
    /// A GPU computes it, judges it and moves the weights, at its own time.
    #[cfg(feature = "gpu")]
    OnDevice(Box<StepOnDevice>),
}

#[cfg(feature = "gpu")]
pub(crate) struct StepOnDevice {
    /// The verdict, with the losses and the sum of the gradients' squares.
    verdict: Reading,
    /// How many levels each micro-batch tells the losses of.
    levels: Vec<usize>,
    /// Images and positive anchors.
    counts: [usize; 2],
    /// That it was taken with.
    loss_scale: Option<LossScale>,
    before: Moved,
    /// Steps begun before it.
    begun_before: usize,
}

impl Learner {
    /// A learner at its start. The model has the weights to start from and is on a device with
    /// autodiff.
    pub fn new(model: RetinaNet, optimizer: &OptimizerConfig, criterion: Criterion) -> Self {
        Self {
            optimizer: Optimizer::new(optimizer, &model),
            loss_scale: LossScale::of(model.precision()),
            model,
            criterion,
            group: ProcessGroup::single(),
            unlowered: None,
            #[cfg(feature = "gpu")]
            on_device: OnDevice::default(),
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
    /// see each part by itself. Where gradients of half precision overflow, the loss scale is lowered and the step
    /// taken again.
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
        loop {
            let begun = self.begin(micro_batches, options);
            match self.finish(begun) {
                Err(error) if self.lower_loss_scale(&error) => {}
                done => return done,
            }
        }
    }

    /// Begins a step. A GPU goes on with it by itself, and the next may begin before it is finished: if it proves
    /// non-finite, neither it nor those begun after it move anything.
    pub(crate) fn begin(
        &mut self,
        micro_batches: &[DeviceBatch],
        options: StepOptions,
    ) -> BegunStep {
        let before = self.moved();
        if let Some(scale) = &mut self.loss_scale {
            scale.advance();
        }
        // Positives are counted over the whole batch, so that its micro-batches make one loss.
        let counts: Vec<_> = (micro_batches.iter())
            .flat_map(|part| part.targets.positives_per_image())
            .collect();
        let (counts, own) = self.group.gather_counts(&counts);
        let weights = self.criterion.weights(&counts);
        let (losses, gradients) =
            self.synchronised(|| self.accumulate(micro_batches, &weights[own], options));
        let counts = [counts.len(), counts.iter().sum()];
        #[cfg(feature = "gpu")]
        if self.group.is_single()
            && let Some(squares) = squares_on_gpu(&self.model, &gradients)
        {
            let step = self.move_on_device(losses, (gradients, squares), counts, options, before);
            return BegunStep::OnDevice(Box::new(step));
        }
        let moved = self.move_if_finite(losses, gradients, counts, options);
        BegunStep::Done(moved.inspect_err(|_| self.restore(before)))
    }

    /// Waits for a step that was begun, the oldest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the loss or the gradients are non-finite. Everything is then as before the step, and those
    /// that were begun after it are forgotten.
    pub(crate) fn finish(&mut self, step: BegunStep) -> Result<StepLoss, StepError> {
        #[cfg_attr(
            not(feature = "gpu"),
            expect(
                clippy::infallible_destructuring_match,
                reason = "without GPUs there is one way"
            )
        )]
        let finished = match step {
            BegunStep::Done(result) => result,
            #[cfg(feature = "gpu")]
            BegunStep::OnDevice(step) => self.read(*step),
        };
        if finished.is_ok() {
            self.unlowered = None;
        }
        finished
    }

    /// Lowers the loss scale if that may mend a step that failed; tells whether it may. Where no scale mends it, the
    /// scale is not to blame.
    pub(crate) fn lower_loss_scale(&mut self, error: &StepError) -> bool {
        let overflowed = error.gradient_norm.is_some();
        let lowered = (self.loss_scale.filter(|_| overflowed)).and_then(LossScale::lowered);
        if lowered.is_some() {
            self.unlowered = self.unlowered.or(self.loss_scale);
            self.loss_scale = lowered;
        } else {
            self.loss_scale = self.unlowered.take().or(self.loss_scale);
        }
        lowered.is_some()
    }

    /// Lets `look` send images through as training does, and undoes what that moves.
    pub(crate) fn undisturbed<T>(&mut self, look: impl FnOnce(&Self) -> T) -> T {
        let before = self.moved();
        let seen = look(self);
        self.restore(before);
        seen
    }

    fn moved(&self) -> Moved {
        Moved {
            model: (self.model.has_running_statistics()).then(|| self.model.valid()),
            normalizer: *self.criterion.normalizer(),
        }
    }

    /// Undoes what a step moves before it is known whether it is one.
    fn restore(&mut self, before: Moved) {
        self.criterion.set_normalizer(before.normalizer);
        let Some(model) = before.model else { return };
        // Batch norms hold their last update back until somebody asks; without this it would come
        // on top of what is put back.
        self.model.valid();
        // It is the same model, so that its record fits.
        if let Ok(model) = (self.model.clone()).try_load_record(model.into_record()) {
            self.model = model;
        }
    }

    fn loss_factor(&self) -> f64 {
        self.loss_scale.map_or(1.0, LossScale::factor)
    }

    /// Moves the weights, if the loss and its gradients are finite.
    fn move_if_finite(
        &mut self,
        losses: Vec<Loss>,
        gradients: GradientsParams,
        [images, positives]: [usize; 2],
        options: StepOptions,
    ) -> Result<StepLoss, StepError> {
        let mut sums = LossSums::read(losses);
        self.group.all_reduce(&mut sums.losses);
        sums.require_finite(None)?;
        let gradients = self.group.all_reduce_gradients(&self.model, gradients);
        let factor = self.loss_factor();
        // The leader's, since other devices may round otherwise and would clip otherwise.
        let gradient_norm =
            (self.group).leaders(sum_of_squares(&self.model, &gradients).sqrt() / factor);
        sums.require_finite(Some(gradient_norm))?;
        self.group.all_reduce(sums.levels.as_flattened_mut());
        let norm = (gradient_norm, factor);
        let rate = options.learning_rate;
        self.model = (self.optimizer).step(rate, self.model.clone(), gradients, norm);
        Ok(sums.step_loss(gradient_norm, [images, positives], self.loss_scale))
    }

    /// Lets the device move the weights, if it finds the loss and its gradients finite.
    #[cfg(feature = "gpu")]
    fn move_on_device(
        &mut self,
        losses: Vec<Loss>,
        (gradients, squares): (GradientsParams, Tensor<1>),
        counts: [usize; 2],
        options: StepOptions,
        before: Moved,
    ) -> StepOnDevice {
        gpu::require_losses(&losses);
        let levels = losses.iter().map(|loss| loss.levels.len()).collect();
        let numbers = Tensor::cat(on_device(losses).chain([squares]).collect(), 0);
        let verdict = gpu::Verdict::on(
            &numbers,
            self.on_device.verdict.as_ref(),
            self.optimizer.clip_norm(),
            self.loss_factor(),
        );
        let read = verdict.read();
        let (rate, model) = (options.learning_rate, self.model.clone());
        self.model = (self.optimizer).step_if(rate, model, gradients, verdict.clone());
        self.on_device.verdict = Some(verdict);
        self.on_device.begun += 1;
        StepOnDevice {
            verdict: read,
            levels,
            counts,
            loss_scale: self.loss_scale,
            before,
            begun_before: self.on_device.begun - 1,
        }
    }

    #[cfg(feature = "gpu")]
    fn read(&mut self, step: StepOnDevice) -> Result<StepLoss, StepError> {
        let values = step.verdict.values();
        let [_, taken, losses @ .., squares] = &*values else {
            panic!("the device gave no verdict on the step: it failed")
        };
        let sums = LossSums::of(losses, &step.levels);
        let gradient_norm = squares.sqrt() / step.loss_scale.map_or(1.0, LossScale::factor);
        if *taken == 0.0 {
            let error = sums.error(gradient_norm);
            let forgotten = self.on_device.begun - step.begun_before;
            self.on_device = OnDevice {
                verdict: None,
                begun: step.begun_before,
            };
            self.model = (self.optimizer).forget_steps(forgotten, self.model.clone());
            self.restore(step.before);
            self.loss_scale = step.loss_scale;
            return Err(error);
        }
        Ok(sums.step_loss(gradient_norm, step.counts, step.loss_scale))
    }

    /// What `compute` gives with statistics of norms over all processes, where the model wants them.
    fn synchronised<T>(&self, compute: impl FnOnce() -> T) -> T {
        if self.group.is_single() || !self.model.has_synchronised_norms() {
            return compute();
        }
        let group = self.group.clone();
        synchronise_batch_norms(move |values| group.all_reduce(values), compute)
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
            let mut total = |logits, boxes| {
                let loss = self.criterion.forward(logits, boxes, targets, options);
                let total = match self.loss_factor() {
                    1.0 => loss.total(),
                    factor => loss.total() * factor,
                };
                losses.push(loss);
                total
            };
            let of_part = if self.model.has_gradient_checkpointing() {
                recompute::gradients(&self.model, images.clone(), total)
            } else {
                let Predictions { logits, boxes, .. } = self.model.forward(images.clone());
                GradientsParams::from_grads(total(logits, boxes).backward(), &self.model)
            };
            gradients.accumulate(&self.model, of_part);
        }
        (losses, gradients.grads())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;
    use retinanet_boxes::AnchorTargets;
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
        let targets = AnchorTargets::background(anchors.len());
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
