mod files;
mod findings;
mod fixed;
mod junk;
mod planted;
mod real_sets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use image::RgbImage;
use retinanet_anchors::{AnchorConfig, Lengths};
use retinanet_data::{ResizeConfig, ShortSides};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

/// Looks the annotations over, without images.
fn check_bytes(bytes: &[u8]) -> Result<Report, DataError> {
    let folder = folder();
    let path = folder.path().join("train.json");
    fs_err::write(&path, bytes).expect("the folder is ours");
    check_file(&path)
}

fn check_file(path: &Path) -> Result<Report, DataError> {
    let request = CheckRequest {
        open_images: false,
        ..CheckRequest::new(Split::new(path, "nowhere"))
    };
    check(&request, &|_, _| panic!("no image is opened"))
}

fn check_json(file: &Value) -> Report {
    check_bytes(file.to_string().as_bytes()).expect("an object is enough")
}

fn fix_bytes(bytes: &[u8]) -> Result<Fixed, DataError> {
    let folder = folder();
    let path = folder.path().join("train.json");
    fs_err::write(&path, bytes).expect("the folder is ours");
    fix(&Split::new(path, folder.path()))
}

fn fix_file(path: &Path) -> Result<Fixed, DataError> {
    fix(&Split::new(path, "nowhere"))
}

fn check_images(split: Split) -> Result<Report, DataError> {
    check(&CheckRequest::new(split), &|_, _| {})
}

fn kinds(report: &Report) -> BTreeSet<Kind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

/// The ids of the examples of a kind.
fn ids(report: &Report, kind: Kind) -> Vec<u64> {
    let examples = report.find(kind).map(|finding| &finding.examples);
    (examples.into_iter().flatten())
        .filter_map(|example| example.id)
        .collect()
}

/// Kind and ids of all that was found.
fn found(report: &Report) -> BTreeMap<Kind, Vec<u64>> {
    (kinds(report).into_iter())
        .map(|kind| (kind, ids(report, kind)))
        .collect()
}

/// Ten images of 100×80 with two sound boxes each, of three categories.
fn clean() -> Value {
    let images: Vec<_> = (1..=10)
        .map(|id| json!({"id": id, "file_name": format!("{id}.png"), "width": 100, "height": 80}))
        .collect();
    let annotations: Vec<_> = (1..=20)
        .map(|id| {
            let x = f64::from(id);
            json!({
                "id": id,
                "image_id": (id + 1) / 2,
                "category_id": 1 + id % 3,
                "bbox": [x, 5, 40, 30.5],
                "segmentation": [[x, 5, x + 40.0, 5, x + 40.0, 35.5]],
                "iscrowd": 0,
                "note": "kept",
            })
        })
        .collect();
    let categories: Vec<_> = (1..=3)
        .map(|id| json!({"id": id, "name": format!("class {id}")}))
        .collect();
    json!({
        "info": {"year": 2020},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    })
}

fn push(file: &mut Value, list: &str, record: Value) {
    let list = file[list].as_array_mut().expect("the clean set has it");
    list.push(record);
}

/// A folder with the images of [`clean`], no two alike, and its annotations.
fn painted() -> TempDir {
    let folder = folder();
    for id in 1..=10_u8 {
        let image = RgbImage::from_pixel(100, 80, image::Rgb([id, 0, 0]));
        let path = folder.path().join(format!("{id}.png"));
        image.save(path).expect("the folder is ours");
    }
    fs_err::write(folder.path().join("train.json"), clean().to_string())
        .expect("the folder is ours");
    folder
}

fn split(folder: &TempDir) -> Split {
    Split::new(folder.path().join("train.json"), folder.path())
}

/// Anchors of 4 to 40 pixels in images that keep their size.
fn anchors() -> Anchors {
    let config = AnchorConfig {
        sizes: Lengths::literal(&[4.0, 8.0, 16.0, 32.0]),
        aspect_ratios: Lengths::literal(&[0.25, 0.5, 1.0, 2.0, 4.0]),
        ..AnchorConfig::default()
    };
    Anchors {
        generator: config.init(&[4, 8, 16, 32]).expect("the sizes are sound"),
        resize: ResizeConfig {
            short_side: ShortSides::literal(&[80]),
            ..ResizeConfig::default()
        },
        foreground: 0.4,
    }
}

/// What [`fix`] removes.
const FIXED: [Kind; 11] = [
    Kind::DuplicateAnnotationId,
    Kind::UnknownImage,
    Kind::UnknownCategory,
    Kind::MissingBox,
    Kind::NonFiniteBox,
    Kind::DegenerateBox,
    Kind::OutsideBox,
    Kind::PartlyOutsideBox,
    Kind::RepeatedBox,
    Kind::AreaMismatch,
    Kind::ZeroId,
];
