//! Weights in and out: other programs' files, other formats, other numbers of classes.

use burn::tensor::TensorData;
use retinanet_tests::{Experiment, Finished, run};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

/// A run of a few steps, and its best weights in this program's names.
fn trained() -> Experiment {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    export(&experiment, "native.safetensors", &[]);
    experiment
}

fn export(experiment: &Experiment, out: &str, more: &[&str]) {
    let (run_dir, out) = (experiment.path("run"), experiment.path(out));
    let mut arguments = vec!["export", "--run", &run_dir, "--out", &out];
    arguments.extend(more);
    run(&arguments).expect_success();
}

fn import(experiment: &Experiment, file: &str, out: &str, more: &[&str]) -> Finished {
    let (file, out) = (experiment.path(file), experiment.path(out));
    let config = experiment.path("run/config.toml");
    let mut arguments = vec!["import", &file, "--config", &config, "--out", &out];
    arguments.extend(more);
    run(&arguments)
}

#[test]
fn other_programs_names_come_back_to_the_same_bytes() {
    let experiment = trained();
    let annotations = experiment.path("data/train.json");
    for names in ["torchvision", "detectron2"] {
        export(&experiment, "there", &["--names", names]);
        let back = import(
            &experiment,
            "there",
            "back",
            &["--annotations", &annotations],
        );
        let said = back.expect_success().stdout;
        assert!(said.contains(&format!("{names}'s names")), "{said}");
        assert_eq!(
            experiment.bytes("back"),
            experiment.bytes("native.safetensors")
        );
    }
}

/// They would load, and be taken for something else.
#[test]
fn what_other_programs_have_no_word_for_is_kept_in_ones_own_names_alone() {
    let experiment = Experiment::new();
    for (setting, key) in [
        ("model.head.scores=softmax", "model.head.scores"),
        ("model.head.centerness=true", "model.head.centerness"),
        ("model.bottom_up_path=true", "model.bottom_up_path"),
        ("model.head.level_scales=true", "model.head.level_scales"),
        ("model.box_coder.kind=distances", "model.box_coder.kind"),
    ] {
        let name = key.replace('.', "_");
        let few = ["--set", "train.iterations=1", "--set", "schedule.warmup=0"];
        let train = [&few[..], &["--set", setting]].concat();
        experiment.train(&name, &train).expect_success();
        let (run_dir, out) = (experiment.path(&name), experiment.path("there"));
        for names in ["torchvision", "detectron2"] {
            let export = ["export", "--run", &run_dir, "--names", names, "--out", &out];
            run(&export).expect_refusal(2, &[key, "--names native"]);
        }
        run(&["export", "--run", &run_dir, "--out", &out]).expect_success();
        fs_err::remove_file(&out).unwrap();
    }
}

#[test]
fn burnpack_and_safetensors_evaluate_alike_and_convert_without_loss() {
    let experiment = trained();
    export(&experiment, "native.bpk", &["--format", "burnpack"]);
    let config = experiment.path("run/config.toml");
    let evaluate = |weights: &str| {
        let weights = experiment.path(weights);
        let arguments = ["eval", "--weights", &weights, "--config", &config];
        run(&arguments).expect_success().stdout
    };
    assert_eq!(evaluate("native.bpk"), evaluate("native.safetensors"));

    let (weights, out) = (experiment.path("native.bpk"), experiment.path("back"));
    let from = ["export", "--weights", &weights, "--config", &config];
    run(&[&from[..], &["--out", &out]].concat()).expect_success();
    assert_eq!(
        experiment.bytes("back"),
        experiment.bytes("native.safetensors")
    );
}

#[test]
fn weights_in_eight_bits_are_worth_what_was_measured() {
    let experiment = trained();
    let (run_dir, out) = (experiment.path("run"), experiment.path("small.safetensors"));
    let export = ["export", "--run", &run_dir, "--quantize", "--out", &out];
    let few = ["--calibration-images", "3", "--most-lost", "1"];
    let said = run(&[&export[..], &few].concat()).expect_success().stdout;
    let (config, json) = (
        experiment.path("run/config.toml"),
        experiment.path("eval.json"),
    );
    let eval = [
        "eval",
        "--weights",
        &out,
        "--config",
        &config,
        "--json",
        &json,
    ];
    run(&eval).expect_success();
    let ap = experiment.json("eval.json")["metrics"]["AP"]
        .as_f64()
        .unwrap();
    assert!(said.contains(&format!("in eight bits {ap:.4}")), "{said}");
    let sizes = ["small.safetensors", "native.safetensors"].map(|it| experiment.bytes(it).len());
    assert!(sizes[0] < sizes[1] / 2, "{sizes:?}");

    let again = experiment.path("again.safetensors");
    let of_file = [
        "export",
        "--weights",
        &out,
        "--config",
        &config,
        "--quantize",
        "--out",
        &again,
    ];
    run(&of_file).expect_refusal(2, &["in eight bits already"]);
    for more in [
        &["--format", "onnx"][..],
        &["--format", "burnpack"],
        &["--names", "torchvision"],
        &["--backbone"],
    ] {
        let arguments = [
            &["export", "--run", &run_dir, "--quantize", "--out", "x"][..],
            more,
        ];
        run(&arguments.concat()).expect_refusal(2, &["--quantize"]);
    }
    assert!(!std::path::Path::new(&again).exists());
}

