//! Whether a pool was right to refuse a request, and said the right numbers.

use tensorpool::space::Space;
use tensorpool::{Error, ErrorKind, Limits, Placement, Priority, SlabPolicy};

use super::disturbed::Ground;
use super::pool::Program;
use super::pool_requests::{Ask, GROW, RECLAIM, Setup};

/// Where pages and cut runs are not larger.
const GRANULE_BYTES_MOST: u64 = 64 << 10;

/// What was asked, and how things were before.
pub struct Attempt<'a> {
    asks: &'a [Ask],
    /// Whether the call could give empty slabs back and wait for that.
    may_block: bool,
    /// Nothing was held, nothing retired: the whole budget could be had.
    was_empty: bool,
    /// The backend was to fail, or other requests are in line.
    was_near: bool,
    has_others: bool,
    /// Calls of wakers and writers until then.
    activity: Result<u64, String>,
}

impl<'a> Attempt<'a> {
    pub fn new<B: Ground>(program: &Program<B>, asks: &'a [Ask], may_block: bool) -> Self {
        let was_empty = program.books.used_bytes + program.books.retired_bytes == 0;
        let was_near = program.trouble.is_near();
        let (has_others, activity) = (!program.waiters.is_empty(), program.office.activity());
        Self { asks, may_block, was_empty, was_near, has_others, activity }
    }

    /// Whether nothing but the call was at work.
    fn was_alone<B: Ground>(&self, program: &Program<B>) -> bool {
        !self.has_others && self.activity.is_ok() && self.activity == program.office.activity()
    }

    fn bytes(&self) -> u64 {
        self.asks.iter().fold(0, |sum, ask| sum.saturating_add(ask.bytes))
    }

    fn any(&self, is: impl Fn(&Ask) -> bool) -> bool {
        self.asks.iter().any(is)
    }
}

impl<B: Ground> Program<B> {
    /// Panics if the error is not one that this attempt could have.
    pub fn judge(&self, attempt: &Attempt<'_>, error: &Error) {
        let (setup, limits) = (&self.setup, &self.limits);
        let is_right = match error.kind() {
            ErrorKind::Alignment => {
                attempt.any(|ask| !ask.align_bytes.is_power_of_two() || ask.align_bytes > limits.alignment_bytes_max)
            }
            ErrorKind::TooLarge => attempt.any(|ask| {
                let (bytes, saved) = slab_bytes(ask, setup, limits, self.address_bytes);
                bytes - saved > limits.slab.bytes
            }),
            ErrorKind::OverBudget => {
                let (asks, open_bytes) = (attempt.asks, setup.open_bytes());
                self.is_over_budget(asks, open_bytes) || self.may_lack_places(asks, open_bytes)
            }
            ErrorKind::Full | ErrorKind::Fragmented => !self.must_be_served(attempt),
            ErrorKind::Timeout => attempt.asks.iter().all(|ask| ask.wait.is_some()) && !self.must_be_served(attempt),
            ErrorKind::Device => attempt.was_near || self.trouble.has_cleared_line(error),
            ErrorKind::OutOfMemory => attempt.was_near,
            _ => false,
        };
        assert!(is_right, "{:?} for {:?} in {setup}: {error}", error.kind(), attempt.asks);
        // What others have got or freed meanwhile is not in the books.
        if attempt.was_alone(self) {
            self.judge_numbers(attempt, error);
        }
    }

    /// Whether the asks take more than so many bytes, or more of them than those of their priority may have.
    pub fn is_over_budget(&self, asks: &[Ask], open_bytes: u64) -> bool {
        let is_high = |ask: &Ask| ask.priority == Priority::High;
        // One of them may end in a partial last page.
        let needed_bytes = |asks: &mut dyn Iterator<Item = &Ask>| {
            let (mut sum, mut saved_most) = (0u64, 0);
            for ask in asks {
                let (bytes, saved) = slab_bytes(ask, &self.setup, &self.limits, self.address_bytes);
                sum = sum.saturating_add(bytes);
                saved_most = saved.max(saved_most);
            }
            sum - saved_most
        };
        let others_bytes = needed_bytes(&mut asks.iter().filter(|ask| !is_high(ask)));
        needed_bytes(&mut asks.iter()) > open_bytes || others_bytes > open_bytes - self.setup.reserve_bytes
    }

