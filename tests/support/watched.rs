//! A backend that counts for itself, and refuses memory when told to.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tensorpool::backend::{CopyDst, CopySrc, HostSlab, PageOptions, Span, SpanMut};
use tensorpool::{Backend, Config, Error, ErrorKind, Host, HostMemory, Limit, Limits, Pool, Result, Stats};

/// The payload of a panic, which panics when it is dropped.
///
/// Neither payload takes memory: the pool forgets the second, and the address sanitizer would call that a leak.
pub struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::panic_any(());
    }
}

type Drops = Arc<dyn Fn() + Send + Sync>;

/// What the backend puts into the errors of `create_slab`: their drop calls what the test wants.
#[derive(Clone, Default)]
pub struct Cause(Option<Drops>);

impl Drop for Cause {
    fn drop(&mut self) {
        if let Some(drops) = &self.0 {
            drops();
        }
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cause of the test")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cause of the test")
    }
}

impl std::error::Error for Cause {}

/// What the next `create_slab` runs first: what other threads do meanwhile.
#[derive(Default)]
pub struct Hook(Option<Box<dyn FnOnce() + Send>>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a hook" } else { "no hook" })
    }
}

/// What the backend saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Bytes of the slabs there are.
    pub reserved: AtomicU64,
    /// The most there ever were.
    pub peak: AtomicU64,
    /// Calls of `create_slab`, those that failed included.
    pub calls: AtomicU64,
    /// `create_slab` fails from this call on, counted from 1; 0 is never.
    pub fail_from: AtomicU64,
    /// ... up to and with this one.
    pub fail_to: AtomicU64,
    /// What a failing call reports: 1 a lost device, 2 an error of the device, of `create_slab` else that it has no memory.
    pub lost: AtomicU64,
    /// Whether it panics instead.
    pub panics: AtomicU64,
    /// Slabs larger than this are refused as a device without memory would; 0 is none.
    pub refuse_over: AtomicU64,
    /// Work is done only up to this point, if `slow`.
    pub completed: AtomicU64,
    pub recorded: AtomicU64,
    pub slow: AtomicU64,
    /// Milliseconds that `create_slab` takes.
    pub delay_ms: AtomicU64,
    /// These calls fail while not 0: transfers, `complete`, `check`, `open_staging`.
    pub fail_transfers: AtomicU64,
    pub fail_complete: AtomicU64,
    /// Calls of `copy`. From `fail_copies_from` on, counted from 1, up to and with `fail_copies_to`, they fail and spoil what they
    /// were to write; 0 is never.
    pub copies: AtomicU64,
    pub fail_copies_from: AtomicU64,
    pub fail_copies_to: AtomicU64,
    pub fail_check: AtomicU64,
    pub fail_staging: AtomicU64,
    /// Calls of `flush`, which each look at the device begins with.
    pub flushes: AtomicU64,
    /// So many of them panic, with a payload that panics when it is dropped.
    pub bombs: AtomicU64,
    /// The cause of what `create_slab` reports.
    pub cause: Mutex<Cause>,
    pub hook: Mutex<Hook>,
    /// Bytes of memory that the device has; 0 is no end of it.
    pub memory: AtomicU64,
    /// How finely memory comes and goes in slabs that expand; 0 where there are none.
    pub granule: AtomicU64,
    /// Calls of `commit` and of `decommit`, those that failed included. They fail from these on, counted from 1; 0 is never.
    pub commits: AtomicU64,
    pub fail_commits_from: AtomicU64,
    pub decommits: AtomicU64,
    pub fail_decommits_from: AtomicU64,
    /// Bytes of the last call of `commit` whose pages were to be touched.
    pub touched: AtomicU64,
}

impl Seen {
    /// The error that a call reports when the test wants it to fail.
    fn failing(&self, call: &AtomicU64) -> Result<()> {
        if call.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let kind = if self.lost.load(Ordering::Relaxed) == 1 { ErrorKind::DeviceLost } else { ErrorKind::Device };
        Err(Error::new(kind, "fails, as the test wants"))
    }
}

/// Host memory under watch.
#[derive(Debug, Clone)]
pub struct Watched {
    pub seen: Arc<Seen>,
    pub limits: Limits,
}

impl Watched {
    pub fn new() -> Self {
        Self { seen: Arc::default(), limits: Host.limits() }
    }

    /// Slabs can expand, in granules of so many bytes. Then `reserved` counts what is committed.
    pub fn expanding(self, granule: u64) -> Self {
        self.seen.granule.store(granule, Ordering::Relaxed);
        self
    }

    pub fn slab_limit(mut self, bytes: u64) -> Self {
        self.limits.slab = Limit { bytes, name: "slab limit of the test" };
        self
    }

    pub fn fail_calls(&self, calls: std::ops::RangeInclusive<u64>) {
        self.seen.fail_from.store(*calls.start(), Ordering::Relaxed);
        self.seen.fail_to.store(*calls.end(), Ordering::Relaxed);
    }

