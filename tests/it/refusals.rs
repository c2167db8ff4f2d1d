//! What cannot work ends in one clear message that names the culprit, and an exit code.

use retinanet_tests::{Experiment, Finished, retinanet, run};

#[test]
fn a_config_with_an_unknown_key() {
    let experiment = Experiment::new();
    let config = experiment.write("bad.toml", "[model]\nbackbon = \"resnet18\"\n");
    run(&["train", &config]).expect_refusal(2, &["bad.toml", "model.backbon", "`backbone`"]);
    run(&["config", "show", &config]).expect_refusal(2, &["bad.toml"]);
}

#[test]
fn an_override_with_an_unknown_key_or_value() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--set", "modle.width=4"])
        .expect_refusal(2, &["modle", "`model`"]);
    experiment
        .train("run", &["--set", "model.backbone=resnet19"])
        .expect_refusal(2, &["model.backbone", "`resnet19`", "`resnet18`"]);
    experiment
        .train("run", &["--set", "train.batch_size=0"])
        .expect_refusal(2, &["`train.batch_size` must be in [1, 65536], got 0"]);
}

#[test]
fn a_config_that_is_not_there() {
    run(&["train", "no/such.toml"]).expect_refusal(2, &["no/such.toml"]);
}

#[test]
fn json_that_is_not_coco() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    for (text, part) in [
        ("not json at all", "train.json"),
        ("{\"shapes\": []}", "train.json"),
        ("[]", "train.json"),
    ] {
        experiment.write("other.json", text);
        experiment
            .train("bad", &["--set", "data.train.annotations=../other.json"])
            .expect_refusal(1, &[&part.replace("train", "other")]);
    }
}

#[test]
fn batch_shapes_without_room_and_augmentation_out_of_range() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    for (set, parts) in [
        (
            "data.batch_shapes=[[32, 64]]",
            ["`data.batch_shapes`", "none has room for 64×64"],
        ),
        (
            "data.batch_shapes=[[64, 50]]",
            ["`data.batch_shapes`", "50"],
        ),
        (
            "data.augment.mixup.alpha=0.0",
            ["`data.augment.mixup.alpha`", "in (0, 100]"],
        ),
        (
            "data.repeat_threshold=1.5",
            ["`data.repeat_threshold`", "1.5"],
        ),
        ("data.prefetch=0", ["`data.prefetch`", "in [1, 4096]"]),
        (
            "data.augment.mosiac.probability=0.5",
            ["data.augment.mosiac", "mosaic"],
        ),
    ] {
        (experiment.train("bad", &["--set", set])).expect_refusal(2, &parts);
    }
}

#[test]
fn an_image_that_is_missing() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    fs_err::remove_file(experiment.path("data/images/train_00002.png")).unwrap();
    experiment
        .train("bad", &[])
        .expect_refusal(1, &["train_00002.png"]);
}

#[test]
fn an_image_that_is_cut_short() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let image = experiment.path("data/images/train_00002.png");
    let bytes = fs_err::read(&image).unwrap();
    fs_err::write(&image, &bytes[..bytes.len() / 2]).unwrap();
    experiment
        .train("bad", &[])
        .expect_refusal(1, &["train_00002.png"]);
}

#[test]
fn a_class_that_the_weights_do_not_know() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let mut val = experiment.json("data/val.json");
    let categories = val["categories"].as_array_mut().unwrap();
    categories.push(serde_json::json!({ "id": 99, "name": "hexagon" }));
    // Listed, it is harmless; an object of it could never be found.
    experiment.write("data/listed.json", &val.to_string());
    val["annotations"][0]["category_id"] = 99.into();
    experiment.write("data/five.json", &val.to_string());

    let root = experiment.path("run");
    let eval = |file: &str| {
        let set = format!("data.val.annotations={file}");
        run(&["eval", "--run", &root, "--set", &set])
    };
    eval("listed.json").expect_success();
    eval("five.json").expect_refusal(1, &["five.json", "category 99 `hexagon` is unknown"]);
}

#[test]
fn weights_of_another_model() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let (root, weights) = (experiment.path("run"), experiment.path("w.safetensors"));
    run(&["export", "--run", &root, "--out", &weights]).expect_success();
    let config = experiment.path("run/config.toml");
    let eval = |set: &str| {
        run(&[
            "eval",
            "--weights",
            &weights,
            "--config",
            &config,
            "--set",
            set,
        ])
    };
    eval("model.width=8").expect_refusal(1, &["w.safetensors", "do not fit"]);
}

