use std::path::Path;

use anyhow::Context;
use retinanet_data::DataError;
use retinanet_detector::Detector;
use retinanet_evaluation::{Analysis, CocoDetection, Evaluator};
use retinanet_experiment::{require_data, Examination, ExperimentConfig, Observer};
use serde::Serialize;

use crate::args::{EvalArguments, ModelArguments, Split};
use crate::console::{self, Console};
use crate::failure::Failure;
use crate::outputs::{given, refuse_overlaps};
use crate::timing;

use super::LoadedModel;

pub(crate) fn run(arguments: &EvalArguments) -> Result<(), Failure> {
    refuse_to_write_over_inputs(arguments)?;
    if let Some([a, b]) = arguments.compare.as_deref() {
        return compare(arguments, a, b);
    }
    let analysis = match (&arguments.annotations, &arguments.detections) {
        (Some(annotations), Some(detections)) => {
            let evaluator = Evaluator::from_file(annotations).map_err(Failure::work)?;
            let detections = evaluator
                .read_detections(detections)
                .map_err(Failure::work)?;
            analyse(arguments, &evaluator, &detections)?
        }
        _ => match evaluate_model(arguments)? {
            Some(analysis) => analysis,
            None => return Ok(()),
        },
    };
    tell(&analysis);
    write_json(arguments.json.as_deref(), &analysis)
}

fn refuse_to_write_over_inputs(arguments: &EvalArguments) -> Result<(), Failure> {
    let read = [
        given("--annotations", arguments.annotations.as_ref()),
        given("--detections", arguments.detections.as_ref()),
        given("--weights", arguments.model.weights.as_ref()),
        given("--config", arguments.model.config.as_ref()),
    ];
    let written = [
        given("--json", arguments.json.as_ref()),
        given("--write-detections", arguments.write_detections.as_ref()),
    ];
    for (option, path) in written.iter().flatten() {
        super::refuse_file_of_run(arguments.model.run.as_deref(), option, path)?;
    }
    refuse_overlaps(read.into_iter().flatten(), written.into_iter().flatten())
}

/// What a model is worth; nothing if its detections were written and there is nothing to measure them with.
fn evaluate_model(arguments: &EvalArguments) -> Result<Option<Analysis>, Failure> {
    let LoadedModel {
        detector, config, ..
    } = super::load_model(&arguments.model)?;
    let examination = examine(arguments, detector, &config)?;
    if let Some(times) = timing::describe(&examination.times) {
        Console::new(1).message(&times);
    }
    write_json(
        arguments.write_detections.as_deref(),
        &examination.detections,
    )?;
    if let Some(evaluator) = &examination.evaluator {
        analyse(arguments, evaluator, &examination.detections).map(Some)
    } else {
        console::note(&not_annotated(&examination).to_string());
        Ok(None)
    }
}

fn not_annotated(examination: &Examination) -> DataError {
    DataError::NotAnnotated {
        path: examination.annotations.clone(),
    }
}

/// What a model finds on a config's split.
fn examine(
    arguments: &EvalArguments,
    detector: Detector,
    config: &ExperimentConfig,
) -> Result<Examination, Failure> {
    require_data(&config.data, &[arguments.split.into()])?;
    let split = match arguments.split {
        Split::Train => &config.data.train,
        Split::Val => &config.data.val,
    };
    let detector = super::with_test_time_augmentation(detector, &arguments.test_time)?;
    let mut console = Console::new(config.train.log_every.get());
    let examination = retinanet_experiment::examine(&detector, &config.data, split, &mut console)?;
    if examination.evaluator.is_none() && arguments.write_detections.is_none() {
        let error = anyhow::Error::new(not_annotated(&examination));
        let advice = "only `--write-detections FILE` can be had of it";
        return Err(Failure::Work(error.context(advice)));
    }
    Ok(examination)
}

fn analyse(
    arguments: &EvalArguments,
    evaluator: &Evaluator,
    detections: &[CocoDetection],
) -> Result<Analysis, Failure> {
    let score = f64::from(arguments.score);
    let evaluator = match arguments.max_detections {
        Some(most) => evaluator.clone().with_max_detections(most),
        None => evaluator.clone(),
    };
    if let Some((image, objects)) = evaluator.crowded_images().into_iter().max_by_key(|it| it.1) {
        console::note(&format!(
            "image {} has {objects} objects of a class, and only the best {} detections of an image and class \
             count: AP cannot reach 1; see `--max-detections` (and `eval.max_detections` of the config)",
            image.0,
            evaluator.max_detections()
        ));
    }
    (evaluator.analyse(detections, score)).map_err(Failure::work)
}

/// What run `b` is better or worse in than run `a`, on the images of `a`'s config.
fn compare(arguments: &EvalArguments, a: &Path, b: &Path) -> Result<(), Failure> {
    let load = |run: &Path| {
        super::load_model(&ModelArguments {
            run: Some(run.into()),
            ..arguments.model.clone()
        })
    };
    let LoadedModel {
        detector, config, ..
    } = load(a)?;
    let a = examine(arguments, detector, &config)?;
    // Both look at the same images, whatever the second was trained on.
    let b = examine(arguments, load(b)?.detector, &config)?;
    Console::new(1).message(&format!(
        "comparing: {} samples of {} images",
        arguments.samples,
        a.times.len()
    ));
    let evaluator = a
        .evaluator
        .as_ref()
        .ok_or_else(|| Failure::work(not_annotated(&a)))?;
    let comparison = evaluator
        .compare(&a.detections, &b.detections, arguments.samples, 0)
        .map_err(Failure::work)?;
    let (metrics, classes) = (comparison.table(), comparison.class_table());
    console::result(format!("{metrics}\n{classes}").trim_end());
    write_json(arguments.json.as_deref(), &comparison)
}

fn tell(analysis: &Analysis) {
    let headed = |heading: &str, table: String| format!("{heading}\n{table}");
    let mut parts = vec![
        analysis.metrics.to_string(),
        analysis.class_table(),
        headed(
            "Errors, and what AP50 would gain without them",
            analysis.errors.table(),
        ),
    ];
    // As it was asked for: most decimals are longer as f64.
    let from = format!("from a score of {}", analysis.score as f32);
    parts.push(headed(
        &format!("Classes taken for others, {from}"),
        analysis.confusion.table(),
    ));
    if let Some(calibration) = &analysis.calibration {
        parts.push(headed(
            "Scores against the share that is right",
            calibration.table(),
        ));
    }
    parts.push(headed(
        &format!("The worst images, {from}"),
        analysis.image_table(),
    ));
    console::result(parts.join("\n").trim_end());
}

fn write_json(path: Option<&Path>, content: &impl Serialize) -> Result<(), Failure> {
    let Some(path) = path else {
        return Ok(());
    };
    let text = serde_json::to_string(content)
        .context("cannot write the numbers")
        .map_err(Failure::work)?;
    super::write_over(path, text.as_bytes())
}
