//! Data sets of other formats: YOLO's layouts, Pascal VOC's gaps, COCO as it is.

use retinanet_tests::{Experiment, run, shared};

/// Converts a set and gives the result.
fn converted(experiment: &Experiment, arguments: &[&str]) -> serde_json::Value {
    let out = experiment.path("converted.json");
    let all = [
        &["dataset", "convert", "--to", "coco", "--out", &out],
        arguments,
    ]
    .concat();
    run(&all).expect_success();
    experiment.json("converted.json")
}

/// The names of the images, each with its boxes' category names.
fn contents(file: &serde_json::Value) -> Vec<(String, Vec<String>)> {
    let records = |list: &str| file[list].as_array().unwrap().clone();
    let categories = records("categories");
    let category = |id: &serde_json::Value| {
        let found = categories.iter().find(|it| it["id"] == *id).unwrap();
        found["name"].as_str().unwrap().to_owned()
    };
    let boxes = records("annotations");
    let image = |image: &serde_json::Value| {
        let own = boxes.iter().filter(|it| it["image_id"] == image["id"]);
        let own = own.map(|it| category(&it["category_id"])).collect();
        (image["file_name"].as_str().unwrap().to_owned(), own)
    };
    records("images").iter().map(image).collect()
}

fn image(name: &str, classes: &[&str]) -> (String, Vec<String>) {
    (
        name.into(),
        classes.iter().map(|&name| name.into()).collect(),
    )
}

#[test]
fn every_layout_of_yolo_is_read_and_background_kept() {
    let Some(reported) = shared("reported") else {
        return;
    };
    let experiment = Experiment::new();
    let both = ["red", "blue"];
    let flat = [
        image("0.jpg", &both),
        image("1.jpg", &both),
        image("2.jpg", &[]),
    ];
    let read = |source: &str, more: &[&str]| {
        let source = reported.join(source);
        contents(&converted(
            &experiment,
            &[&["--from", "yolo", source.to_str().unwrap()], more].concat(),
        ))
    };
    for case in [
        "61-yolo-flat",
        "62-yolo-classes-txt",
        "63b-yolo-names-multiline",
    ] {
        assert_eq!(read(case, &[]), flat, "{case}");
    }
    // One label file for two pictures, as Ultralytics takes it.
    let twins = [
        flat[0].clone(),
        image("0.png", &both),
        flat[1].clone(),
        flat[2].clone(),
    ];
    assert_eq!(read("64-yolo-same-stem", &[]), twins);
    let case = "60-yolo-ultralytics";
    let below = |folder: &str| -> Vec<_> {
        let named = flat
            .iter()
            .map(|(name, classes)| (format!("{folder}{name}"), classes.clone()));
        named.collect()
    };
    let all = [below("images/train/"), below("images/val/")].concat();
    assert_eq!(read(case, &[]), all);
    assert_eq!(read(case, &["--split", "val"]), below("images/val/"));
    assert_eq!(
        read("60-yolo-ultralytics/data.yaml", &["--split", "train"]),
        below("images/train/")
    );
    assert_eq!(read("60-yolo-ultralytics/labels/train", &[]), flat);
    let missing = reported.join(case);
    run(&[
        "dataset",
        "convert",
        "--from",
        "yolo",
        "--to",
        "coco",
        missing.to_str().unwrap(),
        "--out",
        &experiment.path("x.json"),
        "--split",
        "test",
    ])
    .expect_refusal(1, &["no `data.yaml` lists a split `test`"]);
}

