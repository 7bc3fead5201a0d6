//! GPU tensors: bindings inside the stream, and loans to work outside it.

use std::fmt;

use bytemuck::Pod;

use super::Tensor;
use crate::backend::Gpu;
use crate::backend::gpu::{DeviceLost, Encoder, WORD_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::{Hold, Label, Pool};
use crate::sync::caught;
use crate::units::round_up;

impl Pool<Gpu> {
    /// Records commands into the pool's stream; see [`Gpu::encode`] for what may be called inside.
    ///
    /// Bind pooled memory `read_write` in every shader: wgpu tracks one state for a whole buffer, and refuses `read`
    /// beside `read_write` even where the ranges are apart.
    ///
    /// # Errors
    /// As [`Gpu::encode`].
    pub fn encode<R>(&self, record: impl FnOnce(&mut Encoder<'_>) -> Result<R>) -> Result<R> {
        self.backend().encode(record)
    }

    /// Sends what is recorded to the queue; see [`Gpu::submit`].
    ///
    /// # Errors
    /// As [`Gpu::submit`].
    pub fn submit(&self) -> Result<wgpu::SubmissionIndex> {
        self.backend().submit()
    }

    /// Sends what is recorded to the queue, and after it commands that other encoders have recorded with these loans. The
    /// loans end: their memory may be used again once the commands have finished.
    ///
    /// ```no_run
    /// # fn double(pool: &tensorpool::Pool<tensorpool::Gpu>, x: tensorpool::Tensor<f32, tensorpool::Gpu>) -> tensorpool::Result<()> {
    /// let loan = x.lend()?;
    /// let mut encoder = pool.backend().device().create_command_encoder(&Default::default());
    /// // ... bind groups of `loan.binding()`, and passes on `encoder`
    /// drop(x); // its memory stays retired until the commands have finished
    /// pool.submit_lent([encoder.finish()], [loan])?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Gpu::submit`]. Commands that wgpu refuses are not carried out. The loans end all the same.
    pub fn submit_lent(
        &self,
        commands: impl IntoIterator<Item = wgpu::CommandBuffer>,
        loans: impl IntoIterator<Item = Loan>,
    ) -> Result<wgpu::SubmissionIndex> {
        // Before the stream is locked: iterators are the caller's code.
        let (commands, loans) = (commands.into_iter().collect(), loans.into_iter().collect::<Vec<_>>());
        let submission = self.backend().submit_with(commands);
        loans.into_iter().for_each(Loan::submitted);
        submission
    }

    /// What the callback of a device's owner tells when the device is lost.
    pub fn device_lost(&self) -> DeviceLost {
        self.backend().device_lost()
    }
}

impl<T: Pod> Tensor<T, Gpu> {
    /// Returns its bytes as a binding, for what `encoder` records. The size is exact, rounded up to whole words of 4 bytes
    /// where elements are smaller.
    ///
    /// A binding borrows the tensor:
    ///
    /// ```compile_fail,E0505
    /// # fn outlive(pool: &tensorpool::Pool<tensorpool::Gpu>, tensor: tensorpool::Tensor<f32, tensorpool::Gpu>) -> tensorpool::Result<()> {
    /// pool.encode(|encoder| {
    ///     let binding = tensor.binding(encoder)?;
    ///     drop(tensor); // cannot move out of `tensor` because it is borrowed
    ///     drop(binding);
    ///     Ok(())
    /// })
    /// # }
    /// ```
    ///
    /// What is made of a binding borrows nothing. These are the caller's duties, which neither wgpu nor the pool can check:
    ///
    /// - A bind group is used in this closure, or in a later one while the tensor lives, has not [shrunk](Tensor::shrink), and was not
    ///   moved by [`Pool::compact`]. The place of a dropped tensor is another tensor's.
    /// - The buffer is the whole slab. Commands touch the range of the binding only, no `wgpu::Queue::write_buffer` goes to
    ///   it, and nothing destroys it.
    /// - All encoders and bind groups are of the same `wgpu::Instance` as the pool's device. wgpu refuses those of another
    ///   device, but takes a buffer of one instance for some buffer of another.
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] if `encoder` records for another pool, whose stream does not know when this memory is free:
    /// [`lend`](Tensor::lend) is for that. [`ErrorKind::Shape`] for a tensor without elements: wgpu has no empty bindings.
    pub fn binding(&self, encoder: &Encoder<'_>) -> Result<wgpu::BufferBinding<'_>> {
        if self.block().place().is_some_and(|(gpu, ..)| !encoder.is_of(gpu)) {
            let message = format!("a binding of {:?} for the stream of another pool: lend it", self.block().label());
            return Err(Error::new(ErrorKind::Foreign, message));
        }
        self.range()
    }

    fn range(&self) -> Result<wgpu::BufferBinding<'_>> {
        let (Some((_, slab, span)), Some(bytes)) = (self.block().place(), round_up(self.bytes(), WORD_BYTES)) else {
            let message = format!("a tensor of shape {:?} has no binding: wgpu has no empty ones", self.shape());
            return Err(Error::new(ErrorKind::Shape, message));
        };
        Ok(wgpu::BufferBinding { buffer: slab.buffer(), offset: span.offset(), size: wgpu::BufferSize::new(bytes) })
    }

    /// Lends the tensor to work outside the stream: another encoder than [`Pool::encode`]'s, or another pool's. The stream
    /// is submitted first, so that the work sees what was recorded before.
    ///
    /// The tensor may be dropped at any time; its block then stays retired until the loan has ended and the work that was
    /// submitted with it has finished. The duties under [`binding`](Tensor::binding) hold for the loan's binding too, with
    /// the loan in the tensor's place.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] for a tensor without elements; as [`Pool::submit`].
    pub fn lend(&self) -> Result<Loan> {
        let wgpu::BufferBinding { buffer, offset, size } = self.range()?;
        let Some((gpu, ..)) = self.block().place() else { unreachable!("a tensor with a binding has a place") };
        gpu.submit()?;
        let (buffer, queue, label) = (buffer.clone(), gpu.queue().clone(), self.block().label());
        Ok(Loan { hold: Some(self.block().hold()), buffer, offset, size, queue, label })
    }
}

/// A tensor's memory, lent to work that the pool does not record; see [`Tensor::lend`].
///
/// [`Pool::submit_lent`] submits that work and ends the loan. For work that other code submits,
/// [`submitted`](Loan::submitted) ends it, and [`cancel`](Loan::cancel) where there is no work. The memory of a loan that is
/// dropped is not used again while the pool lives, and a warning is logged.
#[must_use = "a loan that is dropped keeps its memory retired for ever"]
pub struct Loan {
    hold: Option<Hold>,
    buffer: wgpu::Buffer,
    offset: u64,
    size: Option<wgpu::BufferSize>,
    queue: wgpu::Queue,
    label: Label,
}

impl Loan {
    /// Returns the tensor's bytes, for a bind group.
    pub fn binding(&self) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer: &self.buffer, offset: self.offset, size: self.size }
    }

    /// Ends the loan: the memory may be used again once everything submitted to the pool's queue so far has finished.
    ///
    /// Call it when *all* work that uses the memory is submitted. That is the caller's duty: the pool cannot see whether a
    /// submission was this work. Where the commands are at hand, [`Pool::submit_lent`] leaves no such duty.
    pub fn submitted(mut self) {
        let hold = self.hold.take();
        self.queue.on_submitted_work_done(move || drop(hold));
    }

    /// Ends the loan: the memory may be used again at once. That nothing which uses it was submitted, or will be, is the
    /// caller's duty.
    pub fn cancel(mut self) {
        self.hold = None;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            // First: a logger that panics must not end the hold.
            std::mem::forget(hold);
            caught(|| {
                log::warn!("a loan of {:?} was dropped before it had ended: its memory stays retired", self.label);
            });
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
