//! Looking data and anchors over before training.

use retinanet_tests::{Experiment, run, shared};
use serde_json::Value;

use crate::training::losses;

/// The findings of `dataset check`, kind by kind, with the ids of the first few.
fn findings(report: &Value) -> Vec<(String, Vec<u64>)> {
    let findings = report["findings"].as_array().unwrap().iter();
    let ids = |finding: &Value| {
        let examples = finding["examples"].as_array().unwrap().iter();
        examples.filter_map(|it| it["id"].as_u64()).collect()
    };
    findings
        .map(|it| (it["kind"].as_str().unwrap().to_owned(), ids(it)))
        .collect()
}

#[test]
fn the_clean_half_of_a_set_passes_and_the_raw_one_names_its_empty_box() {
    let Some(bccd) = shared("bccd") else { return };
    let experiment = Experiment::new();
    let json = experiment.path("report.json");
    let images = bccd.join("images");
    let check = |annotations: &str, more: &[&str]| {
        let annotations = bccd.join(annotations);
        let from = [
            "dataset",
            "check",
            "--annotations",
            annotations.to_str().unwrap(),
        ];
        let with = ["--images", images.to_str().unwrap(), "--json", &json];
        run(&[&from[..], &with[..], more].concat())
    };
    check("val.json", &[]).expect_success();
    check("train.json", &["--annotations-only"]).expect_success();

    for (file, id) in [("train_raw.json", 2288), ("val_raw.json", 3692)] {
        check(file, &["--annotations-only"]);
        let found = findings(&experiment.json("report.json")[0]);
        assert!(
            found.contains(&("degenerate_box".to_owned(), vec![id])),
            "{found:?}"
        );
    }

    let fixed = experiment.path("fixed.json");
    let more = ["--annotations-only", "--fix", &fixed];
    let repaired = check("train_raw.json", &more).expect_success().stdout;
    assert!(repaired.contains("2288"), "{repaired}");
    let arguments = [
        "--annotations",
        &fixed,
        "--images",
        images.to_str().unwrap(),
    ];
    run(&[&["dataset", "check", "--annotations-only"][..], &arguments].concat()).expect_success();
}

#[test]
fn a_missing_image_and_a_shared_one_fail_and_are_named() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--set", "train.iterations=1"])
        .expect_success();
    let config = experiment.path("tiny.toml");
    run(&["dataset", "check", &config]).expect_success();

    let images = experiment.path("data/images");
    fs_err::copy(
        format!("{images}/train_00000.png"),
        format!("{images}/val_00000.png"),
    )
    .unwrap();
    fs_err::remove_file(format!("{images}/train_00003.png")).unwrap();
    let checked = run(&["dataset", "check", &config]);
    checked.expect_refusal(1, &["train.json"]);
    for name in ["train_00003.png", "val_00000.png"] {
        assert!(checked.stdout.contains(name), "no {name} in {checked:#?}");
    }
}

#[test]
fn better_anchors_are_proposed_and_reach_more_boxes() {
    let Some(bccd) = shared("bccd") else { return };
    let experiment = Experiment::new();
    let root = bccd.to_str().unwrap().replace('\\', "/");
    let data = format!("[data]\nroot = \"{root}\"\nshort_side = 240\nlong_side = 480\n");
    let config = experiment.write("bccd.toml", &data);
    let reached = |config: &str| {
        let json = experiment.path("report.json");
        run(&["anchors", "report", config, "--json", &json]).expect_success();
        let all = &experiment.json("report.json")["all"];
        assert_eq!(all["boxes"].as_u64(), Some(2804));
        all["foreground"].as_u64().unwrap()
    };
    let before = reached(&config);
    let patch = run(&["anchors", "optimize", &config])
        .expect_success()
        .stdout;
    let better = experiment.write("better.toml", &format!("{data}{patch}"));
    let after = reached(&better);
    assert!(after > before + 100, "{before} boxes before, {after} after");

    let out = experiment.path("drawn");
    let view = ["anchors", "view", &config, "--images", "2", "--out", &out];
    run(&view).expect_success();
    assert_eq!(fs_err::read_dir(&out).unwrap().count(), 2);
}

