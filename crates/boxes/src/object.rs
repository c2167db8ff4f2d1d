use serde::{Deserialize, Serialize};

use crate::{BoundingBox, ClassId};

/// An image id of a COCO file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub u64);

/// An object that the model reports.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Where it is.
    pub bbox: BoundingBox,
    /// What it is.
    pub class: ClassId,
    /// How sure the model is, in `[0, 1]`.
    pub score: f32,
}

/// An object that the annotations report.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroundTruth {
    /// Where it is.
    pub bbox: BoundingBox,
    /// What it is.
    pub class: ClassId,
    /// Whether the box marks a crowd (COCO's `iscrowd`): a region with many objects that nobody
    /// counted.
    pub crowd: bool,
}
