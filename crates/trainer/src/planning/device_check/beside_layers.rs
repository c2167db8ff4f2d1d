//! What a device computes beside a model's layers and loss: pixels, updates, detections.

use std::convert::Infallible;
use std::sync::Arc;

use burn::optim::Optimizer as _;
use burn::tensor::{Device, Tensor, TensorData};
use image::{Rgb, RgbImage};
use retinanet_anchors::PyramidAnchors;
use retinanet_detector::{DecodeConfig, ModelConfig, Predictions, images_to_device, pixel_form};
use retinanet_images::{Preparation, PreparationConfig, Prepared, Region, View};

use super::Parts;
use crate::optimisation::update::{AdamW, ModeCell, Sgd};

/// An odd number, so that the last unit of a kernel has nothing to do.
const VALUES: usize = 70_001;

/// The numbers of an image, of one in a mirror, and of both over one another.
pub(super) fn pixels(device: &Device) -> Parts {
    // The defaults fit each other.
    let Ok(preparation) = Preparation::new(&PreparationConfig::default()) else {
        return Vec::new();
    };
    let pixel = |x: u32, y: u32| Rgb([x * 5, y * 7, x * y].map(|value| (value % 256) as u8));
    let image = Arc::new(RgbImage::from_fn(61, 47, pixel));
    let plain = View::of(0, Region::whole(image.dimensions()), (90, 70));
    let mut mirrored = plain.clone();
    mirrored.mirror();
    let mixed = plain.clone().mix(mirrored.clone(), 0.3);
    let rendered = [plain, mirrored, mixed].map(|view| {
        let decoded = |_| Ok::<_, Infallible>(Arc::clone(&image));
        let Ok(rendered) = view.render(&preparation, decoded);
        rendered
    });
    let Prepared {
        pixels,
        height,
        width,
        sizes,
    } = Prepared::new(&rendered, &preparation, pixel_form(device));
    let images = images_to_device(pixels, [sizes.len(), height, width], device);
    vec![("numbers", images.into_data().iter::<f32>().collect())]
}

/// The weights after two steps of each optimiser.
pub(super) fn updates(device: &Device) -> Parts {
    let sgd = Sgd {
        momentum: 0.9,
        weight_decay: 0.01,
        rate_factor: 1.0,
        mode: ModeCell::default(),
    };
    let adamw = AdamW {
        betas: [0.9, 0.99],
        epsilon: 1e-8,
        weight_decay: 0.01,
        rate_factor: 1.0,
        mode: ModeCell::default(),
    };
    let wave = |pace: f32| -> Tensor<1> {
        let values = (0..VALUES).map(|place| (place as f32 * pace).sin());
        let values = TensorData::new(values.collect::<Vec<f32>>(), [VALUES]);
        Tensor::from_data(values, device)
    };
    let host = |weights: Tensor<1>| weights.into_data().iter::<f32>().collect();
    let (weights, state) = sgd.step(0.1, wave(0.37), wave(0.11), None);
    let (by_sgd, _) = sgd.step(0.1, weights, wave(0.23), state);
    let (weights, state) = adamw.step(0.1, wave(0.37), wave(0.11), None);
    let (by_adamw, _) = adamw.step(0.1, weights, wave(0.23), state);
    vec![("SGD", host(by_sgd)), ("AdamW", host(by_adamw))]
}

/// The detections on two images of the size of the anchors; where there are more or fewer than elsewhere, all differ.
pub(super) fn detections(
    model: &ModelConfig,
    classes: usize,
    anchors: &PyramidAnchors,
    device: &Device,
) -> Parts {
    let wave = |values: usize, scale: f32, pace: f32, shift: f32| -> Tensor<3> {
        let count = 2 * anchors.len() * values;
        let wave = (0..count).map(|place| scale * (place as f32 * pace).sin() + shift);
        let shape = [2, anchors.len(), values];
        Tensor::from_data(TensorData::new(wave.collect::<Vec<f32>>(), shape), device)
    };
    let predictions = Predictions {
        logits: wave(classes, 5.0, 12.9898, -4.6),
        deltas: wave(4, 0.3, 0.73, 0.0),
        level_anchors: anchors.levels().map(|level| level.len()).collect(),
    };
    let decoder = DecodeConfig::default().init(model);
    let found = decoder.decode(predictions, anchors, &[(1 << 14, 1 << 14); 2]);
    let all = || found.iter().flatten();
    let boxes = all().flat_map(|detection| detection.bbox.to_array());
    vec![
        ("number", found.iter().map(|it| it.len() as f32).collect()),
        ("scores", all().map(|detection| detection.score).collect()),
        ("boxes", boxes.collect()),
    ]
}
