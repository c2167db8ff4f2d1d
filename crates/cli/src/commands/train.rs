use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::anyhow;
use burn::tensor::Device;
use retinanet_evaluation::Metric;
use retinanet_experiment::{load_config, ExperimentConfig, Observer};
use retinanet_trainer::{
    join, Communicator, DeviceCheck, Host, HostError, LaunchOptions, RunDirectory, Stopped,
    TrainOutcome,
};

use crate::args::{InitArguments, TrainArguments};
use crate::console::{self, Console};
use crate::device;
use crate::failure::Failure;
use crate::fitness;
use crate::pretrained;
use crate::signals;
use crate::world::{self, Joined};

/// Where runs go that nobody names.
const RUNS: &str = "runs";

pub(crate) fn run(arguments: &TrainArguments) -> Result<(), Failure> {
    let joined = world::join().map_err(Failure::Usage)?;
    let _guard = joined.end_all_on_panic();
    let result = if joined.leads() {
        launch(arguments, &joined)
    } else {
        join(arguments.trust_device, &Program { joined: &joined }).map_err(Failure::from)
    };
    joined.leave(result)
}

fn launch(arguments: &TrainArguments, joined: &Joined) -> Result<(), Failure> {
    let named = named(arguments)?;
    let mut config = load_config(&named.config, &arguments.settings.set)?;
    if let Some(device) = &arguments.device {
        config.compute.device.clone_from(device);
    }
    let best_metric = config.train.best_metric;
    let mut console = Console::new(config.train.log_every.get()).until(arguments.until);
    let options = LaunchOptions {
        resume: arguments.resume,
        check_annotations: !arguments.no_check,
        trust_device: arguments.trust_device,
        accept_cost: arguments.yes,
        ..LaunchOptions::new(config, named.run)
    };
    let outcome = retinanet_trainer::launch(&options, &Program { joined }, &mut console)?;
    tell_outcome(&outcome, best_metric);
    match (outcome.stopped, signals::received()) {
        (Some(Stopped::Asked), Some(signal)) => Err(Failure::Signal(signal)),
        _ => Ok(()),
    }
}

/// This program, as a run sees it.
struct Program<'a> {
    joined: &'a Joined,
}

impl Host for Program<'_> {
    fn processes(&self) -> Rc<dyn Communicator> {
        Rc::clone(&self.joined.communicator)
    }

    fn processes_here(&self) -> usize {
        self.joined.processes_here()
    }

    fn set_threads(&self, threads: Option<usize>) {
        super::set_threads(self.joined.threads(threads));
    }

    fn open_device(&self, name: &str) -> Result<Device, HostError> {
        let device = device::open(&self.joined.device_name(name));
        device.map_err(|error| HostError::Refused(error.into()))
    }

    fn require_sound_device(
        &self,
        check: &DeviceCheck,
        device: &Device,
        name: &str,
        observer: &mut dyn Observer,
    ) -> Result<(), HostError> {
        Ok(fitness::require(check, device, name, observer)?)
    }

    fn fits(&self, config: &ExperimentConfig, images: usize) -> Option<bool> {
        super::fits::fits(config, images)
    }

    fn weights_file(&self, place: &str) -> Result<PathBuf, HostError> {
        Ok(pretrained::file(place)?)
    }

    fn training_begins(&self) {
        // Without it a signal ends the program at once, which loses no checkpoint either.
        let _ = if self.joined.leads() {
            signals::on_first(console::tell_stopping)
        } else {
            signals::catch()
        };
    }
}

/// A config and the folder of its run.
struct Named {
    config: PathBuf,
    run: PathBuf,
}

