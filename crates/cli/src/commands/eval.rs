use std::path::Path;

use anyhow::Context;
use retinanet_evaluation::{read_detections, Evaluator, Metrics};

use crate::args::{EvalArguments, Split};
use crate::console::{self, Console};
use crate::failure::Failure;

use super::LoadedModel;

pub(crate) fn run(arguments: &EvalArguments) -> Result<(), Failure> {
    let metrics = match (&arguments.annotations, &arguments.detections) {
        (Some(annotations), Some(detections)) => evaluate_files(annotations, detections)?,
        _ => evaluate_model(arguments)?,
    };
    console::result(&format!("{metrics}\n{}", metrics.class_table()));
    if let Some(path) = &arguments.json {
        write_json(path, &metrics)?;
    }
    Ok(())
}

fn evaluate_files(annotations: &Path, detections: &Path) -> Result<Metrics, Failure> {
    let detections = read_detections(detections).map_err(Failure::work)?;
    let evaluator = Evaluator::from_file(annotations).map_err(Failure::work)?;
    evaluator.evaluate(&detections).map_err(Failure::work)
}

fn evaluate_model(arguments: &EvalArguments) -> Result<Metrics, Failure> {
    let LoadedModel { detector, config } = super::load_model(&arguments.model)?;
    let split = match arguments.split {
        Split::Train => &config.data.train,
        Split::Val => &config.data.val,
    };
    let mut console = Console::new(config.train.log_every);
    Ok(detector.evaluate_split(&config.data, split, &mut console)?)
}

fn write_json(path: &Path, metrics: &Metrics) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(metrics)
        .context("cannot write the metrics")
        .map_err(Failure::work)?;
    super::write_over(path, text.as_bytes())
}
