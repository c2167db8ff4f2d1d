//! Sums of the losses over a batch: of all anchors' classes, in as few passes as can be.

use std::sync::Arc;

use burn::backend::DispatchDevice;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::box_predictions::BoxForm;
use crate::class_loss::ClassLoss;
use crate::iou_loss::IouLoss;
use crate::quality::QualityLoss;
use crate::targets::{BACKGROUND, DeviceTargets, IGNORED, Positives};

/// The loss over classes, of labels that are 0 or 1 for each class.
pub(crate) fn dense_class_loss(
    class: &ClassLoss,
    logits: Tensor<3>,
    labels: &Arc<Vec<i32>>,
    weights: &[f64],
) -> Tensor<1> {
    let device = logits.device();
    if let ClassLoss::Sigmoid(loss) = class
        && has_kernels(&device)
        && loss.has_kernel()
    {
        return loss.weighted_sum(logits, labels, to_f32(weights));
    }
    let [batch, anchors, classes] = logits.dims();
    let labels = TensorData::new(labels.to_vec(), [batch, anchors, 1]);
    let labels = Tensor::<3, Int>::from_data(labels, &device);
    let class_ids = Tensor::<1, Int>::arange(0..classes as i64, &device).reshape([1, 1, classes]);
    let one_hot = labels
        .clone()
        .expand([-1, -1, classes as i64])
        .equal(class_ids.expand(logits.dims()))
        .float();
    let counted = labels.not_equal_elem(IGNORED).float(); // [batch, anchors, 1]

    let losses = class.forward(logits, one_hot) * counted;
    let weights = Tensor::<1>::from_floats(&*to_f32(weights), &device);
    (sum_of_each(losses) * weights).sum()
}

/// The loss over classes with soft targets: that of an image without objects, in one pass, and what the few positives
/// change of it.
pub(crate) fn quality_loss(
    loss: &QualityLoss,
    logits: Tensor<3>,
    (boxes, form): (&Tensor<3>, BoxForm),
    targets: &DeviceTargets,
    weights: &[f64],
) -> Tensor<1> {
    let device = logits.device();
    let [batch, anchors, classes] = logits.dims();
    let (background, factor) = loss.of_background();
    let labels = targets.labels.iter().map(|label| (*label).min(BACKGROUND));
    let labels = Arc::new(labels.collect());
    let background = ClassLoss::Sigmoid(background);
    let dense = dense_class_loss(&background, logits.clone(), &labels, weights) * factor;
    let Some(positives) = &targets.positives else {
        return dense;
    };
    let qualities = positives.qualities.clone().unwrap_or_else(|| {
        let deltas = form.read(boxes.clone().detach(), positives).deltas;
        IouLoss::overlaps(form.coder, deltas, positives)
    });
    let places = positives.indices.clone() * classes as i64 + positives.classes.clone();
    let own = logits
        .reshape([batch * anchors * classes])
        .select(0, places);
    let losses = loss.of_objects(own, qualities) * positives.weights(weights, 1.0, &device);
    dense + sum_of_each(losses.unsqueeze_dim::<2>(1).unsqueeze_dim::<3>(0))
}

/// Values that are added up in one go.
const SUMMED_AT_ONCE: usize = 256;

/// The sum over all anchors and classes of each image, in three rounds: one sum over millions of
/// values in f32 would lose the last digits of most.
///
/// # Shapes
///
/// - `losses`: `[batch, anchors, classes]`
/// - output: `[batch]`
pub(crate) fn sum_of_each(losses: Tensor<3>) -> Tensor<1> {
    let [batch, anchors, _] = losses.dims();
    let of_anchors = losses.sum_dim(2).reshape([batch, anchors]);
    let parts = anchors.div_ceil(SUMMED_AT_ONCE);
    let missing = parts * SUMMED_AT_ONCE - anchors;
    let of_anchors = of_anchors.pad([(0, 0), (0, missing)], 0.0);
    let of_parts = of_anchors.reshape([batch, parts, SUMMED_AT_ONCE]);
    of_parts.sum_dim(2).sum_dim(1).reshape([batch])
}

impl Positives {
    /// The weight of each positive's image, times a factor, `[positives]`.
    pub(crate) fn weights(&self, of_images: &[f64], factor: f64, device: &Device) -> Tensor<1> {
        let weights = self.images.iter().map(|&image| of_images[image] * factor);
        let weights: Vec<f64> = weights.collect();
        Tensor::from_floats(&*to_f32(&weights), device)
    }
}

fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

/// Whether there are kernels of ours for a device.
fn has_kernels(device: &Device) -> bool {
    #[cfg(feature = "gpu")]
    if retinanet_gpu::is_gpu(device) {
        return true;
    }
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Flex(_)
    )
}
