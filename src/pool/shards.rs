//! Free lists per CPU: small blocks that were freed, and go out again without the pool's lock.
//!
//! ```text
//!   thread ──► its shard ──► list of a class ──► home, home, home    (at most LIST_HOMES, LIST_BYTES)
//!                  │
//!                  └──────► tally: what changed since the pool's books were last told
//! ```
//!
//! A thread keeps its shard; finding that busy, it moves on to the next one that is not, and stays there. Nothing else
//! ties the two: a block is freed into the shard of the thread that frees it.
//!
//! What lies in a list is *out* of its space and counts as cached. While the pool is *direct* nothing is put into a list:
//! so a thread that makes it direct and then empties every list knows that all idle memory is in the spaces. That holds because
//! both look at the flag with the shard locked: who came before is emptied, who comes after sees it.
//!
//! A block keeps its pool alive, and so does one in a list, which therefore goes out again without touching a reference
//! count: with one for each shard, an allocation and its free took 48 ns instead of 41 (2026-11). So a pool must be direct before it can
//! end (`Front` sees to it); and the shards are never freed, but used again by a later pool, so that a block
//! can give itself to a list that it reaches by a plain reference.

mod labels;
mod runs;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use self::labels::ShardLabels;
use self::runs::Runs;
use super::block::IdleBlock;
use super::labels::{LabelCount, LabelCounts, LabelId, LabelKey};
use super::planned::{Planner, Signs};
use super::tables::boxes_bytes;
use crate::backend::Backend;
use crate::sync::{Arc, AtomicBool, AtomicU64, Latch, LatchGuard, Ordering, home, set_home, yield_now};

/// As many shards as CPUs, but no more than this.
const SHARDS_MAX: usize = if cfg!(loom) { 2 } else { 64 };

/// What a list of one class holds at most: with 64 pieces sizes that come at random seldom need the pool's lock, and 64 KiB bound what
/// lies idle.
const LIST_HOMES: usize = if cfg!(loom) { 4 } else { 64 };
pub(super) const LIST_BYTES: u64 = 64 << 10;

/// How many idle pieces of its class an empty list gets with the one that is asked for: half of what it holds, so that the
/// next few of either kind, allocations or frees, need not pass the pool's lock.
pub(super) const REFILL: usize = LIST_HOMES / 2 - 1;

/// Classes that have lists, from the smallest block on: 64 bytes to 64 KiB on the host.
const CLASSES: usize = 11;

/// What changed in a shard since the books were told: they are told of every change at once, so that they balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) allocations: u64,
    /// Those of them that planned steps served.
    pub(super) allocations_planned: u64,
    pub(super) frees: u64,
    /// Bytes asked for, and the most that this came to in between.
    pub(super) live_bytes: i64,
    pub(super) live_bytes_most: i64,
    /// Bytes in the lists, and the least that this came to.
    pub(super) cached_bytes: i64,
    pub(super) cached_bytes_least: i64,
}

impl Tally {
    #[inline]
    pub(super) fn alloc(&mut self, bytes: u64, held_bytes: u64) {
        self.allocations += 1;
        self.live_bytes += bytes as i64;
        self.live_bytes_most = self.live_bytes_most.max(self.live_bytes);
        self.cached_bytes -= held_bytes as i64;
        self.cached_bytes_least = self.cached_bytes_least.min(self.cached_bytes);
    }

    #[inline]
    pub(super) fn free(&mut self, bytes: u64, held_bytes: u64) {
        self.frees += 1;
        self.live_bytes -= bytes as i64;
        self.cached_bytes += held_bytes as i64;
    }
}

struct Lists<B: Backend> {
    of_class: [Vec<IdleBlock<B>>; CLASSES],
    runs: Runs<B>,
    labels: ShardLabels,
    tally: Tally,
}

/// Two cache lines each, as processors fetch them in pairs.
#[repr(align(128))]
struct Shard<B: Backend>(Latch<Lists<B>>);

