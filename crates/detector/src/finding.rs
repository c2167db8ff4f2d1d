//! From decoded images to detections: every look at them, in batches, and what each part takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use retinanet_boxes::Detection;
use retinanet_images::{Look, prepare_looks};

use crate::Detector;
use crate::merge::Sighting;

/// What was found on an image, and how long that took.
#[derive(Clone, Debug, Default)]
pub struct Found {
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
    /// Decoding boxes, suppression, and putting looks together.
    pub post: Duration,
}

/// One look at one of several images.
type Job = (usize, Look);

impl Detector {
    /// What the model sees on upright images, in all the ways that it looks at them.
    ///
    /// Looks of one padded size go through the network together, as many as the detector's batch
    /// has; what is found on an image does not depend on the others. No more than a batch of
    /// looks is in memory at once.
    pub fn find(&self, images: &[Arc<RgbImage>]) -> Vec<Found> {
        let mut sightings = vec![Vec::new(); images.len()];
        let mut found = vec![Found::default(); images.len()];
        for jobs in self.batches(images) {
            let started = Instant::now();
            let looks: Vec<_> = (jobs.iter())
                .map(|&(image, look)| (Arc::clone(&images[image]), look))
                .collect();
            let batch = prepare_looks(&looks, &self.preparation);
            let sizes = batch.sizes.clone();
            let anchors = self.generator.generate(batch.height, batch.width);
            let prepared = Instant::now();
            let predictions = self.predict(batch);
            self.synchronize();
            let predicted = Instant::now();
            let decoded = self.decoder.decode(predictions, &anchors, &sizes);
            for (&(image, look), detections) in jobs.iter().zip(decoded) {
                sightings[image].extend(detections.into_iter().map(|it| sighting(look, it)));
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
        for ((found, sightings), image) in found.iter_mut().zip(sightings).zip(images) {
            let started = Instant::now();
            let single = self
                .looks
                .looks(&self.preparation, image.dimensions())
                .len()
                == 1;
            found.detections = if single {
                sightings.iter().map(|it| it.detection).collect()
            } else {
                self.decoder.merge(&sightings)
            };
            found.times.post += started.elapsed();
        }
        found
    }

    /// All looks at all images, grouped by the size of their batch.
    fn batches(&self, images: &[Arc<RgbImage>]) -> Vec<Vec<Job>> {
        let mut jobs: Vec<Job> = Vec::new();
        for (image, pixels) in images.iter().enumerate() {
            let looks = self.looks.looks(&self.preparation, pixels.dimensions());
            jobs.extend(looks.into_iter().map(|look| (image, look)));
        }
        let size = |job: &Job| job.1.padded_size(&self.preparation);
        jobs.sort_by_key(size);
        jobs.chunk_by(|a, b| size(a) == size(b))
            .flat_map(|group| group.chunks(self.batch.max(1)).map(<[Job]>::to_vec))
            .collect()
    }
}

/// A detection in pixels of the image.
fn sighting(look: Look, detection: Detection) -> Sighting {
    let bbox = look.to_original(detection.bbox);
    Sighting {
        detection: Detection { bbox, ..detection },
        cut: look.cuts(&bbox),
    }
}
