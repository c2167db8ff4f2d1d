//! The one door to a run: from an experiment and a folder to trained weights, whoever asks.

use std::error::Error;
use std::path::PathBuf;
use std::rc::Rc;

use burn::tensor::Device;
use retinanet_experiment::{
    AnnotationsCheckError, BatchSize, DataSplit, ExperimentConfig, ExperimentError, Images,
    MissingData, Observer, check_annotations, require_data,
};
use retinanet_settings::{OutOfRange, PositiveShare, SettingError, Whole};

use crate::error::TrainError;
use crate::follow::follow;
use crate::optimisation::update::is_flex;
use crate::planning::auto_batch::{measure_batch_size, try_batch_sizes};
use crate::planning::device_check::DeviceCheck;
use crate::planning::estimate::{Estimate, estimate};
use crate::planning::plan::Plan;
use crate::planning::precision::{check_precision, check_processes};
use crate::processes::communicator::Communicator;
use crate::processes::messages::{Json, Ready};
use crate::processes::process_group::ProcessGroup;
use crate::processes::single_process::SingleProcess;
use crate::run::run_directory::{RunDirectory, RunDirectoryError};
use crate::training::{TrainOutcome, train};

/// What is to be trained, and where.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is there or not, whatever the others are"
)]
pub struct LaunchOptions {
    /// The experiment.
    pub config: ExperimentConfig,
    /// The run's folder.
    pub run: PathBuf,
    /// Whether the run that is in the folder goes on, instead of a new one that begins. Default: no.
    pub resume: bool,
    /// Whether the annotations are checked first, and training is refused if it would fail on them.
    /// Default: yes.
    pub check_annotations: bool,
    /// Whether a device other than the CPU trains without having been compared with it. Default: no.
    pub trust_device: bool,
    /// Whether a run starts that takes more than a week, or more memory than there is. Default: no.
    pub accept_cost: bool,
}

impl LaunchOptions {
    /// A new run of an experiment in a folder.
    pub fn new(config: ExperimentConfig, run: impl Into<PathBuf>) -> Self {
        Self {
            config,
            run: run.into(),
            resume: false,
            check_annotations: true,
            trust_device: false,
            accept_cost: false,
        }
    }
}

/// What a launch asks of the program that it is part of. Every method has a default: one process that trains on
/// the CPU, with weights from files.
pub trait Host {
    /// The processes that train together.
    fn processes(&self) -> Rc<dyn Communicator> {
        Rc::new(SingleProcess)
    }

    /// How many of these processes share this machine's memory.
    fn processes_here(&self) -> usize {
        1
    }

    /// Sets how many threads the CPU computes with, as `compute.threads` says.
    fn set_threads(&self, _threads: Option<usize>) {}

    /// Opens the device of this name, as `compute.device` says.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such device.
    fn open_device(&self, name: &str) -> Result<Device, HostError> {
        if name == "flex" {
            return Ok(Device::flex());
        }
        let reason = format!("`compute.device` is `{name}`, and this program opens `flex` alone");
        Err(HostError::Refused(reason.into()))
    }

    /// Makes sure that a device other than the CPU computes what the CPU does; it is given with its name.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not.
    fn require_sound_device(
        &self,
        check: &DeviceCheck,
        device: &Device,
        name: &str,
        observer: &mut dyn Observer,
    ) -> Result<(), HostError> {
        if is_flex(device) {
            return Ok(());
        }
        let checked = check.clone().short().run(device, 1, observer);
        let checked = checked.map_err(|error| HostError::Failed(error.into()))?;
        match checked.iter().find(|it| it.is_wrong()) {
            None => Ok(()),
            Some(wrong) => Err(HostError::Failed(
                format!("`{name}` computes wrong numbers in `{}`", wrong.what).into(),
            )),
        }
    }

    /// Whether a step on so many images at once fits into the memory of the config's device, tried by
    /// [`try_batch`](crate::try_batch) in a process of its own, which a GPU whose memory runs out takes with it; nothing
    /// if that cannot be tried.
    fn fits(&self, _config: &ExperimentConfig, _images: usize) -> Option<bool> {
        None
    }

    /// The file of the weights that `model.pretrained` names.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be had.
    fn weights_file(&self, pretrained: &str) -> Result<PathBuf, HostError> {
        Ok(PathBuf::from(pretrained))
    }

    /// Is told that training begins, and that a request to stop is from now on the observer's to tell.
    fn training_begins(&self) {}
}

/// A program of a library's user: one process, on the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainHost;