#[test]
fn a_device_that_is_not_there() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--device", "gpu"])
        .expect_refusal(2, &["`gpu`", "flex"]);
    experiment
        .train("run", &["--device", "wgpu:7"])
        .expect_refusal(2, &["`wgpu:7`"]);
    experiment
        .train("run", &["--device", "ndarray"])
        .expect_refusal(2, &["ndarray", "not compiled in"]);
}

#[test]
fn a_run_directory_that_already_holds_another_run() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let before = experiment.bytes("run/metrics.jsonl");
    experiment
        .train("run", &[])
        .expect_refusal(2, &["already holds a run", "--resume"]);
    experiment
        .train("run", &["--resume", "--set", "optimizer.lr=0.5"])
        .expect_refusal(2, &["optimizer.lr"]);
    assert_eq!(experiment.bytes("run/metrics.jsonl"), before);
}

#[test]
fn a_run_that_is_not_there() {
    run(&["eval", "--run", "no/such/run"]).expect_refusal(2, &["no/such/run"]);
    run(&["eval"]).expect_refusal(2, &["--run"]);
}

#[test]
fn an_image_to_predict_that_is_not_there_or_no_image() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let root = experiment.path("run");
    run(&["predict", "--run", &root, "no/such.png"]).expect_refusal(1, &["no/such.png"]);
    let text = experiment.write("text.png", "no image");
    let out = experiment.path("out");
    run(&["predict", "--run", &root, &text, "--out", &out]).expect_refusal(1, &["text.png"]);
}

/// Without a network the file is named, and where it may be put; no run is begun.
#[test]
fn weights_on_the_hub_that_cannot_be_fetched() {
    let experiment = Experiment::new();
    let refused = |place: &str| {
        let (config, run) = (experiment.path("tiny.toml"), experiment.path("run"));
        let pretrained = format!("model.pretrained={place}");
        let finished = retinanet()
            .args(["train", &config, "--run-dir", &run, "--set", &pretrained])
            // A port where nobody listens.
            .env("HF_ENDPOINT", "http://127.0.0.1:9")
            .env("RETINANET_CACHE", experiment.path("cache"))
            .output();
        assert!(!std::path::Path::new(&run).exists());
        Finished::from(finished.unwrap())
    };
    let finished = refused("hf:timm/resnet18.tv_in1k");
    let put = experiment.path("cache/hf/timm/resnet18.tv_in1k/model.safetensors");
    finished.expect_refusal(1, &["timm/resnet18.tv_in1k", "without a network", &put]);
    refused("hf:nowhere").expect_refusal(2, &["hf:nowhere", "hf:OWNER/NAME/FILE"]);
}

#[test]
fn what_is_no_config_is_answered_with_what_to_do() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let (data, run_dir) = (experiment.path("data"), experiment.path("run"));
    let photos = experiment.path("data/images");
    let begun = "already holds a run of 6 of 6 steps";
    for (path, code, parts) in [
        (&photos, 2, &["has no annotations that are known"][..]),
        (
            &experiment.path("data/train.json"),
            2,
            &["holds annotations", "`data.train.annotations`"],
        ),
        (&run_dir, 2, &[begun, "retinanet train --resume"]),
    ] {
        run(&["train", path]).expect_refusal(code, parts);
    }
    let config = format!(
        "[data]\nroot = {data:?}\ntrain = {{ annotations = \"gone.json\", images = \"images\" }}"
    );
    experiment.write("plain.toml", &config);
    let plain = experiment.path("plain.toml");
    run(&["train", &plain]).expect_refusal(
        2,
        &["gone.json", "there is no such file", "train.json, val.json"],
    );
    run(&["train", &plain, "--set", "data.root=nowhere"])
        .expect_refusal(2, &["`nowhere`, which is not a folder"]);
}

#[test]
fn a_run_goes_on_without_its_config() {
    let experiment = Experiment::new();
    experiment
        .train("run", &["--set", "train.iterations=2"])
        .expect_success();
    let run_dir = experiment.path("run");
    let resumed =
        run(&["train", "--resume", &run_dir, "--set", "train.iterations=4"]).expect_success();
    assert!(resumed.stderr.contains("step 4/4"), "{resumed:#?}");
}
