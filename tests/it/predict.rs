//! `predict`: which images, what it writes, and several looks at one image.

use image::{GenericImage, RgbImage};
use retinanet_boxes::BoundingBox;
use retinanet_tests::{Experiment, Finished, run};
use serde_json::Value;

/// The run that all predict with.
fn trained() -> Experiment {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    experiment
}

/// Predicts; returns what was said and what `--json` got.
fn predict(experiment: &Experiment, images: &[&str], more: &[&str]) -> (Finished, Vec<Value>) {
    let (root, json) = (experiment.path("run"), experiment.path("found.json"));
    let out = experiment.path("out");
    let mut arguments = vec![
        "predict", "--run", &root, "--score", "0.001", "--json", &json,
    ];
    if !more.contains(&"--no-drawings") {
        arguments.extend(["--out", &out]);
    }
    arguments.extend(images);
    arguments.extend(more);
    let finished = run(&arguments);
    let found = experiment.json("found.json");
    (finished, found.as_array().unwrap().clone())
}

#[test]
fn a_bad_image_is_named_and_the_others_are_done() {
    let experiment = trained();
    let folder = experiment.path("photos");
    fs_err::create_dir_all(&folder).unwrap();
    for name in ["val_00000.png", "val_00001.png"] {
        fs_err::copy(
            experiment.path(&format!("data/images/{name}")),
            experiment.path(&format!("photos/{name}")),
        )
        .unwrap();
    }
    experiment.write("photos/broken.png", "no picture");
    let (finished, found) = predict(&experiment, &[&folder], &[]);
    finished.expect_refusal(1, &["1 of 3 images could not be read"]);
    assert!(finished.stderr.contains("broken.png"), "{finished:#?}");
    let mut names: Vec<&str> = found
        .iter()
        .map(|it| it["file_name"].as_str().unwrap())
        .collect();
    names.dedup();
    assert_eq!(names, ["val_00000.png", "val_00001.png"]);
    assert_eq!(fs_err::read_dir(experiment.path("out")).unwrap().count(), 2);
}

#[test]
fn a_drawing_has_its_images_format_and_is_not_mixed_with_other_files() {
    let experiment = trained();
    let photos = experiment.path("photos");
    fs_err::create_dir_all(&photos).unwrap();
    let picture = image::open(experiment.path("data/images/val_00000.png")).unwrap();
    for name in ["a.jpg", "a.png", "b.bmp"] {
        (picture
            .to_rgb8()
            .save(experiment.path(&format!("photos/{name}"))))
        .unwrap();
    }
    let (finished, _) = predict(&experiment, &[&photos], &[]);
    finished.expect_success();
    for (name, format) in [
        ("a.jpg", image::ImageFormat::Jpeg),
        ("a.png", image::ImageFormat::Png),
        ("b.bmp.png", image::ImageFormat::Png),
    ] {
        let bytes = experiment.bytes(&format!("out/{name}"));
        assert_eq!(image::guess_format(&bytes).unwrap(), format, "{name}");
    }

    // The same call writes the same files again; another one would leave the first one's among its own.
    predict(&experiment, &[&photos], &[]).0.expect_success();
    let one = experiment.path("photos/a.jpg");
    let before = experiment.bytes("out/a.jpg");
    let (finished, _) = predict(&experiment, &[&one], &[]);
    finished.expect_refusal(2, &["2 files that are none of these drawings", "--yes"]);
    assert_eq!(experiment.bytes("out/a.jpg"), before);
    let (finished, _) = predict(&experiment, &[&one], &["--yes"]);
    finished.expect_success();

    // Nor are the files that the run keeps.
    let config = experiment.path("run/config.toml");
    let (finished, _) = predict(&experiment, &[&one], &["--csv", &config, "--yes"]);
    finished.expect_refusal(2, &["--csv", "a file that the run keeps"]);

    // Photos are never written over by their drawings.
    let root = experiment.path("run");
    let onto = ["predict", "--run", &root, &one, "--out", &photos, "--yes"];
    run(&onto).expect_refusal(2, &["a drawing", "an image"]);
}

