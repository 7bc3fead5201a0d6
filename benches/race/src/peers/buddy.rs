//! `buddy_system_allocator`'s `FrameAllocator` over frames of 256 bytes: a classic buddy with its books outside the
//! memory. (The crate's `Heap` keeps its lists inside, which a GPU's memory does not allow.)

use buddy_system_allocator::FrameAllocator;

use super::{Peer, arena};
use crate::contest::{Contestant, UNIT_BYTES};

/// The crate's default number of orders.
type Frames = FrameAllocator<33>;

impl Peer for Frames {
    /// The first frame and how many were asked for.
    type Handle = (usize, usize);

    fn alloc(&mut self, bytes: u64) -> Option<(usize, usize)> {
        let count = bytes.div_ceil(UNIT_BYTES) as usize;
        Frames::alloc(self, count).map(|first| (first, count))
    }

    fn free(&mut self, (first, count): (usize, usize)) {
        self.dealloc(first, count);
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    vec![arena("buddy_system_allocator", |_, budget_bytes| {
        let mut frames = Frames::new();
        frames.add_frame(0, (budget_bytes / UNIT_BYTES) as usize);
        Some(frames)
    })]
}
