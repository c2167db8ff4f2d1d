//! What becomes of the convolutions that a run of a model calls: each is told its place among them, so that what belongs to it
//! needs no name.

use std::cell::RefCell;
use std::sync::Arc;

use crate::kept::KeptWeights;
use crate::kernels::epilogue::Epilogue;
use crate::problem::Problem;
use crate::quantized::{Histogram, Layer};

/// What is done with the calls of a run.
#[derive(Debug)]
pub(crate) enum Scope {
    /// Their inputs are counted.
    Observed(Vec<Histogram>),
    /// They are computed in eight bits.
    Quantized(Arc<Vec<Layer>>),
    /// Their weights are kept as they are laid out.
    Kept(KeptWeights),
}

/// What becomes of one call of a convolution.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Observed(usize),
    Quantized(usize, Arc<Vec<Layer>>),
    Kept(usize, KeptWeights),
}

impl Step {
    /// The step of the next call, where there is a scope.
    pub(crate) fn next() -> Option<Self> {
        SCOPE.with_borrow_mut(|scope| {
            let (scope, calls) = scope.as_mut()?;
            let call = *calls;
            *calls += 1;
            Some(match scope {
                Scope::Observed(_) => Self::Observed(call),
                Scope::Quantized(layers) => Self::Quantized(call, Arc::clone(layers)),
                Scope::Kept(weights) => Self::Kept(call, weights.clone()),
            })
        })
    }

    /// The output, where it is computed in another way than without a scope.
    pub(crate) fn forward(
        &self,
        problem: &Problem,
        input: &[f32],
        weights: &[f32],
        end: Epilogue<'_>,
    ) -> Option<Vec<f32>> {
        match self {
            Self::Observed(call) => {
                observe(*call, input);
                None
            }
            Self::Quantized(call, layers) => {
                (layers.get(*call)?).forward(problem, input, weights, end)
            }
            Self::Kept(call, kept) => kept.forward(*call, problem, input, weights, end),
        }
    }
}

thread_local! {
    /// The run's scope, and how many convolutions it has called.
    static SCOPE: RefCell<Option<(Scope, usize)>> = const { RefCell::new(None) };
}

/// Whether a run has a scope now.
pub(crate) fn is_running() -> bool {
    SCOPE.with_borrow(Option::is_some)
}

/// Runs in a scope, and gives it back. It ends with the run, even if that panics.
pub(crate) fn within<R>(scope: Scope, work: impl FnOnce() -> R) -> (R, Option<Scope>) {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            SCOPE.set(None);
        }
    }
    SCOPE.set(Some((scope, 0)));
    let end = End;
    let result = work();
    let scope = SCOPE.take().map(|(scope, _)| scope);
    drop(end);
    (result, scope)
}

fn observe(call: usize, input: &[f32]) {
    SCOPE.with_borrow_mut(|scope| {
        if let Some((Scope::Observed(histograms), _)) = scope {
            if histograms.len() <= call {
                histograms.resize_with(call + 1, Histogram::default);
            }
            histograms[call].add(input);
        }
    });
}
