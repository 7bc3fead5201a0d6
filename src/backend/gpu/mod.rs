//! GPU memory through wgpu: slabs are buffers, and one recorded stream owns the order of the work on them.
//!
//! `Drop` is not a command, and a binding is only a range of a buffer, so somebody must own the order. The stream does:
//! uploads, downloads, fills, copies and what [`Gpu::encode`] records go into it in the order of the calls, and reach
//! the queue in that order. Memory that is freed may be used again at once, because only work recorded later can see it.
//!
//! Nothing here calls `queue.write_buffer`: that runs *before* the command buffers of the next submission, whenever it
//! was called, and would overwrite what recorded work has yet to read.

mod encoder;
mod groups;
#[allow(unsafe_code, reason = "calls of the driver; see there")]
mod memory;
mod ranges;
mod scope;
mod staging;
mod stats;
mod stream;
mod work;

use std::fmt;
use std::sync::TryLockError;
use std::thread::ThreadId;

pub use self::encoder::Encoder;
pub use self::groups::GpuSlab;
use self::groups::Groups;
pub(crate) use self::groups::{Bound, Kernel};
use self::scope::scoped;
use self::stats::Counters;
pub use self::stats::GpuStats;
use self::stream::Stream;
use super::{
    ALIGNMENT_BYTES_MAX, Backend, CopyDst, CopySrc, Limit, Limits, Point, Span, SpanMut, check_slab_bytes, machine,
};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering, lock};
use crate::units::{exact, round_up};

/// Copies and bindings are in words of 4 bytes (`wgpu::COPY_BUFFER_ALIGNMENT`).
pub(crate) const WORD_BYTES: u64 = wgpu::COPY_BUFFER_ALIGNMENT;

/// The default staging: 1/64 of the budget, from 256 KiB to 16 MiB, but at most 1/16 of a small budget. More moves bytes no faster:
/// see `benches/README.md`.
const STAGING_SHARE: u64 = 64;
const STAGING_BYTES: std::ops::RangeInclusive<u64> = 256 << 10..=16 << 20;
const STAGING_SHARE_MOST: u64 = 16;

/// Memory of a wgpu device.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    name: String,
    limits: Limits,
    lost: DeviceLost,
    stream: Mutex<Stream>,
    /// The thread that has the stream: it must not ask for it again, from a closure or a callback.
    owner: Mutex<Option<ThreadId>>,
    /// The point of the last work recorded. Changed with the stream locked.
    recorded: AtomicU64,
    /// The point up to which the queue is done.
    completed: Arc<AtomicU64>,
    groups: Arc<Groups>,
    counters: Counters,
}

/// Told when a device is lost. A pool that opened the device tells itself; the owner of any other device calls
/// [`tell`](DeviceLost::tell) from the callback given to `wgpu::Device::set_device_lost_callback`.
#[derive(Clone, Debug, Default)]
pub struct DeviceLost(Arc<OnceLock<String>>);

impl DeviceLost {
    /// The device is lost, for this reason. Calls on the pool fail from now on with [`ErrorKind::DeviceLost`].
    pub fn tell(&self, reason: &str) {
        let _ = self.0.set(reason.to_owned());
    }

    fn check(&self) -> Result<()> {
        match self.0.get() {
            Some(reason) => Err(Error::new(ErrorKind::DeviceLost, format!("the device is lost: {reason}"))),
            None => Ok(()),
        }
    }

    fn is_lost(&self) -> bool {
        self.0.get().is_some()
    }
}

