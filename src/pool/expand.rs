//! [`Fallback::Grow`](super::Fallback::Grow) in an expanding slab: memory comes where requests have their places.
//!
//! The places are taken under the lock and kept while the backend commits, with all pages of the granules that it commits: no other
//! request gets them. The bytes count as reserved before: at no moment is more committed than the budget.

use std::ops::Range;

use super::grow::Grown;
use super::sizes::{PageBytes, SlabSizes};
use super::state::{Denied, Expansion, Home, Leaving};
use super::{Config, Fallback, Request, Shared, SlabPolicy};
use crate::backend::{Backend, Limits, SpanMut};
use crate::error::Result;
use crate::sync::{Ordering, caught};
use crate::units::round_down;

/// A granule is at most this part of the budget, so that granules that are used in part cost little.
const GRANULES_LEAST: u64 = 1024;
/// And of so many bytes.
const GRANULE_BYTES: Range<u64> = 4 << 10..64 << 10;
/// A budget of fewer granules has no more addresses than bytes.
const GRANULES_OF_TIMES: u64 = 64;

/// An expanding slab as a pool opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressRange {
    pub(super) bytes: u64,
    pub(super) granule_bytes: u64,
}

impl AddressRange {
    /// Computes it for a budget of so many bytes for slabs, and the backend's granule. `None` if no slab has so many bytes.
    ///
    /// Pages and cut runs are larger in a slab of more addresses, and a granule has at least one. So there are fewer addresses
    /// than `times` wants where granules would be large beside the budget.
    pub(super) fn new(granule_bytes: u64, limits: &Limits, pages: PageBytes, bytes: u64, times: u32) -> Option<Self> {
        let bytes = round_down(bytes, limits.granule_bytes);
        let bytes_max = limits.slab.bytes;
        if bytes == 0 || bytes > bytes_max {
            return None;
        }
        let part_bytes = (bytes / GRANULES_LEAST).checked_ilog2().map_or(1, |log| 1 << log);
        let wanted_bytes = part_bytes.clamp(GRANULE_BYTES.start, GRANULE_BYTES.end).max(granule_bytes);
        let mut times = u64::from(times.max(1));
        loop {
            let most_bytes = bytes.saturating_mul(times).min(bytes_max);
            let granule_bytes = wanted_bytes.max(pages.of(most_bytes)).max(pages.of_cut(most_bytes));
            if times == 1 {
                return Some(Self { bytes, granule_bytes });
            }
            if bytes / granule_bytes >= GRANULES_OF_TIMES {
                // The last granule is as partial as the budget's: so the whole budget has a place, at the end.
                let more_bytes = round_down(most_bytes - bytes, granule_bytes);
                return Some(Self { bytes: bytes + more_bytes, granule_bytes });
            }
            times /= 2;
        }
    }
}

/// Reserves the addresses of an expanding slab for a budget of so many bytes for slabs. `None` where none is wanted, where the backend
/// has none, and where it refuses them: then the pool has whole slabs.
pub(super) fn reserve_range<B: Backend>(
    backend: &B,
    config: &Config,
    sizes: &SlabSizes,
    bytes: u64,
) -> Option<(AddressRange, B::Slab)> {
    // Locked pages do not go.
    let pages = config.pages();
    if config.slabs_chosen() != SlabPolicy::Expanding || pages.lock {
        return None;
    }
    let mut granule_bytes = backend.commit_granule_bytes().filter(|bytes| bytes.is_power_of_two())?;
    if pages.huge {
        // No huge page brings more than is counted.
        granule_bytes = granule_bytes.max(backend.huge_page_bytes().ok().filter(|bytes| bytes.is_power_of_two())?);
    }
    let range = sizes.range_for(granule_bytes, bytes, config.address_times_chosen())?;
    let memory = backend.reserve_slab(range.bytes, pages).ok()?;
    Some((range, memory))
}

impl<B: Backend> Shared<B> {
    pub(super) fn is_expanding(&self) -> bool {
        self.policy == SlabPolicy::Expanding
    }

