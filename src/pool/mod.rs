//! The pool: slabs inside a budget, carved into blocks.
//!
//! ```text
//!   Pool ─┐                     ┌─ Space (which pages and pieces are free)
//!   Pool ─┼─► Shared ─► State ──┤
//!   Block ┘     │       (lock)  └─ Slab  (the backend's buffer)
//!               └─► Backend
//! ```
//!
//! [`Pool`] is a cheap handle; a [`Block`] gives its bytes home when it is dropped, whether or not a handle is left. What
//! happens on [`Pool::alloc`], step by step, stands in [`alloc`].

mod admit;
mod alloc;
mod block;
mod books;
mod budget;
mod compact;
mod config;
mod emptied;
mod expand;
mod grow;
mod idle;
mod labels;
mod line;
#[cfg(all(test, loom))]
mod models;
mod planned;
mod prewarm;
mod record;
mod set_budget;
mod shards;
mod shortage;
mod sizes;
mod state;
mod stats;
mod tables;
mod wait;
mod watch;
mod zero;

use std::fmt;

pub use self::block::{Block, Hold};
use self::block::{Descriptor, HoldTable};
pub use self::budget::Budget;
pub(crate) use self::compact::Lend;
pub use self::compact::{Compaction, Movable};
pub use self::config::{Config, Fallback, Priority, Request, SlabPolicy};
use self::expand::reserve_range;
pub use self::labels::{Label, RequestLabel};
use self::labels::{LabelCount, LabelId, LabelKey, Labels};
pub use self::planned::{Deviation, PlanReport, PlannedSteps};
#[cfg_attr(not(feature = "trace"), allow(unused_imports, reason = "only traces are made of records"))]
pub(crate) use self::record::{PoolEvent, Room, Sink};
use self::shards::{Classes, RunSizes, Shards};
use self::sizes::SlabSizes;
use self::state::{Opening, Slab, State, StateOf};
pub use self::stats::Stats;
pub use self::wait::AllocFuture;
use crate::backend::{Backend, Limit, Limits, PageOptions};
use crate::error::{Error, ErrorKind, Holder, Result};
use crate::space::{Placement, SLAB_BYTES_MAX};
use crate::sync::{
    Arc, AtomicBool, AtomicUsize, Condvar, FairMutex, Mutex, MutexGuard, Ordering, OwnedLock, Weak, caught, lock,
};
use crate::units::{exact, round_down};

/// A memory pool on one backend, inside a hard budget.
///
/// Clones are handles of the same pool; they may be used from any thread. When the last handle goes while blocks are
/// still held, their labels are logged as a warning (crate `log`), and their memory stays until they are dropped too.
///
/// The drop of the last handle or block, whichever goes last, waits until the device has done the work that was recorded, and
/// gives all slabs back. If the pool's own thread is looking after a request at that very moment, that thread does it, and the
/// memory goes a moment later. No other drop waits for the device, nor for a thread that may be in the caller's code.
pub struct Pool<B: Backend> {
    front: Arc<Front<B>>,
}

/// What the handles of a pool share: gone when they are.
struct Front<B: Backend> {
    shared: Arc<Shared<B>>,
}

/// What all handles and blocks of a pool share.
pub(crate) struct Shared<B: Backend> {
    /// Before the backend that its slabs are of.
    state: FairMutex<StateOf<B>>,
    shards: &'static Shards<B>,
    classes: Classes,
    run_sizes: RunSizes,
    backend: B,
    limits: Limits,
    staging_bytes: u64,
    reserve_bytes: u64,
    sizes: SlabSizes,
    policy: SlabPolicy,
    placement: Placement,
    zero_on_free: bool,
    pages: PageOptions,
    labels: Labels,
    /// Blocks that [`Pool::compact`] cannot move, whatever it is lent: held ones.
    kept_blocks: Arc<AtomicUsize>,
    holds: HoldTable,
    /// Blocks of zero bytes, which the books do not know.
    empty_blocks: AtomicUsize,
    front: Mutex<Weak<Front<B>>>,
    /// Held while a slab is created, so that two threads do not both grow for want of the same room. Never held while
    /// waiting for the device. The backend's `create_slab` runs with it held, and may call the pool.
    growth: OwnedLock,
    /// The thread that has that lock serves the line once it is free.
    serves_after_growth: AtomicBool,
    /// Told when the memory of leaving slabs is gone, and when a thread has zeroed what was dirty.
    gone: Condvar,
    watch: watch::Watch,
    /// Told when a thread has written events of the record, and when the record ends.
    recorded: Condvar,
}

impl<B: Backend> Front<B> {
    /// The front of a pool, whether or not it has one already.
    fn of(shared: &Arc<Shared<B>>) -> Arc<Self> {
        let mut front = lock(&shared.front);
        front.upgrade().unwrap_or_else(|| {
            shared.state().set_orphaned(false);
            let new = Arc::new(Self { shared: Arc::clone(shared) });
            *front = Arc::downgrade(&new);
            new
        })
    }
}

