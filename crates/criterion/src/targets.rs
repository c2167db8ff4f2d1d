use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use retinanet_boxes::{AnchorLabel, AnchorTargets};

/// Stands for [`AnchorLabel::Background`] in the tensor of labels.
pub(crate) const BACKGROUND: i32 = -1;
/// Stands for [`AnchorLabel::Ignored`] in the tensor of labels.
pub(crate) const IGNORED: i32 = -2;

/// What the anchors of a batch shall learn, on the device.
#[derive(Clone, Debug)]
pub struct BatchTargets {
    /// `[batch, anchors]`: the class, or [`BACKGROUND`] or [`IGNORED`]. On the host, where the
    /// CPU's loss reads them as they are.
    pub(crate) labels: Arc<Vec<i32>>,
    /// Only where there are positives, since not every backend has empty tensors.
    pub(crate) positives: Option<Positives>,
    pub(crate) positives_per_image: Vec<usize>,
}

/// The positive anchors of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Positives {
    /// `[positives]`: `image * anchors + anchor`.
    pub(crate) indices: Tensor<1, Int>,
    /// `[positives]`: which image each belongs to, on the host.
    pub(crate) images: Vec<usize>,
    /// `[positives, 4]`
    pub(crate) deltas: Tensor<2>,
    /// `[positives, 4]`: `[x1, y1, x2, y2]`.
    pub(crate) anchors: Tensor<2>,
    /// `[positives, 4]`: `[x1, y1, x2, y2]`.
    pub(crate) objects: Tensor<2>,
}

impl BatchTargets {
    /// Moves the targets of a batch's images to the device.
    ///
    /// # Panics
    ///
    /// Panics where the images have different numbers of anchors: they come from one batch.
    pub fn new(images: &[AnchorTargets], device: &Device) -> Self {
        let anchors = images.first().map_or(0, |image| image.labels.len());
        let mut labels = Vec::with_capacity(images.len() * anchors);
        let (mut indices, mut image_of) = (Vec::new(), Vec::new());
        let (mut deltas, mut anchor_boxes, mut objects) = (Vec::new(), Vec::new(), Vec::new());
        for (index, image) in images.iter().enumerate() {
            assert_eq!(image.labels.len(), anchors, "anchors of image {index}");
            labels.extend(image.labels.iter().copied().map(encode));
            for positive in &image.positives {
                indices.push((index * anchors + positive.anchor) as i32);
                deltas.extend(positive.deltas);
                anchor_boxes.extend(positive.anchor_box.to_array());
                objects.extend(positive.object_box.to_array());
                image_of.push(index);
            }
        }
        let count = indices.len();
        let rows =
            |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [count, 4]), device);
        Self {
            labels: Arc::new(labels),
            positives: (count > 0).then(|| Positives {
                indices: Tensor::from_data(TensorData::new(indices, [count]), device),
                images: image_of,
                deltas: rows(deltas),
                anchors: rows(anchor_boxes),
                objects: rows(objects),
            }),
            positives_per_image: images.iter().map(|image| image.positives.len()).collect(),
        }
    }

    /// How many anchors of each image are positive.
    pub fn positives_per_image(&self) -> &[usize] {
        &self.positives_per_image
    }

    /// How many anchors of the batch are positive.
    pub fn positives(&self) -> usize {
        self.positives_per_image.iter().sum()
    }
}

fn encode(label: AnchorLabel) -> i32 {
    match label {
        AnchorLabel::Background => BACKGROUND,
        AnchorLabel::Ignored => IGNORED,
        AnchorLabel::Object(class) => class.0 as i32,
    }
}
