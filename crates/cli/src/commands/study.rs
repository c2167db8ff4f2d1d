use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};

use anyhow::{anyhow, Context};
use retinanet_experiment::{load_config, ExperimentConfig, Observer, Progress};
use retinanet_study::{Outcome, Study, StudyRun, Table};
use retinanet_trainer::RunDirectory;
use serde_json::Value;

use crate::args::StudyArguments;
use crate::commands::children::Training;
use crate::console::{self, Console};
use crate::failure::Failure;
use crate::signals;

pub(crate) fn run(arguments: &StudyArguments) -> Result<(), Failure> {
    let out = out(arguments);
    let study =
        Study::read(&arguments.study, &out, arguments.base.as_deref()).map_err(Failure::usage)?;
    fs_err::create_dir_all(&out).map_err(Failure::work)?;
    // Children get the signal too, finish their step and write a checkpoint.
    signals::catch()
        .context("cannot watch for Ctrl-C")
        .map_err(Failure::Work)?;

    let mut console = Console::new(1);
    let failed = train_all(arguments, &study, &mut console)?;
    let table = Table::new(&study, |run| outcome(run, &study.metrics))?;
    for (name, text) in [
        ("table.md", table.markdown()),
        ("table.csv", table.csv()),
        ("table.html", table.html()),
    ] {
        super::write_over(&out.join(name), text.as_bytes())?;
    }
    console::result(table.markdown().trim_end());
    console::note(&format!(
        "the table with bars and links to the reports: {}",
        out.join("table.html").display()
    ));
    if let Some(signal) = signals::received() {
        console.message("stopped; the same command goes on where it was");
        return Err(Failure::Signal(signal));
    }
    match failed.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Failure::work(anyhow!(
            "{} runs failed; the first: see {}",
            failed.len(),
            log(first).display()
        ))),
    }
}

/// Where the runs go: a folder after the study's name if none is given, and after its base's.
pub(super) fn out(arguments: &StudyArguments) -> PathBuf {
    let default = || {
        let mut name = (arguments.study.file_stem().unwrap_or_default()).to_owned();
        if let Some(base) = arguments.base.as_ref().and_then(|base| base.file_stem()) {
            name.push("-");
            name.push(base);
        }
        Path::new("runs").join("studies").join(name)
    };
    arguments.out.clone().unwrap_or_else(default)
}