/// What the arguments name: a config; or, to go on with, a run alone, whose own config it then is.
fn named(arguments: &TrainArguments) -> Result<Named, Failure> {
    let path = &arguments.config;
    if RunDirectory::is_run(path) {
        if !arguments.resume {
            return Err(RunDirectory::holds_run(path).into());
        }
        return Ok(Named {
            config: path.join("config.toml"),
            run: path.clone(),
        });
    }
    if path.is_dir() {
        return of_folder(arguments);
    }
    if arguments.minutes.is_some() {
        return Err(Failure::usage(anyhow!(
            "`--minutes` is for a folder of annotations and images; of `{}` the config says how long it takes",
            path.display()
        )));
    }
    let is_annotations = path
        .extension()
        .is_some_and(|it| it.eq_ignore_ascii_case("json"));
    if is_annotations {
        return Err(Failure::usage(anyhow!(
            "`{0}` holds annotations, and `train` takes a config: a TOML file that names them \
             (`data.train.annotations`) and the folder of the images (`data.train.images`); \
             `retinanet init --annotations {0}` makes one",
            path.display()
        )));
    }
    Ok(Named {
        config: path.clone(),
        run: run_directory(path, arguments),
    })
}

/// The config that `init` makes of a folder of annotations and images, which is written first.
fn of_folder(arguments: &TrainArguments) -> Result<Named, Failure> {
    let folder = &arguments.config;
    let init = InitArguments::of_folder(folder, arguments.minutes, arguments.device.clone());
    let config = init.out();
    if arguments.resume {
        return Err(Failure::usage(anyhow!(
            "`{}` is not a run; to go on with one that was made of it: `retinanet train --resume {}`",
            folder.display(),
            console::one_word(&config)
        )));
    }
    super::init::refuse_existing(&config, "")?;
    // A mistake in `--set` is told before minutes of checking images.
    let nothing = tempfile::NamedTempFile::new().map_err(Failure::work)?;
    load_config(nothing.path(), &arguments.settings.set)?;
    super::init::write_config(&init, &config)?;
    Ok(Named {
        run: run_directory(&config, arguments),
        config,
    })
}

/// The folder that the user names; else `runs/NAME` after the config, the first that is free for
/// a new run and the newest to resume.
fn run_directory(config: &Path, arguments: &TrainArguments) -> PathBuf {
    if let Some(root) = &arguments.run_dir {
        return root.clone();
    }
    let name = config.file_stem().unwrap_or_default();
    let name = name.to_string_lossy();
    let candidate = |number: u32| match number {
        1 => Path::new(RUNS).join(&*name),
        _ => Path::new(RUNS).join(format!("{name}-{number}")),
    };
    let mut free = 1;
    while RunDirectory::is_run(&candidate(free)) {
        free += 1;
    }
    candidate(if arguments.resume {
        (free - 1).max(1)
    } else {
        free
    })
}

fn tell_outcome(outcome: &TrainOutcome, metric: Metric) {
    let run = outcome.run.display();
    let word = console::one_word(&outcome.run);
    if outcome.skipped > 0 {
        console::result(&format!(
            "images left out because they could not be read: {}; {run}/log.txt names them",
            outcome.skipped
        ));
    }
    if outcome.stopped == Some(Stopped::Asked) {
        console::result(&format!(
            "stopped at step {}; go on with\n  retinanet train --resume {word}",
            outcome.iteration
        ));
        return;
    }
    if outcome.stopped == Some(Stopped::OutOfPatience) {
        console::result(&format!(
            "stopped at step {}: `train.patience` evaluations brought nothing better",
            outcome.iteration
        ));
    }
    if let Some(metrics) = &outcome.last {
        console::result(&format!("{metrics}"));
    }
    if let (Some(metrics), Some(uncertainty)) = (&outcome.last, outcome.uncertainty) {
        console::result(&format!(
            "AP {:.3} ± {uncertainty:.3} with 95 % confidence, by the bootstrap over the validation images",
            metrics.ap
        ));
    }
    match outcome.best {
        Some(best) => console::result(&format!("best {metric} {best:.4}")),
        None if outcome.last.is_some() => console::result(&format!(
            "no best: {metric} is undefined where there are no such boxes to find in the validation \
             images; the last weights count"
        )),
        None => {}
    }
    if let Some(score) = outcome.best_score {
        console::result(&format!(
            "detections count from a score of {score:.2}, where F1 is largest"
        ));
    }
    for sentence in &outcome.advice {
        console::result(&format!("advice: {sentence}"));
    }
    console::result(&format!(
        "the run is in {run}\nnext:\n  retinanet eval --run {word}\n  \
         retinanet predict --run {word} IMAGE_OR_FOLDER\n  \
         retinanet serve --run {word}\nwhat came of it, with pictures: {run}/report.html"
    ));
}
