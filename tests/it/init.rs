//! `init`, and `train` on a folder: from photos and annotations to a config and a detector.

use std::path::Path;

use retinanet_tests::{Experiment, Finished, retinanet, shared};
use serde_json::{Value, json};

/// A folder with the built-in shapes, as somebody's own.
fn shapes(images: [u32; 2]) -> Experiment {
    let experiment = Experiment::new();
    let [train, val] = images.map(|count| count.to_string());
    let out = experiment.path("mine");
    let arguments = [
        "dataset",
        "synth",
        "--out",
        &out,
        "--train-images",
        &train,
        "--val-images",
        &val,
        "--width",
        "64",
        "--height",
        "64",
    ];
    retinanet_tests::run(&arguments).expect_success();
    experiment
}

/// Runs the program in the experiment's folder, without a network.
fn at(experiment: &Experiment, arguments: &[&str]) -> Finished {
    let output = retinanet()
        .args(arguments)
        .current_dir(experiment.path("."))
        // A port where nobody listens.
        .env("https_proxy", "http://127.0.0.1:9")
        .env("RETINANET_CACHE", experiment.path("cache"))
        .output();
    output.unwrap().into()
}

fn remove(experiment: &Experiment, name: &str) {
    fs_err::remove_file(experiment.path(name)).unwrap();
}

fn ids(file: &Value) -> Vec<u64> {
    let images = file["images"].as_array().unwrap().iter();
    images.map(|image| image["id"].as_u64().unwrap()).collect()
}

#[test]
fn a_folder_of_coco_becomes_a_short_config_that_trains() {
    let experiment = shapes([12, 4]);
    let told = at(&experiment, &["init", "mine", "--minutes", "0.5"]).expect_success();
    for part in [
        "data: 12 images",
        "check: every image was opened",
        "start: builtin:retinanet_resnet18",
        "anchors: ",
        "plan: input ",
        "config: mine.toml",
        "retinanet train mine.toml",
    ] {
        assert!(told.stdout.contains(part), "no `{part}` in {told:#?}");
    }
    assert!(told.stdout.lines().count() <= 10, "{told:#?}");
    let config = String::from_utf8(experiment.bytes("mine.toml")).unwrap();
    assert!(config.lines().count() <= 40, "{config}");
    // Nothing had to be made.
    assert!(!Path::new(&experiment.path("mine_data")).exists());

    let few = ["--set", "train.iterations=2", "--set", "schedule.warmup=1"];
    let train = [&["train", "mine.toml"][..], &few].concat();
    let trained = at(&experiment, &train).expect_success();
    assert!(
        trained.stderr.contains("class output, which starts afresh"),
        "{trained:#?}"
    );
    assert!(
        (trained.stderr).contains("anchors    around the boxes' centres; ")
            && !trained.stderr.contains("anchors optimize"),
        "{trained:#?}"
    );
    assert!(trained.stdout.contains("runs/mine"), "{trained:#?}");
    at(&experiment, &["init", "mine"]).expect_refusal(2, &["`mine.toml` is there already"]);
}

#[test]
fn images_are_set_aside_where_there_is_nothing_to_evaluate_on() {
    let experiment = shapes([20, 4]);
    remove(&experiment, "mine/val.json");
    let told = at(&experiment, &["init", "mine", "--pretrained", "none"]).expect_success();
    assert!(
        told.stdout.contains("split: one image of 5 is set aside"),
        "{told:#?}"
    );
    let [train, val] = ["train", "val"].map(|name| {
        let half = experiment.json(&format!("mine_data/{name}.json"));
        assert!(!half["annotations"].as_array().unwrap().is_empty());
        ids(&half)
    });
    assert_eq!((train.len(), val.len()), (16, 4));
    assert!(val.iter().all(|id| !train.contains(id)));
}

