//! What a detector's convolutions are given on images that it is trained on, to compute them in eight bits.

use std::sync::Arc;

use retinanet_data::{OnBadImage, in_full};
use retinanet_detector::{Detector, InputHistograms};

use crate::config::DataConfig;
use crate::data::render_shapes_if_absent;
use crate::error::EvaluateError;
use crate::examination::read_ahead;
use crate::image_files::EvaluationData;
use crate::observer::{Observer, Progress};

/// Runs a detector on so many of a config's training images, or all of them, evenly spread, and counts what its convolutions
/// are given.
///
/// # Errors
///
/// Returns an error if the images cannot be read or have other classes.
pub fn calibrate(
    detector: &Detector,
    data: &DataConfig,
    count: usize,
    observer: &mut dyn Observer,
) -> Result<InputHistograms, EvaluateError> {
    render_shapes_if_absent(data, observer)?;
    let EvaluationData { dataset, .. } =
        data.to_evaluate(&data.train, detector.classes(), observer)?;
    let total = dataset.images.len();
    let count = count.min(total);
    let places = (0..count).map(|place| place * total / count);
    let images = places.map(|place| dataset.images[place].clone()).collect();
    observer.progress(Progress::Start {
        what: "calibrating",
        total: count as u64,
    });
    let workers = data.loader.workers.as_usize();
    let mut histograms = InputHistograms::default();
    for (_, image) in read_ahead(images, workers, workers, dataset.decoding)? {
        match image {
            Ok(image) => detector.observe_inputs(&Arc::clone(&image.pixels), &mut histograms),
            Err(error) if data.loader.on_bad_image == OnBadImage::Skip => {
                observer.message(&format!("left out: {}", in_full(&error)));
            }
            Err(error) => return Err(error.into()),
        }
        observer.progress(Progress::Tick);
    }
    observer.progress(Progress::Finish);
    Ok(histograms)
}