#[test]
fn weights_of_another_architecture_list_what_does_not_fit() {
    let experiment = trained();
    export(&experiment, "there", &["--names", "torchvision"]);
    let deeper = ["--set", "model.backbone=resnet34"];
    import(&experiment, "there", "back", &deeper)
        .expect_refusal(1, &["layer1.2.conv1.weight` is missing"]);
    let wider = ["--set", "model.head.depth=0"];
    import(&experiment, "there", "back", &wider)
        .expect_refusal(1, &["classification_head.conv.0.0.weight` is left over"]);
    assert!(!std::path::Path::new(&experiment.path("back")).exists());
}

#[test]
fn a_backbone_alone_goes_from_run_to_run() {
    let experiment = trained();
    export(&experiment, "backbone", &["--backbone"]);
    export(
        &experiment,
        "burnpack",
        &["--backbone", "--format", "burnpack"],
    );
    let pretrained = format!("model.pretrained={}", experiment.path("burnpack"));
    let frozen = ["model.freeze_at=5", "model.norm=frozen_batch_norm"];
    let more = ["--set", &pretrained, "--set", frozen[0], "--set", frozen[1]];
    let said = experiment.train("other", &more).expect_success().stderr;
    for part in ["pyramid", "class_subnet", "box_subnet"] {
        let sentence = format!("the file has no {part}, which starts afresh");
        assert!(said.contains(&sentence), "{said}");
    }

    let (run_dir, again) = (experiment.path("other"), experiment.path("again"));
    run(&["export", "--run", &run_dir, "--backbone", "--out", &again]).expect_success();
    assert_eq!(experiment.bytes("again"), experiment.bytes("backbone"));

    let of_torchvision = ["--names", "torchvision", "--out", &again];
    let arguments = [
        &["export", "--run", &run_dir, "--backbone"][..],
        &of_torchvision,
    ];
    run(&arguments.concat()).expect_refusal(2, &["--backbone", "--names"]);
}

#[test]
fn training_starts_from_a_detector_and_says_what_starts_afresh() {
    let experiment = trained();
    let pretrained = format!("model.pretrained={}", experiment.path("native.safetensors"));
    let more = ["--set", &pretrained, "--set", "train.iterations=1"];
    let same = experiment.train("same", &more).expect_success();
    assert!(!same.stderr.contains("afresh"), "{same:#?}");

    // With a class more, only the class output cannot be taken over.
    let mut data = experiment.json("data/train.json");
    let categories = data["categories"].as_array_mut().unwrap();
    categories.push(serde_json::json!({"id": 99, "name": "another"}));
    let classes = categories.len();
    experiment.write("data/train.json", &data.to_string());
    let mut val = experiment.json("data/val.json");
    val["categories"] = data["categories"].clone();
    experiment.write("data/val.json", &val.to_string());
    let other = experiment.train("other", &more).expect_success();
    let sentence = format!(
        "the file tells {} classes apart and the model {classes}, so the class output starts afresh",
        classes - 1
    );
    assert!(other.stderr.contains(&sentence), "{other:#?}");
}

#[test]
fn training_starts_from_a_classifiers_backbone() {
    let experiment = trained();
    export(&experiment, "there", &["--names", "torchvision"]);
    backbone(&experiment, "resnet", |name| !name.is_empty());
    let pretrained = format!("model.pretrained={}", experiment.path("resnet"));
    let more = ["--set", &pretrained, "--set", "train.iterations=1"];
    let started = experiment.train("again", &more).expect_success();
    for part in [
        "a backbone in torchvision's or timm's names",
        "no pyramid",
        "no class_subnet",
        "left over: fc.weight",
    ] {
        assert!(started.stderr.contains(part), "no `{part}` in {started:#?}");
    }

    // Half a backbone is none.
    backbone(&experiment, "resnet", |name| !name.starts_with("layer3."));
    let refused = experiment.train("never", &more);
    refused.expect_refusal(1, &["layer3.0.conv1.weight` is missing"]);
    assert!(!std::path::Path::new(&experiment.path("never")).exists());
}

