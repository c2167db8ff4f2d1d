//! The experiments and data sets that come with the project.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use retinanet_anchors::{AssignerKind, LowQuality};
use retinanet_criterion::{ClassLossConfig, NormalizerKind};
use retinanet_data::ShortSides;
use retinanet_detector::Predictions;
use retinanet_experiment::{
    BatchSize, ExperimentConfig, Images, Milestones, ScheduleKind, SplitConfig, check_settings,
    config_to_toml, load_config,
};
use retinanet_images::{ChannelStd, Side};
use retinanet_settings::{Count, Whole};
use retinanet_shapes::ShapesConfig;
use retinanet_tests::run;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> ExperimentConfig {
    load_config(&root().join("configs").join(name), &[]).unwrap()
}

#[test]
fn every_config_and_data_set_reads() {
    for folder in ["configs", "datasets"] {
        for entry in fs_err::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                let config = load_config(&path, &[]).unwrap();
                check_settings(&config).unwrap();
            }
        }
    }
}

#[test]
fn detectron2s_recipe_for_torchvisions_backbone_is_the_default() {
    let mut config = read("coco_retinanet_r50_fpn_1x.toml");
    let default = ExperimentConfig::default();
    assert_eq!(config.model, default.model);
    assert_eq!(config.criterion, default.criterion);
    assert_eq!(config.optimizer, default.optimizer);
    assert_eq!(config.schedule.kind, default.schedule.kind);
    assert_eq!(config.schedule.warmup_start, default.schedule.warmup_start);
    let warmups = [&config, &default].map(|config| config.schedule.warmup_iterations());
    assert_eq!(warmups, [1000, 1000]);
    assert_eq!(config.eval, default.eval);
    assert_eq!(config.train.iterations, Some(Count::literal(90_000)));
    config.train.iterations = None;
    config.train.eval_every = None;
    config.train.checkpoint_every = None;
    assert_eq!(config.train, default.train);
}

/// The peers' own files, and sections 3 and 4 of the paper.
#[test]
fn each_recipe_is_its_owners() {
    let length = |name: &str| {
        let config = read(name);
        let train = config.train;
        let ScheduleKind::MultiStep(schedule) = config.schedule.kind else {
            panic!("{name}");
        };
        let milestones = schedule.milestones.get().to_vec();
        let number = |count: Option<Count>| count.map(Count::get);
        (number(train.iterations), number(train.epochs), milestones)
    };
    let one_x = "coco_detectron2_r50_fpn_1x.toml";
    assert_eq!(length(one_x), (Some(90_000), None, vec![60_000, 80_000]));
    assert_eq!(
        length("coco_detectron2_r50_fpn_3x.toml"),
        (Some(270_000), None, vec![210_000, 250_000])
    );
    let mmdetection = "coco_mmdetection_r50_fpn_1x.toml";
    assert_eq!(length(mmdetection), (None, Some(12), vec![8, 11]));
    assert_eq!(
        length("coco_torchvision_v2.toml"),
        (None, Some(26), vec![16, 22])
    );

    let config = read(one_x);
    let resize = config.data.transform.resize;
    assert_eq!(
        resize.short_side.to_pixels(),
        [640, 672, 704, 736, 768, 800]
    );
    assert_eq!(
        config.data.transform.normalization.std,
        [ChannelStd::literal(1.0); 3]
    );
    assert!(config.model.stride_in_1x1);
    assert_eq!(
        (
            config.schedule.warmup_iterations(),
            config.schedule.warmup_start.get()
        ),
        (1000, 0.001)
    );
    assert_eq!(config.criterion.normalizer, NormalizerKind::MovingAverage);

    let config = read(mmdetection);
    let resize = config.data.transform.resize;
    assert_eq!(resize.short_side.to_pixels(), [800]);
    assert_eq!(resize.long_side, 1333);
    assert_eq!(config.schedule.warmup_iterations(), 500);
    assert!(!config.model.relu_before_p7);
    let AssignerKind::MaxIou(matcher) = config.criterion.assigner.kind else {
        panic!("another assigner")
    };
    assert_eq!(matcher.low_quality, LowQuality::Reassign);

    let config = read("coco_paper_r50_fpn_600.toml");
    let resize = config.data.transform.resize;
    assert_eq!(resize.short_side.to_pixels(), [600]);
    assert_eq!(config.schedule.warmup_iterations(), 0);
    assert_eq!(config.criterion.normalizer, NormalizerKind::Batch);
    let AssignerKind::MaxIou(matcher) = config.criterion.assigner.kind else {
        panic!("another assigner")
    };
    assert_eq!(matcher.low_quality, LowQuality::Off);
    assert_eq!(
        (
            config.optimizer.lr.get(),
            config.optimizer.weight_decay.get()
        ),
        (0.01, 1e-4)
    );
    assert_eq!(config.model.head.prior, 0.01);
    assert_eq!(config.criterion.class, ClassLossConfig::default());
}

