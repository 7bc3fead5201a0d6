//! `offset-allocator`, a port of Sebastian Aaltonen's: one arena in units of 256 bytes, since it knows no alignment, with
//! the number of allocations that its `new` chooses. Alone it has no lock and no handle that frees.

use offset_allocator::{Allocation, Allocator};

use super::{Peer, arena};
use crate::contest::{Contestant, UNIT_BYTES};
use crate::threads::shared::{Guard, OffsetGuarded};

impl Peer for Allocator<u32> {
    type Handle = Allocation<u32>;

    fn alloc(&mut self, bytes: u64) -> Option<Allocation<u32>> {
        self.allocate(bytes.div_ceil(UNIT_BYTES) as u32)
    }

    fn free(&mut self, handle: Allocation<u32>) {
        Allocator::free(self, handle);
    }
}

/// In a mutex, with a handle that frees when it is dropped, on any thread.
impl Peer for OffsetGuarded {
    type Handle = Guard;

    fn alloc(&mut self, bytes: u64) -> Option<Guard> {
        self.try_alloc(bytes.div_ceil(UNIT_BYTES) as u32)
    }

    fn free(&mut self, handle: Guard) {
        drop(handle);
    }
}

pub const OFFSET: &str = "offset-allocator";
pub const OFFSET_GUARDED: &str = "offset-allocator, mutex and handle";

fn open(budget_bytes: u64) -> Option<Allocator<u32>> {
    u32::try_from(budget_bytes / UNIT_BYTES).ok().map(Allocator::new)
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    vec![
        arena(OFFSET, |_, budget_bytes| open(budget_bytes)),
        arena(OFFSET_GUARDED, |_, budget_bytes| open(budget_bytes).map(OffsetGuarded::new)),
    ]
}
