//! How large slabs are, and what requests take of them: arithmetic alone.
//!
//! What a request takes at least is the same whatever the pool looks like, so what can never be served is known from the
//! request alone. The bound is reached: where nothing else helps, the pool reserves slabs of exactly that size. Near the budget of an
//! expanding slab [`emptied`](super::emptied) tells.

use super::expand::AddressRange;
use super::{Priority, Request, SlabPolicy};
use crate::backend::Limits;
use crate::error::{Error, ErrorKind, Result};
use crate::space::{PAGES_MAX, Placement, SLAB_BYTES_MAX, Space};
use crate::units::{exact, round_down, round_up};

/// A page that the caller chooses has at most so many times the alignment, as long as slabs do not need larger ones.
const UNITS_MAX: u64 = 1 << 16;

/// How large the pages of slabs are.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageBytes {
    pub(super) alignment_bytes: u64,
    /// What the caller has chosen.
    pub(super) chosen: Option<u64>,
}

impl PageBytes {
    /// Returns the bytes of a page in a slab of so many bytes, which are not 0.
    pub(super) fn of(self, slab_bytes: u64) -> u64 {
        Space::page_bytes_near(slab_bytes, self.alignment_bytes, self.chosen)
    }

    /// Returns the bytes of a cut run in such a slab: pieces have up to half of them.
    pub(super) fn of_cut(self, slab_bytes: u64) -> u64 {
        Space::cut_bytes_for(slab_bytes, self.alignment_bytes, self.of(slab_bytes))
    }
}

/// An expanding slab, with what would take long to compute for each request.
#[derive(Clone, Copy, Debug)]
struct CarvedRange {
    range: AddressRange,
    page_bytes: u64,
    cut_bytes: u64,
}

impl CarvedRange {
    /// What the slab's last page has, if that is partial; else 0.
    fn partial_bytes(&self) -> u64 {
        self.range.bytes % self.page_bytes
    }

    /// Returns the bytes of the extent that serves a request, in whole pages where it is a run.
    fn extent_bytes(&self, alignment_bytes: u64, bytes: u64) -> u64 {
        extent_bytes([self.page_bytes, self.cut_bytes], alignment_bytes, bytes).min(self.range.bytes)
    }

    /// Returns how much less of the slab a request takes if its run ends in the partial last page. One request can.
    fn saved_in_last_page(&self, alignment_bytes: u64, bytes: u64) -> u64 {
        let partial_bytes = self.partial_bytes();
        if partial_bytes == 0 || !(1..=self.range.bytes).contains(&bytes) {
            return 0;
        }
        if alignment_bytes > self.page_bytes {
            // The run that begins at the last multiple may end there.
            let left_bytes = self.range.bytes - round_down(self.range.bytes - bytes, alignment_bytes);
            return self.extent_bytes(alignment_bytes, bytes).saturating_sub(left_bytes);
        }
        let last_bytes = bytes.saturating_sub(partial_bytes).next_multiple_of(self.page_bytes) + partial_bytes;
        self.extent_bytes(alignment_bytes, bytes).saturating_sub(last_bytes)
    }

    /// Returns the largest request that so many bytes serve.
    fn most(&self, alignment_bytes: u64, bytes: u64) -> u64 {
        let whole = |bytes: u64| round_down(bytes, self.page_bytes);
        let last_bytes = bytes.checked_sub(self.partial_bytes()).map_or(0, |bytes| whole(bytes) + self.partial_bytes());
        let piece_bytes = match bytes.checked_ilog2().map_or(0, |bits| 1 << bits) {
            power if power < alignment_bytes => 0,
            power => power.min(self.cut_bytes / 2),
        };
        whole(bytes).max(last_bytes).max(piece_bytes).min(self.range.bytes)
    }
}

/// Returns how many bytes take no more than a slab can have: a request takes less than twice its bytes, or than a unit more.
fn few_bytes(limits: &Limits, unit_bytes: u64) -> u64 {
    (limits.slab.bytes / 2).min(limits.slab.bytes.saturating_sub(unit_bytes))
}

