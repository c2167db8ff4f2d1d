use std::any::Any;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use image::RgbImage;
use prometheus::Histogram;
use retinanet_boxes::Detection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::detect::Detect;
use crate::error::ServiceError;
use crate::metrics::Counted;

/// A picture that waits for the detector.
pub(crate) struct Job {
    pub(crate) picture: RgbImage,
    /// Closed where nobody waits for the answer any more.
    pub(crate) reply: oneshot::Sender<Result<Detected, String>>,
    /// What stands for the picture until the detector takes it: its place among the decoded
    /// ones, and its count in the queue.
    pub(crate) held: (OwnedSemaphorePermit, Counted),
}

/// What the detector says of a picture.
#[derive(Debug)]
pub(crate) struct Detected {
    pub(crate) objects: Vec<Detection>,
    /// What the batch took.
    pub(crate) time: Duration,
}

/// How pictures come together.
pub(crate) struct Batching {
    /// The most pictures at once.
    pub(crate) size: usize,
    /// How long a batch that is not full waits for more.
    pub(crate) max_wait: Duration,
    /// What learns the size of every batch.
    pub(crate) sizes: Histogram,
}

/// The detector's thread; it ends when the last sender of jobs is gone.
pub(crate) struct DetectorThread {
    ended: Receiver<()>,
}

impl DetectorThread {
    pub(crate) fn start(
        mut detector: impl Detect,
        batching: Batching,
    ) -> Result<(Sender<Job>, Self), ServiceError> {
        let (sender, jobs) = mpsc::channel();
        let (alive, ended) = mpsc::channel();
        thread::Builder::new()
            .name("detector".to_owned())
            .spawn(move || {
                work(&mut detector, &batching, &jobs);
                drop(detector);
                drop::<Sender<()>>(alive);
            })
            .map_err(ServiceError::Threads)?;
        Ok((sender, Self { ended }))
    }

    /// Waits until the detector has done its last batch and is gone.
    pub(crate) fn join(self, within: Duration) -> Result<(), ServiceError> {
        match self.ended.recv_timeout(within) {
            Err(RecvTimeoutError::Timeout) => Err(ServiceError::DetectorStuck {
                seconds: within.as_secs_f64(),
            }),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

fn work(detector: &mut impl Detect, batching: &Batching, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let batch = gather(first, batching, jobs);
        if batch.is_empty() {
            continue;
        }
        batching.sizes.observe(batch.len() as f64);
        let (pictures, replies): (Vec<_>, Vec<_>) = (batch.into_iter())
            .map(
                |Job {
                     picture,
                     reply,
                     held,
                 }| {
                    drop(held);
                    (picture, reply)
                },
            )
            .unzip();
        let began = Instant::now();
        let results = detect_safely(detector, pictures);
        let time = began.elapsed();
        for (reply, result) in iter::zip(replies, results) {
            // Nobody listens where the client has left in the meantime.
            let _ = reply.send(result.map(|objects| Detected { objects, time }));
        }
    }
}

/// The jobs that wait, up to a batch, without those that nobody waits for.
fn gather(first: Job, batching: &Batching, jobs: &Receiver<Job>) -> Vec<Job> {
    let until = Instant::now() + batching.max_wait;
    let mut batch = Vec::with_capacity(batching.size);
    let mut next = Ok(first);
    while let Ok(job) = next {
        if !job.reply.is_closed() {
            batch.push(job);
        }
        if batch.len() == batching.size {
            break;
        }
        next = jobs.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
    batch
}

/// A result for each picture, whatever the detector does.
fn detect_safely(
    detector: &mut impl Detect,
    pictures: Vec<RgbImage>,
) -> Vec<Result<Vec<Detection>, String>> {
    let count = pictures.len();
    let all_failed = |why: String| vec![Err(why); count];
    match catch_unwind(AssertUnwindSafe(|| detector.detect(pictures))) {
        Ok(results) if results.len() == count => results,
        Ok(results) => all_failed(format!("{} results for {count} pictures", results.len())),
        Err(panic) => all_failed(panic_text(panic.as_ref())),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = (panic.downcast_ref::<&str>().copied())
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked").to_owned()
}
