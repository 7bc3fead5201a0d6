//! The line, served from the slabs.

use std::time::Instant;

use super::{Home, State, bytes_of};
use crate::pool::line::Ticket;
use crate::pool::wait::Seat;
use crate::pool::{Priority, Request};
use crate::sync::Arc;

impl<S> State<S> {
    /// A new waiter, behind all others.
    pub(in crate::pool) fn join(&mut self, seat: Arc<Seat<S>>) -> Ticket {
        let ticket = self.line.join(seat.priority(), seat.deadline(), seat);
        self.direct_if_need_be();
        ticket
    }

    /// Takes a waiter out who was not served.
    pub(in crate::pool) fn leave(&mut self, ticket: Ticket) -> Option<Arc<Seat<S>>> {
        let seat = self.line.leave(ticket);
        self.direct_if_need_be();
        seat
    }

    /// Takes out those whose time is over.
    pub(in crate::pool) fn expire(&mut self, now: Instant) -> Vec<Arc<Seat<S>>> {
        let late = self.line.expire(now);
        self.direct_if_need_be();
        late
    }

    /// Takes out everybody.
    pub(in crate::pool) fn clear_line(&mut self) -> Vec<Arc<Seat<S>>> {
        let seats = self.line.clear();
        self.direct_if_need_be();
        seats
    }

    /// Serves those in line who can be served now, each in turn; the caller wakes them without the lock.
    #[inline]
    pub(in crate::pool) fn serve(&mut self) -> Vec<Arc<Seat<S>>> {
        if self.line.is_empty() { Vec::new() } else { self.serve_line() }
    }

    fn serve_line(&mut self) -> Vec<Arc<Seat<S>>> {
        let mut served = Vec::new();
        self.gather();
        // Each that is served may let others come to be due.
        while let Some((ticket, seat, homes)) = self.turns().into_iter().find_map(|ticket| {
            let seat = Arc::clone(self.line.get(ticket)?);
            let homes = self.take_batch(seat.requests()).ok()?;
            Some((ticket, seat, homes))
        }) {
            self.line.serve(ticket);
            self.books.totals().allocations_waited += homes.len() as u64;
            seat.settle(Ok(homes));
            served.push(seat);
        }
        self.direct_if_need_be();
        served
    }

    /// Takes back what a waiter was served and never saw: it counts neither as an allocation nor as one that waited.
    pub(in crate::pool) fn take_back(&mut self, homes: Vec<Home<S>>, requests: &[Request]) {
        let count = homes.len();
        self.books.revoked(count, bytes_of(requests));
        self.books.totals().allocations_waited -= count as u64;
        homes.iter().for_each(|home| self.record_free(home));
        self.put_back(homes);
    }

    /// The request of a waiter that there is no room for now. `None` if there is room for all, or he need not wait.
    pub(in crate::pool) fn short_of<'a>(&mut self, seat: &'a Seat<S>) -> Option<&'a Request> {
        if seat.is_settled() {
            return None;
        }
        match self.place_all(seat.requests()) {
            Ok(homes) => {
                self.put_back(homes);
                None
            }
            Err(index) => Some(&seat.requests()[index]),
        }
    }

    /// Whether somebody in line has been passed so often that nobody else is served before.
    pub(in crate::pool) fn is_due(&self) -> bool {
        !self.line.may_be_passed()
    }

    /// Those in line who may be served, in turn.
    pub(in crate::pool) fn candidates(&self) -> Vec<Arc<Seat<S>>> {
        self.turns().into_iter().filter_map(|ticket| self.line.get(ticket).cloned()).collect()
    }

    fn turns(&self) -> Vec<Ticket> {
        let mut turns = self.line.candidates();
        if self.is_due() && self.may_be_served(Priority::High) {
            turns.extend(self.line.of_priority(Priority::High));
        }
        turns
    }
}
