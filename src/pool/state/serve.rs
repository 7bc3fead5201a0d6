//! The line, served from the slabs.
//!
//! While a line is served, memory only shrinks: a request that was refused stays refused, and so does every larger one of no
//! higher priority. So one [`Pass`] over the line is enough, and it tries few waiters besides those that it serves: the
//! slabs say how much the largest request may have, and the line finds the first waiter that needs no more.

use std::time::{Duration, Instant};

use super::place::{Memory, bytes_of};
use super::{Home, State};
use crate::pool::line::{Line, Need, PRIORITIES, Ticket};
use crate::pool::sizes::Least;
use crate::pool::wait::{Parts, Seat};
use crate::pool::{Fallback, Priority, Request, SlabPolicy};
use crate::sync::Arc;

/// How long it takes until a slab that the backend refused is asked for again.
const RETRY_PERIOD: Duration = Duration::from_millis(100);

/// The waiters of a pool: those that ask for the same bytes, under the same rules, are of one kind.
pub(super) type Waiters<S> = Line<Parts, Arc<Seat<S>>>;

/// Those that were served; the caller [tells](crate::pool::Shared::tell) them without the lock.
#[must_use]
pub(in crate::pool) struct Served<S> {
    pub(in crate::pool) seats: Vec<Arc<Seat<S>>>,
    /// Others wait for what no call of the pool brings.
    pub(in crate::pool) look: Option<Look>,
}

/// When the pool's own thread is to look after those that still wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Look {
    /// A slab may help one of them.
    Now,
    /// The device, or a hold, has memory of theirs.
    Soon,
}

/// One pass over the line: what is known of those that are left.
pub(super) struct Pass {
    need: Need,
    /// By priority: waiters up to this one have been refused, or could not but be.
    after: [Option<Ticket>; PRIORITIES.len()],
    /// By priority: no waiter that needs more can be served.
    most_bytes: [u64; PRIORITIES.len()],
    /// Requests that were refused for want of a multiple: none of as many bytes, at as large a one, can be served, unless its priority is
    /// higher.
    refused: Vec<(u64, u64, Priority)>,
}

impl Pass {
    fn new(need: Need) -> Self {
        Self { need, after: [None; PRIORITIES.len()], most_bytes: [u64::MAX; PRIORITIES.len()], refused: Vec::new() }
    }

    fn bound(&mut self, priority: Priority, most_bytes: u64) {
        let most = &mut self.most_bytes[priority as usize];
        *most = most_bytes.min(*most);
    }

    fn refuse<S>(&mut self, ticket: Ticket, seat: &Seat<S>) {
        self.after[seat.priority() as usize] = Some(ticket);
    }

    /// Whether the waiter needs no less than one that was refused for want of a multiple.
    fn is_refused<S>(&self, seat: &Seat<S>) -> bool {
        let [Request { bytes, align_bytes, priority, .. }] = seat.requests() else { return false };
        self.refused.iter().any(|(least_bytes, least_align, most_priority)| {
            bytes >= least_bytes && align_bytes >= least_align && priority <= most_priority
        })
    }
}

/// A pass of a thread that reserves slabs for those in line.
pub(in crate::pool) struct Growth {
    pass: Pass,
    /// As the pass began.
    chances: Option<Chances>,
    /// What the backend has no slab of.
    refused_bytes: u64,
    /// Empty slabs have been given back.
    pub(in crate::pool) gave_back: bool,
    /// The waiter that was last looked at, and how many slabs it may get.
    waiter: Option<(Ticket, usize)>,
}

/// A waiter that a slab may help.
pub(in crate::pool) struct Candidate<S> {
    pub(in crate::pool) ticket: Ticket,
    pub(in crate::pool) seat: Arc<Seat<S>>,
    /// Which of its requests there is no room for.
    index: usize,
}

impl<S> Candidate<S> {
    pub(in crate::pool) fn request(&self) -> &Request<'static> {
        &self.seat.requests()[self.index]
    }
}

impl Growth {
    pub(in crate::pool) fn new() -> Self {
        Self { pass: Pass::new(Need::Slab), chances: None, refused_bytes: u64::MAX, gave_back: false, waiter: None }
    }

    /// The budget has no slab for this waiter.
    pub(in crate::pool) fn refuse<S>(&mut self, candidate: &Candidate<S>) {
        self.pass.refuse(candidate.ticket, &candidate.seat);
    }

    /// The backend has no slab of so many bytes, nor any larger one.
    pub(in crate::pool) fn bound(&mut self, refused_bytes: u64) {
        self.refused_bytes = refused_bytes.min(self.refused_bytes);
    }

    /// How many slabs the waiter may get: each of its requests needs one of its own at most.
    pub(in crate::pool) fn slabs_left<S>(&self, candidate: &Candidate<S>) -> usize {
        let of_waiter = self.waiter.filter(|(ticket, _)| *ticket == candidate.ticket);
        of_waiter.map_or(candidate.seat.requests().len(), |(_, slabs_left)| slabs_left)
    }