pub(super) struct Shards<B: Backend> {
    shards: Box<[Shard<B>]>,
    /// Nothing is put into a list. Changed with the pool's lock held.
    pub(super) direct: AtomicBool,
    /// Free runs have at most so many bytes in each shard; 0 while memory is not ample. Changed with the pool's lock held.
    pub(super) runs_bytes_most: AtomicU64,
    /// Free runs may lie in lists. Changed with the pool's lock held: set before the first comes, cleared once all are home.
    pub(super) has_runs: AtomicBool,
    pub(super) signs: Signs,
    planner: Latch<Planner<B>>,
}

/// What runs hold that serve a request.
#[derive(Clone, Copy)]
pub(super) struct RunSizes {
    /// A request for no more is a piece.
    piece_bytes_most: u64,
    /// Bytes of a page in the largest slabs.
    page_bytes: u64,
    most_bytes: u64,
}

impl RunSizes {
    /// No request for more than `most_bytes` is served, and none that is a piece.
    pub(super) fn new(page_bytes: u64, piece_bytes_most: u64, most_bytes: u64) -> Self {
        Self { page_bytes, piece_bytes_most, most_bytes }
    }

    /// Returns whether a block of so many bytes is a run in every slab.
    #[inline(always)]
    pub(super) fn are_for(self, bytes: u64) -> bool {
        bytes > self.piece_bytes_most
    }

    /// Returns the bytes of an exact run for so many bytes. 0 is no size of a run.
    #[inline(always)]
    fn of(self, bytes: u64) -> u64 {
        // A request within the limit is far from where rounding up would overflow.
        let bytes = if (self.piece_bytes_most + 1..=self.most_bytes).contains(&bytes) { bytes } else { 0 };
        (bytes + (self.page_bytes - 1)) & !(self.page_bytes - 1)
    }
}

/// Which requests have lists.
#[derive(Clone, Copy)]
pub(super) struct Classes {
    unit_shift: u32,
    count: usize,
}

impl Classes {
    /// The smallest block has `alignment_bytes`, and no block has more than `most_bytes`, nor does one in a list have more
    /// than the list may hold.
    pub(super) fn new(alignment_bytes: u64, most_bytes: u64) -> Self {
        let unit_shift = alignment_bytes.trailing_zeros();
        let most_bytes = most_bytes.min(LIST_BYTES);
        let count = (0..CLASSES).take_while(|class| most_bytes >> unit_shift >> class > 0).count();
        Self { unit_shift, count }
    }

    /// The class of blocks for so many bytes, if it has lists. Zero bytes have none.
    #[inline]
    pub(super) fn of(self, bytes: u64) -> Option<usize> {
        let class = (u64::BITS - (bytes.wrapping_sub(1) >> self.unit_shift).leading_zeros()) as usize;
        (class < self.count).then_some(class)
    }

    /// Returns what each block of a class holds.
    #[inline]
    pub(super) fn bytes(self, class: usize) -> u64 {
        1 << (self.unit_shift + class as u32)
    }
}

/// Shards that no pool uses, by the type of their pool's backend.
static UNUSED: Mutex<Option<HashMap<TypeId, Vec<&'static (dyn Any + Send + Sync)>>>> = Mutex::new(None);

