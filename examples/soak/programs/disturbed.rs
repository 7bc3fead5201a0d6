//! Backends for programs on a pool: the host, a virtual one, and one that fails, panics and is late as told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tensorpool::backend::{CopyDst, CopySrc, HostSlab, Span};
use tensorpool::{Backend, Error, ErrorKind, Host, Limit, Limits, Result, Virtual};

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

/// How a creation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    OutOfMemory,
    Device,
    Panic,
}

const FAILURES: [Failure; 3] = [Failure::OutOfMemory, Failure::Device, Failure::Panic];

/// What a planned panic carries. It is thrown without a word: nothing is printed of it.
pub struct Planned;

/// What goes wrong next, and what went wrong before.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Bytes of the slabs there are, and the most there were.
    reserved: AtomicU64,
    reserved_peak: AtomicU64,
    /// So many of the next creations fail, and how.
    creations: AtomicU64,
    how: AtomicU64,
    /// So many of the next transfers fail.
    transfers: AtomicU64,
    /// Not 0: the device is lost.
    lost: AtomicU64,
    /// How much work is done each time somebody asks how far it is; 0: everything at once.
    pace: AtomicU64,
    recorded: AtomicU64,
    completed: AtomicU64,
    faults: AtomicU64,
}

impl Trouble {
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved.load(SeqCst)
    }

    pub fn reserved_peak_bytes(&self) -> u64 {
        self.reserved_peak.load(SeqCst)
    }

    pub fn fail_creations(&self, count: u64, how: Failure) {
        self.creations.store(count, SeqCst);
        self.how.store(how as u64, SeqCst);
    }

    pub fn fail_transfers(&self, count: u64) {
        self.transfers.store(count, SeqCst);
    }

    pub fn lose(&self) {
        self.lost.store(1, SeqCst);
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(SeqCst) > 0
    }

    /// From now on work is done a little at a time, or at once if `pace` is 0.
    pub fn be_late(&self, pace: u64) {
        self.pace.store(pace, SeqCst);
    }

    pub fn is_late(&self) -> bool {
        self.pace.load(SeqCst) > 0
    }

    /// How the next creation fails, if it does.
    pub fn next_creation(&self) -> Option<Failure> {
        (self.creations.load(SeqCst) > 0).then(|| FAILURES[self.how.load(SeqCst) as usize])
    }

    /// Whether anything is going to fail.
    pub fn is_near(&self) -> bool {
        self.is_lost() || self.creations.load(SeqCst) > 0 || self.transfers.load(SeqCst) > 0
    }

    pub fn faults(&self) -> u64 {
        self.faults.load(SeqCst)
    }

    /// Counts one of the planned failures down; whether this call fails.
    fn is_due(&self, planned: &AtomicU64) -> bool {
        let is_due = planned.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        self.faults.fetch_add(u64::from(is_due), SeqCst);
        is_due
    }

    fn check(&self) -> Result<()> {
        match self.is_lost() {
            true => Err(Error::new(ErrorKind::DeviceLost, "lost, as the program wants")),
            false => Ok(()),
        }
    }

    fn transfer(&self) -> Result<()> {
        self.check()?;
        if self.is_due(&self.transfers) {
            return Err(Error::new(ErrorKind::Device, "the transfer fails, as the program wants"));
        }
        self.recorded.fetch_add(1, SeqCst);
        Ok(())
    }

    fn create(&self, bytes: u64) -> Result<()> {
        self.check()?;
        let how = self.how.load(SeqCst) as usize;
        if !self.is_due(&self.creations) {
            return Ok(());
        }
        let kind = match FAILURES[how] {
            Failure::OutOfMemory => ErrorKind::OutOfMemory,
            Failure::Device => ErrorKind::Device,
            Failure::Panic => std::panic::resume_unwind(Box::new(Planned)),
        };
        Err(Error::new(kind, format!("a slab of {bytes} bytes fails, as the program wants")))
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

impl Drop for DisturbedSlab {
    fn drop(&mut self) {
        self.trouble.reserved.fetch_sub(self.bytes, SeqCst);
    }
}

impl Backend for Disturbed {
    type Slab = DisturbedSlab;

    fn name(&self) -> &str {
        "disturbed"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn create_slab(&self, bytes: u64) -> Result<DisturbedSlab> {
        let Limits { granule_bytes, slab, .. } = self.limits;
        assert!(bytes > 0 && bytes.is_multiple_of(granule_bytes) && bytes <= slab.bytes, "a slab of {bytes} bytes");
        self.trouble.create(bytes)?;
        let slab = Host.create_slab(bytes)?;
        let reserved_bytes = self.trouble.reserved.fetch_add(bytes, SeqCst) + bytes;
        self.trouble.reserved_peak.fetch_max(reserved_bytes, SeqCst);
        Ok(DisturbedSlab { slab, bytes, trouble: Arc::clone(&self.trouble) })
    }

    fn upload(&self, slab: &DisturbedSlab, span: &mut Span, at: u64, bytes: &[u8]) -> Result<()> {
        self.trouble.transfer()?;
        Host.upload(&slab.slab, span, at, bytes)
    }

    fn download(&self, slab: &DisturbedSlab, span: &Span, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.trouble.transfer()?;
        Host.download(&slab.slab, span, at, bytes)
    }

    fn fill(&self, slab: &DisturbedSlab, span: &mut Span, len: u64, pattern: &[u8]) -> Result<()> {
        self.trouble.transfer()?;
        Host.fill(&slab.slab, span, len, pattern)
    }

    fn copy(&self, from: CopySrc<'_, DisturbedSlab>, to: CopyDst<'_, DisturbedSlab>, len: u64) -> Result<()> {
        self.trouble.transfer()?;
        let from = CopySrc { slab: &from.slab.slab, span: from.span, at: from.at };
        Host.copy(from, CopyDst { slab: &to.slab.slab, span: to.span, at: to.at }, len)
    }

    fn check(&self) -> Result<()> {
        self.trouble.check()
    }

    /// Staging is a number here.
    fn open_staging(&self, bytes: u64) -> Result<u64> {
        Ok(bytes)
    }

    fn recorded(&self) -> u64 {
        self.trouble.recorded.load(SeqCst)
    }

    fn completed(&self) -> u64 {
        let recorded = self.recorded();
        let pace = self.trouble.pace.load(SeqCst);
        let step = |completed: u64| Some(if pace == 0 { recorded } else { recorded.min(completed + pace) });
        match self.trouble.completed.fetch_update(SeqCst, SeqCst, step) {
            Ok(before) => step(before).unwrap_or(before),
            Err(before) => before,
        }
    }

    fn complete(&self, point: u64) -> Result<()> {
        self.trouble.check()?;
        self.trouble.completed.fetch_max(point, SeqCst);
        Ok(())
    }
}
