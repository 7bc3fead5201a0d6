//! What a pool is opened with, and what a caller asks of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Budget, RequestLabel};
use crate::backend::PageOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::space::Placement;
use crate::units::ByteSize;

/// When a pool reserves slabs, and how large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlabPolicy {
    /// One slab that expands in place: a range of addresses, twice the budget unless [said otherwise](Config::address_times), that
    /// gets memory where blocks first need it. Only the memory counts against the budget.
    ///
    /// Memory comes and goes in granules: 1/1024 of the budget as a power of two, 4 KiB to 64 KiB, or one page or cut run of the slab
    /// where that is more. As long as the budget has some left, it comes before idle memory is reclaimed. Then requests get any place
    /// that has memory. Where there is none, spare memory goes back for them, as with [`Pool::trim`](crate::Pool::trim). So holes
    /// between blocks cost addresses; what they cost of the budget is granules that are used in part.
    ///
    /// Where the backend cannot do that, as a GPU, where the system refuses the addresses, and above 64 TiB, the pool is
    /// [`Growing`](SlabPolicy::Growing), and so it is with [`Config::lock`]. [`Pool::slab_policy`](crate::Pool::slab_policy) says
    /// which it is.
    #[default]
    Expanding,
    /// As needed: first 1/8 of the budget, then 1/4, then 1/2, or the request where that is larger.
    Growing,
    /// The whole budget less staging, when the pool is opened, in as few slabs as the device allows. After
    /// [`Pool::trim`](crate::Pool::trim) has given all of them back, the next request reserves it again.
    ///
    /// Where nothing is held, and a batch needs bytes that whole pages would waste, or a request would take some of the
    /// [reserve](Config::high_priority_reserve) with its last page, they get slabs of exactly their size. Those go back with the
    /// last block in them.
    Single,
    /// One slab of exactly its size for every block, given back when the block is: what a program without a pool does.
    /// The budget holds all the same. For measuring what pooling saves.
    PerBlock,
    /// As needed, slabs of so many bytes, or of the request where that is larger.
    Fixed(u64),
}

impl fmt::Display for SlabPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Expanding => "expanding",
            Self::Growing => "growing",
            Self::Single => "single",
            Self::PerBlock => "per-block",
            Self::Fixed(bytes) => return f.pad(&ByteSize(*bytes).to_string()),
        })
    }
}

impl FromStr for SlabPolicy {
    type Err = Error;

    /// A policy's name, or the size of [`Fixed`](SlabPolicy::Fixed).
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "expanding" => Ok(Self::Expanding),
            "growing" => Ok(Self::Growing),
            "single" => Ok(Self::Single),
            "per-block" => Ok(Self::PerBlock),
            _ => text.parse::<ByteSize>().map(|size| Self::Fixed(size.0)).map_err(|_| {
                let message =
                    format!("{text:?} is no slab policy (expanding, growing, single, per-block or a size are)");
                Error::new(ErrorKind::Invalid, message)
            }),
        }
    }
}

/// What the recorded training runs need: with more they need no less.
const ADDRESS_TIMES: u32 = 2;

/// How a pool is opened.
///
/// ```
/// use tensorpool::{Config, Placement, Pool, SlabPolicy};
///
/// let pool = Pool::host(Config::new("64 MiB").slabs(SlabPolicy::Single))?;
/// assert_eq!(pool.stats().reserved_bytes, 64 << 20);
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    budget: Budget,
    staging_bytes: Option<u64>,
    placement: Placement,
    page_bytes: Option<u64>,
    slabs: SlabPolicy,
    address_times: u32,
    reserve_bytes: u64,
    zero_on_free: bool,
    free_lists: bool,
    pages: PageOptions,
}

impl Config {
    /// A pool that never reserves more than `budget`: bytes, or text such as `"64 MiB"` or `"80%"`. What a percentage is of, says
    /// [`Budget`]. [`Pool::set_budget`](crate::Pool::set_budget) changes it later.
    pub fn new(budget: impl Into<Budget>) -> Self {
        Self {
            budget: budget.into(),
            staging_bytes: None,
            placement: Placement::default(),
            page_bytes: None,
            slabs: SlabPolicy::default(),
            address_times: ADDRESS_TIMES,
            reserve_bytes: 0,
            zero_on_free: false,
            free_lists: true,
            pages: PageOptions::default(),
        }
    }

