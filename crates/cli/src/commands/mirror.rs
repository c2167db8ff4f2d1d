//! Detections on a picture and on the mirrored one.

use std::slice;
use std::sync::Arc;

use image::imageops::flip_horizontal;
use image::RgbImage;
use retinanet_boxes::Detection;
use retinanet_detector::Detector;
use retinanet_experiment::DataConfig;

/// Whether a detector has learned mirrored images. One that has not says nothing of use about them.
pub(super) fn learned_mirrored(data: &DataConfig) -> bool {
    data.transform.augment.horizontal_flip.get() > 0.0
}

pub(super) fn detect(detector: &Detector, picture: &Arc<RgbImage>) -> Vec<Detection> {
    let found = detector.detect(slice::from_ref(picture));
    let found = found.into_iter().flat_map(|found| found.detections);
    found.collect()
}

/// The detections on the mirrored picture, in pixels of the picture as it is.
pub(super) fn detect_mirrored(detector: &Detector, picture: &Arc<RgbImage>) -> Vec<Detection> {
    let width = picture.width() as f32;
    let found = detect(detector, &Arc::new(flip_horizontal(picture.as_ref())));
    let found = found.into_iter().map(|detection| Detection {
        bbox: detection.bbox.flip_horizontally(width),
        ..detection
    });
    found.collect()
}
