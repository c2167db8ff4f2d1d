use std::f64::consts::PI;

use retinanet_experiment::{OneCycleConfig, ScheduleKind};

/// The learning rate as a function of the iteration alone, so that resuming needs no state:
/// the full rate times a linear warm-up times what the kind says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    /// The full learning rate.
    pub(crate) base: f64,
    /// In iterations.
    pub(crate) warmup: u64,
    /// The factor that the warm-up starts from.
    pub(crate) warmup_start: f64,
    /// Iterations of the whole training.
    pub(crate) total: u64,
    /// With milestones in iterations.
    pub(crate) kind: ScheduleKind,
}

impl Schedule {
    /// The learning rate of an iteration, counted from 0. What comes after the last iteration
    /// stays where the schedule ends.
    pub(crate) fn learning_rate(&self, iteration: u64) -> f64 {
        let iteration = iteration.min(self.total);
        self.base * self.warmup_factor(iteration) * self.kind_factor(iteration)
    }

    fn warmup_factor(&self, iteration: u64) -> f64 {
        let warmup = self.warmup;
        if iteration >= warmup {
            return 1.0;
        }
        let done = iteration as f64 / warmup as f64;
        self.warmup_start * (1.0 - done) + done
    }

    fn kind_factor(&self, iteration: u64) -> f64 {
        match &self.kind {
            ScheduleKind::MultiStep(config) => {
                let passed = config
                    .milestones
                    .get()
                    .iter()
                    .filter(|step| **step <= iteration);
                config.factor.get().powi(passed.count() as i32)
            }
            ScheduleKind::Cosine(config) => {
                cosine(1.0, config.end_factor.get(), self.done(iteration))
            }
            ScheduleKind::Polynomial(config) => {
                let (end, power) = (config.end_factor.get(), config.power.get());
                end + (1.0 - end) * (1.0 - self.done(iteration)).powf(power)
            }
            ScheduleKind::OneCycle(config) => self.one_cycle_factor(config, iteration),
            ScheduleKind::Constant {} => 1.0,
        }
    }

    fn one_cycle_factor(&self, config: &OneCycleConfig, iteration: u64) -> f64 {
        let last = self.total.saturating_sub(1);
        let end_factor = config.end_factor.get();
        // PyTorch's peak lies before iteration 0 where `peak_at` is less than one step.
        let peak = config.peak_at.get() * self.total as f64 - 1.0;
        let now = iteration as f64;
        if iteration >= last {
            end_factor
        } else if now < peak {
            cosine(config.start_factor.get(), 1.0, now / peak)
        } else {
            cosine(1.0, end_factor, (now - peak) / (last as f64 - peak))
        }
    }

    /// Iteration ÷ total.
    fn done(&self, iteration: u64) -> f64 {
        if iteration >= self.total {
            return 1.0;
        }
        iteration as f64 / self.total as f64
    }

    /// How the full rate is reached and left, in one line: "warm-up over 1000 steps, ×0.1 after
    /// steps 60000 and 80000". Steps count from 1, as [`StepReport`](crate::StepReport) has them;
    /// milestones that training does not reach are left out.
    pub(crate) fn describe(&self) -> String {
        let shape = self.describe_kind();
        match self.warmup {
            0 => shape,
            warmup => format!("warm-up over {warmup} steps, {shape}"),
        }
    }

    fn describe_kind(&self) -> String {
        let total = self.total;
        match &self.kind {
            ScheduleKind::MultiStep(config) => {
                let reached = config.milestones.get().iter().filter(|step| **step < total);
                match steps(reached.map(u64::to_string).collect()) {
                    Some(steps) => format!("×{} after {steps}", config.factor),
                    None => "constant".to_owned(),
                }
            }
            ScheduleKind::Cosine(config) => {
                let end = share(config.end_factor.get());
                format!("half a cosine to {end} at step {total}")
            }
            ScheduleKind::Polynomial(config) => {
                let (end, power) = (share(config.end_factor.get()), config.power);
                format!("polynomial of power {power} to {end} at step {total}")
            }
            ScheduleKind::OneCycle(config) => {
                let peak = (config.peak_at.get() * total as f64).round();
                let start = share(config.start_factor.get());
                let end = share(config.end_factor.get());
                format!("one cycle from {start}, full at step {peak}, {end} at step {total}")
            }
            ScheduleKind::Constant {} => "constant".to_owned(),
        }
    }
}

