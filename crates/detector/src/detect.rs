//! From decoded images to detections: every view of them, in batches, and what each part takes.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use image::RgbImage;
use retinanet_anchors::PyramidAnchors;
use retinanet_boxes::Detection;
use retinanet_images::{Prepared, TestTimeView, prepare_views};
// The system's clock, and in a browser the page's.
use web_time::Instant;

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

impl Times {
    fn add(&mut self, other: Self) {
        self.prepare += other.prepare;
        self.network += other.network;
        self.post += other.post;
    }
}

/// One view of one of several images.
type Job = (usize, TestTimeView);

/// Views on their way to the network.
struct PreparedBatch {
    images: Prepared,
    anchors: PyramidAnchors,
    took: Duration,
}

/// What was detected on a batch of views.
struct BatchDetections {
    detections: Vec<Vec<Detection>>,
    times: Times,
}

impl Detector {
    /// The detections on upright images, merged over the views of test-time augmentation.
    ///
    /// Views of one padded size go through the network together, as many as the detector's batch
    /// has; what is found on an image does not depend on the others. No more than a batch of
    /// views is in memory at once; where a GPU computes, the next one too.
    pub fn detect(&self, images: &[Arc<RgbImage>]) -> Vec<ImageDetections> {
        let mut of_views = vec![Vec::new(); images.len()];
        let mut found = vec![ImageDetections::default(); images.len()];
        let batches = self.batches(images);
        let mut prepared = batches.first().map(|jobs| self.prepare(images, jobs));
        for (place, jobs) in batches.iter().enumerate() {
            let Some(batch) = prepared.take() else { break };
            let next = batches.get(place + 1);
            let (detected, next) = self.while_preparing(images, next, || self.detect_batch(batch));
            prepared = next;
            let BatchDetections {
                detections,
                mut times,
            } = detected;
            let share = jobs.len() as u32;
            for part in [&mut times.prepare, &mut times.network, &mut times.post] {
                *part /= share;
            }
            for (&(image, view), detections) in jobs.iter().zip(detections) {
                of_views[image].extend(detections.into_iter().map(|it| of_view(view, it)));
                found[image].times.add(times);
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

    /// The backbone's features of an upright image as a whole, for comparing images with each other; see
    /// [`RetinaNet::image_features`](crate::RetinaNet::image_features).
    pub fn features(&self, image: &Arc<RgbImage>) -> Vec<f32> {
        let view = TestTimeView::plain(&self.preparation, image.dimensions());
        let views = [(Arc::clone(image), view)];
        let prepared = prepare_views(&views, &self.preparation, self.pixel_form());
        let features = self.model().image_features(self.on_device(prepared));
        features.into_data().iter().collect()
    }

    /// Does something, and prepares the next batch: meanwhile if a GPU computes, which leaves the CPU idle.
    fn while_preparing<T>(
        &self,
        images: &[Arc<RgbImage>],
        next: Option<&Vec<Job>>,
        work: impl FnOnce() -> T,
    ) -> (T, Option<PreparedBatch>) {
        let prepare = || next.map(|jobs| self.prepare(images, jobs));
        if !self.is_on_gpu() {
            let done = work();
            return (done, prepare());
        }
        thread::scope(|scope| {
            let preparing = scope.spawn(prepare);
            let done = work();
            let next = (preparing.join()).unwrap_or_else(|panic| resume_unwind(panic));
            (done, next)
        })
    }

    fn prepare(&self, images: &[Arc<RgbImage>], jobs: &[Job]) -> PreparedBatch {
        let started = Instant::now();
        let views: Vec<_> = (jobs.iter())
            .map(|&(image, view)| (Arc::clone(&images[image]), view))
            .collect();
        let images = prepare_views(&views, &self.preparation, self.pixel_form());
        PreparedBatch {
            anchors: self.generator.generate(images.height, images.width),
            images,
            took: started.elapsed(),
        }
    }

    /// The detections on each view of a batch, in pixels of the network's input.
    fn detect_batch(&self, batch: PreparedBatch) -> BatchDetections {
        let started = Instant::now();
        let sizes = batch.images.sizes.clone();
        let predictions = self.predict(batch.images);
        self.synchronize();
        let predicted = Instant::now();
        BatchDetections {
            detections: self.decoder.decode(predictions, &batch.anchors, &sizes),
            times: Times {
                prepare: batch.took,
                network: predicted - started,
                post: predicted.elapsed(),
            },
        }
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