/// Roboflow's layout, and every form of `names:` that is about.
#[test]
fn names_of_classes_are_read_in_every_form() {
    let experiment = Experiment::new();
    let picture = |path: &str| {
        fs_err::create_dir_all(
            std::path::Path::new(&experiment.path(path))
                .parent()
                .unwrap(),
        )
        .unwrap();
        image::RgbImage::new(20, 10)
            .save(experiment.path(path))
            .unwrap();
    };
    picture("set/train/images/a.png");
    picture("set/valid/images/b.png");
    fs_err::create_dir_all(experiment.path("set/train/labels")).unwrap();
    // A box, and a polygon.
    experiment.write(
        "set/train/labels/a.txt",
        "1 0.5 0.5 0.5 0.5\n0 0.1 0.2 0.3 0.2 0.3 0.6\n\n",
    );
    let source = experiment.path("set");
    for names in [
        "names: [it's, \"a # b\"]",
        "names: ['it''s', 'a # b'] # both",
        "names:\n- it's\n- 'a # b'",
        "names:\n  - \"it's\"   # one\n  - \"a # b\"",
        "names:\n  0: it's\n  1: 'a # b'",
        "names: {0: it's, 1: 'a # b'}",
        "nc: 2\nnames: [\n  it's,\n  'a # b',\n]",
    ] {
        let yaml = format!(
            "train: ../train/images\nval: ../valid/images\n{names}\nroboflow:\n  version: 1\n"
        );
        experiment.write("set/data.yaml", &yaml);
        let file = converted(&experiment, &["--from", "yolo", &source]);
        let expected = [
            image("train/images/a.png", &["a # b", "it's"]),
            image("valid/images/b.png", &[]),
        ];
        assert_eq!(contents(&file), expected, "{yaml}");
        assert_eq!(
            file["annotations"][0]["bbox"],
            serde_json::json!([5.0, 2.5, 10.0, 5.0])
        );
        let polygon = file["annotations"][1]["bbox"].as_array().unwrap();
        for (edge, expected) in polygon.iter().zip([2.0, 2.0, 4.0, 4.0]) {
            assert!(
                (edge.as_f64().unwrap() - expected).abs() < 1e-9,
                "{polygon:?}"
            );
        }
        assert!(!file.to_string().contains("null"), "{file}");
        let train = converted(
            &experiment,
            &["--from", "yolo", &source, "--split", "train"],
        );
        assert_eq!(contents(&train), expected[..1]);
    }
    // What would be lost, or mean something else, is refused with its place.
    let refuse = |file: &str, text: &str, parts: &[&str]| {
        experiment.write(file, text);
        let out = experiment.path("x.json");
        let arguments = [
            "dataset", "convert", "--from", "yolo", "--to", "coco", &source, "--out", &out,
        ];
        run(&arguments).expect_refusal(1, parts);
        assert!(!std::path::Path::new(&out).exists());
    };
    let label = "set/train/labels/a.txt";
    refuse(
        label,
        "1 0.5 0.5 0.5 0.5\n7 0.5 0.5 0.5 0.5",
        &["a.txt", "line 2: class 7 has no name"],
    );
    refuse(label, "1 10 5 10 5", &["line 1", "are they pixels?"]);
    refuse(label, "1 0.5 0.5 0.5", &["line 1: it has 4 numbers"]);
    refuse(
        label,
        "one 0.5 0.5 0.5 0.5",
        &["line 1: it holds something other than numbers"],
    );
    experiment.write(label, "1 0.5 0.5 0.5 0.5");
    refuse(
        "set/train/labels/gone.txt",
        "1 0.5 0.5 0.5 0.5",
        &["gone.txt", "no picture"],
    );
    refuse("set/data.yaml", "names: [a", &["data.yaml"]);

    // Keypoints, with their visibility, come after the box and are not a polygon.
    fs_err::remove_file(experiment.path("set/train/labels/gone.txt")).unwrap();
    experiment.write(
        "set/train/labels/a.txt",
        "1 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.9 1\n",
    );
    let yaml = "train: ../train/images\nnames: [a, b]\nkpt_shape: [2, 3]\n";
    experiment.write("set/data.yaml", yaml);
    let file = converted(&experiment, &["--from", "yolo", &source]);
    let bbox = serde_json::json!([5.0, 2.5, 10.0, 5.0]);
    assert_eq!(file["annotations"][0]["bbox"], bbox);
}