impl<B: Backend> Drop for Front<B> {
    fn drop(&mut self) {
        let is_closed = {
            let front = lock(&self.shared.front);
            if front.strong_count() > 0 {
                // A block has given out a new handle since.
                return;
            }
            let mut state = self.shared.state();
            state.set_orphaned(true);
            state.is_closed()
        };
        // What is in a free list keeps the pool alive. There is no arena: planned steps keep a handle.
        self.shared.empty_lists();
        if is_closed {
            return;
        }
        let holders = self.shared.holders();
        // A block may have given out a new handle since. The log is called without a lock, so one may come even now.
        if lock(&self.shared.front).strong_count() == 0 {
            caught(|| {
                let name = self.shared.backend.name();
                for holder in holders {
                    log::warn!("the last handle of a pool on {name} is gone, still held: {holder}");
                }
            });
        }
    }
}

impl<B: Backend> Shared<B> {
    fn state(&self) -> MutexGuard<'_, StateOf<B>> {
        #[cfg(loom)]
        return self.state.lock_in_model();
        #[cfg(not(loom))]
        self.state.lock()
    }

    /// Returns the label of a request, with its block counted.
    fn count_label(&self, label: &RequestLabel<'_>, count: LabelCount) -> LabelId {
        match self.labels.key(label) {
            None => LabelId::NONE,
            Some(LabelKey::Id(id)) => {
                self.shards.count_label(id, count);
                id
            }
            Some(LabelKey::Text(text)) => {
                let label = self.labels.label(text, self.shards);
                self.shards.learn_label(label.shared_text(), label.id(), count);
                label.id()
            }
        }
    }

    /// A block with such a label holds so many bytes more, or fewer.
    fn count_more(&self, label: LabelId, bytes: i64) {
        if !label.is_none() {
            self.shards.count_label(label, LabelCount::bytes(bytes));
        }
    }

    /// All memory of the bookkeeping that the pool's lock does not protect.
    fn metadata_bytes(&self) -> u64 {
        let tables = self.labels.metadata_bytes() + self.holds.metadata_bytes();
        let blocks = self.state().held().1 + self.empty_blocks.load(Ordering::Relaxed) as u64;
        let descriptors = blocks * size_of::<Descriptor<B>>() as u64;
        size_of::<Self>() as u64 + tables + self.shards.metadata_bytes() + descriptors
    }

    /// Gives back what tables have in reserve that shrink only now and then.
    fn keep_small(&self) {
        self.labels.sweep(self.shards);
        if let Some(record) = &mut self.state().record {
            record.keep_small();
        }
    }

    fn holders(&self) -> Vec<Holder> {
        self.fold_shards();
        let held = self.labels.held(self.shards);
        let (used_bytes, blocks) = self.state().held();
        held.holders(used_bytes, blocks, usize::MAX)
    }
}

impl<B: Backend> Drop for Shared<B> {
    /// The slabs go back now, so the device must be done with them. Nobody is left who could be told of a failure.
    fn drop(&mut self) {
        self.watch.end();
        if self.state().slab_count() > 0 || self.state().waits_for_device() {
            caught(|| self.backend.complete(self.backend.recorded()).is_ok());
        }
        self.shards.close();
        let slabs = self.state().take_slabs();
        // As in `bury`.
        slabs.into_iter().for_each(|slab| {
            caught(|| drop(slab));
        });
    }
}

