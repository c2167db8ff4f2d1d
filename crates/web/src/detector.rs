//! What the page's worker calls.

use std::sync::Arc;

use burn::tensor::Device;
use image::{RgbImage, RgbaImage};
use retinanet_detector::Detector;
use retinanet_images::{MAX_PIXELS, decode_bytes};
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsError, JsValue};

/// A detector that a page has loaded.
#[wasm_bindgen]
pub struct PageDetector {
    detector: Detector,
}

/// The detections on an image, and how long they took.
#[wasm_bindgen]
pub struct Found {
    rows: Vec<f32>,
    /// Width of the image, in pixels.
    pub width: u32,
    /// Height of the image, in pixels.
    pub height: u32,
    /// Resizing and normalising, in milliseconds.
    pub prepare: f64,
    /// The network, in milliseconds.
    pub network: f64,
    /// Decoding and suppression, in milliseconds.
    pub post: f64,
}

#[wasm_bindgen]
impl Found {
    /// For each detection, best first: place of its class, score, and `x1`, `y1`, `x2`, `y2` in pixels of the upright image.
    #[wasm_bindgen(getter)]
    pub fn rows(&self) -> Vec<f32> {
        self.rows.clone()
    }
}

#[wasm_bindgen]
impl PageDetector {
    /// Reads a detector's file.
    ///
    /// # Errors
    ///
    /// Returns an error if it is none.
    #[wasm_bindgen(constructor)]
    pub fn new(file: Vec<u8>) -> Result<Self, JsError> {
        let detector =
            Detector::from_bytes(file, "detector.safetensors".as_ref(), &Device::flex())?;
        Ok(Self { detector })
    }

    /// The names of the classes.
    pub fn classes(&self) -> Vec<String> {
        let classes = self.detector.classes().iter();
        classes.map(|(_, class)| class.name.clone()).collect()
    }

    /// The detections on an image file's content, decoded as everywhere in this program.
    ///
    /// # Errors
    ///
    /// Returns an error if it is no image.
    #[wasm_bindgen(js_name = detectFile)]
    pub fn detect_file(&self, content: &[u8]) -> Result<Found, JsError> {
        let decoding = self.detector.preparation().decoding(MAX_PIXELS);
        Ok(self.detect(decode_bytes(content, decoding)?))
    }

    /// The detections on pixels as a canvas has them: red, green, blue, opacity.
    ///
    /// # Errors
    ///
    /// Returns an error if there are more or fewer than such an image has.
    #[wasm_bindgen(js_name = detectPixels)]
    pub fn detect_pixels(
        &self,
        pixels: Vec<u8>,
        width: u32,
        height: u32,
    ) -> Result<Found, JsValue> {
        let image = RgbaImage::from_raw(width, height, pixels)
            .ok_or_else(|| JsValue::from_str("the pixels are not of this width and height"))?;
        Ok(self.detect(image::DynamicImage::from(image).into_rgb8()))
    }
}

impl PageDetector {
    fn detect(&self, image: RgbImage) -> Found {
        let (width, height) = image.dimensions();
        let found = self.detector.detect(&[Arc::new(image)]);
        let found = found.into_iter().next().unwrap_or_default();
        let rows = found.detections.iter().flat_map(|it| {
            let [x1, y1, x2, y2] = it.bbox.to_array();
            [it.class.index() as f32, it.score, x1, y1, x2, y2]
        });
        let [prepare, network, post] = [found.times.prepare, found.times.network, found.times.post]
            .map(|time| time.as_secs_f64() * 1e3);
        Found {
            rows: rows.collect(),
            width,
            height,
            prepare,
            network,
            post,
        }
    }
}
