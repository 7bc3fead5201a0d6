//! The stream: all work in the order in which it is recorded, and the staging ring beside it.

use super::groups::{Bound, GpuSlab, Kernel};
use super::ranges::{PATTERN_BYTES_MAX, Shader};
use super::staging::{CHUNKS, Chunk, MAP_ALIGNMENT_BYTES};
use super::work::{self, Work};
use super::{Gpu, WORD_BYTES};
use crate::backend::Point;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Ordering};
use crate::units::{exact, round_down, round_up};

/// Command buffers that may wait for `submit`; then they are sent, so that a program that only records cannot make wgpu
/// hold ever more of them.
const COMMANDS_WAITING_MAX: usize = 64;

/// Operations that may be recorded before they are sent, for the same reason: each is about 1.3 KiB of wgpu's memory (2026-11).
const OPERATIONS_MAX: usize = 1024;

/// Fills of at most so many bytes are uploaded: that takes less than a dispatch.
const FILL_UPLOADED_BYTES: u64 = 4096;

#[derive(Debug)]
pub(super) struct Stream {
    /// What was recorded since the last submission.
    work: Vec<Work>,
    /// How much of it is command buffers of others.
    commands: usize,
    /// Whether the staging ring was opened, if only with 0 bytes.
    has_staging: bool,
    upload: Vec<Chunk>,
    /// The chunk being filled.
    upload_at: usize,
    download: Option<Chunk>,
    submission: Option<wgpu::SubmissionIndex>,
    submitted: Point,
    pub(super) copy: Shader,
    pub(super) fill: Shader,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            work: Vec::new(),
            commands: 0,
            has_staging: false,
            upload: Vec::new(),
            upload_at: 0,
            download: None,
            submission: None,
            submitted: 0,
            copy: Shader::copy(),
            fill: Shader::fill(),
        }
    }

    /// Returns what a ring of at most `bytes` takes: as much each way, for uploads in several chunks.
    pub(super) fn staging_bytes(bytes: u64) -> u64 {
        round_down(bytes, 2 * CHUNKS * MAP_ALIGNMENT_BYTES)
    }

    /// Reserves the ring, once: a pool counts what the first call took, and would not know of more.
    pub(super) fn open_staging(&mut self, gpu: &Gpu, bytes: u64) -> Result<u64> {
        if self.has_staging {
            let opened_bytes: u64 = self.upload.iter().chain(&self.download).map(|chunk| chunk.buffer.size()).sum();
            let message =
                format!("staging of {} was opened already: {} more are refused", exact(opened_bytes), exact(bytes));
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let chunk_bytes = Self::staging_bytes(bytes) / (2 * CHUNKS);
        if chunk_bytes == 0 {
            self.has_staging = true;
            return Ok(0);
        }
        let download_bytes = chunk_bytes * CHUNKS;
        if download_bytes > gpu.limits.slab.bytes {
            let message = format!("a staging buffer of {} is over {}", exact(download_bytes), gpu.limits.slab);
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let (upload, download) = gpu.scoped("creating the staging ring", || {
            let upload: Vec<_> = (0..CHUNKS).map(|_| Chunk::upload(&gpu.device, chunk_bytes)).collect();
            (upload, Chunk::download(&gpu.device, download_bytes))
        })?;
        (self.upload, self.download, self.has_staging) = (upload, Some(download), true);
        Ok(chunk_bytes * 2 * CHUNKS)
    }

    /// Makes room for one more operation: what is recorded is sent once it is much.
    fn begin_operation(&mut self, gpu: &Gpu) -> Result<()> {
        if self.work.len() >= OPERATIONS_MAX {
            self.submit(gpu)?;
        }
        Ok(())
    }

    fn record(&mut self, gpu: &Gpu, work: Work) {
        self.mark_recorded(gpu);
        self.work.push(work);
    }

    /// Puts finished commands after everything recorded so far.
    pub(super) fn append(&mut self, gpu: &Gpu, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> Result<()> {
        for commands in commands {
            self.record(gpu, Work::Commands(commands));
            self.commands += 1;
        }
        if self.commands >= COMMANDS_WAITING_MAX {
            self.submit(gpu)?;
        }
        Ok(())
    }

    /// Records a copy between two buffers.
    pub(super) fn copy(
        &mut self,
        gpu: &Gpu,
        (from, from_at): (&wgpu::Buffer, u64),
        (to, to_at): (&wgpu::Buffer, u64),
        bytes: u64,
    ) -> Result<()> {
        self.begin_operation(gpu)?;
        self.record_copy(gpu, (from.clone(), from_at), (to.clone(), to_at), bytes);
        Ok(())
    }

    fn record_copy(&mut self, gpu: &Gpu, from: (wgpu::Buffer, u64), to: (wgpu::Buffer, u64), bytes: u64) {
        gpu.counters.copies.add(1);
        self.record(gpu, Work::Copy { from: from.0, from_at: from.1, to: to.0, to_at: to.1, bytes });
    }

    /// Records a dispatch.
    pub(super) fn dispatch(
        &mut self,
        gpu: &Gpu,
        kernel: &Kernel,
        bound: &[Bound<'_>],
        workgroups: [u32; 3],
    ) -> Result<()> {
        self.begin_operation(gpu)?;
        let (group, pipeline) = (gpu.group(kernel, bound)?, kernel.pipeline.clone());
        gpu.counters.dispatches.add(1);
        self.record(gpu, Work::Dispatch { pipeline, group, workgroups });
        Ok(())
    }

    /// What is recorded from now on counts as recorded: memory that it uses does not leave before it is done.
    pub(super) fn mark_recorded(&mut self, gpu: &Gpu) {
        gpu.recorded.store(self.submitted + 1, Ordering::Release);
    }

    /// Submits what is recorded, if anything is; returns the last submission, if there was one, and the point after it.
    pub(super) fn submitted(&mut self, gpu: &Gpu) -> Result<(Option<wgpu::SubmissionIndex>, Point)> {
        if gpu.recorded.load(Ordering::Acquire) > self.submitted {
            self.submit(gpu)?;
        }
        Ok((self.submission.clone(), self.submitted))
    }

    /// Sends everything to the queue. What fails there fails alone; the first failure is returned, after all have had their turn.
    pub(super) fn submit(&mut self, gpu: &Gpu) -> Result<wgpu::SubmissionIndex> {
        self.commands = 0;
        let work = std::mem::take(&mut self.work);
        let sent = gpu.scoped("submitting", || {
            self.upload.iter().filter(|chunk| chunk.filled_bytes > 0).for_each(Chunk::unmap);
            self.download.iter().for_each(Chunk::unmap);
            work::send(gpu, work)
        });
        let (index, result) = match sent {
            Ok(index) => (Ok(index), Ok(())),
            // An index of what failed never passes: so there is another, of nothing.
            Err(error) => (gpu.scoped("submitting nothing", || gpu.submit_commands(None)), Err(error)),
        };
        if let Ok(index) = &index {
            self.submission = Some(index.clone());
        }
        for chunk in self.upload.iter_mut().filter(|chunk| chunk.filled_bytes > 0) {
            chunk.filled_bytes = 0;
            chunk.submission = self.submission.clone();
            chunk.map(wgpu::MapMode::Write);
        }
        self.submitted += 1;
        let point = self.submitted;
        gpu.recorded.store(point, Ordering::Release);
        let completed = Arc::clone(&gpu.completed);
        gpu.queue.on_submitted_work_done(move || {
            completed.fetch_max(point, Ordering::AcqRel);
        });
        // A device that was lost unnoticed shows here first; what else went wrong follows from that.
        self.upload.iter().try_for_each(|chunk| chunk.check(&gpu.lost))?;
        result.and(index)
    }

    pub(super) fn upload(&mut self, gpu: &Gpu, slab: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            self.begin_operation(gpu)?;
            let (index, at, room_bytes) = self.chunk_with_room(gpu, WORD_BYTES)?;
            let len = rest.len().min(round_down(room_bytes, WORD_BYTES) as usize);
            self.write(gpu, index, at, &rest[..len])?;
            let copy_bytes = round_up(len as u64, WORD_BYTES).unwrap_or(0);
            let chunk = self.upload[index].buffer.clone();
            self.record_copy(gpu, (chunk, at), (slab.clone(), offset + done as u64), copy_bytes);
            done += len;
        }
        Ok(())
    }

    /// Repeats `pattern` over `len` bytes from `offset` on, a multiple of the device's alignment, and up to a whole word.
    /// Zeros are cleared; of any other pattern the beginning is uploaded, and a shader repeats that over the rest.
    pub(super) fn fill(&mut self, gpu: &Gpu, slab: &GpuSlab, (offset, len): (u64, u64), pattern: &[u8]) -> Result<()> {
        let (pattern_bytes, filled_bytes) = (pattern.len() as u64, round_up(len, WORD_BYTES).unwrap_or(len));
        if pattern.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "an empty pattern cannot be repeated"));
        }
        if len == 0 {
            return Ok(());
        }
        if pattern.iter().all(|byte| *byte == 0) {
            self.begin_operation(gpu)?;
            self.record(gpu, Work::Clear { buffer: slab.buffer().clone(), offset, bytes: filled_bytes });
            return Ok(());
        }
        if pattern_bytes >= len {
            return self.upload(gpu, slab.buffer(), offset, &pattern[..len as usize]);
        }
        let head_bytes = head_bytes(gpu.limits.alignment_bytes, pattern_bytes, filled_bytes)?;
        let mut head = pattern.repeat(head_bytes.div_ceil(pattern_bytes) as usize);
        head.truncate(head_bytes as usize);
        self.upload(gpu, slab.buffer(), offset, &head)?;
        if head_bytes == filled_bytes {
            return Ok(());
        }
        let head_end = offset + head_bytes;
        self.repeat(gpu, slab, offset..head_end, head_end..offset + filled_bytes)
    }

    pub(super) fn download(&mut self, gpu: &Gpu, slab: &wgpu::Buffer, offset: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(chunk_bytes) = self.download.as_ref().map(|chunk| chunk.buffer.size() as usize) else {
            return Err(no_staging());
        };
        let mut at = offset;
        for piece in bytes.chunks_mut(chunk_bytes) {
            self.download_piece(gpu, slab, at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Downloads what fits in the chunk: a copy, a submission, and a mapping, which the next submission ends in its error scopes.
    fn download_piece(&mut self, gpu: &Gpu, slab: &wgpu::Buffer, at: u64, piece: &mut [u8]) -> Result<()> {
        let Some(buffer) = self.download.as_ref().map(|chunk| chunk.buffer.clone()) else { return Err(no_staging()) };
        let copy_bytes = round_up(piece.len() as u64, WORD_BYTES).unwrap_or(0);
        self.record_copy(gpu, (slab.clone(), at), (buffer, 0), copy_bytes);
        let submission = self.submit(gpu)?;
        let Some(chunk) = &mut self.download else { return Err(no_staging()) };
        chunk.submission = Some(submission);
        chunk.map(wgpu::MapMode::Read);
        chunk.wait(&gpu.device, &gpu.lost)?;
        let view = chunk.buffer.get_mapped_range(..).map_err(|error| mapping_failed(gpu, error))?;
        piece.copy_from_slice(&view[..piece.len()]);
        Ok(())
    }

    /// Returns a mapped chunk with room for at least `bytes`: its index, where its room starts and how long that is. Waits for the
    /// device if that still reads the next chunk, and sends what is recorded first if that is to be read from there.
    fn chunk_with_room(&mut self, gpu: &Gpu, bytes: u64) -> Result<(usize, u64, u64)> {
        match self.upload.first() {
            None => return Err(no_staging()),
            Some(chunk) if chunk.buffer.size() < bytes => {
                let message = format!("{} do not fit in a staging chunk of {}", exact(bytes), chunk.buffer.size());
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            Some(_) => {}
        }
        if self.upload[self.upload_at].room_bytes() < bytes {
            self.upload_at = (self.upload_at + 1) % self.upload.len();
            if self.upload[self.upload_at].filled_bytes > 0 {
                self.submit(gpu)?;
            }
            self.upload[self.upload_at].wait(&gpu.device, &gpu.lost)?;
        }
        let chunk = &self.upload[self.upload_at];
        Ok((self.upload_at, chunk.filled_bytes, chunk.room_bytes()))
    }

    /// Writes into a mapped chunk at `at`, and zeros up to a whole word.
    fn write(&mut self, gpu: &Gpu, index: usize, at: u64, bytes: &[u8]) -> Result<()> {
        let padded_bytes = round_up(bytes.len() as u64, WORD_BYTES).unwrap_or(0);
        let chunk = &mut self.upload[index];
        let mut view =
            chunk.buffer.get_mapped_range_mut(at..at + padded_bytes).map_err(|error| mapping_failed(gpu, error))?;
        view.slice(..bytes.len()).copy_from_slice(bytes);
        let padding = [0u8; WORD_BYTES as usize];
        view.slice(bytes.len()..).copy_from_slice(&padding[..padded_bytes as usize - bytes.len()]);
        chunk.filled_bytes = round_up(at + padded_bytes, MAP_ALIGNMENT_BYTES).unwrap_or(0);
        Ok(())
    }
}

/// Returns how much of a fill of `len` bytes is uploaded: all of a short one, else whole patterns up to where a binding may
/// start. Refuses what is too much for the shader.
fn head_bytes(alignment_bytes: u64, pattern_bytes: u64, len: u64) -> Result<u64> {
    if len <= FILL_UPLOADED_BYTES {
        return Ok(len);
    }
    let common_bytes = alignment_bytes.min(1 << pattern_bytes.trailing_zeros());
    let head_bytes = pattern_bytes.saturating_mul(alignment_bytes / common_bytes).min(len);
    if head_bytes > PATTERN_BYTES_MAX {
        let message = format!(
            "a pattern of {} over {}: as often as it takes to end at a multiple of {alignment_bytes}, it is over {}",
            exact(pattern_bytes),
            exact(len),
            exact(PATTERN_BYTES_MAX)
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(head_bytes)
}

fn no_staging() -> Error {
    let message = "this pool has no staging to move data through: give it some, or a larger budget";
    Error::new(ErrorKind::Invalid, message)
}

/// The ring's buffers are nobody else's: nothing but the loss of the device takes their mappings away.
fn mapping_failed(gpu: &Gpu, error: wgpu::MapRangeError) -> Error {
    gpu.lost.tell("the mapping of a staging buffer is gone");
    Error::new(ErrorKind::DeviceLost, "the device is lost").with_source(error)
}
