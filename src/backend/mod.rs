//! Where slabs come from: the [`Backend`] trait, and the backends [`Host`], `Gpu` and [`Virtual`].
//!
//! A backend gives out whole slabs and moves bytes in and out of them. It knows nothing of blocks: the pool carves a slab
//! and shows the backend only [`Span`]s, byte ranges that no two blocks share. Work may be *recorded* and carried out
//! later, as a GPU does: a backend numbers what it has recorded with a [`Point`] and says up to which point it is done.
//!
//! ```text
//!    pool ── create_slab(bytes) ─────────────► Slab            (dropping it gives the memory back)
//!         ── upload / download / fill / copy ► Slab + Span
//!         ── recorded() → Point, completed() → Point, complete(Point)
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::units::exact;

#[cfg(feature = "gpu")]
pub mod gpu;
#[allow(unsafe_code, reason = "see there")]
mod host;
mod machine;
mod virtual_memory;

#[cfg(feature = "gpu")]
pub use gpu::{Encoder, Gpu, GpuSlab, GpuStats};
pub use host::{Host, HostSlab};
pub use virtual_memory::{Virtual, VirtualSlab};

/// A place in the order of a backend's work: everything recorded before the call that returned it.
///
/// Points only grow. 0 is the beginning, which has always passed.
pub type Point = u64;

/// A limit of a backend and the name under which its users know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The most bytes.
    pub bytes: u64,
    /// What the device calls it, for example `max_buffer_size`.
    pub name: &'static str,
}

/// The largest alignment of our backends: a huge page of most systems.
pub(crate) const ALIGNMENT_BYTES_MAX: u64 = 2 << 20;

/// What a backend can do; constant for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Every slab starts at a multiple of this, and so does every block inside it. A power of two; also the size of the
    /// smallest piece.
    pub alignment_bytes: u64,
    /// The largest alignment that a [request](crate::Request::align) can have: every slab starts at a multiple of this too,
    /// unless no program can see where a slab starts. A power of two.
    pub alignment_bytes_max: u64,
    /// A slab's size is a multiple of this. A power of two, at most `alignment_bytes`.
    pub granule_bytes: u64,
    /// The largest slab.
    pub slab: Limit,
    /// The largest block: a tensor must fit in one binding.
    pub block: Limit,
}

/// How the pages of a slab are to be, as [`Config`](crate::Config) wants them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PageOptions {
    /// Every page is touched, so that the memory is there.
    pub touch: bool,
    /// The pages stay in RAM until the slab is dropped. Pages that are locked are touched too.
    pub lock: bool,
    /// The system may use huge pages.
    pub huge: bool,
}