/// Half a cosine between two values, `done` being the share of the way.
fn cosine(from: f64, to: f64, done: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + (PI * done).cos())
}

/// A share of the full rate as a reader takes it.
fn share(factor: f64) -> String {
    if factor == 0.0 {
        "0".to_owned()
    } else {
        format!("×{factor}")
    }
}

/// "step 1", "steps 1 and 2", "steps 1, 2 and 3".
fn steps(mut numbers: Vec<String>) -> Option<String> {
    let last = numbers.pop()?;
    Some(if numbers.is_empty() {
        format!("step {last}")
    } else {
        format!("steps {} and {last}", numbers.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use retinanet_experiment::{CosineConfig, MultiStepConfig, PolynomialConfig, ScheduleConfig};
    use retinanet_settings::{OpenShare, PositiveFactor, PositiveShare, Share};

    use super::*;

    /// 90 000 iterations at 0.01 after a warm-up over 1000.
    fn long(kind: ScheduleKind) -> Schedule {
        let config = ScheduleConfig {
            kind,
            ..ScheduleConfig::default()
        };
        Schedule {
            base: 0.01,
            warmup: config.warmup_iterations(),
            warmup_start: 0.001,
            total: 90_000,
            kind: config.kind,
        }
    }

    /// As many iterations as given at 0.01, without warm-up.
    fn plain(total: u64, kind: ScheduleKind) -> Schedule {
        Schedule {
            warmup: 0,
            total,
            ..long(kind)
        }
    }

    fn papers() -> ScheduleKind {
        ScheduleKind::MultiStep(MultiStepConfig::default())
    }

    fn cosine_to(end_factor: f64) -> ScheduleKind {
        ScheduleKind::Cosine(CosineConfig {
            end_factor: Share::literal(end_factor),
        })
    }

    fn polynomial_to(end_factor: f64, power: f64) -> ScheduleKind {
        ScheduleKind::Polynomial(PolynomialConfig {
            end_factor: Share::literal(end_factor),
            power: PositiveFactor::literal(power),
        })
    }

    fn one_cycle() -> ScheduleKind {
        ScheduleKind::OneCycle(OneCycleConfig::default())
    }

    fn all_kinds() -> [ScheduleKind; 5] {
        [
            papers(),
            cosine_to(0.0),
            polynomial_to(0.01, 0.9),
            one_cycle(),
            ScheduleKind::Constant {},
        ]
    }

    fn assert_rates(schedule: &Schedule, expected: &[(u64, f64)]) {
        for &(iteration, expected) in expected {
            let got = schedule.learning_rate(iteration);
            let close = (got - expected).abs() <= 1e-9 * expected;
            assert!(close, "{got}, not {expected}, at {iteration}: {schedule:?}");
        }
    }

    fn rates(schedule: &Schedule) -> Vec<f64> {
        (0..schedule.total)
            .map(|iteration| schedule.learning_rate(iteration))
            .collect()
    }

    #[test]
    fn the_papers_schedule_warms_up_and_falls_twice() {
        assert_rates(
            &long(papers()),
            &[
                (0, 1e-5),
                // 0.01 (0.001 · 0.5 + 0.5)
                (500, 0.005_005),
                (1_000, 0.01),
                (59_999, 0.01),
                (60_000, 0.001),
                (80_000, 0.0001),
            ],
        );
    }

    #[test]
    fn milestones_alone_give_the_product_to_the_bit() {
        let schedule = long(papers());
        for (iteration, warmup, passed) in [
            (7, 0.001 * (1.0 - 7.0 / 1000.0) + 7.0 / 1000.0, 0),
            (60_000, 1.0, 1),
            (89_999, 1.0, 2),
        ] {
            let product = 0.01 * warmup * 0.1_f64.powi(passed);
            assert_eq!(schedule.learning_rate(iteration), product);
        }
    }

    #[test]
    fn without_warm_up_the_first_iteration_is_at_full_height() {
        for kind in [ScheduleKind::Constant {}, cosine_to(0.0), papers()] {
            assert_eq!(plain(90_000, kind).learning_rate(0), 0.01);
        }
    }

    /// ```python
    /// def factor(i):  # WarmupCosineLR.get_lr
    ///     alpha = min(i / 1000, 1)
    ///     return (0.001 * (1 - alpha) + alpha) * 0.5 * (1 + math.cos(math.pi * i / 90000))
    /// sgd = torch.optim.SGD([torch.zeros(1)], lr=0.01)
    /// schedule = torch.optim.lr_scheduler.LambdaLR(sgd, factor)
    /// for i in range(90000): print(i, sgd.param_groups[0]["lr"]); sgd.step(); schedule.step()
    /// ```
    #[test]
    fn a_cosine_with_warm_up_is_detectron2s() {
        assert_rates(
            &long(cosine_to(0.0)),
            &[
                (0, 1e-5),
                (500, 0.005_004_618_857_128_869),
                (1_000, 0.009_996_954_135_095_479),
                (30_000, 0.0075),
                (45_000, 0.005),
                (89_999, 3.046_174_423_815_273e-12),
                (90_000, 0.0),
            ],
        );
    }

    /// As above, `CosineAnnealingLR(sgd, T_max=100, eta_min=0.001)`.
    #[test]
    fn a_cosine_to_an_end_is_pytorchs() {
        assert_rates(
            &plain(100, cosine_to(0.1)),
            &[
                (0, 0.01),
                (1, 0.009_997_779_521_645_794),
                (25, 0.008_681_980_515_339_45),
                (50, 0.0055),
                (99, 0.001_002_220_478_354_208),
                (100, 0.001),
            ],
        );
    }

    /// As above, `PolynomialLR(sgd, total_iters=100, power=power)`.
    #[test]
    fn a_polynomial_is_pytorchs() {
        let polynomial = |power| plain(100, polynomial_to(0.0, power));
        assert_rates(
            &polynomial(0.9),
            &[
                (0, 0.01),
                (1, 0.009_909_954_834_128_34),
                (50, 0.005_358_867_312_681_464),
                (99, 0.000_158_489_319_246_111_5),
                (100, 0.0),
                (101, 0.0),
            ],
        );
        assert_rates(&polynomial(2.0), &[(0, 0.01), (50, 0.0025), (100, 0.0)]);
    }

    #[test]
    fn a_polynomial_of_power_1_is_a_line_to_its_end() {
        let kind = polynomial_to(0.2, 1.0);
        let expected = [(0, 0.01), (25, 0.008), (50, 0.006), (100, 0.002)];
        assert_rates(&plain(100, kind), &expected);
    }

    /// As above, `OneCycleLR(sgd, max_lr=0.01, total_steps=total, cycle_momentum=False)`.
    #[test]
    fn one_cycle_is_pytorchs() {
        assert_rates(
            &plain(100, one_cycle()),
            &[
                (0, 0.0004),
                (1, 0.000_428_137_805_659_072_75),
                (14, 0.004_940_133_238_789_995),
                (15, 0.005_459_866_761_210_004),
                (29, 0.01),
                (30, 0.009_994_965_352_845_242),
                (64, 0.005_000_02),
                (98, 5.074_647_154_757_88e-6),
                (99, 4e-8),
            ],
        );
        // It has no other warm-up.
        assert_rates(
            &long(one_cycle()),
            &[
                (0, 0.0004),
                (1_000, 0.000_432_458_284_398_367_85),
                (26_999, 0.01),
                (60_000, 0.004_626_122_392_563_621),
                (89_999, 4e-8),
            ],
        );
    }

    /// As above, `OneCycleLR(sgd, max_lr=0.01, total_steps=7, pct_start=0.5, div_factor=10,
    /// final_div_factor=100, cycle_momentum=False)`.
    #[test]
    fn one_cycle_may_peak_between_two_iterations() {
        let kind = ScheduleKind::OneCycle(OneCycleConfig {
            start_factor: PositiveShare::literal(0.1),
            peak_at: OpenShare::literal(0.5),
            end_factor: Share::literal(0.001),
        });
        assert_rates(
            &plain(7, kind),
            &[
                (0, 0.001),
                (1, 0.004_109_423_525_312_736),
                (2, 0.009_140_576_474_687_263),
                (3, 0.009_505_339_495_172_583),
                (4, 0.006_116_492_065_111_79),
                (5, 0.001_890_668_439_715_626_4),
                (6, 1e-5),
            ],
        );
    }

    /// As `one_cycle_is_pytorchs`, with a `total_steps` too short to rise.
    #[test]
    fn one_cycle_without_time_to_rise_is_pytorchs() {
        let short = |total| plain(total, one_cycle());
        assert_rates(&short(1), &[(0, 4e-8)]);
        assert_rates(&short(2), &[(0, 0.008_117_456_539_497_63), (1, 4e-8)]);
        let expected = [
            (0, 0.009_944_154_354_509_118),
            (1, 0.004_626_371_026_669_75),
        ];
        assert_rates(&short(3), &expected);
        // PyTorch divides by 0 where the peak is iteration 0.
        let at_0 = ScheduleKind::OneCycle(OneCycleConfig {
            start_factor: PositiveShare::literal(0.04),
            peak_at: OpenShare::literal(0.5),
            end_factor: Share::literal(0.0),
        });
        assert_rates(&plain(2, at_0), &[(0, 0.01), (1, 0.0)]);
    }

    #[test]
    fn rates_only_rise_before_the_peak_and_only_fall_after() {
        for kind in all_kinds() {
            let schedule = plain(1_000, kind);
            let rates = rates(&schedule);
            let peak = match schedule.kind {
                ScheduleKind::OneCycle(_) => 299,
                _ => 0,
            };
            assert!(rates[..=peak].is_sorted(), "{schedule:?}");
            assert!(rates[peak..].is_sorted_by(|a, b| a >= b), "{schedule:?}");
            assert!((rates[peak] / 0.01 - 1.0).abs() < 1e-12, "{schedule:?}");
        }
    }

    #[test]
    fn the_end_stays_and_no_length_divides_by_zero() {
        for kind in all_kinds() {
            for (total, warmup) in [(0, 0), (1, 0), (2, 0), (2, 5), (1_000, 10)] {
                let schedule = Schedule {
                    warmup,
                    ..plain(total, kind.clone())
                };
                let end = schedule.learning_rate(total);
                assert_eq!(schedule.learning_rate(total + 1), end);
                assert_eq!(schedule.learning_rate(u64::MAX), end);
                let in_range = |rate: &f64| (0.0..=0.01 + 1e-15).contains(rate);
                assert!(in_range(&end), "{schedule:?}");
                assert!(rates(&schedule).iter().all(in_range), "{schedule:?}");
            }
        }
    }

    #[test]
    fn a_line_tells_how_the_rate_goes() {
        let lines = all_kinds().map(|shape| long(shape).describe());
        assert_eq!(
            lines,
            [
                "warm-up over 1000 steps, ×0.1 after steps 60000 and 80000",
                "warm-up over 1000 steps, half a cosine to 0 at step 90000",
                "warm-up over 1000 steps, polynomial of power 0.9 to ×0.01 at step 90000",
                "one cycle from ×0.04, full at step 27000, ×0.000004 at step 90000",
                "warm-up over 1000 steps, constant",
            ]
        );
        assert_eq!(plain(500, papers()).describe(), "constant");
        assert_eq!(plain(70_000, papers()).describe(), "×0.1 after step 60000");
        let numbers = |count: u32| steps((1..=count).map(|n| n.to_string()).collect());
        assert_eq!(numbers(0), None);
        assert_eq!(numbers(3).as_deref(), Some("steps 1, 2 and 3"));
    }
}
