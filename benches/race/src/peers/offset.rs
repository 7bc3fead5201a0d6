//! `offset-allocator`, a port of Sebastian Aaltonen's: one arena in units of 256 bytes, since it knows no alignment, with
//! the number of allocations that its `new` chooses. No lock, no handle that frees.

use offset_allocator::{Allocation, Allocator};

use super::{Peer, arena};
use crate::contest::{Contestant, UNIT_BYTES};

impl Peer for Allocator<u32> {
    type Handle = (Allocation<u32>, u32);

    fn alloc(&mut self, bytes: u64) -> Option<Self::Handle> {
        let units = bytes.div_ceil(UNIT_BYTES) as u32;
        self.allocate(units).map(|allocation| (allocation, units))
    }

    fn free(&mut self, (allocation, _): Self::Handle) {
        Allocator::free(self, allocation);
    }

    fn reserved_bytes(&self, (allocation, units): &Self::Handle) -> Option<u64> {
        Some((u64::from(allocation.offset) + u64::from(*units)) * UNIT_BYTES)
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    vec![arena("offset-allocator", |_, budget_bytes| u32::try_from(budget_bytes / UNIT_BYTES).ok().map(Allocator::new))]
}