    fn judge_numbers(&self, attempt: &Attempt<'_>, error: &Error) {
        let setup = &self.setup;
        let Some(shortage) = error.shortage() else { return };
        // What is above a budget that was lowered is not left to any request.
        let taken_bytes = shortage.used_bytes + shortage.retired_bytes;
        let left_bytes = setup.open_bytes().saturating_sub(taken_bytes);
        let available_bytes = left_bytes.saturating_sub(shortage.high_priority_reserve_bytes);
        let ours = (attempt.bytes(), self.books.live_bytes, self.books.used_bytes);
        assert_eq!(ours, (shortage.asked_bytes, shortage.live_bytes, shortage.used_bytes), "{error}");
        assert!(shortage.needed_bytes >= shortage.asked_bytes, "{error}");
        assert_eq!(shortage.may_grow, !attempt.any(|ask| ask.without[GROW]), "{error}");
        let parts = taken_bytes + shortage.staging_bytes + shortage.unused_bytes();
        let budget_bytes = shortage.budget_bytes.max(taken_bytes + shortage.staging_bytes);
        assert_eq!(parts, budget_bytes, "the parts are not the budget: {error}");
        assert_eq!(shortage.over_bytes, shortage.reserved_bytes.saturating_sub(shortage.budget_bytes), "{error}");
        // A call that may not wait for the device could get more by waiting, and a slab whose way back panics is there again.
        let is_at_once = attempt.may_block && matches!(error.kind(), ErrorKind::Full | ErrorKind::Fragmented);
        // Lists serve a request that may not reclaim in their own sizes alone, and so does a slab of one block.
        let is_of_one_size = attempt.any(|ask| ask.without[RECLAIM])
            || (setup.policy == SlabPolicy::PerBlock && !attempt.asks.iter().all(Ask::may_do_all));
        // The largest request is one that may begin anywhere.
        let is_plain = !attempt.any(|ask| ask.align_bytes > self.limits.alignment_bytes);
        if is_at_once && !is_of_one_size && is_plain && !attempt.was_near && attempt.asks.len() == 1 {
            let is_right = shortage.largest_bytes < shortage.asked_bytes;
            assert!(is_right, "{:?} would be served in {setup}: {error}", attempt.asks);
        }
        if error.kind() != ErrorKind::OverBudget && attempt.any(|ask| ask.priority != Priority::High) {
            // What waits to be zeroed may be of high priority; what is in the arena of planned steps is of none.
            let dirty_bytes = shortage.retired_bytes.saturating_sub(self.books.retired_bytes);
            let closed_bytes = |high_bytes| setup.reserve_bytes.saturating_sub(high_bytes);
            let least_bytes = closed_bytes(self.books.high_bytes + dirty_bytes);
            let most_bytes = closed_bytes(if self.steps.were_planned { 0 } else { self.books.high_bytes });
            let is_right = (least_bytes..=most_bytes).contains(&shortage.high_priority_reserve_bytes);
            assert!(is_right, "{least_bytes} to {most_bytes} are closed: {error}");
        }
        match error.kind() {
            ErrorKind::Full if attempt.any(|ask| ask.without[GROW]) => {}
            ErrorKind::Full => assert!(shortage.needed_bytes > available_bytes, "not full: {error}"),
            // The part of a batch that is of high priority may use the reserve.
            ErrorKind::Fragmented if attempt.any(|ask| ask.priority == Priority::High) => {
                assert!(shortage.needed_bytes <= left_bytes, "not fragmented: {error}");
            }
            ErrorKind::Fragmented => assert!(shortage.needed_bytes <= available_bytes, "not fragmented: {error}"),
            _ => {}
        }
    }

    /// Requests that may do everything get whatever an empty pool's budget and limits allow.
    fn must_be_served(&self, attempt: &Attempt<'_>) -> bool {
        // Who waits in line does not wait for a device beyond his time.
        let may_block = attempt.may_block && (attempt.any(|ask| ask.wait.is_none()) || !self.is_late());
        let may_all = may_block && attempt.asks.iter().all(Ask::may_do_all);
        may_all
            && attempt.was_empty
            && !attempt.was_near
            && attempt.was_alone(self)
            && !self.may_lack_pages(attempt.asks)
    }

