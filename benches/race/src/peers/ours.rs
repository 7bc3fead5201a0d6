//! This crate: a pool on `Model`, which carves without memory, aligned as a GPU is. A block is the RAII handle that
//! programs hold; the lock, the counters and the labels are in the time. And its bookkeeping alone, which is what most
//! of the others are: one arena, no lock, no handle that frees.

use tensorpool::space::{Extent, Space};
use tensorpool::{Block, Config, Limit, Limits, Model, Placement, Pool, Request, SlabPolicy};

use super::{Peer, arena};
use crate::contest::{Contestant, UNIT_BYTES};

struct Ours {
    pool: Pool<Model>,
    /// Whether the slab is one arena, of which the part up to the highest block is needed.
    is_arena: bool,
}

impl Ours {
    fn open(budget_bytes: u64, placement: Placement, slabs: SlabPolicy) -> Option<Self> {
        let any = Limit { bytes: u64::MAX, name: "2^64" };
        let limits = Limits { alignment_bytes: UNIT_BYTES, granule_bytes: 4, slab: any, block: any };
        let config = Config::new(budget_bytes).placement(placement).slabs(slabs);
        let pool = Pool::with_backend(Model::new(limits), &config).ok()?;
        Some(Self { pool, is_arena: slabs == SlabPolicy::Single })
    }
}

impl Peer for Ours {
    type Handle = Block<Model>;

    fn alloc(&mut self, bytes: u64) -> Option<Block<Model>> {
        self.pool.alloc(Request::bytes(bytes)).ok()
    }

    fn free(&mut self, handle: Block<Model>) {
        drop(handle);
    }

    fn reserved_bytes(&self, handle: &Block<Model>) -> Option<u64> {
        Some(if self.is_arena { handle.offset() + handle.bytes_held() } else { self.pool.stats().reserved_bytes })
    }
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

    fn reserved_bytes(&self, handle: &Extent) -> Option<u64> {
        Some(handle.offset() + handle.bytes())
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    let open = |placement, slabs| move |_: &_, budget_bytes| Ours::open(budget_bytes, placement, slabs);
    vec![
        arena("tensorpool, exact", open(Placement::Exact, SlabPolicy::Single)),
        arena("tensorpool, power of two", open(Placement::PowerOfTwo, SlabPolicy::Single)),
        arena("tensorpool, exact, slabs as needed", open(Placement::Exact, SlabPolicy::Growing)),
        arena("tensorpool, exact, the space alone", |_, budget_bytes| {
            Some(Space::new(budget_bytes, UNIT_BYTES, Placement::Exact))
        }),
    ]
}
