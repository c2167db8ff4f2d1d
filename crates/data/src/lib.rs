//! From COCO annotations and image files to batches: plain arrays on the host, which any device
//! can take.
//!
//! ```text
//! annotations ── CocoDataset ──┐
//!                              ├─► TrainLoader ─► Batch: images, anchors, targets
//! TransformConfig ─ Transform ─┤
//!                              └─► EvalLoader ──► Batch: images, anchors, targets if asked for
//! ```
//!
//! [`CocoDataset`] reads the annotations, leaves out the boxes that nothing can be learnt from and
//! lists them. [`Transform`] plans what a sample shows from the sizes alone, in training varied as
//! [`AugmentConfig`] says; [`retinanet_images`] makes the pixels, as it does for an image that is in no
//! data set, and the boxes follow the same plan. The loaders do all that on worker threads, anchors and
//! targets included.
//!
//! What a training sample looks like is a function of (seed, epoch, image, how often the image came
//! before in the epoch), and which samples make a batch is a function of (seed, iteration). So the
//! batches are the same for any number of workers, and a run can go on from any iteration.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use retinanet_anchors::{AnchorConfig, AssignerConfig, BoxCoder, TargetAssigner};
//! use retinanet_data::{Batching, CocoDataset, LoaderConfig, TrainLoader, Transform, TransformConfig};
//! use retinanet_settings::Count;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dataset = CocoDataset::read(Path::new("train.json"), Path::new("images"))?;
//! dataset.check_files()?;
//!
//! let loader = TrainLoader::new(
//!     Arc::new(dataset),
//!     LoaderConfig::default(),
//!     Batching::of(Count::literal(4)),
//!     Transform::new(&TransformConfig::default(), None)?,
//!     AnchorConfig::default().init(&[8, 16, 32, 64, 128])?,
//!     TargetAssigner::new(&AssignerConfig::default(), BoxCoder::default())?,
//! )?;
//! for batch in loader.start(0, 90_000) {
//!     let batch = batch?;
//!     assert_eq!(batch.images.numbers().len(), 4 * 3 * batch.height * batch.width);
//! }
//! # Ok(())
//! # }
//! ```

mod augment;
mod batch;
mod cache;
mod coco;
mod error;
mod loader;
mod loader_config;
mod parallel;
mod plan;
mod random;
mod resize;
mod sampling;
#[cfg(test)]
mod shared;
mod transform;
mod view_sampler;

pub use augment::{
    AugmentConfig, CropConfig, HueTurn, JitterConfig, MixupConfig, MosaicConfig, PhotometricConfig,
};
pub use batch::{Batch, BatchItem};
pub use coco::{
    CocoDataset, DropReason, Dropped, FileFaults, ImageRecord, LabelIds, LookOver, ReadOptions,
    locate,
};
pub use error::{DataError, in_full};
pub use loader::{BatchIter, EvalLoader, TrainLoader};
pub use loader_config::{Batching, LoaderConfig, OnBadImage};
pub use parallel::ParallelMap;
pub use resize::{ResizeConfig, ShortSides};
pub use transform::{Transform, TransformConfig};
