//! Inputs made after public bug reports about other programs, and what a user should see.

use retinanet_tests::{Experiment, Finished, run, shared};

/// Trains on one of the cases; nothing if they are absent.
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
        ("57-dark16", "`range_16_bit = [300, 900]`"),
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

#[test]
fn a_range_of_16_bit_values_goes_along_with_the_detector() {
    let Some(reported) = shared("reported") else {
        return;
    };
    let experiment = Experiment::new();
    let folder = reported.join("57-dark16");
    let config = reported.join("tiny.toml").display().to_string();
    let root = format!("data.root={}", folder.display());
    let set = [
        "--set",
        &root,
        "--set",
        "data.val.annotations=train.json",
        "--set",
        "train.iterations=1",
    ];
    let range = ["--set", "data.range_16_bit=[300, 900]"];
    let check =
        |more: &[&str]| run(&[&["dataset", "check", &config], &set[..], more].concat()).stdout;
    assert!(check(&[]).contains("nearly black"));
    assert!(!check(&range).contains("nearly black"));

    let image = folder.join("images").display().to_string();
    let brightest = |name: &str, more: &[&str]| {
        let (run_directory, out) = (
            experiment.path(name),
            experiment.path(&format!("{name}-drawn")),
        );
        let train = ["train", &config, "--run-dir", &run_directory];
        run(&[&train[..], &set, more].concat()).expect_success();
        let predict = [
            "predict",
            "--run",
            &run_directory,
            &image,
            "--out",
            &out,
            "--score",
            "1",
        ];
        run(&predict).expect_success();
        let mut drawn = fs_err::read_dir(out).unwrap();
        let image = image::open(drawn.next().unwrap().unwrap().path()).unwrap();
        image.to_rgb8().into_raw().into_iter().max().unwrap()
    };
    assert!(brightest("dark", &[]) < 10);
    assert_eq!(brightest("bright", &range), 255);
    let wrong = ["--set", "data.range_16_bit=[900, 300]"];
    let train = ["train", &config, "--run-dir", &experiment.path("no")];
    run(&[&train[..], &set, &wrong].concat())
        .expect_refusal(2, &["data.range_16_bit", "[900, 300]"]);
}

#[test]
fn names_of_classes_in_any_script_are_rendered() {
    let Some(reported) = shared("reported") else {
        return;
    };
    let experiment = Experiment::new();
    let folder = reported.join("94-unicode-classes");
    // The same detections, named by what the font has to render and by what it would render for all it lacks.
    let rendered = |name: &str| {
        let train = fs_err::read_to_string(folder.join("train.json")).unwrap();
        let mut train: serde_json::Value = serde_json::from_str(&train).unwrap();
        for (place, category) in (1..).zip(train["categories"].as_array_mut().unwrap()) {
            category["name"] = format!("{name} {place}").into();
        }
        experiment.write("train.json", &train.to_string());
        let file = experiment.path("train.json");
        let out = experiment.path(&format!("drawn-{name}"));
        let run_directory = experiment.path(&format!("run-{name}"));
        let mut train = vec!["train".to_owned()];
        train.push(reported.join("tiny.toml").display().to_string());
        for set in [
            format!("data.root={}", folder.display()),
            format!("data.train.annotations={file}"),
            format!("data.val.annotations={file}"),
            "train.iterations=1".into(),
            "eval.score_threshold=0".into(),
            "eval.max_detections=20".into(),
        ] {
            train.extend(["--set".into(), set]);
        }
        train.extend(["--run-dir".into(), run_directory.clone()]);
        let train: Vec<&str> = train.iter().map(String::as_str).collect();
        run(&train).expect_success();
        let images = folder.join("images").display().to_string();
        let from = ["predict", "--run", &run_directory, &images, "--out", &out];
        run(&[&from[..], &["--score", "0"]].concat()).expect_success();
        experiment.bytes(&format!("drawn-{name}/001.png"))
    };
    let names = ["红色", "蓝色", "أحمر", "красный", "\u{fffd}\u{fffd}"].map(rendered);
    for (place, picture) in names.iter().enumerate() {
        assert!(
            names[..place].iter().all(|other| other != picture),
            "{place}"
        );
    }
}