    /// How large blocks are placed in their slab. [`Placement::Exact`] unless said otherwise.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the page size, in bytes: the unit in which requests above half a *cut run* are rounded up. A power of two, from the
    /// alignment of the backend's slabs, and 1/2^25 of the budget, to 1/64 of the budget and 65,536 times the alignment.
    ///
    /// Unless this is set, pages have 1 KiB (or four times the alignment) in slabs of up to 32 MiB, 1/32,768 of the slab up to
    /// 128 MiB, 4 KiB up to 128 GiB, and 1/2^25 of the slab above. A slab smaller than 64 pages of the chosen size gets smaller
    /// ones. Larger pages make allocations of many pages faster, and waste up to a page for each.
    ///
    /// Smaller requests get pieces of powers of two, out of cut runs. These keep their size where pages are chosen smaller, as
    /// long as that is at most 64 pages, and are one page where a page is larger: so larger pages also bring larger blocks into
    /// [free lists](Self::free_lists), up to 64 KiB.
    ///
    /// ```
    /// use tensorpool::{Config, Pool, Request};
    ///
    /// let pool = Pool::host(Config::new("64 MiB").page_bytes(64 << 10))?;
    /// assert_eq!(pool.alloc(Request::bytes(100_000))?.bytes_held(), 128 << 10);
    /// assert!(Pool::host(Config::new("64 MiB").page_bytes(1000)).is_err());
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    #[must_use]
    pub fn page_bytes(mut self, bytes: u64) -> Self {
        self.page_bytes = Some(bytes);
        self
    }

    /// When slabs are reserved. [`SlabPolicy::Expanding`] unless said otherwise.
    #[must_use]
    pub fn slabs(mut self, slabs: SlabPolicy) -> Self {
        self.slabs = slabs;
        self
    }

    /// How many times the budget an [expanding](SlabPolicy::Expanding) slab has in addresses. Twice unless said otherwise; 0 is as 1.
    ///
    /// With as many addresses as bytes the slab serves what a slab of the whole budget serves. With more, a request that finds no
    /// free run takes fresh addresses, and memory between other blocks goes back for it. In a slab of more addresses pages are larger,
    /// and granules with them. So a budget that would have less than 64 granules gets fewer addresses, at least one for each byte.
    #[must_use]
    pub fn address_times(mut self, times: u32) -> Self {
        self.address_times = times;
        self
    }

    pub(super) fn address_times_chosen(&self) -> u32 {
        self.address_times
    }

    /// Bytes of the budget for moving data to and from the device, both ways together. By default what the backend
    /// finds right: nothing on the host. On a GPU 1/64 of the budget, at least 256 KiB and at most 16 MiB, but no more than 1/16 of the
    /// budget.
    #[must_use]
    pub fn staging(mut self, bytes: u64) -> Self {
        self.staging_bytes = Some(bytes);
        self
    }

    /// Bytes of the budget that only requests of [`Priority::High`] may use. None unless said otherwise.
    ///
    /// What such requests hold counts: the others may have all of the budget but the part of the reserve that is not in use.
    /// What they hold in the arena of planned steps does not count. A waiter that is served first of all, because it has waited
    /// long, does not close the reserve.
    #[must_use]
    pub fn high_priority_reserve(mut self, bytes: u64) -> Self {
        self.reserve_bytes = bytes;
        self
    }

    /// Zeroes every block when it is freed, and what it leaves when it [shrinks](crate::Block::shrink), for pools that several tenants
    /// share: no tenant sees what another left, whether or not they ask for [zeroed](Request::zeroed) blocks. Costs a pass over
    /// the memory for each block.
    ///
    /// A block that is held, or freed while a thread records work for the device, is zeroed when that is over. It counts as
    /// retired until then. Freeing it does not wait for that thread; an allocation that would fail otherwise does, unless it
    /// [waits](Request::wait) in line.
    #[must_use]
    pub fn zero_on_free(mut self, zeroes: bool) -> Self {
        self.zero_on_free = zeroes;
        self
    }

