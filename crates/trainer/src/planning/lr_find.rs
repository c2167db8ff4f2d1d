//! A range test of the learning rate (Smith 2017, "Cyclical Learning Rates").

use burn::tensor::Device;
use retinanet_detector::pixel_form;
use retinanet_experiment::{Observer, Progress};

use crate::error::TrainError;
use crate::optimisation::step::{Learner, StepOptions};
use crate::planning::plan::Plan;
use crate::train_state::to_device;

/// Where the test begins and ends, unless the loss ends it before.
const RATES: [f64; 2] = [1e-6, 1.0];
/// How much of the smoothed loss goes on, as in fastai.
const MOMENTUM: f64 = 0.9;
/// A loss so many times the best has left the range.
const TOO_LARGE: f64 = 4.0;

/// What a range test gave.
#[derive(Clone, Debug, PartialEq)]
pub struct RateSearch {
    /// The rates tried, rising, each with the smoothed loss after its step.
    pub losses: Vec<(f64, f64)>,
    /// The rate at which the loss fell fastest; none if it never fell.
    pub steepest: Option<f64>,
    /// A tenth of the rate with the least loss.
    pub tenth_of_best: Option<f64>,
}

/// Trains a fresh model for so many steps, with a learning rate that grows from step to step by the
/// same factor, until the loss is far above its best.
///
/// # Errors
///
/// Returns an error if an image cannot be read.
pub fn find_learning_rate(
    plan: &Plan,
    device: &Device,
    steps: u64,
    observer: &mut dyn Observer,
) -> Result<RateSearch, TrainError> {
    let device = device.clone().autodiff();
    let (model, _) = plan.initialise_model(&device)?;
    let mut learner = Learner::new(model, &plan.config.optimizer, plan.criterion.clone());
    let mut losses = Smoothed::default();
    let what = "searching";
    observer.progress(Progress::Start { what, total: steps });
    let mut batches = (plan.loader.clone())
        .with_form(pixel_form(&device))
        .start(0, steps);
    for step in 0..steps {
        let mut batch = plan.next_batch(&mut batches)?;
        let micro_batches: Vec<_> = batch
            .iter_mut()
            .map(|part| to_device(part, &device))
            .collect();
        let rate = rate(step, steps);
        let options = StepOptions::at(rate).with_seed(plan.config.seed.get(), step);
        // Non-finite: the rate before was the last of use.
        let Ok(loss) = learner.step(&micro_batches, options) else {
            break;
        };
        observer.progress(Progress::Tick);
        if !losses.push(rate, loss.class + loss.bbox) {
            break;
        }
    }
    observer.progress(Progress::Finish);
    Ok(losses.search())
}

/// The learning rate of a step, counted from 0.
fn rate(step: u64, steps: u64) -> f64 {
    let done = step as f64 / (steps.max(2) - 1) as f64;
    RATES[0] * (RATES[1] / RATES[0]).powf(done)
}

/// Losses by their rates, smoothed.
#[derive(Default)]
struct Smoothed {
    average: f64,
    losses: Vec<(f64, f64)>,
}

impl Smoothed {
    /// Takes a loss in; tells whether it is still in range.
    fn push(&mut self, rate: f64, loss: f64) -> bool {
        self.average = MOMENTUM * self.average + (1.0 - MOMENTUM) * loss;
        let steps = self.losses.len() as i32 + 1;
        // The average starts at 0; this takes the start out, as in Adam.
        let smoothed = self.average / (1.0 - MOMENTUM.powi(steps));
        self.losses.push((rate, smoothed));
        let best = self.losses.iter().map(|(_, loss)| *loss);
        smoothed <= TOO_LARGE * best.fold(f64::INFINITY, f64::min)
    }

    fn search(self) -> RateSearch {
        let falls = self.losses.windows(2).map(|pair| {
            let slope = (pair[1].1 - pair[0].1) / (pair[1].0 / pair[0].0).ln();
            (pair[1].0, slope)
        });
        let steepest = falls.min_by(|a, b| a.1.total_cmp(&b.1));
        let best = self.losses.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        RateSearch {
            steepest: steepest.filter(|fall| fall.1 < 0.0).map(|fall| fall.0),
            tenth_of_best: best.map(|best| 0.1 * best.0),
            losses: self.losses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_grow_by_one_factor_from_end_to_end() {
        assert!((rate(0, 7) / 1e-6 - 1.0).abs() < 1e-12);
        assert!((rate(3, 7) / 1e-3 - 1.0).abs() < 1e-12);
        assert!((rate(6, 7) - 1.0).abs() < 1e-12);
        assert!(rate(0, 1).is_finite());
    }

    /// A loss that stays, falls from a rate of 1e-3 on, and explodes from 1e-1 on.
    #[test]
    fn the_steepest_fall_lies_between_too_little_and_too_much() {
        let mut losses = Smoothed::default();
        let mut stopped = None;
        for step in 0..120 {
            let rate = rate(step, 120);
            let fall = (rate.log10() + 3.0).clamp(0.0, 2.0);
            let explosion = (rate.log10() + 1.0).max(0.0) * 100.0;
            if !losses.push(rate, 3.0 - fall + explosion) {
                stopped = Some(rate);
                break;
            }
        }
        assert!(
            stopped.is_some_and(|rate| rate > 0.1 && rate < 0.3),
            "{stopped:?}"
        );
        let search = losses.search();
        let steepest = search.steepest.unwrap();
        assert!(steepest > 1e-3 && steepest < 0.15, "{steepest}");
        let tenth = search.tenth_of_best.unwrap();
        assert!(tenth > 5e-3 && tenth < 3e-2, "{tenth}");
    }
}
