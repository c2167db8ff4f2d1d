//! A trained detector on a split of a data set: what it finds, and how long that takes.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use retinanet_boxes::{ClassList, Detection, ImageId};
use retinanet_data::{DataError, ImageRecord, OnBadImage, ParallelMap, in_full};
use retinanet_detector::{Detector, ImageDetections, Times};
use retinanet_evaluation::{CocoDetection, Evaluator};
use retinanet_images::Decoding;

use crate::config::{DataConfig, SplitConfig};
use crate::data::render_shapes_if_absent;
use crate::error::EvaluateError;
use crate::image_files::EvaluationData;
use crate::observer::{Observer, Progress};

/// Batches that a GPU is given together, each of which is prepared while it computes the one before.
const BATCHES_AT_ONCE: usize = 4;

/// What a detector says of the images of a split.
pub struct Examination {
    /// Measures detections against the split's annotations; nothing if it has none.
    pub evaluator: Option<Evaluator>,
    /// The annotations file.
    pub annotations: PathBuf,
    /// What was found, image by image.
    pub detections: Vec<CocoDetection>,
    /// What each image took.
    pub times: Vec<ImageTimes>,
}

/// How long an image took, from its file to its detections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageTimes {
    /// Reading and decoding the file.
    pub read: Duration,
    /// The rest.
    pub detect: Times,
}

/// Lets a detector look at all images of one of a config's splits, in the ways that it does.
///
/// # Errors
///
/// Returns an error if the split cannot be read or has other classes.
pub fn examine(
    detector: &Detector,
    data: &DataConfig,
    split: &SplitConfig,
    observer: &mut dyn Observer,
) -> Result<Examination, EvaluateError> {
    render_shapes_if_absent(data, observer)?;
    let EvaluationData { dataset, evaluator } =
        data.to_evaluate(split, detector.classes(), observer)?;
    let mut examination = Examination {
        evaluator,
        annotations: dataset.annotations,
        detections: Vec::new(),
        times: Vec::new(),
    };
    let mut unreadable = HashSet::new();
    observer.progress(Progress::Start {
        what: "evaluating",
        total: dataset.images.len() as u64,
    });
    let workers = data.loader.workers.as_usize();
    let at_once = if detector.is_on_gpu() {
        BATCHES_AT_ONCE * detector.batch()
    } else {
        detector.batch()
    };
    let ahead = detector.batch() + workers;
    let mut images = read_ahead(dataset.images, workers, ahead, dataset.decoding)?.peekable();
    while images.peek().is_some() {
        let mut read = Vec::new();
        for (id, image) in images.by_ref().take(at_once) {
            match image {
                Ok(image) => read.push(image),
                Err(error) if data.loader.on_bad_image == OnBadImage::Skip => {
                    observer.message(&format!("left out: {}", in_full(&error)));
                    observer.progress(Progress::Tick);
                    unreadable.insert(id);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let pixels: Vec<_> = read.iter().map(|it| Arc::clone(&it.pixels)).collect();
        for (image, found) in read.iter().zip(detector.detect(&pixels)) {
            let ImageDetections { detections, times } = found;
            let detections = coco_detections(detector.classes(), image.id, detections);
            examination.detections.extend(detections);
            examination.times.push(ImageTimes {
                read: image.took,
                detect: times,
            });
            observer.progress(Progress::Tick);
        }
    }
    observer.progress(Progress::Finish);
    examination.evaluator = (examination.evaluator).map(|it| it.without_images(&unreadable));
    Ok(examination)
}

/// Detections as COCO's results have them; those of classes that nothing belongs to are left
/// out.
pub fn coco_detections(
    classes: &ClassList,
    image_id: ImageId,
    detections: impl IntoIterator<Item = Detection>,
) -> impl Iterator<Item = CocoDetection> {
    let known = detections.into_iter();
    known.filter_map(move |detection| {
        let category_id = classes.category(detection.class)?;
        (!classes.is_unused(detection.class)).then(|| CocoDetection {
            image_id,
            category_id,
            bbox: detection.bbox.to_xywh(),
            score: f64::from(detection.score),
        })
    })
}

/// An image of a data set, decoded.
pub(crate) struct ReadImage {
    id: ImageId,
    pub(crate) pixels: Arc<RgbImage>,
    took: Duration,
}

/// Decodes images on worker threads, so many ahead of what is asked for.
pub(crate) fn read_ahead(
    images: Vec<ImageRecord>,
    workers: usize,
    ahead: usize,
    decoding: Decoding,
) -> Result<impl Iterator<Item = (ImageId, Result<ReadImage, DataError>)>, DataError> {
    let ids: Vec<_> = images.iter().map(|image| image.id).collect();
    let read = move |record: ImageRecord| {
        let started = Instant::now();
        let pixels = record.decode(decoding)?;
        Ok(ReadImage {
            id: record.id,
            pixels: Arc::new(pixels),
            took: started.elapsed(),
        })
    };
    let images = ParallelMap::start(images.into_iter(), workers, ahead, read);
    let images = images.map_err(DataError::Workers)?;
    let images = images.map(|read| {
        read.unwrap_or_else(|message| {
            Err(DataError::Panic {
                what: "an image".into(),
                message,
            })
        })
    });
    Ok(ids.into_iter().zip(images))
}