#[test]
fn an_image_that_breaks_stops_training_by_name_or_is_skipped_and_counted() {
    let experiment = Experiment::new();
    experiment
        .train("first", &["--set", "train.iterations=1"])
        .expect_success();
    let broken = experiment.path("data/images/train_00002.png");
    fs_err::write(&broken, b"no picture").unwrap();

    experiment
        .train("stops", &[])
        .expect_refusal(1, &["train_00002.png"]);
    // Six images in batches of two: twice in six steps.
    let skips = experiment.train("skips", &["--set", "data.on_bad_image=skip"]);
    let skips = skips.expect_success();
    assert!(skips.stdout.contains("could not be read: 2;"), "{skips:#?}");
    let log = String::from_utf8(experiment.bytes("skips/log.txt")).unwrap();
    assert_eq!(log.matches("train_00002.png").count(), 2, "{log}");
}

#[test]
fn a_split_has_every_image_once_and_its_statistics_add_up() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--set", "train.iterations=1"])
        .expect_success();
    let (whole, json) = (
        experiment.path("data/train.json"),
        experiment.path("stats.json"),
    );
    let [large, small] = ["large.json", "small.json"].map(|name| experiment.path(name));
    let parts = [format!("{large}=0.67"), format!("{small}=0.33")];
    let arguments = [
        "dataset", "split", &whole, "--part", &parts[0], "--part", &parts[1],
    ];
    run(&arguments).expect_success();

    let boxes = |file: &str| {
        run(&["dataset", "stats", file, "--json", &json]).expect_success();
        let stats = experiment.json("stats.json");
        ["images", "boxes"].map(|key| stats[key].as_u64().unwrap())
    };
    let [all, large, small] = [&whole, &large, &small].map(|file| boxes(file));
    assert_eq!([large[0], small[0]], [4, 2]);
    assert_eq!(large[1] + small[1], all[1]);

    let uneven = format!("{}=0.5", experiment.path("uneven.json"));
    run(&["dataset", "split", &whole, "--part", &uneven]).expect_refusal(1, &["shares", "0.5"]);
}

#[test]
fn boxes_survive_other_formats_and_the_way_back() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--set", "train.iterations=1"])
        .expect_success();
    let (whole, images) = (
        experiment.path("data/train.json"),
        experiment.path("data/images"),
    );
    // By image and class, since ids are numbered anew.
    let boxes = |file: &str| {
        let data = experiment.json(file);
        let list = |key: &str| data[key].as_array().unwrap().clone();
        let name = |list: &[Value], id: &Value, key: &str| {
            let found = list.iter().find(|it| it["id"] == *id).unwrap();
            found[key].as_str().unwrap().to_owned()
        };
        let (pictures, categories) = (list("images"), list("categories"));
        let mut boxes: Vec<(String, String, Vec<f64>)> = list("annotations")
            .iter()
            .map(|it| {
                let edges = it["bbox"].as_array().unwrap().iter();
                (
                    name(&pictures, &it["image_id"], "file_name"),
                    name(&categories, &it["category_id"], "name"),
                    edges.map(|edge| edge.as_f64().unwrap()).collect(),
                )
            })
            .collect();
        boxes.sort_by(|a, b| a.partial_cmp(b).unwrap());
        boxes
    };
    let expected = boxes("data/train.json");
    for (format, tolerance) in [("voc", 1.0), ("yolo", 1e-2), ("csv", 1e-9)] {
        let (there, back) = (experiment.path(format), experiment.path("back.json"));
        let convert = |from: &str, to: &str, source: &str, out: &str| {
            let formats = ["dataset", "convert", "--from", from, "--to", to];
            let places = [source, "--out", out, "--images", &images];
            run(&[&formats[..], &places].concat()).expect_success();
        };
        convert("coco", format, &whole, &there);
        convert(format, "coco", &there, &back);
        let found = boxes("back.json");
        assert_eq!(found.len(), expected.len(), "{format}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!((&found.0, &found.1), (&expected.0, &expected.1), "{format}");
            for (edge, expected) in found.2.iter().zip(&expected.2) {
                assert!((edge - expected).abs() <= tolerance, "{format}: {found:?}");
            }
        }
    }
    let nothing = experiment.path("run");
    let from = [
        "dataset", "convert", "--from", "voc", "--to", "coco", &nothing,
    ];
    run(&[&from[..], &["--out", &experiment.path("x.json")]].concat())
        .expect_refusal(1, &["no images"]);
}

/// Everything that training images can be done to, often.
const VARIED: [&str; 6] = [
    "data.augment.vertical_flip=0.5",
    "data.augment.crop.probability=0.5",
    "data.augment.jitter={ probability = 0.3, size = [96, 64] }",
    "data.augment.photometric.probability=0.5",
    "data.augment.mosaic.probability=0.3",
    "data.augment.mixup.probability=0.3",
];

fn varied() -> Vec<&'static str> {
    VARIED.iter().flat_map(|set| ["--set", *set]).collect()
}

