//! The line of requests that wait for memory: which waiter is served next, and which waiters a newcomer may pass.
//!
//! A state machine without memory, lock or clock: its driver says what was served and what time it is.
//!
//! - Waiters are served by priority, then by arrival. One that cannot be served does not stop those behind it.
//! - Everything that is served after a waiter arrived, and arrived after it, *passes* it. A waiter that was passed
//!   [`PASSES_MAX`] times is *due*: nothing passes it any more, whatever the priority, until it is served or leaves. Several
//!   that are due go by arrival. So no waiter starves. (Requests of high priority may still use their
//!   [reserve](super::Config::high_priority_reserve), as long as the waiter lacks bytes that others hold. They pass all
//!   waiters too, until one of high priority is due. [`State`](super::state::State) sees to that.)
//!
//! # How it stays fast
//! Every call takes a time that grows with the logarithm of the waiters at most.
//!
//! - A pass concerns all waiters that arrived before some other. So earlier arrivals have at least as many passes as later
//!   ones, those that are due come first by arrival, and it is enough to keep differences: a waiter's passes are its marks
//!   and those of all behind it. One that is served marks the one before it, and one that leaves hands its marks on.
//! - Waiters of one kind fit or do not fit alike. Only the first of a kind is looked for, by its [`Need`], in a tree.

mod needs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use self::needs::Needs;
use super::Priority;
use super::tables::tree_bytes;

/// How often requests that came later may be served before a waiter.
///
/// A large request waits for a gap that small ones keep filling: each pass is one more small block in its way, and each
/// refused pass is a small one that waits without need. 16 keeps both short.
pub(super) const PASSES_MAX: u32 = 16;

/// All priorities, lowest first.
pub(super) const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

/// A place in the line; never used twice in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// What a waiter is looked for by, in bytes. It may be less than what the waiter takes, but not more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The room for its largest request.
    Room,
    /// The slab that may help it; `u64::MAX` if none may.
    Slab,
}

impl Need {
    const KINDS: usize = 2;
}

/// How a waiter joins.
#[derive(Clone, Debug)]
pub(super) struct Entrant<K> {
    pub(super) priority: Priority,
    pub(super) deadline: Option<Instant>,
    /// Waiters of one kind have the same priority and needs, and each of them fits where another does.
    pub(super) kind: K,
    /// By [`Need`].
    pub(super) needs: [u64; Need::KINDS],
    /// The memory that its kind and its item have.
    pub(super) memory_bytes: u64,
}

#[cfg_attr(test, derive(Clone))]
#[derive(Debug)]
struct Waiter<K, T> {
    entrant: Entrant<K>,
    /// Passes that the next waiter does not have. Not kept of those that are due.
    marks: u32,
    item: T,
}

#[cfg_attr(test, derive(Clone))]
#[derive(Debug)]
pub(super) struct Line<K, T> {
    /// By arrival.
    waiters: BTreeMap<Ticket, Waiter<K, T>>,
    /// The first of a kind can be found by its needs.
    kinds: BTreeSet<(K, Ticket)>,
    /// By priority.
    needs: [Needs; PRIORITIES.len()],
    deadlines: BTreeSet<(Instant, Ticket)>,
    /// The due ones have tickets below this.
    due_end: Ticket,
    /// By priority.
    due: [usize; PRIORITIES.len()],
    /// Of the first waiter that is not due.
    passes: u32,
    next_ticket: u64,
    changes: u64,
    /// The memory of all kinds and items.
    waiters_bytes: u64,
}

