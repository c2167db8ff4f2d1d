use retinanet_criterion::ClassLossConfig;
use retinanet_detector::{Architecture, P6Source};
use retinanet_images::ChannelStd;
use retinanet_settings::{Count, Positive};

use super::*;
use crate::training_config::{AdamwConfig, OptimizerKind, ScheduleKind};

fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(&path, text).unwrap();
    path
}

fn set(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn refusal(text: &str, overrides: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "run.toml", text);
    let error = load_config(&path, &set(overrides)).unwrap_err().to_string();
    error.replace(&path.display().to_string(), "run.toml")
}

#[test]
fn chains_and_doublings_of_files_end() {
    let folder = tempfile::tempdir().unwrap();
    let bases = |index: usize, times: usize| {
        let base = format!("\"{}.toml\"", index + 1);
        format!("extends = [{}]", vec![base; times].join(", "))
    };
    for times in [1, 2] {
        for index in 0..30 {
            write(&folder, &format!("{index}.toml"), &bases(index, times));
        }
        write(&folder, "30.toml", "seed = 1");
        let error = load_config(&folder.path().join("0.toml"), &[]).unwrap_err();
        assert!(error.to_string().contains("too many files"), "{error}");
        let near = load_config(&folder.path().join("28.toml"), &[]).unwrap();
        assert_eq!(near.seed, 1);
    }
}

#[test]
fn what_counts_in_the_other_unit_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[train]\nepochs = 20\nunfreeze_at = 5\neval_every = 2";
    write(&folder, "base.toml", text);
    let set = [("train.iterations".to_owned(), "40".to_owned())];
    let config = load_config(&folder.path().join("base.toml"), &set).unwrap();
    assert_eq!(config.train.unfreeze_at, None);
    assert_eq!(config.train.eval_every, None);
}

#[test]
fn extends_comes_first_then_the_file_then_set() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder,
        "parts/base.toml",
        "seed = 1\n[train]\nbatch_size = 2\niterations = 10\n[optimizer]\nlr = 0.5",
    );
    write(&folder, "parts/data.toml", "[data]\nroot = \"somewhere\"");
    let path = write(
        &folder,
        "runs/run.toml",
        "extends = [\"../parts/data.toml\", \"../parts/base.toml\"]\n\
         [train]\nbatch_size = 3\nepochs = 2\n[data]\nshort_side = 64",
    );
    let overrides = [
        ("model.backbone", "resnet34"),
        ("data.short_side", "[1, 2]"),
    ];
    let config = load_config(&path, &set(&overrides)).unwrap();
    assert_eq!(config.seed, 1);
    assert_eq!(config.optimizer.lr, 0.5);
    assert_eq!(config.train.batch_size.images(), 3);
    assert_eq!(
        (config.train.iterations, config.train.epochs),
        (None, Some(Count::literal(2)))
    );
    assert_eq!(config.data.root, Path::new("somewhere"));
    assert_eq!(config.data.transform.resize.short_side.to_pixels(), [1, 2]);
    assert_eq!(config.model.backbone, Architecture::Resnet34);
}

#[test]
fn a_preset_lies_below_everything_wherever_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "base.toml", "[eval]\nmax_detections = 7");
    let text = "extends = \"base.toml\"\npreset = \"torchvision\"\n[model]\np6_from = \"c5\"";
    let path = write(&folder, "run.toml", text);
    let config = load_config(&path, &[]).unwrap();
    assert_eq!(config.eval.max_detections, 7);
    assert_eq!(config.model.p6_from, P6Source::C5);
    assert!(config.eval.clip_before_nms);

    let other = load_config(&path, &set(&[("preset", "detectron2")])).unwrap();
    assert!(!other.eval.clip_before_nms);
    assert_eq!(
        other.data.transform.normalization.std.map(ChannelStd::get),
        [1.0; 3]
    );
}

#[test]
fn every_preset_is_a_config() {
    for preset in Preset::ALL {
        let named = [(PRESET, Value::try_from(preset).unwrap())];
        let table = Table::from_iter(named.map(|(key, value)| (key.to_owned(), value)));
        let origin = String::new();
        merge_layers(vec![Layer { origin, table }]).unwrap();
    }
    assert_eq!(
        refusal("preset = \"torchvison\"", &[]),
        "run.toml: `preset`: unknown value `torchvison`, did you mean `torchvision`?"
    );
}

