//! The errors of a pool that has no room, with all its numbers and what would help.

use std::time::Duration;

use super::emptied::Open;
use super::labels::Held;
use super::line::PRIORITIES;
use super::sizes::Least;
use super::state::{Room, Short, StateOf, Terms};
use super::{Priority, Request, Shared, SlabPolicy, Stats};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Holder, RefusedBy, Remedy, Shortage};
use crate::sync::{Ordering, caught};

/// How many of the largest holders an error names.
const HOLDERS_NAMED: usize = 5;

/// The state of a pool that cannot serve requests. It is found once for all that fail together.
pub(super) struct Situation {
    numbers: Stats,
    /// Every block starts at a multiple of this.
    alignment_bytes: u64,
    left_bytes: u64,
    booked_bytes: u64,
    over_bytes: u64,
    most_idle_bytes: u64,
    /// The largest ones.
    holders: Vec<Holder>,
    /// Closed to each priority.
    reserve_bytes: [u64; PRIORITIES.len()],
    is_overdue: bool,
    arena_bytes: u64,
    /// The part of the arena that no block has.
    arena_idle_bytes: u64,
    /// Steps plan themselves, so that the arena is freed for a request that finds no room.
    is_arena_learned: bool,
    is_planned: bool,
    /// No block is kept in its place.
    can_all_move: bool,
    room: Room,
    /// The room there would be if the arena were freed, where there is one.
    arena_room: Option<Room>,
    /// The free run that a compaction makes for certain; 0 where that is not known, or not asked.
    compacted_bytes: u64,
}

impl Situation {
    /// Returns the room for a request on these terms, for which the arena may be freed.
    fn room(&self, terms: Terms) -> &Room {
        let is_idle = self.arena_idle_bytes == self.arena_bytes;
        let is_freed = self.is_arena_learned || (is_idle && terms.may_reclaim);
        self.arena_room.as_ref().filter(|_| is_freed).unwrap_or(&self.room)
    }

    /// Returns what would serve a request that was refused on these terms.
    fn remedies(&self, request: &Request, refused_by: RefusedBy, terms: Terms) -> Vec<Remedy> {
        let mut remedies = Vec::new();
        let bytes = request.bytes;
        if self.room(terms).serves(bytes, terms) {
            remedies.extend(request.is_aligned(self.alignment_bytes).then_some(Remedy::Align(self.alignment_bytes)));
            return remedies;
        }
        // What room there would be at such multiples is not known.
        if request.is_aligned(self.alignment_bytes) {
            return remedies;
        }
        // Memory that comes back is offered to the waiters first.
        let is_alone = self.numbers.waiting == 0;
        if is_alone && self.arena_room.as_ref().is_some_and(|room| room.serves(bytes, terms)) {
            remedies.push(Remedy::EndPlannedSteps);
        }
        let high = Terms { priority: Priority::High, ..terms };
        if self.room(high).serves(bytes, high) {
            remedies.push(Remedy::HighPriority);
        }
        let all = Terms { may_grow: true, may_return: true, may_reclaim: true, ..terms };
        if terms != all && self.room(all).serves(bytes, all) {
            remedies.push(Remedy::AllFallbacks);
        }
        // Where a reserve is closed, or the budget has less than is reserved, whole pages may be more than is open.
        if refused_by == RefusedBy::Fragmentation
            && self.can_all_move
            && is_alone
            && self.reserve_bytes[terms.priority as usize] == 0
            && self.over_bytes == 0
            && bytes <= self.compacted_bytes
        {
            remedies.push(Remedy::Compact);
        }
        remedies
    }
}

impl<B: Backend> Shared<B> {
    /// The budget had room, and the backend had none.
    pub(super) fn refused(&self, requests: &[Request], error: Error) -> Error {
        self.fold_unless_gathered(requests);
        let held = self.labels.held(self.shards);
        let situation = self.situation(&self.state(), held, false);
        let refusal = Refusal { kind: ErrorKind::OutOfMemory, by: RefusedBy::Backend, waited: Duration::ZERO };
        self.shortage_in(&situation, requests, refusal, self.least_bytes(requests)).with_source(error)
    }

