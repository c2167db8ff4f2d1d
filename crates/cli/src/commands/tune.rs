//! Successive halving over a study (Jamieson and Talwalkar 2016, [arXiv 1502.07943](https://arxiv.org/abs/1502.07943)): all
//! changes are trained for a little, the better ones go on for three times as long, and so on; those that were trained to
//! their end get the study's other seeds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context};
use retinanet_evaluation::Metric;
use retinanet_experiment::{check_settings, load_config};
use retinanet_study::{Outcome, Study, StudyRun, Table};
use retinanet_trainer::RunDirectory;
use serde_json::Value;

use crate::args::{TuneArguments, Until};
use crate::commands::children::{run_to_end, Training};
use crate::commands::study;
use crate::console;
use crate::failure::Failure;
use crate::signals;

/// Of so many changes one goes on, for so many times as long.
const HALVING: usize = 3;

pub(crate) fn run(arguments: &TuneArguments) -> Result<(), Failure> {
    if arguments.study.jobs > 1 {
        return Err(Failure::usage(anyhow!(
            "`tune` trains one run after another, without --jobs"
        )));
    }
    let out = arguments.study.out.clone().unwrap_or_else(|| {
        let name = arguments.study.study.file_stem().unwrap_or_default();
        Path::new("runs").join("tuning").join(name)
    });
    let study = Study::read(
        &arguments.study.study,
        &out,
        arguments.study.base.as_deref(),
    )
    .map_err(Failure::usage)?;
    require_sound(arguments, &study)?;
    fs_err::create_dir_all(&out).map_err(Failure::work)?;
    // Children get the signal too, finish their step and write a checkpoint.
    signals::catch()
        .context("cannot watch for Ctrl-C")
        .map_err(Failure::Work)?;
    let minutes = arguments
        .minutes
        .map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let mut tuning = Tuning {
        arguments,
        study: &study,
        out: &out,
        ends: minutes.map(|minutes| Instant::now() + minutes),
        reached: vec![Vec::new(); study.variants.len()],
        other_seeds: BTreeMap::new(),
    };
    let tuned = tuning.tune();
    tuning.write_tables()?;
    if let Pace::OutOfTime = tuned? {
        console::note("the time is over; the same command goes on where it was");
    }
    Ok(())
}

/// Refuses what would end the tuning after hours: a change that is no config, a number that no evaluation has.
fn require_sound(arguments: &TuneArguments, study: &Study) -> Result<(), Failure> {
    let key = study.metrics.first().map_or("", String::as_str);
    if !Metric::ALL.iter().any(|metric| metric.name == key) {
        return Err(Failure::usage(anyhow!(
            "`tune` goes by the first of the study's `metrics`, and `{key}` is no number of an evaluation"
        )));
    }
    for run in study.runs() {
        let config = load_config(&study.base, &settings(arguments, run))?;
        check_settings(&config)?;
    }
    Ok(())
}

/// The keys and values that a run has besides its base.
fn settings(arguments: &TuneArguments, run: &StudyRun) -> Vec<(String, String)> {
    let set = run.set.iter().chain(&arguments.study.settings.set);
    set.cloned().collect()
}

/// Whether there is more to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    GoesOn,
    OutOfTime,
}

/// A change at a rung.
#[derive(Clone, Debug)]
struct Measured {
    metrics: BTreeMap<String, f64>,
}

struct Tuning<'a> {
    arguments: &'a TuneArguments,
    study: &'a Study,
    out: &'a Path,
    ends: Option<Instant>,
    /// Of each change what it came to at the rungs that it reached, by its first seed.
    reached: Vec<Vec<Measured>>,
    /// What the runs of other seeds came to, by their folder.
    other_seeds: BTreeMap<PathBuf, BTreeMap<String, f64>>,
}

/// The shares of their length to which so many changes are trained, and how many of them at each.
fn rungs(changes: usize) -> Vec<(f64, usize)> {
    let mut counts = vec![changes];
    let mut left = changes;
    while left > 1 {
        left = left.div_ceil(HALVING);
        counts.push(left);
    }
    let rungs = counts.len() as i32;
    let shares = (0..rungs).map(|rung| (HALVING as f64).powi(rung + 1 - rungs));
    shares.zip(counts).collect()
}

/// A share in percent, with digits that tell the rungs of any tuning apart.
fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent >= 1.0 {
        format!("{percent:.0}")
    } else {
        format!("{percent:.2}")
    }
}