impl<B: Backend> Pool<B> {
    /// Opens a pool on a backend of any kind. `Pool::host`, `Pool::gpu` and `Pool::open_gpu` are shorter for ours.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a budget that does not parse, a [percentage](Budget) of memory whose size is not known, staging
    /// or a reserve larger than the budget, [pages](Config::page_bytes) of a size out of range, [`touch`](Config::touch),
    /// [`lock`](Config::lock) or [`huge_pages`](Config::huge_pages) on a backend that does not do that, or a backend whose limits or
    /// staging break its contract; [`ErrorKind::OutOfMemory`] for a budget that is to be touched and is more than the machine has; what
    /// the backend reports when it refuses the staging, or the slabs of [`SlabPolicy::Single`]. Then nothing stays reserved.
    pub fn with_backend(backend: B, config: &Config) -> Result<Self> {
        let budget_bytes = config.budget().bytes(&backend)?;
        budget::check(config.budget(), budget_bytes, 0, &backend, config.pages().touch)?;
        if config.pages().huge {
            backend.huge_page_bytes()?;
        }
        let limits = usable(backend.limits())?;
        let staging_wish = config.staging_bytes().unwrap_or_else(|| backend.staging_bytes_default(budget_bytes));
        budget::check_staging(budget_bytes, staging_wish)?;
        let staging_bytes = backend.open_staging(staging_wish)?;
        if staging_bytes > staging_wish {
            let message = format!("a backend took {} of staging, not {}", exact(staging_bytes), exact(staging_wish));
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let (placement, policy, reserve_bytes) =
            (config.placement_chosen(), config.slabs_chosen(), config.reserve_bytes());
        budget::check_reserve(budget_bytes, staging_bytes, reserve_bytes)?;
        let mut sizes = SlabSizes::new(policy, placement, limits, config.page_bytes_chosen());
        sizes.check_pages(budget_bytes)?;
        let range = reserve_range(&backend, config, &sizes, budget_bytes - staging_bytes);
        let policy = if policy == SlabPolicy::Expanding && range.is_none() { SlabPolicy::Growing } else { policy };
        let shards = Shards::open();
        sizes.policy = policy;
        let sizes = range.as_ref().map_or(sizes, |(range, _)| sizes.of_range(*range));
        let state = State::new(&Opening {
            budget_bytes,
            staging_bytes,
            reserve_bytes,
            sizes,
            direct: &shards.direct,
            runs_bytes_most: &shards.runs_bytes_most,
            has_runs: &shards.has_runs,
            signs: &shards.signs,
            has_free_lists: config.has_free_lists(),
        });
        let (most_bytes, open_bytes) = (limits.block.bytes.min(limits.slab.bytes), budget_bytes - staging_bytes);
        let shared = Arc::new(Shared {
            shards,
            classes: Classes::new(limits.alignment_bytes, most_bytes),
            run_sizes: RunSizes::new(
                sizes.page_bytes_in_largest(open_bytes),
                sizes.piece_bytes_most(open_bytes),
                most_bytes,
            ),
            backend,
            limits,
            staging_bytes,
            reserve_bytes,
            sizes,
            policy,
            placement,
            zero_on_free: config.zeroes_on_free(),
            pages: config.pages(),
            state: FairMutex::new(state),
            growth: OwnedLock::new(),
            serves_after_growth: AtomicBool::new(false),
            labels: Labels::new(),
            kept_blocks: Arc::new(AtomicUsize::new(0)),
            holds: HoldTable::new(),
            empty_blocks: AtomicUsize::new(0),
            front: Mutex::new(Weak::new()),
            gone: Condvar::new(),
            watch: watch::Watch::new(),
            recorded: Condvar::new(),
        });
        if let Some((range, memory)) = range {
            shared.state().add_range(Slab::new(range.bytes, memory));
        }
        if policy == SlabPolicy::Single {
            shared.reserve_all()?;
        }
        Ok(Self { front: Front::of(&shared) })
    }

    /// Hands out a block of at least `request.bytes`.
    ///
    /// # Errors
    /// - no room, with all the numbers in [`Error::shortage`] and what would help in [`Error::remedies`]:
    ///   [`ErrorKind::OverBudget`] (at once, whether or not the request would wait), [`ErrorKind::Full`] or
    ///   [`ErrorKind::Fragmented`], or [`ErrorKind::Timeout`] after waiting;
    /// - [`ErrorKind::Alignment`], [`ErrorKind::TooLarge`] (both numbers), [`ErrorKind::Closed`];
    /// - [`ErrorKind::OutOfMemory`], [`ErrorKind::DeviceLost`], [`ErrorKind::Device`] from the backend;
    /// - [`ErrorKind::Recording`] for a request that would [wait](Request::wait) for this very thread, or is to be
    ///   [zeroed](Request::zeroed) while this thread records the stream; [`ErrorKind::Invalid`] inside [`Backend::create_slab`]
    ///   or [`Backend::commit`], if it needs memory;
    /// - [`ErrorKind::Defect`] for a request that needs a slab, once the pool's own counters contradict each other.
    ///
    /// After a failed call every held block, `live`, `used` and the budget are what they were; idle memory may have
    /// gone from `cached` to `free`, or back to the device.
    pub fn alloc(&self, request: Request<'_>) -> Result<Block<B>> {
        self.shared().alloc(&request)
    }

    /// Gives idle pieces home, and empty slabs and spare memory of an expanding one back to the backend, as far as the device is done
    /// with them. What the device still uses leaves when it is done, at a later call.
    ///
    /// Returns how many bytes went back to the backend meanwhile, those included that an earlier call had begun to give back.
    ///
    /// A pool that has got every block back answers after this as one that was just opened: the same requests succeed, and
    /// the others fail for the same reason.
    pub fn trim(&self) -> u64 {
        self.shared().trim()
    }

    /// Gives back what [`trim`](Self::trim) does, but no more than it takes until at most `bytes` bytes are reserved, staging included. An
    /// expanding slab gives whole granules, from its end down; others are given whole.
    ///
    /// Returns the bytes that went back to the backend. If they were too few, [`Stats::reserved_bytes`] is still above `bytes`: the
    /// rest is in use, or lies beside what is.
    ///
    /// ```
    /// use tensorpool::{Config, Pool, Request};
    ///
    /// let pool = Pool::host(Config::new("64 MiB"))?;
    /// drop(pool.alloc(Request::bytes(10 << 20))?);
    /// assert_eq!(pool.trim_to(4 << 20), 6 << 20);
    /// assert_eq!(pool.stats().reserved_bytes, 4 << 20); // for the next blocks
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    pub fn trim_to(&self, bytes: u64) -> u64 {
        self.shared().trim_to(bytes)
    }

    /// The pool's numbers now.
    pub fn stats(&self) -> Stats {
        self.shared().settle_completed();
        self.shared().fold_shards();
        self.shared().log_defect();
        let mut stats = self.shared().state().stats();
        stats.metadata_bytes += self.shared().metadata_bytes();
        stats
    }

    /// A label for many requests: none of them looks its text up, as requests do that carry a text. An empty text is no label.
    pub fn label(&self, text: &str) -> Label {
        self.shared().labels.label(text, self.shared().shards)
    }

    /// Who holds what: one entry for each label, largest first.
    pub fn holders(&self) -> Vec<Holder> {
        self.shared().holders()
    }

    /// Lets the peaks begin anew from the present values.
    pub fn reset_peaks(&self) {
        self.shared().fold_shards();
        self.shared().state().reset_peaks();
    }

    /// Ends the pool: returns what is still held, by label, instead of logging it. Allocations through other handles, and
    /// requests that wait in line, fail from now on with [`ErrorKind::Closed`]; blocks that are held stay valid until they are
    /// dropped.
    pub fn close(self) -> Vec<Holder> {
        let shared = self.shared();
        shared.state().close();
        shared.end_planning();
        shared.dismiss(ErrorKind::Closed, "the pool was closed while a request waited in line");
        self.trim();
        shared.holders()
    }

    fn shared(&self) -> &Arc<Shared<B>> {
        &self.front.shared
    }

    /// Returns the pool's budget in bytes, as it is now: [`set_budget`](Self::set_budget) changes it.
    pub fn budget_bytes(&self) -> u64 {
        self.shared().state().budget_bytes()
    }

    /// How large blocks are placed.
    pub fn placement(&self) -> Placement {
        self.shared().placement
    }

    /// When slabs are reserved.
    pub fn slab_policy(&self) -> SlabPolicy {
        self.shared().policy
    }

    /// Returns the backend. What a program reserves through it (`create_slab`) is the program's, and in no budget.
    pub fn backend(&self) -> &B {
        &self.shared().backend
    }

    /// The backend's limits, as they were when the pool was opened; a slab is of whole granules, and at most 64 TiB.
    pub fn limits(&self) -> Limits {
        self.shared().limits
    }

    /// Whether `other` is a handle of the same pool.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.shared(), other.shared())
    }

