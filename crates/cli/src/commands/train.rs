use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::anyhow;
use retinanet_trainer::{
    config_to_toml, estimate, load_config, measure_batch_size, train, BatchSize, Estimate,
    ExperimentConfig, MetricName, Observer, Plan, RunDirectory, RunDirectoryError, Stopped,
    TrainOutcome,
};

use crate::args::{Split, TrainArguments};
use crate::console::{self, Console};
use crate::data_files::{require_data, what_lies_in};
use crate::device;
use crate::failure::Failure;
use crate::fitness;
use crate::hub;
use crate::signals;
use crate::timing;
use crate::world::{self, Joined};

/// What a process says that has its device and its data.
const READY: &[u8] = b"ready";

/// Where runs go that nobody names.
const RUNS: &str = "runs";

pub(crate) fn run(arguments: &TrainArguments) -> Result<(), Failure> {
    let joined = world::join().map_err(Failure::Usage)?;
    let _guard = joined.end_all_on_panic();
    let result = if joined.leads() {
        lead(arguments, &joined)
    } else {
        follow(arguments, &joined)
    };
    joined.leave(result)
}

/// Trains along with the process that leads, with the config that it has made up.
fn follow(arguments: &TrainArguments, joined: &Joined) -> Result<(), Failure> {
    struct Quiet;
    impl Observer for Quiet {}

    let text = joined.world.broadcast(Vec::new());
    let config: ExperimentConfig = std::str::from_utf8(&text)
        .map_err(Failure::work)
        .and_then(|text| toml::from_str(text).map_err(Failure::work))?;
    super::set_threads(joined.threads(config.compute.threads));
    let device =
        device::open(&joined.device_name(&config.compute.device)).map_err(Failure::usage)?;
    let plan = Plan::new(config, &mut Quiet)?;
    if !arguments.trust_device {
        let device = (&device, plan.config.compute.device.as_str());
        fitness::require(&plan.device_check(), device, &mut Quiet)?;
    }
    joined.world.gather(READY);
    // The leader says when it ends; the signal comes to all.
    let _ = signals::catch();
    Ok(retinanet_trainer::follow(
        &plan,
        &device,
        Rc::clone(&joined.world),
    )?)
}

/// Trains, alone or as the first of several processes.
fn lead(arguments: &TrainArguments, joined: &Joined) -> Result<(), Failure> {
    let named = named(arguments)?;
    let mut config = load_config(&named.config, &arguments.settings.set)?;
    if let Some(device) = &arguments.device {
        config.compute.device.clone_from(device);
    }
    let root = named.run;
    if !arguments.resume && RunDirectory::is_run(&root) {
        return Err(RunDirectory::holds_run(&root).into());
    }
    if arguments.resume && !RunDirectory::is_run(&root) {
        return Err(RunDirectoryError::NoRun { root }.into());
    }
    if let Some(pretrained) = &mut config.model.pretrained {
        // A run that goes on has its weights, once it has a checkpoint.
        let starts = !arguments.resume || RunDirectory::open(&root)?.newest()?.0.is_none();
        if starts {
            *pretrained = hub::local_file(pretrained)?;
        }
    }
    super::set_threads(joined.threads(config.compute.threads));
    require_data(&config, &[Split::Train, Split::Val])?;
    if !arguments.no_check {
        super::check::before_training(&config)?;
    }
    let device =
        device::open(&joined.device_name(&config.compute.device)).map_err(Failure::usage)?;

    let mut console = Console::new(config.train.log_every);
    let plan = match (config.train.batch_size, arguments.resume) {
        (BatchSize::Auto, true) => {
            // What was measured when the run began.
            let began = RunDirectory::open(&root)?.config()?;
            config.train.batch_size = began.train.batch_size;
            Plan::new(config, &mut console)?
        }
        (BatchSize::Auto, false) => {
            let mut own = config.clone();
            // All processes of this machine take from its memory.
            own.train.memory_share /= joined.processes_here() as f64;
            let plan = Plan::new(own, &mut console)?;
            let images = measure_batch_size(&plan, &device)? * joined.world.size();
            console.message(&format!("batch size {images}, measured"));
            config.train.batch_size = BatchSize::Images(images);
            Plan::new(config, &mut console)?
        }
        (BatchSize::Images(_), _) => Plan::new(config, &mut console)?,
    };
    if !arguments.trust_device {
        let device = (&device, plan.config.compute.device.as_str());
        fitness::require(&plan.device_check(), device, &mut console)?;
    }
    plan.check_processes(joined.world.size())?;
    if let Some(estimate) = estimate(&plan, &device, joined.world.size())? {
        tell_estimate(&estimate, arguments.yes)?;
    }
    let resolved = config_to_toml(&plan.config).map_err(RunDirectoryError::Config)?;
    joined.world.broadcast(resolved.into_bytes());
    // A run that they cannot train along with is none.
    joined.world.gather(READY);
    let run = if arguments.resume {
        let run = RunDirectory::open(&root)?;
        for change in run.continue_with(&plan.config)? {
            console.message(&format!("changed: {change}"));
        }
        run
    } else {
        plan.check_pretrained()?;
        RunDirectory::create(&root, &plan.config)?
    };
    // Without it a signal ends the program at once, which loses no checkpoint either.
    let _ = signals::on_first(console::tell_stopping);
    let outcome = train(&plan, &run, &device, Rc::clone(&joined.world), &mut console)?;
    tell_outcome(&outcome, plan.config.train.best_metric);
    match (outcome.stopped, signals::received()) {
        (Some(Stopped::Asked), Some(signal)) => Err(Failure::Signal(signal)),
        _ => Ok(()),
    }
}

