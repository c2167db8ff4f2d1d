//! How weights move: the step, its optimiser and learning rate, and the moving average of the weights.

pub(crate) mod average;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod loss_scale;
pub(crate) mod losses;
pub(crate) mod optimizer;
mod recompute;
pub(crate) mod schedule;
pub(crate) mod step;
pub(crate) mod update;
