//! What a person sees on stderr: bars where it is a terminal, plain lines where it is not.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::anyhow;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use retinanet_experiment::{Evaluated, Observer, Progress, StepReport};
use retinanet_trainer::roughly;

use crate::args::Until;
use crate::failure::Failure;
use crate::signals;

/// Prints a failure, once and on one line.
pub(crate) fn error(failure: &Failure) {
    if let Some(error) = failure.error() {
        write_at_once(&format!("error: {error:#}\n"));
    }
}

/// Prints the error of one of several processes.
pub(crate) fn error_of_rank(rank: usize, failure: &Failure) {
    if let Some(error) = failure.error() {
        write_at_once(&format!("error: rank {rank}: {error:#}\n"));
    }
}

/// Nothing of another process, such as mpirun's own words, comes between the parts of a line.
fn write_at_once(line: &str) {
    // Where stderr is closed or full, there is nobody to tell, and the work goes on.
    let _ = io::stderr().write_all(cut(&harmless(line)).as_bytes());
}

/// A text without what a terminal would obey: names of files and classes may hold anything.
fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |it: char| it.is_control() && it != '\n' && it != '\t';
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        if obeyed(character) {
            harmless.extend(character.escape_default());
        } else {
            harmless.push(character);
        }
    }
    Cow::Owned(harmless)
}

/// A text whose lines end where nobody reads on: a name may have megabytes.
fn cut(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 4000;
    if text.lines().all(|line| line.len() <= LONGEST) {
        return Cow::Borrowed(text);
    }
    let line = |line: &str| {
        let end = line
            .char_indices()
            .nth(LONGEST)
            .map_or(line.len(), |(end, _)| end);
        let more = if end < line.len() { "…" } else { "" };
        format!("{}{more}\n", &line[..end])
    };
    Cow::Owned(text.lines().map(line).collect())
}

/// Whether stdout is an output file's, so that results are told on stderr.
static STDOUT_IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// What stdout said when a result could not be written to it; nothing if its reader had gone.
static STDOUT_ERROR: OnceLock<io::Error> = OnceLock::new();

/// Keeps stdout for an output that a person pointed at it.
pub(crate) fn keep_stdout_free() {
    STDOUT_IS_TAKEN.store(true, Ordering::Relaxed);
}

/// Prints on stderr what is worth knowing besides the results.
pub(crate) fn note(text: &str) {
    write_at_once(&format!("{text}\n"));
}

/// Asks a person, and takes silence for a no; where nobody is at a terminal it is one.
pub(crate) fn confirmed(question: &str) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    write_at_once(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

/// Prints a result.
pub(crate) fn result(text: &str) {
    if STDOUT_IS_TAKEN.load(Ordering::Relaxed) {
        return write_at_once(&format!("{text}\n"));
    }
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{}", harmless(text)).and_then(|()| stdout.flush());
    if let Err(error) = written {
        // A closed pipe, as of `| head`, is nothing to complain about.
        if error.kind() != io::ErrorKind::BrokenPipe {
            let _ = STDOUT_ERROR.set(error);
        }
    }
}

/// Fails where a result did not reach stdout.
pub(crate) fn all_told() -> Result<(), Failure> {
    match STDOUT_ERROR.get() {
        None => Ok(()),
        Some(error) => Err(Failure::work(anyhow!("cannot write to stdout: {error}"))),
    }
}

/// The observer of the command line.
pub(crate) struct Console {
    terminal: bool,
    log_every: u64,
    bars: MultiProgress,
    training: ProgressBar,
    work: ProgressBar,
    /// Rate of the last steps, in images a second.
    images_per_second: f64,
    /// The last evaluation's, if it is defined.
    ap: Option<f64>,
    /// After which step to stop, if it is not the last.
    until: Option<Until>,
    has_come_so_far: bool,
}

/// How long the last step took.
static STEP_MILLISECONDS: AtomicUsize = AtomicUsize::new(0);

/// Answers a signal that asks training to end.
pub(crate) fn tell_stopping() {
    let seconds = STEP_MILLISECONDS.load(Ordering::Relaxed) as f64 / 1000.0;
    let takes = if seconds > 0.0 {
        format!(" (a step takes about {})", roughly(seconds))
    } else {
        String::new()
    };
    note(&format!(
        "finishing this step{takes}, then a checkpoint; again stops now"
    ));
}

impl Console {
    /// A console that prints a line every `log_every` steps where there is no bar.
    pub(crate) fn new(log_every: u64) -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            log_every,
            bars: MultiProgress::new(),
            training: ProgressBar::hidden(),
            work: ProgressBar::hidden(),
            images_per_second: 0.0,
            ap: None,
            until: None,
            has_come_so_far: false,
        }
    }

    /// The same for a run that stops after a step.
    pub(crate) fn until(self, until: Option<Until>) -> Self {
        Self { until, ..self }
    }

    fn line(&self, text: &str) {
        let line = format!("{text}\n");
        if self.terminal {
            // Above the bars, which are drawn anew below.
            self.bars.suspend(|| write_at_once(&line));
        } else {
            write_at_once(&line);
        }
    }
}

