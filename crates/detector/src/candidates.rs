//! The best scores of a pyramid level, found without scoring the background.

use rayon::prelude::*;

/// A logit whose score is high enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// Its place among the logits.
    pub(crate) index: usize,
    /// Its score, in `(0, 1]`.
    pub(crate) score: f32,
}

#[cfg(feature = "gpu")]
impl Candidate {
    pub(crate) fn of_logit(index: usize, logit: f32) -> Self {
        Self {
            index,
            score: sigmoid(logit),
        }
    }
}

/// A logit that every score above this one is of a higher logit than.
#[cfg(feature = "gpu")]
pub(crate) fn bar(score: f32) -> f32 {
    Bar::above(score).logit
}

/// The candidates with the highest scores above the threshold, at most `count` of them, best
/// first; among equals the earlier. `count` must be at least 1.
pub(crate) fn best_candidates(logits: &[f32], threshold: f32, count: usize) -> Vec<Candidate> {
    // The first chunk goes ahead: a candidate that is no better than all of its best need not be
    // collected from the others.
    let (head, tail) = logits.split_at(logits.len().min(CHUNK));
    let mut best = scan(head, 0, threshold, count);
    keep_best(&mut best, count);
    let threshold = best.get(count - 1).map_or(threshold, |worst| worst.score);
    best.par_extend(
        tail.par_chunks(CHUNK)
            .enumerate()
            .flat_map_iter(|(chunk, logits)| scan(logits, (chunk + 1) * CHUNK, threshold, count)),
    );
    keep_best(&mut best, count);
    best.sort_unstable_by(order);
    best
}

/// The probability that a logit stands for.
pub(crate) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// How many logits a thread scans at a time: enough that finding the first few best is little of
/// the work, and few enough that a large level has work for all threads.
const CHUNK: usize = 1 << 18;

/// How many logits are held against the bar together, as vector code.
const BLOCK: usize = 32;

/// The best candidates of a chunk that starts at `first`, and fewer than as many that are not.
fn scan(logits: &[f32], first: usize, threshold: f32, count: usize) -> Vec<Candidate> {
    let mut best = Best {
        candidates: Vec::new(),
        count,
        bar: Bar::above(threshold),
    };
    let (blocks, rest) = logits.as_chunks::<BLOCK>();
    for (block, lanes) in blocks.iter().enumerate() {
        if best.bar.may_pass(lanes) {
            best.offer(first + block * BLOCK, lanes);
        }
    }
    best.offer(first + blocks.len() * BLOCK, rest);
    best.candidates
}

/// The best candidates so far, fewer than twice `count`.
struct Best {
    candidates: Vec<Candidate>,
    count: usize,
    bar: Bar,
}

impl Best {
    /// Takes up consecutive logits, which must come after all earlier ones.
    fn offer(&mut self, first: usize, logits: &[f32]) {
        for (index, &logit) in (first..).zip(logits) {
            if let Some(score) = self.bar.passes(logit) {
                self.candidates.push(Candidate { index, score });
                if self.candidates.len() == self.count.saturating_mul(2) {
                    keep_best(&mut self.candidates, self.count);
                    // Of equal scores the earlier stays: a later one must beat the worst.
                    self.bar = Bar::above(self.candidates[self.count - 1].score);
                }
            }
        }
    }
}

/// What a logit must exceed for its score to exceed another.
struct Bar {
    logit: f32,
    score: f32,
}

impl Bar {
    fn above(score: f32) -> Self {
        // The logit of a score that is lower by more than the rounding of a sigmoid can make up
        // for: no logit below it scores above the bar.
        let lower = f64::from(score) * (1.0 - 1e-5);
        Self {
            logit: (lower / (1.0 - lower)).ln() as f32,
            score,
        }
    }

    /// Whether any of these logits could be above the bar.
    #[expect(
        clippy::unnecessary_fold,
        reason = "`any` ends early, which vector code cannot"
    )]
    fn may_pass(&self, logits: &[f32; BLOCK]) -> bool {
        logits
            .iter()
            .fold(false, |any, &logit| any || logit > self.logit)
    }

    /// The score of a logit if it is above the bar.
    fn passes(&self, logit: f32) -> Option<f32> {
        if logit > self.logit {
            Some(sigmoid(logit)).filter(|score| *score > self.score)
        } else {
            None
        }
    }
}

/// Drops all but the `count` best; the last of those that stay is the worst.
fn keep_best(candidates: &mut Vec<Candidate>, count: usize) {
    if candidates.len() > count {
        candidates.select_nth_unstable_by(count - 1, order);
        candidates.truncate(count);
    }
}

/// Best first, then in the order of the logits.
pub(crate) fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then(a.index.cmp(&b.index))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: score everything, sort, and take the first.
    fn sorted(logits: &[f32], threshold: f32, count: usize) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = logits
            .iter()
            .map(|&logit| sigmoid(logit))
            .enumerate()
            .map(|(index, score)| Candidate { index, score })
            .filter(|candidate| candidate.score > threshold)
            .collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all.truncate(count);
        all
    }

    /// Logits of which many are equal, many have the score 1, and some are NaN.
    fn any_logit() -> impl Strategy<Value = f32> {
        prop_oneof![
            4 => -8.0_f32..4.0,
            2 => (-8_i8..4).prop_map(f32::from),
            1 => 10.0_f32..30.0,
            1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
        ]
    }

    proptest! {
        #[test]
        fn the_best_are_those_of_sorting_all(
            logits in prop::collection::vec(any_logit(), 0..1000),
            threshold in prop_oneof![Just(0.0_f32), Just(0.05), Just(0.5), 0.0_f32..1.0],
            count in 1_usize..200,
        ) {
            prop_assert_eq!(
                best_candidates(&logits, threshold, count),
                sorted(&logits, threshold, count)
            );
        }

        #[test]
        fn what_scores_above_the_bar_passes_it(logit in -100.0_f32..100.0, steps in -40_i32..40) {
            // Bars from one at the logit's own score to one some roundings away.
            let score = sigmoid(logit);
            let other = f32::from_bits(score.to_bits().saturating_add_signed(steps)).min(1.0);
            let passed = Bar::above(other).passes(logit);
            prop_assert_eq!(passed, (score > other).then_some(score));
        }
    }

    #[test]
    fn chunks_do_not_show() {
        // Two chunks and a bit, with a period that no chunk divides: equal scores in each.
        let logits: Vec<f32> = (0..2 * CHUNK + 100)
            .map(|index| (index % 1013) as f32 / 100.0 - 9.0)
            .collect();
        for count in [1, 700, 2500] {
            let best = best_candidates(&logits, 0.05, count);
            assert_eq!(best.len(), count);
            assert_eq!(best, sorted(&logits, 0.05, count));
        }
    }

    #[test]
    fn a_score_of_the_threshold_is_out() {
        let found = best_candidates(&[0.0, 1e-6, -1e-6], 0.5, 10);
        assert_eq!(
            found.iter().map(|found| found.index).collect::<Vec<_>>(),
            [1]
        );
    }

    #[test]
    fn a_count_beyond_all_keeps_all() {
        assert_eq!(best_candidates(&[0.0; 100], 0.05, usize::MAX).len(), 100);
        assert_eq!(best_candidates(&[], 0.05, 10), []);
    }
}
