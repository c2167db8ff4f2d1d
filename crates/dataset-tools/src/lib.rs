//! What is done to a data set before anything learns from it: [`doctor`] finds what is wrong with it and
//! repairs some of it, [`convert()`] reads and writes the forms of other tools, [`split()`] sets images aside
//! for validation, with [`near_copies`] on one side, [`DatasetStats`] counts what is in it, and [`cover`] tells which boxes the anchors
//! reach.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//!
//! use retinanet_data::CocoDataset;
//! use retinanet_dataset_tools::DatasetStats;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dataset = CocoDataset::read(Path::new("train.json"), Path::new("images"))?;
//! println!("{}", DatasetStats::of(&dataset));
//! # Ok(())
//! # }
//! ```

mod convert;
mod coverage;
mod discover;
pub mod doctor;
mod label_errors;
mod labels;
mod mirror;
mod near_copies;
mod rank;
#[cfg(test)]
#[path = "../../data/src/shared.rs"]
mod shared;
mod split;
mod stats;

pub use convert::{
    ConvertError, Converted, DatasetFormat, Destination, Source, convert, decoded_query,
    yolo_splits,
};
pub use coverage::{Coverage, CoverageReport, Covered, Depth, cover, cover_image};
pub use discover::{DiscoverError, Found, FoundSplit, MADE_BY_INIT, discover, find_images};
pub use label_errors::{LabelError, LabelErrorKind, LabelledImage, label_errors};
pub use labels::{DetectedImage, write_labels};
pub use mirror::agreed;
pub use near_copies::near_copies;
pub use rank::{Ranked, Unlabelled, expected_boxes, rank, worth_of_classes};
pub use split::{split, split_groups};
pub use stats::{Bin, ClassStats, CommonSize, DatasetStats, ImageSizes, Spread};
