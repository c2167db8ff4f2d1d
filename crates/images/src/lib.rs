//! From an image file to the numbers that a network sees, and back: plain arrays on the host, which
//! any device can take.
//!
//! ```text
//! image file ─────────── decode_image ──┐
//! TestTimeAugmentation ─ TestTimeView ──┼─► prepare_views ─► Prepared ─► network ─► boxes
//! PreparationConfig ──── Preparation ───┘                                             │
//! boxes of the image ◄──────────────── TestTimeView::to_original ◄────────────────────┘
//! ```
//!
//! [`decode_image`] gives upright RGB or an error with the file's name. A [`Preparation`] says how
//! images are resized, as detectron2's `ResizeShortestEdge` does it, and how pixels become numbers. A
//! [`TestTimeView`] is one way of looking at an image: as a whole, or at a tile, in a mirror, at another
//! scale. It takes boxes of what was prepared back to the image.
//!
//! Underneath, a [`View`] plans from the sizes alone what is shown of which images; pixels and boxes
//! then follow the same plan. Data sets sample theirs for training. [`draw_detections`] shows
//! what came of it on the image.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//!
//! use retinanet_boxes::BoundingBox;
//! use retinanet_images::{Decoding, PixelForm, TestTimeView, Preparation, PreparationConfig, decode_image, prepare_views};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("photo.png");
//! # image::RgbImage::new(600, 400).save(&path)?;
//! let image = Arc::new(decode_image(&path, Decoding::default())?);
//! let preparation = Preparation::new(&PreparationConfig::default())?;
//! let view = TestTimeView::plain(&preparation, image.dimensions());
//! let prepared = prepare_views(&[(image, view)], &preparation, PixelForm::Numbers);
//!
//! // 600×400 resized to 1200×800, and padded to multiples of 32.
//! assert_eq!(prepared.sizes, [(1200, 800)]);
//! assert_eq!((prepared.height, prepared.width), (800, 1216));
//! assert_eq!(prepared.pixels.numbers().len(), 3 * 800 * 1216);
//!
//! let found = BoundingBox::new(0.0, 0.0, 1200.0, 400.0);
//! assert_eq!(view.to_original(found), BoundingBox::new(0.0, 0.0, 600.0, 200.0));
//! # Ok(())
//! # }
//! ```

mod colors;
mod complete;
mod decode;
mod decoding;
mod draw;
mod error;
mod header;
mod normalization;
mod outline;
mod panics;
mod pixel_data;
mod pixels;
mod preparation;
mod prepared;
mod resize;
mod test_time;
mod view;

pub use colors::ColorShift;
pub use decode::{BytesError, decode_bytes, decode_image, range_of_16_bit};
pub use decoding::{Decoding, DecodingConfig, MAX_PIXELS, Range16Bit};
pub use draw::{class_color, draw_box, draw_detections, draw_faint_box};
pub use error::ImagesError;
pub use header::{Header, check_image, read_header};
pub use normalization::{
    Channel, ChannelMean, ChannelOrder, ChannelStd, Normalization, Normalizer,
};
pub use outline::Outline;
pub use panics::catch_panic;
pub use pixel_data::{PieceBytes, PixelBytes, PixelData, PixelForm};
pub use preparation::{PaddingConfig, Preparation, PreparationConfig, Side};
pub use prepared::{Prepared, Rendered};
pub use resize::{Interpolation, SizeRounding};
pub use test_time::{TestTimeAugmentation, TestTimeView, prepare_views};
pub use view::{CutOut, Piece, Region, View};