/// The data set of [`shapes`] in another format, labels and pictures in the folders given, and the names of its pictures.
fn converted(experiment: &Experiment, format: &str, labels: &str, pictures: &str) -> Vec<String> {
    let source = "mine/train.json";
    let convert = ["dataset", "convert", "--from", "coco", "--to", format];
    at(
        experiment,
        &[&convert[..], &[source, "--out", labels]].concat(),
    )
    .expect_success();
    fs_err::create_dir_all(experiment.path(pictures)).unwrap();
    let file = experiment.json(source);
    let images = file["images"].as_array().unwrap().iter();
    images
        .map(|image| {
            let name = image["file_name"].as_str().unwrap();
            let folder = format!("{pictures}/{name}");
            let from = experiment.path(&format!("mine/images/{name}"));
            fs_err::copy(from, experiment.path(&folder)).unwrap();
            name.to_owned()
        })
        .collect()
}

fn names(file: &Value) -> Vec<&str> {
    let images = file["images"].as_array().unwrap().iter();
    images
        .map(|image| image["file_name"].as_str().unwrap())
        .collect()
}

/// VOC's `ImageSets`, and darknet's lists whose paths start from a folder that is elsewhere by now.
#[test]
fn lists_of_halves_are_followed() {
    let experiment = shapes([20, 4]);
    let lines = |names: &[String], of: &dyn Fn(&str) -> String| -> String {
        names.iter().map(|name| of(name) + "\n").collect()
    };
    let voc = converted(&experiment, "voc", "voc", "voc/JPEGImages");
    let stem = |name: &str| name.rsplit_once('.').unwrap().0.to_owned();
    fs_err::create_dir_all(experiment.path("voc/ImageSets/Main")).unwrap();
    experiment.write("voc/ImageSets/Main/train.txt", &lines(&voc[..13], &stem));
    experiment.write("voc/ImageSets/Main/val.txt", &lines(&voc[15..], &stem));

    let dark = converted(&experiment, "yolo", "dark/obj", "dark/obj");
    remove(&experiment, "dark/obj/data.yaml");
    let classes = experiment.json("mine/train.json");
    let classes = classes["categories"].as_array().unwrap().iter();
    let classes = classes.map(|it| format!("{}\n", it["name"].as_str().unwrap()));
    experiment.write("dark/obj.names", &classes.collect::<String>());
    let path = |name: &str| format!("data/obj/{name}");
    experiment.write("dark/train.txt", &lines(&dark[..13], &path));
    experiment.write("dark/valid.txt", &lines(&dark[15..], &path));

    for set in ["voc", "dark"] {
        at(&experiment, &["init", set, "--pretrained", "none"]).expect_success();
        for (half, expected) in [("train", &voc[..13]), ("val", &voc[15..])] {
            let file = experiment.json(&format!("{set}_data/{half}.json"));
            let found: Vec<String> = (names(&file).iter())
                .map(|name| name.rsplit('/').next().unwrap().to_owned())
                .collect();
            assert_eq!(found, expected, "{set}, {half}");
        }
    }

    let convert = ["dataset", "convert", "--to", "coco", "--out", "x.json"];
    let refuse = |more: &[&str], parts: &[&str]| {
        at(&experiment, &[&convert[..], more].concat()).expect_refusal(1, parts);
    };
    let [voc, dark] = ["voc", "yolo"].map(|it| ["--from", it]);
    refuse(
        &[&voc[..], &["voc", "--split", "other"]].concat(),
        &["Main/other.txt"],
    );
    refuse(
        &[&dark[..], &["dark", "--split", "other"]].concat(),
        &["no `other.txt` lists a split `other`"],
    );
    experiment.write("voc/ImageSets/Main/val.txt", "nobody  1\n");
    refuse(
        &[&voc[..], &["voc", "--split", "val"]].concat(),
        &["Main/val.txt", "`nobody`"],
    );
    let coco = ["--from", "coco", "mine/train.json", "--split", "val"];
    refuse(&coco, &["lists no splits"]);
}