/// Memory of one kind, given out in slabs.
///
/// Implement it to put the pool on another device (CUDA, a DSP's memory) or to watch or disturb one in a test. The
/// contract:
///
/// - [`create_slab`](Backend::create_slab) gives memory that no other slab overlaps, and dropping the slab gives it
///   back at once. It may be called from many threads, and while other calls are under way.
/// - Calls on a [`Span`] concern only its bytes of that slab. Their order is the order of the calls on one thread, and
///   of the program's own synchronisation between threads.
/// - The work of a call may be recorded and done later. Then [`recorded`](Backend::recorded) grows, and the pool gives
///   memory back to the system only when [`completed`](Backend::completed) has reached that point. Memory may go from
///   one block to another at once: later recorded work must happen after earlier recorded work.
/// - A call that fails leaves the memory it was to write with undefined contents, and everything else as it was.
///
/// The provided methods suit a backend that does everything at once and needs no staging.
///
/// # Calling the pool
///
/// A backend may keep a handle of its pool, and call the pool from its methods:
///
/// | from | what may be called |
/// | --- | --- |
/// | [`limits`](Backend::limits), [`huge_page_bytes`](Backend::huge_page_bytes), [`commit_granule_bytes`](Backend::commit_granule_bytes), [`reserve_slab`](Backend::reserve_slab), [`staging_bytes_default`](Backend::staging_bytes_default), [`open_staging`](Backend::open_staging) | nothing: there is no pool yet |
/// | [`recorded`](Backend::recorded) | nothing: the pool's lock is held, and the call would hang |
/// | [`create_slab`](Backend::create_slab), [`create_slab_with`](Backend::create_slab_with), [`commit`](Backend::commit) | everything; an allocation that needs a slab, or memory for one, and a new budget, fail at once, as [`ErrorKind::Invalid`] |
/// | the drop of a slab, [`decommit`](Backend::decommit) | everything; its bytes count as reserved until that has ended |
/// | all others | everything; the pool has no lock then |
///
/// Two duties remain. No method waits for memory, or for another thread that is inside a call of the same pool: that thread
/// may be waiting for this one. And the pool's calls make calls of the backend: [`check`](Backend::check) in every
/// allocation, [`completed`](Backend::completed) in most others. A method that allocates in turn must end that recursion.
///
/// # Panics
///
/// A panic goes on to the caller of the pool, and no memory is lost by it. In a drop, and where memory without an owner is zeroed
/// or given back, there is no caller to tell. There the pool catches the panic, and tries again in a later call.
pub trait Backend: Send + Sync + 'static {
    /// One large buffer. Dropping it gives the memory back. The drop must not wait for other threads: one may be waiting for just
    /// this memory.
    type Slab: Send + Sync + 'static;

    /// Which memory this is, for people: `host`, or the adapter's name.
    fn name(&self) -> &str;

    /// What this backend can do. The pool asks once, when it is opened.
    fn limits(&self) -> Limits;

    /// Reserves `bytes` bytes: more than 0, a multiple of the granule, at most the slab limit.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when the system or the device refuses (the pool then tries a smaller slab, or fails),
    /// [`ErrorKind::TooLarge`] over a limit, [`ErrorKind::DeviceLost`], [`ErrorKind::Device`] for anything else.
    fn create_slab(&self, bytes: u64) -> Result<Self::Slab>;

    /// Returns whether [`create_slab_with`](Backend::create_slab_with) touches and locks: whether the system gives this memory page by
    /// page, when a page is touched first.
    fn is_touchable(&self) -> bool {
        false
    }

    /// Returns the bytes of a huge page: a power of two.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with the reason, where there are none.
    fn huge_page_bytes(&self) -> Result<u64> {
        Err(Error::new(ErrorKind::Invalid, format!("memory of {} has no huge pages", self.name())))
    }

    /// Reserves `bytes` bytes as [`create_slab`](Backend::create_slab) does, with such pages. A pool with
    /// [`Config::touch`](crate::Config::touch), [`Config::lock`](crate::Config::lock) or
    /// [`Config::huge_pages`](crate::Config::huge_pages) calls this instead.
    ///
    /// # Errors
    /// As `create_slab`. [`ErrorKind::OutOfMemory`] where the system does not lock: then nothing stays reserved or locked.
    /// [`ErrorKind::Invalid`] from a backend that is not [touchable](Backend::is_touchable), or has no
    /// [huge pages](Backend::huge_page_bytes), if the options want that.
    fn create_slab_with(&self, bytes: u64, pages: PageOptions) -> Result<Self::Slab> {
        let _ = (bytes, pages);
        Err(Error::new(ErrorKind::Invalid, format!("pages of {} cannot be touched, locked or huge", self.name())))
    }

    /// Returns how finely memory comes and goes in a slab from [`reserve_slab`](Backend::reserve_slab): a power of two of bytes. `None`
    /// where a slab has all its memory as long as it is there. Then a pool never calls the three methods that follow.
    fn commit_granule_bytes(&self) -> Option<u64> {
        None
    }

    /// Reserves `bytes` bytes of addresses, without memory behind them, for [`SlabPolicy::Expanding`](crate::SlabPolicy::Expanding). At
    /// most the slab limit. The addresses are in no budget. Of the options only that of huge pages is for this call; then the pool
    /// commits whole huge pages. Otherwise no huge page may bring more memory than is committed.
    ///
    /// # Errors
    /// As [`create_slab`](Backend::create_slab). A pool that cannot reserve them has whole slabs instead.
    fn reserve_slab(&self, bytes: u64, pages: PageOptions) -> Result<Self::Slab> {
        let _ = pages;
        self.create_slab(bytes)
    }

    /// Commits memory for a span of a reserved slab that has none: whole granules, but for a last one that the slab ends in. With
    /// `touches` every page is touched, so that the memory is there. The pool makes these calls one at a time, and hands the bytes out
    /// when one has returned.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when the system refuses; [`ErrorKind::DeviceLost`], [`ErrorKind::Device`] for anything else. Then
    /// the span has no memory, and nothing else has changed.
    fn commit(&self, slab: &Self::Slab, span: SpanMut<'_>, touches: bool) -> Result<()> {
        let _ = (slab, span, touches);
        Ok(())
    }

    /// Gives the memory of a committed span back, and keeps the addresses. The device has done all work that used it.
    ///
    /// # Errors
    /// What the system reports. Then the span counts as committed, and its memory is used again.
    fn decommit(&self, slab: &Self::Slab, span: SpanMut<'_>) -> Result<()> {
        let _ = (slab, span);
        Ok(())
    }

    /// Returns how many bytes of this memory a new pool can count on at the moment, or a pool that is to have a larger budget beside
    /// what it has reserved. A [budget](crate::Budget) in percent is a share
    /// of them. A pool with a larger budget, above 16 MiB, logs a warning, or is not opened if it [touches](crate::Config::touch) its
    /// slabs.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with the reason, where that is not known; [`ErrorKind::DeviceLost`].
    fn memory_bytes(&self) -> Result<u64> {
        Err(Error::new(ErrorKind::Invalid, format!("{} does not tell how much memory it has", self.name())))
    }

    /// Writes `bytes` at `at` bytes into the span.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if they reach past its end; whatever the device reports.
    fn upload(&self, slab: &Self::Slab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()>;

    /// Reads into `bytes` from `at` bytes into the span, after all work recorded before.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if that reaches past its end; whatever the device reports.
    fn download(&self, slab: &Self::Slab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()>;

    /// Repeats `pattern` over the `len` bytes from the span's start; the last repetition may be cut.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if the span is shorter than `len`; [`ErrorKind::Invalid`] for an empty pattern or one whose
    /// length the device cannot repeat; whatever the device reports.
    fn fill(&self, slab: &Self::Slab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()>;

    /// Zeroes the first `len` bytes of the span, unless that has to wait for another thread. Returns whether it did.
    ///
    /// For memory without an owner. A drop calls it, and so does a thread that looks for memory: the thread that has the
    /// device's stream may be waiting for either. Memory that was not zeroed stays retired, and is tried again later.
    ///
    /// # Errors
    /// As [`fill`](Backend::fill).
    fn zero_if_free(&self, slab: &Self::Slab, span: SpanMut<'_>, len: u64) -> Result<bool> {
        self.fill(slab, span, len, &[0]).map(|()| true)
    }

    /// Returns whether this thread is recording work, and keeps all other threads from recording until that has ended.
    ///
    /// Asked before a thread waits for memory in a pool that [zeroes what is freed](crate::Config::zero_on_free). What any thread
    /// frees meanwhile cannot be zeroed, so the request fails with [`ErrorKind::Recording`] at once.
    fn is_recording(&self) -> bool {
        false
    }

    /// Copies `len` bytes from one span to another, in one slab or between two.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if either reaches past its end; whatever the device reports.
    fn copy(&self, from: CopySrc<'_, Self::Slab>, to: CopyDst<'_, Self::Slab>, len: u64) -> Result<()>;

    /// Whether the device is still there; asked before every allocation, so it should cost next to nothing.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceLost`] once it is lost.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The staging that suits a pool with this budget, in bytes. 0 where none is needed.
    fn staging_bytes_default(&self, budget_bytes: u64) -> u64 {
        let _ = budget_bytes;
        0
    }

    /// Reserves the staging ring, at most `bytes`, and returns what it took. The pool calls this once, when it is opened, and
    /// counts what it returns.
    ///
    /// # Errors
    /// As [`create_slab`](Backend::create_slab). [`ErrorKind::Invalid`] for a second call, from a backend that has reserved
    /// something: no budget would know of more.
    fn open_staging(&self, bytes: u64) -> Result<u64> {
        let _ = bytes;
        Ok(0)
    }

    /// Returns the point after everything recorded so far. Asked with the pool's lock held: it must neither wait for anything nor
    /// call the pool.
    fn recorded(&self) -> Point {
        0
    }

    /// The last point whose work is done. Does not wait.
    fn completed(&self) -> Point {
        Point::MAX
    }

    /// Sends recorded work to the device without waiting for it to be done. Asked by those who wait for memory, again and
    /// again, so it should do nothing when nothing was recorded.
    ///
    /// # Errors
    /// As [`complete`](Backend::complete).
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Starts the recorded work if need be and waits until `point` has passed.
    ///
    /// # Errors
    /// [`ErrorKind::Recording`] if this thread is recording that very work; whatever the device reports.
    fn complete(&self, point: Point) -> Result<()> {
        let _ = point;
        Ok(())
    }
}

/// A backend whose memory the processor can address: what ndarray views need.
pub trait HostMemory: Backend {
    /// The span's bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] if the span is not one of this slab.
    fn bytes<'a>(&self, slab: &'a Self::Slab, span: Span<'a>) -> Result<&'a [u8]>;

    /// The span's bytes, to write.
    ///
    /// # Errors
    /// As [`bytes`](HostMemory::bytes).
    fn bytes_mut<'a>(&self, slab: &'a Self::Slab, span: SpanMut<'a>) -> Result<&'a mut [u8]>;
}

/// A range of one slab's bytes that is borrowed to be read: no [`SpanMut`] meets it.
///
/// Only a pool makes spans.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    range: SlabRange,
    block: PhantomData<&'a ()>,
}

/// A range of one slab's bytes that is borrowed to be written: no other span meets it as long as it lives.
///
/// It has no copies, which makes writing to memory through a shared slab sound.
#[derive(Debug)]
pub struct SpanMut<'a> {
    range: SlabRange,
    block: PhantomData<&'a mut ()>,
}

