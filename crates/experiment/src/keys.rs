//! The table of all keys: what each means and may be, its unit, and whether a run that goes on may change it.

use std::sync::LazyLock;

use crate::schema::schema_keys;

pub(crate) use crate::schema::TAG;

/// A key of the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    /// The key with its sections, such as `train.batch_size`.
    pub path: String,
    /// The kinds of its section that it stands beside; all where there are none.
    pub kinds: Vec<String>,
    /// What it may be.
    pub value: String,
    /// What it is where nothing says otherwise, as TOML; empty if that is not a value.
    pub default: String,
    /// What it means.
    pub meaning: String,
    /// What it is counted in; empty for what is not counted.
    pub unit: &'static str,
    /// Whether a run that goes on may change it.
    pub resume: Resume,
}

impl ConfigKey {
    /// The key without its sections.
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// The section that it is in; empty for the config itself.
    pub fn section(&self) -> &str {
        self.path
            .rsplit_once('.')
            .map_or("", |(section, _)| section)
    }

    /// Whether it means something beside this kind of its section.
    pub(crate) fn stands_beside(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|it| it == kind)
    }

    pub(crate) fn is_beside_a_kind_of(&self, section: &str) -> bool {
        !self.kinds.is_empty() && self.section() == section
    }
}

/// Whether a run that goes on may change a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// No: it decides how the weights move.
    No,
    /// Yes: a step stays what it was.
    Yes,
    /// In the same unit, unless the learning rate follows the length.
    Length,
    /// Once there is a checkpoint, which has the weights.
    AfterCheckpoint,
}

/// All keys of the config, in the order of its sections.
pub fn config_keys() -> &'static [ConfigKey] {
    static KEYS: LazyLock<Vec<ConfigKey>> = LazyLock::new(|| {
        let keys = schema_keys().into_iter();
        keys.map(|key| {
            let entry = TABLE.iter().find(|(path, ..)| *path == key.path);
            let (_, unit, resume) = entry.copied().unwrap_or(("", "", Resume::No));
            ConfigKey {
                path: key.path,
                kinds: key.kinds,
                value: key.value,
                default: key.default,
                meaning: key.meaning,
                unit,
                resume,
            }
        })
        .collect()
    });
    &KEYS
}

/// The keys that are counted in the unit of training's length, and so mean something else in the other.
pub(crate) fn in_units_of_length() -> impl Iterator<Item = &'static ConfigKey> {
    let is_length = |key: &&ConfigKey| matches!(key.resume, Resume::Length);
    let keys = config_keys().iter().filter(|key| key.unit == LENGTH);
    keys.filter(move |key| !is_length(key))
}

