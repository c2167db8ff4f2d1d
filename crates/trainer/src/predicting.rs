use std::path::Path;

use retinanet_boxes::Detection;
use retinanet_data::{DataError, prepare};

use crate::evaluating::Detector;

impl Detector {
    /// What the model sees on an image file, best first, in pixels of the upright image.
    ///
    /// # Errors
    ///
    /// Returns an error where the file cannot be read.
    pub fn detect_file(&self, path: &Path) -> Result<Vec<Detection>, DataError> {
        let batch = prepare(path, &self.transform, &self.generator)?;
        Ok(self.detect(batch).pop().unwrap_or_default())
    }
}
