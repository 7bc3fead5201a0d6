//! A backend without memory that counts what is reserved, with the limits and the staging that a test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tensorpool::backend::{CopyDst, CopySrc, Span};
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

#[derive(Debug)]
pub struct MeterSlab {
    bytes: u64,
    reserved: Arc<AtomicU64>,
}

impl Drop for MeterSlab {
    fn drop(&mut self) {
        self.reserved.fetch_sub(self.bytes, Ordering::SeqCst);
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
        Ok(MeterSlab { bytes, reserved: Arc::clone(&self.reserved) })
    }

    fn upload(&self, _: &MeterSlab, _: &mut Span, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: &MeterSlab, _: &Span, _: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn fill(&self, _: &MeterSlab, _: &mut Span, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn copy(&self, _: CopySrc<'_, MeterSlab>, _: CopyDst<'_, MeterSlab>, _: u64) -> Result<()> {
        Ok(())
    }

    fn open_staging(&self, bytes: u64) -> Result<u64> {
        Ok(bytes.min(self.staging_bytes))
    }
}