impl<B: Backend> Shards<B> {
    /// Shards with nothing in them, for one pool.
    pub(super) fn open() -> &'static Self {
        let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
        let used_before = unused.get_or_insert_default().get_mut(&TypeId::of::<B>()).and_then(Vec::pop);
        used_before.and_then(|shards| shards.downcast_ref()).unwrap_or_else(|| {
            let lists = || Lists {
                of_class: std::array::from_fn(|_| Vec::new()),
                runs: Runs::new(),
                labels: ShardLabels::new(),
                tally: Tally::default(),
            };
            let shards = (0..shard_count()).map(|_| Shard(Latch::new(lists()))).collect();
            let planner = Latch::new(Planner::new());
            let (direct, has_runs, runs_bytes_most) =
                (AtomicBool::new(true), AtomicBool::new(false), AtomicU64::new(0));
            Box::leak(Box::new(Self { shards, direct, runs_bytes_most, has_runs, signs: Signs::new(), planner }))
        })
    }

    /// The pool has ended: nothing is in a list any more.
    pub(super) fn close(&'static self) {
        for index in 0..self.count() {
            // Nobody is left to be told.
            self.tally_of(index);
            self.any(index, index + 1).1.labels = ShardLabels::new();
        }
        // An arena may still be there, and what others have holds on.
        let planner = std::mem::replace(&mut *self.planner(), Planner::new());
        drop(planner);
        // Loom's locks live no longer than one run of a model.
        if !cfg!(loom) {
            let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
            unused.get_or_insert_default().entry(TypeId::of::<B>()).or_default().push(self);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.shards.len()
    }

    /// All memory of the shards and their lists.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let of_shard = |index| {
            let lists = self.any(index, index + 1).1;
            let pieces: u64 = lists.of_class.iter().map(boxes_bytes).sum();
            size_of::<Shard<B>>() as u64 + pieces + lists.runs.metadata_bytes() + lists.labels.metadata_bytes()
        };
        (0..self.count()).map(of_shard).sum::<u64>() + self.planner().metadata_bytes()
    }

    /// What serves planned steps. Nobody has it for longer than a few instructions.
    #[inline]
    pub(super) fn planner(&self) -> LatchGuard<'_, Planner<B>> {
        self.planner.try_lock().unwrap_or_else(|| self.wait_for_planner())
    }

    #[cold]
    fn wait_for_planner(&self) -> LatchGuard<'_, Planner<B>> {
        let mut round = 0;
        loop {
            if let Some(planner) = self.planner.try_lock() {
                return planner;
            }
            pause(&mut round);
        }
    }

    /// Takes a piece of a class from this thread's list, for a block with this label.
    #[inline(always)]
    pub(super) fn take(&self, class: usize, held_bytes: u64, bytes: u64, label: LabelId) -> Option<IdleBlock<B>> {
        let mut lists = self.own();
        let descriptor = self.take_piece(&mut lists, class, held_bytes, bytes)?;
        lists.count(label, held_bytes);
        Some(descriptor)
    }

    #[inline(always)]
    fn take_piece(&self, lists: &mut Lists<B>, class: usize, held_bytes: u64, bytes: u64) -> Option<IdleBlock<B>> {
        // What is in a list of a direct pool is on its way home, to the waiters.
        if self.direct.load(Ordering::Relaxed) {
            return None;
        }
        let descriptor = lists.of_class[class].pop()?;
        lists.tally.alloc(bytes, held_bytes);
        Some(descriptor)
    }

    /// Takes a piece of a class and its bytes, or without one a run, for a block with a label that the shard knows.
    pub(super) fn take_labelled(
        &self,
        class: Option<(usize, u64)>,
        bytes: u64,
        sizes: RunSizes,
        key: &LabelKey<'_>,
    ) -> Option<(IdleBlock<B>, LabelId)> {
        let mut lists = self.own();
        let label = lists.labels.find(key)?;
        let descriptor = match class {
            Some((class, held_bytes)) => self.take_piece(&mut lists, class, held_bytes, bytes),
            None if self.lists_runs() => lists.take_run(bytes, sizes),
            None => None,
        }?;
        lists.count(label, descriptor.bytes_held());
        Some((descriptor, label))
    }

    /// Counts what a label's block holds from now on, or no more.
    pub(super) fn count_label(&self, id: LabelId, change: LabelCount) {
        self.own().labels.count(id, change);
    }

    /// Counts it as [`count_label`](Self::count_label) does. The shard knows the label's text from now on.
    pub(super) fn learn_label(&self, text: &Arc<str>, id: LabelId, change: LabelCount) {
        let mut lists = self.own();
        lists.labels.count(id, change);
        lists.labels.learn(text, id);
    }

    /// Takes a piece as [`take`](Self::take) does, or a run from the shard's. Where there is neither, `fill` is called with
    /// the shard locked, as `spill` is in [`give`](Self::give): it finds the block elsewhere, and up to [`REFILL`] others that the list
    /// is to have.
    #[cold]
    pub(super) fn take_or_fill(
        &self,
        class: usize,
        bytes: u64,
        sizes: RunSizes,
        fill: impl FnOnce(Tally) -> Option<(IdleBlock<B>, Vec<IdleBlock<B>>)>,
    ) -> Option<IdleBlock<B>> {
        let mut lists = self.own();
        if self.direct.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(place) = lists.of_class[class].pop() {
            lists.tally.alloc(bytes, place.bytes_held());
            return Some(place);
        }
        // A run that is left there is on its way home.
        let run = if self.lists_runs() { lists.take_run(bytes, sizes) } else { None };
        run.or_else(|| lists.fill(class, fill))
    }

    /// Returns whether runs may lie in lists.
    pub(super) fn has_runs(&self) -> bool {
        self.has_runs.load(Ordering::Relaxed)
    }

    /// Returns whether runs go into lists.
    #[inline(always)]
    pub(super) fn lists_runs(&self) -> bool {
        self.runs_bytes_most.load(Ordering::Relaxed) > 0
    }

    /// Takes a run from this thread's shard, for a block with this label.
    #[inline(always)]
    pub(super) fn take_run(&self, bytes: u64, sizes: RunSizes, label: LabelId) -> Option<IdleBlock<B>> {
        let mut lists = self.own();
        // What is there otherwise is on its way home.
        let descriptor = if self.lists_runs() { lists.take_run(bytes, sizes) } else { None }?;
        lists.count(label, descriptor.bytes_held());
        Some(descriptor)
    }

    /// Takes a run of so many bytes asked and held into this thread's shard. Returns it if memory is not ample for it. What has to leave
    /// for it is handed to `spill`, with the shard locked as in [`give`](Self::give).
    #[inline(always)]
    pub(super) fn give_run(
        &self,
        (bytes, held_bytes): (u64, u64),
        descriptor: IdleBlock<B>,
        spill: impl FnOnce(Vec<IdleBlock<B>>, Tally),
    ) -> Result<(), IdleBlock<B>> {
        let mut lists = self.own();
        let bytes_most = self.runs_bytes_most.load(Ordering::Relaxed);
        if held_bytes > bytes_most {
            return Err(descriptor);
        }
        lists.tally.free(bytes, held_bytes);
        lists.uncount(descriptor.label(), held_bytes);
        if !lists.runs.has_room(held_bytes, bytes_most) {
            lists.make_room(held_bytes, bytes_most, spill);
        }
        lists.runs.give(held_bytes, descriptor)
    }

    /// As [`take`](Self::take), from the next class above that has an idle block of at most so many bytes.
    pub(super) fn take_larger(&self, class: usize, bytes: u64, most_bytes: u64) -> Option<IdleBlock<B>> {
        let mut lists = self.own();
        if self.direct.load(Ordering::Relaxed) {
            return None;
        }
        let larger = lists.of_class[class + 1..].iter_mut().find(|list| !list.is_empty())?;
        let place = larger.pop_if(|place| place.bytes_held() <= most_bytes)?;
        lists.tally.alloc(bytes, place.bytes_held());
        Some(place)
    }

    /// Returns the size of the largest piece in this thread's lists, which a request of that size would get; 0 for none.
    #[cold]
    pub(super) fn largest_listed(&self) -> u64 {
        let lists = self.own();
        if self.direct.load(Ordering::Relaxed) {
            return 0;
        }
        let largest = lists.of_class.iter().rev().find_map(|list| list.last());
        largest.map_or(0, |place| place.bytes_held())
    }

    /// Takes a piece of so many bytes asked and held into this thread's list. Returns it if the pool is direct.
    /// Where the list is full, its older half is handed to `spill`, with the shard locked: idle memory can be found at any moment.
    #[inline(always)]
    pub(super) fn give(
        &self,
        class: usize,
        (bytes, held_bytes): (u64, u64),
        descriptor: IdleBlock<B>,
        spill: impl FnOnce(Vec<IdleBlock<B>>, Tally),
    ) -> Result<(), IdleBlock<B>> {
        let mut lists = self.own();
        if self.direct.load(Ordering::Relaxed) {
            return Err(descriptor);
        }
        lists.tally.free(bytes, held_bytes);
        lists.uncount(descriptor.label(), held_bytes);
        let list = &mut lists.of_class[class];
        if list.len() >= LIST_HOMES || (list.len() as u64 + 1) * held_bytes > LIST_BYTES {
            lists.spill(class, spill);
        }
        let list = &mut lists.of_class[class];
        if list.len() == list.capacity() {
            list.reserve(LIST_HOMES);
        }
        list.push(descriptor);
        Ok(())
    }

    /// What this thread's shard has not told yet. For peaks that are exact while one thread is at work.
    #[inline]
    pub(super) fn tally(&self) -> Tally {
        std::mem::take(&mut self.own().tally)
    }

    /// What the planner has not told yet.
    #[cold]
    pub(super) fn tally_planned(&self) -> Tally {
        self.planner().tally()
    }

    /// Takes all that lies in a shard's lists home, with the shard locked as in [`give`](Self::give).
    pub(super) fn drain(&self, index: usize, home: impl FnOnce(Vec<IdleBlock<B>>, Tally)) {
        let mut lists = self.any(index, index + 1).1;
        let mut leaving = Vec::new();
        lists.of_class.iter_mut().for_each(|list| leaving.append(list));
        leaving.append(&mut lists.runs.take_all());
        let tally = lists.tell_without(&leaving);
        home(leaving, tally);
    }

    /// Takes all runs of a shard home as [`drain`](Self::drain) does, and leaves its pieces.
    pub(super) fn drain_runs(&self, index: usize, home: impl FnOnce(Vec<IdleBlock<B>>, Tally)) {
        let mut lists = self.any(index, index + 1).1;
        let leaving = lists.runs.take_all();
        let tally = lists.tell_without(&leaving);
        home(leaving, tally);
    }

    /// Takes the older half of this thread's runs home as [`drain`](Self::drain) does.
    pub(super) fn halve_runs(&self, home: impl FnOnce(Vec<IdleBlock<B>>, Tally)) {
        let mut lists = self.own();
        let leaving = lists.runs.take_half();
        let tally = lists.tell_without(&leaving);
        home(leaving, tally);
    }

    /// What one shard has not told yet.
    pub(super) fn tally_of(&self, index: usize) -> Tally {
        std::mem::take(&mut self.any(index, index + 1).1.tally)
    }

    /// The lists of this thread's shard, or of the one it moves on to.
    #[inline(always)]
    fn own(&self) -> LatchGuard<'_, Lists<B>> {
        let home = home();
        let index = home & (self.shards.len() - 1);
        if home != usize::MAX
            && let Some(lists) = self.shards[index].0.try_lock()
        {
            return lists;
        }
        self.move_on()
    }

    #[cold]
    fn move_on(&self) -> LatchGuard<'_, Lists<B>> {
        if home() == usize::MAX {
            set_home(first_home());
        }
        let index = home() & (self.shards.len() - 1);
        let (index, lists) = self.any(index, index + self.shards.len());
        set_home(index);
        lists
    }

    /// The lists of the first shard from `start` to `end` (counted round) that is not busy. Waits longer and longer while
    /// all are, which is as long as others take for a few instructions.
    fn any(&self, start: usize, end: usize) -> (usize, LatchGuard<'_, Lists<B>>) {
        let mut round = 0;
        loop {
            for index in start..end {
                let index = index & (self.shards.len() - 1);
                if let Some(lists) = self.shards[index].0.try_lock() {
                    return (index, lists);
                }
            }
            pause(&mut round);
        }
    }
}