/// Whether a run that goes on may change a key, by its path. A key of an array's table is the array's.
pub fn resume_of(path: &str) -> Resume {
    let holds = |(key, ..): &&(&str, &str, Resume)| {
        path.strip_prefix(key)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    TABLE
        .iter()
        .find(holds)
        .map_or(Resume::No, |(_, _, resume)| *resume)
}

/// Sections whose [`TAG`] was called `name` in 0.1. It meant the same, and is still read.
pub(crate) const NAMED: [&str; 2] = ["optimizer", "schedule"];

/// Keys of 0.1 that have another name or place now.
pub(crate) const MOVED: [(&str, &str); 7] = [
    ("criterion.class.loss", "criterion.class.kind"),
    ("criterion.box.loss", "criterion.box.kind"),
    ("criterion.matcher", "criterion.assigner"),
    ("eval.top_k", "eval.pre_nms_top_k"),
    ("eval.nms_iou", "eval.nms.iou"),
    ("eval.nms_sigma", "eval.nms.sigma"),
    ("eval.detections", "eval.max_detections"),
];

const LENGTH: &str = "iterations or epochs";

/// Of every key its unit, and whether a run that goes on may change it. What the key means and may be is said by the
/// struct that owns it.
const TABLE: &[(&str, &str, Resume)] = &[
    ("compute.device", "", Resume::Yes),
    ("compute.gradient_checkpointing", "", Resume::Yes),
    ("compute.precision", "", Resume::Yes),
    ("compute.threads", "threads", Resume::Yes),
    ("compute.winograd", "", Resume::No),
    (
        "criterion.assigner.anchors_per_object",
        "anchors",
        Resume::No,
    ),
    ("criterion.assigner.background", "IoU", Resume::No),
    ("criterion.assigner.candidates", "cells", Resume::No),
    (
        "criterion.assigner.crowd_overlap",
        "share of the anchor",
        Resume::No,
    ),
    ("criterion.assigner.foreground", "IoU", Resume::No),
    ("criterion.assigner.ignore_crowds", "", Resume::No),
    ("criterion.assigner.kind", "", Resume::No),
    (
        "criterion.assigner.largest_share",
        "share of the anchors inside",
        Resume::No,
    ),
    ("criterion.assigner.low_quality", "", Resume::No),
    ("criterion.assigner.min_low_quality", "IoU", Resume::No),
    ("criterion.assigner.overlap_power", "", Resume::No),
    ("criterion.assigner.score_power", "", Resume::No),
    ("criterion.box.beta", "units of the deltas", Resume::No),
    ("criterion.box.centerness_weight", "", Resume::No),
    ("criterion.box.distribution_weight", "", Resume::No),
    ("criterion.box.kind", "", Resume::No),
    ("criterion.box.weigh_by", "", Resume::No),
    ("criterion.box.weight", "", Resume::No),
    ("criterion.class.alpha", "", Resume::No),
    ("criterion.class.beta", "", Resume::No),
    ("criterion.class.gamma", "", Resume::No),
    ("criterion.class.kind", "", Resume::No),
    ("criterion.class.label_smoothing", "", Resume::No),
    ("criterion.normalizer", "", Resume::No),
    ("criterion.sampling.examples", "anchors", Resume::No),
    ("criterion.sampling.kind", "", Resume::No),
    (
        "criterion.sampling.negatives_per_positive",
        "anchors",
        Resume::No,
    ),
    ("criterion.sampling.nms_iou", "IoU", Resume::No),
    ("data.augment.copy_paste.max_scale", "", Resume::No),
    ("data.augment.copy_paste.min_scale", "", Resume::No),
    ("data.augment.copy_paste.most", "objects", Resume::No),
    (
        "data.augment.copy_paste.probability",
        "probability",
        Resume::No,
    ),
    (
        "data.augment.crop.min_side",
        "share of the side",
        Resume::No,
    ),
    ("data.augment.crop.probability", "probability", Resume::No),
    ("data.augment.horizontal_flip", "probability", Resume::No),
    ("data.augment.jitter.max_scale", "", Resume::No),
    ("data.augment.jitter.min_scale", "", Resume::No),
    ("data.augment.jitter.probability", "probability", Resume::No),
    ("data.augment.jitter.size", "pixels", Resume::No),
    (
        "data.augment.min_kept_area",
        "share of the area",
        Resume::No,
    ),
    ("data.augment.mixup.alpha", "", Resume::No),
    ("data.augment.mixup.probability", "probability", Resume::No),
    ("data.augment.mosaic.probability", "probability", Resume::No),
    ("data.augment.photometric.brightness", "", Resume::No),
    ("data.augment.photometric.contrast", "", Resume::No),
    ("data.augment.photometric.hue", "full circles", Resume::No),
    (
        "data.augment.photometric.probability",
        "probability",
        Resume::No,
    ),
    ("data.augment.photometric.saturation", "", Resume::No),
    ("data.augment.vertical_flip", "probability", Resume::No),
    ("data.batch_shapes", "pixels", Resume::No),
    ("data.cache_mib", "MiB", Resume::Yes),
    ("data.eval_short_side", "pixels", Resume::No),
    ("data.group_by_aspect", "", Resume::No),
    ("data.interpolation", "", Resume::No),
    ("data.keep_empty", "", Resume::No),
    ("data.labels", "", Resume::No),
    ("data.long_side", "pixels", Resume::No),
    ("data.max_megapixels", "megapixels", Resume::No),
    ("data.normalization.channels", "", Resume::No),
    ("data.normalization.mean", "values of pixels", Resume::No),
    ("data.normalization.std", "values of pixels", Resume::No),
    ("data.on_bad_image", "", Resume::Yes),
    ("data.prefetch", "batches", Resume::Yes),
    ("data.range_16_bit", "values of pixels", Resume::No),
    ("data.repeat_threshold", "share of the images", Resume::No),
    ("data.root", "", Resume::Yes),
    ("data.short_side", "pixels", Resume::No),
    ("data.size_divisor", "pixels", Resume::No),
    ("data.size_rounding", "", Resume::No),
    ("data.synth.hard", "", Resume::No),
    ("data.synth.height", "pixels", Resume::No),
    ("data.synth.max_objects", "objects", Resume::No),
    ("data.synth.seed", "", Resume::No),
    ("data.synth.textured", "", Resume::No),
    ("data.synth.train_images", "images", Resume::No),
    ("data.synth.val_images", "images", Resume::No),
    ("data.synth.width", "pixels", Resume::No),
    ("data.train.annotations", "", Resume::No),
    ("data.train.images", "", Resume::No),
    ("data.val.annotations", "", Resume::Yes),
    ("data.val.images", "", Resume::Yes),
    ("data.workers", "threads", Resume::Yes),
    ("eval.class_agnostic", "", Resume::Yes),
    ("eval.clip_before_nms", "", Resume::Yes),
    ("eval.coarsest_score_threshold", "score", Resume::Yes),
    ("eval.drop_empty", "", Resume::Yes),
    ("eval.max_detections", "detections", Resume::Yes),
    ("eval.nms.iou", "IoU", Resume::Yes),
    ("eval.nms.kind", "", Resume::Yes),
    ("eval.nms.sigma", "", Resume::Yes),
    ("eval.pre_nms_top_k", "candidates", Resume::Yes),
    ("eval.score_threshold", "score", Resume::Yes),
    ("model.anchors.aspect_ratios", "height ÷ width", Resume::No),
    ("model.anchors.center", "", Resume::No),
    ("model.anchors.levels", "", Resume::No),
    ("model.anchors.order", "", Resume::No),
    ("model.anchors.rounding", "", Resume::No),
    ("model.anchors.scales_per_octave", "sizes", Resume::No),
    ("model.anchors.sizes", "pixels", Resume::No),
    ("model.anchors.spacing", "", Resume::No),
    ("model.backbone", "", Resume::No),
    ("model.bottom_up_path", "", Resume::No),
    ("model.box_coder.bins", "values", Resume::No),
    ("model.box_coder.kind", "", Resume::No),
    ("model.box_coder.limit_shrinking", "", Resume::No),
    (
        "model.box_coder.units_per_side",
        "units of distance",
        Resume::No,
    ),
    ("model.box_coder.weights", "", Resume::No),
    ("model.finest_level", "", Resume::No),
    ("model.fpn_channels", "channels", Resume::No),
    ("model.freeze_at", "stages", Resume::No),
    ("model.head.centerness", "", Resume::No),
    ("model.head.channels", "channels", Resume::No),
    ("model.head.conv_bias", "", Resume::No),
    ("model.head.depth", "layers", Resume::No),
    ("model.head.level_scales", "", Resume::No),
    ("model.head.norm", "", Resume::No),
    ("model.head.prior", "probability", Resume::No),
    ("model.head.scores", "", Resume::No),
    ("model.norm", "", Resume::No),
    ("model.norm_epsilon", "", Resume::No),
    ("model.p6_from", "", Resume::No),
    ("model.pretrained", "", Resume::AfterCheckpoint),
    ("model.relu_before_p7", "", Resume::No),
    ("model.stride_in_1x1", "", Resume::No),
    ("model.width", "channels", Resume::No),
    ("optimizer.backbone_lr_factor", "", Resume::No),
    ("optimizer.betas", "", Resume::No),
    ("optimizer.bias_lr_factor", "", Resume::No),
    ("optimizer.bias_weight_decay", "", Resume::No),
    ("optimizer.clip_norm", "", Resume::No),
    ("optimizer.kind", "", Resume::No),
    ("optimizer.lr", "", Resume::No),
    ("optimizer.momentum", "", Resume::No),
    ("optimizer.norm_weight_decay", "", Resume::No),
    ("optimizer.reference_batch", "images", Resume::No),
    ("optimizer.weight_decay", "", Resume::No),
    ("preset", "", Resume::No),
    ("schedule.end_factor", "", Resume::No),
    ("schedule.factor", "", Resume::No),
    ("schedule.kind", "", Resume::No),
    ("schedule.milestones", LENGTH, Resume::No),
    ("schedule.peak_at", "share of the training", Resume::No),
    ("schedule.power", "", Resume::No),
    ("schedule.start_factor", "", Resume::No),
    ("schedule.warmup", "iterations", Resume::No),
    ("schedule.warmup_start", "", Resume::No),
    ("seed", "", Resume::No),
    ("train.accumulate", "micro-batches", Resume::No),
    ("train.batch_size", "images", Resume::No),
    ("train.best_metric", "", Resume::No),
    ("train.checkpoint_every", LENGTH, Resume::Yes),
    ("train.checkpoint_minutes", "minutes", Resume::Yes),
    ("train.ema_decay", "", Resume::No),
    ("train.epochs", "epochs", Resume::Length),
    ("train.eval_every", LENGTH, Resume::Yes),
    ("train.iterations", "iterations", Resume::Length),
    ("train.keep_last", "checkpoints", Resume::Yes),
    ("train.log_every", "iterations", Resume::Yes),
    ("train.max_skipped", "steps", Resume::Yes),
    ("train.memory_share", "share of the memory", Resume::Yes),
    ("train.on_nonfinite", "", Resume::Yes),
    ("train.patience", "evaluations", Resume::Yes),
    ("train.unfreeze_at", LENGTH, Resume::No),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::{Table, Value};

    use super::*;
    use crate::ExperimentConfig;

    #[test]
    fn the_table_has_every_key_once_and_no_other() {
        let keys: BTreeSet<&str> = config_keys().iter().map(|key| key.path.as_str()).collect();
        let table: Vec<&str> = TABLE.iter().map(|(path, ..)| *path).collect();
        assert_eq!(table, keys.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn every_key_has_a_meaning_and_says_what_it_may_be() {
        for key in config_keys() {
            assert!(!key.meaning.is_empty(), "{}", key.path);
            assert!(!key.value.is_empty(), "{}", key.path);
            assert!(
                !key.meaning.contains("Default:"),
                "{}: {}",
                key.path,
                key.meaning
            );
        }
    }

    /// Every key of a written config, by its path.
    fn written(table: &Table, section: &str, into: &mut Vec<(String, Value)>) {
        for (name, value) in table {
            let path = crate::schema::join(section, name);
            match value {
                Value::Table(table) => written(table, &path, into),
                value => into.push((path, value.clone())),
            }
        }
    }

    #[test]
    fn the_defaults_are_the_config_s() {
        let table = Table::try_from(ExperimentConfig::default()).unwrap();
        let mut all = Vec::new();
        written(&table, "", &mut all);
        assert!(all.len() > 90, "{all:?}");
        for (path, value) in all {
            let kind = |key: &&ConfigKey| {
                let tag = format!("{}.{TAG}", key.section());
                let tag = config_keys().iter().find(|it| it.path == tag);
                tag.is_none_or(|tag| key.stands_beside(tag.default.trim_matches('"')))
            };
            let mut entries = config_keys().iter().filter(|key| key.path == path);
            let key = entries.find(kind).unwrap_or_else(|| panic!("{path}"));
            let default: Table = format!("value = {}", key.default).parse().unwrap();
            match (&default["value"], &value) {
                // JSON has one kind of number.
                (Value::Integer(a), Value::Float(b)) => assert_eq!(*a as f64, *b, "{path}"),
                (a, b) => assert_eq!(a.to_string(), b.to_string(), "{path}"),
            }
        }
    }

    #[test]
    fn a_run_that_goes_on_may_change_how_it_is_watched_and_not_how_it_learns() {
        assert_eq!(resume_of("eval.nms.iou"), Resume::Yes);
        assert_eq!(resume_of("data.val.annotations"), Resume::Yes);
        assert_eq!(resume_of("train.epochs"), Resume::Length);
        assert_eq!(resume_of("optimizer.lr"), Resume::No);
        assert_eq!(resume_of("no.such.key"), Resume::No);
    }
}
