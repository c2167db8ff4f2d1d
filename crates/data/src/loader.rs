use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use image::RgbImage;
use retinanet_anchors::{AnchorGenerator, PyramidAnchors, TargetAssigner};
use retinanet_images::{PixelForm, catch_panic};
use retinanet_settings::Count;

use crate::batch::{Sample, collate};
use crate::cache::ImageCache;
use crate::parallel::ParallelMap;
use crate::plan::{Job, SampleKey, Shard, TrainingPlan, evaluation_jobs};
use crate::random::sample_rng;
use crate::{
    Batch, Batching, CocoDataset, DataError, ImageRecord, LoaderConfig, OnBadImage, Transform,
    in_full,
};

/// Loads shuffled and varied batches with targets, without end.
///
/// The batch of an iteration is a function of the seed and the iteration's number, for any number of
/// workers, so that a run that stopped before iteration `k` goes on with `start(k, ..)`. Epochs
/// follow one another without a seam: a batch may hold the end of one and the beginning of the
/// next, and all batches are full. With [`LoaderConfig::group_by_aspect`] a sample may wait for
/// others of its shape, and what waits at the end of the iterations is not trained on.
#[derive(Clone, Debug)]
pub struct TrainLoader {
    config: LoaderConfig,
    batching: Batching,
    form: PixelForm,
    plan: TrainingPlan,
    source: Arc<Source>,
}

impl TrainLoader {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns an error if a batch does not divide into its micro-batches, if images have no room in any batch shape, or if
    /// the data set has no images.
    pub fn new(
        dataset: Arc<CocoDataset>,
        config: LoaderConfig,
        batching: Batching,
        transform: Transform,
        generator: AnchorGenerator,
        assigner: TargetAssigner,
    ) -> Result<Self, DataError> {
        let Batching {
            batch_size,
            micro_batches,
            ..
        } = batching;
        if !batch_size.get().is_multiple_of(micro_batches.get()) {
            return Err(DataError::MicroBatches {
                batch_size: batch_size.as_usize(),
                micro_batches: micro_batches.as_usize(),
            });
        }
        for group in groups(&transform, &dataset.images, config.group_by_aspect) {
            transform.check_training_shapes(group.into_iter())?;
        }
        let seed = batching.seed;
        let source = Source::new(dataset, config, seed, transform, generator, Some(assigner))?;
        Ok(Self {
            config,
            batching,
            form: PixelForm::default(),
            plan: TrainingPlan::new(&source.dataset, &config, batching),
            source,
        })
    }

    /// The same with pixels in this form.
    #[must_use]
    pub fn with_form(self, form: PixelForm) -> Self {
        Self { form, ..self }
    }

    /// The batches of the iterations from `first` up to, but not including, `end`, each in its
    /// [`micro_batches`](Batching::micro_batches).
    pub fn start(&self, first: u64, end: u64) -> BatchIter {
        let jobs = self.plan.jobs(first..end);
        BatchIter::start(Box::new(jobs), self.config, self.form, &self.source)
    }

    /// The same for one of several processes that shard each batch: `rank` of `of`, from 0. Shards
    /// differ by one image at most, and all have as many micro-batches.
    ///
    /// # Errors
    ///
    /// Returns an error if a batch has fewer images than there are micro-batches.
    pub fn shard(self, rank: usize, of: usize) -> Result<Self, DataError> {
        let micro_batches = self.batching.micro_batches.as_usize().saturating_mul(of);
        let batch_size = self.batching.batch_size.as_usize();
        if batch_size < micro_batches {
            return Err(DataError::MicroBatches {
                batch_size,
                micro_batches,
            });
        }
        let plan = self.plan.with_shard(Shard { rank, of });
        Ok(Self { plan, ..self })
    }

    /// How many samples make an epoch: as many as there are images, or with
    /// [`LoaderConfig::repeat_threshold`] more, the same number in every epoch.
    pub fn samples_per_epoch(&self) -> u64 {
        self.plan.samples_per_epoch()
    }

