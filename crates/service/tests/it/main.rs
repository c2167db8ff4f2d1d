//! The service over HTTP: answers, refusals, stopping, and its page in a browser.

#![expect(clippy::unwrap_used, reason = "all of this is tests, helpers included")]

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod gate;
mod page;
mod refusals;
mod stopping;
