//! Which photos to label next.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{anyhow, Context};
use image::RgbImage;
use retinanet_boxes::Detection;
use retinanet_dataset_tools::{
    expected_boxes, rank, worth_of_classes, write_labels, Destination, DetectedImage, Ranked,
    Unlabelled,
};
use retinanet_detector::Detector;
use retinanet_images::{decode_image, MAX_PIXELS};
use retinanet_report::{DatasetPage, ImageView, Picture};
use serde::Serialize;

use super::LoadedModel;
use crate::args::RankArguments;
use crate::commands::mirror::{detect, detect_mirrored, learned_mirrored};
use crate::commands::view;
use crate::console;
use crate::failure::Failure;
use crate::inputs::{self, find_images, Input};
use crate::outputs::{self, given};

/// An image with what the detector says of it.
struct Detected {
    path: PathBuf,
    name: String,
    size: (u32, u32),
    detections: Vec<Detection>,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    file_name: &'a str,
    worth: f32,
    boxes: f32,
    novelty: f32,
}

pub(crate) fn run(arguments: &RankArguments) -> Result<(), Failure> {
    let inputs::Found { inputs, left_out } =
        find_images(&arguments.images, arguments.page.as_deref())?;
    let written = [
        given("--json", arguments.json.as_ref()),
        given("--labels", arguments.labels.labels.as_ref()),
    ];
    let images = inputs
        .iter()
        .map(|input| ("an image", input.path.as_path()));
    outputs::refuse_overlaps(images, written.into_iter().flatten())?;
    super::predict::refuse_labels_in_the_way(&arguments.labels)?;
    if let Some(page) = &arguments.page {
        view::require_page_folder(page)?;
    }
    let model = super::load_model(&arguments.model)?;
    let score = model.score(arguments.score);
    let LoadedModel {
        detector, config, ..
    } = model;
    if !left_out.is_empty() {
        console::note(&format!("left out: {}", left_out.join(", ")));
    }
    let learned_mirrored = learned_mirrored(&config.data);
    let (detected, unlabelled, failed) = detect_all(&detector, learned_mirrored, &inputs);
    let ranked = rank(&unlabelled, arguments.take);
    write(arguments, &detector, score, &detected, &ranked)?;
    if let Some(folder) = &arguments.page {
        write_page(arguments, &detector, score, (folder, &ranked, &detected))?;
    }
    match failed.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Failure::work(anyhow!(
            "{} of {} images could not be read, the others are ranked; the first: {first}",
            failed.len(),
            inputs.len()
        ))),
    }
}

/// What the detector says of each image that can be read, and what is wrong with the others.
fn detect_all(
    detector: &Detector,
    learned_mirrored: bool,
    inputs: &[Input],
) -> (Vec<Detected>, Vec<Unlabelled>, Vec<String>) {
    let decoding = detector.preparation().decoding(MAX_PIXELS);
    let bar = console::work_bar("detecting", inputs.len());
    let (mut detected, mut unlabelled, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for input in inputs {
        match decode_image(&input.path, decoding) {
            Ok(picture) => {
                let size = picture.dimensions();
                let (detections, image) = detect_with_worth(detector, learned_mirrored, picture);
                detected.push(Detected {
                    path: input.path.clone(),
                    name: input.name.to_string_lossy().into_owned(),
                    size,
                    detections,
                });
                unlabelled.push(image);
            }
            Err(error) => failed.push(format!("{:#}", anyhow::Error::new(error))),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    (detected, unlabelled, failed)
}

fn detect_with_worth(
    detector: &Detector,
    learned_mirrored: bool,
    picture: RgbImage,
) -> (Vec<Detection>, Unlabelled) {
    let picture = Arc::new(picture);
    let detections = detect(detector, &picture);
    let mirrored = learned_mirrored.then(|| detect_mirrored(detector, &picture));
    let image = Unlabelled {
        worth: worth_of_classes(&detections, mirrored.as_deref()),
        boxes: expected_boxes(&detections),
        features: detector.features(&picture),
    };
    (detections, image)
}

fn write(
    arguments: &RankArguments,
    detector: &Detector,
    score: f32,
    detected: &[Detected],
    ranked: &[Ranked],
) -> Result<(), Failure> {
    let lines: Vec<Line<'_>> = (ranked.iter())
        .map(|it| Line {
            file_name: &detected[it.image].name,
            worth: it.worth,
            boxes: it.boxes,
            novelty: it.novelty,
        })
        .collect();
    let mut text = Vec::new();
    for line in &lines {
        // A text in memory takes all that is written.
        let _ = writeln!(
            text,
            "{:.3}  {:.3}  {:5.1}  {}",
            line.worth, line.novelty, line.boxes, line.file_name
        );
    }
    console::result("worth  new    boxes  image");
    console::result(String::from_utf8_lossy(&text).trim_end());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&lines)
            .context("cannot write the list")
            .map_err(Failure::work)?;
        super::write_over(path, text.as_bytes())?;
    }
    if let (Some(path), Some(format)) = (&arguments.labels.labels, arguments.labels.to) {
        let sure = |detected: &Detected| -> Vec<Detection> {
            let found = detected.detections.iter();
            found.filter(|it| it.score >= score).copied().collect()
        };
        let chosen: Vec<_> = ranked.iter().map(|it| &detected[it.image]).collect();
        let detections: Vec<_> = chosen.iter().map(|detected| sure(detected)).collect();
        let images: Vec<_> = (chosen.iter().zip(&detections))
            .map(|(detected, detections)| DetectedImage {
                name: &detected.name,
                size: detected.size,
                detections,
            })
            .collect();
        let format = format.into();
        let destination = Destination { format, path };
        write_labels(&images, detector.classes(), destination).map_err(Failure::work)?;
    }
    Ok(())
}

/// A page with the chosen images and what is detected on them.
fn write_page(
    arguments: &RankArguments,
    detector: &Detector,
    score: f32,
    (folder, ranked, detected): (&Path, &[Ranked], &[Detected]),
) -> Result<(), Failure> {
    let page = folder.join("index.html");
    let chosen = || ranked.iter().map(|it| (it, &detected[it.image]));
    let file = |image: &Detected| format!("images/{}.jpg", view::address(&image.name));
    if !arguments.yes {
        let files = chosen().map(|(_, image)| folder.join(file(image)));
        view::ask_before_page(&page, &files.collect::<Vec<_>>())?;
    }
    let decoding = detector.preparation().decoding(MAX_PIXELS);
    let mut images = Vec::with_capacity(ranked.len());
    for (ranked, image) in chosen() {
        let pixels = decode_image(&image.path, decoding)?;
        view::write_picture(&folder.join(file(image)), &pixels)?;
        let (width, height) = image.size;
        let counted = image.detections.iter().filter(|it| it.score >= score);
        images.push(ImageView {
            file_name: image.name.clone(),
            about: format!(
                "worth {:.2}, new {:.2}, {:.0} boxes, {width}×{height}",
                ranked.worth, ranked.novelty, ranked.boxes
            ),
            findings: Vec::new(),
            views: vec![Picture {
                caption: "detected".to_owned(),
                file: file(image),
                width,
                height,
                objects: view::overlays(counted),
            }],
        });
    }
    let content = DatasetPage {
        title: "What to label next".to_owned(),
        about: format!(
            "The {} images that are most worth labelling, with what is detected on them from a score of {score:.2}.",
            images.len()
        ),
        settings: String::new(),
        classes: view::class_colors(detector.classes()),
        images,
    };
    view::write_page(&content, &page)?;
    console::note(&format!("with pictures: {}", page.display()));
    Ok(())
}