    /// Height and width of the largest batch that there can be, in pixels.
    pub fn largest_input(&self) -> (usize, usize) {
        let Source {
            dataset, transform, ..
        } = &*self.source;
        let groups = groups(transform, &dataset.images, self.config.group_by_aspect);
        let inputs = groups
            .into_iter()
            .map(|group| transform.training_sizes(group.into_iter()))
            .map(|sizes| transform.preparation().padded_size(sizes));
        inputs
            .max_by_key(|(height, width)| height * width)
            .unwrap_or((1, 1))
    }

    /// The sample that this image of the data set gives in an epoch, alone in a batch.
    ///
    /// # Errors
    ///
    /// Returns an error if an image cannot be read.
    ///
    /// # Panics
    ///
    /// Panics if the data set has no such image.
    pub fn sample(&self, index: usize, epoch: u64) -> Result<Batch, DataError> {
        self.source.single(SampleKey {
            index,
            epoch: Some(epoch),
            repeat: 0,
        })
    }
}

/// Loads every image once, in the order of the data set, as it is; with targets where asked for.
#[derive(Clone, Debug)]
pub struct EvalLoader {
    config: LoaderConfig,
    batch_size: usize,
    form: PixelForm,
    shard: Shard,
    source: Arc<Source>,
}

impl EvalLoader {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns an error if images have no room in any batch shape, or if the data set has no images.
    pub fn new(
        dataset: Arc<CocoDataset>,
        config: LoaderConfig,
        batch_size: Count,
        transform: Transform,
        generator: AnchorGenerator,
        assigner: Option<TargetAssigner>,
    ) -> Result<Self, DataError> {
        let batch_size = batch_size.as_usize();
        transform.check_evaluation_shapes(&dataset.images, batch_size)?;
        // Numbers of some of the images would be wrong.
        let config = LoaderConfig {
            on_bad_image: OnBadImage::Stop,
            ..config
        };
        Ok(Self {
            config,
            batch_size,
            form: PixelForm::default(),
            shard: Shard::WHOLE,
            source: Source::new(dataset, config, 0, transform, generator, assigner)?,
        })
    }

    /// The same for one of several processes that share the batches: `rank` of `of`, from 0, takes
    /// every `of`th of them.
    #[must_use]
    pub fn shard(self, rank: usize, of: usize) -> Self {
        let shard = Shard { rank, of };
        Self { shard, ..self }
    }

    /// The same with pixels in this form.
    #[must_use]
    pub fn with_form(self, form: PixelForm) -> Self {
        Self { form, ..self }
    }

    /// The batches from the first; the last one may be smaller than the others. After an error the others
    /// follow.
    pub fn start(&self) -> BatchIter {
        let jobs = evaluation_jobs(self.source.dataset.images.len(), self.batch_size);
        let Shard { rank, of } = self.shard;
        let jobs = jobs.skip(rank).step_by(of);
        BatchIter {
            ends_at_error: false,
            ..BatchIter::start(Box::new(jobs), self.config, self.form, &self.source)
        }
    }

    /// This image of the data set, alone in a batch.
    ///
    /// # Errors
    ///
    /// Returns an error if the image cannot be read.
    ///
    /// # Panics
    ///
    /// Panics if the data set has no such image.
    pub fn sample(&self, index: usize) -> Result<Batch, DataError> {
        self.source.single(SampleKey {
            index,
            epoch: None,
            repeat: 0,
        })
    }

    /// How many batches there are.
    pub fn batches(&self) -> usize {
        let all = (self.source.dataset.images.len()).div_ceil(self.batch_size);
        all.saturating_sub(self.shard.rank).div_ceil(self.shard.of)
    }
}