impl Gpu {
    /// Memory of a device that the caller owns. The device's lost callback stays the caller's:
    /// see [`device_lost`](Gpu::device_lost).
    ///
    /// A program should have one `wgpu::Instance`. wgpu numbers buffers and encoders by instance, and takes a buffer of one
    /// for the buffer of another that has the same number, without an error. [`Gpu::open`] has an instance of its own.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let limits = device.limits();
        let alignment_bytes = u64::from(limits.min_storage_buffer_offset_alignment).max(2 * WORD_BYTES);
        let alignment_bytes_max = ALIGNMENT_BYTES_MAX.max(alignment_bytes);
        let slab = Limit { bytes: limits.max_buffer_size, name: "max_buffer_size" };
        let binding_bytes = limits.max_storage_buffer_binding_size / WORD_BYTES * WORD_BYTES;
        let block = Limit { bytes: binding_bytes, name: "max_storage_buffer_binding_size" };
        let info = device.adapter_info();
        Self {
            device: device.clone(),
            queue: queue.clone(),
            name: format!("{} ({:?}, {:?})", info.name, info.backend, info.device_type),
            limits: Limits { alignment_bytes, alignment_bytes_max, granule_bytes: WORD_BYTES, slab, block },
            lost: DeviceLost::default(),
            stream: Mutex::new(Stream::new()),
            owner: Mutex::new(None),
            recorded: AtomicU64::new(0),
            completed: Arc::new(AtomicU64::new(0)),
            groups: Arc::new(Groups::new()),
            counters: Counters::default(),
        }
    }

    /// Returns the device. Where [`open`](Gpu::open) has opened it, its lost callback is the pool's: another in its place
    /// leaves the pool to learn of a lost device from a transfer that fails.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Counts what this backend has asked of wgpu so far. Waits for nothing.
    pub fn stats(&self) -> GpuStats {
        self.counters.stats()
    }

    /// Tells this backend that the device is lost; for the callback of the device's owner.
    pub fn device_lost(&self) -> DeviceLost {
        self.lost.clone()
    }

    /// Records into the stream. The closure gets an encoder of its own; what it records comes after everything recorded
    /// before and before everything recorded later. If it returns an error, panics, or breaks a rule of wgpu, nothing
    /// of it is recorded.
    ///
    /// Tensors may be allocated and dropped inside, but other calls on the stream (`upload`, `download`, `fill`,
    /// `submit`, `zeroed` requests, a second `encode`) fail with [`ErrorKind::Recording`]. Other threads wait. In a pool with
    /// [`zero_on_free`](crate::Config::zero_on_free) what is freed meanwhile, by any thread, is zeroed after the closure: a request
    /// that would wait in line inside it fails with [`ErrorKind::Recording`] too.
    ///
    /// # Errors
    /// The closure's; [`ErrorKind::Device`] with wgpu's message for what wgpu reports; [`ErrorKind::DeviceLost`];
    /// [`ErrorKind::Recording`]. What wgpu finds wrong only when the commands are submitted (a buffer that was destroyed in
    /// between) is the error of the call that submits them; the commands of others are not affected.
    ///
    /// # Panics
    /// In wgpu, if the closure leaves one of wgpu's error scopes open.
    pub fn encode<R>(&self, record: impl FnOnce(&mut Encoder<'_>) -> Result<R>) -> Result<R> {
        let mut stream = self.stream()?;
        // Before the closure: what it drops may be what it has just recorded work for.
        stream.mark_recorded(self);
        let (result, commands) = self.scoped("recording", || {
            let mut encoder = Encoder::new(self);
            let result = record(&mut encoder);
            let commands = result.is_ok().then(|| encoder.finish());
            (result, commands)
        })?;
        if let Some(commands) = commands {
            stream.append(self, commands)?;
        }
        result
    }

    /// Sends what is recorded to the queue and returns the submission, which `wgpu::Device::poll` can wait for.
    ///
    /// # Errors
    /// [`ErrorKind::Device`], [`ErrorKind::DeviceLost`], [`ErrorKind::Recording`].
    pub fn submit(&self) -> Result<wgpu::SubmissionIndex> {
        self.stream()?.submit(self)
    }

    /// Sends what is recorded, and after it these commands of other encoders.
    pub(crate) fn submit_with(&self, commands: Vec<wgpu::CommandBuffer>) -> Result<wgpu::SubmissionIndex> {
        let mut stream = self.stream()?;
        stream.append(self, commands)?;
        stream.submit(self)
    }

    /// Records a dispatch of one of this crate's own kernels, which break no rules.
    #[cfg_attr(not(feature = "nn"), allow(dead_code, reason = "only the kernels record this way"))]
    pub(crate) fn dispatch(&self, kernel: &Kernel, bound: &[Bound<'_>], workgroups: [u32; 3]) -> Result<()> {
        self.stream()?.dispatch(self, kernel, bound, workgroups)
    }

    /// Submits one command buffer, or nothing. Called inside error scopes.
    fn submit_commands(&self, commands: Option<wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        self.counters.submissions.add(1);
        self.queue.submit(commands)
    }

    /// Runs `call` in error scopes. A device that is lost breaks many rules: then that is the error.
    pub(crate) fn scoped<R>(&self, doing: &str, call: impl FnOnce() -> R) -> Result<R> {
        self.counters.error_scopes.add(3);
        scoped(&self.device, doing, call).map_err(|error| {
            // Runs the lost callback, if it waits to be run.
            let _ = self.device.poll(wgpu::PollType::Poll);
            if !self.lost.is_lost() && error.kind() == ErrorKind::Device {
                staging::look_for_loss(&self.device, &self.lost);
            }
            self.lost.check().err().unwrap_or(error)
        })
    }

    /// The stream, for this thread alone until the guard is dropped.
    fn stream(&self) -> Result<StreamGuard<'_>> {
        self.check_owner()?;
        Ok(self.own(lock(&self.stream)))
    }

    /// As [`stream`](Gpu::stream), or `None` if another thread has it.
    fn stream_if_free(&self) -> Result<Option<StreamGuard<'_>>> {
        self.check_owner()?;
        match self.stream.try_lock() {
            Ok(stream) => Ok(Some(self.own(stream))),
            Err(TryLockError::Poisoned(error)) => Ok(Some(self.own(error.into_inner()))),
            Err(TryLockError::WouldBlock) => Ok(None),
        }
    }

    fn check_owner(&self) -> Result<()> {
        self.lost.check()?;
        if self.is_recording() {
            let message = "the stream is in use by this thread: call this before or after the closure, not inside it";
            return Err(Error::new(ErrorKind::Recording, message));
        }
        Ok(())
    }

    fn own<'a>(&'a self, stream: MutexGuard<'a, Stream>) -> StreamGuard<'a> {
        *lock(&self.owner) = Some(std::thread::current().id());
        StreamGuard { stream, owner: &self.owner }
    }

    /// Checks a range in a span for the copy commands: words, but for the end of the span.
    fn words(&self, span: Span<'_>, at: u64, len: u64) -> Result<std::ops::Range<u64>> {
        let range = span.range(at, len)?;
        if !at.is_multiple_of(WORD_BYTES) || (!len.is_multiple_of(WORD_BYTES) && at + len != span.bytes()) {
            let message = format!("{len} bytes from byte {at} of {}: a GPU moves words of 4 bytes", span.bytes());
            return Err(Error::new(ErrorKind::Shape, message));
        }
        // The bytes past the end belong to this block: blocks start at multiples of the alignment.
        Ok(range.start..range.start + round_up(len, WORD_BYTES).unwrap_or(len))
    }
}

