//! Which slab a request gets, where it needs a new one.

use super::State;
use crate::pool::Request;

/// The size of a slab that is to be created.
pub(in crate::pool) struct NextSlab {
    pub(in crate::pool) bytes: u64,
    /// The smallest that serves the request.
    pub(in crate::pool) least_bytes: u64,
    /// It is to be that, whatever the series says.
    pub(in crate::pool) exactly: bool,
}

impl<S> State<S> {
    /// Returns the next slab in the series, or the request's if that is larger. It is exactly the request's if the caller
    /// wants that, or if the request would take more of a larger one than is open to it. `None` if the budget has no room.
    pub(in crate::pool) fn next_slab(&self, request: &Request, exactly: bool) -> Option<NextSlab> {
        let least_bytes = self.sizes.least_for(request)?;
        let (left_bytes, open_bytes) = (self.left_bytes(), self.open_bytes(request.priority));
        if least_bytes > left_bytes.min(open_bytes) {
            return None;
        }
        let next_bytes = self.sizes.next(self.slab_count(), self.budget_bytes(), left_bytes);
        let next_bytes = self.sizes.slab(next_bytes.max(least_bytes).min(left_bytes));
        let exactly = exactly || self.sizes.taken(next_bytes, request) > open_bytes;
        Some(NextSlab { bytes: if exactly { least_bytes } else { next_bytes }, least_bytes, exactly })
    }

    /// Returns whether a slab for the request, or memory in an expanding one, would leave the pool with no more than it had reserved at
    /// some time before.
    pub(in crate::pool) fn may_grow_within_peak(&mut self, request: &Request) -> bool {
        let Some(slab) = self.next_slab(request, false) else { return false };
        let more_bytes = match self.sizes.commit_granule_bytes() {
            0 => slab.bytes,
            granule_bytes => slab.least_bytes.next_multiple_of(granule_bytes),
        };
        self.reserved.bytes().saturating_add(more_bytes) <= self.totals().reserved_peak_bytes
    }
}
