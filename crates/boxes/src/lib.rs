//! The small vocabulary that the other crates meet at: a box in continuous pixels, class and
//! category ids, detections and ground truth.
//!
//! Boxes are `[x1, y1, x2, y2]` in pixels of the image at hand, half-open, without the old
//! `+ 1` of integer pixels: a box from 0 to 32 is 32 wide. COCO's `[x, y, width, height]` and its
//! category ids exist only at the file boundary, and the conversions live here.
//!
//! ```
//! use retinanet_boxes::BoundingBox;
//!
//! let truth = BoundingBox::from_xywh([10.0, 10.0, 20.0, 10.0]);
//! let guess = BoundingBox::new(10.0, 10.0, 20.0, 20.0);
//! assert_eq!(truth.iou(&guess), 0.5);
//! ```

mod bounding_box;
mod class;
mod object;
mod target;

pub use bounding_box::BoundingBox;
pub use class::{CategoryId, Class, ClassId, ClassList, ClassListError, one_line};
pub use object::{Detection, GroundTruth, ImageId};
pub use target::{AnchorLabel, AnchorTargets, PositiveAnchor};
