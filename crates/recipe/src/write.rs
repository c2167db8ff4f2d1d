use std::fmt::Write;
use std::path::Path;

use toml::Value;

use crate::length::sides;
use crate::recipe::Recipe;

impl Recipe {
    /// The recipe as a config of at most 40 lines, each setting with its reason.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        self.write_head(&mut text);
        self.write_data(&mut text);
        self.write_model(&mut text);
        self.write_criterion(&mut text);
        self.write_training(&mut text);
        text
    }

    fn write_head(&self, text: &mut String) {
        let facts = &self.facts;
        line(
            text,
            &format!(
                "# Made by `retinanet init` for {} minutes: {} images with {} boxes of {} classes, and {} to evaluate on. \
                 Every key: `retinanet config keys`.",
                self.wishes.minutes, facts.images, facts.boxes, facts.classes, facts.val_images
            ),
        );
        if !self.wishes.on_cpu() {
            let device = Value::from(self.wishes.device.as_str());
            line(text, &format!("compute.device = {device}"));
        }
    }

    fn write_data(&self, text: &mut String) {
        let (halves, facts) = (&self.halves, &self.facts);
        let side = self.length.short_side;
        let sides = sides(side);
        let long = (sides[2] as f64 * facts.aspect.max(1.0)).ceil() as u64;
        line(text, "[data]");
        line(
            text,
            "root = \".\" # paths start from where the program is started",
        );
        line(text, &split("train", &halves.train, &halves.train_images));
        line(text, &split("val", &halves.val, &halves.val_images));
        let reason = format!(
            "of {:.0}: nine of ten boxes are {:.0} pixels and more then",
            facts.short_side,
            facts.small * side as f64
        );
        commented(text, &format!("short_side = {sides:?}"), &reason);
        let (key, reason) = ("long_side", "for all but the longest images");
        commented(text, &format!("{key} = {}", long.max(sides[2])), reason);
        commented(
            text,
            &format!("eval_short_side = {side}"),
            "the middle of the three",
        );
        line(text, "");
    }

    fn write_model(&self, text: &mut String) {
        line(text, "[model]");
        let backbone = &self.wishes.backbone;
        let reason = match backbone.as_str() {
            "resnet18" => "deeper ones take twice as long a step and more",
            "resnet50" => "the paper's",
            _ => "",
        };
        commented(text, &format!("backbone = \"{backbone}\""), reason);
        if let Some(place) = &self.wishes.pretrained {
            let place = Value::from(place.as_str());
            commented(
                text,
                &format!("pretrained = {place}"),
                &self.wishes.pretrained_because,
            );
        }
        commented(
            text,
            "norm = \"batch_norm\"",
            "its statistics follow these images",
        );
        commented(text, "freeze_at = 0", "all of it learns");
        if self.wishes.on_cpu() {
            commented(
                text,
                "fpn_channels = 128",
                "half the paper's: a quarter of the time",
            );
            commented(
                text,
                "head = { depth = 2, norm = \"group_norm\", level_scales = true }",
                "half the paper's, for the same reason",
            );
        } else {
            let head = "head = { norm = \"group_norm\", level_scales = true }";
            commented(text, head, "learns faster than without a norm");
        }
        commented(
            text,
            "anchors = { scales_per_octave = 1, aspect_ratios = [1.0] }",
            "one a cell",
        );
        commented(
            text,
            "box_coder = { kind = \"distances\", bins = 17 }",
            "how far its sides are, as distributions",
        );
        line(text, "");
    }

    fn write_criterion(&self, text: &mut String) {
        let aligned = "the anchors that find a box best learn it";
        let nearest = "the anchors around a box's centre learn it";
        let (assigner, reason, weighing) = if self.wishes.predicts_boxes {
            ("\"task_aligned\", largest_share = 0.33", aligned, "")
        } else {
            ("\"atss\"", nearest, ", weigh_by = \"score\"")
        };
        line(text, "[criterion]");
        commented(text, "normalizer = \"batch\"", "batches are small");
        let assigner = format!("assigner = {{ kind = {assigner} }}");
        commented(text, &assigner, reason);
        let class = "class = { kind = \"quality_focal\" }";
        commented(text, class, "a score is how well its box fits");
        let bbox = format!("box = {{ kind = \"giou\"{weighing} }}");
        commented(text, &bbox, "boxes as they are measured");
        line(text, "");
    }

    fn write_training(&self, text: &mut String) {
        let steps = self.steps();
        line(text, "[optimizer]");
        commented(text, "kind = \"adamw\"", "needs fewer steps than SGD");
        commented(
            text,
            "lr = 0.004",
            "for 16 images at once, in proportion for fewer",
        );
        line(text, "weight_decay = 0.01");
        commented(text, "clip_norm = 10.0", "no single batch decides");
        line(text, "");
        line(text, "[schedule]");
        commented(
            text,
            "kind = \"cosine\"",
            "down to 0 at the end, wherever that is",
        );
        line(text, &format!("warmup = {}", (steps / 10).clamp(1, 100)));
        line(text, "");
        line(text, "[train]");
        let takes = format!(
            "{} steps, about {:.0} minutes",
            steps,
            (self.seconds() / 60.0).ceil()
        );
        commented(text, &format!("iterations = {steps}"), &takes);
        commented(text, &format!("batch_size = {}", self.batch_size()), "");
        let every = steps.div_ceil(self.length.evaluations);
        commented(
            text,
            &format!("eval_every = {every}"),
            "and the best one is kept",
        );
        let decay = average_decay(steps);
        commented(
            text,
            &format!("ema_decay = {decay}"),
            "the mean of the last weights is evaluated",
        );
    }
}

