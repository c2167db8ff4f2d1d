//! What a run keeps on disk, and what it tells.

pub(crate) mod announce;
pub(crate) mod checkpoint;
pub(crate) mod data_changes;
pub(crate) mod detector;
pub(crate) mod metrics_log;
pub(crate) mod run_directory;
pub(crate) mod tensorboard;
