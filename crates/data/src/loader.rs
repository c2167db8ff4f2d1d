use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use retinanet_anchors::{AnchorGenerator, TargetAssigner};
use retinanet_boxes::BoundingBox;
use serde::{Deserialize, Serialize};

use crate::batch::{Sample, collate};
use crate::parallel::{ParallelMap, catch_panic};
use crate::plan::{Job, SampleKey, evaluation_jobs, training_jobs};
use crate::random::sample_rng;
use crate::{Batch, CocoDataset, DataError, Transform};

/// Settings of the loaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Images in a batch, at least 1. Default: 16.
    pub batch_size: usize,
    /// Threads that prepare batches; with 0 the caller's thread does it. Default: 2.
    pub workers: usize,
    /// Batches that each worker prepares ahead, at least 1; a batch of 16 images of 1333×800 takes
    /// 200 MB. Default: 2.
    pub prefetch: usize,
    /// What the order and the variation of the training images follow from. Default: 0.
    pub seed: u64,
    /// What training does about an image that cannot be read; evaluation always stops, since its
    /// numbers would lie. Default: `stop`.
    pub on_bad_image: OnBadImage,
}

/// What training does about an image that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadImage {
    /// It stops, and names the image.
    #[default]
    Stop,
    /// It goes on with a smaller batch, which lists the image in [`Batch::skipped`]; where nothing
    /// is left of a batch, it stops.
    Skip,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 16,
            workers: 2,
            prefetch: 2,
            seed: 0,
            on_bad_image: OnBadImage::Stop,
        }
    }
}

/// Loads shuffled and varied batches with targets, without end.
///
/// The batch of an iteration is a function of the seed and the iteration's number, for any number of
/// workers, so that a run that stopped before iteration `k` goes on with `start(k, ..)`. Epochs
/// follow one another without a seam: a batch may hold the end of one and the beginning of the
/// next, and all batches are full.
#[derive(Clone, Debug)]
pub struct TrainLoader {
    config: LoaderConfig,
    source: Arc<Source>,
}

impl TrainLoader {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns an error where a setting is out of its range or the data set has no images.
    pub fn new(
        dataset: Arc<CocoDataset>,
        config: LoaderConfig,
        transform: Transform,
        generator: AnchorGenerator,
        assigner: TargetAssigner,
    ) -> Result<Self, DataError> {
        Ok(Self {
            config: checked(config)?,
            source: Source::new(dataset, config, transform, generator, Some(assigner))?,
        })
    }

    /// The batches of the iterations from `first` up to, but not including, `end`.
    pub fn start(&self, first: u64, end: u64) -> BatchIter {
        let images = self.source.dataset.images.len();
        let LoaderConfig {
            batch_size, seed, ..
        } = self.config;
        let jobs = training_jobs(images, batch_size, seed, first..end);
        BatchIter::start(Box::new(jobs), self.config, &self.source)
    }
}

/// Loads every image once, in the order of the data set, as it is and without targets.
#[derive(Clone, Debug)]
pub struct EvalLoader {
    config: LoaderConfig,
    source: Arc<Source>,
}

impl EvalLoader {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns an error where a setting is out of its range or the data set has no images.
    pub fn new(
        dataset: Arc<CocoDataset>,
        config: LoaderConfig,
        transform: Transform,
        generator: AnchorGenerator,
    ) -> Result<Self, DataError> {
        Ok(Self {
            config: checked(config)?,
            source: Source::new(dataset, config, transform, generator, None)?,
        })
    }

    /// The batches from the first; the last one may be smaller than the others.
    pub fn start(&self) -> BatchIter {
        let jobs = evaluation_jobs(self.source.dataset.images.len(), self.config.batch_size);
        BatchIter::start(Box::new(jobs), self.config, &self.source)
    }

    /// How many batches there are.
    pub fn batches(&self) -> usize {
        (self.source.dataset.images.len()).div_ceil(self.config.batch_size)
    }
}

/// Batches in their order. An error comes in the place of the batch that it spoilt, and is the
/// last item. Dropping the iterator stops its threads.
pub struct BatchIter {
    state: State,
}

enum State {
    Running(ParallelMap<Box<dyn Iterator<Item = Job> + Send>, Result<Batch, DataError>>),
    /// The threads did not start.
    Failed(DataError),
    Ended,
}

impl BatchIter {
    fn start(
        jobs: Box<dyn Iterator<Item = Job> + Send>,
        config: LoaderConfig,
        source: &Arc<Source>,
    ) -> Self {
        let LoaderConfig {
            workers, prefetch, ..
        } = config;
        let window = workers.saturating_mul(prefetch);
        let source = Arc::clone(source);
        let batches = ParallelMap::start(jobs, workers, window, move |job| source.batch(&job));
        Self {
            state: match batches {
                Ok(batches) => State::Running(batches),
                Err(error) => State::Failed(DataError::Workers(error)),
            },
        }
    }
}