    /// The waiter has got slabs, and may get so many more.
    pub(in crate::pool) fn grew<S>(&mut self, candidate: &Candidate<S>, slabs_left: usize) {
        self.waiter = Some((candidate.ticket, slabs_left));
        if slabs_left == 0 {
            self.refuse(candidate);
        }
    }
}

impl<S> State<S> {
    /// Adds a waiter behind all others.
    pub(in crate::pool) fn join(&mut self, seat: Arc<Seat<S>>) -> Ticket {
        let ticket = self.line.join(seat.entrant(), seat);
        self.direct_if_need_be();
        ticket
    }

    /// Takes a waiter out that was not served.
    pub(in crate::pool) fn leave(&mut self, ticket: Ticket) -> Option<Arc<Seat<S>>> {
        let seat = self.line.leave(ticket);
        self.direct_if_need_be();
        seat
    }

    /// Takes out those whose time is over, and counts them.
    pub(in crate::pool) fn expire(&mut self, now: Instant) -> Vec<Arc<Seat<S>>> {
        let late = self.line.expire(now);
        late.iter().for_each(|seat| self.timed_out(seat.requests()));
        self.direct_if_need_be();
        late
    }

    /// Takes out all waiters.
    pub(in crate::pool) fn clear_line(&mut self) -> Vec<Arc<Seat<S>>> {
        let seats = self.line.clear();
        self.direct_if_need_be();
        seats
    }

    pub(in crate::pool) fn is_waited_for(&self) -> bool {
        !self.line.is_empty()
    }

    /// When the time of the next waiter is over.
    pub(in crate::pool) fn deadline(&self) -> Option<Instant> {
        self.line.deadline()
    }

    /// Serves those in line that can be served now, each in turn.
    #[inline]
    pub(in crate::pool) fn serve(&mut self) -> Served<S> {
        if self.line.is_empty() { Served { seats: Vec::new(), look: None } } else { self.serve_line() }
    }

    fn serve_line(&mut self) -> Served<S> {
        self.gather();
        let mut seats = Vec::new();
        let mut pass = Pass::new(Need::Room);
        self.bound_by_room(&mut pass);
        while let Some(ticket) = self.turn(&pass)
            && let Some(seat) = self.line.get(ticket).cloned()
        {
            if pass.is_refused(&seat) {
                pass.refuse(ticket, &seat);
                continue;
            }
            if let Ok(homes) = self.take_batch(seat.requests(), Memory::Elsewhere) {
                self.line.serve(ticket);
                self.books.totals().allocations_waited += homes.len() as u64;
                seat.settle(Ok(homes));
                seats.push(seat);
                self.bound_by_room(&mut pass);
                continue;
            }
            pass.refuse(ticket, &seat);
            let [request] = seat.requests() else { continue };
            if request.is_aligned(self.sizes.pages.alignment_bytes) {
                // There may be room for a larger one that can begin anywhere.
                pass.refused.push((request.bytes, request.align_bytes, request.priority));
            } else if self.sizes.policy != SlabPolicy::PerBlock {
                let no_higher = PRIORITIES.into_iter().filter(|priority| *priority <= request.priority);
                no_higher.for_each(|priority| pass.bound(priority, request.bytes - 1));
            }
        }
        self.direct_if_need_be();
        Served { seats, look: self.look() }
    }

    /// No request gets more than the largest that a slab has room for, nor more than is open to its priority.
    fn bound_by_room(&self, pass: &mut Pass) {
        let room_bytes = self.room_bytes();
        for priority in PRIORITIES {
            pass.bound(priority, self.open_bytes(priority).min(room_bytes));
        }
    }

    /// The next waiter in turn that the pass does not rule out: the first that is due alone, and those that may be served past
    /// it; or all.
    fn turn(&self, pass: &Pass) -> Option<Ticket> {
        let first = |priority: Priority| {
            let index = priority as usize;
            self.line.first(pass.need, priority, pass.after[index], pass.most_bytes[index])
        };
        let Some((ticket, priority, need_bytes)) = self.line.first_due(pass.need) else {
            return PRIORITIES.into_iter().rev().find_map(first);
        };
        let is_left = pass.after[priority as usize] < Some(ticket) && need_bytes <= pass.most_bytes[priority as usize];
        if is_left {
            return Some(ticket);
        }
        if priority == Priority::High || !self.lacks_bytes(ticket) { None } else { self.turn_past_due(pass) }
    }

    /// The next waiter of high priority that may be served past the one that is due: the first of them that is due too, or any.
    fn turn_past_due(&self, pass: &Pass) -> Option<Ticket> {
        let index = Priority::High as usize;
        let (mut after, closed_bytes) = (pass.after[index], self.closed_bytes(Priority::Normal));
        let mut most_bytes = pass.most_bytes[index].min(closed_bytes);
        let may_pass = |seat: &Seat<S>| Least::new(&self.sizes, seat.requests()).bytes <= closed_bytes;
        if let Some((ticket, need_bytes)) = self.line.first_due_of(Priority::High, pass.need) {
            let is_left = after < Some(ticket) && need_bytes <= most_bytes;
            return (is_left && self.line.get(ticket).is_some_and(|seat| may_pass(seat))).then_some(ticket);
        }
        while let Some(ticket) = self.line.first(pass.need, Priority::High, after, most_bytes)
            && let Some(seat) = self.line.get(ticket)
        {
            if may_pass(seat) {
                return Some(ticket);
            }
            // It takes more than it asks for, and so does every larger one.
            if let [request] = seat.requests() {
                most_bytes = most_bytes.min(request.bytes - 1);
            }
            after = Some(ticket);
        }
        None
    }

