//! What a closure records with: wgpu's encoder behind a type that cannot be kept.

use std::fmt;
use std::ops::Range;

use super::Gpu;

/// Records commands into a pool's stream; [`Gpu::encode`] lends it to a closure.
///
/// It has the methods of `wgpu::CommandEncoder` that concern passes, buffers and queries. It cannot be moved out of the
/// closure, so all that it records reaches the queue in the stream's order. Commands that another encoder of the same device
/// has recorded (copies between textures, say) get their place in that order from [`append`](Encoder::append).
///
/// wgpu checks the commands when the closure has returned: what breaks a rule of wgpu is the error of
/// [`encode`](Gpu::encode).
///
/// ```compile_fail,E0521
/// # fn keep(pool: &tensorpool::Pool<tensorpool::Gpu>) -> tensorpool::Result<()> {
/// let mut kept = None;
/// pool.encode(|encoder| {
///     kept = Some(encoder); // `encoder` escapes the closure body here
///     Ok(())
/// })
/// # }
/// ```
///
/// It cannot change places with another encoder either:
///
/// ```compile_fail,E0521
/// # use tensorpool::{Gpu, Pool, Result};
/// # fn swap(a: &Pool<Gpu>, b: &Pool<Gpu>) -> Result<()> {
/// a.encode(|outer| {
///     b.encode(|inner| {
///         std::mem::swap(outer, inner); // both escape their closure bodies here
///         Ok(())
///     })
/// })
/// # }
/// ```
pub struct Encoder<'a> {
    gpu: &'a Gpu,
    open: wgpu::CommandEncoder,
    /// Everything recorded before what is in `open`, in order.
    finished: Vec<wgpu::CommandBuffer>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(gpu: &'a Gpu) -> Self {
        Self { gpu, open: open(gpu), finished: Vec::new() }
    }

    /// Returns everything recorded, in order.
    pub(super) fn finish(mut self) -> Vec<wgpu::CommandBuffer> {
        self.finished.push(self.open.finish());
        self.finished
    }

    /// Returns whether this encoder records into the stream of `gpu`.
    pub(crate) fn is_of(&self, gpu: &Gpu) -> bool {
        std::ptr::eq(self.gpu, gpu)
    }

    /// Returns the device, to make bind groups and pipelines with.
    pub fn device(&self) -> &'a wgpu::Device {
        &self.gpu.device
    }

    /// Puts finished commands of another encoder after everything recorded so far and before everything recorded later.
    ///
    /// This is the way into the stream for code that wants a `wgpu::CommandEncoder` of its own. The commands must be of
    /// this pool's device: wgpu refuses those of another device when they are submitted.
    pub fn append(&mut self, commands: wgpu::CommandBuffer) {
        let before = std::mem::replace(&mut self.open, open(self.gpu));
        self.finished.extend([before.finish(), commands]);
    }

    /// Begins a compute pass. A pass that outlives the closure (`forget_lifetime`) is an error of
    /// [`encode`](Gpu::encode), and wgpu panics when that pass is dropped.
    pub fn begin_compute_pass(&mut self, descriptor: &wgpu::ComputePassDescriptor<'_>) -> wgpu::ComputePass<'_> {
        self.open.begin_compute_pass(descriptor)
    }

    /// Begins a render pass; as [`begin_compute_pass`](Encoder::begin_compute_pass).
    pub fn begin_render_pass(&mut self, descriptor: &wgpu::RenderPassDescriptor<'_>) -> wgpu::RenderPass<'_> {
        self.open.begin_render_pass(descriptor)
    }

    /// Copies bytes from one buffer to another. wgpu refuses two ranges of one buffer, and so two tensors of one slab:
    /// `Tensor::copy_range_from` copies between those.
    pub fn copy_buffer_to_buffer(
        &mut self,
        source: &wgpu::Buffer,
        source_offset: u64,
        destination: &wgpu::Buffer,
        destination_offset: u64,
        bytes: impl Into<Option<u64>>,
    ) {
        self.open.copy_buffer_to_buffer(source, source_offset, destination, destination_offset, bytes);
    }

    /// Copies from a buffer to a texture.
    pub fn copy_buffer_to_texture(
        &mut self,
        source: wgpu::TexelCopyBufferInfo<'_>,
        destination: wgpu::TexelCopyTextureInfo<'_>,
        size: wgpu::Extent3d,
    ) {
        self.open.copy_buffer_to_texture(source, destination, size);
    }

    /// Copies from a texture to a buffer.
    pub fn copy_texture_to_buffer(
        &mut self,
        source: wgpu::TexelCopyTextureInfo<'_>,
        destination: wgpu::TexelCopyBufferInfo<'_>,
        size: wgpu::Extent3d,
    ) {
        self.open.copy_texture_to_buffer(source, destination, size);
    }

    /// Zeroes `bytes` bytes of a buffer from `offset` on. `None` means to the end of the buffer: a slab has other
    /// owners' tensors there.
    pub fn clear_buffer(&mut self, buffer: &wgpu::Buffer, offset: u64, bytes: Option<u64>) {
        self.open.clear_buffer(buffer, offset, bytes);
    }

    /// Inserts a debug marker.
    pub fn insert_debug_marker(&mut self, label: &str) {
        self.open.insert_debug_marker(label);
    }

    /// Begins a group of commands for a debugger. [`append`](Encoder::append) needs all groups to be closed.
    pub fn push_debug_group(&mut self, label: &str) {
        self.open.push_debug_group(label);
    }

    /// Ends the last group begun.
    pub fn pop_debug_group(&mut self) {
        self.open.pop_debug_group();
    }

    /// Writes a timestamp to a query, on devices with `wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS`.
    pub fn write_timestamp(&mut self, queries: &wgpu::QuerySet, index: u32) {
        self.open.write_timestamp(queries, index);
    }

    /// Copies results of queries to a buffer.
    pub fn resolve_query_set(
        &mut self,
        queries: &wgpu::QuerySet,
        range: Range<u32>,
        destination: &wgpu::Buffer,
        destination_offset: u64,
    ) {
        self.open.resolve_query_set(queries, range, destination, destination_offset);
    }
}

fn open(gpu: &Gpu) -> wgpu::CommandEncoder {
    gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("tensorpool encode") })
}

impl fmt::Debug for Encoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("gpu", &self.gpu).finish_non_exhaustive()
    }
}