#[test]
fn what_a_stopped_init_left_is_made_anew() {
    let experiment = shapes([10, 4]);
    remove(&experiment, "mine/val.json");
    let init = ["init", "mine", "--pretrained", "none"];
    at(&experiment, &init).expect_success();
    remove(&experiment, "mine.toml");
    at(&experiment, &init).expect_success();
    // Somebody else's folder is left alone.
    remove(&experiment, "mine.toml");
    remove(&experiment, "mine_data/made_by_retinanet_init.txt");
    at(&experiment, &init).expect_refusal(2, &["`mine_data` is there already"]);
    assert!(Path::new(&experiment.path("mine_data/train.json")).exists());
}

#[test]
fn a_run_is_a_start_for_another() {
    let experiment = Experiment::new();
    experiment.train("first", &[]).expect_success();
    for place in ["first", "first/checkpoints/last"] {
        let pretrained = format!("model.pretrained={}", experiment.path(place));
        let second = place.replace('/', "_") + "_second";
        let trained = experiment.train(&second, &["--set", &pretrained, "--set", "seed=6"]);
        let trained = trained.expect_success();
        assert!(
            trained.stderr.contains("this program's names"),
            "{trained:#?}"
        );
        assert!(!trained.stderr.contains("afresh"), "{trained:#?}");
    }
}

#[test]
fn weights_without_c5_are_not_frozen_up_to_it() {
    let experiment = Experiment::new();
    experiment.train("first", &[]).expect_success();
    let [first, backbone] = ["first", "backbone.safetensors"].map(|it| experiment.path(it));
    let export = ["export", "--run", &first, "--out", &backbone];
    retinanet_tests::run(&[&export[..], &["--backbone", "--without-c5"]].concat()).expect_success();
    let pretrained = format!("model.pretrained={backbone}");
    let frozen = ["--set", &pretrained, "--set", "model.freeze_at=5"];
    experiment
        .train("second", &frozen)
        .expect_refusal(2, &["`model.freeze_at`", "no C5"]);
}

#[test]
fn what_ships_with_the_program_fits_the_configs_for_cpus_and_its_backbone_all() {
    let experiment = shapes([4, 2]);
    let steps = ["--set", "train.iterations=1", "--set", "schedule.warmup=0"];
    let other = ["--set", "model.fpn_channels=8"];
    for (place, assigner, more, afresh) in [
        (
            "builtin:retinanet_resnet18",
            "task_aligned",
            &[][..],
            &["no class output"][..],
        ),
        (
            "builtin:resnet18",
            "atss",
            &other,
            &["no pyramid", "no class_subnet", "no box_subnet"],
        ),
    ] {
        let name = place.trim_start_matches("builtin:");
        let config = format!("{name}.toml");
        let init = ["init", "mine", "--pretrained", place, "--out", &config];
        at(&experiment, &init).expect_success();
        let text = String::from_utf8(experiment.bytes(&config)).unwrap();
        assert!(text.contains(assigner), "{text}");
        let train = [&["train", &config, "--run-dir", name][..], &steps, more].concat();
        let told = at(&experiment, &train).expect_success();
        let weights = told
            .stderr
            .lines()
            .find(|line| line.starts_with("weights "));
        let weights = weights.unwrap_or_else(|| panic!("{told:#?}"));
        assert_eq!(
            weights.matches("starts afresh").count(),
            afresh.len(),
            "{weights}"
        );
        for part in afresh {
            assert!(weights.contains(part), "{weights}");
        }
        // By its name and not by its place in this machine's cache, so that the run trains elsewhere, too.
        assert!(weights.contains(&format!(" {place}: ")), "{weights}");
        let of_run = String::from_utf8(experiment.bytes(&format!("{name}/config.toml"))).unwrap();
        let named = format!("pretrained = \"{place}\"");
        assert!(of_run.contains(&named), "{of_run}");
    }
    let unfit = [
        &["train", "resnet18.toml", "--run-dir", "unfit"][..],
        &steps,
        &other,
    ]
    .concat();
    let pretrained = ["--set", "model.pretrained=builtin:retinanet_resnet18"];
    at(&experiment, &[&unfit[..], &pretrained].concat())
        .expect_refusal(1, &["pyramid", "do not fit"]);
}

