//! `offset-allocator`, a port of Sebastian Aaltonen's: one arena in units of 256 bytes, since it knows no alignment, with
//! the number of allocations that its `new` chooses. No lock, no handle that frees.

use offset_allocator::{Allocation, Allocator};

use super::{Peer, arena};
use crate::contest::{Contestant, UNIT_BYTES};

impl Peer for Allocator<u32> {
    type Handle = Allocation<u32>;

    fn alloc(&mut self, bytes: u64) -> Option<Allocation<u32>> {
        self.allocate(bytes.div_ceil(UNIT_BYTES) as u32)
    }

    fn free(&mut self, handle: Allocation<u32>) {
        Allocator::free(self, handle);
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    vec![arena("offset-allocator", |_, budget_bytes| u32::try_from(budget_bytes / UNIT_BYTES).ok().map(Allocator::new))]
}
