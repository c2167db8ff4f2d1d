//! Anchors of RetinaNet ([Lin et al. 2017](https://arxiv.org/abs/1708.02002), section 4):
//! where they lie, which object each of them answers for, and how a box is written relative to
//! its anchor. Everything is plain `f32` on the host, for the loader's workers and for decoding.
//!
//! ```text
//! AnchorConfig ── init ─► AnchorGenerator ── generate ─► anchors
//!                                                           │
//! AssignerConfig + BoxCoder ─────► TargetAssigner ── assign ─► AnchorTargets
//! ```
//!
//! The order of anchors is stated at [`AnchorGenerator`]. The defaults are detectron2's; where
//! another implementation differs, the difference is a setting with a name.
//!
//! ```
//! use retinanet_anchors::{AnchorConfig, AssignerConfig, BoxCoder, TargetAssigner};
//! use retinanet_boxes::{AnchorLabel, BoundingBox, ClassId, GroundTruth};
//!
//! # fn main() -> Result<(), retinanet_anchors::AnchorError> {
//! let generator = AnchorConfig::default().init(&[8, 16, 32, 64, 128])?;
//! let anchors = generator.generate(256, 256);
//! let assigner = TargetAssigner::new(&AssignerConfig::default(), BoxCoder::default())?;
//!
//! let object = GroundTruth {
//!     bbox: BoundingBox::new(100.0, 100.0, 164.0, 164.0),
//!     class: ClassId(3),
//!     crowd: false,
//! };
//! let targets = assigner.assign(&anchors, &[object]);
//! assert_eq!(targets.labels.len(), anchors.len());
//! for positive in &targets.positives {
//!     assert_eq!(targets.labels[positive.anchor], AnchorLabel::Object(ClassId(3)));
//! }
//! # Ok(())
//! # }
//! ```

mod assigner;
mod atss;
mod best_overlap;
mod centers;
mod coder;
mod config;
mod error;
mod generator;
mod lengths;
mod matcher;
mod optimize;
mod pyramid;
mod targets;
mod task_aligned;

pub use assigner::{Assigner, AssignerConfig, AssignerKind};
pub use atss::{AtssAssigner, AtssConfig};
pub use best_overlap::BestOverlap;
pub use coder::{
    BoxCoder, BoxCoderConfig, DeltaCoder, DeltaConfig, DistanceCoder, DistanceConfig, MAX_LOG_SCALE,
};
pub use config::{AnchorConfig, CellCenter, CellOrder, CellRounding, CellSpacing, LevelAnchors};
pub use error::AnchorError;
pub use generator::AnchorGenerator;
pub use lengths::Lengths;
pub use matcher::{Assignment, LowQuality, MaxIouConfig, MaxIouMatcher};
pub use optimize::{Fit, Proposal, Target, fit, optimize};
pub use pyramid::PyramidAnchors;
pub use targets::{ImagePredictions, TargetAssigner};
pub use task_aligned::{OverlapPower, ScorePower, TaskAlignedAssigner, TaskAlignedConfig};