fn milestones(config: &ExperimentConfig) -> Vec<u64> {
    let ScheduleKind::MultiStep(config) = &config.schedule.kind else {
        panic!("{:?}", config.schedule)
    };
    config.milestones.get().to_vec()
}

#[test]
fn what_was_counted_in_epochs_does_not_stay_for_iterations() {
    let config = |train: &str| {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("preset = \"mmdetection\"\n[train]\n{train}");
        load_config(&write(&folder, "run.toml", &text), &[]).unwrap()
    };
    let default = milestones(&ExperimentConfig::default());
    assert_eq!(milestones(&config("iterations = 500")), default);
    assert_eq!(milestones(&config("epochs = 24")), [8, 11]);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_right_one() {
    assert_eq!(
        refusal("[model]\nbackbon = \"resnet18\"", &[]),
        "run.toml: unknown key `model.backbon`, did you mean `backbone`?"
    );
    assert_eq!(
        refusal("[criterion.class]\ngama = 2.0", &[]),
        "run.toml: unknown key `criterion.class.gama`, did you mean `gamma`?"
    );
    assert_eq!(
        refusal("", &[("tarin.batch_size", "4")]),
        "--set tarin.batch_size=4: unknown key `tarin`, did you mean `train`?"
    );
}

/// A config with one mistake, and what it is answered with.
const MISTAKES: &[(&str, &str)] = &[
    (
        "[model]\nbackbone = \"resnet5\"",
        "`model.backbone`: unknown value `resnet5`, did you mean `resnet50`?",
    ),
    (
        "[train]\nbatch_size = \"many\"",
        "`train.batch_size` must be a whole number in [1, 65536], or \"auto\", got \"many\"",
    ),
    (
        "[train]\nbatch_size = 0",
        "`train.batch_size` must be in [1, 65536], got 0",
    ),
    (
        "[train]\nepochs = 2.5",
        "`train.epochs` must be a whole number of at least 1, got 2.5",
    ),
    ("seed = -1", "`seed` must be at least 0, got -1"),
    (
        "[optimizer]\nlr = \"high\"",
        "`optimizer.lr` must be a number in [0, 1e6], got \"high\"",
    ),
    (
        "[optimizer]\nlr = nan",
        "`optimizer.lr` must be in [0, 1e6], got NaN",
    ),
    (
        "[optimizer]\nmomentum = 1",
        "`optimizer.momentum` must be in [0, 1), got 1",
    ),
    (
        "[optimizer]\nclip_norm = 0",
        "`optimizer.clip_norm` must be finite and above 0, got 0",
    ),
    (
        "[schedule]\nmilestones = [2, 1]",
        "`schedule.milestones` must be ascending, got [2, 1]",
    ),
    (
        "[data]\nkeep_empty = 1",
        "`data.keep_empty` must be true or false, got 1",
    ),
    (
        "[data]\nroot = 5",
        "`data.root` must be a text in quotes, got 5",
    ),
    (
        "[data]\nshort_side = []",
        "`data.short_side` must be a length in [1, 65535], or a list of such, got an empty list",
    ),
    (
        "[data]\nshort_side = [800, 0]",
        "`data.short_side` must be a length in [1, 65535], or a list of such, got [800, 0]",
    ),
    (
        "[data]\nnormalization = { std = [0.0, 1.0, 1.0] }",
        "`data.normalization.std` must be in [1.2e-38, 1e6], got 0",
    ),
    (
        "[data]\nnormalization = { std = [1.0, 1.0] }",
        "`data.normalization.std` must be a list of 3, each number in [1.2e-38, 1e6], got [1.0, 1.0]",
    ),
    (
        "[data]\nrange_16_bit = [900, 300]",
        "`data.range_16_bit` must be [black, white] of 0 to 65535, the lower value first, got [900, 300]",
    ),
    (
        "[data.augment]\nhorizontal_flip = 1.5",
        "`data.augment.horizontal_flip` must be in [0, 1], got 1.5",
    ),
    (
        "[data]\nsynth = { width = 63 }",
        "`data.synth.width` must be in [64, 4096], got 63",
    ),
    (
        "[criterion.class]\nalpha = 1.5",
        "`criterion.class.alpha` must be a number in [0, 1], a list with one for each class, \"none\" or \
             \"effective_number\", got 1.5",
    ),
    (
        "[criterion.class]\ngamma = 21",
        "`criterion.class.gamma` must be in [0, 20], got 21",
    ),
    (
        "[eval.nms]\niou = 1.5",
        "`eval.nms.iou` must be in [0, 1], got 1.5",
    ),
    (
        "[eval]\nnms = \"hard\"",
        "`eval.nms` must be a table such as `{ kind = \"hard\" }`, got \"hard\"",
    ),
    (
        "criterion.class.kind = 3",
        "`criterion.class.kind` must be one of `focal`, `focal_star`, `cross_entropy`, `balanced_cross_entropy`, \
         `quality_focal`, `varifocal`, \
         got 3",
    ),
    (
        "[model.backbone]\nname = \"resnet18\"",
        "`model.backbone` must be one of `\"resnet18\"`, `\"resnet34\"`, `\"resnet50\"`, `\"resnet101\"`, \
         `\"resnet152\"`, `\"resnext50_32x4d\"`, `\"resnext101_32x8d\"`, `\"wide_resnet50_2\"`, got \
         { name = \"resnet18\" }",
    ),
    (
        "train.epochs.foo = 3",
        "`train.epochs` must be a whole number that is at least 1, got { foo = 3 }",
    ),
    (
        "data.range_16_bit = [0, 70000]",
        "`data.range_16_bit` must be [black, white] of 0 to 65535, the lower value first, got [0, 70000]",
    ),
    (
        "criterion.class.foo = 1",
        "unknown key `criterion.class.foo`; here are `kind`, `alpha`, `gamma`, `label_smoothing`",
    ),
    (
        "criterion.box = { kind = \"ciou\", betta = 0.1 }",
        "unknown key `criterion.box.betta`; here are `kind`, `centerness_weight`, `distribution_weight`, `weigh_by`, `weight`",
    ),
    (
        "optimizer = { name = \"adamw\", kind = \"sgd\" }",
        "`optimizer.name` is `optimizer.kind` since 0.2, and both are given",
    ),
    (
        "batch_size = 4",
        "unknown key `batch_size`, did you mean `train.batch_size`?",
    ),
    (
        "model.backbone = \"res\\nnet\"",
        "`model.backbone`: unknown value `res\\nnet`, did you mean `resnet50`?",
    ),
    ("train = 5", "`train` must be a table of keys, got 5"),
    (
        "[schedule]\nkind = \"cosin\"",
        "`schedule.kind`: unknown value `cosin`, did you mean `cosine`?",
    ),
    (
        "[model.anchors]\nsizes = [32, -1]",
        "`model.anchors.sizes` must be 1 to 64 numbers in [0.001, 1e6], got -1",
    ),
    (
        "[compute]\nthreads = 0",
        "`compute.threads` must be in [1, 1024], got 0",
    ),
];

#[test]
fn each_kind_of_mistake_is_told_with_key_range_and_value() {
    for (text, expected) in MISTAKES {
        assert_eq!(refusal(text, &[]), format!("run.toml: {expected}"));
    }
}

#[test]
fn what_means_nothing_beside_its_kind_is_refused() {
    for (text, expected) in [
        (
            "[criterion.class]\nkind = \"cross_entropy\"\ngamma = 2.0",
            "`criterion.class.gamma` means nothing beside `kind = \"cross_entropy\"`, which has `label_smoothing`",
        ),
        (
            "[criterion.box]\nkind = \"giou\"\nbeta = 0.1",
            "`criterion.box.beta` means nothing beside `kind = \"giou\"`, which has no settings of its own",
        ),
        (
            "[schedule]\nkind = \"cosine\"\npower = 2",
            "`schedule.power` means nothing beside `kind = \"cosine\"`, which has `end_factor`",
        ),
        (
            "[optimizer]\nkind = \"adamw\"\nmomentum = 0.9",
            "`optimizer.momentum` means nothing beside `kind = \"adamw\"`, which has `betas`",
        ),
        (
            "[eval.nms]\nsigma = 0.5",
            "`eval.nms.sigma` means nothing beside `kind = \"hard\"`, which has `iou`",
        ),
    ] {
        assert_eq!(refusal(text, &[]), format!("run.toml: {expected}"));
    }
}

#[test]
fn another_kind_drops_what_belonged_to_the_older_and_keeps_what_all_have() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[schedule]\nmilestones = [5]\nwarmup = 7\n[criterion.class]\ngamma = 1.0\n\
                [optimizer]\nlr = 0.5\nmomentum = 0.8";
    write(&folder, "base.toml", text);
    let text = "extends = \"base.toml\"\n[schedule]\nkind = \"polynomial\"\npower = 2\n\
                [optimizer]\nkind = \"adamw\"";
    let path = write(&folder, "run.toml", text);
    // Neither the order of the options nor that of the keys matters.
    let overrides = [
        ("criterion.class.gamma", "4"),
        ("criterion.class.kind", "focal_star"),
    ];
    let config = load_config(&path, &set(&overrides)).unwrap();
    let ScheduleKind::Polynomial(schedule) = &config.schedule.kind else {
        panic!("{:?}", config.schedule)
    };
    assert_eq!(
        (schedule.power.get(), config.schedule.warmup_iterations()),
        (2.0, 7)
    );
    assert_eq!(config.optimizer.lr, 0.5);
    assert_eq!(
        config.optimizer.kind,
        OptimizerKind::Adamw(AdamwConfig::default())
    );
    let ClassLossConfig::FocalStar(class) = &config.criterion.class else {
        panic!("{:?}", config.criterion.class)
    };
    assert_eq!(class.gamma, 4.0);
}