/// Takes the backbone out of a detector in torchvision's names, and adds a classifier's last layer.
fn backbone(experiment: &Experiment, out: &str, keep: impl Fn(&str) -> bool) {
    let bytes = experiment.bytes("there");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let classifier = TensorData::new(vec![0.5_f32; 8], [2, 4]);
    let mut views: Vec<(String, TensorView<'_>)> = tensors
        .iter()
        .filter_map(|(name, view)| {
            let name = name.strip_prefix("backbone.body.")?;
            keep(name).then(|| (name.to_owned(), view))
        })
        .collect();
    let view = TensorView::new(Dtype::F32, vec![2, 4], classifier.as_bytes()).unwrap();
    views.push(("fc.weight".to_owned(), view));
    serialize_to_file(views, None, experiment.path(out).as_ref()).unwrap();
}

/// `scripts/make_pytorch_fixtures.py` saved the same thin ResNet-18 in three ways.
#[test]
fn files_of_pytorch_and_pickles_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/pytorch");
    let experiment = Experiment::new();
    let config = experiment.write(
        "thin.toml",
        "[model]\nbackbone = \"resnet18\"\nwidth = 2\nfpn_channels = 4\n",
    );
    let read = |name: &str| {
        let (file, out) = (format!("{folder}/{name}"), experiment.path(name));
        let said = run(&["import", &file, "--config", &config, "--out", &out]).expect_success();
        assert!(said.stdout.contains("fc.weight"), "{said:#?}");
        experiment.bytes(name)
    };
    let expected = read("resnet18_thin.safetensors");
    for name in ["resnet18_thin.pth", "resnet18_thin_legacy.pt"] {
        assert_eq!(read(name), expected, "{name}");
    }

    let cut = experiment.path("cut.pth");
    let whole = fs_err::read(format!("{folder}/resnet18_thin.pth")).unwrap();
    fs_err::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let out = experiment.path("out");
    run(&["import", &cut, "--config", &config, "--out", &out]).expect_refusal(1, &["cut.pth"]);
}

#[test]
fn weights_that_are_no_numbers_are_refused_wherever_they_are_read() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let (trained, file) = (experiment.path("run"), experiment.path("whole.safetensors"));
    run(&["export", "--run", &trained, "--out", &file]).expect_success();
    let whole = experiment.bytes("whole.safetensors");
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&whole[8..8 + length]).unwrap();
    for (kind, value) in [("running_mean", f32::NAN), ("running_var", f32::INFINITY)] {
        let tensors = header.as_object().unwrap();
        let (_, tensor) = tensors
            .iter()
            .find(|(name, _)| name.ends_with(kind))
            .unwrap();
        let start = 8 + length + tensor["data_offsets"][0].as_u64().unwrap() as usize;
        let mut spoiled = whole.clone();
        spoiled[start..start + 4].copy_from_slice(&value.to_le_bytes());
        let path = experiment.path("spoiled.safetensors");
        fs_err::write(&path, spoiled).unwrap();

        let parts = [kind, &value.to_string()];
        let config = experiment.path("tiny.toml");
        run(&["eval", "--weights", &path, "--config", &config]).expect_refusal(1, &parts);
        let pretrained = format!("model.pretrained={path}");
        let refused = experiment.train("other", &["--set", &pretrained]);
        refused.expect_refusal(1, &parts);
    }
}

#[test]
fn a_class_output_of_other_classes_is_told() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let weights = experiment.path("w.safetensors");
    run(&[
        "export",
        "--run",
        &experiment.path("run"),
        "--out",
        &weights,
    ])
    .expect_success();
    let pretrained = format!("model.pretrained={weights}");
    let same = experiment.train("same", &["--set", &pretrained]);
    let same = same.expect_success();
    assert!(!same.stderr.contains("other classes"), "{same:#?}");
    for split in ["train", "val"] {
        let path = format!("data/{split}.json");
        let mut file = experiment.json(&path);
        file["categories"][1]["name"] = "cake".into();
        experiment.write(&format!("data/{split}2.json"), &file.to_string());
    }
    let others = [
        "--set",
        &pretrained,
        "--set",
        "data.train.annotations=train2.json",
        "--set",
        "data.val.annotations=val2.json",
    ];
    let others = experiment.train("others", &others).expect_success();
    assert!(
        others.stderr.contains("was learnt for other classes"),
        "{others:#?}"
    );
    assert!(others.stderr.contains("is `cake`"), "{others:#?}");
}
