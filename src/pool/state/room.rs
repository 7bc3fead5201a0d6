//! What a pool that cannot serve a request would serve now, found from the maps, and what refused the request.

use super::moves::PIECES_MAX;
use super::place::Memory;
use super::{Slot, State};
use crate::error::RefusedBy;
use crate::pool::line::PRIORITIES;
use crate::pool::sizes::{Least, SlabSizes};
use crate::pool::{Fallback, Priority, Request, SlabPolicy};
use crate::space::{Cost, Extent, Placement, Space};

/// How a request may be served, whatever its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::pool) struct Terms {
    pub(in crate::pool) priority: Priority,
    pub(in crate::pool) may_grow: bool,
    pub(in crate::pool) may_return: bool,
    pub(in crate::pool) may_reclaim: bool,
}

impl Terms {
    /// Returns the terms of requests: the least priority, and what all of them allow.
    pub(in crate::pool) fn of(requests: &[Request]) -> Self {
        let may = |fallback| requests.iter().all(|request| request.may(fallback));
        Self {
            priority: requests.iter().map(|request| request.priority).min().unwrap_or_default(),
            may_grow: may(Fallback::Grow),
            may_return: may(Fallback::ReturnEmpty),
            may_reclaim: may(Fallback::Reclaim),
        }
    }
}

/// What no caller has of the slabs.
#[derive(Clone, Copy, Debug)]
pub(in crate::pool) struct Idle {
    /// Free lists and arenas included.
    pub(in crate::pool) bytes: u64,
    /// In the slab that has most, without those.
    pub(in crate::pool) most_bytes: u64,
}

/// The room for one request.
#[derive(Clone, Debug)]
pub(in crate::pool) struct Room {
    sizes: SlabSizes,
    /// The sizes of empty slabs, in a pool of one slab a block: each serves the requests of its size alone.
    of_blocks: Vec<u64>,
    /// By priority: the largest request that a slab serves.
    in_slabs: [u64; PRIORITIES.len()],
    /// By priority: the largest request that memory can be committed for in an expanding slab, without what is spare and with it.
    in_range: [[u64; 2]; PRIORITIES.len()],
    /// By priority: what a request may take.
    open_bytes: [u64; PRIORITIES.len()],
    /// By priority: what may be taken before the waiters that are due.
    turn_bytes: [u64; PRIORITIES.len()],
    /// What is left of the budget.
    left_bytes: u64,
    /// What is left of it once empty slabs are given back.
    left_after_bytes: u64,
}

impl Room {
    /// Returns the largest request that is served on these terms.
    pub(in crate::pool) fn largest(&self, terms: Terms) -> u64 {
        self.in_slabs[terms.priority as usize].max(self.in_new_slab(terms))
    }

    /// Returns whether a request of so many bytes is served on these terms.
    pub(in crate::pool) fn serves(&self, bytes: u64, terms: Terms) -> bool {
        if self.sizes.policy != SlabPolicy::PerBlock {
            return bytes <= self.largest(terms);
        }
        let least_bytes = self.sizes.least(bytes, 1);
        let has_slab = self.of_blocks.iter().any(|slab_bytes| least_bytes == Some(*slab_bytes));
        (has_slab && bytes <= self.in_slabs[terms.priority as usize]) || bytes <= self.in_new_slab(terms)
    }

    /// Returns whether a slab of its own would serve a request, whose alignment every slab has.
    fn serves_in_new_slab(&self, request: &Request, terms: Terms) -> bool {
        request.bytes <= self.in_new_slab(terms)
    }

    /// Returns the largest request that a slab of its own would serve.
    fn in_new_slab(&self, terms: Terms) -> u64 {
        if !terms.may_grow {
            return 0;
        }
        let priority = terms.priority as usize;
        if self.sizes.policy == SlabPolicy::Expanding {
            return self.in_range[priority][usize::from(terms.may_return)];
        }
        let slab_bytes = if terms.may_return { self.left_after_bytes } else { self.left_bytes };
        self.sizes.most(slab_bytes.min(self.open_bytes[priority]).min(self.turn_bytes[priority]))
    }
}

