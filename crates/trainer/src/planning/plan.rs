//! From the experiment as written to an experiment that can run: every setting checked, every
//! file found, the parts ready to build.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use retinanet_anchors::{AnchorGenerator, TargetAssigner};
use retinanet_backbone::NormKind;
use retinanet_criterion::Criterion;
use retinanet_data::{Batch, BatchIter, CocoDataset, DataError, TrainLoader, Transform};
use retinanet_detector::{Decoder, LoadedWeights, RetinaNet, load_pretrained};
use retinanet_evaluation::Evaluator;
use retinanet_experiment::{
    EvaluationData, ExperimentConfig, ExperimentError, Observer, ScheduleKind, check_settings,
    check_training_files, render_shapes_if_absent, tell_dropped,
};

use retinanet_settings::{Count, SettingError, Whole};

use crate::optimisation::schedule::Schedule;

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
    pub(crate) assigner: TargetAssigner,
    pub(crate) decoder: Decoder,
    pub(crate) criterion: Criterion,
    pub(crate) loader: TrainLoader,
    pub(crate) schedule: Schedule,
    pub(crate) iterations: u64,
    pub(crate) eval_every: u64,
    pub(crate) checkpoint_every: u64,
    /// The step from which on nothing is frozen.
    pub(crate) unfreeze_at: Option<u64>,
    /// The file of the weights to start from.
    weights: Option<PathBuf>,
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
        let (generator, assigner) = (config.anchor_generator()?, config.target_assigner()?);
        let transform = config.data.transform()?;

        render_shapes_if_absent(&config.data, observer)?;
        let train = Arc::new(config.data.read_train()?);
        check_training_files(&train, config.data.loader.on_bad_image, observer)?;
        let EvaluationData {
            dataset: val,
            evaluator,
        } = (config.data).to_evaluate(&config.data.val, &train.classes, observer)?;
        let evaluator = evaluator.ok_or_else(|| DataError::NotAnnotated {
            path: val.annotations.clone(),
        })?;
        transform.check_evaluation_shapes(&val.images, 1)?;
        tell_dropped(&train, observer);

        let criterion = config.criterion_for(&train.objects_by_class())?;
        let loader = TrainLoader::new(
            Arc::clone(&train),
            config.data.loader,
            config.batching(),
            transform.clone(),
            generator.clone(),
            assigner,
        )?;
        let clock = Clock::new(&config, loader.samples_per_epoch());
        Ok(Self {
            iterations: clock.iterations,
            eval_every: clock.interval(config.train.eval_every),
            checkpoint_every: clock.interval(config.train.checkpoint_every),
            unfreeze_at: (config.train.unfreeze_at).map(|units| clock.in_iterations(units.get())),
            decoder: config.decoder(),
            schedule: clock.schedule(&config),
            weights: config.model.pretrained.as_ref().map(PathBuf::from),
            config,
            train,
            val: Arc::new(val),
            evaluator,
            transform,
            generator,
            assigner,
            criterion,
            loader,
        })
    }
}

impl Plan {
    /// With this file for the weights that `model.pretrained` names.
    #[must_use]
    pub fn with_weights(mut self, file: Option<PathBuf>) -> Self {
        self.weights = file.or(self.weights);
        self
    }

    /// Checks that so many processes can share a batch.
    ///
    /// # Errors
    ///
    /// Returns an error if there are more of them, and of the micro-batches of each, than images, or if norms would have
    /// to share their statistics on a GPU.
    pub fn check_processes(&self, processes: usize) -> Result<(), ExperimentError> {
        let ExperimentConfig { model, compute, .. } = &self.config;
        if processes > 1 && model.norm == NormKind::SyncBatchNorm && compute.device != "flex" {
            return Err(ExperimentError::Setting(SettingError::new(
                "model.norm",
                "another where several processes share a batch on GPUs: statistics are shared on `flex` alone",
                "\"sync_batch_norm\"",
            )));
        }
        self.loader.clone().shard(0, processes)?;
        Ok(())
    }

    /// Checks that the weights to start from fit the model, if the config names any.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or does not fit.
    pub fn check_pretrained(&self) -> Result<(), ExperimentError> {
        if self.weights.is_some() {
            self.initialise_model(&Device::flex())?;
        }
        Ok(())
    }

