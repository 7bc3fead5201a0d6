//! Backends for programs on a pool: the host, a virtual one, and one that fails, panics and is late as told.

use std::sync::{Arc, Mutex, PoisonError};

use tensorpool::backend::{CopyDst, CopySrc, HostSlab, PageOptions, Span, SpanMut};
use tensorpool::{Backend, Host, Limit, Limits, Result, Virtual};

use super::bombs::Callback;
use super::logger;
use super::trouble::Trouble;

/// A backend that a program runs on.
pub trait Ground: Backend {
    /// Whether what is written can be read again.
    const KEEPS_BYTES: bool;

    /// What disturbs it, if something can.
    fn trouble(&self) -> Option<Arc<Trouble>> {
        None
    }
}

impl Ground for Host {
    const KEEPS_BYTES: bool = true;
}

impl Ground for Virtual {
    const KEEPS_BYTES: bool = false;
}

impl Ground for Disturbed {
    const KEEPS_BYTES: bool = true;

    fn trouble(&self) -> Option<Arc<Trouble>> {
        Some(Arc::clone(&self.trouble))
    }
}

/// Host memory that fails as told.
#[derive(Debug, Clone)]
pub struct Disturbed {
    pub trouble: Arc<Trouble>,
    limits: Limits,
}

impl Disturbed {
    pub fn new(alignment_bytes: u64, granule_bytes: u64, slab_bytes_most: u64) -> Self {
        let limit = Limit { bytes: slab_bytes_most, name: "slab limit of the program" };
        Self {
            trouble: Arc::default(),
            limits: Limits { alignment_bytes, alignment_bytes_max: 1 << 21, granule_bytes, slab: limit, block: limit },
        }
    }
}

/// A slab that says when it goes.
#[derive(Debug)]
pub struct DisturbedSlab {
    slab: HostSlab,
    bytes: u64,
    /// Which granules of a range of addresses have memory.
    granules: Option<Mutex<Vec<bool>>>,
    trouble: Arc<Trouble>,
}

/// Memory comes and goes in so many bytes.
const GRANULE_BYTES: u64 = 4096;

impl DisturbedSlab {
    /// What the slab has of memory now.
    fn memory_bytes(&self) -> u64 {
        let Some(granules) = &self.granules else { return self.bytes };
        let granules = granules.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(index, _): (usize, &bool)| GRANULE_BYTES.min(self.bytes - index as u64 * GRANULE_BYTES);
        granules.iter().enumerate().filter(|(_, has_memory)| **has_memory).map(of).sum()
    }

    /// Memory comes for whole granules that have none, or goes where they have.
    fn change(&self, span: Span<'_>, comes: bool) {
        let (start, end) = (span.offset(), span.offset() + span.bytes());
        let is_whole = start.is_multiple_of(GRANULE_BYTES) && (end.is_multiple_of(GRANULE_BYTES) || end == self.bytes);
        assert!(is_whole, "{start} to {end} are not whole granules of {}", self.bytes);
        let granules = self.granules.as_ref().expect("a range of addresses");
        let mut granules = granules.lock().unwrap_or_else(PoisonError::into_inner);
        for has_memory in &mut granules[(start / GRANULE_BYTES) as usize..end.div_ceil(GRANULE_BYTES) as usize] {
            assert_ne!(*has_memory, comes, "{start} to {end}");
            *has_memory = comes;
        }
    }

    /// Panics unless all that a transfer is lent has memory.
    fn attend(&self, span: Span<'_>) {
        let Some(granules) = &self.granules else { return };
        let (start, end) = (span.offset(), span.offset() + span.bytes());
        let granules = granules.lock().unwrap_or_else(PoisonError::into_inner);
        let met = &granules[(start / GRANULE_BYTES) as usize..end.div_ceil(GRANULE_BYTES) as usize];
        assert!(met.iter().all(|has_memory| *has_memory), "{start} to {end} have not all memory");
    }

    /// A write into a part of the span has failed.
    fn spoil(&self, span: SpanMut<'_>, at: u64, len: u64) {
        if span.range(at, len).is_ok() {
            Host.upload(&self.slab, span, at, &vec![0xdb; len as usize]).expect("a range of the span");
        }
    }
}

impl Drop for DisturbedSlab {
    fn drop(&mut self) {
        self.trouble.unreserve(self.memory_bytes());
        self.trouble.pass(Callback::DropSlab);
    }
}

impl Backend for Disturbed {
    type Slab = DisturbedSlab;

    fn name(&self) -> &str {
        self.trouble.pass(Callback::Name);
        "disturbed"
    }

    fn limits(&self) -> Limits {
        self.trouble.pass(Callback::Limits);
        self.limits
    }

