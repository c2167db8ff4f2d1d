//! A study: one config with a few changes each, trained with several seeds, and the table of what came of it.
//!
//! Training is the program's: here is what is to be trained, and how its numbers read.

mod study;
mod table;

pub use study::{Study, StudyError, StudyRun, Variant};
pub use table::{Outcome, Table};
