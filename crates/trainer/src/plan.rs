//! From the experiment as written to an experiment that can run: every setting checked, every
//! file found, the parts ready to build.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use retinanet_anchors::{AnchorGenerator, Matcher, TargetAssigner};
use retinanet_criterion::{ClassLossConfig, Criterion, CriterionConfig, Sampler};
use retinanet_data::{CocoDataset, DataError, LoaderConfig, TrainLoader, Transform};
use retinanet_detector::{ClassScores, Decoder, LoadedWeights, RetinaNet, load_pretrained};
use retinanet_evaluation::Evaluator;
use retinanet_experiment::{
    EvaluationData, ExperimentConfig, ExperimentError, Observer, OptimizerConfig, ScheduleName,
    check_settings, check_training_files, render_shapes_if_absent, tell_dropped,
};

use crate::schedule::{Schedule, Shape};

/// Training length where the config gives none: the paper's 90 000 iterations.
const DEFAULT_ITERATIONS: u64 = 90_000;
/// Between evaluations and checkpoints where the config says nothing and counts in iterations.
const DEFAULT_INTERVAL: u64 = 5_000;

/// A checked experiment.
pub struct Plan {
    /// The config, with the data's root made absolute.
    pub config: ExperimentConfig,
    /// What is trained on.
    pub train: Arc<CocoDataset>,
    /// What is evaluated on.
    pub val: Arc<CocoDataset>,
    pub(crate) evaluator: Evaluator,
    pub(crate) transform: Transform,
    pub(crate) generator: AnchorGenerator,
    pub(crate) matcher: Matcher,
    pub(crate) assigner: TargetAssigner,
    pub(crate) decoder: Decoder,
    pub(crate) criterion: Criterion,
    pub(crate) sampler: Sampler,
    pub(crate) loader: TrainLoader,
    pub(crate) schedule: Schedule,
    pub(crate) iterations: u64,
    pub(crate) eval_every: u64,
    pub(crate) checkpoint_every: u64,
    /// The step from which on nothing is frozen.
    pub(crate) unfreeze_at: Option<u64>,
}

impl Plan {
    /// Checks the settings, reads the annotations and looks for the images. Where the config asks
    /// for the built-in data set and it is not there, it is rendered.
    ///
    /// # Errors
    ///
    /// Returns an error that names the setting or the file at fault.
    pub fn new(
        mut config: ExperimentConfig,
        observer: &mut dyn Observer,
    ) -> Result<Self, ExperimentError> {
        check_settings(&config)?;
        config.data.root = std::path::absolute(&config.data.root).map_err(ExperimentError::Root)?;
        config.model.check()?;
        let coder = config.model.box_coder.init()?;
        let decoder = config.eval.init(&config.model)?;
        // Whatever it holds is wrong before data is read, or not at all.
        criterion(&config, config.criterion.class.clone())?;
        let sampler = config.criterion.sampling.init()?;
        let generator = config.model.anchor_generator()?;
        let matcher = config.criterion.matcher.init()?;
        let transform = config.data.transform()?;

        render_shapes_if_absent(&config.data, observer)?;
        let train = Arc::new(config.data.read_train()?);
        check_training_files(&train, config.data.on_bad_image, observer)?;
        let EvaluationData {
            dataset: val,
            evaluator,
        } = (config.data).to_evaluate(&config.data.val, &train.classes, observer)?;
        let evaluator = evaluator.ok_or_else(|| DataError::NotAnnotated {
            path: val.annotations.clone(),
        })?;
        transform.check_evaluation_shapes(&val.images, 1)?;
        tell_dropped(&train, observer);

        let class = (config.criterion.class.clone()).for_objects(&train.objects_by_class())?;
        let criterion = criterion(&config, class)?;
        let assigner = TargetAssigner::new(matcher, coder);
        let parts = config.train.accumulate;
        let batch_size = config.train.batch_size.images();
        let loader = TrainLoader::new(
            Arc::clone(&train),
            LoaderConfig {
                parts,
                ..(config.data).loader(parts * (batch_size / parts).max(1), config.seed)
            },
            transform.clone(),
            generator.clone(),
            assigner,
        )?;
        let clock = Clock::new(&config, loader.samples_per_epoch());
        Ok(Self {
            iterations: clock.iterations,
            eval_every: clock.interval(config.train.eval_every),
            checkpoint_every: clock.interval(config.train.checkpoint_every),
            unfreeze_at: (config.train.unfreeze_at).map(|units| clock.in_iterations(units)),
            schedule: clock.schedule(&config),
            config,
            train,
            val: Arc::new(val),
            evaluator,
            transform,
            generator,
            matcher,
            assigner,
            decoder,
            criterion,
            sampler,
            loader,
        })
    }
}

impl Plan {
    /// Checks that so many processes can share a batch.
    ///
    /// # Errors
    ///
    /// Returns an error where there are more of them, and of the parts of each, than images.
    pub fn check_processes(&self, processes: usize) -> Result<(), ExperimentError> {
        self.loader.clone().shard(0, processes)?;
        Ok(())
    }

    /// Checks that the weights to start from fit the model, if the config names any.
    ///
    /// # Errors
    ///
    /// Returns an error where the file cannot be read or does not fit.
    pub fn check_pretrained(&self) -> Result<(), ExperimentError> {
        if self.config.model.pretrained.is_some() {
            self.initialise_model(&Device::flex())?;
        }
        Ok(())
    }