    fn create_slab(&self, bytes: u64) -> Result<DisturbedSlab> {
        let Limits { granule_bytes, slab, .. } = self.limits;
        assert!(bytes > 0 && bytes.is_multiple_of(granule_bytes) && bytes <= slab.bytes, "a slab of {bytes} bytes");
        self.trouble.create(bytes, Callback::CreateSlab)?;
        let slab = Host.create_slab(bytes)?;
        self.trouble.reserve(bytes);
        Ok(DisturbedSlab { slab, bytes, granules: None, trouble: Arc::clone(&self.trouble) })
    }

    fn commit_granule_bytes(&self) -> Option<u64> {
        Some(GRANULE_BYTES)
    }

    fn reserve_slab(&self, bytes: u64, pages: PageOptions) -> Result<DisturbedSlab> {
        assert!(bytes > 0 && bytes <= self.limits.slab.bytes, "a range of {bytes} bytes");
        self.trouble.create(bytes, Callback::CreateSlab)?;
        let granules = Some(Mutex::new(vec![false; bytes.div_ceil(GRANULE_BYTES) as usize]));
        Ok(DisturbedSlab {
            slab: Host.reserve_slab(bytes, pages)?,
            bytes,
            granules,
            trouble: Arc::clone(&self.trouble),
        })
    }

    fn commit(&self, slab: &DisturbedSlab, mut span: SpanMut<'_>, touches: bool) -> Result<()> {
        self.trouble.create(span.bytes(), Callback::Commit)?;
        Host.commit(&slab.slab, span.reborrow(), touches)?;
        slab.change(span.as_span(), true);
        self.trouble.reserve(span.bytes());
        Ok(())
    }

    fn decommit(&self, slab: &DisturbedSlab, mut span: SpanMut<'_>) -> Result<()> {
        self.trouble.transfer(Callback::Decommit, || {})?;
        Host.decommit(&slab.slab, span.reborrow())?;
        slab.change(span.as_span(), false);
        self.trouble.unreserve(span.bytes());
        Ok(())
    }

    fn upload(&self, slab: &DisturbedSlab, mut span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        self.trouble.transfer(Callback::Upload, || slab.spoil(span.reborrow(), at, bytes.len() as u64))?;
        slab.attend(span.as_span());
        Host.upload(&slab.slab, span, at, bytes)
    }

    fn download(&self, slab: &DisturbedSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.trouble.transfer(Callback::Download, || {})?;
        slab.attend(span);
        Host.download(&slab.slab, span, at, bytes)
    }

    fn fill(&self, slab: &DisturbedSlab, mut span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
        self.trouble.transfer(Callback::Fill, || slab.spoil(span.reborrow(), 0, len))?;
        slab.attend(span.as_span());
        Host.fill(&slab.slab, span, len, pattern)
    }

    fn zero_if_free(&self, slab: &DisturbedSlab, mut span: SpanMut<'_>, len: u64) -> Result<bool> {
        self.trouble.transfer(Callback::Zero, || slab.spoil(span.reborrow(), 0, len))?;
        if self.trouble.must_wait() {
            return Ok(false);
        }
        slab.attend(span.as_span());
        Host.fill(&slab.slab, span, len, &[0]).map(|()| true)
    }

    fn copy(&self, from: CopySrc<'_, DisturbedSlab>, mut to: CopyDst<'_, DisturbedSlab>, len: u64) -> Result<()> {
        self.trouble.transfer(Callback::Copy, || to.slab.spoil(to.span.reborrow(), to.at, len))?;
        from.slab.attend(from.span);
        to.slab.attend(to.span.as_span());
        let from = CopySrc { slab: &from.slab.slab, span: from.span, at: from.at };
        Host.copy(from, CopyDst { slab: &to.slab.slab, span: to.span, at: to.at }, len)
    }

    fn check(&self) -> Result<()> {
        self.trouble.pass(Callback::Check);
        self.trouble.check()
    }

    /// Staging is a number here.
    fn open_staging(&self, bytes: u64) -> Result<u64> {
        self.trouble.pass(Callback::OpenStaging);
        Ok(bytes)
    }

    fn recorded(&self) -> u64 {
        self.trouble.pass(Callback::Recorded);
        self.trouble.recorded()
    }

    fn completed(&self) -> u64 {
        self.trouble.pass(Callback::Completed);
        self.trouble.completed()
    }

    /// The pool's own thread comes here, too.
    fn flush(&self) -> Result<()> {
        logger::attend(&self.trouble);
        self.trouble.pass(Callback::Flush);
        Ok(())
    }

    fn complete(&self, point: u64) -> Result<()> {
        self.trouble.pass(Callback::Complete);
        self.trouble.check()?;
        self.trouble.complete(point);
        Ok(())
    }
}
