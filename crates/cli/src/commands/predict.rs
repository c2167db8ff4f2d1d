use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context};
use retinanet_boxes::{CategoryId, ClassList, Detection};
use retinanet_data::decode_image;
use retinanet_trainer::{Observer, Progress};
use serde::Serialize;

use crate::args::PredictArguments;
use crate::console::{self, Console};
use crate::draw::draw_detections;
use crate::failure::Failure;

use super::LoadedModel;

/// What counts as an image in a folder.
const EXTENSIONS: [&str; 8] = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// A detection in COCO's results format, for an image that has a name and no id.
#[derive(Serialize)]
struct NamedDetection<'a> {
    file_name: &'a str,
    category_id: CategoryId,
    bbox: [f64; 4],
    score: f32,
}

/// An image to look at.
struct Input {
    path: PathBuf,
    /// Its name in the results: below the folder that was given.
    name: PathBuf,
}

pub(crate) fn run(arguments: &PredictArguments) -> Result<(), Failure> {
    let inputs = find_images(&arguments.images)?;
    let LoadedModel { detector, .. } = super::load_model(&arguments.model)?;
    let classes = detector.classes();

    let mut console = Console::new(1);
    console.progress(Progress::Start {
        what: "predicting",
        total: inputs.len() as u64,
    });
    let mut found = Vec::new();
    for input in &inputs {
        let mut detections = detector.detect_file(&input.path).map_err(Failure::work)?;
        detections.retain(|detection| detection.score >= arguments.score);
        write_drawing(input, &detections, classes, &arguments.out)?;
        found.push((input.name.to_string_lossy(), detections));
        console.progress(Progress::Tick);
    }
    console.progress(Progress::Finish);

    let total: usize = found.iter().map(|(_, detections)| detections.len()).sum();
    if let Some(path) = &arguments.json {
        let records: Vec<_> = found
            .iter()
            .flat_map(|(name, detections)| named(name, detections, classes))
            .collect();
        let text = serde_json::to_string_pretty(&records)
            .context("cannot write the detections")
            .map_err(Failure::work)?;
        super::write_over(path, text.as_bytes())?;
    }
    console::result(&format!(
        "{total} objects on {} images, drawn into {}",
        inputs.len(),
        arguments.out.display()
    ));
    Ok(())
}

fn named<'a>(
    file_name: &'a str,
    detections: &'a [Detection],
    classes: &'a ClassList,
) -> impl Iterator<Item = NamedDetection<'a>> {
    detections.iter().filter_map(move |detection| {
        Some(NamedDetection {
            file_name,
            category_id: classes.category(detection.class)?,
            bbox: detection.bbox.to_xywh(),
            score: detection.score,
        })
    })
}

fn write_drawing(
    input: &Input,
    detections: &[Detection],
    classes: &ClassList,
    out: &Path,
) -> Result<(), Failure> {
    let mut image = decode_image(&input.path).map_err(Failure::work)?;
    draw_detections(&mut image, detections, classes);
    // PNG, so that the drawing loses nothing; the old extension stays, so that `a.jpg` and
    // `a.png` do not meet.
    let mut path = out.join(&input.name).into_os_string();
    path.push(".png");
    let path = PathBuf::from(path);
    let write = || -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        Ok(image.save(&path)?)
    };
    write()
        .with_context(|| format!("cannot write `{}`", path.display()))
        .map_err(Failure::Work)
}

fn find_images(places: &[PathBuf]) -> Result<Vec<Input>, Failure> {
    let mut inputs = Vec::new();
    for place in places {
        if place.is_dir() {
            let before = inputs.len();
            collect_folder(place, place, &mut inputs).map_err(Failure::work)?;
            if inputs.len() == before {
                return Err(Failure::work(anyhow!(
                    "`{}` holds no images ({})",
                    place.display(),
                    EXTENSIONS.join(", ")
                )));
            }
        } else if place.exists() {
            let name = place
                .file_name()
                .map_or_else(|| place.clone(), PathBuf::from);
            inputs.push(Input {
                path: place.clone(),
                name,
            });
        } else {
            return Err(Failure::work(anyhow!("`{}` is not there", place.display())));
        }
    }
    Ok(inputs)
}

fn collect_folder(folder: &Path, root: &Path, inputs: &mut Vec<Input>) -> std::io::Result<()> {
    let mut paths = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if path.is_dir() {
            collect_folder(&path, root, inputs)?;
        } else if EXTENSIONS.iter().any(|known| extension == **known) {
            let name = path.strip_prefix(root).unwrap_or(&path).to_owned();
            inputs.push(Input { path, name });
        }
    }
    Ok(())
}