/// Where a span is.
#[derive(Clone, Copy, Debug)]
struct SlabRange {
    slab_serial: u64,
    offset: u64,
    bytes: u64,
}

impl SlabRange {
    fn range(self, at: u64, len: u64) -> Result<Range<u64>> {
        match at.checked_add(len) {
            Some(end) if end <= self.bytes => Ok(self.offset + at..self.offset + end),
            _ => Err(Error::new(
                ErrorKind::Shape,
                format!("{} from byte {at} reach past the end of a block of {}", exact(len), exact(self.bytes)),
            )),
        }
    }
}

impl<'a> Span<'a> {
    /// The caller vouches that no `SpanMut` meets `[offset, offset + bytes)` of the slab with this serial number in `'a`.
    #[inline]
    pub(crate) fn new(slab_serial: u64, offset: u64, bytes: u64) -> Self {
        Self { range: SlabRange { slab_serial, offset, bytes }, block: PhantomData }
    }
}

impl<'a> SpanMut<'a> {
    /// The caller vouches that no other span meets `[offset, offset + bytes)` of the slab with this serial number in `'a`.
    #[inline]
    pub(crate) fn new(slab_serial: u64, offset: u64, bytes: u64) -> Self {
        Self { range: SlabRange { slab_serial, offset, bytes }, block: PhantomData }
    }

