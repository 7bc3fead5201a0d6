//! The budget, which may change: what is reserved above it, and the waiters that it has no room for.
//!
//! One rule holds while more is reserved than the budget has: nothing more is reserved, no request gets what would bring the bytes in
//! use above the budget, and all that becomes idle goes back at once. So what is reserved only falls until it is within the budget.

use super::State;
use crate::pool::Request;
use crate::pool::emptied::Open;
use crate::pool::sizes::Least;
use crate::pool::wait::Seat;
use crate::sync::Arc;

impl<S> State<S> {
    pub(in crate::pool) fn budget_bytes(&self) -> u64 {
        self.books.budget_bytes()
    }

    /// What is reserved, staging included.
    pub(in crate::pool) fn reserved_bytes(&self) -> u64 {
        self.reserved.bytes()
    }

    /// Returns whether memory may be committed for requests while runs lie in lists: a little more than was ever used.
    pub(in crate::pool) fn may_expand_beside_lists(&self, requests: &[Request]) -> bool {
        let least = Least::new(&self.sizes, requests);
        let reserved_bytes = self.reserved.bytes().saturating_add(least.bytes);
        reserved_bytes <= self.books.reserved_bytes_beside_lists()
    }

    /// Returns what is reserved above the budget, since that was lowered.
    pub(in crate::pool) fn over_bytes(&self) -> u64 {
        self.over_bytes
    }

    /// Sets the budget, which is at least staging and reserve. Called with `growth` locked, so that no slab is being created. Returns
    /// what it was.
    pub(in crate::pool) fn set_budget(&mut self, bytes: u64) -> u64 {
        let before_bytes = self.books.set_budget(bytes);
        self.over_bytes = self.reserved.bytes().saturating_sub(bytes);
        self.direct_if_need_be();
        before_bytes
    }

    /// So many bytes are not reserved any more.
    pub(super) fn unreserve_bytes(&mut self, bytes: u64) {
        self.reserved.take(bytes);
        if self.over_bytes > 0 {
            let over_bytes = self.reserved.bytes().saturating_sub(self.books.budget_bytes());
            self.over_bytes = over_bytes.min(self.over_bytes);
            self.direct_if_need_be();
        }
    }

    /// Returns what may still be reserved once so many bytes that are reserved have gone back.
    pub(in crate::pool) fn left_bytes_after(&self, back_bytes: u64) -> u64 {
        let taken_bytes = self.reserved.bytes().saturating_add(self.booked.bytes());
        self.books.budget_bytes().saturating_sub(taken_bytes.saturating_sub(back_bytes))
    }

    /// Returns whether blocks, lists and arenas have more than the budget.
    pub(in crate::pool) fn holds_more_than_budget(&self) -> bool {
        self.books.gone_bytes() > self.books.open_bytes()
    }

    /// Returns whether the requests take more than the budget can ever give them. An empty pool that may grow serves all
    /// others, in slabs of exactly their size if nothing else helps.
    pub(in crate::pool) fn is_over_budget(&self, requests: &[Request]) -> bool {
        let least = Least::new(&self.sizes, requests);
        let open = Open { bytes: self.books.open_bytes(), reserve_bytes: self.reserve_bytes };
        !least.is_left(open.bytes, open.reserve_bytes) || !self.sizes.serve_when_empty(requests, least, open)
    }

    /// Takes out the waiters that the budget can never serve, and counts them as failures.
    pub(in crate::pool) fn leave_over_budget(&mut self) -> Vec<Arc<Seat<S>>> {
        let is_over = |seat: &Arc<Seat<S>>| self.is_over_budget(seat.requests());
        let tickets = self.line.tickets_of(is_over);
        let seats: Vec<_> = tickets.into_iter().filter_map(|ticket| self.line.leave(ticket)).collect();
        seats.iter().for_each(|seat| self.failed(seat.requests()));
        self.direct_if_need_be();
        seats
    }
}
