//! The staging ring: a few mapped chunks each way, reserved once inside the pool's budget.
//!
//! A chunk for uploads is mapped while the program fills it, unmapped while the device reads it, and mapped again when
//! the device is done. A chunk for downloads is mapped only while it is read.

use super::DeviceLost;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicUsize, Ordering};

/// Chunks each way: enough that filling one, copying another and waiting for a third overlap.
pub(super) const CHUNKS: u64 = 4;

/// Mapped ranges start at multiples of this (`wgpu::MAP_ALIGNMENT`).
pub(super) const MAP_ALIGNMENT_BYTES: u64 = wgpu::MAP_ALIGNMENT;

/// How often a wait that returned without the mapping is repeated before the device counts as lost.
const WAITS_MAX: usize = 100;

const MAPPING_FAILED: &str = "a staging buffer could not be mapped";

const IDLE: usize = 0;
const MAPPED: usize = 1;
const MAPPING: usize = 2;
const FAILED: usize = 3;

/// One buffer of the ring.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) buffer: wgpu::Buffer,
    /// Bytes written since it was mapped, a multiple of the map alignment.
    pub(super) filled_bytes: u64,
    /// The submission that uses it.
    pub(super) submission: Option<wgpu::SubmissionIndex>,
    state: Arc<AtomicUsize>,
}

impl Chunk {
    /// A chunk that the program writes; it begins mapped.
    pub(super) fn upload(device: &wgpu::Device, bytes: u64) -> Self {
        Self::new(device, bytes, wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC, true)
    }

    /// A chunk that the program reads; it begins unmapped.
    pub(super) fn download(device: &wgpu::Device, bytes: u64) -> Self {
        Self::new(device, bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST, false)
    }

    fn new(device: &wgpu::Device, bytes: u64, usage: wgpu::BufferUsages, mapped: bool) -> Self {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("tensorpool staging"),
            size: bytes,
            usage,
            mapped_at_creation: mapped,
        });
        let state = Arc::new(AtomicUsize::new(if mapped { MAPPED } else { IDLE }));
        Self { buffer, filled_bytes: 0, submission: None, state }
    }

    pub(super) fn room_bytes(&self) -> u64 {
        if self.state.load(Ordering::Acquire) == MAPPED { self.buffer.size() - self.filled_bytes } else { 0 }
    }

    /// Asks for the mapping, which comes when the device is done with the chunk.
    pub(super) fn map(&self, mode: wgpu::MapMode) {
        self.state.store(MAPPING, Ordering::Release);
        let state = Arc::clone(&self.state);
        self.buffer.map_async(mode, .., move |result| {
            state.store(if result.is_ok() { MAPPED } else { FAILED }, Ordering::Release);
        });
    }

    /// Ends the mapping, or the wait for it.
    pub(super) fn unmap(&self) {
        if matches!(self.state.load(Ordering::Acquire), MAPPED | MAPPING) {
            self.buffer.unmap();
        }
        // After the callback of a mapping that was given up, which comes at once.
        self.state.store(IDLE, Ordering::Release);
    }

    /// Waits for the mapping. A mapping that fails is how a lost device shows.
    pub(super) fn wait(&self, device: &wgpu::Device, lost: &DeviceLost) -> Result<()> {
        for _ in 0..WAITS_MAX {
            match self.state.load(Ordering::Acquire) {
                MAPPING => {
                    let wait = wgpu::PollType::Wait { submission_index: self.submission.clone(), timeout: None };
                    if let Err(error) = device.poll(wait) {
                        return Err(Error::new(ErrorKind::Device, "waiting for the device").with_source(error));
                    }
                }
                FAILED => break,
                _ => return Ok(()),
            }
        }
        lost.tell(MAPPING_FAILED);
        lost.check()
    }

    /// As [`wait`](Chunk::wait), without waiting.
    pub(super) fn check(&self, lost: &DeviceLost) -> Result<()> {
        if self.state.load(Ordering::Acquire) == FAILED {
            lost.tell(MAPPING_FAILED);
        }
        lost.check()
    }
}