    /// The micro-batches of the next batch.
    pub(crate) fn next_batch(&self, batches: &mut BatchIter) -> Result<Vec<Batch>, DataError> {
        let micro_batches = self.config.train.accumulate.as_usize();
        batches.by_ref().take(micro_batches).collect()
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
            config.freeze_at = Whole::literal(0);
        }
        let model = config.init(self.train.classes.len(), self.config.seed.get(), device)?;
        let compute = &self.config.compute;
        let model = model.with_winograd(compute.winograd);
        let model = model.with_gradient_checkpointing(compute.gradient_checkpointing);
        Ok(model.with_precision(compute.precision))
    }

    /// Initialises the model on a device, with the weights to start from if the config names any.
    pub(crate) fn initialise_model(
        &self,
        device: &Device,
    ) -> Result<(RetinaNet, Option<LoadedWeights>), ExperimentError> {
        let mut model = self.fresh_model(0, device)?;
        let weights = self.weights.as_ref();
        let loaded = weights
            .map(|file| load_pretrained(&mut model, file))
            .transpose()?;
        let lacks_c5 = loaded.as_ref().is_some_and(LoadedWeights::lacks_c5);
        if lacks_c5 && self.config.model.freeze_at.get() == 5 {
            return Err(ExperimentError::Setting(SettingError::new(
                "model.freeze_at",
                "at most 4 where `model.pretrained` has no C5, which would stay as it was sampled",
                5,
            )));
        }
        Ok((model, loaded))
    }
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
                iterations: (epochs.get() as f64 * epoch).ceil() as u64,
                unit: epoch,
                default_interval: 1,
            },
            None => Self {
                iterations: (config.train.iterations).map_or(DEFAULT_ITERATIONS, Count::get),
                unit: 1.0,
                default_interval: DEFAULT_INTERVAL,
            },
        }
    }

    fn interval(&self, every: Option<Count>) -> u64 {
        self.in_iterations(every.map_or(self.default_interval, Count::get))
            .max(1)
    }

    fn in_iterations(&self, units: u64) -> u64 {
        (units as f64 * self.unit).ceil() as u64
    }

    fn schedule(&self, config: &ExperimentConfig) -> Schedule {
        let schedule = &config.schedule;
        let mut kind = schedule.kind.clone();
        if let ScheduleKind::MultiStep(config) = &mut kind {
            config.milestones = config.milestones.map(|units| self.in_iterations(units));
        }
        Schedule {
            base: base_rate(config),
            warmup: schedule.warmup_iterations(),
            warmup_start: schedule.warmup_start.get(),
            total: self.iterations,
            kind,
        }
    }
}

/// The learning rate at its height, by the linear rule of Goyal et al. 2017.
fn base_rate(config: &ExperimentConfig) -> f64 {
    let (lr, reference_batch) = (config.optimizer.lr, config.optimizer.reference_batch);
    lr.get() * config.train.batch_size.images() as f64 / reference_batch.get() as f64
}

#[cfg(test)]
mod tests {
    use retinanet_experiment::{
        BatchSize, CosineConfig, Images, LearningRate, Milestones, MultiStepConfig, OneCycleConfig,
        PolynomialConfig,
    };
    use retinanet_settings::Share;

    use super::*;

    #[test]
    fn epochs_and_their_milestones_become_iterations() {
        let multi_step = |milestones: [u64; 2]| {
            let milestones = milestones.map(Whole::literal).to_vec();
            ScheduleKind::MultiStep(MultiStepConfig {
                milestones: Milestones::try_from(milestones).unwrap(),
                ..MultiStepConfig::default()
            })
        };
        let mut config = ExperimentConfig::default();
        config.train.batch_size = BatchSize::Images(Images::literal(4));
        config.train.epochs = Some(Count::literal(3));
        config.schedule.kind = multi_step([1, 2]);
        // 10 images make 2.5 iterations an epoch.
        let clock = Clock::new(&config, 10);
        assert_eq!(clock.iterations, 8);
        assert_eq!(clock.interval(None), 3);
        assert_eq!(clock.schedule(&config).kind, multi_step([3, 5]));

        config.train.epochs = None;
        let clock = Clock::new(&config, 10);
        let seven = Some(Count::literal(7));
        assert_eq!((clock.iterations, clock.interval(seven)), (90_000, 7));
    }

    #[test]
    fn each_schedule_ends_where_its_name_says() {
        let mut config = ExperimentConfig::default();
        config.optimizer.lr = LearningRate::literal(1.0);
        config.optimizer.reference_batch = Count::literal(16);
        let mut end = |kind: ScheduleKind| {
            config.schedule.kind = kind;
            let clock = Clock::new(&config, 1);
            clock.schedule(&config).learning_rate(clock.iterations)
        };
        let half = Share::literal(0.5);
        let never = MultiStepConfig {
            milestones: Milestones::default(),
            ..MultiStepConfig::default()
        };
        for (kind, expected) in [
            (ScheduleKind::MultiStep(never), 1.0),
            (ScheduleKind::Cosine(CosineConfig::default()), 0.0),
            (ScheduleKind::Cosine(CosineConfig { end_factor: half }), 0.5),
            (ScheduleKind::Polynomial(PolynomialConfig::default()), 0.0),
            (ScheduleKind::OneCycle(OneCycleConfig::default()), 4e-6),
            (ScheduleKind::Constant {}, 1.0),
        ] {
            assert_eq!(end(kind), expected);
        }
    }
}