    /// The copies of these numbers fail, counted from the next one, which is 1.
    pub fn fail_copies(&self, calls: std::ops::RangeInclusive<u64>) {
        self.seen.copies.store(0, Ordering::Relaxed);
        self.seen.fail_copies_from.store(*calls.start(), Ordering::Relaxed);
        self.seen.fail_copies_to.store(*calls.end(), Ordering::Relaxed);
    }

    /// The errors of `create_slab` call this when they are dropped.
    pub fn on_drop(&self, drops: impl Fn() + Send + Sync + 'static) {
        self.seen.cause.lock().unwrap().0 = Some(Arc::new(drops));
    }

    /// The next call of `create_slab` runs this first.
    pub fn before_slab(&self, hook: impl FnOnce() + Send + 'static) {
        self.seen.hook.lock().unwrap().0 = Some(Box::new(hook));
    }

    pub fn reserved(&self) -> u64 {
        self.seen.reserved.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> u64 {
        self.seen.calls.load(Ordering::SeqCst)
    }
}

/// A slab that says when it goes.
#[derive(Debug)]
pub struct WatchedSlab {
    slab: HostSlab,
    bytes: u64,
    seen: Arc<Seen>,
}

impl Drop for WatchedSlab {
    fn drop(&mut self) {
        self.seen.reserved.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl Backend for Watched {
    type Slab = WatchedSlab;

    fn name(&self) -> &str {
        "watched"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn create_slab(&self, bytes: u64) -> Result<WatchedSlab> {
        assert!(
            bytes > 0 && bytes.is_multiple_of(self.limits.granule_bytes) && bytes <= self.limits.slab.bytes,
            "{bytes}"
        );
        let seen = &self.seen;
        let hook = seen.hook.lock().unwrap().0.take();
        hook.into_iter().for_each(|hook| hook());
        let call = seen.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let (from, to) = (seen.fail_from.load(Ordering::Relaxed), seen.fail_to.load(Ordering::Relaxed));
        let refuse_over = seen.refuse_over.load(Ordering::Relaxed);
        let memory = seen.memory.load(Ordering::Relaxed);
        let is_full = memory > 0 && self.reserved() + bytes > memory;
        if (from..=to).contains(&call) && from > 0 || (refuse_over > 0 && bytes > refuse_over) || is_full {
            assert!(seen.panics.load(Ordering::Relaxed) == 0, "call {call} panics, as the test wants");
            let kind = match seen.lost.load(Ordering::Relaxed) {
                0 => ErrorKind::OutOfMemory,
                1 => ErrorKind::DeviceLost,
                _ => ErrorKind::Device,
            };
            let error = Error::new(kind, format!("call {call} for {bytes} bytes fails, as the test wants"));
            let drops = seen.cause.lock().unwrap().0.clone();
            return Err(if drops.is_some() { error.with_source(Cause(drops)) } else { error });
        }
        std::thread::sleep(std::time::Duration::from_millis(seen.delay_ms.load(Ordering::Relaxed)));
        let slab = Host.create_slab(bytes)?;
        let reserved = seen.reserved.fetch_add(bytes, Ordering::SeqCst) + bytes;
        seen.peak.fetch_max(reserved, Ordering::SeqCst);
        Ok(WatchedSlab { slab, bytes, seen: Arc::clone(seen) })
    }

    fn is_touchable(&self) -> bool {
        self.seen.granule.load(Ordering::Relaxed) > 0
    }

    fn commit_granule_bytes(&self) -> Option<u64> {
        let granule = self.seen.granule.load(Ordering::Relaxed);
        (granule > 0).then_some(granule)
    }

    fn reserve_slab(&self, bytes: u64, pages: PageOptions) -> Result<WatchedSlab> {
        let refuse_over = self.seen.refuse_over.load(Ordering::Relaxed);
        if refuse_over > 0 && bytes > refuse_over {
            return Err(Error::new(ErrorKind::OutOfMemory, format!("{bytes} addresses are too many for the test")));
        }
        Ok(WatchedSlab { slab: Host.reserve_slab(bytes, pages)?, bytes: 0, seen: Arc::clone(&self.seen) })
    }

    fn commit(&self, slab: &WatchedSlab, span: SpanMut<'_>, touches: bool) -> Result<()> {
        let seen = &self.seen;
        let hook = seen.hook.lock().unwrap().0.take();
        hook.into_iter().for_each(|hook| hook());
        let call = seen.commits.fetch_add(1, Ordering::SeqCst) + 1;
        let from = seen.fail_commits_from.load(Ordering::Relaxed);
        let memory = seen.memory.load(Ordering::Relaxed);
        let is_full = memory > 0 && self.reserved() + span.bytes() > memory;
        if is_full || from > 0 && call >= from {
            assert!(seen.panics.load(Ordering::Relaxed) == 0, "commit {call} panics, as the test wants");
            let cause = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
            return Err(Error::new(ErrorKind::OutOfMemory, format!("commit {call} fails")).with_source(cause));
        }
        let bytes = span.bytes();
        Host.commit(&slab.slab, span, touches)?;
        seen.touched.store(if touches { bytes } else { 0 }, Ordering::SeqCst);
        let reserved = seen.reserved.fetch_add(bytes, Ordering::SeqCst) + bytes;
        seen.peak.fetch_max(reserved, Ordering::SeqCst);
        Ok(())
    }

    fn decommit(&self, slab: &WatchedSlab, span: SpanMut<'_>) -> Result<()> {
        let call = self.seen.decommits.fetch_add(1, Ordering::SeqCst) + 1;
        let from = self.seen.fail_decommits_from.load(Ordering::Relaxed);
        if from > 0 && call >= from {
            assert!(self.seen.panics.load(Ordering::Relaxed) == 0, "decommit {call} panics, as the test wants");
            return Err(Error::new(ErrorKind::Device, format!("decommit {call} fails")));
        }
        let bytes = span.bytes();
        Host.decommit(&slab.slab, span)?;
        self.seen.reserved.fetch_sub(bytes, Ordering::SeqCst);
        Ok(())
    }

    fn upload(&self, slab: &WatchedSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        self.seen.failing(&self.seen.fail_transfers)?;
        Host.upload(&slab.slab, span, at, bytes)
    }

    fn download(&self, slab: &WatchedSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.seen.failing(&self.seen.fail_transfers)?;
        Host.download(&slab.slab, span, at, bytes)
    }

    fn fill(&self, slab: &WatchedSlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
        self.seen.failing(&self.seen.fail_transfers)?;
        Host.fill(&slab.slab, span, len, pattern)
    }

    fn copy(&self, from: CopySrc<'_, WatchedSlab>, to: CopyDst<'_, WatchedSlab>, len: u64) -> Result<()> {
        self.seen.failing(&self.seen.fail_transfers)?;
        let (source, target) = (from.span.range(from.at, len)?, to.span.range(to.at, len)?);
        let is_one_slab = from.span.slab_serial() == to.span.slab_serial();
        assert!(!is_one_slab || source.end <= target.start || target.end <= source.start, "{source:?} to {target:?}");
        let call = self.seen.copies.fetch_add(1, Ordering::SeqCst) + 1;
        let (first, last) = (&self.seen.fail_copies_from, &self.seen.fail_copies_to);
        if (first.load(Ordering::Relaxed)..=last.load(Ordering::Relaxed)).contains(&call) {
            Host.fill(&to.slab.slab, to.span, len, &[0xee])?;
            return Err(Error::new(ErrorKind::Device, format!("copy {call} fails, as the test wants")));
        }
        let from = CopySrc { slab: &from.slab.slab, span: from.span, at: from.at };
        Host.copy(from, CopyDst { slab: &to.slab.slab, span: to.span, at: to.at }, len)
    }

    fn check(&self) -> Result<()> {
        self.seen.failing(&self.seen.fail_check)
    }

    fn open_staging(&self, _: u64) -> Result<u64> {
        self.seen.failing(&self.seen.fail_staging).map(|()| 0)
    }

    fn flush(&self) -> Result<()> {
        self.seen.flushes.fetch_add(1, Ordering::SeqCst);
        let bombs = self.seen.bombs.load(Ordering::SeqCst);
        if bombs > 0 {
            self.seen.bombs.store(bombs - 1, Ordering::SeqCst);
            std::panic::panic_any(Bomb);
        }
        Ok(())
    }

    fn recorded(&self) -> u64 {
        self.seen.recorded.load(Ordering::SeqCst)
    }

    fn completed(&self) -> u64 {
        match self.seen.slow.load(Ordering::SeqCst) {
            0 => u64::MAX,
            _ => self.seen.completed.load(Ordering::SeqCst),
        }
    }

    fn complete(&self, point: u64) -> Result<()> {
        self.seen.failing(&self.seen.fail_complete)?;
        self.seen.completed.fetch_max(point, Ordering::SeqCst);
        Ok(())
    }
}

impl HostMemory for Watched {
    fn bytes<'a>(&self, slab: &'a WatchedSlab, span: Span<'a>) -> Result<&'a [u8]> {
        Host.bytes(&slab.slab, span)
    }

    fn bytes_mut<'a>(&self, slab: &'a WatchedSlab, span: SpanMut<'a>) -> Result<&'a mut [u8]> {
        Host.bytes_mut(&slab.slab, span)
    }
}

pub fn open(backend: &Watched, config: Config) -> Pool<Watched> {
    Pool::with_backend(backend.clone(), &config).unwrap()
}

/// Checks every equation between the pool, its backend and the blocks.
pub fn check<B: Backend>(pool: &Pool<B>, reserved: u64, live: u64) {
    pool.check();
    let stats = pool.stats();
    let parts = stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
    assert_eq!(parts, stats.reserved_bytes, "{stats:?}");
    assert_eq!(stats.reserved_bytes, reserved, "{stats:?}");
    assert!(stats.reserved_bytes <= stats.budget_bytes, "{stats:?}");
    assert_eq!(stats.live_bytes, live, "{stats:?}");
    assert!(stats.live_peak_bytes >= live && stats.reserved_peak_bytes >= reserved);
}

/// What a failed call must leave as it was.
pub fn untouched(stats: &Stats) -> (u64, u64, u64, u64, u64) {
    (stats.live_bytes, stats.used_bytes, stats.blocks, stats.budget_bytes, stats.staging_bytes)
}