impl Observer for Console {
    fn message(&mut self, text: &str) {
        self.line(text);
    }

    fn training_starts(&mut self, first: u64, total: u64) {
        self.has_come_so_far = (self.until).is_some_and(|until| until.is_reached(first, total));
        if self.terminal {
            // The most useful first: the rest is cut where the terminal ends, however it is resized.
            let style = "{bar:12} {pos}/{len} {left} {wide_msg}";
            self.training = self.bars.add(bar(total, style));
            self.training.set_position(first);
            self.training.reset_eta();
        }
    }

    fn step(&mut self, report: &StepReport) {
        let reached = |until: Until| until.is_reached(report.iteration, report.total);
        self.has_come_so_far = self.until.is_some_and(reached);
        let rate = report.images as f64 / report.duration.as_secs_f64().max(1e-9);
        self.images_per_second = if self.images_per_second == 0.0 {
            rate
        } else {
            0.9 * self.images_per_second + 0.1 * rate
        };
        let together = match report.processes {
            1 => String::new(),
            processes => format!(
                " ({:.1} each of {processes}, communication {:.0} %)",
                self.images_per_second / processes as f64,
                100.0 * report.communicated_share()
            ),
        };
        STEP_MILLISECONDS.store(report.duration.as_millis() as usize, Ordering::Relaxed);
        let rest = format!(
            "(class {:.4} box {:.4}) lr {:.2e} gradient {:.2} positives {:.0} {:.1} images/s{together}, waited \
             {:.0} %{}",
            report.class_loss,
            report.box_loss,
            report.learning_rate,
            report.gradient_norm,
            report.positives_per_image(),
            self.images_per_second,
            100.0 * report.waited_share(),
            report.memory.map_or_else(String::new, |bytes| {
                format!(", {:.1} GiB", bytes as f64 / f64::from(1 << 30))
            }),
        );
        let (epoch, loss) = (report.epoch, report.loss());
        if self.terminal {
            let ap = self
                .ap
                .map_or_else(String::new, |ap| format!(" AP {ap:.3}"));
            self.training
                .set_message(format!("loss {loss:.4}{ap} epoch {epoch:.2} {rest}"));
            self.training.set_position(report.iteration);
        } else if report.iteration.is_multiple_of(self.log_every)
            || report.iteration == report.total
        {
            let left = (report.total - report.iteration) as f64 * report.images as f64
                / self.images_per_second;
            let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
            let left = indicatif::HumanDuration(left);
            self.line(&format!(
                "step {}/{} epoch {epoch:.2} loss {loss:.4} {rest} {left} left",
                report.iteration, report.total
            ));
        }
    }