    /// The error of requests that no fallback has helped.
    pub(super) fn no_room(&self, requests: &[Request], short: &Short) -> Error {
        self.fold_unless_gathered(requests);
        let (kind, by, needed_bytes) = match short {
            // What is left is kept for a waiter that is due.
            Short::Turn => (ErrorKind::Full, RefusedBy::Queue, self.least_bytes(requests)),
            Short::Of(lack) if lack.is_left => (ErrorKind::Fragmented, lack.refused_by, lack.needed_bytes),
            Short::Of(lack) => (ErrorKind::Full, lack.refused_by, lack.needed_bytes),
        };
        let held = self.labels.held(self.shards);
        let situation = self.situation(&self.state(), held, by == RefusedBy::Fragmentation);
        self.shortage_in(&situation, requests, Refusal { kind, by, waited: Duration::ZERO }, needed_bytes)
    }

    /// The error of requests that can never be served. Nothing is reclaimed for them.
    pub(super) fn over_budget(&self, requests: &[Request]) -> Error {
        self.fold_shards();
        let held = self.labels.held(self.shards);
        let situation = self.situation(&self.state(), held, false);
        self.over_budget_in(&situation, requests, Duration::ZERO)
    }

    /// As [`over_budget`](Self::over_budget), for requests that waited for so long.
    pub(super) fn over_budget_in(&self, situation: &Situation, requests: &[Request], waited: Duration) -> Error {
        let least = Least::new(&self.sizes, requests);
        let numbers = &situation.numbers;
        let open = Open { bytes: numbers.budget_bytes.saturating_sub(numbers.staging_bytes), reserve_bytes: 0 };
        let is_left = least.is_left(open.bytes, 0);
        let is_within = is_left && self.sizes.serve_when_empty(requests, least, open);
        let by = if is_within { RefusedBy::Reserve } else { RefusedBy::Budget };
        let mut needed_bytes = least.bytes;
        if is_left && (!is_within || least.is_left(open.bytes, self.reserve_bytes)) {
            // What they take is more than the least: whole granules, whole pages for pieces, or addresses at such multiples.
            let taken = self.sizes.taken_when_empty(requests, if is_within { open } else { Open::ALL });
            let (taken_bytes, open_bytes) = match is_within {
                true => (taken.used_bytes, open.bytes.saturating_sub(self.reserve_bytes)),
                false => (taken.committed_bytes, open.bytes),
            };
            // Other places may take less than these, and all that were tried are more than there is.
            needed_bytes = needed_bytes.max(taken_bytes).max(open_bytes + 1);
        }
        self.shortage_in(situation, requests, Refusal { kind: ErrorKind::OverBudget, by, waited }, needed_bytes)
    }

    /// Returns what would help a request whose alignment is wrong: a right one, if there is room.
    pub(super) fn alignment_remedies(&self, request: &Request) -> Vec<Remedy> {
        let terms = Terms::of(std::slice::from_ref(request));
        if self.backend.check().is_err() {
            return Vec::new();
        }
        let state = self.state();
        let serves = state.check_open().is_ok() && state.room().serves(request.bytes, terms);
        if serves { vec![Remedy::Align(self.limits.alignment_bytes)] } else { Vec::new() }
    }

    /// Enters what the shards have not told yet, where no attempt to serve the requests did so.
    fn fold_unless_gathered(&self, requests: &[Request]) {
        if !Terms::of(requests).may_reclaim {
            self.fold_shards();
        }
    }

    fn least_bytes(&self, requests: &[Request]) -> u64 {
        Least::new(&self.sizes, requests).bytes
    }

    /// The numbers of the pool, whatever was asked for.
    pub(super) fn situation(&self, state: &StateOf<B>, held: Held, wants_compaction: bool) -> Situation {
        let numbers = state.numbers();
        let holders = held.holders(numbers.used_bytes, numbers.blocks, HOLDERS_NAMED);
        let reserve_bytes = PRIORITIES.map(|priority| state.closed_bytes(priority));
        let planner = self.shards.planner();
        let (arena_bytes, arena_idle_bytes) = (planner.arena_bytes(), planner.arena_idle_bytes());
        let (is_arena_learned, is_planned) = (planner.is_auto(), planner.is_on());
        let can_all_move =
            planner.keeps_no_block() && !self.zero_on_free && self.kept_blocks.load(Ordering::Acquire) == 0;
        let idle_runs = planner.idle_runs();
        drop(planner);
        Situation {
            numbers,
            alignment_bytes: self.limits.alignment_bytes,
            left_bytes: state.left_bytes(),
            booked_bytes: state.booked_bytes(),
            over_bytes: state.over_bytes(),
            most_idle_bytes: state.idle().most_bytes,
            holders,
            reserve_bytes,
            is_overdue: state.is_due(),
            arena_bytes,
            arena_idle_bytes,
            is_arena_learned,
            is_planned,
            can_all_move,
            room: state.room(),
            arena_room: (arena_bytes > 0).then(|| state.room_with(&idle_runs)),
            compacted_bytes: if can_all_move && wants_compaction { state.compacted_bytes() } else { 0 },
        }
    }

