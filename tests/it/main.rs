//! Whole-program tests: the binary as a user runs it, from outside.

#![expect(clippy::unwrap_used, reason = "all of this is tests, helpers included")]
#![expect(
    clippy::too_many_lines,
    reason = "a test of the whole program is one story"
)]

mod backends;
mod bench;
mod configs;
mod conversion;
mod data_checks;
mod devices;
mod docs;
mod evaluation;
mod gpu_kernels;
mod gpu_steps;
mod hostile;
mod init;
mod labelling;
mod library;
mod losses;
mod mmdetection;
mod onnx;
mod outputs;
mod overnight;
mod predict;
mod real_data;
mod refusals;
mod reported;
mod resuming;
mod serve;
mod study;
mod torchvision;
mod training;
mod web;
mod weights;
#[cfg(feature = "mpi")]
mod world;
