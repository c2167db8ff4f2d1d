//! `metrics.jsonl`: a line for each step and a line for each evaluation; and the same for
//! TensorBoard.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use fs_err::File;
use retinanet_evaluation::{Metric, Metrics};
use retinanet_experiment::StepReport;
use serde_json::{Value, json};

use crate::run::run_directory::RunDirectory;
use crate::run::tensorboard::EventFile;

pub(crate) struct MetricsLog {
    file: File,
    events: EventFile,
    /// 3 for P3.
    finest_level: u32,
}

impl MetricsLog {
    /// Opens the log and cuts off what stands after `iteration`: lines that a stopped run made after
    /// its last checkpoint, and that will be made again; so is that step's evaluation, unless the
    /// checkpoint knows of it.
    pub(crate) fn open(
        run: &RunDirectory,
        iteration: u64,
        evaluated: bool,
        strides: &[usize],
    ) -> std::io::Result<Self> {
        let finest_level = strides.first().map_or(3, |stride| stride.ilog2());
        Self::in_folder(run.root(), iteration, evaluated, finest_level)
    }

    fn in_folder(
        folder: &Path,
        iteration: u64,
        evaluated: bool,
        finest_level: u32,
    ) -> std::io::Result<Self> {
        let path = &folder.join("metrics.jsonl");
        let kept = match File::open(path) {
            Ok(file) => lines_up_to(file, iteration, evaluated)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        retinanet_files::write(path, kept)?;
        let file = fs_err::OpenOptions::new().append(true).open(path)?;
        Ok(Self {
            file,
            events: EventFile::create(folder, iteration)?,
            finest_level,
        })
    }

    pub(crate) fn step(&mut self, report: &StepReport) -> std::io::Result<()> {
        let mut line = json!({
            "kind": "step",
            "iteration": report.iteration,
            "epoch": report.epoch,
            "lr": report.learning_rate,
            "loss": report.loss(),
            "class_loss": report.class_loss,
            "box_loss": report.box_loss,
            "gradient_norm": report.gradient_norm,
            "positives": report.positives,
            "images": report.images,
            "seconds": report.duration.as_secs_f64(),
            "waited_seconds": report.waited.as_secs_f64(),
            "memory": report.memory,
        });
        if let Some(scale) = report.loss_scale {
            line["loss_scale"] = json!(scale);
        }
        if report.processes > 1 {
            line["processes"] = json!(report.processes);
            line["communicated_seconds"] = json!(report.communicated.as_secs_f64());
        }
        if !report.levels.is_empty() {
            line["levels"] = json!(report.levels);
        }
        self.line(&line)?;
        let seconds = report.duration.as_secs_f64().max(1e-9);
        let values = [
            ("train/loss", report.loss()),
            ("train/class_loss", report.class_loss),
            ("train/box_loss", report.box_loss),
            ("train/gradient_norm", report.gradient_norm),
            ("train/learning_rate", report.learning_rate),
            ("train/positives_per_image", report.positives_per_image()),
            ("time/images_per_second", report.images as f64 / seconds),
            ("time/data_wait_share", report.waited_share()),
        ];
        self.events.scalars(report.iteration, &values)?;
        let memory = report
            .memory
            .map(|bytes| ("memory_gib", bytes as f64 / f64::from(1 << 30)));
        self.events.scalars(report.iteration, memory.as_slice())?;
        for (level, [class, bbox]) in (0..).zip(&report.levels) {
            let level = self.finest_level + level;
            let names = [
                format!("levels/P{level}_class"),
                format!("levels/P{level}_box"),
            ];
            let values = [(&*names[0], *class), (&*names[1], *bbox)];
            self.events.scalars(report.iteration, &values)?;
        }
        Ok(())
    }

    pub(crate) fn evaluation(
        &mut self,
        iteration: u64,
        metrics: &Metrics,
        loss: f64,
    ) -> std::io::Result<()> {
        let names = Metric::ALL.map(|metric| format!("val/{metric}"));
        let numbers = Metric::ALL.map(|metric| metric.raw(metrics));
        let values: Vec<_> = (names.iter().map(String::as_str).zip(numbers))
            .chain([("val/loss", loss)])
            .collect();
        self.events.scalars(iteration, &values)?;
        let mut line = json!({ "kind": "evaluation", "iteration": iteration, "loss": loss });
        if let (Some(line), Ok(Value::Object(metrics))) =
            (line.as_object_mut(), serde_json::to_value(metrics))
        {
            line.extend(metrics);
        }
        self.line(&line)
    }

    fn line(&mut self, value: &Value) -> std::io::Result<()> {
        writeln!(self.file, "{value}")
    }
}

fn lines_up_to(file: File, iteration: u64, evaluated: bool) -> std::io::Result<String> {
    let mut kept = String::new();
    for line in BufReader::new(file).lines() {
        let line = line?;
        // A line cut short by a kill is none.
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let is_made_again =
            |at: u64| at == iteration && !evaluated && value["kind"] == "evaluation";
        if value["iteration"]
            .as_u64()
            .is_some_and(|at| at <= iteration && !is_made_again(at))
        {
            kept.push_str(&line);
            kept.push('\n');
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_cuts_what_comes_after_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        fs_err::write(
            &path,
            "{\"iteration\":1}\n{\"iteration\":2}\n{\"iteration\":3}\n{\"itera",
        )
        .unwrap();
        let mut log = MetricsLog::in_folder(folder.path(), 2, true, 3).unwrap();
        log.line(&json!({ "iteration": 3, "again": true })).unwrap();
        assert_eq!(
            fs_err::read_to_string(&path).unwrap(),
            "{\"iteration\":1}\n{\"iteration\":2}\n{\"again\":true,\"iteration\":3}\n"
        );
    }
}