impl Host for PlainHost {}

/// Why a host could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The config, or an argument, asks for what is not there.
    #[error("{0:#}")]
    Refused(Box<dyn Error + Send + Sync>),
    /// The work failed.
    #[error("{0:#}")]
    Failed(Box<dyn Error + Send + Sync>),
}

/// Why a run was not trained to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The run's folder holds a run, or none, or another one.
    #[error(transparent)]
    Run(#[from] RunDirectoryError),
    /// The data is not located where the config says.
    #[error(transparent)]
    Data(#[from] MissingData),
    /// The annotations are at fault.
    #[error(transparent)]
    Annotations(#[from] AnnotationsCheckError),
    /// The experiment cannot run.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// The run takes more than a week, or more memory than there is.
    #[error(
        "{estimate}: {objection}. A GPU (`--device wgpu`), smaller images (`data.short_side`), a smaller \
         `model.backbone`, `train.batch_size` or fewer `train.iterations` take less; `--yes` trains nevertheless"
    )]
    Costly {
        /// What it takes.
        estimate: Box<Estimate>,
        /// What is too much.
        objection: String,
    },
    /// The observer asked to stop before there was a run.
    #[error("stopped before training began; nothing was written")]
    StoppedBefore,
    /// The program that launches could not do its part.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What the leading process said was not understood.
    #[error("the leading process sent no config")]
    Handshake(#[source] Box<dyn Error + Send + Sync>),
    /// Training failed. The checkpoints written before stay.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// Trains an experiment in a folder, from the start or from the run's newest checkpoint. Of several processes the
/// one of rank 0 launches, and the others [`join`] it.
///
/// # Errors
///
/// Returns an error if the experiment, its data or the folder is at fault, if the run costs what nobody has
/// accepted, or if training fails.
///
/// # Examples
///
/// ```no_run
/// use std::path::Path;
///
/// use retinanet_experiment::{Observer, load_config};
/// use retinanet_trainer::{LaunchOptions, PlainHost, launch};
///
/// struct Quiet;
/// impl Observer for Quiet {}
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = load_config(Path::new("configs/quickstart.toml"), &[])?;
/// let options = LaunchOptions::new(config, "runs/quickstart");
/// let outcome = launch(&options, &PlainHost, &mut Quiet)?;
/// # Ok(())
/// # }
/// ```
pub fn launch(
    options: &LaunchOptions,
    host: &dyn Host,
    observer: &mut dyn Observer,
) -> Result<TrainOutcome, LaunchError> {
    require_folder(options)?;
    let weights = weights(options, host)?;
    let config = &options.config;
    host.set_threads(config.compute.threads.map(Whole::as_usize));
    require_data(&config.data, &[DataSplit::Train, DataSplit::Val])?;
    if options.check_annotations {
        check_annotations(config, observer)?;
    }
    let device = host.open_device(&config.compute.device)?;
    check_precision(&config.compute, &config.compute.device, &device)
        .and_then(|()| check_processes(&config.compute, host.processes().size()))
        .map_err(ExperimentError::Setting)?;
    let plan = plan(options, host, &device, observer)?.with_weights(weights.clone());
    if !options.trust_device {
        let name = plan.config.compute.device.as_str();
        host.require_sound_device(&plan.device_check(), &device, name, observer)?;
    }
    let processes = host.processes();
    plan.check_processes(processes.size())?;
    tell_cost(options, &plan, &device, processes.size(), observer)?;
    let group = ProcessGroup::new(processes.clone());
    let sent = group.broadcast(&Json((plan.config.clone(), weights)));
    sent.map_err(|error| LaunchError::Handshake(error.into()))?;
    // A run that they cannot train along with is none.
    group.gather(&Ready);
    if observer.stop_requested() {
        return Err(LaunchError::StoppedBefore);
    }
    let run = run_directory(options, &plan, observer)?;
    host.training_begins();
    Ok(train(&plan, &run, &device, processes, observer)?)
}

/// Trains along with the process that [`launch`]es, with the config that it sends.
///
/// # Errors
///
/// Returns an error if this process cannot open its device or the data, or if training fails. The others wait then,
/// and must be ended.
pub fn join(trust_device: bool, host: &dyn Host) -> Result<(), LaunchError> {
    struct Quiet;
    impl Observer for Quiet {}

    let processes = host.processes();
    let group = ProcessGroup::new(processes.clone());
    let sent = group.receive::<Json<(ExperimentConfig, Option<PathBuf>)>>();
    let (config, weights) = sent.map_err(|error| LaunchError::Handshake(error.into()))?;
    host.set_threads(config.compute.threads.map(Whole::as_usize));
    let device = host.open_device(&config.compute.device)?;
    check_precision(&config.compute, &config.compute.device, &device)
        .map_err(ExperimentError::Setting)?;
    let plan = Plan::new(config, &mut Quiet)?.with_weights(weights);
    if !trust_device {
        let name = plan.config.compute.device.as_str();
        host.require_sound_device(&plan.device_check(), &device, name, &mut Quiet)?;
    }
    group.gather(&Ready);
    // The leader says when it ends; a signal comes to all.
    host.training_begins();
    Ok(follow(&plan, &device, processes)?)
}

/// Tells what training will take, and refuses what is surely not meant, unless it is accepted.
fn tell_cost(
    options: &LaunchOptions,
    plan: &Plan,
    device: &Device,
    processes: usize,
    observer: &mut dyn Observer,
) -> Result<(), LaunchError> {
    let Some(estimate) = estimate(plan, device, processes)? else {
        return Ok(());
    };
    match estimate.objection().filter(|_| !options.accept_cost) {
        None => {
            observer.message(&estimate.to_string());
            Ok(())
        }
        Some(objection) => Err(LaunchError::Costly {
            estimate: Box::new(estimate),
            objection,
        }),
    }
}

/// Refuses to begin in the folder of a run, and to go on in one of none.
fn require_folder(options: &LaunchOptions) -> Result<(), RunDirectoryError> {
    let root = &options.run;
    match (options.resume, RunDirectory::is_run(root)) {
        (false, true) => Err(RunDirectory::holds_run(root)),
        (true, false) => Err(RunDirectoryError::NoRun { root: root.clone() }),
        _ => Ok(()),
    }
}

/// The file of the weights to start from. A run that goes on has its own, once it has a checkpoint.
fn weights(options: &LaunchOptions, host: &dyn Host) -> Result<Option<PathBuf>, LaunchError> {
    let Some(pretrained) = &options.config.model.pretrained else {
        return Ok(None);
    };
    let starts = !options.resume || RunDirectory::open(&options.run)?.newest()?.0.is_none();
    if !starts {
        return Ok(None);
    }
    Ok(Some(host.weights_file(pretrained)?))
}

/// The plan of a run, with a batch size that is measured if it is to be.
fn plan(
    options: &LaunchOptions,
    host: &dyn Host,
    device: &Device,
    observer: &mut dyn Observer,
) -> Result<Plan, LaunchError> {
    let mut config = options.config.clone();
    match (config.train.batch_size, options.resume) {
        (BatchSize::Images(_), _) => {}
        (BatchSize::Auto, true) => {
            // What was measured when the run began.
            let began = RunDirectory::open(&options.run)?.config();
            let began = began.map_err(RunDirectoryError::Config)?;
            config.train.batch_size = began.train.batch_size;
        }
        (BatchSize::Auto, false) => {
            let mut own = config.clone();
            // All processes of this machine take from its memory.
            let share = own.train.memory_share.get() / host.processes_here() as f64;
            if let Ok(share) = PositiveShare::new(share) {
                own.train.memory_share = share;
            }
            let of_each = if is_flex(device) {
                measure_batch_size(&Plan::new(own, observer)?, device)?
            } else {
                try_batch_sizes(&config.train, |images| {
                    observer.message(&format!("trying {images} images a step"));
                    host.fits(&config, images)
                })?
            };
            let images = of_each * host.processes().size();
            observer.message(&format!("batch size {images}, measured"));
            config.train.batch_size = BatchSize::Images(measured(images)?);
        }
    }
    Ok(Plan::new(config, observer)?)
}

fn measured(images: usize) -> Result<Images, ExperimentError> {
    Images::new(images).map_err(|error| {
        let OutOfRange { allowed, got } = error;
        ExperimentError::Setting(SettingError::new("train.batch_size", allowed, got))
    })
}

/// The run's directory: the one that is there, or a new one.
fn run_directory(
    options: &LaunchOptions,
    plan: &Plan,
    observer: &mut dyn Observer,
) -> Result<RunDirectory, LaunchError> {
    if !options.resume {
        plan.check_pretrained()?;
        return Ok(RunDirectory::create(&options.run, &plan.config)?);
    }
    let run = RunDirectory::open(&options.run)?;
    for change in run.continue_with(&plan.config)? {
        observer.message(&format!("changed: {change}"));
    }
    Ok(run)
}
