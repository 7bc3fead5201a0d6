//! The pool over GPU memory.

#![cfg(feature = "gpu")]

#[path = "../support/raw_gpu.rs"]
mod raw_gpu;
#[path = "../support/mod.rs"]
mod support;

mod costs;
mod edges;
mod isolation;
mod kernels_raw;
mod lost;
mod memory;
mod moves;
mod planned;
mod random;
mod stream;
mod transfers;
mod under_load;
