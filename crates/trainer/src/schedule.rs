/// The learning rate as a function of the iteration alone, so that resuming needs no state:
/// linear warm-up times a fall at each milestone, as detectron2's `WarmupMultiStepLR`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) base: f64,
    pub(crate) warmup: u64,
    pub(crate) warmup_start: f64,
    /// In iterations, ascending.
    pub(crate) milestones: Vec<u64>,
    pub(crate) factor: f64,
}

impl Schedule {
    /// The learning rate of an iteration, counted from 0.
    pub(crate) fn learning_rate(&self, iteration: u64) -> f64 {
        let passed = self
            .milestones
            .iter()
            .filter(|milestone| **milestone <= iteration)
            .count();
        self.base * self.warmup_factor(iteration) * self.factor.powi(passed as i32)
    }

    fn warmup_factor(&self, iteration: u64) -> f64 {
        if iteration >= self.warmup {
            return 1.0;
        }
        let done = iteration as f64 / self.warmup as f64;
        self.warmup_start * (1.0 - done) + done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_schedule_warms_up_and_falls_twice() {
        let schedule = Schedule {
            base: 0.01,
            warmup: 1000,
            warmup_start: 0.001,
            milestones: vec![60_000, 80_000],
            factor: 0.1,
        };
        for (iteration, expected) in [
            (0, 1e-5),
            // 0.01 (0.001 · 0.5 + 0.5)
            (500, 0.005_005),
            (1_000, 0.01),
            (59_999, 0.01),
            (60_000, 0.001),
            (80_000, 0.0001),
        ] {
            let got = schedule.learning_rate(iteration);
            assert!((got / expected - 1.0).abs() < 1e-9, "{got} at {iteration}");
        }
    }

    #[test]
    fn without_warm_up_the_first_iteration_is_at_full_height() {
        let schedule = Schedule {
            base: 0.5,
            warmup: 0,
            warmup_start: 0.0,
            milestones: Vec::new(),
            factor: 0.1,
        };
        assert!((schedule.learning_rate(0) - 0.5).abs() < 1e-12);
    }
}
