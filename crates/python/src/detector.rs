use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;
use image::RgbImage;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use retinanet_boxes::Detection;
use retinanet_experiment::load_config;
use retinanet_trainer::{RunDirectory, counted_score};

use crate::errors::raise;
use crate::process::require_own_threads;

/// Detections on an image, as bytes for NumPy: boxes `[n, 4]` and scores `[n]` in `f32`, classes `[n]` in `i64`.
type Arrays = [Py<PyBytes>; 3];

/// A trained model on the CPU.
#[pyclass(frozen)]
pub(crate) struct Detector {
    model: Mutex<retinanet_detector::Detector>,
    /// The id and the name of each class, in the order of their numbers.
    #[pyo3(get)]
    classes: Vec<(u64, String)>,
    /// The lowest score that counts.
    #[pyo3(get)]
    score: f32,
}

#[pymethods]
#[expect(
    clippy::needless_pass_by_value,
    reason = "PyO3 hands over what it has made of Python's objects"
)]
impl Detector {
    /// Opens a run's best checkpoint, or the one of this name.
    #[staticmethod]
    fn open(
        py: Python<'_>,
        run: PathBuf,
        checkpoint: Option<String>,
        score: Option<f32>,
    ) -> PyResult<Self> {
        require_own_threads()?;
        require_score(score)?;
        py.detach(|| Self::of_run(&run, checkpoint.as_deref(), score))
    }

    /// Opens an exported weight file with the config of its model.
    #[staticmethod]
    fn from_weights(
        py: Python<'_>,
        weights: PathBuf,
        config: PathBuf,
        score: Option<f32>,
    ) -> PyResult<Self> {
        require_own_threads()?;
        require_score(score)?;
        py.detach(|| {
            let config = load_config(&config, &[]).map_err(|error| raise(&error))?;
            let config = config.detector().map_err(|error| raise(&error))?;
            let detector = retinanet_detector::Detector::from_weights;
            let detector = detector(&config, &weights, &Device::flex());
            let detector = detector.map_err(|error| raise(&error))?;
            Ok(Self::new(detector, counted_score(score, None)))
        })
    }

    /// The detections on each image, given as its RGB bytes, width and height.
    fn detect(
        &self,
        py: Python<'_>,
        images: Vec<(PyBackedBytes, u32, u32)>,
    ) -> PyResult<Vec<Arrays>> {
        require_own_threads()?;
        let found = py.detach(|| {
            let images = images.iter().map(|(bytes, width, height)| {
                let image = RgbImage::from_raw(*width, *height, bytes.to_vec());
                let wrong = || PyValueError::new_err("pixels must be width * height * 3 bytes");
                image.map(Arc::new).ok_or_else(wrong)
            });
            let images: Vec<_> = images.collect::<PyResult<_>>()?;
            let detector = self.model.lock().unwrap_or_else(PoisonError::into_inner);
            let found = detector.detect(&images).into_iter();
            Ok::<_, PyErr>(found.map(|found| found.detections).collect::<Vec<_>>())
        })?;
        Ok(found.iter().map(|found| self.arrays(py, found)).collect())
    }

    /// The detections on an image file.
    fn detect_file(&self, py: Python<'_>, path: PathBuf) -> PyResult<Arrays> {
        require_own_threads()?;
        let found = py.detach(|| {
            let detector = self.model.lock().unwrap_or_else(PoisonError::into_inner);
            detector.detect_file(&path).map_err(|error| raise(&error))
        })?;
        Ok(self.arrays(py, &found))
    }
}

/// Refuses scores by which nothing, or what is no detection, would count.
fn require_score(score: Option<f32>) -> PyResult<()> {
    match score.filter(|score| !(0.0..=1.0).contains(score)) {
        None => Ok(()),
        Some(score) => Err(PyValueError::new_err(format!(
            "`score` is in [0, 1], got {score}"
        ))),
    }
}

impl Detector {
    fn of_run(run: &Path, checkpoint: Option<&str>, score: Option<f32>) -> PyResult<Self> {
        let config = run.join("config.toml");
        let directory = RunDirectory::open(run).map_err(|error| raise(&error))?;
        let config = load_config(&config, &[]).map_err(|error| raise(&error))?;
        let checkpoint = match checkpoint {
            Some(name)
                if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') =>
            {
                let told = format!("`{name}` is no checkpoint's name, such as `last` or `best`");
                return Err(PyValueError::new_err(told));
            }
            Some(name) => directory.checkpoint(name),
            None => directory.best_checkpoint(),
        };
        let checkpoint = checkpoint.map_err(|error| raise(&error))?;
        let detector = checkpoint.detector(&config, &Device::flex());
        let detector = detector.map_err(|error| raise(&error))?;
        let score = counted_score(score, checkpoint.state.best_score);
        Ok(Self::new(detector, score))
    }

    fn new(detector: retinanet_detector::Detector, score: f32) -> Self {
        let classes = detector.classes().iter();
        let classes = classes.map(|(_, class)| (class.category.0, class.name.clone()));
        Self {
            classes: classes.collect(),
            model: Mutex::new(detector),
            score,
        }
    }

    fn arrays(&self, py: Python<'_>, found: &[Detection]) -> Arrays {
        let counted: Vec<&Detection> = (found.iter())
            .filter(|found| found.score >= self.score)
            .collect();
        let boxes = counted.iter().flat_map(|found| found.bbox.to_array());
        let boxes: Vec<u8> = boxes.flat_map(f32::to_ne_bytes).collect();
        let scores = counted.iter().flat_map(|found| found.score.to_ne_bytes());
        let classes = counted
            .iter()
            .flat_map(|found| i64::from(found.class.0).to_ne_bytes());
        [boxes, scores.collect(), classes.collect()].map(|bytes| PyBytes::new(py, &bytes).unbind())
    }
}