impl Iterator for BatchIter {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = match std::mem::replace(&mut self.state, State::Ended) {
            State::Running(mut batches) => {
                let result = batches.next()?.unwrap_or_else(|message| {
                    Err(DataError::Panic {
                        what: "a batch".into(),
                        message,
                    })
                });
                if result.is_ok() {
                    self.state = State::Running(batches);
                }
                result
            }
            State::Failed(error) => Err(error),
            State::Ended => return None,
        };
        Some(item)
    }
}

impl fmt::Debug for BatchIter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchIter").finish_non_exhaustive()
    }
}

/// An error with its causes, on one line.
fn describe(error: &DataError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn checked(config: LoaderConfig) -> Result<LoaderConfig, DataError> {
    for (key, value) in [
        ("train.batch_size", config.batch_size),
        ("data.prefetch", config.prefetch),
    ] {
        if value == 0 {
            return Err(DataError::Setting {
                key,
                expected: "at least 1",
                found: value.to_string(),
            });
        }
    }
    Ok(config)
}

/// What the threads share.
#[derive(Debug)]
struct Source {
    dataset: Arc<CocoDataset>,
    seed: u64,
    /// Whether bad images are left out.
    skips: bool,
    transform: Transform,
    generator: AnchorGenerator,
    assigner: Option<TargetAssigner>,
    /// The anchors of the padded sizes that came up last.
    anchors: Mutex<VecDeque<SizedAnchors>>,
}

#[derive(Debug)]
struct SizedAnchors {
    height: usize,
    width: usize,
    anchors: Arc<Vec<BoundingBox>>,
}

impl Source {
    /// How many sizes are kept; the anchors of 1344×800 take 3 MB.
    const ANCHOR_SIZES: usize = 16;

    fn new(
        dataset: Arc<CocoDataset>,
        config: LoaderConfig,
        transform: Transform,
        generator: AnchorGenerator,
        assigner: Option<TargetAssigner>,
    ) -> Result<Arc<Self>, DataError> {
        if dataset.images.is_empty() {
            return Err(DataError::NoImages {
                path: dataset.annotations.clone(),
            });
        }
        Ok(Arc::new(Self {
            dataset,
            seed: config.seed,
            skips: config.on_bad_image == OnBadImage::Skip && assigner.is_some(),
            transform,
            generator,
            assigner,
            anchors: Mutex::default(),
        }))
    }

    fn batch(&self, job: &Job) -> Result<Batch, DataError> {
        let (mut samples, mut skipped) = (Vec::new(), Vec::new());
        for key in &job.samples {
            match self.sample(key) {
                Ok(sample) => samples.push(sample),
                // The last one of a batch that is bad throughout is not skipped.
                Err(error) if self.skips && skipped.len() + 1 < job.samples.len() => {
                    skipped.push(describe(&error));
                }
                Err(error) => return Err(error),
            }
        }
        let anchors = |height, width| self.anchors(height, width);
        let batch = collate(samples, &self.transform, anchors, self.assigner.as_ref());
        Ok(Batch { skipped, ..batch })
    }

    fn sample(&self, &SampleKey { index, epoch }: &SampleKey) -> Result<Sample, DataError> {
        let record = &self.dataset.images[index];
        let view = match epoch {
            Some(epoch) => (self.transform).draw(&mut sample_rng(self.seed, epoch, index)),
            None => self.transform.plain(),
        };
        // Decoders have panicked on broken files before; then the file must be named.
        catch_panic(|| Sample::load(record, index, &self.transform, view)).unwrap_or_else(
            |message| {
                Err(DataError::Panic {
                    what: format!("image `{}`", record.path.display()),
                    message,
                })
            },
        )
    }

    fn anchors(&self, height: usize, width: usize) -> Arc<Vec<BoundingBox>> {
        let kept = || self.anchors.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |sized: &&SizedAnchors| (sized.height, sized.width) == (height, width);
        if let Some(sized) = kept().iter().find(fits) {
            return Arc::clone(&sized.anchors);
        }
        // Outside the lock: two threads may do the same work, but none waits.
        let anchors = Arc::new(self.generator.generate(height, width));
        let mut kept = kept();
        if kept.len() == Self::ANCHOR_SIZES {
            kept.pop_front();
        }
        kept.push_back(SizedAnchors {
            height,
            width,
            anchors: Arc::clone(&anchors),
        });
        anchors
    }
}

#[cfg(test)]
mod tests;
