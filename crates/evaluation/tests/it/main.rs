//! The crate as its users see it.

#![expect(clippy::unwrap_used, reason = "all of this is tests, helpers included")]

mod analysis;
mod brute_force;
mod comparison;
mod pycocotools;
mod support;