    /// Touches every page when it is reserved, for host memory: a slab's when the slab is made, those of an
    /// [expanding](SlabPolicy::Expanding) one when they are committed. Not done unless asked for.
    ///
    /// An operating system gives pages when they are touched first, and often promises more than it has. Linux then kills a process,
    /// this one or another, in the middle of its work. With this option the memory is there before a block is handed out.
    /// With [`SlabPolicy::Single`] it is there before the pool is.
    ///
    /// A pool whose budget is more than the machine has ([`Backend::memory_bytes`](crate::Backend::memory_bytes)) is not opened:
    /// an error of [`ErrorKind::OutOfMemory`] has both figures. Without this option that is a warning in the log, for a budget
    /// above 16 MiB. Nothing is compared where the machine's memory is not known. What the process's cgroup already has in use is not
    /// subtracted from its limit, and memory that others take later is not counted: leave room for both, or Linux may still kill.
    ///
    /// Memory of a GPU comes from its driver, and not page by page. There this option is an error, as on every backend that is not
    /// [touchable](crate::Backend::is_touchable).
    #[must_use]
    pub fn touch(mut self, touches: bool) -> Self {
        self.pages.touch = touches;
        self
    }

    /// Locks every slab in RAM when it is made, so that no page of it is ever swapped out. Locked pages are touched too: all that
    /// [`touch`](Self::touch) says holds. Not done unless asked for.
    ///
    /// Where the system refuses to lock a slab, that slab is given back, and nothing of it stays locked or reserved. The pool then
    /// tries smaller slabs, down to the size of the request. Where all are refused, the request fails with
    /// [`ErrorKind::OutOfMemory`]; its [cause](crate::Error::cause) has the limit, which is `RLIMIT_MEMLOCK` on Unix. A pool of
    /// [`SlabPolicy::Single`] is not opened at all. Windows and WebAssembly do not lock: there every slab is refused.
    #[must_use]
    pub fn lock(mut self, locks: bool) -> Self {
        self.pages.lock = locks;
        self
    }

    /// Lets the system use huge pages for slabs, 2 MiB on most: fewer page faults, and fewer misses of the processor's table of pages.
    /// Not done unless asked for.
    ///
    /// An [expanding](SlabPolicy::Expanding) slab then commits whole huge pages, so that no page brings more memory than is counted. It
    /// is for budgets of many huge pages: below 128 of them the slab has as many addresses as the budget has bytes, and what blocks
    /// use of each huge page in part costs more.
    ///
    /// On Linux this is `madvise`, and a wish: the kernel may have no free huge page, and then gives small ones. A pool is not opened
    /// (an error of [`ErrorKind::Invalid`]) where the system says that there are none
    /// ([`Backend::huge_page_bytes`](crate::Backend::huge_page_bytes)), as on other systems and on a GPU.
    #[must_use]
    pub fn huge_pages(mut self, has_huge_pages: bool) -> Self {
        self.pages.huge = has_huge_pages;
        self
    }

    /// Returns the budget as it was given. [`Pool::budget_bytes`](crate::Pool::budget_bytes) has the bytes that came of it, or of a later
    /// one.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns how the pages of slabs are to be: those that are locked are touched too.
    pub(super) fn pages(&self) -> PageOptions {
        PageOptions { touch: self.pages.touch || self.pages.lock, ..self.pages }
    }

    pub(super) fn staging_bytes(&self) -> Option<u64> {
        self.staging_bytes
    }

    pub(super) fn placement_chosen(&self) -> Placement {
        self.placement
    }

    pub(super) fn page_bytes_chosen(&self) -> Option<u64> {
        self.page_bytes
    }

    pub(super) fn slabs_chosen(&self) -> SlabPolicy {
        self.slabs
    }

