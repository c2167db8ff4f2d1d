//! The factor on the loss that keeps small gradients of half precision from becoming 0.

use retinanet_detector::Precision;
use serde::{Deserialize, Serialize};

/// A dynamic loss scale (Micikevicius et al. 2018, section 3.2), with the numbers of PyTorch's `GradScaler`: halved
/// where gradients overflow, doubled after many steps on which they do not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    factor: f64,
    /// Steps since it changed.
    steps: u64,
}

impl LossScale {
    const FIRST: f64 = 65_536.0;
    const LARGEST: f64 = 16_777_216.0;
    const DOUBLED_AFTER: u64 = 2_000;

    /// The scale of a first step; none where the precision needs none.
    pub(crate) fn of(precision: Precision) -> Option<Self> {
        precision.needs_loss_scale().then_some(Self {
            factor: Self::FIRST,
            steps: 0,
        })
    }

    /// The factor on the loss.
    pub(crate) const fn factor(self) -> f64 {
        self.factor
    }

    /// Moves on by a step as if it goes well; if it does not, the scale before it is [`lowered`](Self::lowered).
    pub(crate) fn advance(&mut self) {
        self.steps += 1;
        if self.steps > Self::DOUBLED_AFTER {
            self.factor = (2.0 * self.factor).min(Self::LARGEST);
            self.steps = 1;
        }
    }

    /// The scale after a step whose gradients overflowed; none if it is 1, and cannot be the cause.
    pub(crate) fn lowered(self) -> Option<Self> {
        (self.factor > 1.0).then_some(Self {
            factor: self.factor / 2.0,
            steps: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_doubles_after_many_good_steps_and_halves_down_to_one() {
        let mut scale = LossScale::of(Precision::F16).unwrap();
        assert_eq!(LossScale::of(Precision::Bf16), None);
        let mut doubled = Vec::new();
        for step in 1..=4_001 {
            let before = scale.factor();
            scale.advance();
            if scale.factor() > before {
                doubled.push((step, scale.factor()));
            }
        }
        assert_eq!(doubled, [(2_001, 131_072.0), (4_001, 262_144.0)]);
        // A doubling that fails is undone, no more.
        assert_eq!(scale.lowered().map(LossScale::factor), Some(131_072.0));
        let lowered = std::iter::successors(Some(scale), |scale| scale.lowered());
        let factors: Vec<f64> = lowered.map(LossScale::factor).collect();
        assert_eq!(factors.len(), 19);
        assert_eq!(factors[18], 1.0);
    }
}
