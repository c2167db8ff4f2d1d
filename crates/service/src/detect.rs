use std::collections::BTreeMap;

use image::RgbImage;
use retinanet_boxes::{ClassList, Detection};

/// What finds the objects.
pub trait Detect: Send + 'static {
    /// Finds the objects of a batch of upright pictures, in pixels of each: one result for each
    /// picture, in the same order.
    ///
    /// It is called on one thread, which is nobody else's. An error fails that picture's request, a
    /// panic fails those of the batch; the service goes on.
    fn detect(&mut self, pictures: Vec<RgbImage>) -> Vec<Result<Vec<Detection>, String>>;
}

/// What the service tells about its model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// What the page and `GET /health` call it.
    pub name: String,
    /// What it tells apart.
    pub classes: ClassList,
    /// What else is worth telling: the run, the device.
    pub details: BTreeMap<String, String>,
}