#[test]
fn near_copies_stay_on_one_side() {
    let experiment = shapes([20, 4]);
    remove(&experiment, "mine/val.json");
    let mut all = experiment.json("mine/train.json");
    // Every image once more, brighter: what a video's next frame would be.
    let (images, annotations) = (all["images"].clone(), all["annotations"].clone());
    for image in images.as_array().unwrap() {
        let name = image["file_name"].as_str().unwrap();
        let folder = experiment.path("mine/images");
        let mut copy = image::open(Path::new(&folder).join(name))
            .unwrap()
            .into_rgb8();
        copy.pixels_mut()
            .for_each(|it| it.0 = it.0.map(|value| value.saturating_add(9)));
        copy.save(Path::new(&folder).join(format!("next_{name}")))
            .unwrap();
        let mut record = image.clone();
        record["id"] = json!(100 + image["id"].as_u64().unwrap());
        record["file_name"] = json!(format!("next_{name}"));
        all["images"].as_array_mut().unwrap().push(record);
    }
    for annotation in annotations.as_array().unwrap() {
        let mut record = annotation.clone();
        record["id"] = json!(10_000 + annotation["id"].as_u64().unwrap());
        record["image_id"] = json!(100 + annotation["image_id"].as_u64().unwrap());
        all["annotations"].as_array_mut().unwrap().push(record);
    }
    experiment.write("mine/train.json", &all.to_string());
    let told = at(&experiment, &["init", "mine", "--pretrained", "none"]).expect_success();
    assert!(
        told.stdout.contains("40 images that look like others"),
        "{told:#?}"
    );
    let val = ids(&experiment.json("mine_data/val.json"));
    assert!(!val.is_empty());
    for id in &val {
        let other = if *id > 100 { id - 100 } else { id + 100 };
        assert!(
            val.contains(&other),
            "{id} is parted from its copy: {val:?}"
        );
    }
}

#[test]
fn other_formats_are_taken_as_they_are() {
    let experiment = shapes([12, 4]);
    for format in ["yolo", "voc", "csv"] {
        let folder = experiment.path(&format!("{format}_set"));
        fs_err::create_dir_all(&folder).unwrap();
        let images = match format {
            "voc" => "JPEGImages",
            "yolo" => "images",
            _ => ".",
        };
        let to = Path::new(&folder).join(images);
        fs_err::create_dir_all(&to).unwrap();
        for entry in fs_err::read_dir(experiment.path("mine/images")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("train") {
                fs_err::copy(entry.path(), to.join(name)).unwrap();
            }
        }
        let out = match format {
            "csv" => format!("{format}_set/boxes.csv"),
            "yolo" => format!("{format}_set/labels"),
            _ => format!("{format}_set"),
        };
        let convert = ["dataset", "convert", "--from", "coco", "--to", format];
        let convert = [&convert[..], &["mine/train.json", "--out", &out]].concat();
        at(&experiment, &convert).expect_success();
        let set = format!("{format}_set");
        let init = ["init", &set, "--pretrained", "none", "--minutes", "0.5"];
        let told = at(&experiment, &init).expect_success();
        assert!(told.stdout.contains("data: "), "{told:#?}");
        assert!(told.stdout.contains("4 classes"), "{told:#?}");
        let config = experiment.path(&format!("{format}_set.toml"));
        let check = ["dataset", "check", &config];
        at(&experiment, &check).expect_success();
    }
}

#[test]
fn train_takes_a_folder_and_does_both() {
    let experiment = shapes([4, 2]);
    // Random weights, so that the test costs little; a folder's config starts from others.
    let trained = at(
        &experiment,
        &[
            "train",
            "mine",
            "--minutes",
            "0.5",
            "--set",
            "train.iterations=2",
        ],
    );
    let trained = trained.expect_success();
    assert!(trained.stdout.contains("config: mine.toml"), "{trained:#?}");
    assert!(Path::new(&experiment.path("runs/mine/report.html")).exists());
    at(&experiment, &["train", "mine"]).expect_refusal(2, &["`mine.toml` is there already"]);
    at(&experiment, &["train", "mine.toml", "--minutes", "1"]).expect_refusal(2, &["--minutes"]);
}

