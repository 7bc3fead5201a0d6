//! What requests take of an expanding slab, all of which is free: where they take nearly all of a budget, only their places tell.
//!
//! Memory comes in whole granules, and pieces in whole cut runs. So a batch may take a granule more than its blocks hold.

use super::sizes::{Least, SlabSizes};
use super::state::{Memory, by_size};
use super::{Priority, Request};
use crate::space::{Cost, Extent, Space};
use crate::units::round_up;

/// A budget for an expanding slab.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) bytes: u64,
    /// What of it only requests of high priority may use.
    pub(super) reserve_bytes: u64,
}

/// A slab in which requests are placed.
struct Emptied {
    space: Space,
    open: Open,
    committed_bytes: u64,
    high_bytes: u64,
}

impl Open {
    /// Memory without end.
    pub(super) const ALL: Self = Self { bytes: u64::MAX, reserve_bytes: 0 };
}

impl Emptied {
    /// Takes a place within the budget: `first`, else any.
    fn take(&mut self, request: &Request, first: Memory) -> Option<Extent> {
        let is_high = request.priority == Priority::High;
        let closed_bytes = if is_high { 0 } else { self.open.reserve_bytes.saturating_sub(self.high_bytes) };
        let open_bytes = self.open.bytes.saturating_sub(self.space.used_bytes().saturating_add(closed_bytes));
        let most = Cost { missing_bytes: self.open.bytes - self.committed_bytes, ..Cost::NOTHING };
        let within = Cost { extent_bytes: open_bytes, ..most };
        let mut extent = None;
        for memory in [first, Memory::Cheap(most)] {
            let Request { bytes, align_bytes, .. } = *request;
            let idle = self.space.alloc_cached_aligned(bytes, align_bytes);
            extent = idle.or_else(|| memory.alloc(&mut self.space, request, open_bytes));
            if let Some(found) = extent
                && !self.space.cost(found).is_within(within)
            {
                self.space.release(found);
                extent = None;
            }
            if extent.is_some() {
                break;
            }
        }
        let extent = extent?;
        let missing: Vec<_> = self.space.missing(extent).collect();
        missing.iter().for_each(|range| self.space.commit(range));
        self.committed_bytes = self.space.committed_bytes();
        self.high_bytes += if is_high { extent.bytes() } else { 0 };
        Some(extent)
    }
}

/// What requests take of an empty slab.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    pub(super) committed_bytes: u64,
    pub(super) used_bytes: u64,
}

impl SlabSizes {
    /// Returns whether requests that leave little of a budget have places in it. Others do.
    pub(super) fn serve_when_empty(&self, requests: &[Request], least: Least, open: Open) -> bool {
        !self.may_lack_places(requests, least, open) || self.tries(requests, open).any(|taken| taken.is_ok())
    }

    /// Returns what requests take of an expanding slab that is free, with such a budget. Those that have no place are counted with their
    /// multiples, and a granule each.
    pub(super) fn taken_when_empty(&self, requests: &[Request], open: Open) -> Taken {
        let tries = self.tries(requests, open);
        tries
            .map(|taken| taken.unwrap_or_else(|more| more))
            .min_by_key(|taken| taken.committed_bytes)
            .unwrap_or_default()
    }

    /// Places requests in two ways. `Err` has what they take at least, where one has no place.
    fn tries<'a>(&'a self, requests: &'a [Request], open: Open) -> impl Iterator<Item = Result<Taken, Taken>> + 'a {
        let order = by_size(requests);
        // From the end all of them are next to each other.
        [Memory::Anywhere, Memory::High].into_iter().filter_map(move |first| {
            let mut emptied = Emptied { space: self.emptied()?, open, committed_bytes: 0, high_bytes: 0 };
            let placed = order.iter().take_while(|index| emptied.take(&requests[**index], first).is_some()).count();
            let taken = Taken { committed_bytes: emptied.committed_bytes, used_bytes: emptied.space.used_bytes() };
            if placed == order.len() {
                return Some(Ok(taken));
            }
            let (granule_bytes, _) = self.emptied_unit_bytes()?;
            let sum = |sum: u64, bytes: u64| sum.saturating_add(bytes);
            let spans = requests.iter().map(|request| round_up(request.bytes, request.align_bytes).unwrap_or(u64::MAX));
            let span_bytes = spans.fold(0, sum);
            let left = order[placed..].iter().map(|index| requests[*index].bytes.max(granule_bytes));
            let committed_bytes = left.fold(taken.committed_bytes, sum).max(span_bytes);
            Some(Err(Taken { committed_bytes, used_bytes: taken.used_bytes.max(span_bytes) }))
        })
    }

    /// Returns whether blocks may be in each other's way: in few granules, or where each is to begin at a multiple of many pages.
    fn may_lack_places(&self, requests: &[Request], least: Least, open: Open) -> bool {
        let Some((unit_bytes, page_bytes)) = self.emptied_unit_bytes() else { return false };
        let has_multiples = requests.len() > 1 && requests.iter().any(|request| request.align_bytes > page_bytes);
        // Blocks are at both ends, and both may end in a granule that is used in part.
        has_multiples || !least.plus(2 * unit_bytes).is_left(open.bytes, open.reserve_bytes)
    }
}
