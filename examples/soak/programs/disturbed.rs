//! Backends for programs on a pool: the host, a virtual one, and one that fails, panics and is late as told.

use std::sync::Arc;

use tensorpool::backend::{CopyDst, CopySrc, HostSlab, Span};
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
        Self { trouble: Arc::default(), limits: Limits { alignment_bytes, granule_bytes, slab: limit, block: limit } }
    }
}

/// A slab that says when it goes.
#[derive(Debug)]
pub struct DisturbedSlab {
    slab: HostSlab,
    bytes: u64,
    trouble: Arc<Trouble>,
}

impl DisturbedSlab {
    /// A write into a part of the span has failed.
    fn spoil(&self, span: &mut Span, at: u64, len: u64) {
        if span.range(at, len).is_ok() {
            Host.upload(&self.slab, span, at, &vec![0xdb; len as usize]).expect("a range of the span");
        }
    }
}

impl Drop for DisturbedSlab {
    fn drop(&mut self) {
        self.trouble.unreserve(self.bytes);
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
        self.trouble.create(bytes)?;
        let slab = Host.create_slab(bytes)?;
        self.trouble.reserve(bytes);
        Ok(DisturbedSlab { slab, bytes, trouble: Arc::clone(&self.trouble) })
    }

    fn upload(&self, slab: &DisturbedSlab, span: &mut Span, at: u64, bytes: &[u8]) -> Result<()> {
        self.trouble.transfer(Callback::Upload, || slab.spoil(span, at, bytes.len() as u64))?;
        Host.upload(&slab.slab, span, at, bytes)
    }

    fn download(&self, slab: &DisturbedSlab, span: &Span, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.trouble.transfer(Callback::Download, || {})?;
        Host.download(&slab.slab, span, at, bytes)
    }

    fn fill(&self, slab: &DisturbedSlab, span: &mut Span, len: u64, pattern: &[u8]) -> Result<()> {
        self.trouble.transfer(Callback::Fill, || slab.spoil(span, 0, len))?;
        Host.fill(&slab.slab, span, len, pattern)
    }

    fn zero_if_free(&self, slab: &DisturbedSlab, span: &mut Span, len: u64) -> Result<bool> {
        self.trouble.transfer(Callback::Zero, || slab.spoil(span, 0, len))?;
        if self.trouble.must_wait() {
            return Ok(false);
        }
        Host.fill(&slab.slab, span, len, &[0]).map(|()| true)
    }

    fn copy(&self, from: CopySrc<'_, DisturbedSlab>, to: CopyDst<'_, DisturbedSlab>, len: u64) -> Result<()> {
        self.trouble.transfer(Callback::Copy, || to.slab.spoil(to.span, to.at, len))?;
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
