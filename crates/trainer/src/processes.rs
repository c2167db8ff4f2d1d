//! The processes that train a run together, and what they tell each other.

pub(crate) mod communicator;
pub(crate) mod messages;
pub(crate) mod process_group;
pub(crate) mod single_process;