/// The recipe as it is, on thin networks and tiny images.
fn shrunk(mut config: ExperimentConfig, shapes: &Path) -> ExperimentConfig {
    let split = |name: &str| SplitConfig {
        annotations: format!("{name}.json").into(),
        images: "images".into(),
    };
    shapes.clone_into(&mut config.data.root);
    (config.data.train, config.data.val) = (split("train"), split("val"));
    config.data.synth = Some(ShapesConfig {
        train_images: Whole::literal(6),
        val_images: Whole::literal(2),
        width: Whole::literal(96),
        height: Whole::literal(64),
        ..ShapesConfig::default()
    });
    let transform = &mut config.data.transform;
    transform.resize.short_side = ShortSides::literal(&[64]);
    transform.resize.long_side = Side::literal(96);
    transform.resize.eval_short_side = None;
    transform.padding.batch_shapes.clear();
    config.model.width = Whole::literal(4);
    config.model.fpn_channels = Whole::literal(8);
    config.train.epochs = None;
    config.train.iterations = Some(Count::literal(1));
    config.train.batch_size = BatchSize::Images(Images::literal(2));
    config.train.log_every = Count::literal(1);
    config.train.eval_every = None;
    config.train.checkpoint_every = None;
    if let ScheduleKind::MultiStep(schedule) = &mut config.schedule.kind {
        schedule.milestones = Milestones::default();
    }
    config
}

#[test]
fn every_config_trains_a_step_at_tiny_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut configs = 0;
    for entry in fs_err::read_dir(root().join("configs")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let config = shrunk(load_config(&file, &[]).unwrap(), Path::new(&path("shapes")));
        let (tiny, run_dir) = (path("tiny.toml"), path(&format!("run-{configs}")));
        fs_err::write(&tiny, config_to_toml(&config).unwrap()).unwrap();
        let finished = run(&["train", &tiny, "--run-dir", &run_dir]);
        assert_eq!(finished.code, Some(0), "{}: {finished:#?}", file.display());
        let log = fs_err::read_to_string(Path::new(&run_dir).join("metrics.jsonl")).unwrap();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let step = lines
            .into_iter()
            .find(|line| line["kind"] == "step")
            .unwrap();
        assert!(
            step["class_loss"].as_f64().is_some_and(f64::is_finite),
            "{step}"
        );
        configs += 1;
    }
    assert_eq!(configs, 13);
}

/// Layer by layer, with 80 classes and 9 anchors: the ResNet without its classifier 23 508 032 or
/// 42 500 160; laterals 918 272, outputs 3 · 590 080, P6 4 718 848, P7 590 080; subnets
/// 8 · 590 080, class output 1 659 600, box output 82 980. Each norm's two running statistics
/// count too: 53 120 or 105 344.
#[test]
fn the_papers_networks_are_built_with_the_right_number_of_parameters() {
    use burn::module::Module;

    for (name, parameters) in [
        ("coco_retinanet_r50_fpn_1x.toml", 37_968_692 + 53_120),
        ("coco_retinanet_r101_fpn_1x.toml", 56_960_820 + 105_344),
    ] {
        let model = read(name).model.init(80, 0, &Device::flex()).unwrap();
        assert_eq!(model.num_params(), parameters, "{name}");
    }
}

#[test]
fn the_papers_network_looks_at_an_image() {
    let device = Device::flex();
    let model = read("coco_retinanet_r50_fpn_1x.toml")
        .model
        .init(80, 0, &device)
        .unwrap();
    let Predictions { logits, boxes, .. } = model.forward(Tensor::zeros([1, 3, 64, 96], &device));
    // 9 anchors in each cell of 8×12, 4×6, 2×3, 1×2 and 1×1.
    let anchors = 9 * (96 + 24 + 6 + 2 + 1);
    assert_eq!(logits.dims(), [1, anchors, 80]);
    assert_eq!(boxes.dims(), [1, anchors, 4]);
}

#[test]
fn config_show_prints_what_reads_back_the_same() {
    let path = root().join("configs/quickstart.toml");
    let shown = run(&["config", "show", path.to_str().unwrap(), "--set", "seed=9"]);
    let shown = shown.expect_success().stdout;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.toml");
    fs_err::write(&copy, shown).unwrap();
    let mut expected = load_config(&path, &[]).unwrap();
    expected.seed = Whole::literal(9);
    assert_eq!(load_config(&copy, &[]).unwrap(), expected);
}

/// As the README says to begin one's own.
#[test]
fn a_config_that_is_shown_works_wherever_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/bccd_r18_best.toml");
    let shown = run(&["config", "show", recipe.to_str().unwrap()]).expect_success();
    let own = folder.path().join("my.toml");
    fs_err::write(&own, &shown.stdout).unwrap();
    let again = run(&["config", "show", own.to_str().unwrap()]).expect_success();
    assert_eq!(again.stdout, shown.stdout);
}