impl<S> State<S> {
    /// Returns whether a request is served on these terms.
    pub(in crate::pool) fn serves(&mut self, request: &Request, terms: Terms) -> bool {
        if !request.is_aligned(self.sizes.pages.alignment_bytes) {
            return self.room().serves(request.bytes, terms);
        }
        if request.bytes == 0 {
            return true;
        }
        // The maps do not know of multiples: it is placed for that.
        let requests = std::slice::from_ref(request);
        if !self.may_be_served(requests) {
            return false;
        }
        if let Ok(home) = self.place(request, Memory::Elsewhere) {
            self.put_back([home]);
            return true;
        }
        if self.is_expanding() {
            terms.may_grow && self.has_expansion(requests, terms.may_return)
        } else {
            self.room().serves_in_new_slab(request, terms)
        }
    }

    /// Returns the room there is now.
    pub(in crate::pool) fn room(&self) -> Room {
        self.room_with(&[])
    }

    /// Returns the room there would be once these runs were back in their spaces.
    pub(in crate::pool) fn room_with(&self, back: &[(Slot, Extent)]) -> Room {
        let mut changed: Vec<(Slot, Space)> = Vec::new();
        for (slot, extent) in back {
            let index = changed.iter().position(|(other, _)| other == slot).unwrap_or_else(|| {
                changed.push((*slot, self.entry(*slot).space.clone()));
                changed.len() - 1
            });
            changed[index].1.release(*extent);
        }
        let all = || {
            self.entries.iter().flatten().map(|entry| {
                let found = changed.iter().find(|(other, _)| *other == entry.slab.slot);
                found.map_or(&entry.space, |(_, space)| space)
            })
        };
        let bytes_of_empty = all().filter(|space| space.is_empty()).map(Space::bytes).sum::<u64>();
        // Then empty slabs leave with what comes back.
        let leave = !back.is_empty() && self.gives_back_at_once() && !self.is_expanding();
        let spaces = || all().filter(|space| !leave || !space.is_empty());
        // Spare memory that leaves is in the way until it has gone.
        let mut after: Vec<(Slot, Space)> = Vec::new();
        for (slot, extent) in self.leaving_spare() {
            let index = after.iter().position(|(other, _)| *other == slot).unwrap_or_else(|| {
                let found = changed.iter().find(|(other, _)| *other == slot);
                after.push((slot, found.map_or(&self.entry(slot).space, |(_, space)| space).clone()));
                after.len() - 1
            });
            after[index].1.decommit(extent);
            after[index].1.release(extent);
        }
        let left_bytes = self.left_bytes_after(if leave { bytes_of_empty } else { 0 });
        let more_bytes: u64 = back.iter().map(|(_, extent)| extent.bytes()).sum();
        let open_bytes = PRIORITIES.map(|priority| {
            let closed_bytes = self.closed_bytes(priority);
            self.books.left_bytes_after(more_bytes).saturating_sub(closed_bytes)
        });
        let turn_bytes = PRIORITIES.map(|priority| self.turn_bytes(priority));
        let mut in_slabs = [0; PRIORITIES.len()];
        let mut in_range = [[0; 2]; PRIORITIES.len()];
        for priority in PRIORITIES {
            let index = priority as usize;
            let is_as_before =
                index > 0 && (open_bytes[index], turn_bytes[index]) == (open_bytes[index - 1], turn_bytes[index - 1]);
            let limit = self.sizes.most(turn_bytes[index]);
            in_range[index] = match is_as_before {
                _ if !self.is_expanding() => [0; 2],
                true => in_range[index - 1],
                false => [false, true].map(|may_return| {
                    let leaving_bytes = if may_return { self.leaving_bytes() } else { 0 };
                    let left_bytes = self.left_bytes_after(leaving_bytes);
                    let after = after.iter().filter(|_| may_return).map(|(_, space)| space);
                    let of_space = |space: &Space| {
                        let spare_bytes = if may_return { space.spare_bytes() } else { 0 };
                        let kept_bytes = self.left_bytes_after(leaving_bytes + spare_bytes) - left_bytes;
                        let most =
                            Cost { extent_bytes: open_bytes[index], missing_bytes: left_bytes, kept_bytes, may_return };
                        space.most_bytes_cheap(most, limit)
                    };
                    spaces().chain(after).map(of_space).max().unwrap_or(0)
                }),
            };
            in_slabs[index] = if is_as_before {
                in_slabs[index - 1]
            } else {
                self.most_in_slabs(spaces(), back.is_empty(), left_bytes, open_bytes[index], limit)
            };
        }
        let empty = spaces().filter(|space| space.is_empty()).map(Space::bytes);
        let is_per_block = self.sizes.policy == SlabPolicy::PerBlock;
        Room {
            sizes: self.sizes,
            of_blocks: if is_per_block { empty.collect() } else { Vec::new() },
            in_slabs,
            in_range,
            open_bytes,
            turn_bytes,
            left_bytes,
            left_after_bytes: self.left_bytes_after(bytes_of_empty.saturating_add(self.leaving_bytes())),
        }
    }

