//! Checks of settings that are one number each.

use crate::config::ExperimentConfig;
use crate::error::ExperimentError;
use crate::training_config::{BatchSize, OptimizerConfig, ScheduleConfig, TrainConfig};

/// Checks what can be told from the config alone.
///
/// # Errors
///
/// Returns an error with the key that is out of its range, what the config says, and what it may say.
pub fn check_settings(config: &ExperimentConfig) -> Result<(), ExperimentError> {
    let augment = &config.data.augment;
    if augment.cuts() && augment.min_kept_area > 0.0 && !config.criterion.matcher.ignore_crowds {
        return Err(ExperimentError::out_of_range(
            "data.augment.min_kept_area",
            augment.min_kept_area,
            "0 where `criterion.matcher.ignore_crowds` is off: what a crop leaves of a box would be \
             learnt as background",
        ));
    }
    check_train(&config.train)?;
    for (key, got, most) in [
        ("compute.threads", config.compute.threads, 1024),
        ("data.workers", Some(config.data.workers.max(1)), 256),
        (
            "data.prefetch",
            config.data.prefetch.map(|it| it.max(1)),
            4096,
        ),
    ] {
        within(key, got.unwrap_or(1) as u64, most)?;
    }
    check_optimizer(&config.optimizer)?;
    check_schedule(&config.schedule)
}

fn at_least_one(key: &'static str, got: u64) -> Result<(), ExperimentError> {
    (got >= 1)
        .then_some(())
        .ok_or_else(|| ExperimentError::out_of_range(key, got, "at least 1"))
}

/// Refuses what is below 1, or more than anyone means.
fn within(key: &'static str, got: u64, most: u64) -> Result<(), ExperimentError> {
    let allowed = match most {
        256 => "in [1, 256]",
        1024 => "in [1, 1024]",
        4096 => "in [1, 4096]",
        _ => "in [1, 65536]",
    };
    if (1..=most).contains(&got) {
        Ok(())
    } else {
        Err(ExperimentError::out_of_range(key, got, allowed))
    }
}

/// Refuses what is no number from 0 to a bound that nobody means to pass.
fn from_0_to_100(key: &'static str, got: f64) -> Result<(), ExperimentError> {
    if (0.0..=100.0).contains(&got) {
        Ok(())
    } else {
        Err(ExperimentError::out_of_range(key, got, "in [0, 100]"))
    }
}

fn finite_and_at_least_0(key: &'static str, got: f64) -> Result<(), ExperimentError> {
    (got.is_finite() && got >= 0.0)
        .then_some(())
        .ok_or_else(|| ExperimentError::out_of_range(key, got, "finite and at least 0"))
}

fn check_train(train: &TrainConfig) -> Result<(), ExperimentError> {
    let (batch_size, parts) = (train.batch_size.images(), train.accumulate);
    for (key, got) in [
        ("train.accumulate", Some(parts as u64)),
        ("train.log_every", Some(train.log_every)),
        ("train.max_skipped", Some(train.max_skipped)),
        ("train.iterations", train.iterations),
        ("train.epochs", train.epochs),
        ("train.eval_every", train.eval_every),
        ("train.checkpoint_every", train.checkpoint_every),
        ("train.unfreeze_at", train.unfreeze_at),
        ("train.patience", train.patience),
    ] {
        at_least_one(key, got.unwrap_or(1))?;
    }
    within("train.batch_size", batch_size as u64, 65_536)?;
    if train.iterations.is_some() && train.epochs.is_some() {
        return Err(ExperimentError::TwoLengths);
    }
    let share = train.memory_share;
    let decay = train.ema_decay.unwrap_or_default();
    let is_measured = train.batch_size == BatchSize::Auto;
    for (key, got, fits, allowed) in [
        (
            "train.accumulate",
            parts as f64,
            is_measured || batch_size.is_multiple_of(parts),
            "a divisor of `train.batch_size`",
        ),
        (
            "train.memory_share",
            share,
            share > 0.0 && share <= 1.0,
            "in (0, 1]",
        ),
        (
            "train.ema_decay",
            decay,
            (0.0..1.0).contains(&decay),
            "in [0, 1)",
        ),
    ] {
        if !fits {
            return Err(ExperimentError::out_of_range(key, got, allowed));
        }
    }
    let minutes = train.checkpoint_minutes.unwrap_or_default();
    finite_and_at_least_0("train.checkpoint_minutes", minutes)
}