#[test]
fn the_same_kind_again_keeps_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "base.toml", "[criterion.class]\ngamma = 1.0");
    let text = "extends = \"base.toml\"\n[criterion.class]\nkind = \"focal\"\nalpha = 0.5";
    let config = load_config(&write(&folder, "run.toml", text), &[]).unwrap();
    let ClassLossConfig::Focal(class) = &config.criterion.class else {
        panic!("{:?}", config.criterion.class)
    };
    assert_eq!(class.gamma, 1.0);
}

#[test]
fn the_optimizer_and_the_schedule_may_still_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "run.toml", "[optimizer]\nname = \"adamw\"");
    let overrides = [("schedule.power", "2"), ("schedule.name", "polynomial")];
    let config = load_config(&path, &set(&overrides)).unwrap();
    assert_eq!(
        config.optimizer.kind,
        OptimizerKind::Adamw(AdamwConfig::default())
    );
    assert!(matches!(config.schedule.kind, ScheduleKind::Polynomial(_)));
    assert!(refusal("[optimizer]\nname = \"adam\"", &[]).contains("did you mean `adamw`?"));
}

#[test]
fn keys_of_the_first_version_are_told_by_their_new_names() {
    for (text, expected) in [
        (
            "[criterion]\nmatcher = { foreground = 0.6 }",
            "`criterion.matcher` is `criterion.assigner` since 0.2",
        ),
        (
            "[criterion.class]\nloss = \"focal\"",
            "`criterion.class.loss` is `criterion.class.kind` since 0.2",
        ),
        (
            "[eval]\ndetections = 300",
            "`eval.detections` is `eval.max_detections` since 0.2",
        ),
    ] {
        assert_eq!(refusal(text, &[]), format!("run.toml: {expected}"));
    }
}

