use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use retinanet_anchors::PyramidAnchors;
use retinanet_boxes::{AnchorLabel, AnchorTargets, PositiveAnchor};

/// Stands for [`AnchorLabel::Background`] in the tensor of labels.
pub(crate) const BACKGROUND: i32 = -1;
/// Stands for [`AnchorLabel::Ignored`] in the tensor of labels.
pub(crate) const IGNORED: i32 = -2;

/// What the anchors of a batch shall learn.
#[derive(Clone, Debug)]
pub struct BatchTargets {
    /// The targets of each image, on the host.
    images: Arc<Vec<AnchorTargets>>,
    /// The anchors that they are for.
    anchors: Arc<PyramidAnchors>,
    on_device: DeviceTargets,
}

/// What the anchors of a batch shall learn, as the losses read it.
#[derive(Clone, Debug)]
pub(crate) struct DeviceTargets {
    /// `[batch, anchors]`: the class, or [`BACKGROUND`] or [`IGNORED`]. On the host, where the
    /// CPU's loss reads them as they are.
    pub(crate) labels: Arc<Vec<i32>>,
    /// Only where there are positives, since not every backend has empty tensors.
    pub(crate) positives: Option<Positives>,
}

/// The positive anchors of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Positives {
    /// `[positives]`: `image * anchors + anchor`.
    pub(crate) indices: Tensor<1, Int>,
    /// `[positives]`: the class of each.
    pub(crate) classes: Tensor<1, Int>,
    /// `[positives]`: which image each belongs to, on the host.
    pub(crate) images: Vec<usize>,
    /// `[positives, 4]`
    pub(crate) deltas: Tensor<2>,
    /// `[positives, 4]`: `[x1, y1, x2, y2]`.
    pub(crate) anchors: Tensor<2>,
    /// `[positives, 4]`: `[x1, y1, x2, y2]`.
    pub(crate) objects: Tensor<2>,
    /// `[positives]`: what their classes shall have for scores, if the assigner says so.
    pub(crate) qualities: Option<Tensor<1>>,
}

impl BatchTargets {
    /// The targets of a batch's images, for these anchors.
    ///
    /// # Panics
    ///
    /// Panics if an image has targets for another number of anchors: they come from one batch.
    pub fn new(images: Vec<AnchorTargets>, anchors: Arc<PyramidAnchors>, device: &Device) -> Self {
        for (index, image) in images.iter().enumerate() {
            assert_eq!(
                image.labels.len(),
                anchors.len(),
                "anchors of image {index}"
            );
        }
        Self {
            on_device: DeviceTargets::new(&images, device),
            images: Arc::new(images),
            anchors,
        }
    }

    /// The targets of each image.
    pub fn images(&self) -> &[AnchorTargets] {
        &self.images
    }

    /// The anchors that the targets are for.
    pub fn anchors(&self) -> &PyramidAnchors {
        &self.anchors
    }

    /// How many anchors of each image are positive, whatever is predicted.
    pub fn positives_per_image(&self) -> Vec<usize> {
        self.images
            .iter()
            .map(|image| image.positives.len())
            .collect()
    }

    /// The targets of the images, of nobody else.
    pub fn into_images(self) -> Vec<AnchorTargets> {
        Arc::unwrap_or_clone(self.images)
    }

    pub(crate) const fn on_device(&self) -> &DeviceTargets {
        &self.on_device
    }
}

impl DeviceTargets {
    /// Moves the targets of a batch's images to the device.
    pub(crate) fn new(images: &[AnchorTargets], device: &Device) -> Self {
        let anchors = images.first().map_or(0, |image| image.labels.len());
        let mut labels = Vec::with_capacity(images.len() * anchors);
        let (mut indices, mut classes, mut image_of) = (Vec::new(), Vec::new(), Vec::new());
        let (mut deltas, mut anchor_boxes, mut objects) = (Vec::new(), Vec::new(), Vec::new());
        let mut qualities = Vec::new();
        for (index, image) in images.iter().enumerate() {
            labels.extend(image.labels.iter().copied().map(encode));
            for positive in &image.positives {
                indices.push((index * anchors + positive.anchor) as i32);
                classes.push(positive.class.0 as i32);
                deltas.extend(positive.deltas);
                anchor_boxes.extend(positive.anchor_box.to_array());
                objects.extend(positive.object_box.to_array());
                qualities.extend(positive.quality);
                image_of.push(index);
            }
        }
        let count = indices.len();
        #[cfg(feature = "gpu")]
        retinanet_gpu::count_upload(count * (2 * size_of::<i32>() + 3 * 4 * size_of::<f32>()));
        let rows =
            |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [count, 4]), device);
        Self {
            labels: Arc::new(labels),
            positives: (count > 0).then(|| Positives {
                indices: Tensor::from_data(TensorData::new(indices, [count]), device),
                classes: Tensor::from_data(TensorData::new(classes, [count]), device),
                images: image_of,
                deltas: rows(deltas),
                anchors: rows(anchor_boxes),
                objects: rows(objects),
                qualities: (qualities.len() == count)
                    .then(|| Tensor::from_floats(&*qualities, device)),
            }),
        }
    }
}

/// The targets of a range of an image's anchors.
pub(crate) fn of_range(targets: &AnchorTargets, range: &Range<usize>) -> AnchorTargets {
    let positives = targets.positives.iter();
    AnchorTargets {
        labels: targets.labels[range.clone()].to_vec(),
        positives: positives
            .filter(|positive| range.contains(&positive.anchor))
            .map(|positive| PositiveAnchor {
                anchor: positive.anchor - range.start,
                ..*positive
            })
            .collect(),
        objects: targets.objects.clone(),
    }
}

fn encode(label: AnchorLabel) -> i32 {
    match label {
        AnchorLabel::Background => BACKGROUND,
        AnchorLabel::Ignored => IGNORED,
        AnchorLabel::Object(class) => class.0 as i32,
    }
}
