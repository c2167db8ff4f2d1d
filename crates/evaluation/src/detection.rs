use std::path::Path;

use hotcoco::Annotation;
use retinanet_boxes::{CategoryId, ImageId};
use serde::{Deserialize, Serialize};

use crate::EvaluationError;

/// A detection as COCO's results format has it. Other keys are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "an object with `image_id`, `category_id`, `bbox` and `score`")]
pub struct CocoDetection {
    /// The image.
    pub image_id: ImageId,
    /// The category.
    pub category_id: CategoryId,
    /// `[x, y, width, height]` in pixels of the image as it is stored.
    pub bbox: [f64; 4],
    /// How sure the model is; only the order counts.
    pub score: f64,
}

impl CocoDetection {
    pub(crate) fn is_finite(&self) -> bool {
        self.score.is_finite() && self.bbox.iter().all(|edge| edge.is_finite())
    }
}

impl From<&CocoDetection> for Annotation {
    fn from(detection: &CocoDetection) -> Self {
        Self {
            image_id: detection.image_id.0,
            category_id: detection.category_id.0,
            bbox: Some(detection.bbox),
            score: Some(detection.score),
            ..Self::default()
        }
    }
}

/// Reads a file in COCO's results format: a list of detections.
///
/// # Errors
///
/// Returns an error where the file cannot be read or is no such list.
pub fn read_detections(path: &Path) -> Result<Vec<CocoDetection>, EvaluationError> {
    let bytes = fs_err::read(path)?;
    serde_json::from_slice(&bytes).map_err(|source| EvaluationError::NotDetections {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn read(text: &str) -> Result<Vec<CocoDetection>, EvaluationError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        fs_err::write(&path, text).unwrap();
        read_detections(&path)
    }

    #[test]
    fn detections_survive_being_written_and_read() {
        let detections = vec![
            CocoDetection {
                image_id: ImageId(0),
                category_id: CategoryId(90),
                bbox: [0.1, 0.2, 1.0 / 3.0, 1e-3],
                score: 0.1 + 0.2,
            };
            2
        ];
        let text = serde_json::to_string(&detections).unwrap();
        assert_eq!(read(&text).unwrap(), detections);
        assert_eq!(read("[]").unwrap(), []);
    }

    #[test]
    fn a_file_that_is_no_list_of_detections_is_refused() {
        let error = read(r#"{"annotations": []}"#).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("results.json` is not a list of detections"),
            "{message}"
        );

        let error = read(r#"[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]"#);
        let source = error.unwrap_err().source().unwrap().to_string();
        assert!(source.contains("missing field `score`"), "{source}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read_detections(Path::new("/nowhere/results.json")).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("/nowhere/results.json"), "{message}");
    }
}
