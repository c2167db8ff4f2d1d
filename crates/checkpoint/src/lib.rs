//! The checkpoints of a run on disk, for those who write them and for those who only detect with them. A checkpoint is a
//! folder; its `state.json` seals the other files with their sizes and checksums, and itself with one of its own, so that
//! a damaged one is recognised. It is written beside its place and moved there whole.

mod folder;
mod layout;
mod seals;

pub use folder::{aside, copy, recover, replace, write_beside, write_to_disk};
pub use layout::{AVERAGE_FILE, Checkpoints, DETECTOR_FILE, MODEL_FILE, STATE_FILE, is_checkpoint};
pub use seals::{FORMAT, SealError, Seals, read_state, sealed_state};
