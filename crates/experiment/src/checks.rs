//! The rules across sections: what can be told from the config alone, and not from one number.

use retinanet_settings::SettingError;

use crate::config::ExperimentConfig;
use crate::error::ExperimentError;
use crate::training_config::{BatchSize, ScheduleKind};

/// Checks what can be told from the config alone.
///
/// # Errors
///
/// Returns an error with the keys that break a rule.
pub fn check_settings(config: &ExperimentConfig) -> Result<(), ExperimentError> {
    check_ignored_crops(config)?;
    check_length(config)?;
    check_warmup(config)?;
    check_synth(config)?;
    config.anchor_generator()?;
    config.target_assigner()?;
    config.criterion()?;
    config.data.transform()?;
    Ok(())
}

fn refuse<T>(path: &str, allowed: &str, got: impl std::fmt::Display) -> Result<T, ExperimentError> {
    Err(ExperimentError::Setting(SettingError::new(
        path, allowed, got,
    )))
}

fn check_ignored_crops(config: &ExperimentConfig) -> Result<(), ExperimentError> {
    let augment = &config.data.transform.augment;
    let ignores = augment.cuts() && augment.min_kept_area.get() > 0.0;
    if ignores && !config.criterion.assigner.ignore_crowds {
        return refuse(
            "data.augment.min_kept_area",
            "0 where `criterion.assigner.ignore_crowds` is off: what a crop leaves of a box would be \
             learnt as background",
            augment.min_kept_area,
        );
    }
    Ok(())
}

fn check_length(config: &ExperimentConfig) -> Result<(), ExperimentError> {
    let train = &config.train;
    if train.iterations.is_some() && train.epochs.is_some() {
        return Err(ExperimentError::TwoLengths);
    }
    if let BatchSize::Images(images) = train.batch_size
        && !images.get().is_multiple_of(train.accumulate.get())
    {
        let allowed = "a divisor of `train.batch_size`";
        return refuse("train.accumulate", allowed, train.accumulate);
    }
    Ok(())
}

fn check_warmup(config: &ExperimentConfig) -> Result<(), ExperimentError> {
    let schedule = &config.schedule;
    let warmup = schedule.warmup.filter(|warmup| warmup.get() > 0);
    match (&schedule.kind, warmup) {
        (ScheduleKind::OneCycle(_), Some(warmup)) => refuse(
            "schedule.warmup",
            "0 or left out beside `kind = \"one_cycle\"`, which has a rise of its own",
            warmup,
        ),
        _ => Ok(()),
    }
}

fn check_synth(config: &ExperimentConfig) -> Result<(), ExperimentError> {
    match &config.data.synth {
        Some(synth) if synth.hard && synth.textured => refuse(
            "data.synth.textured",
            "false beside `hard = true`: these are two kinds of images",
            synth.textured,
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use retinanet_settings::{Count, Share, Whole};
    use retinanet_shapes::ShapesConfig;

    use super::*;
    use crate::training_config::{Images, OneCycleConfig};

    fn refusal(change: impl Fn(&mut ExperimentConfig)) -> String {
        let mut config = ExperimentConfig::default();
        change(&mut config);
        check_settings(&config).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_break_no_rule() {
        check_settings(&ExperimentConfig::default()).unwrap();
    }

    #[test]
    fn each_rule_across_sections_is_told_with_its_keys() {
        let both = refusal(|config| {
            config.train.iterations = Some(Count::literal(1));
            config.train.epochs = Some(Count::literal(1));
        });
        assert!(both.contains("both given"), "{both}");
        assert_eq!(
            refusal(|config| {
                config.train.batch_size = BatchSize::Images(Images::literal(4));
                config.train.accumulate = Count::literal(3);
            }),
            "`train.accumulate` must be a divisor of `train.batch_size`, got 3"
        );
        let crops = refusal(|config| {
            config.data.transform.augment.crop.probability = Share::literal(0.5);
            config.criterion.assigner.ignore_crowds = false;
        });
        assert!(
            crops.starts_with("`data.augment.min_kept_area` must be 0"),
            "{crops}"
        );
        let warmup = refusal(|config| {
            config.schedule.kind = ScheduleKind::OneCycle(OneCycleConfig::default());
            config.schedule.warmup = Some(Whole::literal(100));
        });
        assert!(
            warmup.starts_with("`schedule.warmup` must be 0 or left out"),
            "{warmup}"
        );
        let synth = refusal(|config| {
            config.data.synth = Some(ShapesConfig {
                hard: true,
                textured: true,
                ..ShapesConfig::default()
            });
        });
        assert!(
            synth.starts_with("`data.synth.textured` must be false"),
            "{synth}"
        );
    }

    #[test]
    fn settings_that_do_not_fit_each_other_are_told_with_their_path() {
        let anchors = refusal(|config| {
            config.model.anchors.sizes = retinanet_anchors::Lengths::literal(&[32.0]);
        });
        assert!(
            anchors.starts_with("`model.anchors.sizes` must be of one entry"),
            "{anchors}"
        );
        let scores = refusal(|config| {
            config.model.head.scores = retinanet_detector::ClassScores::Softmax;
            config.criterion.class = retinanet_criterion::ClassLossConfig::FocalStar(
                retinanet_criterion::FocalStarConfig::default(),
            );
        });
        assert!(
            scores.starts_with("`criterion.class.kind` must be `focal` or a"),
            "{scores}"
        );
    }
}
