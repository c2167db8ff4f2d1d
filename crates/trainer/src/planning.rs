//! What is settled before the first step: the plan, the batch size, the cost, the device, the learning rate.

pub(crate) mod auto_batch;
pub(crate) mod device_check;
pub(crate) mod estimate;
pub(crate) mod lr_find;
pub(crate) mod memory;
pub(crate) mod plan;
pub(crate) mod precision;
