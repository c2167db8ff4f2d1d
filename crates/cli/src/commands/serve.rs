use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Context;
use image::RgbImage;
use retinanet_boxes::Detection;
use retinanet_detector::Detector;
use retinanet_service::{run_with, Detect, FetchPicture, ModelInfo, ServiceConfig, Stop};

use crate::args::{ServeArguments, TestTimeArguments};
use crate::console;
use crate::failure::Failure;
use crate::signals;

use super::label_studio::Pictures;
use super::LoadedModel;

/// The trained model, behind HTTP.
struct Model(Detector);

impl Detect for Model {
    fn detect(&mut self, pictures: Vec<RgbImage>) -> Vec<Result<Vec<Detection>, String>> {
        let pictures: Vec<_> = pictures.into_iter().map(Arc::new).collect();
        let found = self.0.detect(&pictures).into_iter();
        found.map(|found| Ok(found.detections)).collect()
    }
}

pub(crate) fn run(arguments: &ServeArguments) -> Result<(), Failure> {
    let mut service = config(arguments)?;
    let pictures = Pictures::new(&arguments.label_studio)?;
    let pictures = pictures.map(|it| Arc::new(it) as Arc<dyn FetchPicture>);
    let model = super::load_model(&arguments.model)?;
    service.score = model.score(arguments.score);
    let LoadedModel {
        detector, config, ..
    } = model;
    let test_time = TestTimeArguments {
        batch: Some(service.batch.get()),
        ..arguments.test_time.clone()
    };
    let detector = super::with_test_time_augmentation(detector, &test_time)?;
    service.range_16_bit = detector.preparation().config().range_16_bit;
    let info = info(arguments, &detector, &config.compute.device);

    let stop = Stop::new();
    let asked = stop.clone();
    // A second Ctrl-C ends the program at once: a request may take longer than a person waits.
    signals::on_first(move || asked.stop())
        .context("cannot watch for Ctrl-C")
        .map_err(Failure::Work)?;
    let ready = |address| console::result(&format!("serving on http://{address}"));
    run_with(&service, Model(detector), info, pictures, &stop, ready).map_err(Failure::work)?;
    console::result("stopped");
    Ok(())
}

fn config(arguments: &ServeArguments) -> Result<ServiceConfig, Failure> {
    let config = ServiceConfig {
        address: arguments.address,
        batch: at_least_1(arguments.test_time.batch.unwrap_or(4)),
        max_body_bytes: at_least_1(arguments.max_mebibytes.saturating_mul(1 << 20)),
        allow_hosts: arguments.allow_host.clone(),
        max_pixels: (arguments.max_megapixels as u64).saturating_mul(1_000_000),
        max_waiting: at_least_1(arguments.max_waiting),
        timeout_seconds: f64::from(arguments.timeout),
        ..ServiceConfig::default()
    };
    config.check().map_err(Failure::usage)?;
    Ok(config)
}

/// The command line takes nothing less.
fn at_least_1(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

fn info(arguments: &ServeArguments, detector: &Detector, device: &str) -> ModelInfo {
    let model = &arguments.model;
    let device = model.device.as_deref().unwrap_or(device);
    ModelInfo {
        name: super::model_name(model),
        classes: detector.classes().clone(),
        details: [
            ("device".into(), device.into()),
            ("version".into(), env!("CARGO_PKG_VERSION").into()),
        ]
        .into(),
    }
}