fn check_optimizer(optimizer: &OptimizerConfig) -> Result<(), ExperimentError> {
    let reference_batch = optimizer.reference_batch as u64;
    at_least_one("optimizer.reference_batch", reference_batch)?;
    if !(0.0..=1e6).contains(&optimizer.lr) {
        return Err(ExperimentError::out_of_range(
            "optimizer.lr",
            optimizer.lr,
            "in [0, 1e6]",
        ));
    }
    for (key, got) in [
        ("optimizer.weight_decay", optimizer.weight_decay),
        ("optimizer.norm_weight_decay", optimizer.norm_weight_decay),
        (
            "optimizer.bias_weight_decay",
            optimizer.bias_weight_decay.unwrap_or_default(),
        ),
        ("optimizer.bias_lr_factor", optimizer.bias_lr_factor),
        ("optimizer.backbone_lr_factor", optimizer.backbone_lr_factor),
    ] {
        from_0_to_100(key, got)?;
    }
    let momentum = optimizer.momentum;
    if !(0.0..1.0).contains(&momentum) {
        let key = "optimizer.momentum";
        return Err(ExperimentError::out_of_range(key, momentum, "in [0, 1)"));
    }
    if let Some(limit) = optimizer.clip_norm
        && !(limit.is_finite() && limit > 0.0)
    {
        let key = "optimizer.clip_norm";
        return Err(ExperimentError::out_of_range(
            key,
            limit,
            "finite and above 0",
        ));
    }
    Ok(())
}

fn check_schedule(schedule: &ScheduleConfig) -> Result<(), ExperimentError> {
    if !schedule.milestones.is_sorted() {
        return Err(ExperimentError::out_of_range(
            "schedule.milestones",
            format!("{:?}", schedule.milestones),
            "ascending",
        ));
    }
    from_0_to_100("schedule.warmup_start", schedule.warmup_start)?;
    from_0_to_100("schedule.factor", schedule.factor)?;
    let end_factor = schedule.end_factor.unwrap_or_default();
    let (power, peak_at) = (schedule.power, schedule.peak_at);
    let start_factor = schedule.start_factor;
    for (key, got, fits, allowed) in [
        (
            "schedule.end_factor",
            end_factor,
            (0.0..=1.0).contains(&end_factor),
            "in [0, 1]",
        ),
        (
            "schedule.power",
            power,
            power > 0.0 && power <= 100.0,
            "in (0, 100]",
        ),
        (
            "schedule.start_factor",
            start_factor,
            start_factor > 0.0 && start_factor <= 1.0,
            "in (0, 1]",
        ),
        (
            "schedule.peak_at",
            peak_at,
            peak_at > 0.0 && peak_at < 1.0,
            "in (0, 1)",
        ),
    ] {
        if !fits {
            return Err(ExperimentError::out_of_range(key, got, allowed));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl Fn(&mut ExperimentConfig)) -> String {
        let mut config = ExperimentConfig::default();
        change(&mut config);
        check_settings(&config).unwrap_err().to_string()
    }

    #[test]
    fn each_setting_out_of_range_is_refused_by_name() {
        assert_eq!(
            refusal(|config| config.train.batch_size = BatchSize::Images(0)),
            "`train.batch_size` must be in [1, 65536], got 0"
        );
        assert_eq!(
            refusal(|config| config.optimizer.lr = f64::NAN),
            "`optimizer.lr` must be in [0, 1e6], got NaN"
        );
        assert_eq!(
            refusal(|config| config.optimizer.momentum = 1.0),
            "`optimizer.momentum` must be in [0, 1), got 1"
        );
        assert_eq!(
            refusal(|config| config.optimizer.clip_norm = Some(0.0)),
            "`optimizer.clip_norm` must be finite and above 0, got 0"
        );
        assert_eq!(
            refusal(|config| config.schedule.milestones = vec![2, 1]),
            "`schedule.milestones` must be ascending, got [2, 1]"
        );
        let both = refusal(|config| {
            config.train.iterations = Some(1);
            config.train.epochs = Some(1);
        });
        assert!(both.contains("both given"), "{both}");
    }

    #[test]
    fn each_key_of_the_schedule_out_of_range_is_refused_by_name() {
        assert_eq!(
            refusal(|config| config.schedule.end_factor = Some(1.5)),
            "`schedule.end_factor` must be in [0, 1], got 1.5"
        );
        assert_eq!(
            refusal(|config| config.schedule.power = 0.0),
            "`schedule.power` must be in (0, 100], got 0"
        );
        assert_eq!(
            refusal(|config| config.schedule.start_factor = 0.0),
            "`schedule.start_factor` must be in (0, 1], got 0"
        );
        for peak_at in [0.0, 1.0, f64::NAN] {
            assert_eq!(
                refusal(|config| config.schedule.peak_at = peak_at),
                format!("`schedule.peak_at` must be in (0, 1), got {peak_at}")
            );
        }
    }
}