#[test]
fn a_page_shows_images_as_they_are_and_as_training_sees_them() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--set", "train.iterations=1"])
        .expect_success();
    let config = experiment.path("tiny.toml");
    let view = |out: &str, more: &[&str]| {
        let out = experiment.path(out);
        let from = ["dataset", "view", &config, "--out", &out, "--images", "3"];
        run(&[&from[..], &varied(), more].concat()).expect_success();
        let mut pictures = Vec::new();
        for folder in ["before", "after"] {
            for entry in fs_err::read_dir(format!("{out}/{folder}")).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&out).unwrap().display().to_string();
                pictures.push((name, fs_err::read(path).unwrap()));
            }
        }
        pictures.sort();
        pictures
    };
    let pictures = view("view", &["--epochs", "2"]);
    assert_eq!(pictures.len(), 3 + 3 * 2);
    let page = String::from_utf8(experiment.bytes("view/index.html")).unwrap();
    for (name, _) in &pictures {
        assert!(page.contains(&format!("\"file\":\"{name}\"")), "{name}");
    }
    assert!(page.contains("[data.augment.mosaic]"), "{page}");
    assert_ne!(pictures[0].1, pictures[1].1, "each epoch varies");

    assert_eq!(view("again", &["--epochs", "2"]), pictures);
    assert_eq!(view("val", &["--split", "val"]).len(), 3 + 3);
}

#[test]
fn the_page_begins_with_the_most_suspicious_image_and_says_why() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--set", "train.iterations=1"])
        .expect_success();
    let train = experiment.path("data/train.json");
    let mut annotations: Value = serde_json::from_slice(&fs_err::read(&train).unwrap()).unwrap();
    // The last image's first box twice.
    let image = annotations["images"].as_array().unwrap().last().unwrap();
    let (id, name) = (image["id"].clone(), image["file_name"].clone());
    let list = annotations["annotations"].as_array_mut().unwrap();
    let mut copy = (list.iter().find(|it| it["image_id"] == id))
        .unwrap()
        .clone();
    copy["id"] = 1_000_000.into();
    list.push(copy);
    fs_err::write(&train, annotations.to_string()).unwrap();

    let (config, out) = (experiment.path("tiny.toml"), experiment.path("view"));
    let view = ["dataset", "view", &config, "--out", &out, "--images", "2"];
    run(&view).expect_success();
    let page = String::from_utf8(experiment.bytes("view/index.html")).unwrap();
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    let first = &data["images"][0];
    assert_eq!(first["file_name"], name, "{first}");
    assert_eq!(first["findings"][0]["severity"], "warning", "{first}");
    let boxes = first["views"][0]["objects"].as_array().unwrap();
    assert_eq!(boxes[0]["bbox"].as_array().unwrap().len(), 4);
    assert_eq!(data["images"][1]["findings"], serde_json::json!([]));

    // Again it writes the same files; files of others are not mixed with, nor written over.
    run(&view).expect_success();
    experiment.write("view/index.html", "a page of mine");
    run(&view).expect_refusal(2, &["a file that is none", "--yes"]);
    assert_eq!(experiment.bytes("view/index.html"), b"a page of mine");
}

#[test]
fn training_on_varied_images_is_the_same_with_any_loader_and_when_resumed() {
    let experiment = Experiment::new();
    let train = |run: &str, more: &[&str]| {
        let shapes = ["--set", "data.batch_shapes=[[64, 64], [96, 96]]"];
        let repeats = ["--set", "data.repeat_threshold=0.9"];
        let arguments = [&varied()[..], &shapes, &repeats, more].concat();
        experiment.train(run, &arguments)
    };
    train("whole", &[]).expect_success();
    let other = ["data.workers=3", "data.prefetch=5", "data.cache_mib=1"];
    let other: Vec<_> = other.iter().flat_map(|set| ["--set", *set]).collect();
    train("other", &other).expect_success();
    assert_eq!(losses(&experiment, "other"), losses(&experiment, "whole"));

    let last = experiment.path("whole/checkpoints/last");
    fs_err::remove_dir_all(last).unwrap();
    let resumed = train("whole", &[&other[..], &["--resume"]].concat()).expect_success();
    assert!(resumed.stderr.contains("step-4, step 4"), "{resumed:#?}");
    assert_eq!(losses(&experiment, "whole"), losses(&experiment, "other"));

    let plain = experiment.train("plain", &[]).expect_success();
    assert_ne!(
        losses(&experiment, "plain"),
        losses(&experiment, "whole"),
        "{plain:#?}"
    );
}
