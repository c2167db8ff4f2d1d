//! Inputs made after public bug reports about other programs, and what a user should see.

use retinanet_tests::{Experiment, Finished, run, shared};

/// Trains on one of the cases; nothing where they are absent.
fn train(experiment: &Experiment, case: &str, more: &[&str]) -> Option<Finished> {
    let reported = shared("reported")?;
    let config = reported.join("tiny.toml");
    let root = format!("data.root={}", reported.join(case).display());
    let run_dir = experiment.path("run");
    let arguments = [
        "train",
        config.to_str()?,
        "--run-dir",
        &run_dir,
        "--set",
        &root,
    ];
    Some(run(&[&arguments, more].concat()))
}

#[test]
fn validation_without_boxes_has_no_best_and_the_last_weights_are_used() {
    let experiment = Experiment::new();
    let Some(trained) = train(&experiment, "23-val-no-boxes", &[]) else {
        return;
    };
    let trained = trained.expect_success();
    assert!(trained.stdout.contains("AP is undefined"), "{trained:#?}");
    assert!(!trained.stderr.contains("(best)"), "{trained:#?}");
    assert!(!std::path::Path::new(&experiment.path("run/checkpoints/best")).exists());
    let evaluated = run(&["eval", "--run", &experiment.path("run")]).expect_success();
    assert!(
        evaluated.stderr.contains("checkpoints/last, step"),
        "{evaluated:#?}"
    );
}

#[test]
fn what_no_image_is_in_a_folder_is_counted_and_said() {
    let Some(reported) = shared("reported") else {
        return;
    };
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let photos = reported.join("50-predict-folder");
    let (trained, found) = (experiment.path("run"), experiment.path("found.json"));
    let photos = photos.to_str().unwrap();
    let arguments = [
        "predict",
        "--run",
        &trained,
        photos,
        "--no-drawings",
        "--json",
        &found,
    ];
    let said = run(&arguments).expect_success();
    let left_out = "left out: 1 .db, 1 .txt, 2 hidden files";
    assert!(said.stderr.contains(left_out), "{said:#?}");
    assert!(said.stdout.contains("on 8 images"), "{said:#?}");
}

#[test]
fn a_run_goes_on_with_no_other_classes() {
    let experiment = Experiment::new();
    let half = ["--set", "train.iterations=2"];
    let Some(began) = train(&experiment, "base", &half) else {
        return;
    };
    began.expect_success();
    let weights = || fs_err::read(experiment.path("run/checkpoints/last/model.bpk")).unwrap();
    let before = weights();
    let more = ["--resume", "--set", "train.iterations=4"];
    let resumed = train(&experiment, "90-resume-reexported", &more).unwrap();
    resumed.expect_refusal(
        1,
        &["other categories", "category 1 was `red` and is `blue`"],
    );
    assert_eq!(weights(), before);
    train(&experiment, "base", &more).unwrap().expect_success();
}

/// Forms that mean nothing to boxes, or the same as COCO's.
#[test]
fn what_other_tools_write_trains_and_is_measured() {
    for case in [
        "01-cvat-export",
        "03-flat-segmentation",
        "07-bom",
        "16-backslash-names",
        "18-float-size",
        "33-no-annotation-ids",
        "38b-rle-float-size",
        "86-duplicate-keys",
        "95-unused-name",
    ] {
        let experiment = Experiment::new();
        let Some(trained) = train(&experiment, case, &[]) else {
            return;
        };
        let trained = trained.expect_success();
        assert!(trained.stdout.contains("best AP"), "{case}: {trained:#?}");
        let root = format!(
            "data.root={}",
            shared("reported").unwrap().join(case).display()
        );
        run(&["eval", "--run", &experiment.path("run"), "--set", &root]).expect_success();
        let config = shared("reported").unwrap().join("tiny.toml");
        run(&["dataset", "check", config.to_str().unwrap(), "--set", &root]).expect_success();
    }
}