    /// The error of requests that could not be served in such a situation.
    pub(super) fn shortage_in(
        &self,
        situation: &Situation,
        requests: &[Request],
        refusal: Refusal,
        needed_bytes: u64,
    ) -> Error {
        let Refusal { kind, by: refused_by, waited } = refusal;
        let Situation { numbers, reserve_bytes, .. } = situation;
        let mut terms = Terms::of(requests);
        // The thread that records work does not wait until that work is done.
        let is_recording = caught(|| self.backend.is_recording()).unwrap_or(false);
        terms.may_return &= !is_recording;
        // What the backend has no memory for now, it may have for a smaller slab.
        let served = Terms { may_grow: terms.may_grow && refused_by != RefusedBy::Backend, ..terms };
        let has_reclaimed = terms.may_reclaim && kind != ErrorKind::OverBudget;
        let listed_bytes = if has_reclaimed { 0 } else { self.shards.largest_listed() };
        let label = requests.iter().map(|request| request.label.text()).find(|label| !label.is_empty());
        let aligned = requests.iter().filter(|request| request.is_aligned(self.limits.alignment_bytes));
        let aligns = aligned.map(|request| request.align_bytes);
        let shortage = Shortage {
            asked_bytes: requests.iter().fold(0, |sum, request| sum.saturating_add(request.bytes)),
            align_bytes: aligns.max().unwrap_or(1),
            needed_bytes,
            requests: requests.len() as u64,
            label: label.map(str::to_owned),
            refused_by,
            largest_bytes: situation.room(terms).largest(served).max(listed_bytes),
            budget_bytes: numbers.budget_bytes,
            reserved_bytes: numbers.reserved_bytes,
            left_bytes: situation.left_bytes,
            booked_bytes: situation.booked_bytes,
            over_bytes: situation.over_bytes,
            live_bytes: numbers.live_bytes,
            used_bytes: numbers.used_bytes,
            cached_bytes: numbers.cached_bytes,
            retired_bytes: numbers.retired_bytes,
            free_bytes: numbers.free_bytes,
            staging_bytes: numbers.staging_bytes,
            largest_free_run_bytes: numbers.largest_free_run_bytes,
            most_idle_bytes: situation.most_idle_bytes,
            granule_bytes: self.sizes.commit_granule_bytes(),
            high_priority_reserve_bytes: match terms.priority {
                Priority::High => 0,
                _ if kind == ErrorKind::OverBudget => self.reserve_bytes,
                priority => reserve_bytes[priority as usize],
            },
            arena_bytes: situation.arena_bytes,
            arena_idle_bytes: situation.arena_idle_bytes,
            may_grow: terms.may_grow,
            waited,
            waiting: numbers.waiting,
            is_overdue: situation.is_overdue,
            holders: situation.holders.clone(),
        };
        let mut remedies = match requests {
            [request] if refused_by != RefusedBy::Backend && !request.for_the_pool && !is_recording => {
                situation.remedies(request, refused_by, terms)
            }
            _ => Vec::new(),
        };
        self.add_possible(&shortage, situation, &mut remedies);
        Error::shortage_of(kind, shortage, remedies)
    }

    /// Adds what may help from the start of the program.
    fn add_possible(&self, shortage: &Shortage, situation: &Situation, remedies: &mut Vec<Remedy>) {
        let is_in_parts = matches!(shortage.refused_by, RefusedBy::Slabs | RefusedBy::Fragmentation);
        if !is_in_parts || shortage.needed_bytes > shortage.unused_bytes() {
            return;
        }
        let may_be_one = !matches!(self.policy, SlabPolicy::Single | SlabPolicy::Expanding);
        let fits_in_one = may_be_one && shortage.needed_bytes <= self.limits.slab.bytes;
        if shortage.refused_by == RefusedBy::Slabs && fits_in_one {
            remedies.push(Remedy::SingleSlab);
        }
        if !situation.is_planned && shortage.align_bytes == 1 {
            remedies.push(Remedy::PlanSteps);
        }
    }
}

/// Why requests were refused.
pub(super) struct Refusal {
    pub(super) kind: ErrorKind,
    pub(super) by: RefusedBy,
    pub(super) waited: Duration,
}
