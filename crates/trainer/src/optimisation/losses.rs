//! The losses of a step on their way from the device, and what is said of a step where they are non-finite.

use burn::tensor::Tensor;
use retinanet_criterion::Loss;

use crate::optimisation::loss_scale::LossScale;

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
    /// The factor on the loss that kept gradients of half precision from becoming 0, where there was one.
    pub loss_scale: Option<f64>,
}

/// The losses of micro-batches where they were computed: class and box loss of each, then of its levels.
pub(super) fn on_device(losses: Vec<Loss>) -> impl Iterator<Item = Tensor<1>> {
    losses.into_iter().flat_map(|loss| {
        let of_levels = loss.levels.into_iter().flatten();
        [loss.class, loss.bbox]
            .into_iter()
            .chain(of_levels)
            .map(Tensor::inner)
    })
}

/// The losses of a batch's micro-batches, added up.
#[derive(Default)]
pub(crate) struct LossSums {
    /// Over classes, and over boxes.
    pub(super) losses: [f64; 2],
    pub(crate) levels: Vec<[f64; 2]>,
}

impl LossSums {
    /// Reads the losses of micro-batches in one go: for each read the host would wait for a GPU.
    pub(super) fn read(losses: Vec<Loss>) -> Self {
        let levels: Vec<usize> = losses.iter().map(|loss| loss.levels.len()).collect();
        let on_device: Vec<_> = on_device(losses).collect();
        if on_device.is_empty() {
            return Self::default();
        }
        let values: Vec<f64> = Tensor::cat(on_device, 0).into_data().iter().collect();
        Self::of(&values, &levels)
    }

    /// From the losses of each micro-batch and of its so many levels.
    pub(super) fn of(values: &[f64], levels: &[usize]) -> Self {
        let mut pairs = values.as_chunks::<2>().0.iter().copied();
        let mut sums = Self::default();
        for levels in levels {
            let losses = pairs.next().unwrap_or_default();
            let levels: Vec<_> = pairs.by_ref().take(*levels).collect();
            sums.add(losses, &levels);
        }
        sums
    }

    /// Checks that the losses are finite, and the gradients' norm if it is known.
    pub(super) fn require_finite(&self, gradient_norm: Option<f64>) -> Result<(), StepError> {
        let all = self.losses.into_iter().chain(gradient_norm);
        if all.into_iter().all(f64::is_finite) {
            Ok(())
        } else {
            Err(self.error(gradient_norm.unwrap_or_default()))
        }
    }

    /// What is wrong with a step: its losses, or where they are finite its gradients.
    pub(super) fn error(&self, gradient_norm: f64) -> StepError {
        let [class, bbox] = self.losses;
        StepError {
            class,
            bbox,
            gradient_norm: (class.is_finite() && bbox.is_finite()).then_some(gradient_norm),
        }
    }

    pub(super) fn step_loss(
        self,
        gradient_norm: f64,
        [images, positives]: [usize; 2],
        loss_scale: Option<LossScale>,
    ) -> StepLoss {
        let [class, bbox] = self.losses;
        StepLoss {
            class,
            bbox,
            levels: self.levels,
            gradient_norm,
            images,
            positives,
            loss_scale: loss_scale.map(LossScale::factor),
        }
    }

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