    /// Borrows the span to read.
    #[inline]
    pub fn as_span(&self) -> Span<'_> {
        Span { range: self.range, block: PhantomData }
    }

    /// Borrows the span to write: for a backend that hands it on more than once.
    #[inline]
    pub fn reborrow(&mut self) -> SpanMut<'_> {
        SpanMut { range: self.range, block: PhantomData }
    }
}

/// What both kinds tell.
macro_rules! tells_its_range {
    ($span:ident) => {
        impl $span<'_> {
            /// The number of the slab, never used twice in a process.
            #[inline]
            pub fn slab_serial(&self) -> u64 {
                self.range.slab_serial
            }

            /// Where the span starts in its slab, in bytes.
            #[inline]
            pub fn offset(&self) -> u64 {
                self.range.offset
            }

            /// How long it is, in bytes.
            #[inline]
            pub fn bytes(&self) -> u64 {
                self.range.bytes
            }

            /// The slab's bytes from `at` in this span, `len` of them.
            ///
            /// # Errors
            /// [`ErrorKind::Shape`] with the numbers if that reaches past the span's end.
            pub fn range(&self, at: u64, len: u64) -> Result<Range<u64>> {
                self.range.range(at, len)
            }
        }
    };
}
tells_its_range!(Span);
tells_its_range!(SpanMut);

/// Where a copy reads: `at` bytes into a span of a slab.
#[derive(Debug)]
pub struct CopySrc<'a, S> {
    /// The slab.
    pub slab: &'a S,
    /// The range of it.
    pub span: Span<'a>,
    /// Bytes into the range.
    pub at: u64,
}

/// Where a copy writes.
#[derive(Debug)]
pub struct CopyDst<'a, S> {
    /// The slab.
    pub slab: &'a S,
    /// The range of it.
    pub span: SpanMut<'a>,
    /// Bytes into the range.
    pub at: u64,
}

/// Refuses a slab over the limit, for backends.
pub(crate) fn check_slab_bytes(bytes: u64, limits: &Limits) -> Result<()> {
    if bytes <= limits.slab.bytes {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        format!("a slab of {} is over {} = {}", exact(bytes), limits.slab.name, exact(limits.slab.bytes)),
    ))
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, exact(self.bytes))
    }
}