/// Trains what is not done yet, so many at once; gives what failed.
fn train_all(
    arguments: &StudyArguments,
    study: &Study,
    console: &mut Console,
) -> Result<Vec<PathBuf>, Failure> {
    let waiting = Mutex::new(study.runs());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.next().filter(|_| signals::received().is_none())
    };
    console.progress(Progress::Start {
        what: "training",
        total: study.runs().count() as u64,
    });
    let mut failed = Vec::new();
    std::thread::scope(|scope| {
        let (sender, ended) = channel();
        for _ in 0..arguments.jobs {
            let sender = sender.clone();
            scope.spawn(move || {
                while let Some(run) = next() {
                    // Nobody listens any more once a run could not even be started.
                    if sender.send((run, train(arguments, study, run))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (run, how) in ended {
            console.progress(Progress::Tick);
            let Some(ended) = how? else { continue };
            tell(run, &ended, console);
            if !ended.status.success() && !has_diverged(run) && signals::received().is_none() {
                failed.push(run.directory.clone());
            }
        }
        Ok::<(), Failure>(())
    })?;
    console.progress(Progress::Finish);
    Ok(failed)
}

/// How a run's process ended.
struct Ended {
    status: ExitStatus,
    /// What it gave as its error.
    error: Option<String>,
}

/// Trains to the end; nothing if that has been done.
fn train(
    arguments: &StudyArguments,
    study: &Study,
    run: &StudyRun,
) -> Result<Option<Ended>, Failure> {
    if is_done(run)? {
        let goes_on = is_to_be_longer(arguments, study, run)?;
        if !goes_on || has_diverged(run) {
            return Ok(None);
        }
    }
    let log = log(&run.directory);
    let said_before = log.metadata().map_or(0, |it| it.len());
    let status = start(arguments, study, run)?.wait();
    Ok(Some(Ended {
        status: status.map_err(Failure::work)?,
        error: last_error(&log, said_before),
    }))
}

/// Starts a run, or goes on with it. What it says goes into a file beside it.
fn start(arguments: &StudyArguments, study: &Study, run: &StudyRun) -> Result<Child, Failure> {
    let start = || -> anyhow::Result<Child> {
        let said = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log(&run.directory))?;
        let (said, _) = said.into_parts();
        // The run keeps the lock with the file that it writes to. One that goes on though its study was killed
        // is waited for, and then gone on with.
        if said.try_lock().is_err() {
            console::note(&format!(
                "waiting for `{}`, which still trains from before",
                run.directory.display()
            ));
            said.lock()?;
        }
        let training = Training {
            config: &study.base,
            run: &run.directory,
            set: (run.set.iter().chain(&arguments.settings.set))
                .cloned()
                .collect(),
            device: arguments.device.as_deref(),
        };
        let mut command = training.command()?;
        command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        Ok(command.spawn()?)
    };
    start()
        .with_context(|| format!("cannot start `{}`", run.directory.display()))
        .map_err(Failure::Work)
}

fn log(run: &Path) -> PathBuf {
    let mut path = run.as_os_str().to_owned();
    path.push(".log");
    path.into()
}

/// The last error in a run's log, of what was said after so many bytes.
fn last_error(log: &Path, said_before: u64) -> Option<String> {
    let log = fs_err::read(log).ok()?;
    let said = String::from_utf8_lossy(log.get(usize::try_from(said_before).ok()?..)?);
    let mut lines = said.lines().rev();
    let error = lines.find_map(|line| line.strip_prefix("error: "))?;
    Some(error.to_owned())
}

fn tell(run: &StudyRun, ended: &Ended, console: &mut Console) {
    let name = run.directory.file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let how = match ended.status.success() {
        true => "done".into(),
        false if has_diverged(run) => "diverged".into(),
        false => {
            let status = ended.status.to_string();
            let why = ended.error.as_ref().unwrap_or(&status);
            format!("failed ({why}), see {}", log(&run.directory).display())
        }
    };
    console.message(&format!("{name}: {how}"));
}

/// Whether there is nothing left to do: it has ended, or its loss is non-finite and will stay so.
fn is_done(run: &StudyRun) -> Result<bool, Failure> {
    Ok(has_diverged(run) || has_ended(&run.directory)?)
}

/// Whether a run that is done is to go on, because the study has become longer. A folder of another study's runs,
/// or of an older version of this one, must not pass for this one.
fn is_to_be_longer(
    arguments: &StudyArguments,
    study: &Study,
    run: &StudyRun,
) -> Result<bool, Failure> {
    const OTHER: &str = "it is done already, but with other settings: choose another --out";
    let set: Vec<_> = (run.set.iter().chain(&arguments.settings.set))
        .cloned()
        .collect();
    let mut config = load_config(&study.base, &set)?;
    config.data.root = std::path::absolute(&config.data.root).map_err(Failure::work)?;
    let changes = RunDirectory::open(&run.directory)?.check_continues(&config);
    let changes = changes.context(OTHER).map_err(Failure::Usage)?;
    let length = (changes.into_iter())
        .find(|change| ["train.iterations", "train.epochs"].contains(&change.key.as_str()));
    let Some(change) = length else {
        return Ok(false);
    };
    match (change.was.parse::<u64>(), change.is.parse::<u64>()) {
        (Ok(was), Ok(is)) if is > was => Ok(true),
        _ => Err(Failure::usage(anyhow!("{change}: {OTHER}"))),
    }
}

/// Refuses a run that was trained with other settings than these.
pub(super) fn require_unchanged(config: &ExperimentConfig, run: &Path) -> Result<(), Failure> {
    const OTHER: &str = "it was trained with other settings: choose another --out";
    let mut config = config.clone();
    config.data.root = std::path::absolute(&config.data.root).map_err(Failure::work)?;
    let changes = RunDirectory::open(run)?.check_continues(&config);
    let changes = changes.context(OTHER).map_err(Failure::Usage)?;
    match changes.into_iter().next() {
        None => Ok(()),
        Some(change) => Err(Failure::usage(anyhow!(
            "`{}`: {change}: {OTHER}",
            run.display()
        ))),
    }
}

/// Whether a run is trained to its end, and evaluated.
pub(super) fn has_ended(run: &Path) -> Result<bool, Failure> {
    if !RunDirectory::is_run(run) {
        return Ok(false);
    }
    let (newest, _) = RunDirectory::open(run)?.newest()?;
    Ok(newest.is_some_and(|checkpoint| {
        let state = &checkpoint.state;
        state.iteration >= state.total && !state.awaits_evaluation
    }))
}

/// A step that is non-finite leaves a non-finite report.
pub(super) fn has_diverged(run: &StudyRun) -> bool {
    run.directory.join("non_finite").is_dir()
}

/// What came of a run: its last evaluation's numbers.
fn outcome(run: &StudyRun, metrics: &[String]) -> Result<Outcome, Failure> {
    if has_diverged(run) {
        return Ok(Outcome::Diverged);
    }
    if !has_ended(&run.directory)? {
        return Ok(Outcome::Missing);
    }
    let log = fs_err::read_to_string(run.directory.join("metrics.jsonl")).map_err(Failure::work)?;
    let lines = || {
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    };
    let of_kind = |kind: &'static str| lines().filter(move |line| line["kind"] == kind);
    let evaluation = of_kind("evaluation").next_back().unwrap_or_default();
    let first = of_kind("step").next().unwrap_or_default();
    let number = |name: &String| {
        let value = match name.as_str() {
            "first_loss" => &first["loss"],
            "first_class_loss" => &first["class_loss"],
            name => &evaluation[name],
        };
        let known = || Failure::usage(anyhow!("no evaluation has a metric `{name}`"));
        Ok((name.clone(), value.as_f64().ok_or_else(known)?))
    };
    let numbers: Result<BTreeMap<_, _>, Failure> = metrics.iter().map(number).collect();
    Ok(Outcome::Numbers(numbers?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_time_before_is_not_told_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("run.log");
        let before = "error: of the time before\n";
        fs_err::write(&log, format!("{before}step 1\n")).unwrap();
        let said_before = before.len() as u64;
        assert_eq!(last_error(&log, said_before), None);
        fs_err::write(&log, format!("{before}step 1\nerror: of now\n")).unwrap();
        assert_eq!(last_error(&log, said_before).as_deref(), Some("of now"));
    }
}