/// Batches in their order. An error comes in the place of the batch that it spoilt; in training it is the
/// last item. Dropping the iterator stops its threads.
pub struct BatchIter {
    state: State,
    ends_at_error: bool,
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
        form: PixelForm,
        source: &Arc<Source>,
    ) -> Self {
        let (workers, prefetch) = (config.workers.as_usize(), config.prefetch());
        let source = Arc::clone(source);
        let batches =
            ParallelMap::start(jobs, workers, prefetch, move |job| source.batch(&job, form));
        Self {
            state: match batches {
                Ok(batches) => State::Running(batches),
                Err(error) => State::Failed(DataError::Workers(error)),
            },
            ends_at_error: true,
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
                if result.is_ok() || !self.ends_at_error {
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

/// The images that may be in a batch together: those of one orientation where batches are
/// grouped and nothing of the other is laid over them, else all.
fn groups<'a>(
    transform: &Transform,
    images: &'a [ImageRecord],
    group_by_aspect: bool,
) -> Vec<Vec<&'a ImageRecord>> {
    if !group_by_aspect || transform.augment().mixup.probability.get() > 0.0 {
        return vec![images.iter().collect()];
    }
    let (wide, others) = images.iter().partition(|image| image.is_wide());
    let groups = [wide, others].into_iter();
    groups.filter(|group: &Vec<_>| !group.is_empty()).collect()
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
    cache: ImageCache,
    /// The anchors of the padded sizes that came up last.
    anchors: Mutex<VecDeque<SizedAnchors>>,
}

#[derive(Debug)]
struct SizedAnchors {
    height: usize,
    width: usize,
    anchors: Arc<PyramidAnchors>,
}

impl Source {
    /// How many sizes are kept; the anchors of 1344×800 take 3 MB.
    const ANCHOR_SIZES: usize = 16;

    fn new(
        dataset: Arc<CocoDataset>,
        config: LoaderConfig,
        seed: u64,
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
            seed,
            skips: config.on_bad_image == OnBadImage::Skip,
            transform,
            generator,
            assigner,
            cache: ImageCache::new(config.cache_bytes()),
            anchors: Mutex::default(),
        }))
    }

    fn batch(&self, job: &Job, form: PixelForm) -> Result<Batch, DataError> {
        let (mut samples, mut skipped) = (Vec::new(), Vec::new());
        for key in &job.samples {
            match self.sample(key) {
                Ok(sample) => samples.push(sample),
                // The last one of a batch that is bad throughout is not skipped.
                Err(error) if self.skips && skipped.len() + 1 < job.samples.len() => {
                    skipped.push(in_full(&error));
                }
                Err(error) => return Err(error),
            }
        }
        let anchors = |height, width| self.anchors(height, width);
        let batch = collate(
            samples,
            &self.transform,
            form,
            anchors,
            self.assigner.as_ref(),
        );
        Ok(Batch { skipped, ..batch })
    }

    fn single(&self, key: SampleKey) -> Result<Batch, DataError> {
        let job = Job {
            number: 0,
            samples: vec![key],
        };
        self.batch(&job, PixelForm::Numbers)
    }

    fn sample(&self, key: &SampleKey) -> Result<Sample, DataError> {
        let &SampleKey {
            index,
            epoch,
            repeat,
        } = key;
        let images = &self.dataset.images;
        let view = match epoch {
            Some(epoch) => {
                let rng = &mut sample_rng(self.seed, epoch, index, repeat);
                self.transform.sample(index, images, rng)
            }
            None => (self.transform.preparation()).view(index, images[index].size()),
        };
        let decoded = |index| self.decoded(index);
        self.naming(index, || {
            Sample::new(&view, index, images, &self.transform, decoded)
        })
    }

    fn decoded(&self, index: usize) -> Result<Arc<RgbImage>, DataError> {
        let decode = || {
            self.naming(index, || {
                self.dataset.images[index].decode(self.dataset.decoding)
            })
        };
        self.cache.get(index, decode)
    }

    /// Decoders have panicked on broken files before; then the file must be named.
    fn naming<T>(
        &self,
        index: usize,
        work: impl FnOnce() -> Result<T, DataError>,
    ) -> Result<T, DataError> {
        catch_panic(work).unwrap_or_else(|message| {
            let path = &self.dataset.images[index].path;
            Err(DataError::Panic {
                what: format!("image `{}`", path.display()),
                message,
            })
        })
    }

    fn anchors(&self, height: usize, width: usize) -> Arc<PyramidAnchors> {
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
