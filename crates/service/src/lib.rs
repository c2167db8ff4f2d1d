//! A detector behind HTTP: a page to drop photos on, detections as JSON, health and metrics.
//!
//! ```text
//! connection ── body ── decoder threads ──┐ at most `2 × batch` decoded pictures
//! connection ── body ── decoder threads ──┼─► detector's thread: a batch of those that wait
//! connection ── refused: too large, too slow, too many, no image
//! ```
//!
//! | | |
//! |---|---|
//! | `GET /` | the page |
//! | `POST /detect?score=0.3` | the body is an image file; answers [JSON](#answers) |
//! | `GET /health` | what the model is, and the limits |
//! | `GET /metrics` | Prometheus' text format |
//! | `POST /setup`, `/predict`, … | Label Studio's protocol, if it is asked for: [`run_with`] |
//!
//! It knows nothing of networks: [`Detect`] is what finds the objects, called with a batch of
//! pictures on a thread of its own. [`run`] serves until [`Stop`] says so, finishes what it has
//! begun and returns.
//!
//! # Answers
//!
//! ```json
//! {
//!   "width": 640, "height": 480,
//!   "detections": [
//!     { "category_id": 17, "name": "cat", "bbox": [10.0, 20.0, 200.0, 150.0], "score": 0.93 }
//!   ],
//!   "milliseconds": { "decode": 5.1, "wait": 0.4, "detect": 80.2 }
//! }
//! ```
//!
//! The best detection comes first; `bbox` is `[x, y, width, height]` in pixels of the upright image.
//! A refusal is `{"error": "…"}` with status 400 (no body, or a query that is not understood), 408
//! (the body came too slowly), 413 (too many bytes or pixels), 415 (no image of a known format), 422
//! (a broken image), 500 (the detector failed) or 503 (too many wait, or the service stops).
//!
//! # Example
//!
//! ```no_run
//! use image::RgbImage;
//! use retinanet_boxes::{BoundingBox, CategoryId, Class, ClassId, ClassList, Detection};
//! use retinanet_service::{Detect, ModelInfo, ServiceConfig, Stop, run};
//!
//! /// Finds one object in every picture: the picture.
//! struct Everything;
//!
//! impl Detect for Everything {
//!     fn detect(&mut self, pictures: Vec<RgbImage>) -> Vec<Result<Vec<Detection>, String>> {
//!         let whole = |picture: &RgbImage| Detection {
//!             bbox: BoundingBox::new(0.0, 0.0, picture.width() as f32, picture.height() as f32),
//!             class: ClassId(0),
//!             score: 1.0,
//!         };
//!         pictures.iter().map(|picture| Ok(vec![whole(picture)])).collect()
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let class = Class::new(CategoryId(1), "picture");
//! let info = ModelInfo {
//!     name: "everything".into(),
//!     classes: ClassList::new(vec![class])?,
//!     details: [].into(),
//! };
//! let stop = Stop::new();
//! run(&ServiceConfig::default(), Everything, info, &stop, |address| {
//!     println!("http://{address}");
//! })?;
//! # Ok(())
//! # }
//! ```

mod batcher;
mod config;
mod detect;
mod error;
mod host;
mod label_studio;
mod metrics;
mod refusal;
mod routes;
mod server;
mod upload;

/// The page that shows the detections on photos. It asks the service, or an object `window.backend` with `health()` and
/// `detect(file)` where a script before its own has made one.
pub const PAGE: &str = include_str!("page.html");

pub use config::ServiceConfig;
pub use detect::{Detect, ModelInfo};
pub use error::ServiceError;
pub use label_studio::FetchPicture;
pub use server::{Stop, run, run_with};