    /// Returns the largest request of at most `limit` bytes that one of these spaces serves with an extent that is open, where so
    /// much is left of the budget. `are_all`: they are those of all slabs, as they are now.
    fn most_in_slabs<'a>(
        &self,
        spaces: impl Iterator<Item = &'a Space>,
        are_all: bool,
        left_bytes: u64,
        open_bytes: u64,
        limit: u64,
    ) -> u64 {
        if self.sizes.policy == SlabPolicy::PerBlock {
            // A block of another size does not get it.
            let whole = spaces.filter(|space| space.is_empty() && space.bytes() <= open_bytes);
            let served = whole.filter(|space| self.sizes.least(space.bytes().min(limit), 1) == Some(space.bytes()));
            return served.map(|space| space.bytes().min(limit)).max().unwrap_or(0);
        }
        let of_space = |space: &Space| space.most_bytes_within(open_bytes, limit);
        if are_all && self.slabs > 0 {
            return self.most_of_slabs(of_space);
        }
        if let Some(bytes) = spaces.map(of_space).max() {
            return bytes;
        }
        // A pool of one slab that has given it back reserves it again, whatever the request may fall back on.
        match self.sizes.slab(left_bytes) {
            slab_bytes if slab_bytes > 0 && self.sizes.policy == SlabPolicy::Single => {
                self.sizes.space(slab_bytes).most_bytes_within(open_bytes, limit)
            }
            _ => 0,
        }
    }

    /// Returns how many bytes a request of this priority may take before the waiters that are due.
    fn turn_bytes(&self, priority: Priority) -> u64 {
        let Some(due) = self.line.due_priority() else { return u64::MAX };
        if due == Priority::High || !self.first_due_lacks_bytes() || priority < Priority::High {
            return 0;
        }
        self.closed_bytes(Priority::Normal)
    }

    /// Returns what is idle.
    pub(in crate::pool) fn idle(&self) -> Idle {
        let (slab_bytes, most_bytes) = (self.slab_bytes().0, self.most_unassigned_bytes());
        // Spare memory that leaves is committed still.
        let leaving_bytes = if self.is_expanding() { self.leaving_bytes() } else { 0 };
        let held_bytes = self.books.used_bytes() + self.books.retired_bytes() + leaving_bytes;
        Idle { bytes: u64::saturating_sub(slab_bytes, held_bytes), most_bytes }
    }

    /// Returns a free run that [`Pool::compact_for`](crate::Pool::compact_for) makes for certain if all blocks can move; 0 where that is
    /// not known. For a pool without an arena.
    pub(in crate::pool) fn compacted_bytes(&self) -> u64 {
        let has_kept = self.books.listed_bytes() > 0 || !self.retired.is_empty();
        if has_kept || self.sizes.policy == SlabPolicy::PerBlock || self.sizes.placement() != Placement::Exact {
            return 0;
        }
        self.entries.iter().flatten().map(|entry| entry.space.compacted_bytes(PIECES_MAX)).max().unwrap_or(0)
    }

    /// Returns what refuses requests that wait no more, and what they take. `is_denied`: the backend had no memory for them.
    ///
    /// A batch is placed for that, and a request where a reserve is closed, or where more is reserved than the budget has, since whole
    /// pages may be more than is open. The maps tell otherwise.
    pub(in crate::pool) fn refusal(
        &mut self,
        requests: &[Request],
        is_denied: bool,
        room: &Room,
        idle: Idle,
    ) -> (RefusedBy, u64) {
        let (terms, least) = (Terms::of(requests), Least::new(&self.sizes, requests));
        let is_aligned = |request: &Request| request.is_aligned(self.sizes.pages.alignment_bytes);
        let is_aligned = requests.iter().any(is_aligned);
        let is_there = match requests {
            [request] if is_aligned => self.serves(request, terms),
            [request] => room.serves(request.bytes, terms),
            _ => is_denied && least.is_left(self.left_bytes(), self.closed_bytes(Priority::Normal)),
        };
        let late = match self.may_be_served(requests) {
            _ if is_denied => RefusedBy::Backend,
            true => RefusedBy::Time,
            false => RefusedBy::Queue,
        };
        if is_there {
            return (late, least.bytes);
        }
        let is_all_open = self.closed_bytes(Priority::Normal) == 0 && self.over_bytes == 0;
        let (by, needed_bytes) = if requests.len() == 1 && is_all_open && !is_aligned {
            (self.lacks(least, terms.may_grow, requests[0].bytes, || idle), least.bytes)
        } else {
            match self.place_all(requests, Memory::Elsewhere) {
                Ok(homes) => {
                    self.put_back(homes);
                    (late, least.bytes)
                }
                Err(lack) => (lack.refused_by, lack.needed_bytes),
            }
        };
        let is_in_parts = matches!(by, RefusedBy::Slabs | RefusedBy::Fragmentation | RefusedBy::Kept);
        (if is_in_parts && late == RefusedBy::Queue { late } else { by }, needed_bytes)
    }

    /// Returns what requests lack that take so much at least, the first of which has `lacking_bytes`.
    pub(super) fn lacks(&self, least: Least, may_grow: bool, lacking_bytes: u64, idle: impl Fn() -> Idle) -> RefusedBy {
        // Idle memory in free lists and arenas counts as left. Slabs on their way back do not.
        let left_bytes = self.books.unused_bytes().saturating_sub(self.leaving_bytes());
        let closed_bytes = self.closed_bytes(Priority::Normal);
        if !least.is_left(left_bytes, 0) {
            RefusedBy::Budget
        } else if !least.is_left(left_bytes, closed_bytes) {
            RefusedBy::Reserve
        } else if !may_grow && !least.is_left(idle().bytes, 0) {
            RefusedBy::Slabs
        } else if !least.is_left(left_bytes.saturating_sub(self.books.listed_bytes()), closed_bytes) {
            RefusedBy::Kept
        } else if self.is_expanding() {
            // Granules that are used in part leave no room for the others.
            RefusedBy::Fragmentation
        } else if self.sizes.policy != SlabPolicy::PerBlock
            && self.sizes.least(lacking_bytes, 1).is_some_and(|bytes| bytes <= idle().most_bytes)
        {
            RefusedBy::Fragmentation
        } else {
            RefusedBy::Slabs
        }
    }
}
