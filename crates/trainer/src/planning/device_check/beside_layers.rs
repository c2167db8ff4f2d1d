//! What a device computes beside a model's layers and loss: pixels, updates, detections.

use std::convert::Infallible;
use std::sync::Arc;

use burn::optim::Optimizer as _;
use burn::tensor::{Device, Tensor, TensorData};
use image::{Rgb, RgbImage};
use retinanet_anchors::PyramidAnchors;
use retinanet_convolution::normal_values;
use retinanet_detector::{DecodeConfig, ModelConfig, Predictions, images_to_device, pixel_form};
use retinanet_images::{Preparation, PreparationConfig, Prepared, Region, View};

use super::Parts;
#[cfg(feature = "gpu")]
use crate::optimisation::gpu;
#[cfg(feature = "gpu")]
use crate::optimisation::update::Mode;
use crate::optimisation::update::{AdamW, ModeCell, Sgd, sum_of_squares};

/// An odd number, so that the last unit of a kernel has nothing to do.
const VALUES: usize = 70_001;

/// Less than the norm of so many values about 1.
const CLIP_NORM: f64 = 50.0;

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
        mut pixels,
        height,
        width,
        sizes,
    } = Prepared::new(&rendered, &preparation, pixel_form(device));
    let images = images_to_device(&mut pixels, [sizes.len(), height, width], device);
    vec![("numbers", images.into_data().iter::<f32>().collect())]
}

/// The weights after two steps of each optimiser, whose gradients are clipped: on a GPU by its own verdict.
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
    let clipped = |gradient| clipped(gradient, &[&sgd.mode, &adamw.mode]);
    let host = |weights: Tensor<1>| weights.into_data().iter::<f32>().collect();
    let (weights, state) = sgd.step(0.1, wave(0.37), clipped(wave(0.11)), None);
    let (by_sgd, _) = sgd.step(0.1, weights, clipped(wave(0.23)), state);
    let (weights, state) = adamw.step(0.1, wave(0.37), clipped(wave(0.11)), None);
    let (by_adamw, _) = adamw.step(0.1, weights, clipped(wave(0.23)), state);
    vec![("SGD", host(by_sgd)), ("AdamW", host(by_adamw))]
}

/// A gradient with the norm [`CLIP_NORM`]; a GPU is told to clip it in the step.
fn clipped(gradient: Tensor<1>, modes: &[&ModeCell]) -> Tensor<1> {
    #[cfg(feature = "gpu")]
    if let Some(on_gpu) = retinanet_gpu::to_gpu(gradient.clone())
        && let Some(squares) = gpu::sum_of_squares(vec![on_gpu])
    {
        let verdict = gpu::Verdict::on(&squares, None, Some(CLIP_NORM), 1.0);
        for mode in modes {
            mode.set(Mode::OnDevice(verdict.clone()));
        }
        return gradient;
    }
    let _ = modes;
    let norm = sum_of_squares(gradient.clone()).sqrt();
    gradient * (CLIP_NORM / norm)
}

/// The detections on two images of the size of the anchors; where there are more or fewer than elsewhere, all differ.
pub(super) fn detections(
    model: &ModelConfig,
    classes: usize,
    anchors: &PyramidAnchors,
    device: &Device,
) -> Parts {
    let noise = |values: usize, name: &str, scale: f32, shift: f32| -> Tensor<3> {
        let noise = normal_values(2 * anchors.len() * values, 0, name).into_iter();
        let noise: Vec<f32> = noise.map(|value| scale * value + shift).collect();
        let shape = [2, anchors.len(), values];
        Tensor::from_data(TensorData::new(noise, shape), device)
    };
    let predictions = Predictions {
        logits: noise(classes, "logits", 1.5, -4.6),
        boxes: noise(model.values_per_anchor(), "boxes", 0.3, 0.0),
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
