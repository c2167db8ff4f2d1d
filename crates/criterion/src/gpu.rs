//! Focal loss on GPUs: a kernel that adds the losses up, and one that makes the gradient. Neither keeps a value for
//! each logit from one to the other.

mod kernels;

use burn::backend::Cube;
use burn::backend::TensorMetadata;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::tensor::IntTensor;
use burn::tensor::TensorData;
use burn_cubecl::kernel::into_contiguous;
use retinanet_gpu::{CubeTensor, UNITS, count_upload, cubes, empty, unit_for_each, units};

use self::kernels::{FocalArgumentsLaunch, Form, LOGITS_OF_UNIT};
use crate::extension::{FocalBackend, FocalCall, FocalKernels};
use crate::focal_kernel::Focal;

/// What the gradient needs of the forward pass.
#[derive(Clone, Debug)]
#[expect(unreachable_pub, reason = "a public trait names it")]
pub struct Saved {
    logits: CubeTensor,
    labels: IntTensor<Cube>,
    weights: CubeTensor,
    focal: Focal,
}

impl FocalBackend for Cube {
    fn focal_sum(logits: CubeTensor, call: FocalCall) -> CubeTensor {
        Self::forward(logits, &call).0
    }
}

impl FocalKernels for Cube {
    type Saved = Saved;

    fn forward(logits: CubeTensor, call: &FocalCall) -> (CubeTensor, Saved) {
        let logits = into_contiguous(logits);
        let labels = TensorData::new(call.labels.to_vec(), [call.labels.len()]);
        let weights = TensorData::new(call.weights.clone(), [call.weights.len()]);
        count_upload(labels.bytes().len() + weights.bytes().len());
        let saved = Saved {
            labels: Self::int_from_data(labels, &logits.device),
            weights: Self::float_from_data(weights, &logits.device),
            logits,
            focal: call.focal,
        };
        (sum(&saved), saved)
    }

    fn gradient(saved: Saved, above: CubeTensor) -> CubeTensor {
        let logits = &saved.logits;
        let gradient = empty(logits, logits.meta.shape());
        let values = logits.meta.shape().num_elements();
        kernels::focal_gradient::launch(
            &logits.client,
            unit_for_each(values),
            units(),
            logits.clone().into_buffer_arg(),
            saved.labels.clone().into_buffer_arg(),
            saved.weights.clone().into_buffer_arg(),
            into_contiguous(above).into_buffer_arg(),
            gradient.clone().into_buffer_arg(),
            arguments(saved.focal),
            saved.anchors(),
            saved.classes(),
            form(saved.focal),
        );
        gradient
    }
}

impl Saved {
    fn anchors(&self) -> usize {
        self.logits.shape()[1]
    }

    fn classes(&self) -> usize {
        self.logits.shape()[2]
    }
}

fn sum(saved: &Saved) -> CubeTensor {
    let logits = &saved.logits;
    let values = logits.meta.shape().num_elements();
    let parts = values.div_ceil(UNITS * LOGITS_OF_UNIT).max(1);
    let sums = empty(logits, &[parts]);
    kernels::focal_sums::launch(
        &logits.client,
        cubes(parts),
        units(),
        logits.clone().into_buffer_arg(),
        saved.labels.clone().into_buffer_arg(),
        saved.weights.clone().into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        arguments(saved.focal),
        saved.anchors(),
        saved.classes(),
        form(saved.focal),
    );
    retinanet_gpu::sum(sums)
}

fn form(focal: Focal) -> Form {
    match (focal.shift, focal.gamma) {
        (Some(_), _) => Form::Star,
        (None, 0.0) => Form::None,
        (None, 1.0) => Form::Linear,
        (None, 2.0) => Form::Square,
        (None, _) => Form::Power,
    }
}

fn arguments(focal: Focal) -> FocalArgumentsLaunch {
    let [negative, positive] = focal.alphas;
    FocalArgumentsLaunch::new(
        negative,
        positive,
        focal.gamma,
        focal.shift.unwrap_or(0.0),
        focal.smoothing,
    )
}