    /// Whether a reserve may leave less open than the whole pages that asks for multiples take in a slab that is there.
    fn may_lack_pages(&self, asks: &[Ask]) -> bool {
        let (setup, limits) = (&self.setup, &self.limits);
        let page_bytes = Space::new(setup.open_bytes().max(1), limits.alignment_bytes, setup.placement).page_bytes();
        let in_pages = |ask: &Ask| ask.bytes.checked_next_multiple_of(page_bytes).unwrap_or(u64::MAX);
        let needed_bytes = asks.iter().map(in_pages).fold(0, u64::saturating_add);
        setup.reserve_bytes > 0
            && asks.iter().any(|ask| ask.align_bytes > limits.alignment_bytes)
            && needed_bytes > setup.open_bytes() - setup.reserve_bytes
    }

    /// Whether blocks may be in each other's way in an empty expanding slab: in few granules, or at few multiples.
    pub fn may_lack_places(&self, asks: &[Ask], open_bytes: u64) -> bool {
        if self.address_bytes == 0 {
            return false;
        }
        let space = Space::new(self.address_bytes, self.limits.alignment_bytes, self.setup.placement);
        let unit_bytes = space.page_bytes().max(space.cut_bytes());
        let whole = |ask: &Ask| ask.bytes.max(ask.align_bytes).next_multiple_of(unit_bytes);
        let granule_bytes = GRANULE_BYTES_MOST.max(unit_bytes);
        let needed_bytes = asks.iter().map(whole).fold(2 * (granule_bytes + unit_bytes), u64::saturating_add);
        needed_bytes > open_bytes - self.setup.reserve_bytes
    }
}

/// The smallest slab that an ask needs, or the smallest extent of an expanding one; `u64::MAX` also if that is more. And how much
/// less that is for a run that ends in a partial last page.
fn slab_bytes(ask: &Ask, setup: &Setup, limits: &Limits, address_bytes: u64) -> (u64, u64) {
    slab_bytes_for((ask.bytes, ask.align_bytes), setup, limits, address_bytes)
}

/// The same for so many bytes, at a multiple of so many.
pub fn slab_bytes_for(
    (bytes, align_bytes): (u64, u64),
    setup: &Setup,
    limits: &Limits,
    address_bytes: u64,
) -> (u64, u64) {
    let Limits { alignment_bytes, granule_bytes, .. } = *limits;
    let round_down = |bytes: u64, unit: u64| bytes / unit * unit;
    let up = |bytes: u64, unit: u64| bytes.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
    let power = bytes.checked_next_power_of_two().unwrap_or(u64::MAX).max(alignment_bytes);
    match (setup.policy, setup.placement) {
        (_, _) if bytes == 0 => (0, 0),
        (_, Placement::Exact) if address_bytes > 0 && bytes <= address_bytes => {
            let space = Space::new(address_bytes, alignment_bytes, Placement::Exact);
            let (page_bytes, cut_bytes) = (space.page_bytes(), space.cut_bytes());
            let last_bytes = address_bytes % page_bytes;
            let in_last_bytes = up(bytes.saturating_sub(last_bytes), page_bytes).saturating_add(last_bytes);
            let power = power.max(align_bytes);
            let has_multiples = align_bytes > page_bytes;
            let extent_bytes = if power < cut_bytes && !has_multiples { power } else { up(bytes, page_bytes) };
            // At a multiple a run may end with the slab, but need not end in its last page.
            let end_bytes = if has_multiples {
                address_bytes - round_down(address_bytes - bytes, align_bytes)
            } else {
                in_last_bytes
            };
            (extent_bytes, if last_bytes > 0 { extent_bytes.saturating_sub(end_bytes) } else { 0 })
        }
        (SlabPolicy::PerBlock, _) | (_, Placement::Exact) => (up(bytes, granule_bytes), 0),
        (_, Placement::PowerOfTwo) => (power, 0),
    }
}