#[test]
fn what_cannot_be_trained_on_is_told_in_one_message_and_leaves_nothing() {
    let experiment = shapes([4, 2]);
    let folder = |name: &str| {
        fs_err::create_dir_all(experiment.path(name)).unwrap();
        name.to_owned()
    };
    let refuse = |name: &str, code, parts: &[&str]| {
        let arguments = ["init", name, "--pretrained", "none"];
        at(&experiment, &arguments).expect_refusal(code, parts);
        for left in [format!("{name}.toml"), format!("{name}_data")] {
            assert!(!Path::new(&experiment.path(&left)).exists(), "{left}");
        }
    };
    refuse(
        &folder("empty"),
        2,
        &["has no annotations that are known here"],
    );
    refuse("nowhere", 2, &["there is no `nowhere`"]);

    // One photo: there is nothing to evaluate on.
    let mut one = experiment.json("mine/train.json");
    one["images"].as_array_mut().unwrap().truncate(1);
    let id = one["images"][0]["id"].clone();
    let annotations = one["annotations"].as_array_mut().unwrap();
    annotations.retain(|annotation| annotation["image_id"] == id);
    folder("one/images");
    let name = one["images"][0]["file_name"].as_str().unwrap();
    let [from, to] = ["mine", "one"].map(|set| experiment.path(&format!("{set}/images/{name}")));
    fs_err::copy(from, to).unwrap();
    experiment.write("one/all.json", &one.to_string());
    refuse("one", 2, &["has 1 image"]);
    at(&experiment, &["init", "mine", "--out", "gone/my.toml"]).expect_refusal(2, &["`gone`"]);
    at(&experiment, &["init", "mine", "--out", "my.json"]).expect_refusal(2, &["`.toml`"]);
    at(&experiment, &["init", "mine", "--device", "nothing"]).expect_refusal(2, &["`nothing`"]);
    let wrong = ["init", "mine", "--pretrained", "mine/train.json"];
    at(&experiment, &wrong).expect_refusal(1, &["mine/train.json"]);
    assert!(!Path::new(&experiment.path("mine.toml")).exists());
    let mistaken = ["train", "mine", "--set", "train.epoch=1"];
    at(&experiment, &mistaken).expect_refusal(2, &["train.epoch"]);
    assert!(!Path::new(&experiment.path("mine.toml")).exists());

    folder("cut");
    experiment.write("cut/train.json", r#"{"images": [{"id": 1, "#);
    refuse("cut", 2, &["train.json"]);

    folder("lost");
    experiment.write("lost/train.json", &one.to_string());
    refuse("lost", 2, &["none of the images", "--images"]);

    folder("two");
    for name in ["a", "b"] {
        experiment.write(&format!("two/{name}.json"), &one.to_string());
    }
    refuse("two", 2, &["a.json, b.json", "--annotations"]);

    // A photo that is none.
    folder("broken/images");
    experiment.write(&format!("broken/images/{name}"), "no image");
    experiment.write("broken/train.json", &one.to_string());
    refuse("broken", 1, &["training on `broken/train.json` would fail"]);
}

#[test]
fn every_shared_set_gets_a_config() {
    for set in ["bccd", "cards", "fruits_nuts", "coco_free"] {
        let Some(folder) = shared(set) else { return };
        let experiment = Experiment::new();
        let folder = folder.to_str().unwrap().to_owned();
        let init = ["init", &folder, "--pretrained", "none", "--out", "my.toml"];
        at(&experiment, &init).expect_success();
        let config = ["config", "show", "my.toml"];
        at(&experiment, &config).expect_success();
    }
}