/// Returns the bytes of the extent that serves a request, where pages and cut runs have so many.
fn extent_bytes([page_bytes, cut_bytes]: [u64; 2], alignment_bytes: u64, bytes: u64) -> u64 {
    let piece_bytes = bytes.next_power_of_two().max(alignment_bytes);
    let is_piece = piece_bytes < cut_bytes && alignment_bytes <= page_bytes;
    if is_piece { piece_bytes } else { bytes.next_multiple_of(page_bytes) }
}

/// What the sizes of a pool's slabs follow from, beside its budget. It never changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlabSizes {
    pub(super) policy: SlabPolicy,
    placement: Placement,
    limits: Limits,
    pub(super) pages: PageBytes,
    /// The slab of [`SlabPolicy::Expanding`].
    range: Option<CarvedRange>,
    /// A request of at most so many bytes takes no more than a slab can have, whatever it is rounded to.
    few_bytes: u64,
}

impl SlabSizes {
    pub(super) fn new(policy: SlabPolicy, placement: Placement, limits: Limits, page_bytes: Option<u64>) -> Self {
        let pages = PageBytes { alignment_bytes: limits.alignment_bytes, chosen: page_bytes };
        let few_bytes = few_bytes(&limits, limits.alignment_bytes);
        Self { policy, placement, limits, pages, range: None, few_bytes }
    }

