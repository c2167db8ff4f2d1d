//! Weights that stay laid out between the runs of a model.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::kernels::epilogue::Epilogue;
use crate::kernels::{direct, winograd};
use crate::problem::{Kernels, Problem};
use crate::run::{Scope, is_running, within};

/// The weights of a model's convolutions as the CPU's kernels multiply by them, kept from its second run on: who detects on
/// one image has no use for them, and Winograd's algorithm has four of its own for each weight.
///
/// It belongs to one model with its weights. Results are bit-identical with it and without.
#[derive(Clone, Debug, Default)]
pub struct KeptWeights(Arc<State>);

#[derive(Debug, Default)]
struct State {
    has_run: AtomicBool,
    laid_out: Mutex<LaidOut>,
}

/// By the convolution's place among the calls. Maps of another size may want another layout.
type LaidOut = BTreeMap<(usize, Layout), Arc<Vec<f32>>>;

impl KeptWeights {
    /// Runs the model. Within another run, such as one that is observed, it is part of that.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        if is_running() || !self.0.has_run.swap(true, Ordering::Relaxed) {
            return work();
        }
        within(Scope::Kept(self.clone()), work).0
    }

    /// The output of the run's convolution at this place, if its kernels lay weights out.
    pub(crate) fn forward(
        &self,
        call: usize,
        problem: &Problem,
        input: &[f32],
        weights: &[f32],
        end: Epilogue<'_>,
    ) -> Option<Vec<f32>> {
        let layout = problem.layout()?;
        let weights = self.weights(call, layout, || problem.lay_out(layout, weights));
        Some(problem.forward_laid_out(input, (layout, &weights), end))
    }

    /// Two runs at once may both lay weights out. Waiting for each other, they would keep threads that the work is shared with.
    fn weights(
        &self,
        call: usize,
        layout: Layout,
        lay_out: impl FnOnce() -> Vec<f32>,
    ) -> Arc<Vec<f32>> {
        let laid_out = || {
            (self.0.laid_out)
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let kept = laid_out().get(&(call, layout)).cloned();
        kept.unwrap_or_else(|| {
            let weights = Arc::new(lay_out());
            laid_out().insert((call, layout), Arc::clone(&weights));
            weights
        })
    }
}

/// What weights are laid out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layout {
    /// Winograd's transforms.
    Frequencies,
    /// Products with columns.
    Columns,
}

impl Problem {
    /// How the forward pass wants the weights, where it must lay them out in another way than they are stored.
    fn layout(&self) -> Option<Layout> {
        match self.kernels() {
            Kernels::Winograd => Some(Layout::Frequencies),
            Kernels::Direct if !self.options.arithmetic.bf16 => Some(Layout::Columns),
            Kernels::Direct | Kernels::FewPixels | Kernels::Grouped(_) => None,
        }
    }

    fn lay_out(&self, layout: Layout, weights: &[f32]) -> Vec<f32> {
        match layout {
            Layout::Frequencies => winograd::lay_out(self, weights),
            Layout::Columns => direct::lay_out(self, weights),
        }
    }

    /// [`Problem::forward`] with weights in this layout, bit-identical.
    fn forward_laid_out(
        &self,
        input: &[f32],
        (layout, weights): (Layout, &[f32]),
        end: Epilogue<'_>,
    ) -> Vec<f32> {
        match layout {
            Layout::Frequencies => winograd::forward_laid_out(self, input, weights, end),
            Layout::Columns => direct::forward_laid_out(self, input, weights, end),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::shape::ConvOptions;
    use crate::weights::normal_values;
    use crate::{FusedEpilogue, InputHistograms, conv2d, conv2d_with_epilogue};

    fn tensor<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
        let values = normal_values(shape.iter().product(), 0, name);
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// Two convolutions: with Winograd's algorithm where the images are large, and with columns in two groups.
    fn model(images: Tensor<4>, weights: &str) -> Vec<f32> {
        let end = FusedEpilogue {
            scale: Some(tensor("scale", [20])),
            bias: Some(tensor("bias", [20])),
            relu: true,
            ..FusedEpilogue::NOTHING
        };
        let weight = tensor(weights, [20, 16, 3, 3]);
        let map = conv2d_with_epilogue(images, weight, ConvOptions::new(1, 1), end);
        let options = ConvOptions {
            groups: 2,
            ..ConvOptions::new(2, 1)
        };
        let output = conv2d(map, tensor("second", [14, 10, 3, 3]), None, options);
        output.into_data().try_into_vec().unwrap()
    }

    fn layouts(kept: &KeptWeights) -> Vec<(usize, Layout)> {
        let laid_out = kept.0.laid_out.lock().unwrap();
        laid_out.keys().copied().collect()
    }

    #[test]
    fn runs_with_kept_weights_are_bit_identical_to_others() {
        let kept = KeptWeights::default();
        let large = tensor("large", [1, 19, 22, 16]);
        let small = tensor("small", [2, 9, 7, 16]);
        let run = |images: &Tensor<4>| kept.run(|| model(images.clone(), "first"));

        assert_eq!(run(&large), model(large.clone(), "first"));
        assert_eq!(layouts(&kept), [], "after one run");
        for images in [&large, &small, &large, &small] {
            assert_eq!(run(images), model(images.clone(), "first"));
        }
        let expected = [
            (0, Layout::Frequencies),
            (0, Layout::Columns),
            (1, Layout::Columns),
        ];
        assert_eq!(layouts(&kept), expected);

        let mut histograms = InputHistograms::default();
        histograms.observe(|| run(&large));
        assert_eq!(histograms.ranges().len(), 2, "within an observed run");

        // Those that are kept are used.
        let other = kept.run(|| model(large.clone(), "other"));
        assert_eq!(other, model(large.clone(), "first"));
        assert_ne!(model(large.clone(), "other"), other, "outside of a run");
    }
}