#[test]
fn neither_a_pattern_nor_batches_nor_drawings_change_what_is_found() {
    let experiment = trained();
    let folder = experiment.path("data/images");
    let (finished, found) = predict(&experiment, &[&folder], &[]);
    let said = finished.expect_success().stdout;
    assert!(said.contains("an image took"), "{said}");
    assert!(!found.is_empty());
    let pattern = format!("{folder}/*.p?g");
    let csv = experiment.path("found.csv");
    let more = ["--no-drawings", "--batch", "4", "--csv", &csv];
    let (finished, again) = predict(&experiment, &[&pattern], &more);
    finished.expect_success();
    assert_eq!(found, again);

    let csv = String::from_utf8(experiment.bytes("found.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "file_name,class,category_id,score,x,y,width,height"
    );
    assert_eq!(lines.len(), 1 + found.len());
    let cells: Vec<&str> = lines[1].split(',').collect();
    assert_eq!(cells[0], found[0]["file_name"]);
    assert_eq!(cells[2], found[0]["category_id"].to_string());
    assert_eq!(cells[4].parse::<f64>().ok(), found[0]["bbox"][0].as_f64());
}

/// A detection of `predict`.
struct Detected {
    category: u64,
    bbox: BoundingBox,
    score: f64,
}

fn detected(found: &Value, moved: (f32, f32)) -> Detected {
    let bbox: [f64; 4] = serde_json::from_value(found["bbox"].clone()).unwrap();
    Detected {
        category: found["category_id"].as_u64().unwrap(),
        bbox: BoundingBox::from_xywh(bbox).translate(moved.0, moved.1),
        score: found["score"].as_f64().unwrap(),
    }
}

#[test]
fn tiles_of_an_image_made_of_four_others_find_what_the_four_found() {
    let experiment = trained();
    let mut whole = RgbImage::new(128, 128);
    let mut parts = Vec::new();
    let all = ["--set", "eval.max_detections=5000", "--no-drawings"];
    for (name, (x, y)) in [
        ("val_00000", (0, 0)),
        ("val_00001", (64, 0)),
        ("val_00002", (0, 64)),
        ("train_00000", (64, 64)),
    ] {
        let path = experiment.path(&format!("data/images/{name}.png"));
        let part = image::open(&path).unwrap().to_rgb8();
        whole.copy_from(&part, x, y).unwrap();
        let (finished, found) = predict(&experiment, &[&path], &all);
        finished.expect_success();
        let moved = (x as f32, y as f32);
        parts.extend(found.iter().map(|found| detected(found, moved)));
    }

    let path = experiment.path("whole.png");
    whole.save(&path).unwrap();
    let tiles = [&all[..], &["--tile", "64", "--tile-overlap", "0"]].concat();
    let (finished, found) = predict(&experiment, &[&path], &tiles);
    finished.expect_success();
    let found: Vec<_> = found.iter().map(|it| detected(it, (0.0, 0.0))).collect();
    // What touches an inner border may have given way to what is seen whole.
    let cut = |bbox: &BoundingBox| {
        let near = |edge: f32| (edge - 64.0).abs() < 2.5;
        [bbox.x1, bbox.y1, bbox.x2, bbox.y2].into_iter().any(near)
    };
    let uncut: Vec<_> = parts.iter().filter(|part| !cut(&part.bbox)).collect();
    assert!(uncut.len() > 20, "only {}", uncut.len());
    for part in uncut {
        // It is there, or a better one that means the same.
        let stands_for = |it: &Detected| {
            it.category == part.category
                && it.bbox.iou(&part.bbox) > 0.49
                && it.score >= part.score - 1e-6
        };
        assert!(
            found.iter().any(stands_for),
            "{:?} of {} with {}",
            part.bbox,
            part.category,
            part.score
        );
    }
    let whole_alone = predict(&experiment, &[&path], &all).1;
    assert_ne!(found.len(), whole_alone.len());
}

#[test]
fn a_mirrored_image_has_the_mirrored_detections_of_looks_that_flip() {
    let experiment = trained();
    let path = experiment.path("data/images/val_00000.png");
    let mirrored = experiment.path("mirrored.png");
    let image = image::open(&path).unwrap().to_rgb8();
    image::imageops::flip_horizontal(&image)
        .save(&mirrored)
        .unwrap();
    let flip = [
        "--flip",
        "--no-drawings",
        "--set",
        "eval.max_detections=20",
        "--short-sides",
        "64,96",
    ];
    let (finished, found) = predict(&experiment, &[&path], &flip);
    finished.expect_success();
    let (finished, of_mirrored) = predict(&experiment, &[&mirrored], &flip);
    finished.expect_success();
    assert_eq!(found.len(), of_mirrored.len());
    for (a, b) in found.iter().zip(&of_mirrored) {
        let (a, b) = (detected(a, (0.0, 0.0)), detected(b, (0.0, 0.0)));
        assert_eq!(a.category, b.category);
        assert!((a.score - b.score).abs() < 1e-6);
        let back = b.bbox.flip_horizontally(64.0);
        assert!(a.bbox.iou(&back) > 0.999, "{:?}, {back:?}", a.bbox);
    }
}

#[test]
fn a_folder_that_takes_no_drawings_is_named() {
    let experiment = trained();
    experiment.write("file", "no folder");
    let (root, images) = (experiment.path("run"), experiment.path("data/images"));
    let out = experiment.path("file");
    run(&["predict", "--run", &root, "--out", &out, &images])
        .expect_refusal(1, &["cannot write", &out]);
}

/// Labels for a tool are the detections, in each tool's form.
#[test]
fn detections_become_labels_of_every_tool() {
    let experiment = Experiment::new();
    experiment.train_to_find("run").expect_success();
    let [run_dir, photos, json] =
        ["run", "data/images", "found.json"].map(|name| experiment.path(name));
    let predict = |more: &[&str]| {
        let first = ["predict", "--run", &run_dir, &photos, "--no-drawings"];
        run(&[&first[..], &["--score", "0.1"], more].concat()).expect_success()
    };
    predict(&["--json", &json]);
    let rounded = |bbox: &Value| -> Vec<i64> {
        let edges = bbox.as_array().unwrap().iter();
        edges
            .map(|edge| edge.as_f64().unwrap().round() as i64)
            .collect()
    };
    let found = experiment.json("found.json");
    let mut expected: Vec<_> = (found.as_array().unwrap().iter())
        .map(|it| {
            (
                it["file_name"].as_str().unwrap().to_owned(),
                rounded(&it["bbox"]),
            )
        })
        .collect();
    expected.sort();
    assert!(expected.len() > 5, "too few to compare: {expected:?}");
    for format in ["coco", "voc", "yolo", "csv", "cvat", "labelme", "via"] {
        let (labels, back) = (experiment.path(format), experiment.path("back.json"));
        predict(&["--to", format, "--labels", &labels]);
        let convert = [
            "dataset", "convert", "--from", format, "--to", "coco", "--images", &photos,
        ];
        run(&[&convert[..], &["--out", &back, &labels]].concat()).expect_success();
        let back = experiment.json("back.json");
        let name_of = |id: &Value| {
            let mut images = back["images"].as_array().unwrap().iter();
            let image = images.find(|image| image["id"] == *id).unwrap();
            image["file_name"].as_str().unwrap().to_owned()
        };
        let mut labelled: Vec<_> = (back["annotations"].as_array().unwrap().iter())
            .map(|it| (name_of(&it["image_id"]), rounded(&it["bbox"])))
            .collect();
        labelled.sort();
        let is_near = |a: &[i64], b: &[i64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1);
        let pairs = labelled.iter().zip(&expected);
        let same = pairs
            .clone()
            .all(|(a, b)| a.0 == b.0 && is_near(&a.1, &b.1));
        assert!(
            same && labelled.len() == expected.len(),
            "{format}: {labelled:?}\n{expected:?}"
        );
    }
    // Over its own labels, or anybody's, a folder is not written again.
    let again = [
        "predict",
        "--run",
        &run_dir,
        &photos,
        "--no-drawings",
        "--to",
        "yolo",
    ];
    let labels = experiment.path("yolo");
    run(&[&again[..], &["--labels", &labels]].concat())
        .expect_refusal(2, &["--labels", "empty folder"]);
    let labels = experiment.path("tasks.json");
    predict(&["--to", "label-studio", "--labels", &labels]);
    let tasks = experiment.json("tasks.json");
    let results = tasks.as_array().unwrap().iter();
    let results = results.filter_map(|task| task["predictions"][0]["result"].as_array());
    assert_eq!(results.flatten().count(), expected.len());
    let back = experiment.path("back.json");
    let convert = [
        "dataset",
        "convert",
        "--from",
        "label-studio",
        "--to",
        "coco",
    ];
    run(&[&convert[..], &["--out", &back, &labels]].concat())
        .expect_refusal(1, &["tasks.json", "predictions"]);
}
