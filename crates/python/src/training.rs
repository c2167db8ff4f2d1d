use std::path::{Path, PathBuf};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use retinanet_experiment::{Evaluated, Observer, Progress, StepReport, load_config};
use retinanet_pretrained::{Cache, weights_file};
use retinanet_trainer::{Host, HostError, LaunchOptions, TrainOutcome, launch};

use crate::errors::raise;
use crate::process::require_own_threads;

/// Trains a config on the CPU, and tells the `callbacks` what happens. Returns what came of it.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "PyO3 hands over what it has made of Python's objects"
)]
#[pyo3(signature = (config, run, settings, resume, accept_cost, callbacks))]
pub(crate) fn train(
    py: Python<'_>,
    config: PathBuf,
    run: PathBuf,
    settings: Vec<(String, String)>,
    resume: bool,
    accept_cost: bool,
    callbacks: Py<PyAny>,
) -> PyResult<Bound<'_, PyDict>> {
    require_own_threads()?;
    if run.as_os_str().is_empty() {
        return Err(PyValueError::new_err("`run` names no folder"));
    }
    let mut listener = Listener {
        callbacks,
        raised: None,
    };
    let outcome = py.detach(|| {
        let config = load_config(&config, &settings).map_err(|error| raise(&error))?;
        let options = LaunchOptions {
            resume,
            accept_cost,
            ..LaunchOptions::new(config, run)
        };
        launch(&options, &Module, &mut listener).map_err(|error| raise(&error))
    });
    // What was raised on the way is why the run ended.
    match (listener.raised, outcome) {
        (Some(raised), _) => Err(raised),
        (None, Err(error)) => Err(error),
        (None, Ok(outcome)) => told(py, &outcome),
    }
}

fn told<'py>(py: Python<'py>, outcome: &TrainOutcome) -> PyResult<Bound<'py, PyDict>> {
    let told = PyDict::new(py);
    told.set_item("run", outcome.run.as_os_str())?;
    told.set_item("iteration", outcome.iteration)?;
    told.set_item("best", outcome.best)?;
    told.set_item("best_score", outcome.best_score)?;
    told.set_item("uncertainty", outcome.uncertainty)?;
    told.set_item("advice", &outcome.advice)?;
    told.set_item("stopped", outcome.stopped.is_some())?;
    Ok(told)
}

/// The host of a run that Python starts: one process, on the CPU.
struct Module;

impl Host for Module {
    fn set_threads(&self, threads: Option<usize>) {
        if let Some(threads) = threads {
            // Fails only where the pool is running already, and then it has a size.
            let _ = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build_global();
        }
    }

    fn weights_file(&self, place: &str) -> Result<PathBuf, HostError> {
        let file = weights_file(place, &Cache::of_user(), &mut |_, _| {});
        file.map_err(|error| HostError::Refused(error.into()))
    }
}

/// Tells Python what happens, and ends the run when Python raises: Ctrl-C, or a callback.
struct Listener {
    callbacks: Py<PyAny>,
    raised: Option<PyErr>,
}

impl Listener {
    /// Calls a method of the callbacks with what `arguments` makes, once nothing was raised.
    fn call(
        &mut self,
        method: &str,
        arguments: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>>,
    ) {
        if self.raised.is_some() {
            return;
        }
        let called = Python::attach(|py| {
            py.check_signals()?;
            let arguments = arguments(py)?;
            self.callbacks.call_method1(py, method, (arguments,))?;
            Ok(())
        });
        self.raised = called.err();
    }
}

impl Observer for Listener {
    fn message(&mut self, text: &str) {
        self.call("message", |py| Ok(text.into_pyobject(py)?.into_any()));
    }

    fn step(&mut self, report: &StepReport) {
        self.call("step", |py| {
            let told = PyDict::new(py);
            told.set_item("iteration", report.iteration)?;
            told.set_item("total", report.total)?;
            told.set_item("epoch", report.epoch)?;
            told.set_item("loss", report.loss())?;
            told.set_item("class_loss", report.class_loss)?;
            told.set_item("box_loss", report.box_loss)?;
            told.set_item("learning_rate", report.learning_rate)?;
            told.set_item("gradient_norm", report.gradient_norm)?;
            told.set_item("seconds", report.duration.as_secs_f64())?;
            Ok(told.into_any())
        });
    }

    fn evaluated(&mut self, evaluated: &Evaluated<'_>) {
        self.call("evaluated", |py| {
            let told = PyDict::new(py);
            told.set_item("iteration", evaluated.iteration)?;
            told.set_item("loss", evaluated.loss)?;
            told.set_item("is_best", evaluated.is_best)?;
            told.set_item("ap", evaluated.metrics.ap)?;
            told.set_item("ap50", evaluated.metrics.ap50)?;
            told.set_item("ap75", evaluated.metrics.ap75)?;
            Ok(told.into_any())
        });
    }

    fn checkpoint_written(&mut self, iteration: u64, folder: &Path) {
        self.call("checkpoint_written", |py| {
            let told = PyDict::new(py);
            told.set_item("iteration", iteration)?;
            told.set_item("folder", folder.as_os_str())?;
            Ok(told.into_any())
        });
    }

    fn progress(&mut self, _: Progress<'_>) {
        if self.raised.is_none() {
            let checked = Python::attach(|py| {
                py.check_signals()?;
                Ok(())
            });
            self.raised = checked.err();
        }
    }

    fn stop_requested(&self) -> bool {
        self.raised.is_some()
    }
}
