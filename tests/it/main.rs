//! Whole-program tests: the binary as a user runs it, from outside.

mod backends;
mod configs;
mod evaluation;
mod real_data;
mod refusals;
mod resuming;
mod training;