struct StreamGuard<'a> {
    stream: MutexGuard<'a, Stream>,
    owner: &'a Mutex<Option<ThreadId>>,
}

impl Drop for StreamGuard<'_> {
    fn drop(&mut self) {
        *lock(self.owner) = None;
    }
}

impl std::ops::Deref for StreamGuard<'_> {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl std::ops::DerefMut for StreamGuard<'_> {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

impl Backend for Gpu {
    type Slab = GpuSlab;

    fn name(&self) -> &str {
        &self.name
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn create_slab(&self, bytes: u64) -> Result<GpuSlab> {
        self.lost.check()?;
        check_slab_bytes(bytes, &self.limits)?;
        let buffer = self.scoped(&format!("creating a slab of {}", exact(bytes)), || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("tensorpool slab"),
                size: bytes,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        Ok(GpuSlab::new(self, buffer))
    }

    fn memory_bytes(&self) -> Result<u64> {
        self.lost.check()?;
        let Some(heap_bytes) = memory::heap_bytes(&self.device) else {
            let message = format!("{} does not tell how much memory it has: Vulkan devices do", self.name);
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        // A device without memory of its own has the processor's.
        let is_shared =
            matches!(self.device.adapter_info().device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu);
        Ok(match machine::memory_bytes() {
            Ok(machine_bytes) if is_shared => heap_bytes.min(machine_bytes),
            _ => heap_bytes,
        })
    }

    fn upload(&self, slab: &GpuSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        let range = self.words(span.as_span(), at, bytes.len() as u64)?;
        self.stream()?.upload(self, slab.buffer(), range.start, bytes)
    }

    fn download(&self, slab: &GpuSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        let range = self.words(span, at, bytes.len() as u64)?;
        self.stream()?.download(self, slab.buffer(), range.start, bytes)
    }

    fn fill(&self, slab: &GpuSlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
        let range = self.words(span.as_span(), 0, len)?;
        self.stream()?.fill(self, slab, (range.start, len), pattern)
    }

    fn zero_if_free(&self, slab: &GpuSlab, span: SpanMut<'_>, len: u64) -> Result<bool> {
        let range = self.words(span.as_span(), 0, len)?;
        match self.stream_if_free()? {
            Some(mut stream) => stream.fill(self, slab, (range.start, len), &[0]).map(|()| true),
            None => Ok(false),
        }
    }

    fn is_recording(&self) -> bool {
        *lock(&self.owner) == Some(std::thread::current().id())
    }

    fn copy(&self, from: CopySrc<'_, GpuSlab>, to: CopyDst<'_, GpuSlab>, len: u64) -> Result<()> {
        let target = self.words(to.span.as_span(), to.at, len)?;
        if len == 0 || !from.at.is_multiple_of(WORD_BYTES) {
            return self.words(from.span, from.at, len).map(drop);
        }
        let source = from.span.range(from.at, len)?.start;
        let bytes = target.end - target.start;
        let mut stream = self.stream()?;
        let (from, to) = (from.slab, to.slab);
        if from.buffer() == to.buffer() {
            return stream.copy_within(self, from, [source, target.start], bytes);
        }
        stream.copy(self, (from.buffer(), source), (to.buffer(), target.start), bytes)
    }

    fn check(&self) -> Result<()> {
        self.lost.check()
    }

    fn staging_bytes_default(&self, budget_bytes: u64) -> u64 {
        let bytes = (budget_bytes / STAGING_SHARE).clamp(*STAGING_BYTES.start(), *STAGING_BYTES.end());
        Stream::staging_bytes(bytes.min(budget_bytes / STAGING_SHARE_MOST))
    }

    fn open_staging(&self, bytes: u64) -> Result<u64> {
        self.stream()?.open_staging(self, bytes)
    }

    fn recorded(&self) -> Point {
        self.recorded.load(Ordering::Acquire)
    }

    fn completed(&self) -> Point {
        if !self.lost.is_lost() {
            // Runs the callbacks of what is done. An error means that the device is in trouble; then nothing is done.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
        // A lost device does nothing any more.
        if self.lost.is_lost() { Point::MAX } else { self.completed.load(Ordering::Acquire) }
    }

    fn flush(&self) -> Result<()> {
        if self.completed() < self.recorded() {
            // Not waited for: the thread that has the stream may be waiting for this one. It is asked again soon.
            if let Some(mut stream) = self.stream_if_free()? {
                stream.submitted(self)?;
            }
        }
        self.lost.check()
    }

    fn complete(&self, point: Point) -> Result<()> {
        if self.completed() >= point {
            return Ok(());
        }
        let (submission, submitted) = self.stream()?.submitted(self)?;
        if let Some(submission_index) = submission {
            let wait = wgpu::PollType::Wait { submission_index: Some(submission_index), timeout: None };
            if let Err(error) = self.device.poll(wait) {
                return Err(Error::new(ErrorKind::Device, "waiting for the device").with_source(error));
            }
        }
        // The callback that would say so may be in the hands of another thread that has polled, and come later.
        self.completed.fetch_max(submitted, Ordering::AcqRel);
        self.lost.check()
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("name", &self.name).field("limits", &self.limits).finish_non_exhaustive()
    }
}