    /// Takes back what a waiter was served and never saw: it counts neither as an allocation nor as one that waited.
    pub(in crate::pool) fn take_back(&mut self, homes: Vec<Home<S>>, requests: &[Request]) {
        let count = homes.len();
        self.books.revoked(count, bytes_of(requests));
        let waited = &mut self.books.totals().allocations_waited;
        *waited = waited.saturating_sub(count as u64);
        homes.iter().for_each(|home| self.record_free(home));
        self.put_back(homes);
    }

    /// Whether some waiter has been passed so often that nothing else is served before.
    pub(in crate::pool) fn is_due(&self) -> bool {
        !self.line.may_be_passed()
    }
}

/// What a slab may still do for those in line. If nothing of this has changed, neither has the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chances {
    left_bytes: u64,
    empty_bytes: u64,
    leaving_bytes: u64,
    unused_bytes: u64,
    closed_bytes: u64,
    line: u64,
}

impl<S> State<S> {
    /// When those in line are to be looked after, if anything but a call of the pool may help them.
    pub(in crate::pool) fn look(&self) -> Option<Look> {
        if self.line.is_empty() {
            None
        } else if self.may_grow(None) {
            Some(Look::Now)
        } else {
            (self.waits_for_device() || self.books.retired_bytes() > 0).then_some(Look::Soon)
        }
    }

    /// Whether a slab may help one of those in line, and this has not been tried in vain; a while ago at most, if the time is
    /// given.
    pub(in crate::pool) fn may_grow(&self, now: Option<Instant>) -> bool {
        let is_in_vain = |(chances, since): (Chances, Instant)| {
            chances == self.chances() && now.is_none_or(|now| now.saturating_duration_since(since) < RETRY_PERIOD)
        };
        if self.grown_in_vain.is_some_and(is_in_vain) {
            return false;
        }
        let mut pass = Pass::new(Need::Slab);
        self.bound_by_slabs(&mut pass, false);
        self.turn(&pass).is_some()
    }

    /// The next waiter in turn that a slab may help.
    pub(in crate::pool) fn next_candidate(&mut self, growth: &mut Growth) -> Option<Candidate<S>> {
        growth.chances.get_or_insert_with(|| self.chances());
        growth.pass.most_bytes = [growth.refused_bytes - 1; PRIORITIES.len()];
        self.bound_by_slabs(&mut growth.pass, growth.gave_back);
        while let Some(ticket) = self.turn(&growth.pass)
            && let Some(seat) = self.line.get(ticket).cloned()
        {
            if let Err(lack) = self.place_all(seat.requests(), Memory::Elsewhere).map(|homes| self.put_back(homes))
                && seat.requests().iter().all(|request| request.may(Fallback::Grow))
            {
                return Some(Candidate { ticket, seat, index: lack.index });
            }
            growth.pass.refuse(ticket, &seat);
        }
        None
    }

    /// A waiter that is still in line gets its places, and leaves. `None` if it has left before: then they are free.
    pub(in crate::pool) fn serve_with(
        &mut self,
        candidate: &Candidate<S>,
        homes: Vec<Home<S>>,
    ) -> Option<Arc<Seat<S>>> {
        let Some(seat) = self.line.get(candidate.ticket).cloned() else {
            self.put_back(homes);
            return None;
        };
        self.line.serve(candidate.ticket);
        self.granted(&homes, seat.requests());
        self.books.totals().allocations_waited += homes.len() as u64;
        seat.settle(Ok(homes));
        self.direct_if_need_be();
        Some(seat)
    }

    /// A pass has found no more to do. As long as all is as it was when it began, nor will another.
    pub(in crate::pool) fn grown(&mut self, growth: &Growth, now: Instant) {
        self.grown_in_vain = growth.chances.map(|chances| (chances, now));
    }

    /// No slab is larger than what is left, or will be once empty slabs are given back; nor does one help a priority to more
    /// than is open to it.
    fn bound_by_slabs(&self, pass: &mut Pass, gave_back: bool) {
        // In an expanding slab a request may be in memory that is there, and take little more.
        let is_over = gave_back && !self.is_expanding();
        let back_bytes = if is_over { 0 } else { self.leaving_bytes() + self.empty_bytes() };
        let left_bytes = self.left_bytes_after(back_bytes);
        for priority in PRIORITIES {
            pass.bound(priority, self.open_bytes(priority).min(left_bytes));
        }
    }

    fn chances(&self) -> Chances {
        Chances {
            left_bytes: self.left_bytes(),
            empty_bytes: self.empty_bytes(),
            leaving_bytes: self.leaving_bytes(),
            unused_bytes: self.books.left_bytes(),
            closed_bytes: self.closed_bytes(Priority::Normal),
            line: self.line.changes(),
        }
    }
}
