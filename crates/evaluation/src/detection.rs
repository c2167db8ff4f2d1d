use hotcoco::Annotation;
use retinanet_boxes::{CategoryId, ImageId};
use serde::{Deserialize, Serialize};

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