    /// Takes places for requests that have none, and commits memory for them, as far as the budget goes. Called with `growth` locked.
    pub(super) fn expand(&self, requests: &[Request], gave_back: bool) -> Grown<'_, B> {
        let is_last = gave_back || !requests.iter().all(|request| request.may(Fallback::ReturnEmpty));
        let expansion = {
            let mut state = self.state();
            if !state.are_left(requests) {
                return Grown::NoBudget;
            }
            match state.begin_expansion(requests, is_last) {
                Ok(Some(expansion)) => expansion,
                Ok(None) => return Grown::NoBudget,
                Err(error) => return Grown::Refused(error),
            }
        };
        match self.commit(expansion) {
            Ok(homes) => Grown::Homes(homes),
            Err(error) => Grown::Refused(error),
        }
    }

    fn commit(&self, expansion: Expansion<B::Slab>) -> Result<Vec<Home<B::Slab>>> {
        let mut committing = Committing { shared: self, expansion: Some(expansion), committed: 0 };
        committing.commit()?;
        Ok(committing.end())
    }

    /// Takes the pages that a block needs behind it to hold `bytes` bytes, with memory.
    ///
    /// # Errors
    /// What the backend reports when it commits; [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) inside one of its calls that
    /// bring memory.
    pub(super) fn reserve_behind(&self, home: &Home<B::Slab>, bytes: u64) -> Result<Result<Home<B::Slab>, Denied>> {
        let reserved = self.state().reserve_behind(home, bytes);
        if let Some(reserved) = reserved.transpose() {
            return Ok(reserved);
        }
        let Some(growth) = self.lock_growth() else { return Err(self.inside_create_slab(&Request::bytes(bytes))) };
        let expansion = {
            let mut state = self.state();
            let more_bytes = match state.bytes_behind(home, bytes) {
                Ok(more_bytes) => more_bytes,
                Err(denied) => return Ok(Err(denied)),
            };
            match state.begin_behind(home, more_bytes)? {
                Some(expansion) => expansion,
                None => return Ok(Err(state.denied_memory(more_bytes))),
            }
        };
        let behind = self.commit(expansion)?.pop().expect("the pages behind the block");
        self.state().reserved_behind(&behind);
        drop(growth);
        // The rest of the granules is for waiters.
        self.serve();
        Ok(Ok(behind))
    }

    /// Gives spare memory back for pages behind a block.
    pub(super) fn give_back_behind(&self, home: &Home<B::Slab>, bytes: u64) {
        {
            // As in `detach_down_to`: with the lock held.
            let mut state = self.state();
            if let Some(point) = caught(|| self.backend.recorded())
                && let Ok(more_bytes) = state.bytes_behind(home, bytes)
            {
                state.detach_spare_behind(home, more_bytes, point);
            }
        }
        self.settle_completed();
    }

    /// Gives spare memory back.
    pub(super) fn decommit(&self, leaving: &Leaving<B::Slab>) -> Decommitted {
        let Some(extent) = leaving.spare else { return Decommitted::No };
        let span = SpanMut::new(leaving.slab.serial, extent.offset(), extent.bytes());
        let done = caught(|| self.backend.decommit(&leaving.slab.memory, span));
        match done {
            Some(Ok(())) => Decommitted::Yes,
            Some(Err(error)) => {
                caught(|| log::warn!("{error}"));
                Decommitted::No
            }
            None => Decommitted::No,
        }
    }
}

/// What came of spare memory that was to be given back.
pub(super) enum Decommitted {
    Yes,
    /// It is still there.
    No,
}

/// Places whose memory is on its way. If it does not come, or the backend panics, they are free again, and what has come until then
/// stays.
struct Committing<'a, B: Backend> {
    shared: &'a Shared<B>,
    /// Until all has come.
    expansion: Option<Expansion<B::Slab>>,
    /// How many of the missing ranges have come.
    committed: usize,
}

impl<B: Backend> Committing<'_, B> {
    fn commit(&mut self) -> Result<()> {
        let missing = self.expansion.iter().flat_map(|expansion| &expansion.missing);
        for (slab, range) in missing {
            let span = SpanMut::new(slab.serial, range.start, range.end - range.start);
            self.shared.backend.commit(&slab.memory, span, self.shared.pages.touch)?;
            self.committed += 1;
        }
        Ok(())
    }

    fn end(mut self) -> Vec<Home<B::Slab>> {
        let expansion = self.expansion.take();
        expansion.map_or_else(Vec::new, |expansion| self.shared.state().expanded(expansion))
    }
}

impl<B: Backend> Drop for Committing<'_, B> {
    fn drop(&mut self) {
        let Some(expansion) = self.expansion.take() else { return };
        self.shared.state().not_expanded(expansion, self.committed);
        // A waiter that has joined meanwhile found these pages taken.
        self.shared.serves_after_growth.store(true, Ordering::Relaxed);
    }
}
