//! GPU tensors: bindings inside the stream, and loans to work outside it.

use std::fmt;

use bytemuck::Pod;

use super::Tensor;
use crate::backend::Gpu;
use crate::backend::gpu::{DeviceLost, WORD_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::{Hold, Pool};
use crate::units::round_up;

impl Pool<Gpu> {
    /// Records commands into the pool's stream; see [`Gpu::encode`] for what may be called inside.
    ///
    /// Bind pooled memory `read_write` in every shader: wgpu tracks one state for a whole buffer, and refuses `read`
    /// beside `read_write` even where the ranges are apart.
    ///
    /// # Errors
    /// As [`Gpu::encode`].
    pub fn encode<R>(&self, record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<R>) -> Result<R> {
        self.backend().encode(record)
    }

    /// Sends what is recorded to the queue; see [`Gpu::submit`].
    ///
    /// # Errors
    /// As [`Gpu::submit`].
    pub fn submit(&self) -> Result<wgpu::SubmissionIndex> {
        self.backend().submit()
    }

    /// What the callback of a device's owner tells when the device is lost.
    pub fn device_lost(&self) -> DeviceLost {
        self.backend().device_lost()
    }
}

impl<T: Pod> Tensor<T, Gpu> {
    /// Its bytes as a binding, for the closure of [`Pool::encode`]. The size is exact, rounded up to whole words of
    /// 4 bytes where elements are smaller.
    ///
    /// A binding borrows the tensor:
    ///
    /// ```compile_fail,E0597
    /// # fn outlive(pool: &tensorpool::Pool<tensorpool::Gpu>) -> tensorpool::Result<()> {
    /// let binding;
    /// {
    ///     let tensor = pool.zeros::<f32>([4])?;
    ///     binding = tensor.binding()?; // `tensor` does not live long enough
    /// }
    /// drop(binding);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] for a tensor without elements: wgpu has no empty bindings.
    pub fn binding(&self) -> Result<wgpu::BufferBinding<'_>> {
        let (Some((_, buffer, span)), Some(bytes)) = (self.block().place(), round_up(self.bytes(), WORD_BYTES)) else {
            return Err(Error::new(ErrorKind::Shape, format!("a tensor of shape {:?} has no binding", self.shape())));
        };
        Ok(wgpu::BufferBinding { buffer, offset: span.offset(), size: wgpu::BufferSize::new(bytes) })
    }

    /// Lends the tensor to work outside the stream: somebody else's encoder. The stream is submitted first, so that the
    /// work sees what was recorded before.
    ///
    /// The tensor may be dropped at any time; its block then stays retired until the submission that was told to
    /// [`Loan::submitted`] has finished.
    ///
    /// # Errors
    /// As [`binding`](Tensor::binding) and [`Pool::submit`].
    pub fn lend(&self) -> Result<Loan> {
        let wgpu::BufferBinding { buffer, offset, size } = self.binding()?;
        let Some((gpu, ..)) = self.block().place() else { unreachable!("a tensor with a binding has a place") };
        gpu.submit()?;
        let (buffer, queue, label) = (buffer.clone(), gpu.queue().clone(), self.block().label().to_owned());
        Ok(Loan { hold: Some(self.block().hold()), buffer, offset, size, queue, label })
    }
}

/// A tensor's memory, lent to work that the pool does not record; see [`Tensor::lend`].
///
/// Say when that work is submitted ([`submitted`](Loan::submitted)) or that there is none ([`cancel`](Loan::cancel)). A
/// loan that is just dropped leaves nobody who could tell, so its memory is not used again while the pool lives, and a
/// warning is logged.
#[must_use = "a loan that is dropped keeps its memory retired for ever"]
pub struct Loan {
    hold: Option<Hold>,
    buffer: wgpu::Buffer,
    offset: u64,
    size: Option<wgpu::BufferSize>,
    queue: wgpu::Queue,
    label: String,
}

impl Loan {
    /// The tensor's bytes, for a bind group.
    pub fn binding(&self) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer: &self.buffer, offset: self.offset, size: self.size }
    }

    /// The work was submitted, as this submission of the same queue: the memory may be used again once it has finished.
    pub fn submitted(mut self, submission: &wgpu::SubmissionIndex) {
        // The callback comes after everything submitted so far, and having the index shows that this work was.
        let _ = submission;
        let hold = self.hold.take();
        self.queue.on_submitted_work_done(move || drop(hold));
    }

    /// Nothing that uses the memory was submitted, or will be.
    pub fn cancel(mut self) {
        self.hold = None;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            log::warn!("a loan of {:?} was dropped without a word: its memory stays retired", self.label);
            std::mem::forget(hold);
        }
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan")
            .field("label", &self.label)
            .field("offset", &self.offset)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