/// A moving average over about a tenth of the steps, and at most 500.
fn average_decay(steps: u64) -> f64 {
    let steps = (steps as f64 / 10.0).clamp(10.0, 500.0);
    let decay = 1.0 - 1.0 / steps;
    (decay * 1_000.0).round() / 1_000.0
}

fn split(name: &str, annotations: &Path, images: &Path) -> String {
    let [annotations, images] =
        [annotations, images].map(|path| Value::from(path.to_string_lossy().into_owned()));
    format!("{name} = {{ annotations = {annotations}, images = {images} }}")
}

fn commented(text: &mut String, setting: &str, reason: &str) {
    if reason.is_empty() {
        line(text, setting);
    } else {
        line(text, &format!("{setting} # {reason}"));
    }
}

fn line(text: &mut String, line: &str) {
    // A text in memory takes all that is written.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use retinanet_experiment::{check_settings, load_config};
    use retinanet_settings::Count;

    use super::*;
    use crate::{Facts, Halves, StepCost, Wishes};

    fn recipe(device: &str, pretrained: Option<&str>) -> Recipe {
        let halves = Halves {
            train: "a \"quoted\" name.json".into(),
            train_images: "photos # of mine".into(),
            val: "val.json".into(),
            val_images: "C:\\photos".into(),
        };
        let facts = Facts {
            images: 205,
            val_images: 87,
            boxes: 2_000,
            val_boxes: 900,
            classes: 3,
            short_side: 480.0,
            aspect: 4.0 / 3.0,
            small: 0.1,
            median: 0.2,
        };
        let wishes = Wishes {
            minutes: 30.0,
            device: device.to_owned(),
            backbone: "resnet18".to_owned(),
            pretrained: pretrained.map(str::to_owned),
            pretrained_because: "there is no network".to_owned(),
            predicts_boxes: pretrained.is_some(),
        };
        let cost = StepCost {
            fixed: 0.01,
            per_pixel: 3e-6,
        };
        Recipe::draft(halves, facts, wishes).that_takes(&cost)
    }

    /// So that whoever starts from the preset has what `init` would have given them.
    #[test]
    fn what_does_not_depend_on_the_data_is_the_preset_for_small_data() {
        let folder = tempfile::tempdir().unwrap();
        let load = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs_err::write(&path, text).unwrap();
            load_config(&path, &[]).unwrap()
        };
        let recipe = recipe("flex", Some("builtin:retinanet_resnet18"));
        let written = load("init.toml", &recipe.to_toml());
        let preset = load("preset.toml", "preset = \"small_data\"");
        assert_eq!(written.model, preset.model);
        assert_eq!(written.criterion, preset.criterion);
        assert_eq!(written.optimizer, preset.optimizer);
        assert_eq!(written.schedule, preset.schedule);
        assert_eq!(written.train.batch_size, preset.train.batch_size);
    }

    #[test]
    fn the_config_is_short_and_read_as_it_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        for (device, pretrained) in [("flex", Some("builtin:retinanet_resnet18")), ("wgpu", None)] {
            let recipe = recipe(device, pretrained);
            let text = recipe.to_toml();
            assert!(text.lines().count() <= 40, "{text}");
            let path = folder.path().join("my.toml");
            fs_err::write(&path, &text).unwrap();
            let config = load_config(&path, &[]).unwrap();
            check_settings(&config).unwrap();
            assert_eq!(config.data.train.annotations, recipe.halves.train);
            assert_eq!(config.data.train.images, recipe.halves.train_images);
            assert_eq!(config.data.val.images, recipe.halves.val_images);
            assert_eq!(config.model.pretrained.as_deref(), pretrained);
            assert_eq!(config.compute.device, device);
            assert_eq!(
                config.train.iterations.map(Count::get),
                Some(recipe.steps())
            );
        }
    }

    #[test]
    fn an_average_covers_a_tenth_of_training() {
        assert_eq!(average_decay(1_000), 0.99);
        assert_eq!(average_decay(100_000), 0.998);
        assert_eq!(average_decay(1), 0.9);
    }
}