impl Tuning<'_> {
    fn tune(&mut self) -> Result<Pace, Failure> {
        let mut alive: Vec<usize> = (0..self.study.variants.len()).collect();
        for (share, count) in rungs(alive.len()) {
            alive.truncate(count);
            for &variant in &alive {
                let Some(run) = self.study.variants[variant].runs.first() else {
                    continue;
                };
                let Some(metrics) = self.measure(run, share)? else {
                    return Ok(Pace::OutOfTime);
                };
                self.reached[variant].push(Measured { metrics });
            }
            let key = self.study.metrics.first().cloned().unwrap_or_default();
            alive.sort_by(|a, b| {
                let [a, b] = [a, b].map(|variant| self.latest(*variant, &key));
                b.total_cmp(&a)
            });
            self.tell(share, &alive, &key);
        }
        for &variant in &alive {
            for run in self.study.variants[variant].runs.iter().skip(1) {
                let Some(metrics) = self.measure(run, 1.0)? else {
                    return Ok(Pace::OutOfTime);
                };
                self.other_seeds.insert(run.directory.clone(), metrics);
            }
        }
        Ok(Pace::GoesOn)
    }

    fn is_out_of_time(&self) -> bool {
        self.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// The last number of a change; one that has diverged has none, nor one that has none to measure by.
    fn latest(&self, variant: usize, key: &str) -> f64 {
        let last = self.reached[variant].last();
        let number = last.and_then(|measured| measured.metrics.get(key));
        number
            .copied()
            .filter(|it| *it >= 0.0)
            .unwrap_or(f64::NEG_INFINITY)
    }

    /// Trains a run up to a share of its length, and evaluates it there; both only if that has not been done. Nothing if
    /// there is no time left for it.
    fn measure(
        &self,
        run: &StudyRun,
        share: f64,
    ) -> Result<Option<BTreeMap<String, f64>>, Failure> {
        let mut result = run.directory.as_os_str().to_owned();
        result.push(format!(".at-{}.json", percent(share)));
        let result = PathBuf::from(result);
        if RunDirectory::is_run(&run.directory) {
            let config = load_config(&self.study.base, &settings(self.arguments, run))?;
            study::require_unchanged(&config, &run.directory)?;
        }
        if !result.is_file() {
            if !study::has_diverged(run) {
                if self.is_out_of_time() {
                    return Ok(None);
                }
                self.train(run, share)?;
            }
            if study::has_diverged(run) {
                return Ok(Some(BTreeMap::new()));
            }
            self.evaluate(run, share, &result)?;
        }
        let text = fs_err::read_to_string(&result).map_err(Failure::work)?;
        let told: Value = serde_json::from_str(&text).map_err(Failure::work)?;
        let number = |name: &String| Some((name.clone(), told["metrics"][name].as_f64()?));
        Ok(Some(self.study.metrics.iter().filter_map(number).collect()))
    }

    fn train(&self, run: &StudyRun, share: f64) -> Result<(), Failure> {
        let arguments = &self.arguments.study;
        let training = Training {
            config: &self.study.base,
            run: &run.directory,
            set: settings(self.arguments, run),
            device: arguments.device.as_deref(),
        };
        let percent = percent(share);
        console::note(&format!(
            "{}: to {percent} % of its steps",
            run.directory.display()
        ));
        let mut command = training.command().map_err(Failure::work)?;
        if share < 1.0 {
            command.arg("--until").arg(format!("{}%", 100.0 * share));
        }
        let status = run_to_end(command)?;
        if status.success() || study::has_diverged(run) {
            return Ok(());
        }
        Err(Failure::work(anyhow!(
            "`{}` failed ({status}); what it said is above",
            run.directory.display()
        )))
    }

    fn evaluate(&self, run: &StudyRun, share: f64, result: &Path) -> Result<(), Failure> {
        // The newest, since the best may be of an earlier rung.
        let directory = RunDirectory::open(&run.directory)?;
        let (newest, _) = directory.newest()?;
        let newest =
            newest.with_context(|| format!("`{}` has no checkpoint", run.directory.display()));
        let newest = newest.map_err(Failure::Work)?;
        let state = &newest.state;
        let until = Until::Share(share);
        if state.iteration > 1 && until.is_reached(state.iteration - 1, state.total) {
            return Err(Failure::usage(anyhow!(
                "`{}` is at step {} of {} already, past {} %: the study has other changes than before, or other \
                 commands trained it; choose another --out",
                run.directory.display(),
                state.iteration,
                state.total,
                percent(share)
            )));
        }
        let mut command = Command::new(std::env::current_exe().map_err(Failure::work)?);
        command.arg("eval").arg("--run").arg(&run.directory);
        command
            .arg("--checkpoint")
            .arg(newest.folder.file_name().unwrap_or_default());
        command.arg("--json").arg(result);
        if let Some(device) = &self.arguments.study.device {
            command.args(["--device", device]);
        }
        let status = run_to_end(command)?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::work(anyhow!(
            "`{}` could not be evaluated ({status})",
            run.directory.display()
        )))
    }

    fn tell(&self, share: f64, ranked: &[usize], key: &str) {
        let best = ranked.iter().take(3).map(|variant| {
            let name = &self.study.variants[*variant].name;
            format!("{name} {:.4}", self.latest(*variant, key))
        });
        let best: Vec<String> = best.collect();
        console::note(&format!(
            "at {} % of the steps, of {} by {key}: {}",
            percent(share),
            ranked.len(),
            best.join(", ")
        ));
    }

    fn write_tables(&self) -> Result<(), Failure> {
        let markdown = self.markdown();
        super::write_over(&self.out.join("tuning.md"), markdown.as_bytes())?;
        let table = Table::new(self.study, |run| Ok::<_, Failure>(self.outcome(run)))?;
        let html = self.out.join("tuning.html");
        super::write_over(&html, table.html().as_bytes())?;
        console::result(markdown.trim_end());
        console::note(&format!("with bars: {}", html.display()));
        Ok(())
    }

    /// What a run came to, at the last rung that it reached.
    fn outcome(&self, run: &StudyRun) -> Outcome {
        if study::has_diverged(run) {
            return Outcome::Diverged;
        }
        let variants = self.study.variants.iter().zip(&self.reached);
        let mut of_first_seed = variants.filter(|(variant, _)| {
            let first = variant.runs.first();
            first.is_some_and(|first| first.directory == run.directory)
        });
        let reached = of_first_seed.next().and_then(|(_, reached)| reached.last());
        let numbers = reached.map(|reached| &reached.metrics);
        match numbers.or(self.other_seeds.get(&run.directory)) {
            // The table wants every number.
            Some(numbers) if numbers.len() == self.study.metrics.len() => {
                Outcome::Numbers(numbers.clone())
            }
            _ => Outcome::Missing,
        }
    }

    /// A row for each change, the furthest and best first, with a column for each rung.
    fn markdown(&self) -> String {
        let key = self.study.metrics.first().cloned().unwrap_or_default();
        let rungs = rungs(self.study.variants.len());
        let mut order: Vec<usize> = (0..self.study.variants.len()).collect();
        order.sort_by(|a, b| {
            let furthest = self.reached[*b].len().cmp(&self.reached[*a].len());
            furthest.then(self.latest(*b, &key).total_cmp(&self.latest(*a, &key)))
        });
        let mut text = format!(
            "# {}\n\n{key} at a share of the steps, by the first seed:\n\n| change |",
            self.study.title
        );
        // Writing to a string does not fail.
        for (share, _) in &rungs {
            let _ = write!(text, " {} % |", percent(*share));
        }
        let _ = writeln!(
            text,
            " other seeds |\n|---|{}---|",
            "---:|".repeat(rungs.len())
        );
        for variant in order {
            let Some(change) = self.study.variants.get(variant) else {
                continue;
            };
            let name = change.name.replace('|', "\\|");
            let _ = write!(
                text,
                "| {} |",
                name.split_whitespace().collect::<Vec<_>>().join(" ")
            );
            for rung in 0..rungs.len() {
                let number = self.reached[variant].get(rung);
                let number = number.map(|measured| measured.metrics.get(&key));
                let _ = match number {
                    Some(Some(number)) => write!(text, " {number:.4} |"),
                    Some(None) => write!(text, " diverged |"),
                    None => write!(text, " |"),
                };
            }
            let others = change.runs.iter().skip(1);
            let others = others.filter_map(|run| self.other_seeds.get(&run.directory)?.get(&key));
            let others: Vec<String> = others.map(|number| format!("{number:.4}")).collect();
            let _ = writeln!(text, " {} |", others.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_changes_goes_on_for_three_times_as_long() {
        let close = |changes, expected: &[(f64, usize)]| {
            let found = rungs(changes);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((share, count), (expected_share, expected_count)) in found.iter().zip(expected) {
                assert!((share - expected_share).abs() < 1e-12, "{found:?}");
                assert_eq!(count, expected_count);
            }
        };
        close(1, &[(1.0, 1)]);
        close(3, &[(1.0 / 3.0, 3), (1.0, 1)]);
        close(9, &[(1.0 / 9.0, 9), (1.0 / 3.0, 3), (1.0, 1)]);
        close(
            10,
            &[(1.0 / 27.0, 10), (1.0 / 9.0, 4), (1.0 / 3.0, 2), (1.0, 1)],
        );
    }
}
