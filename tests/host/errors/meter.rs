//! A backend without memory that counts what is reserved, with the limits and the staging that a test wants.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tensorpool::backend::{CopyDst, CopySrc, PageOptions, Span, SpanMut};
use tensorpool::{Backend, Error, ErrorKind, Limits, Result};

#[derive(Clone, Debug)]
pub struct Meter {
    limits: Limits,
    staging_bytes: u64,
    /// What the device has; the budget may be more.
    memory_bytes: u64,
    reserved: Arc<AtomicU64>,
}

impl Meter {
    pub fn new(limits: Limits, staging_bytes: u64, memory_bytes: u64) -> Self {
        Self { limits, staging_bytes, memory_bytes, reserved: Arc::default() }
    }

    /// Bytes of all slabs.
    pub fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::SeqCst)
    }
}

/// Memory comes and goes in so many bytes.
pub const GRANULE_BYTES: u64 = 4096;

#[derive(Debug)]
pub struct MeterSlab {
    bytes: u64,
    /// Of a slab that is a range of addresses: which granules have memory.
    granules: Option<Mutex<Vec<bool>>>,
    reserved: Arc<AtomicU64>,
}

impl MeterSlab {
    /// Memory comes for a span that has none, or goes where all of it has some.
    fn change(&self, span: Span<'_>, comes: bool) -> u64 {
        let (start, end) = (span.offset(), span.offset() + span.bytes());
        assert!(start.is_multiple_of(GRANULE_BYTES) && (end.is_multiple_of(GRANULE_BYTES) || end == self.bytes));
        let mut granules = self.granules.as_ref().expect("a range of addresses").lock().unwrap();
        for has_memory in &mut granules[(start / GRANULE_BYTES) as usize..end.div_ceil(GRANULE_BYTES) as usize] {
            assert_ne!(*has_memory, comes, "{start}..{end}");
            *has_memory = comes;
        }
        end - start
    }

    /// What the slab has now.
    fn memory_bytes(&self) -> u64 {
        let Some(granules) = &self.granules else { return self.bytes };
        let granules = granules.lock().unwrap();
        let of = |(index, _): (usize, &bool)| GRANULE_BYTES.min(self.bytes - index as u64 * GRANULE_BYTES);
        granules.iter().enumerate().filter(|(_, has_memory)| **has_memory).map(of).sum()
    }
}

impl Drop for MeterSlab {
    fn drop(&mut self) {
        self.reserved.fetch_sub(self.memory_bytes(), Ordering::SeqCst);
    }
}

impl Backend for Meter {
    type Slab = MeterSlab;

    fn name(&self) -> &str {
        "meter"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn create_slab(&self, bytes: u64) -> Result<MeterSlab> {
        assert!(bytes > 0 && bytes <= self.limits.slab.bytes, "{bytes}");
        assert!(bytes.is_multiple_of(self.limits.granule_bytes), "{bytes}");
        if self.reserved() + bytes > self.memory_bytes {
            return Err(Error::new(ErrorKind::OutOfMemory, "the meter has no more"));
        }
        self.reserved.fetch_add(bytes, Ordering::SeqCst);
        Ok(MeterSlab { bytes, granules: None, reserved: Arc::clone(&self.reserved) })
    }

    fn commit_granule_bytes(&self) -> Option<u64> {
        Some(GRANULE_BYTES)
    }

    fn reserve_slab(&self, bytes: u64, _: PageOptions) -> Result<MeterSlab> {
        assert!(bytes > 0 && bytes <= self.limits.slab.bytes, "{bytes}");
        let granules = Some(Mutex::new(vec![false; bytes.div_ceil(GRANULE_BYTES) as usize]));
        Ok(MeterSlab { bytes, granules, reserved: Arc::clone(&self.reserved) })
    }

    fn commit(&self, slab: &MeterSlab, span: SpanMut<'_>, _: bool) -> Result<()> {
        if self.reserved() + span.bytes() > self.memory_bytes {
            return Err(Error::new(ErrorKind::OutOfMemory, "the meter has no more"));
        }
        self.reserved.fetch_add(slab.change(span.as_span(), true), Ordering::SeqCst);
        Ok(())
    }

    fn decommit(&self, slab: &MeterSlab, span: SpanMut<'_>) -> Result<()> {
        self.reserved.fetch_sub(slab.change(span.as_span(), false), Ordering::SeqCst);
        Ok(())
    }

    fn upload(&self, _: &MeterSlab, _: SpanMut<'_>, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: &MeterSlab, _: Span<'_>, _: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn fill(&self, _: &MeterSlab, _: SpanMut<'_>, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn copy(&self, _: CopySrc<'_, MeterSlab>, _: CopyDst<'_, MeterSlab>, _: u64) -> Result<()> {
        Ok(())
    }

    fn open_staging(&self, bytes: u64) -> Result<u64> {
        Ok(bytes.min(self.staging_bytes))
    }
}