#[test]
fn a_fault_in_an_extended_file_names_that_file() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "base.toml", "[train]\nbatchsize = 2");
    let path = write(&folder, "run.toml", "extends = \"base.toml\"");
    let error = load_config(&path, &[]).unwrap_err().to_string();
    assert!(
        error.contains("base.toml: unknown key `train.batchsize`"),
        "{error}"
    );
}

#[test]
fn files_that_extend_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "a.toml", "extends = \"b.toml\"");
    let path = write(&folder, "b.toml", "extends = \"./a.toml\"");
    let error = load_config(&path, &[]).unwrap_err();
    assert!(matches!(error, ConfigError::Circle { .. }), "{error}");
}

#[test]
fn what_is_written_out_reads_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = ExperimentConfig::default();
    config.optimizer.clip_norm = Some(Positive::literal(0.1));
    config.train.epochs = Some(Count::literal(3));
    let path = write(&folder, "whole.toml", &config_to_toml(&config).unwrap());
    assert_eq!(load_config(&path, &[]).unwrap(), config);
}

#[test]
fn no_toml_and_no_file_are_told_with_the_name() {
    assert!(refusal("[train", &[]).starts_with("run.toml: "));
    let missing = Path::new("no/such/run.toml");
    let error = load_config(missing, &[]).unwrap_err();
    let ConfigError::Read(source) = error else {
        panic!("{error}");
    };
    assert!(source.to_string().contains("no/such/run.toml"));
}