    /// Checks all bookkeeping, at a cost that grows with the number of pages: for tests, while no other thread uses the
    /// pool.
    ///
    /// # Panics
    /// If it does not add up, which is a defect of this crate.
    // Public for this repository's own tests, examples and fuzzers. Hidden, as no program needs it and it may panic.
    #[doc(hidden)]
    pub fn check(&self) {
        self.shared().fold_shards();
        self.shared().shards.planner().check();
        self.shared().state().check();
    }
}

/// A backend may be anyone's: what the bookkeeping builds on is checked once, and the largest slab is one that can be.
fn usable(mut limits: Limits) -> Result<Limits> {
    let Limits { alignment_bytes, alignment_bytes_max, granule_bytes, ref mut slab, .. } = limits;
    let rising = [granule_bytes, alignment_bytes, alignment_bytes_max, SLAB_BYTES_MAX];
    if !rising.iter().all(|bytes| bytes.is_power_of_two()) || !rising.is_sorted() {
        let message =
            format!("a backend's granule and alignments must be powers of two, none above the next: {limits:?}");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    if slab.bytes > SLAB_BYTES_MAX {
        *slab = Limit { bytes: SLAB_BYTES_MAX, name: "the largest slab of a pool" };
    }
    slab.bytes = round_down(slab.bytes, granule_bytes);
    Ok(limits)
}

impl<B: Backend> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self { front: Arc::clone(&self.front) }
    }
}

impl<B: Backend> AsRef<Self> for Pool<B> {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<B: Backend> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Before anything is written: the formatter may be the caller's own.
        let stats = self.shared().state().stats();
        f.debug_struct("Pool")
            .field("backend", &self.shared().backend.name())
            .field("stats", &stats)
            .finish_non_exhaustive()
    }
}
