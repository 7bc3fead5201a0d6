//! The staging ring, reserved once inside the pool's budget: a few chunks for uploads, and as many bytes in one for downloads.
//!
//! A chunk for uploads is mapped while the program fills it, unmapped while the device reads it, and mapped again when
//! the device is done. The chunk for downloads is mapped when the device has written it, until the next submission.

use std::thread;
use std::time::{Duration, Instant};

use super::{DeviceLost, scoped};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Ordering};

/// Chunks for uploads: enough that filling one, copying another and waiting for a third overlap. A download waits for what it
/// has asked for, so it has one chunk.
pub(super) const CHUNKS: u64 = 4;

/// Mapped ranges start at multiples of this (`wgpu::MAP_ALIGNMENT`).
pub(super) const MAP_ALIGNMENT_BYTES: u64 = wgpu::MAP_ALIGNMENT;

/// How long a thread that runs other callbacks may keep back that of a mapping. It could also be waiting for the stream,
/// which waits for the mapping: so there must be an end.
const CALLBACKS_MAX: Duration = Duration::from_secs(10);

/// How often one looks, meanwhile.
const CALLBACKS_PERIOD: Duration = Duration::from_micros(50);

const MAPPING_FAILED: &str = "a buffer could not be mapped";

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
    pub(super) fn map(&mut self, mode: wgpu::MapMode) {
        // A new one each time: the callback of a mapping that was given up may come late.
        self.state = Arc::new(AtomicUsize::new(MAPPING));
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
        self.state.store(IDLE, Ordering::Release);
    }

    /// Waits for the mapping. A mapping that fails is how a lost device shows.
    ///
    /// The device may be done before the mapping is there: any thread's poll collects the callbacks of all, and runs them
    /// after others', which may take their time.
    pub(super) fn wait(&self, device: &wgpu::Device, lost: &DeviceLost) -> Result<()> {
        let mut done_since = None;
        loop {
            match self.state.load(Ordering::Acquire) {
                MAPPING => lost.check()?,
                FAILED => return self.check(lost),
                _ => return Ok(()),
            }
            let wait = wgpu::PollType::Wait { submission_index: self.submission.clone(), timeout: None };
            if let Err(error) = device.poll(wait) {
                return Err(Error::new(ErrorKind::Device, "waiting for the device").with_source(error));
            }
            if self.state.load(Ordering::Acquire) == MAPPING {
                let since = *done_since.get_or_insert_with(Instant::now);
                if since.elapsed() > CALLBACKS_MAX {
                    let message = format!("for {CALLBACKS_MAX:?} a callback has kept back the mapping of staging");
                    return Err(Error::new(ErrorKind::Device, message));
                }
                thread::sleep(CALLBACKS_PERIOD);
            }
        }
    }

    /// As [`wait`](Chunk::wait), without waiting.
    pub(super) fn check(&self, lost: &DeviceLost) -> Result<()> {
        if self.state.load(Ordering::Acquire) == FAILED {
            lost.tell(MAPPING_FAILED);
        }
        lost.check()
    }
}

/// Finds out whether the device is lost although nobody has told: then what else goes wrong follows from that.
///
/// Mapping is the one call that fails cleanly on a lost device, and at once. The buffer for it has 8 bytes, and is there
/// only after an error.
pub(super) fn look_for_loss(device: &wgpu::Device, lost: &DeviceLost) {
    let has_failed = Arc::new(AtomicBool::new(false));
    let failed = Arc::clone(&has_failed);
    let looked = scoped(device, "looking for the device", || {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("tensorpool probe"),
            size: MAP_ALIGNMENT_BYTES,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        buffer.map_async(wgpu::MapMode::Read, .., move |result| failed.store(result.is_err(), Ordering::Release));
        // Before the buffer goes, which ends a mapping that has not come yet.
        has_failed.load(Ordering::Acquire)
    });
    // A broken rule here is the loss too: there is nothing to break it with. Want of memory is not.
    match looked {
        Ok(true) => lost.tell(MAPPING_FAILED),
        Err(error) if error.kind() != ErrorKind::OutOfMemory => lost.tell(MAPPING_FAILED),
        _ => {}
    }
}