    /// Checks the page size that the caller has chosen, if any, for a budget of so many bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it is not a power of two, or out of range.
    pub(super) fn check_pages(&self, budget_bytes: u64) -> Result<()> {
        let Some(bytes) = self.pages.chosen else { return Ok(()) };
        let for_pages_max = budget_bytes.div_ceil(PAGES_MAX.into()).next_power_of_two();
        let least_bytes = self.limits.alignment_bytes.max(for_pages_max);
        // Maps of larger pages would take long to look through.
        let for_units_max = self.limits.alignment_bytes.saturating_mul(UNITS_MAX);
        let part_bytes = (budget_bytes / 64).checked_ilog2().map_or(0, |bits| 1 << bits);
        let most_bytes = part_bytes.min(for_units_max).max(least_bytes);
        if !bytes.is_power_of_two() || !(least_bytes..=most_bytes).contains(&bytes) {
            let message = format!(
                "pages of {}: with a budget of {} they can have powers of two from {} to {}",
                exact(bytes),
                exact(budget_bytes),
                exact(least_bytes),
                exact(most_bytes)
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    /// Computes an expanding slab for a budget of so many bytes for slabs, `times` as many addresses, and the backend's granule. `None`
    /// if there can be none.
    pub(super) fn range_for(&self, granule_bytes: u64, bytes: u64, times: u32) -> Option<AddressRange> {
        let range = AddressRange::new(granule_bytes, &self.limits, self.pages, bytes, times)?;
        let bytes = self.slab(range.bytes);
        (bytes > 0).then_some(AddressRange { bytes, ..range })
    }

    /// Returns the bytes of a page in the largest slabs of a pool that has so many bytes for slabs.
    pub(super) fn page_bytes_in_largest(&self, bytes: u64) -> u64 {
        match &self.range {
            Some(range) => range.page_bytes,
            None => self.pages.of(bytes.min(self.limits.slab.bytes).max(1)),
        }
    }

    /// Returns the most bytes of a piece in the largest slabs of a pool that has so many bytes for slabs.
    pub(super) fn piece_bytes_most(&self, bytes: u64) -> u64 {
        let cut_bytes = match &self.range {
            Some(range) => range.cut_bytes,
            None => self.pages.of_cut(bytes.min(self.limits.slab.bytes).max(1)),
        };
        cut_bytes / 2
    }

    /// The sizes of a pool whose one slab is this range of addresses.
    pub(super) fn of_range(self, range: AddressRange) -> Self {
        let (page_bytes, cut_bytes) = (self.pages.of(range.bytes), self.pages.of_cut(range.bytes));
        let few_bytes = few_bytes(&self.limits, page_bytes);
        Self { range: Some(CarvedRange { range, page_bytes, cut_bytes }), few_bytes, ..self }
    }

    /// Returns how a slab's space places blocks. A slab of one block is as large as the block, whatever a buddy system would
    /// make of it.
    pub(super) fn placement(&self) -> Placement {
        if self.policy == SlabPolicy::PerBlock { Placement::Exact } else { self.placement }
    }

    /// Returns whether a slab can have what a request of so many bytes takes at least. `Err` has that.
    #[inline]
    pub(super) fn fits_limit(&self, bytes: u64, align_bytes: u64) -> std::result::Result<(), u64> {
        if bytes.max(align_bytes) <= self.few_bytes {
            return Ok(());
        }
        match self.least(bytes, align_bytes) {
            Some(least_bytes) if least_bytes > self.limits.slab.bytes => Err(least_bytes),
            _ => Ok(()),
        }
    }

    /// Returns the smallest slab that serves a request. `None` above 2^64.
    pub(super) fn least_for(&self, request: &Request) -> Option<u64> {
        self.least(request.bytes, request.align_bytes)
    }

    /// Returns the smallest slab that serves a request of so many bytes, at a multiple of so many. No slab serves it with fewer bytes
    /// than that, and this one gives it all it has. `None` above 2^64.
    pub(super) fn least(&self, bytes: u64, align_bytes: u64) -> Option<u64> {
        match self.placement() {
            _ if bytes == 0 => Some(0),
            Placement::Exact => match self.range {
                // There is no other slab: it takes an extent of this one, perhaps one that ends in the partial last page.
                Some(carved) if bytes <= carved.range.bytes => {
                    let alignment_bytes = self.limits.alignment_bytes.max(align_bytes);
                    Some(
                        carved.extent_bytes(alignment_bytes, bytes) - carved.saved_in_last_page(alignment_bytes, bytes),
                    )
                }
                _ => round_up(bytes, self.limits.granule_bytes),
            },
            Placement::PowerOfTwo => {
                bytes.checked_next_power_of_two().map(|bytes| bytes.max(self.limits.alignment_bytes))
            }
        }
    }

    /// Returns the largest request that a slab of at most so many bytes serves, within the limits. The reverse of
    /// [`least`](Self::least).
    pub(super) fn most(&self, slab_bytes: u64) -> u64 {
        let Limits { alignment_bytes, granule_bytes, slab, block, .. } = self.limits;
        let slab_bytes = slab_bytes.min(slab.bytes);
        let bytes = match self.placement() {
            Placement::Exact => match &self.range {
                Some(carved) => carved.most(alignment_bytes, slab_bytes),
                None => round_down(slab_bytes, granule_bytes),
            },
            Placement::PowerOfTwo if slab_bytes < alignment_bytes => 0,
            Placement::PowerOfTwo => slab_bytes.checked_ilog2().map_or(0, |bits| 1 << bits),
        };
        bytes.min(block.bytes)
    }

    /// Returns the most bytes that a request takes of an empty slab, which is large enough for it.
    pub(super) fn taken(&self, slab_bytes: u64, request: &Request) -> u64 {
        let least_bytes = self.least_for(request).unwrap_or(u64::MAX);
        if least_bytes >= slab_bytes {
            return least_bytes;
        }
        let alignment_bytes = self.limits.alignment_bytes.max(request.align_bytes);
        let page_bytes = self.pages.of(slab_bytes);
        match self.placement() {
            // A piece that is as large as its alignment.
            Placement::PowerOfTwo if alignment_bytes <= page_bytes => least_bytes.max(alignment_bytes),
            Placement::PowerOfTwo => least_bytes,
            Placement::Exact => {
                let pages = [page_bytes, self.pages.of_cut(slab_bytes)];
                extent_bytes(pages, alignment_bytes, request.bytes).min(slab_bytes)
            }
        }
    }

    /// Returns how much less of an expanding slab a request takes if its run ends in the partial last page. One request can.
    fn saved_in_last_page(&self, request: &Request) -> u64 {
        match &self.range {
            Some(carved) if self.placement() == Placement::Exact => {
                carved.saved_in_last_page(self.limits.alignment_bytes.max(request.align_bytes), request.bytes)
            }
            _ => 0,
        }
    }

    /// Returns the largest slab of at most so many bytes. A buddy system has no use for a partial page, and gets none: so a
    /// request takes the same power of two of every slab.
    pub(super) fn slab(&self, most_bytes: u64) -> u64 {
        self.whole_pages(most_bytes.min(self.limits.slab.bytes))
    }

    /// Returns the same, whatever a slab can have at most.
    fn whole_pages(&self, most_bytes: u64) -> u64 {
        let bytes = round_down(most_bytes, self.limits.granule_bytes);
        if bytes == 0 || self.placement() == Placement::Exact {
            return bytes;
        }
        round_down(bytes, self.pages.of(bytes.min(SLAB_BYTES_MAX)))
    }

    /// Returns the bytes of a page in a slab of so many bytes; 0 for none.
    pub(super) fn page_bytes(&self, slab_bytes: u64) -> u64 {
        if slab_bytes == 0 { 0 } else { self.pages.of(slab_bytes) }
    }

    /// Returns how much of a budget a pool with so much staging can use: an expanding slab has memory in whole granules, but for the
    /// one at its end.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if an expanding slab has fewer addresses.
    pub(super) fn usable_budget(&self, budget_bytes: u64, staging_bytes: u64) -> Result<u64> {
        let Some(carved) = self.range else { return Ok(budget_bytes) };
        let (address_bytes, granule_bytes) = (carved.range.bytes, self.commit_granule_bytes());
        let open_bytes = budget_bytes.saturating_sub(staging_bytes);
        if open_bytes >= address_bytes && self.whole_pages(open_bytes) <= address_bytes {
            // All addresses, and what no slab of a buddy system has.
            return Ok(budget_bytes);
        }
        if open_bytes > address_bytes {
            let (budget, addresses) = (exact(budget_bytes), exact(address_bytes));
            let message = format!("a budget of {budget} for an expanding slab, which has {addresses} of addresses");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let last_bytes = address_bytes % granule_bytes;
        let whole_bytes = open_bytes.checked_sub(last_bytes).map(|bytes| round_down(bytes, granule_bytes) + last_bytes);
        Ok(staging_bytes + whole_bytes.unwrap_or(0))
    }

    /// Returns how much memory comes and goes at once in an expanding slab; 0 for other slabs.
    pub(super) fn commit_granule_bytes(&self) -> u64 {
        self.range.map_or(0, |carved| carved.range.granule_bytes)
    }

    /// Returns the next size in the policy's series, in a pool with this budget, of which so much is left.
    pub(super) fn next(&self, slab_count: usize, budget_bytes: u64, left_bytes: u64) -> u64 {
        let bytes = match self.policy {
            SlabPolicy::PerBlock => 0,
            SlabPolicy::Fixed(bytes) => bytes,
            // To the last granule.
            SlabPolicy::Single | SlabPolicy::Expanding => return left_bytes,
            SlabPolicy::Growing => budget_bytes >> 3usize.saturating_sub(slab_count).max(1),
        };
        round_down(bytes, self.limits.alignment_bytes)
    }

    /// Returns the space of an expanding slab, all of which is free.
    pub(super) fn emptied(&self) -> Option<Space> {
        self.range.map(|carved| self.space(carved.range.bytes))
    }

    /// Returns what a place in it may waste at one end, the rest of a granule and of a cut run; and the bytes of a page.
    pub(super) fn emptied_unit_bytes(&self) -> Option<(u64, u64)> {
        self.range.map(|carved| (carved.range.granule_bytes + carved.cut_bytes, carved.page_bytes))
    }

    /// Returns an empty space for a new slab.
    pub(super) fn space(&self, slab_bytes: u64) -> Space {
        let page_bytes = self.pages.of(slab_bytes);
        match self.range {
            Some(CarvedRange { range: AddressRange { granule_bytes, .. }, .. }) => {
                Space::expanding(slab_bytes, self.limits.alignment_bytes, page_bytes, granule_bytes, self.placement())
            }
            None => Space::with_page_bytes(slab_bytes, self.limits.alignment_bytes, page_bytes, self.placement()),
        }
    }
}

/// What some requests take at least.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Least {
    /// All of them together.
    pub(super) bytes: u64,
    /// Those of them that may not use the reserve.
    outside_bytes: u64,
}

impl Least {
    pub(super) fn new<'a, 'l: 'a>(sizes: &SlabSizes, requests: impl IntoIterator<Item = &'a Request<'l>>) -> Self {
        let mut least = Self::default();
        // One of them is saved the rest of a partial page.
        let (mut saved_bytes, mut saved_outside_bytes) = (0, 0);
        for request in requests {
            let saved = sizes.saved_in_last_page(request);
            let bytes = sizes.least_for(request).unwrap_or(u64::MAX).saturating_add(saved);
            least.bytes = least.bytes.saturating_add(bytes);
            saved_bytes = saved.max(saved_bytes);
            if request.priority != Priority::High {
                least.outside_bytes = least.outside_bytes.saturating_add(bytes);
                saved_outside_bytes = saved.max(saved_outside_bytes);
            }
        }
        least.bytes -= saved_bytes;
        least.outside_bytes -= saved_outside_bytes;
        least
    }

    /// One of the requests takes not what it needs at least, but so many bytes.
    pub(super) fn replace(&mut self, sizes: &SlabSizes, request: &Request, taken_bytes: u64) {
        let more_bytes = taken_bytes.saturating_sub(sizes.least_for(request).unwrap_or(u64::MAX));
        self.bytes = self.bytes.saturating_add(more_bytes);
        if request.priority != Priority::High {
            self.outside_bytes = self.outside_bytes.saturating_add(more_bytes);
        }
    }

    /// Returns the same, and so many bytes for roundings.
    pub(super) fn plus(self, bytes: u64) -> Self {
        let outside_bytes = if self.outside_bytes > 0 { self.outside_bytes.saturating_add(bytes) } else { 0 };
        Self { bytes: self.bytes.saturating_add(bytes), outside_bytes }
    }

    /// Returns whether so much is left, where so much of it is closed to all but high priority. The requests' order does not
    /// matter: what those of high priority get opens as much of the reserve.
    pub(super) fn is_left(self, left_bytes: u64, closed_bytes: u64) -> bool {
        self.bytes <= left_bytes && self.outside_bytes <= left_bytes.saturating_sub(closed_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::SlabSizes;
    use crate::backend::{Limit, Limits};
    use crate::pool::SlabPolicy;
    use crate::pool::expand::AddressRange;
    use crate::space::Placement;

    /// The short way to say yes says nothing else than the long one.
    #[test]
    fn few_bytes_fit_in_every_slab() {
        for (slab_bytes, alignment_bytes) in [(1, 1), (63, 64), (64, 64), (100, 64), (5000, 64), (1 << 20, 256)] {
            let limit = Limit { bytes: slab_bytes, name: "limit of the test" };
            let limits = Limits {
                alignment_bytes,
                alignment_bytes_max: alignment_bytes.max(4096),
                granule_bytes: 1,
                slab: limit,
                block: limit,
            };
            for placement in [Placement::Exact, Placement::PowerOfTwo] {
                let whole = SlabSizes::new(SlabPolicy::Growing, placement, limits, None);
                let range = AddressRange::new(4096, &limits, whole.pages, slab_bytes, 1).unwrap();
                for sizes in [whole, whole.of_range(range)] {
                    for bytes in
                        (0..=2 * slab_bytes.min(6000)).chain((slab_bytes / 2).saturating_sub(100)..slab_bytes / 2 + 100)
                    {
                        for align_bytes in [1, 128, 4096] {
                            let least_bytes = sizes.least(bytes, align_bytes);
                            let is_over = least_bytes.is_some_and(|least_bytes| least_bytes > slab_bytes);
                            let fits = sizes.fits_limit(bytes, align_bytes);
                            assert_eq!(fits.is_err(), is_over, "{bytes} at {align_bytes}, {limits:?}, {placement}");
                        }
                    }
                }
            }
        }
    }
}