#[test]
fn what_is_written_for_yolo_is_clipped_and_quoted() {
    let experiment = Experiment::new();
    let names = ["a, b", "no", "it's: \"#1\""];
    let categories: Vec<_> = (1..)
        .zip(names)
        .map(|(id, name)| serde_json::json!({"id": id, "name": name}))
        .collect();
    let boxes = [
        [-10.0, 2.0, 20.0, 100.0],
        [5.0, 5.0, 5.0, 5.0],
        [18.0, 8.0, 50.0, 50.0],
    ];
    let annotations: Vec<_> = (1..)
        .zip(boxes)
        .map(|(id, bbox)| serde_json::json!({"id": id, "image_id": 1, "category_id": id, "bbox": bbox}))
        .collect();
    let file = serde_json::json!({
        "images": [{"id": 1, "file_name": "day/1.png", "width": 20, "height": 10}],
        "categories": categories,
        "annotations": annotations,
    });
    experiment.write("in.json", &file.to_string());
    let (source, out) = (experiment.path("in.json"), experiment.path("yolo"));
    run(&[
        "dataset", "convert", "--from", "coco", "--to", "yolo", &source, "--out", &out,
    ])
    .expect_success();
    let labels = fs_err::read_to_string(experiment.path("yolo/day/1.txt")).unwrap();
    let numbers = labels
        .split_whitespace()
        .map(|it| it.parse::<f64>().unwrap());
    assert!(
        numbers.clone().all(|number| (0.0..=2.0).contains(&number)),
        "{labels}"
    );
    assert!(
        labels.starts_with("0 0.250000 0.600000 0.500000 0.800000\n"),
        "{labels}"
    );
    fs_err::create_dir_all(experiment.path("photos/day")).unwrap();
    image::RgbImage::new(20, 10)
        .save(experiment.path("photos/day/1.png"))
        .unwrap();
    let photos = experiment.path("photos");
    let back = converted(&experiment, &["--from", "yolo", &out, "--images", &photos]);
    assert_eq!(contents(&back), [image("day/1.png", &names)]);
}

#[test]
fn voc_sizes_and_names_come_from_the_pictures() {
    let Some(reported) = shared("reported") else {
        return;
    };
    let experiment = Experiment::new();
    let source = reported.join("66b-voc-zero-size");
    let file = converted(&experiment, &["--from", "voc", source.to_str().unwrap()]);
    assert_eq!(
        contents(&file),
        [image("0.jpg", &["red"]), image("1.jpg", &["red"])]
    );
    let sizes: Vec<_> = (file["images"].as_array().unwrap().iter())
        .map(|image| {
            (
                image["width"].as_u64().unwrap(),
                image["height"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(sizes, [(96, 72); 2]);
    assert!(!file.to_string().contains("null"), "{file}");

    fs_err::create_dir_all(experiment.path("voc/Annotations")).unwrap();
    let object = |name: &str| {
        format!(
            "<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
        )
    };
    let xml = format!(
        "<annotation><filename>a.png</filename><size><width>9</width><height>9</height></size>{}{}</annotation>",
        object("\n  red \n light\n"),
        object("red light")
    );
    experiment.write("voc/Annotations/a.xml", &xml);
    let file = converted(&experiment, &["--from", "voc", &experiment.path("voc")]);
    assert_eq!(
        contents(&file),
        [image("a.png", &["red light", "red light"])]
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_among_voc_files_is_not_waited_for() {
    let experiment = Experiment::new();
    fs_err::create_dir_all(experiment.path("voc")).unwrap();
    let pipe = experiment.path("voc/a.xml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let (source, out) = (experiment.path("voc"), experiment.path("x.json"));
    run(&[
        "dataset", "convert", "--from", "voc", "--to", "coco", &source, "--out", &out,
    ])
    .expect_refusal(1, &["a.xml", "is a pipe or a device"]);
}

#[test]
fn coco_to_coco_keeps_what_it_does_not_know() {
    let experiment = Experiment::new();
    let file = serde_json::json!({
        "info": {"mine": [1, null]},
        "licenses": [{"id": 0}],
        "images": [{"id": 1.0, "file_name": "1.png", "width": 20, "height": 10, "date_captured": 0}],
        "categories": [{"id": 1, "name": "a", "colour": "red"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": "high"}],
        "videos": {},
    });
    experiment.write("in.json", &format!("\u{feff}{file}"));
    let source = experiment.path("in.json");
    assert_eq!(converted(&experiment, &["--from", "coco", &source]), file);
}
