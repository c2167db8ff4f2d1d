//! A trained detector on a split of a data set: what it finds, and how long that takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use retinanet_boxes::{ClassList, Detection, ImageId};
use retinanet_data::{CocoDataset, DataError, ImageRecord, ParallelMap};
use retinanet_detector::{Detector, Found, Times};
use retinanet_evaluation::{CocoDetection, Evaluator};

use crate::config::{DataConfig, SplitConfig};
use crate::detector::EvaluateError;
use crate::observer::{Observer, Progress};
use crate::plan::draw_shapes_if_absent;

/// What a detector says of the images of a split.
pub struct Examination {
    /// Measures detections against the split's annotations.
    pub evaluator: Evaluator,
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
    pub find: Times,
}

/// Lets a detector look at all images of one of a config's splits, in the ways that it does.
///
/// # Errors
///
/// Returns an error where the split cannot be read or has other classes.
pub fn examine(
    detector: &Detector,
    data: &DataConfig,
    split: &SplitConfig,
    observer: &mut dyn Observer,
) -> Result<Examination, EvaluateError> {
    draw_shapes_if_absent(data, observer)?;
    let dataset = data.read_to_evaluate(split)?;
    require_same_classes(detector.classes(), &dataset)?;
    if dataset.images.is_empty() {
        let path = dataset.annotations;
        return Err(DataError::NoImages { path }.into());
    }
    let evaluator = Evaluator::from_file(&dataset.annotations)?;
    let mut examination = Examination {
        evaluator,
        detections: Vec::new(),
        times: Vec::new(),
    };
    observer.progress(Progress::Start {
        what: "evaluating",
        total: dataset.images.len() as u64,
    });
    let mut images = read_ahead(dataset.images, data.workers, detector.batch())?.peekable();
    while images.peek().is_some() {
        let read: Vec<ReadImage> = images
            .by_ref()
            .take(detector.batch())
            .collect::<Result<_, _>>()?;
        let pixels: Vec<_> = read.iter().map(|it| Arc::clone(&it.pixels)).collect();
        for (image, found) in read.iter().zip(detector.find(&pixels)) {
            let Found { detections, times } = found;
            let detections = coco_detections(detector.classes(), image.id, detections);
            examination.detections.extend(detections);
            examination.times.push(ImageTimes {
                read: image.took,
                find: times,
            });
            observer.progress(Progress::Tick);
        }
    }
    observer.progress(Progress::Finish);
    Ok(examination)
}

/// Detections as COCO's results have them; those of classes that nothing belongs to are left
/// out.
pub(crate) fn coco_detections(
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

fn require_same_classes(classes: &ClassList, dataset: &CocoDataset) -> Result<(), EvaluateError> {
    if dataset.classes == *classes {
        return Ok(());
    }
    Err(EvaluateError::Classes {
        annotations: dataset.annotations.display().to_string(),
        data: dataset.classes.len(),
        model: classes.len(),
    })
}

/// An image of a data set, decoded.
struct ReadImage {
    id: ImageId,
    pixels: Arc<RgbImage>,
    took: Duration,
}

/// Decodes images on worker threads, a few ahead of what is asked for.
fn read_ahead(
    images: Vec<ImageRecord>,
    workers: usize,
    batch: usize,
) -> Result<impl Iterator<Item = Result<ReadImage, DataError>>, DataError> {
    let read = |record: ImageRecord| {
        let started = Instant::now();
        let pixels = record.decode()?;
        Ok(ReadImage {
            id: record.id,
            pixels: Arc::new(pixels),
            took: started.elapsed(),
        })
    };
    let images = ParallelMap::start(images.into_iter(), workers, batch + workers, read);
    let images = images.map_err(DataError::Workers)?;
    Ok(images.map(|read| {
        read.unwrap_or_else(|message| {
            Err(DataError::Panic {
                what: "an image".into(),
                message,
            })
        })
    }))
}
