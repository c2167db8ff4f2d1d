//! Labels that are probably wrong.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{anyhow, Context};
use retinanet_boxes::{ClassList, Detection, GroundTruth};
use retinanet_data::{CocoDataset, ImageRecord};
use retinanet_dataset_tools::{
    agreed, label_errors, write_labels, Destination, DetectedImage, LabelError, LabelErrorKind,
    LabelledImage,
};
use retinanet_detector::Detector;
use retinanet_experiment::{load_config, require_data, DataSplit, ExperimentConfig};
use retinanet_images::decode_image;
use retinanet_report::{DatasetPage, ImageFinding, ImageView, Picture};
use retinanet_settings::Whole;
use retinanet_trainer::RunDirectory;
use serde::Serialize;

use crate::args::ErrorsArguments;
use crate::commands::folds::{self, Fold};
use crate::commands::mirror::{detect as detect_one, detect_mirrored, learned_mirrored};
use crate::commands::view;
use crate::console;
use crate::device;
use crate::failure::Failure;
use crate::outputs::{self, given};
use crate::signals;

/// What is less suspicious is not listed.
const LEAST_SUSPICION: f32 = 0.05;

/// Detections from this score are shown beside the labels.
const SHOWN: f32 = 0.3;

/// An image with its labels, and what a detector predicts that has not learned from them, or has.
struct Examined {
    record: ImageRecord,
    split: &'static str,
    detections: Vec<Detection>,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    file_name: &'a str,
    image_id: u64,
    split: &'a str,
    kind: String,
    suspicion: f32,
    /// The label's, `[x, y, width, height]` in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    bbox: Option<[f64; 4]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_bbox: Option<[f64; 4]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
}

pub(crate) fn run(arguments: &ErrorsArguments) -> Result<(), Failure> {
    let written = [
        given("--json", arguments.json.as_ref()),
        given("--labels", arguments.labels.labels.as_ref()),
    ];
    super::predict::refuse_labels_in_the_way(&arguments.labels)?;
    let run = &arguments.run;
    let mut config = load_config(&run.join("config.toml"), &arguments.settings.set)?;
    if !RunDirectory::is_run(run) {
        return Err(Failure::usage(anyhow!("`{}` is not a run", run.display())));
    }
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => beside(run)?,
    };
    let data = &config.data;
    let [train, val] = [&data.train, &data.val].map(|split| data.root.join(&split.annotations));
    let page = out.join("page/index.html");
    let read = [
        ("the annotations", &train),
        ("the annotations", &val),
        ("the page", &page),
    ];
    let read = read.map(|(what, path)| (what, path.as_path()));
    outputs::refuse_overlaps(read, written.into_iter().flatten())?;
    for (option, path) in written.iter().flatten() {
        super::refuse_file_of_run(Some(run), option, path)?;
    }
    view::require_page_folder(&out.join("page"))?;
    if let Some(device) = &arguments.device {
        config.compute.device.clone_from(device);
    }
    require_data(&config.data, &[DataSplit::Train, DataSplit::Val])?;
    super::set_threads(config.compute.threads.map(Whole::as_usize));
    let (examined, classes) = examine(arguments, &config, &out)?;
    let images: Vec<_> = (examined.iter())
        .map(|image| LabelledImage {
            labels: &image.record.objects,
            detections: &image.detections,
            learned: arguments.folds.is_none() && image.split == "train",
        })
        .collect();
    let mut errors = label_errors(&images);
    errors.retain(|error| error.suspicion >= LEAST_SUSPICION);
    errors.truncate(arguments.take);
    let found = Found {
        examined: &examined,
        errors: &errors,
        classes: &classes,
    };
    found.tell();
    found.write(arguments, &config, &out)
}

/// The folder beside a run, of its name and what is in it.
fn beside(run: &Path) -> Result<PathBuf, Failure> {
    let run = run.canonicalize().map_err(Failure::work)?;
    let mut name = run.file_name().unwrap_or_default().to_owned();
    name.push("-errors");
    Ok(run.with_file_name(name))
}

