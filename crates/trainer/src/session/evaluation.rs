//! The evaluation of a session, and what follows from it: the best checkpoint, patience, the report.

use std::collections::HashSet;

use retinanet_boxes::ImageId;
use retinanet_evaluation::Metrics;
use retinanet_experiment::{EvaluateError, Evaluated, Observer, OnNonFinite};

use super::Session;
use crate::error::TrainError;
use crate::evaluation::report::{Findings, Reporter};
use crate::evaluation::validation::{Validation, validate};
use crate::processes::messages::Command;
use crate::processes::process_group::Process;
use crate::run::announce::tell;
use crate::run::run_directory::RunDirectoryError;
use crate::train_state::TrainState;

/// The score from which on a detection counts where classes are confused and images ranked.
const COUNTED_SCORE: f64 = 0.3;

impl Session<'_> {
    /// Evaluates the model as it stands, and writes down what that gave; keeps the run's best. Nothing if it
    /// is asked to stop meanwhile: then the evaluation is still to come.
    pub(crate) fn evaluate(
        &mut self,
        observer: &mut dyn Observer,
    ) -> Result<Option<Metrics>, TrainError> {
        self.settle(observer)?;
        let TrainState {
            learner, device, ..
        } = &self.train_state;
        learner.group.send_command(Command::Evaluate);
        let model = self.train_state.to_evaluate()?;
        let process = Process {
            group: &learner.group,
            device,
        };
        let validation = validate(&model, self.plan, &learner.criterion, process, observer)?;
        let Some(validation) = validation else {
            return Ok(None);
        };
        let Validation {
            detections,
            unreadable,
            loss,
            shares,
        } = validation;
        self.require_finite(loss, &unreadable, observer)?;
        let analysis = (self.plan.evaluator.clone())
            .without_images(&unreadable)
            .analyse(&detections, COUNTED_SCORE)
            .map_err(EvaluateError::from)?;
        let metrics = analysis.metrics.clone();
        let reached = self.plan.config.train.best_metric.of(&metrics);
        self.best_score = analysis.best.map(|best| best.score);
        let is_best = self.judge(reached);
        let evaluated = Evaluated {
            iteration: self.iteration(),
            metrics: &metrics,
            loss,
            is_best,
        };
        self.tell_metrics(&evaluated, observer)?;
        self.awaits_evaluation = false;
        if is_best || self.out_of_patience().is_some() || self.checkpoint_is_there() {
            self.write_checkpoint(observer)?;
        }
        if is_best {
            self.run.keep_best()?;
        }
        // Last, since it may fail and the run can do without.
        let findings = Findings {
            iteration: self.iteration(),
            detections,
            analysis,
            shares,
        };
        self.write_report(&findings, observer)?;
        self.detections = findings.detections;
        Ok(Some(metrics))
    }

    /// Tells which images were left out, and refuses a loss that is non-finite, unless training goes on with it.
    fn require_finite(
        &self,
        loss: f64,
        unreadable: &HashSet<ImageId>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        if !unreadable.is_empty() {
            let text = format!(
                "{} images could not be read and are left out of the evaluation",
                unreadable.len()
            );
            tell(self.run, observer, &text)?;
        }
        if loss.is_finite() || self.plan.config.train.on_nonfinite == OnNonFinite::Skip {
            return Ok(());
        }
        let iteration = self.iteration();
        self.run.log(&format!(
            "step {iteration}: the loss on the validation images is {loss}"
        ))?;
        Err(TrainError::Diverged { iteration, loss })
    }

    fn tell_metrics(
        &mut self,
        evaluated: &Evaluated<'_>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let &Evaluated {
            iteration,
            metrics,
            loss,
            is_best,
        } = evaluated;
        self.log
            .evaluation(iteration, metrics, loss)
            .map_err(TrainError::Log)?;
        self.run.write_evaluation(iteration, metrics)?;
        self.run.log(&format!(
            "step {iteration}: AP {:.4}, AP50 {:.4}, loss {loss:.4}{}",
            metrics.ap,
            metrics.ap50,
            if is_best { ", the best so far" } else { "" }
        ))?;
        observer.evaluated(evaluated);
        Ok(())
    }

    /// Whether an evaluation is the best so far: the latest of those that are equal, none that is
    /// undefined.
    fn judge(&mut self, reached: Option<f64>) -> bool {
        let Some(reached) = reached else {
            return false;
        };
        if self.best.is_none_or(|best| reached > best) {
            self.evaluations_since_best = 0;
        } else {
            self.evaluations_since_best += 1;
        }
        let is_best = self.best.is_none_or(|best| reached >= best);
        if is_best {
            self.best = Some(reached);
            self.best_iteration = Some(self.iteration());
        }
        is_best
    }

    /// Nobody should lose a run for its report: what goes wrong is told.
    fn write_report(
        &mut self,
        findings: &Findings,
        observer: &mut dyn Observer,
    ) -> Result<(), RunDirectoryError> {
        let reporter = (self.reporter).get_or_insert_with(|| Reporter::new(self.plan));
        match reporter.write(self.plan, self.run, findings) {
            Ok(advice) => {
                self.advice = advice;
                Ok(())
            }
            Err(error) => {
                let text = format!("warning: the report was not written: {error}");
                tell(self.run, observer, &text)
            }
        }
    }

    /// How far AP of the last evaluation may be from that of other images; nothing if there was none, or if that would
    /// take long.
    pub(crate) fn uncertainty(&self) -> Result<Option<f64>, TrainError> {
        /// Evaluations of an image, which take less than a millisecond each.
        const MOST_WORK: usize = 20_000;
        const MOST_SAMPLES: usize = 200;
        /// Fewer give no interval that would be the same the next time.
        const LEAST_SAMPLES: usize = 40;
        let samples = (MOST_WORK / self.plan.val.images.len().max(1)).min(MOST_SAMPLES);
        if self.detections.is_empty() || samples < LEAST_SAMPLES {
            return Ok(None);
        }
        let evaluator = &self.plan.evaluator;
        let uncertainty = evaluator.uncertainty(&self.detections, samples, 0);
        Ok(uncertainty.map_err(EvaluateError::from)?)
    }
}
