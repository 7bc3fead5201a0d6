//! This crate: a pool on `Virtual`, which carves without memory, aligned as a GPU is. A block is the RAII handle that
//! programs hold; the lock, the counters and the labels are in the time. And its bookkeeping alone, which is what most
//! of the others are: one arena, no lock, no handle that frees.

use std::sync::Arc;

use tensorpool::plan::{Cursor, Place, Schedule};
use tensorpool::space::{Extent, Space};
use tensorpool::{Block, Config, Limit, Limits, Placement, PlannedSteps, Pool, Request, SlabPolicy, Virtual};

use super::{Peer, arena};
use crate::contest::{Contestant, UNIT_BYTES};
use crate::workload::Workload;

fn open_pool(budget_bytes: u64, placement: Placement, slabs: SlabPolicy) -> Option<Pool<Virtual>> {
    let any = Limit { bytes: u64::MAX, name: "2^64" };
    let limits = Limits {
        alignment_bytes: UNIT_BYTES,
        alignment_bytes_max: UNIT_BYTES,
        granule_bytes: 4,
        slab: any,
        block: any,
    };
    let config = Config::new(budget_bytes).placement(placement).slabs(slabs);
    Pool::with_backend(Virtual::new(limits), &config).ok()
}

impl Peer for Pool<Virtual> {
    type Handle = Block<Virtual>;

    fn alloc(&mut self, bytes: u64) -> Option<Block<Virtual>> {
        Pool::alloc(self, Request::bytes(bytes)).ok()
    }

    fn free(&mut self, handle: Block<Virtual>) {
        drop(handle);
    }
}

/// The whole workload is known ahead, and so is where every block goes.
impl Peer for PlannedSteps<Virtual> {
    type Handle = Block<Virtual>;

    fn alloc(&mut self, bytes: u64) -> Option<Block<Virtual>> {
        self.as_ref().alloc(Request::bytes(bytes)).ok()
    }

    fn free(&mut self, handle: Block<Virtual>) {
        drop(handle);
    }

    fn begin(&mut self) {
        self.as_ref().mark_step();
    }
}

fn open_planned(workload: &Workload, budget_bytes: u64) -> Option<PlannedSteps<Virtual>> {
    let pool = open_pool(budget_bytes, Placement::Exact, SlabPolicy::Single)?;
    let (lifetimes, plan) = workload.plan();
    pool.follow_plan(lifetimes, plan).ok()
}

/// The same without memory, lock, counters or a handle that frees.
impl Peer for Cursor {
    type Handle = Place;

    fn alloc(&mut self, bytes: u64) -> Option<Place> {
        Cursor::alloc(self, bytes).ok()
    }

    fn free(&mut self, handle: Place) {
        Cursor::free(self, handle);
    }

    fn begin(&mut self) {
        self.begin_again();
    }
}

fn open_cursor(workload: &Workload, budget_bytes: u64) -> Option<Cursor> {
    let (lifetimes, plan) = workload.plan();
    let schedule = Schedule::new(lifetimes, plan, UNIT_BYTES).ok()?;
    (schedule.height_bytes() <= budget_bytes).then(|| Cursor::new(Arc::new(schedule)))
}

impl Peer for Space {
    type Handle = Extent;

    /// In the order in which a pool with one slab tries.
    fn alloc(&mut self, bytes: u64) -> Option<Extent> {
        let found = self.alloc_cached(bytes).or_else(|| Space::alloc(self, bytes));
        found.or_else(|| if self.gather() { Space::alloc(self, bytes) } else { None })
    }

    fn free(&mut self, handle: Extent) {
        self.release(handle);
    }
}

/// A pool of one slab.
pub const ONE_SLAB: &str = "tensorpool, exact";
/// As many slabs as the budget has, where no request is larger than one of them.
const SLABS: u64 = 64;

fn open_slabs(budget_bytes: u64) -> Option<Pool<Virtual>> {
    let slab_bytes = (budget_bytes / SLABS).next_multiple_of(UNIT_BYTES);
    open_pool(budget_bytes, Placement::Exact, SlabPolicy::Fixed(slab_bytes))
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    let open = |placement, slabs| move |_: &_, budget_bytes| open_pool(budget_bytes, placement, slabs);
    vec![
        arena(ONE_SLAB, open(Placement::Exact, SlabPolicy::Single)),
        arena("tensorpool, power of two", open(Placement::PowerOfTwo, SlabPolicy::Single)),
        arena("tensorpool, expanding", open(Placement::Exact, SlabPolicy::Expanding)),
        arena("tensorpool, exact, slabs as needed", open(Placement::Exact, SlabPolicy::Growing)),
        arena("tensorpool, exact, 64 slabs", |_, budget_bytes| open_slabs(budget_bytes)),
        arena("tensorpool, planned", open_planned),
        arena("tensorpool, exact, the space alone", |_, budget_bytes| {
            Some(Space::new(budget_bytes, UNIT_BYTES, Placement::Exact))
        }),
        arena("tensorpool, planned, the cursor alone", open_cursor),
    ]
}
