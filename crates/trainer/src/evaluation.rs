//! What a model in training is worth, and the report of it.

pub(crate) mod report;
pub(crate) mod validation;