impl<K: Clone + Ord, T> Line<K, T> {
    pub(super) fn new() -> Self {
        Self {
            waiters: BTreeMap::new(),
            kinds: BTreeSet::new(),
            needs: PRIORITIES.map(|_| Needs::new()),
            deadlines: BTreeSet::new(),
            due_end: Ticket(0),
            due: [0; PRIORITIES.len()],
            passes: 0,
            next_ticket: 0,
            changes: 0,
            waiters_bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Counts the waiters that came or left: while it stays the same, so does their order.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Adds a waiter behind all others.
    pub(super) fn join(&mut self, entrant: Entrant<K>, item: T) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.changes += 1;
        self.waiters_bytes += entrant.memory_bytes;
        let needs = if self.first_of(&entrant.kind).is_none() { Some(entrant.needs) } else { None };
        self.needs[entrant.priority as usize].push(ticket, needs);
        self.kinds.insert((entrant.kind.clone(), ticket));
        self.deadlines.extend(entrant.deadline.map(|deadline| (deadline, ticket)));
        self.waiters.insert(ticket, Waiter { entrant, marks: 0, item });
        ticket
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&T> {
        self.waiters.get(&ticket).map(|waiter| &waiter.item)
    }

    /// Whether a request that is not in line may be served before those that are.
    pub(super) fn may_be_passed(&self) -> bool {
        self.due_priority().is_none()
    }

    /// Of those that are due, the highest priority.
    pub(super) fn due_priority(&self) -> Option<Priority> {
        PRIORITIES.into_iter().rev().find(|priority| self.due[*priority as usize] > 0)
    }

    /// The waiter that is due and arrived first, with its priority and its need.
    pub(super) fn first_due(&self, need: Need) -> Option<(Ticket, Priority, u64)> {
        let (ticket, waiter) = self.waiters.first_key_value()?;
        let Entrant { priority, needs, .. } = &waiter.entrant;
        (*ticket < self.due_end).then_some((*ticket, *priority, needs[need as usize]))
    }

    /// The first waiter of a priority behind `after` whose need is at most so many bytes, of each kind only the first.
    pub(super) fn first(
        &self,
        need: Need,
        priority: Priority,
        after: Option<Ticket>,
        most_bytes: u64,
    ) -> Option<Ticket> {
        self.needs[priority as usize].first(need, after, most_bytes)
    }

    /// Of a priority, the first waiter that is due, with its need.
    pub(super) fn first_due_of(&self, priority: Priority, need: Need) -> Option<(Ticket, u64)> {
        if self.due[priority as usize] == 0 {
            return None;
        }
        // The first of a priority is the first of its kind, so it can be found.
        let ticket = self.first(Need::Room, priority, None, u64::MAX)?;
        Some((ticket, self.waiters[&ticket].entrant.needs[need as usize]))
    }

    /// A request that was not in line has been served. It has passed all waiters.
    pub(super) fn passed(&mut self) {
        if let Some((ticket, _)) = self.waiters.last_key_value() {
            self.mark(*ticket);
        }
    }

    /// Takes a waiter out that has been served. It has passed all that arrived before it.
    pub(super) fn serve(&mut self, ticket: Ticket) -> Option<T> {
        if let Some((before, _)) = self.waiters.range(..ticket).next_back() {
            self.mark(*before);
        }
        self.leave(ticket)
    }

    /// Takes a waiter out. `None` if it is not in line any more.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let Waiter { entrant, marks, item } = self.waiters.remove(&ticket)?;
        self.changes += 1;
        let Entrant { priority, deadline, kind, memory_bytes, .. } = entrant;
        self.waiters_bytes -= memory_bytes;
        if ticket < self.due_end {
            self.due[priority as usize] -= 1;
        } else {
            match self.waiters.range_mut(self.due_end..ticket).next_back() {
                Some((_, before)) => before.marks += marks,
                None => self.passes -= marks,
            }
        }
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, ticket));
        }
        self.needs[priority as usize].remove(ticket);
        let entry = (kind, ticket);
        self.kinds.remove(&entry);
        if let Some(next) = self.first_of(&entry.0)
            && next > ticket
        {
            self.needs[priority as usize].show(next, self.waiters[&next].entrant.needs);
        }
        Some(item)
    }

    /// Takes out all whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let mut late = Vec::new();
        while let Some((deadline, ticket)) = self.deadlines.first().copied()
            && deadline <= now
        {
            late.extend(self.leave(ticket));
        }
        late
    }

    /// The first deadline of all.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out all waiters.
    pub(super) fn clear(&mut self) -> Vec<T> {
        let (next_ticket, changes) = (self.next_ticket, self.changes + 1);
        let cleared = std::mem::replace(self, Self { next_ticket, changes, ..Self::new() });
        cleared.waiters.into_values().map(|waiter| waiter.item).collect()
    }

    /// All memory of the line and its waiters, without this value itself.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let needs_bytes: usize = self.needs.iter().map(Needs::metadata_bytes).sum();
        self.waiters_bytes
            + needs_bytes as u64
            + tree_bytes::<(Ticket, Waiter<K, T>)>(self.waiters.len())
            + tree_bytes::<(K, Ticket)>(self.kinds.len())
            + tree_bytes::<(Instant, Ticket)>(self.deadlines.len())
    }

    /// Returns the waiters that these words are true of, by arrival.
    pub(super) fn tickets_of(&self, is_it: impl Fn(&T) -> bool) -> Vec<Ticket> {
        let all = self.waiters.iter().filter(|(_, waiter)| is_it(&waiter.item));
        all.map(|(ticket, _)| *ticket).collect()
    }

    /// All waiters of a priority, by arrival.
    #[cfg(test)]
    pub(super) fn of_priority(&self, priority: Priority) -> Vec<Ticket> {
        let of_priority = self.waiters.iter().filter(|(_, waiter)| waiter.entrant.priority == priority);
        of_priority.map(|(ticket, _)| *ticket).collect()
    }

    /// The first waiter of a kind.
    fn first_of(&self, kind: &K) -> Option<Ticket> {
        let (found, ticket) = self.kinds.range((kind.clone(), Ticket(0))..).next()?;
        (found == kind).then_some(*ticket)
    }

    /// One pass more for this waiter and all before it. Some may come to be due.
    fn mark(&mut self, ticket: Ticket) {
        // Those that are due count no more, nor does any waiter before them.
        let Some(waiter) = self.waiters.get_mut(&ticket).filter(|_| ticket >= self.due_end) else { return };
        waiter.marks += 1;
        self.passes += 1;
        while self.passes >= PASSES_MAX
            && let Some((ticket, waiter)) = self.waiters.range_mut(self.due_end..).next()
        {
            self.passes -= std::mem::take(&mut waiter.marks);
            self.due[waiter.entrant.priority as usize] += 1;
            self.due_end = Ticket(ticket.0 + 1);
        }
    }
}