    /// Whether small blocks that were freed wait in free lists of the CPUs, where they go out again without a lock. They do
    /// unless said otherwise.
    ///
    /// Out of lists small blocks come as they went in, and not where they leave most pages whole: a budget that was enough
    /// for some steps of a program may be a page short for later ones. Without lists a step that repeats finds the same
    /// places again. So a program that wants the smallest budget it can have does without, as the training example does.
    #[must_use]
    pub fn free_lists(mut self, has_lists: bool) -> Self {
        self.free_lists = has_lists;
        self
    }

    pub(super) fn has_free_lists(&self) -> bool {
        self.free_lists
    }

    pub(super) fn zeroes_on_free(&self) -> bool {
        self.zero_on_free
    }

    pub(super) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }
}

/// Who goes first when memory is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// After all others.
    Low,
    /// As most are.
    #[default]
    Normal,
    /// Before all others; may use the pool's [reserve](Config::high_priority_reserve).
    High,
}

/// What a pool may do for a request when no idle memory fits; all of them, in this order, unless the request
/// [says otherwise](Request::without). An [expanding](SlabPolicy::Expanding) slab commits what the budget has left first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fallback {
    /// Hand out a larger block that is idle, whole, within the request's bound of [waste](Request::waste).
    Oversized,
    /// Take home what is idle, so that it can be carved anew.
    Reclaim,
    /// Reserve another slab, or commit memory in an [expanding](SlabPolicy::Expanding) one.
    Grow,
    /// Give empty slabs, or spare memory of an expanding one, back to the device, waiting until it is done with them, and grow with
    /// their bytes.
    ReturnEmpty,
}

/// What a caller asks of a pool.
///
/// ```
/// use tensorpool::{Config, Pool, Request};
///
/// let pool = Pool::host(Config::new("1 MiB"))?;
/// let block = pool.alloc(Request::bytes(5000).label("workspace"))?;
/// assert_eq!((block.bytes(), block.bytes_held()), (5000, 5120));
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'l> {
    pub(super) bytes: u64,
    pub(super) align_bytes: u64,
    pub(super) label: RequestLabel<'l>,
    pub(super) zeroed: bool,
    pub(super) priority: Priority,
    pub(super) wait: Option<Duration>,
    waste_bytes: Option<u64>,
    without: [bool; 4],
    /// Of no caller, and so not counted: the pool divides it itself.
    pub(super) for_the_pool: bool,
}

impl<'l> Request<'l> {
    /// A block of at least this many bytes. Zero bytes takes nothing and always succeeds.
    pub fn bytes(bytes: u64) -> Self {
        Self {
            bytes,
            align_bytes: 1,
            label: RequestLabel::NONE,
            zeroed: false,
            priority: Priority::default(),
            wait: None,
            waste_bytes: None,
            without: [false; 4],
            for_the_pool: false,
        }
    }