/// Longer than this nobody means to wait without having been asked.
const MOST_DAYS: f64 = 7.0;

/// Tells what training will take, and refuses what is surely not meant unless the user says so.
fn tell_estimate(estimate: &Estimate, is_meant: bool) -> Result<(), Failure> {
    const GIB: f64 = (1_u64 << 30) as f64;
    const DAY: f64 = 86_400.0;
    let in_gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / GIB);
    let memory = estimate
        .memory
        .map(|bytes| format!(" and {}", in_gib(bytes)));
    let told = format!(
        "a step takes about {}{} on this CPU; {} steps ≈ {}",
        timing::roughly(estimate.step.as_secs_f64()),
        memory.unwrap_or_default(),
        estimate.steps,
        timing::roughly(estimate.seconds())
    );
    let too_long = estimate.seconds() > MOST_DAYS * DAY;
    let too_large = match (estimate.memory, estimate.available) {
        (Some(memory), Some(available)) if memory > available => {
            Some(format!("this machine has {} to take", in_gib(available)))
        }
        _ => None,
    };
    if is_meant || (!too_long && too_large.is_none()) {
        console::note(&told);
        return Ok(());
    }
    let why = too_large.unwrap_or_else(|| format!("more than {MOST_DAYS} days"));
    Err(Failure::usage(anyhow!(
        "{told}: {why}. A GPU (`--device wgpu`), smaller images (`data.short_side`), a smaller `model.backbone`, \
         `train.batch_size` or fewer `train.iterations` take less; `--yes` trains nevertheless"
    )))
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
    let is_annotations = path
        .extension()
        .is_some_and(|it| it.eq_ignore_ascii_case("json"));
    if path.is_dir() {
        return Err(Failure::usage(anyhow!(
            "`{}` is a folder, and `train` takes a config: a TOML file that says where the data lies \
             (`data.root`, `data.train`, `data.val`); there lie {}",
            path.display(),
            what_lies_in(path)
        )));
    }
    if is_annotations {
        return Err(Failure::usage(anyhow!(
            "`{}` holds annotations, and `train` takes a config: a TOML file that names them \
             (`data.train.annotations`) and the folder of the images (`data.train.images`)",
            path.display()
        )));
    }
    Ok(Named {
        config: path.clone(),
        run: run_directory(arguments),
    })
}

/// The folder that the user names; else `runs/NAME` after the config, the first that is free for
/// a new run and the newest to resume.
fn run_directory(arguments: &TrainArguments) -> PathBuf {
    if let Some(root) = &arguments.run_dir {
        return root.clone();
    }
    let name = arguments.config.file_stem().unwrap_or_default();
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

fn tell_outcome(outcome: &TrainOutcome, metric: MetricName) {
    let run = outcome.run.display();
    if outcome.skipped > 0 {
        console::result(&format!(
            "images left out because they could not be read: {}; {run}/log.txt names them",
            outcome.skipped
        ));
    }
    if outcome.stopped == Some(Stopped::Asked) {
        console::result(&format!(
            "stopped at step {}; go on with\n  retinanet train --resume {run}",
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
    match outcome.best {
        Some(best) => console::result(&format!("best {metric} {best:.4}")),
        None if outcome.last.is_some() => console::result(&format!(
            "no best: {metric} is undefined where there are no such boxes to find in the validation \
             images; the last weights count"
        )),
        None => {}
    }
    console::result(&format!(
        "the run lies in {run}\nnext:\n  retinanet eval --run {run}\n  \
         retinanet predict --run {run} IMAGE_OR_FOLDER\n  \
         retinanet serve --run {run}\nwhat came of it, with pictures: {run}/report.html"
    ));
}
