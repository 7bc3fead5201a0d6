//! A backend without memory: it carves, counts and forgets.
//!
//! A program that runs on it makes exactly the allocations it would make elsewhere, in no time and in no memory, so that
//! its needs are known before a byte is reserved. The training step computes its budgets this way.

use super::{ALIGNMENT_BYTES_MAX, Backend, CopyDst, CopySrc, Limit, Limits, Span, SpanMut};
use crate::error::Result;

/// Slabs of any size with nothing behind them: writes go nowhere, reads give zeros.
#[derive(Clone, Copy, Debug)]
pub struct Virtual {
    limits: Limits,
    staging_bytes: u64,
    granule_bytes: Option<u64>,
}

/// As the host's.
const GRANULE_BYTES: u64 = 4096;

/// A slab of [`Virtual`]: nothing.
#[derive(Debug)]
pub struct VirtualSlab(());

impl Virtual {
    /// Makes a virtual backend with these limits, which commits memory as [`Host`](super::Host) does.
    pub fn new(limits: Limits) -> Self {
        Self { limits, staging_bytes: 0, granule_bytes: Some(GRANULE_BYTES) }
    }

    /// Makes one that stands for another backend, as a pool with `budget_bytes` would use it: the same limits, the same
    /// staging, and memory that comes and goes as finely.
    pub fn of(backend: &impl Backend, budget_bytes: u64) -> Self {
        Self {
            limits: backend.limits(),
            staging_bytes: backend.staging_bytes_default(budget_bytes),
            granule_bytes: backend.commit_granule_bytes(),
        }
    }
}

impl Default for Virtual {
    /// Slabs and blocks of any size, aligned like those of the host.
    fn default() -> Self {
        let any = Limit { bytes: u64::MAX, name: "2^64" };
        Self::new(Limits {
            alignment_bytes: 64,
            alignment_bytes_max: ALIGNMENT_BYTES_MAX,
            granule_bytes: 1,
            slab: any,
            block: any,
        })
    }
}

impl Backend for Virtual {
    type Slab = VirtualSlab;

    fn name(&self) -> &str {
        "virtual"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn create_slab(&self, bytes: u64) -> Result<VirtualSlab> {
        super::check_slab_bytes(bytes, &self.limits)?;
        Ok(VirtualSlab(()))
    }

    fn commit_granule_bytes(&self) -> Option<u64> {
        self.granule_bytes
    }

    fn upload(&self, _: &VirtualSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        span.range(at, bytes.len() as u64).map(drop)
    }

    fn download(&self, _: &VirtualSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        span.range(at, bytes.len() as u64)?;
        bytes.fill(0);
        Ok(())
    }

    fn fill(&self, _: &VirtualSlab, span: SpanMut<'_>, len: u64, _: &[u8]) -> Result<()> {
        span.range(0, len).map(drop)
    }

    fn copy(&self, from: CopySrc<'_, VirtualSlab>, to: CopyDst<'_, VirtualSlab>, len: u64) -> Result<()> {
        from.span.range(from.at, len)?;
        to.span.range(to.at, len).map(drop)
    }

    fn staging_bytes_default(&self, _: u64) -> u64 {
        self.staging_bytes
    }

    fn open_staging(&self, bytes: u64) -> Result<u64> {
        Ok(bytes.min(self.staging_bytes))
    }
}