    /// The same request, which borrows no label.
    pub(super) fn into_static(self) -> Request<'static> {
        Request { label: self.label.into_static(), ..self }
    }

    #[must_use]
    pub(super) fn for_the_pool(mut self) -> Self {
        self.for_the_pool = true;
        self
    }

    /// The block starts at a multiple of this: a power of two, at most
    /// [`alignment_bytes_max`](crate::backend::Limits::alignment_bytes_max), which is 2 MiB. On the host that is so of its address, on a
    /// GPU of its offset in its buffer.
    ///
    /// Every block starts at a multiple of [`alignment_bytes`](crate::backend::Limits::alignment_bytes) anyway: 64 bytes on the host,
    /// `min_storage_buffer_offset_alignment` on a GPU. Above that, and up to the page size, a block holds at least as many bytes as its
    /// alignment has. Above the page size it has just the pages that it needs, at a multiple; those that are skipped stay free.
    /// Such a request is served from the slabs, never from free lists or by a plan of steps. Where free memory has no such place, it fails
    /// as [fragmented](ErrorKind::Fragmented). A batch that needs more multiples than an [expanding](SlabPolicy::Expanding) slab has is
    /// [over the budget](ErrorKind::OverBudget).
    ///
    /// ```
    /// use tensorpool::{Config, Pool, Request};
    ///
    /// let pool = Pool::host(Config::new("16 MiB"))?;
    /// let huge = pool.alloc(Request::bytes(10_000).align(2 << 20))?;
    /// assert_eq!(huge.bytes_held(), 10 << 10);
    /// assert_eq!(pool.stats().used_bytes, 10 << 10); // what was skipped is free
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    #[must_use]
    pub fn align(mut self, align_bytes: u64) -> Self {
        self.align_bytes = align_bytes;
        self
    }

    /// A name for statistics, errors and leaks: a text, or a [`Label`](crate::Label) from [`Pool::label`](crate::Pool::label), which
    /// costs least where many requests have it. Blocks of one label are counted together. Empty is no label.
    #[must_use]
    pub fn label(mut self, label: impl Into<RequestLabel<'l>>) -> Self {
        self.label = label.into();
        self
    }

    /// The bytes asked for are zero when the block is handed out. Without this they are whatever the last owner left.
    #[must_use]
    pub fn zeroed(mut self) -> Self {
        self.zeroed = true;
        self
    }

    /// Who goes first among those who wait, and who may use the pool's reserve. [`Priority::Normal`] unless said
    /// otherwise.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Where there is no room, wait in line for so long until there is. Without this such a request fails at once, and so
    /// does, with it, one that can never be served, also where that is so since the budget was
    /// [lowered](crate::Pool::set_budget). What waits can be served once everything is freed, by a pool that may
    /// [grow](Fallback::Grow) and [give slabs back](Fallback::ReturnEmpty).
    ///
    /// Who waits is served by priority, then by arrival. Requests that came later, in line or not, are served before one
    /// that needs more than there is at most 16 times; then everybody waits for it.
    ///
    /// The time starts when the request joins the line. Before that the request waits for every thread that is inside
    /// [`create_slab`](crate::Backend::create_slab), and may have slabs created itself. A thread that waits may create or drop a
    /// slab for the line, and so may the pool's own thread, which ends futures: either ends late by that time.
    ///
    /// Waiting submits the pool's stream: memory that recorded work still uses would not come back otherwise. A waiter fails at
    /// once if the device is lost, or reports an error when it is to create a slab for it. If the backend has no memory, the
    /// waiter stays in line: the backend is asked again, and its words are the [cause](crate::Error::cause) of the timeout.
    ///
    /// In a pool that [zeroes what is freed](Config::zero_on_free), a thread that records the stream cannot wait: nothing is
    /// zeroed before it has ended. There [`Pool::alloc`](crate::Pool::alloc) fails at once with [`ErrorKind::Recording`]. A future
    /// that is polled there waits; to block the thread on it is in vain until its deadline.
    #[must_use]
    pub fn wait(mut self, longest: Duration) -> Self {
        self.wait = Some(longest);
        self
    }

    /// The pool must not do this for the request: it waits or fails instead.
    #[must_use]
    pub fn without(mut self, fallback: Fallback) -> Self {
        self.without[fallback as usize] = true;
        self
    }

    /// How many bytes more than asked for a [larger](Fallback::Oversized) block may have. As many as were asked for
    /// unless said otherwise.
    #[must_use]
    pub fn waste(mut self, most_bytes: u64) -> Self {
        self.waste_bytes = Some(most_bytes);
        self
    }

    /// Returns whether it wants more than the alignment that every block has.
    #[inline]
    pub(super) fn is_aligned(&self, alignment_bytes: u64) -> bool {
        self.align_bytes > alignment_bytes
    }

    pub(super) fn waste_bytes(&self) -> u64 {
        self.waste_bytes.unwrap_or(self.bytes)
    }

    pub(super) fn may(&self, fallback: Fallback) -> bool {
        !self.without[fallback as usize]
    }
}

impl Default for Request<'_> {
    /// A block of zero bytes.
    fn default() -> Self {
        Self::bytes(0)
    }
}
