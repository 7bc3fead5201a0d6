//! Error scopes: every call that can raise an error runs inside three, so that none reaches wgpu's panicking handler.
//!
//! Scopes belong to a thread and their guards cannot leave it: they are pushed and popped around one closure.

use crate::error::{Error, ErrorKind, Result};

/// Runs `call` and returns the first error it raised. `doing` begins the message.
pub(super) fn scoped<R>(device: &wgpu::Device, doing: &str, call: impl FnOnce() -> R) -> Result<R> {
    // Dropped in reverse if `call` panics, which pops them in order.
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let result = call();
    let validation = pollster::block_on(validation.pop());
    let memory = pollster::block_on(memory.pop());
    let internal = pollster::block_on(internal.pop());
    match memory.or(validation).or(internal) {
        None => Ok(result),
        Some(error) => {
            let kind = match error {
                wgpu::Error::OutOfMemory { .. } => ErrorKind::OutOfMemory,
                wgpu::Error::Validation { .. } | wgpu::Error::Internal { .. } => ErrorKind::Device,
            };
            Err(Error::new(kind, doing).with_source(error))
        }
    }
}
