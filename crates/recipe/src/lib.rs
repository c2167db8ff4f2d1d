//! A config for somebody's own data.
//!
//! [`Facts`] tell what the data is like: how many images, how large they and their objects are. With the time that a step
//! takes ([`StepCost`]) and the time there is, a [`Recipe`] says how large the input, how long the training. It is
//! written as a short config, each line with its reason ([`Recipe::to_toml`]).

mod anchors;
mod facts;
mod length;
mod recipe;
mod write;

pub use anchors::{anchor_coverage, anchor_targets};
pub use facts::Facts;
pub use length::StepCost;
pub use recipe::{Halves, Recipe, Wishes};