/// Waits for as long as others take for a few instructions, and longer each time.
fn pause(round: &mut u32) {
    if *round < 6 && !cfg!(loom) {
        (0..1 << *round).for_each(|_| std::hint::spin_loop());
        *round += 1;
    } else {
        yield_now();
    }
}

impl<B: Backend> LabelCounts for Shards<B> {
    fn forget_texts(&self) {
        (0..self.count()).for_each(|index| self.any(index, index + 1).1.labels.forget_texts());
    }

    fn sums(&self, count: usize) -> Vec<LabelCount> {
        let mut sums = vec![LabelCount::default(); count];
        (0..self.count()).for_each(|index| self.any(index, index + 1).1.labels.add_to(&mut sums));
        sums
    }

    fn truncate(&self, count: usize) {
        (0..self.count()).for_each(|index| self.any(index, index + 1).1.labels.truncate(count));
    }
}

impl<B: Backend> Lists<B> {
    /// Counts a block with this label that goes out.
    #[inline(always)]
    fn count(&mut self, label: LabelId, held_bytes: u64) {
        if !label.is_none() {
            self.labels.count(label, LabelCount::block(held_bytes));
        }
    }

    /// Counts a block that comes, which has this label no more.
    #[inline(always)]
    fn uncount(&mut self, label: LabelId, held_bytes: u64) {
        if !label.is_none() {
            self.labels.count(label, LabelCount::block(held_bytes).negated());
        }
    }

