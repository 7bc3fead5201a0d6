//! A memory pool for ML tensors in GPU memory (wgpu) and host memory, inside a hard byte budget.

#[cfg(feature = "nn")]
pub mod nn;