#[test]
fn a_class_may_have_the_name_that_gaps_have() {
    let experiment = Experiment::new();
    let more = ["--set", "data.labels=category_id"];
    let Some(trained) = train(&experiment, "95-unused-name", &more) else {
        return;
    };
    // 0 is a gap, 1 is called `(unused)`, 2 is blue.
    let trained = trained.expect_success();
    assert!(trained.stderr.contains("classes    3"), "{trained:#?}");
    let weights = experiment.path("weights.safetensors");
    run(&[
        "export",
        "--run",
        &experiment.path("run"),
        "--out",
        &weights,
    ])
    .expect_success();
    let bytes = fs_err::read(&weights).unwrap();
    let header = String::from_utf8_lossy(&bytes[..4096.min(bytes.len())]).replace('\\', "");
    assert!(
        header.contains(r#""category":0,"name":"(unused)","unused":true"#),
        "{header}"
    );
    assert!(
        header.contains(r#""category":1,"name":"(unused)","unused":false"#),
        "{header}"
    );
}

#[test]
fn what_training_could_not_use_is_told_before_it() {
    let skip = ["--set", "data.on_bad_image=skip"];
    for (case, more, said) in [
        (
            "10-all-iscrowd",
            &[][..],
            &[
                "training data without a box to learn",
                "of 8 annotations 8 are crowds",
            ][..],
        ),
        (
            "21-exif6-stored-boxes",
            &[],
            &["were the boxes drawn without regard to the EXIF orientation?"],
        ),
        (
            "31-val-extra-class",
            &[],
            &[
                "category 7: `green`",
                "Give both files the same ids and names",
            ],
        ),
        (
            "58f-normalised-bbox",
            &[],
            &["boxes of numbers between 0 and 1: normalised?"],
        ),
        (
            "87-swapped-size-no-exif",
            &[],
            &["4 of the 4 images", "are width and height swapped?"],
        ),
        ("88-image-info", &[], &["`annotations` is missing"]),
        ("93-val-no-images", &skip, &["`images` is empty"]),
        (
            "99-val-truncated",
            &[],
            &["1 of the 2 images", "012.png` is cut short"],
        ),
    ] {
        let experiment = Experiment::new();
        let Some(trained) = train(&experiment, case, more) else {
            return;
        };
        trained.expect_refusal(1, &[]);
        for said in said {
            assert!(trained.stderr.contains(said), "no `{said}` in {trained:#?}");
        }
        assert!(!trained.stderr.contains("step 1"), "{case}: {trained:#?}");
        assert!(
            !std::path::Path::new(&experiment.path("run")).exists(),
            "{case}"
        );
    }
}

#[test]
fn the_check_before_training_can_be_left_out() {
    let experiment = Experiment::new();
    let Some(trained) = train(&experiment, "10-all-iscrowd", &["--no-check"]) else {
        return;
    };
    trained.expect_success();
}

#[test]
fn validation_images_that_cannot_be_read_can_be_left_out() {
    let experiment = Experiment::new();
    let skip = ["--set", "data.on_bad_image=skip"];
    let Some(trained) = train(&experiment, "99-val-truncated", &skip) else {
        return;
    };
    let trained = trained.expect_success();
    assert!(
        trained.stderr.contains("left out: 1 of the 2 images"),
        "{trained:#?}"
    );
    assert!(trained.stderr.contains("1 to evaluate on"), "{trained:#?}");
    run(&["eval", "--run", &experiment.path("run")]).expect_success();
}

#[test]
fn boxes_that_may_be_of_the_stored_image_are_told() {
    let experiment = Experiment::new();
    let Some(trained) = train(&experiment, "22b-exif6-square", &[]) else {
        return;
    };
    let trained = trained.expect_success();
    assert!(
        trained.stderr.contains("2 images are turned by EXIF"),
        "{trained:#?}"
    );
    let reported = shared("reported").unwrap();
    for (case, said) in [
        (
            "21-exif6-stored-boxes",
            "the EXIF orientation swaps the sides",
        ),
        (
            "22b-exif6-square",
            "whose size does not tell how the boxes were drawn",
        ),
        ("57-dark16", "16-bit values reach about"),
        ("87-swapped-size-no-exif", "width and height are swapped"),
    ] {
        let folder = reported.join(case);
        let [annotations, images] = ["train.json", "images"].map(|it| folder.join(it));
        let arguments = [
            "--annotations",
            annotations.to_str().unwrap(),
            "--images",
            images.to_str().unwrap(),
        ];
        let checked = run(&[&["dataset", "check"], &arguments[..]].concat());
        assert!(checked.stdout.contains(said), "{case}: {checked:#?}");
        assert!(
            case.starts_with('2') || !checked.stdout.contains("EXIF"),
            "{checked:#?}"
        );
    }
}

#[test]
fn results_are_measured_or_refused_with_one_message() {
    let Some(folder) = shared("reported").map(|it| it.join("70-eval")) else {
        return;
    };
    let measure = |truth: &str, found: &str, more: &[&str]| {
        let [truth, found] = [truth, found].map(|name| folder.join(format!("{name}.json")));
        let arguments = [
            "eval",
            "--annotations",
            truth.to_str().unwrap(),
            "--detections",
            found.to_str().unwrap(),
        ];
        run(&[&arguments[..], more].concat())
    };
    let ap = |finished: &Finished| {
        let line = finished
            .stdout
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        line.split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    };
    for (truth, found, expected) in [
        ("gt", "perfect", "1.000"),
        ("gt", "wrapped", "1.000"),
        ("gt", "float-ids", "1.000"),
        ("gt", "string-ids", "1.000"),
        ("gt", "score-string", "1.000"),
        ("gt", "extra-keys", "1.000"),
        ("gt", "by-file-name", "1.000"),
        ("gt", "empty", "0.000"),
        ("gt", "emptywrapped", "0.000"),
        ("gt-bom", "perfect", "1.000"),
        ("gt-cvat", "perfect", "1.000"),
        ("gt-nosize", "perfect", "1.000"),
        ("gt-id0", "perfect", "1.000"),
        ("gt-empty", "empty", "-"),
    ] {
        let measured = measure(truth, found, &[]).expect_success();
        assert_eq!(ap(&measured), expected, "{truth} {found}: {measured:#?}");
    }
    for (truth, found, said) in [
        ("gt", "off-by-one", "no category with the id 0"),
        ("gt", "unknown-image", "no image with the id 999"),
        ("gt", "score-null", "of detection 0, `score` is null"),
        ("gt-nocat", "perfect", "it has no `categories`"),
    ] {
        measure(truth, found, &[]).expect_refusal(1, &[said]);
    }
    let capped = measure("gt-150", "dt-150", &[]).expect_success();
    assert!(
        capped.stderr.contains("image 1 has 150 objects of a class"),
        "{capped:#?}"
    );
    assert!(ap(&capped).as_str() < "0.700", "{capped:#?}");
    let all = measure("gt-150", "dt-150", &["--max-detections", "150"]).expect_success();
    assert_eq!(ap(&all), "1.000");
    assert!(
        all.stdout.contains("AR150") && all.stderr.is_empty(),
        "{all:#?}"
    );
}

#[test]
fn without_annotations_detections_are_had_and_no_measure() {
    let experiment = Experiment::new();
    let Some(trained) = train(&experiment, "base", &[]) else {
        return;
    };
    trained.expect_success();
    let root = format!(
        "data.root={}",
        shared("reported").unwrap().join("88-image-info").display()
    );
    let run_dir = experiment.path("run");
    let arguments = ["eval", "--run", &run_dir, "--set", &root];
    run(&arguments).expect_refusal(1, &["has no `annotations`", "--write-detections"]);
    let found = experiment.path("found.json");
    let more = ["--write-detections", &found];
    let evaluated = run(&[&arguments[..], &more].concat()).expect_success();
    assert!(
        evaluated.stderr.contains("has no `annotations`"),
        "{evaluated:#?}"
    );
    assert!(fs_err::read_to_string(&found).unwrap().starts_with('['));
}

#[test]
fn validation_may_lack_classes() {
    let experiment = Experiment::new();
    let Some(reported) = shared("reported") else {
        return;
    };
    let val = fs_err::read_to_string(reported.join("base/val.json")).unwrap();
    let mut val: serde_json::Value = serde_json::from_str(&val).unwrap();
    val["categories"]
        .as_array_mut()
        .unwrap()
        .retain(|it| it["id"] == 2);
    val["annotations"]
        .as_array_mut()
        .unwrap()
        .retain(|it| it["category_id"] == 2);
    let path = experiment.path("val.json");
    fs_err::write(&path, val.to_string()).unwrap();
    let subset = format!("data.val.annotations={path}");
    let trained = train(&experiment, "base", &["--set", &subset]).unwrap();
    trained.expect_success();
    let evaluated = run(&["eval", "--run", &experiment.path("run")]).expect_success();
    assert!(evaluated.stdout.contains("red"), "{evaluated:#?}");
}

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
        &["line 1: it holds what is no number"],
    );
    experiment.write(label, "1 0.5 0.5 0.5 0.5");
    refuse(
        "set/train/labels/gone.txt",
        "1 0.5 0.5 0.5 0.5",
        &["gone.txt", "no picture"],
    );
    refuse("set/data.yaml", "names: [a", &["data.yaml"]);
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

#[test]
fn names_of_classes_in_any_script_are_drawn() {
    let Some(reported) = shared("reported") else {
        return;
    };
    let experiment = Experiment::new();
    let (config, out) = (reported.join("tiny.toml"), experiment.path("view"));
    // The same boxes, named by what the font has to draw and by what it would draw for all it lacks.
    let drawn = |name: &str| {
        let train = fs_err::read_to_string(reported.join("94-unicode-classes/train.json")).unwrap();
        let mut train: serde_json::Value = serde_json::from_str(&train).unwrap();
        for category in train["categories"].as_array_mut().unwrap() {
            category["name"] = name.into();
        }
        experiment.write("train.json", &train.to_string());
        let root = format!(
            "data.root={}",
            reported.join("94-unicode-classes").display()
        );
        let file = format!("data.train.annotations={}", experiment.path("train.json"));
        let arguments = [
            "dataset",
            "view",
            config.to_str().unwrap(),
            "--out",
            &out,
            "--set",
            &root,
            "--set",
            &file,
        ];
        run(&arguments).expect_success();
        experiment.bytes("view/before/001.png.png")
    };
    let names = ["红色", "蓝色", "أحمر", "красный", "\u{fffd}\u{fffd}"].map(drawn);
    for (place, picture) in names.iter().enumerate() {
        assert!(
            names[..place].iter().all(|other| other != picture),
            "{place}"
        );
    }
}