    fn progress(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Start { what, total } if self.terminal => {
                self.work = self.bars.add(work_bar(what, total as usize));
            }
            Progress::Start { what, total } => self.line(&format!("{what}: {total}")),
            Progress::Tick => self.work.inc(1),
            Progress::Finish => self.work.finish_and_clear(),
        }
    }

    fn evaluated(&mut self, evaluated: &Evaluated<'_>) {
        let &Evaluated {
            iteration,
            metrics,
            loss,
            is_best,
        } = evaluated;
        self.ap = Some(metrics.ap).filter(|ap| *ap >= 0.0);
        self.line(&format!(
            "step {iteration}: AP {:.4} AP50 {:.4} AP75 {:.4} loss {loss:.4}{}",
            metrics.ap,
            metrics.ap50,
            metrics.ap75,
            if is_best { " (best)" } else { "" }
        ));
    }

    fn checkpoint_written(&mut self, iteration: u64, folder: &Path) {
        if !self.terminal {
            self.line(&format!("step {iteration}: wrote {}", folder.display()));
        }
    }

    fn stop_requested(&self) -> bool {
        signals::received().is_some() || self.has_come_so_far
    }
}

/// A path as a shell takes it for one word.
pub(crate) fn one_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |it: char| it.is_ascii_alphanumeric() || "_-+=:,./\\@%".contains(it);
    if text.chars().all(plain) && !text.is_empty() {
        text
    } else if cfg!(windows) {
        format!("\"{text}\"")
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// A bar for work with this many parts; nothing if stderr is not a terminal.
pub(crate) fn work_bar(what: &str, total: usize) -> ProgressBar {
    let bar = bar(total as u64, "{msg} {bar:12} {pos}/{len} {rate} {left}");
    bar.set_message(what.to_owned());
    bar
}

/// A bar of bytes that come over the network; where stderr is no terminal, a line that they do.
pub(crate) fn download_bar(what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        note(&format!("fetching {what}"));
    }
    let bar = bar(
        0,
        "fetching {msg} {bar:12} {bytes}/{total_bytes} {bytes_per_sec} {left}",
    );
    bar.set_message(what.to_owned());
    bar
}

fn bar(total: u64, style: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
        // A bar that cannot be written is none.
        let _ = write!(text, "{:.1}/s", state.per_sec());
    };
    let left = |state: &ProgressState, text: &mut dyn fmt::Write| {
        let is_under_way = state.len().is_some_and(|length| state.pos() < length);
        let _ = text.write_str(&time_left(state.eta(), is_under_way));
    };
    ProgressBar::new(total).with_style(style.with_key("rate", rate).with_key("left", left))
}

/// The time left in words; a time of 0 before the end is one that is not known yet.
fn time_left(left: Duration, is_under_way: bool) -> String {
    let seconds = left.as_secs();
    if seconds == 0 && is_under_way {
        return "time left unknown".to_owned();
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours / 24 {
        0 => format!("{hours:02}:{minutes:02}:{seconds:02} left"),
        days => format!("{days} days {:02}:{minutes:02} left", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_to_a_shell() {
        for (path, word) in [
            ("runs/mine-2.toml", "runs/mine-2.toml"),
            ("my photos", "'my photos'"),
            ("it's", "'it'\\''s'"),
            ("a;rm", "'a;rm'"),
        ] {
            if cfg!(unix) {
                assert_eq!(one_word(Path::new(path)), word);
            }
        }
    }

    #[test]
    fn an_unknown_time_is_called_that() {
        let left = |seconds| time_left(Duration::from_secs(seconds), true);
        assert_eq!(left(0), "time left unknown");
        assert_eq!(time_left(Duration::ZERO, false), "00:00:00 left");
        assert_eq!(left(3_725), "01:02:05 left");
        assert_eq!(left(200_000), "2 days 07:33 left");
    }

    #[test]
    fn a_terminal_gets_nothing_to_obey() {
        assert_eq!(harmless("plain\n\tline"), "plain\n\tline");
        assert_eq!(harmless("\u{1b}[2Jé\r\u{9b}"), "\\u{1b}[2Jé\\r\\u{9b}");
    }

    #[test]
    fn a_line_ends_where_nobody_reads_on() {
        let long = format!("a\n{}\n", "é".repeat(5000));
        let cut = cut(&long);
        assert!(cut.starts_with("a\né") && cut.ends_with("é…\n"));
        assert_eq!(cut.chars().count(), 2 + 4000 + 2);
    }
}