    /// The older half of a list leaves: what was freed last is likely to be in the processor's cache.
    #[cold]
    fn spill(&mut self, class: usize, spill: impl FnOnce(Vec<IdleBlock<B>>, Tally)) {
        let list = &mut self.of_class[class];
        let half = list.len().div_ceil(2);
        let leaving: Vec<_> = list.drain(..half).collect();
        let tally = self.tell_without(&leaving);
        spill(leaving, tally);
    }

    #[cold]
    fn fill(
        &mut self,
        class: usize,
        fill: impl FnOnce(Tally) -> Option<(IdleBlock<B>, Vec<IdleBlock<B>>)>,
    ) -> Option<IdleBlock<B>> {
        let (place, others) = fill(std::mem::take(&mut self.tally))?;
        self.of_class[class].extend(others);
        Some(place)
    }

    #[inline(always)]
    fn take_run(&mut self, bytes: u64, sizes: RunSizes) -> Option<IdleBlock<B>> {
        let run = self.runs.take(bytes, sizes.of(bytes))?;
        self.tally.alloc(bytes, run.bytes_held());
        Some(run)
    }

    #[cold]
    fn make_room(&mut self, held_bytes: u64, bytes_most: u64, spill: impl FnOnce(Vec<IdleBlock<B>>, Tally)) {
        let leaving = self.runs.make_room(held_bytes, bytes_most);
        if !leaving.is_empty() {
            let tally = self.tell_without(&leaving);
            spill(leaving, tally);
        }
    }

    /// What is to be told, once these are out of the lists too.
    fn tell_without(&mut self, leaving: &[IdleBlock<B>]) -> Tally {
        // They were not allocated: the least that was ever cached has nothing to do with it.
        self.tally.cached_bytes -= runs::bytes_of(leaving) as i64;
        std::mem::take(&mut self.tally)
    }
}

/// As many as CPUs, rounded up to a power of two so that a mask finds one.
fn shard_count() -> usize {
    static CPUS: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    let cpus = *CPUS.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    cpus.next_power_of_two().min(SHARDS_MAX)
}

/// Threads begin at one shard after another.
fn first_home() -> usize {
    // Not one that is modelled: all threads of a model begin at the same shard, so that they meet.
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    if cfg!(loom) { 0 } else { NEXT.fetch_add(1, Ordering::Relaxed) & (SHARDS_MAX - 1) }
}
