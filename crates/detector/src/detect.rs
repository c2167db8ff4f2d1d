//! From decoded images to detections: every view of them, in batches, and what each part takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use retinanet_boxes::Detection;
use retinanet_images::{TestTimeView, prepare_views};

use crate::Detector;
use crate::merge::ViewDetection;

/// What was found on an image, and how long that took.
#[derive(Clone, Debug, Default)]
pub struct ImageDetections {
    /// The detections, best first, in pixels of the upright image.
    pub detections: Vec<Detection>,
    /// How long it took. Of what several images shared, an equal part.
    pub times: Times,
}

/// How long the parts of finding take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Resizing and normalising.
    pub prepare: Duration,
    /// The forward pass, until the device is done with it.
    pub network: Duration,
    /// Decoding boxes, suppression, and merging views.
    pub post: Duration,
}

/// One view of one of several images.
type Job = (usize, TestTimeView);

impl Detector {
    /// The detections on upright images, merged over the views of test-time augmentation.
    ///
    /// Views of one padded size go through the network together, as many as the detector's batch
    /// has; what is found on an image does not depend on the others. No more than a batch of
    /// views is in memory at once.
    pub fn detect(&self, images: &[Arc<RgbImage>]) -> Vec<ImageDetections> {
        let mut of_views = vec![Vec::new(); images.len()];
        let mut found = vec![ImageDetections::default(); images.len()];
        for jobs in self.batches(images) {
            let started = Instant::now();
            let views: Vec<_> = (jobs.iter())
                .map(|&(image, view)| (Arc::clone(&images[image]), view))
                .collect();
            let batch = prepare_views(&views, &self.preparation, self.pixel_form());
            let sizes = batch.sizes.clone();
            let anchors = self.generator.generate(batch.height, batch.width);
            let prepared = Instant::now();
            let predictions = self.predict(batch);
            self.synchronize();
            let predicted = Instant::now();
            let decoded = self.decoder.decode(predictions, &anchors, &sizes);
            for (&(image, view), detections) in jobs.iter().zip(decoded) {
                of_views[image].extend(detections.into_iter().map(|it| of_view(view, it)));
            }
            let share = jobs.len() as u32;
            let post = predicted.elapsed() / share;
            for &(image, _) in &jobs {
                let times = &mut found[image].times;
                times.prepare += (prepared - started) / share;
                times.network += (predicted - prepared) / share;
                times.post += post;
            }
        }
        for ((found, of_views), image) in found.iter_mut().zip(of_views).zip(images) {
            let started = Instant::now();
            let single = self
                .test_time
                .views(&self.preparation, image.dimensions())
                .len()
                == 1;
            found.detections = if single {
                of_views.iter().map(|it| it.detection).collect()
            } else {
                self.decoder.merge(&of_views)
            };
            found.times.post += started.elapsed();
        }
        found
    }

    /// All views of all images, grouped by the size of their batch.
    fn batches(&self, images: &[Arc<RgbImage>]) -> Vec<Vec<Job>> {
        let mut jobs: Vec<Job> = Vec::new();
        for (image, pixels) in images.iter().enumerate() {
            let views = self.test_time.views(&self.preparation, pixels.dimensions());
            jobs.extend(views.into_iter().map(|view| (image, view)));
        }
        let size = |job: &Job| job.1.padded_size(&self.preparation);
        jobs.sort_by_key(size);
        jobs.chunk_by(|a, b| size(a) == size(b))
            .flat_map(|group| group.chunks(self.batch.max(1)).map(<[Job]>::to_vec))
            .collect()
    }
}

/// A detection in pixels of the image.
fn of_view(view: TestTimeView, detection: Detection) -> ViewDetection {
    let bbox = view.to_original(detection.bbox);
    ViewDetection {
        detection: Detection { bbox, ..detection },
        cut: view.cuts(&bbox),
    }
}