/// All images of a run, each with what the detector predicts that is to be asked.
fn examine(
    arguments: &ErrorsArguments,
    config: &ExperimentConfig,
    out: &Path,
) -> Result<(Vec<Examined>, ClassList), Failure> {
    let data = &config.data;
    // With the images that have no labels, which may lack them.
    let train = data.read_to_evaluate(&data.train)?;
    let val = data.read_to_evaluate(&data.val)?;
    let device = device::open(&config.compute.device).map_err(Failure::usage)?;
    let open = |run: &Path| Detector::open(run, &device).map_err(Failure::work);
    let own = open(&arguments.run)?;
    let classes = own.classes().clone();
    let [train, val] = [train, val].map(|dataset| dataset.with_classes(&classes));
    let (train, val) = (train.map_err(Failure::usage)?, val.map_err(Failure::usage)?);
    require_told_apart(arguments, &train, &val)?;
    let folds = match arguments.folds {
        Some(count) if count > train.images.len() => {
            return Err(Failure::usage(anyhow!(
                "--folds {count} of {} images: each fold needs one",
                train.images.len()
            )))
        }
        Some(count) => folds::train(arguments, config, &train.annotations, (out, count))?,
        None => Vec::new(),
    };
    let learned_mirrored = learned_mirrored(data);
    let mut examined = Vec::new();
    let bar = console::work_bar("detecting", train.images.len() + val.images.len());
    let mut detect = |detector: &Detector,
                      dataset: &CocoDataset,
                      split: &'static str,
                      is_asked: &dyn Fn(&ImageRecord) -> bool|
     -> Result<(), Failure> {
        for record in dataset.images.iter().filter(|record| is_asked(record)) {
            if let Some(signal) = signals::received() {
                return Err(Failure::Signal(signal));
            }
            let picture = Arc::new(decode_image(&record.path, dataset.decoding)?);
            let mut detections = detect_one(detector, &picture);
            if learned_mirrored {
                detections = agreed(&detections, &detect_mirrored(detector, &picture));
            }
            examined.push(Examined {
                record: record.clone(),
                split,
                detections,
            });
            bar.inc(1);
        }
        Ok(())
    };
    for Fold { run, images } in &folds {
        let is_of_fold = |record: &ImageRecord| images.contains(&record.id.0);
        detect(&open(run)?, &train, "train", &is_of_fold)?;
    }
    if folds.is_empty() {
        detect(&own, &train, "train", &|_| true)?;
    }
    detect(&own, &val, "val", &|_| true)?;
    bar.finish_and_clear();
    Ok((examined, classes))
}

/// Refuses labels for a tool where files of both halves have one name, which it could not tell apart.
fn require_told_apart(
    arguments: &ErrorsArguments,
    train: &CocoDataset,
    val: &CocoDataset,
) -> Result<(), Failure> {
    let names: HashSet<&str> = train
        .images
        .iter()
        .map(|it| it.file_name.as_str())
        .collect();
    let twice = val
        .images
        .iter()
        .find(|it| names.contains(it.file_name.as_str()));
    match twice.filter(|_| arguments.labels.labels.is_some()) {
        None => Ok(()),
        Some(twice) => Err(Failure::usage(anyhow!(
            "--labels: an image to train on and one to evaluate on are both called `{}`, and nothing would tell them apart",
            twice.file_name
        ))),
    }
}

/// The errors, of which the first are the surest.
struct Found<'a> {
    examined: &'a [Examined],
    errors: &'a [LabelError],
    classes: &'a ClassList,
}