    /// Makes the model on a device, its weights a function of the seed alone. What learns is as at
    /// an iteration.
    pub(crate) fn fresh_model(
        &self,
        iteration: u64,
        device: &Device,
    ) -> Result<RetinaNet, ExperimentError> {
        let mut config = self.config.model.clone();
        if self.unfreeze_at.is_some_and(|step| iteration >= step) {
            config.freeze_at = 0;
        }
        let model = config.init(self.train.classes.len(), self.config.seed, device)?;
        Ok(model.with_winograd(self.config.compute.winograd))
    }

    /// Initialises the model on a device, with the weights to start from if the config names any.
    pub(crate) fn initialise_model(
        &self,
        device: &Device,
    ) -> Result<(RetinaNet, Option<LoadedWeights>), ExperimentError> {
        let mut model = self.fresh_model(0, device)?;
        let pretrained = self.config.model.pretrained.as_ref();
        let loaded = pretrained
            .map(|path| load_pretrained(&mut model, Path::new(path)))
            .transpose()?;
        Ok((model, loaded))
    }
}

/// The loss, with a class loss that has its weights of the classes.
pub(crate) fn criterion(
    config: &ExperimentConfig,
    class: ClassLossConfig,
) -> Result<Criterion, ExperimentError> {
    let criterion = CriterionConfig {
        class,
        softmax: config.model.head.scores == ClassScores::Softmax,
        bbox: config.criterion.bbox,
        normalizer: config.criterion.normalizer,
        coder: config.model.box_coder.init()?,
    };
    Ok(criterion.init()?)
}

/// Turns the config's unit, iterations or epochs, into iterations.
struct Clock {
    iterations: u64,
    /// Iterations of one unit.
    unit: f64,
    default_interval: u64,
}

impl Clock {
    fn new(config: &ExperimentConfig, samples_per_epoch: u64) -> Self {
        let epoch = samples_per_epoch as f64 / config.train.batch_size.images() as f64;
        match config.train.epochs {
            Some(epochs) => Self {
                iterations: (epochs as f64 * epoch).ceil() as u64,
                unit: epoch,
                default_interval: 1,
            },
            None => Self {
                iterations: config.train.iterations.unwrap_or(DEFAULT_ITERATIONS),
                unit: 1.0,
                default_interval: DEFAULT_INTERVAL,
            },
        }
    }

    fn interval(&self, every: Option<u64>) -> u64 {
        self.in_iterations(every.unwrap_or(self.default_interval))
            .max(1)
    }

    fn in_iterations(&self, units: u64) -> u64 {
        (units as f64 * self.unit).ceil() as u64
    }

    fn schedule(&self, config: &ExperimentConfig) -> Schedule {
        let schedule = &config.schedule;
        let end_factor = schedule.end_factor.unwrap_or(0.0);
        let shape = match schedule.name {
            ScheduleName::MultiStep => {
                let milestones = schedule.milestones.iter();
                Shape::MultiStep {
                    milestones: milestones.map(|units| self.in_iterations(*units)).collect(),
                    factor: schedule.factor,
                }
            }
            ScheduleName::Cosine => Shape::Cosine { end_factor },
            ScheduleName::Polynomial => Shape::Polynomial {
                end_factor,
                power: schedule.power,
            },
            ScheduleName::OneCycle => Shape::OneCycle {
                start_factor: schedule.start_factor,
                peak_at: schedule.peak_at,
                end_factor: schedule.end_factor.unwrap_or(Shape::ONE_CYCLE_END),
            },
            ScheduleName::Constant => Shape::Constant,
        };
        Schedule {
            base: base_rate(config),
            warmup: schedule.warmup,
            warmup_start: schedule.warmup_start,
            total: self.iterations,
            shape,
        }
    }
}

/// The learning rate at its height, by the linear rule of Goyal et al. 2017.
fn base_rate(config: &ExperimentConfig) -> f64 {
    let OptimizerConfig {
        lr,
        reference_batch,
        ..
    } = config.optimizer;
    lr * config.train.batch_size.images() as f64 / reference_batch as f64
}

#[cfg(test)]
mod tests {
    use retinanet_experiment::BatchSize;

    use super::*;

    #[test]
    fn epochs_and_their_milestones_become_iterations() {
        let mut config = ExperimentConfig::default();
        config.train.batch_size = BatchSize::Images(4);
        config.train.epochs = Some(3);
        config.schedule.milestones = vec![1, 2];
        // 10 images make 2.5 iterations an epoch.
        let clock = Clock::new(&config, 10);
        assert_eq!(clock.iterations, 8);
        assert_eq!(clock.interval(None), 3);
        let shape = Shape::MultiStep {
            milestones: vec![3, 5],
            factor: 0.1,
        };
        assert_eq!(clock.schedule(&config).shape, shape);

        config.train.epochs = None;
        let clock = Clock::new(&config, 10);
        assert_eq!((clock.iterations, clock.interval(Some(7))), (90_000, 7));
    }

    #[test]
    fn each_schedule_ends_where_its_name_says() {
        let mut config = ExperimentConfig::default();
        config.schedule.milestones = Vec::new();
        config.optimizer.lr = 1.0;
        config.optimizer.reference_batch = config.train.batch_size.images();
        let mut end = |name, end_factor| {
            config.schedule.name = name;
            config.schedule.end_factor = end_factor;
            let clock = Clock::new(&config, 1);
            clock.schedule(&config).learning_rate(clock.iterations)
        };
        for (name, default, given) in [
            (ScheduleName::MultiStep, 1.0, 1.0),
            (ScheduleName::Cosine, 0.0, 0.5),
            (ScheduleName::Polynomial, 0.0, 0.5),
            (ScheduleName::OneCycle, 4e-6, 0.5),
            (ScheduleName::Constant, 1.0, 1.0),
        ] {
            assert_eq!((end(name, None), end(name, Some(0.5))), (default, given));
        }
    }
}