impl Found<'_> {
    fn tell(&self) {
        console::result("suspicion  what           image");
        for error in self.errors {
            let kind = error.kind.to_string();
            console::result(&format!(
                "{:.2}       {kind:<13}  {}: {}",
                error.suspicion,
                self.examined[error.image].record.file_name,
                self.in_words(error)
            ));
        }
    }

    fn in_words(&self, error: &LabelError) -> String {
        let place = |[x, y, width, height]: [f64; 4]| {
            format!("at {x:.0}, {y:.0} of {width:.0}×{height:.0} pixels")
        };
        let label = |label: &GroundTruth| {
            let name = self.classes.name(label.class);
            format!("`{name}` {}", place(label.bbox.to_xywh()))
        };
        let predicted = error.detection.map(|it| {
            let name = self.classes.name(it.class);
            let place = place(it.bbox.to_xywh());
            format!("`{name}` {place} is predicted with {:.2}", it.score)
        });
        let said = [self.label(error).map(label), predicted];
        let said: Vec<String> = said.into_iter().flatten().collect();
        match error.kind {
            LabelErrorKind::Doubled => format!("{}, labelled twice", said.join("; ")),
            LabelErrorKind::NoObject => {
                format!("{}; nothing like it is predicted", said.join("; "))
            }
            _ => said.join("; "),
        }
    }

    fn label(&self, error: &LabelError) -> Option<&GroundTruth> {
        self.examined[error.image].record.objects.get(error.label?)
    }

    fn write(
        &self,
        arguments: &ErrorsArguments,
        config: &ExperimentConfig,
        out: &Path,
    ) -> Result<(), Failure> {
        // The images of the list, in its order.
        let mut by_image: Vec<(usize, Vec<&LabelError>)> = Vec::new();
        let mut places = HashMap::new();
        for error in self.errors {
            let place = *places.entry(error.image).or_insert_with(|| {
                by_image.push((error.image, Vec::new()));
                by_image.len() - 1
            });
            by_image[place].1.push(error);
        }
        if let Some(path) = &arguments.json {
            let lines: Vec<_> = self.errors.iter().map(|error| self.line(error)).collect();
            let text = serde_json::to_string_pretty(&lines)
                .context("cannot write the list")
                .map_err(Failure::work)?;
            super::write_over(path, text.as_bytes())?;
        }
        if let (Some(path), Some(format)) = (&arguments.labels.labels, arguments.labels.to) {
            let corrected: Vec<(usize, Vec<Detection>)> = (by_image.iter())
                .map(|(image, errors)| (*image, self.with_missing(*image, errors)))
                .collect();
            let images: Vec<_> = (corrected.iter())
                .map(|(image, detections)| {
                    let record = &self.examined[*image].record;
                    DetectedImage {
                        name: &record.file_name,
                        size: (record.width, record.height),
                        detections,
                    }
                })
                .collect();
            let format = format.into();
            write_labels(&images, self.classes, Destination { format, path })
                .map_err(Failure::work)?;
            let objects = by_image
                .iter()
                .flat_map(|it| &self.examined[it.0].record.objects);
            let crowds = objects.filter(|object| object.crowd).count();
            if crowds > 0 {
                console::note(&format!(
                    "{crowds} regions of crowds are not in `{}`: labels of a tool are single objects",
                    path.display()
                ));
            }
        }
        self.write_page(arguments, config, out, &by_image)
    }

    /// The labels of an image as they are, and those that it lacks.
    fn with_missing(&self, image: usize, errors: &[&LabelError]) -> Vec<Detection> {
        let labels = self.examined[image].record.objects.iter();
        let labels = labels.filter(|label| !label.crowd).map(|label| Detection {
            bbox: label.bbox,
            class: label.class,
            score: 1.0,
        });
        let missing = errors
            .iter()
            .filter(|it| it.kind == LabelErrorKind::Missing);
        labels
            .chain(missing.filter_map(|it| it.detection))
            .collect()
    }

    fn line(&self, error: &LabelError) -> Line<'_> {
        let Examined { record, split, .. } = &self.examined[error.image];
        let label = self.label(error);
        let detection = error.detection;
        Line {
            file_name: &record.file_name,
            image_id: record.id.0,
            split,
            kind: error.kind.to_string(),
            suspicion: error.suspicion,
            bbox: label.map(|label| label.bbox.to_xywh()),
            class: label.map(|label| self.classes.name(label.class)),
            predicted_bbox: detection.map(|it| it.bbox.to_xywh()),
            predicted_class: detection.map(|it| self.classes.name(it.class)),
            score: detection.map(|it| it.score),
        }
    }

    fn write_page(
        &self,
        arguments: &ErrorsArguments,
        config: &ExperimentConfig,
        out: &Path,
        by_image: &[(usize, Vec<&LabelError>)],
    ) -> Result<(), Failure> {
        let file = |image: usize| {
            let Examined { record, split, .. } = &self.examined[image];
            format!("{split}/{}.jpg", view::address(&record.file_name))
        };
        let out = &out.join("page");
        let page = out.join("index.html");
        if !arguments.yes {
            let files = by_image.iter().map(|(image, _)| out.join(file(*image)));
            view::ask_before_page(&page, &files.collect::<Vec<_>>())?;
        }
        let mut views = Vec::with_capacity(by_image.len());
        for (image, errors) in by_image {
            views.push(self.view(*image, errors, config, (out, file(*image)))?);
        }
        let by_whom = match arguments.folds {
            Some(folds) => format!("{folds} detectors, each of which has not learned the images that it was asked about,"),
            None => "the run itself".to_owned(),
        };
        let content = DatasetPage {
            title: format!("Labels of {}", arguments.run.display()),
            about: format!(
                "The {} labels that are most probably wrong, by what {by_whom} predicted: each image as it is \
                 labelled, then as predicted.",
                self.errors.len()
            ),
            settings: String::new(),
            classes: view::class_colors(self.classes),
            images: views,
        };
        view::write_page(&content, &page)?;
        console::note(&format!("with pictures: {}", page.display()));
        Ok(())
    }

    fn view(
        &self,
        image: usize,
        errors: &[&LabelError],
        config: &ExperimentConfig,
        (out, file): (&Path, String),
    ) -> Result<ImageView, Failure> {
        let Examined {
            record,
            detections,
            split,
        } = &self.examined[image];
        let pixels = decode_image(&record.path, config.data.decoding())?;
        view::write_picture(&out.join(&file), &pixels)?;
        let labels = view::picture("labels".to_owned(), file, &pixels, &record.objects);
        let named = |detection: &&Detection| {
            let is_named = errors
                .iter()
                .any(|error| error.detection == Some(**detection));
            detection.score >= SHOWN || is_named
        };
        let predictions = Picture {
            caption: "predicted".to_owned(),
            objects: view::overlays(detections.iter().filter(named)),
            ..labels.clone()
        };
        let findings = errors.iter().map(|error| ImageFinding {
            severity: severity(error.suspicion).to_owned(),
            title: error.kind.to_string(),
            detail: format!("{} ({:.2})", self.in_words(error), error.suspicion),
        });
        Ok(ImageView {
            file_name: record.file_name.clone(),
            about: format!("{split}, {}", view::about(record)),
            findings: findings.collect(),
            views: vec![labels, predictions],
        })
    }
}

fn severity(suspicion: f32) -> &'static str {
    match suspicion {
        0.7.. => "error",
        0.4.. => "warning",
        _ => "note",
    }
}
