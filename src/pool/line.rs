//! The line of those who wait for memory: who is served next, and whom a newcomer may pass.
//!
//! A state machine without memory, lock or clock: whoever drives it says what was served and what time it is.
//!
//! - Waiters are served by priority, then by arrival. One that cannot be served does not stop those behind it.
//! - Everything that is served after a waiter arrived, and arrived after it, *passes* it. A waiter that was passed
//!   [`PASSES_MAX`] times is *due*: nobody passes it any more, whatever the priority, until it is served or leaves. Several
//!   that are due go by arrival. So nobody starves. (What is left of a [reserve](super::Config::high_priority_reserve)
//!   is no way past them: it is not theirs. [`State`](super::state::State) sees to that.)

use std::time::Instant;

use super::Priority;

/// How often those who came later may be served before a waiter.
///
/// A large request waits for a gap that small ones keep filling: each pass is one more small block in its way, and each
/// refused pass is a small one that waits without need. 16 keeps both short.
pub(super) const PASSES_MAX: u32 = 16;

/// A place in the line; never used twice in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
struct Waiter<T> {
    ticket: Ticket,
    priority: Priority,
    deadline: Option<Instant>,
    passes: u32,
    item: T,
}

impl<T> Waiter<T> {
    fn is_due(&self) -> bool {
        self.passes >= PASSES_MAX
    }
}

#[derive(Debug)]
pub(super) struct Line<T> {
    /// By arrival.
    waiters: Vec<Waiter<T>>,
    next_ticket: u64,
}

impl<T> Line<T> {
    pub(super) fn new() -> Self {
        Self { waiters: Vec::new(), next_ticket: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// A new waiter, behind all others.
    pub(super) fn join(&mut self, priority: Priority, deadline: Option<Instant>, item: T) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiters.push(Waiter { ticket, priority, deadline, passes: 0, item });
        ticket
    }

    /// Takes a waiter out that was not served. `None` if it is not in line any more.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let index = self.index(ticket)?;
        Some(self.waiters.remove(index).item)
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&T> {
        self.index(ticket).map(|index| &self.waiters[index].item)
    }

    /// Whether a request that is not in line may be served before those who are.
    pub(super) fn may_be_passed(&self) -> bool {
        !self.waiters.iter().any(Waiter::is_due)
    }

    /// Of those that are due, the highest priority.
    pub(super) fn due_priority(&self) -> Option<Priority> {
        self.waiters.iter().filter(|waiter| waiter.is_due()).map(|waiter| waiter.priority).max()
    }

    /// A request that was not in line has been served.
    pub(super) fn passed(&mut self) {
        debug_assert!(self.may_be_passed());
        self.waiters.iter_mut().for_each(|waiter| waiter.passes += 1);
    }

    /// Those who may be served now, in the order in which they are to be tried: the first that is due alone, or all.
    pub(super) fn candidates(&self) -> Vec<Ticket> {
        if let Some(due) = self.waiters.iter().find(|waiter| waiter.is_due()) {
            return vec![due.ticket];
        }
        let mut order: Vec<&Waiter<T>> = self.waiters.iter().collect();
        order.sort_by_key(|waiter| std::cmp::Reverse(waiter.priority));
        order.into_iter().map(|waiter| waiter.ticket).collect()
    }

    /// Those of one priority, by arrival.
    pub(super) fn of_priority(&self, priority: Priority) -> Vec<Ticket> {
        self.waiters.iter().filter(|waiter| waiter.priority == priority).map(|waiter| waiter.ticket).collect()
    }

    /// Takes a waiter out that has been served. It has passed all who arrived before it.
    pub(super) fn serve(&mut self, ticket: Ticket) -> Option<T> {
        let index = self.index(ticket)?;
        self.waiters[..index].iter_mut().for_each(|waiter| waiter.passes += 1);
        Some(self.waiters.remove(index).item)
    }

    /// Takes out all whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let is_late = |waiter: &mut Waiter<T>| waiter.deadline.is_some_and(|deadline| deadline <= now);
        self.waiters.extract_if(.., is_late).map(|waiter| waiter.item).collect()
    }

    /// Takes out everybody.
    pub(super) fn clear(&mut self) -> Vec<T> {
        self.waiters.drain(..).map(|waiter| waiter.item).collect()
    }

    fn index(&self, ticket: Ticket) -> Option<usize> {
        self.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn priority_goes_before_arrival() {
        let mut line = Line::new();
        let a = line.join(Priority::Normal, None, 'a');
        let b = line.join(Priority::Low, None, 'b');
        let c = line.join(Priority::High, None, 'c');
        let d = line.join(Priority::Normal, None, 'd');
        assert_eq!(line.candidates(), [c, a, d, b]);
        assert_eq!(line.serve(c), Some('c'));
        assert_eq!(line.candidates(), [a, d, b]);
        assert_eq!(line.leave(a), Some('a'));
        assert_eq!(line.leave(a), None);
        assert_eq!(line.serve(a), None);
        assert_eq!(line.candidates(), [d, b]);
    }

    #[test]
    fn a_waiter_is_passed_a_bounded_number_of_times() {
        let mut line = Line::new();
        let large = line.join(Priority::Low, None, 0);
        for pass in 0..PASSES_MAX {
            if pass % 2 == 0 {
                assert!(line.may_be_passed());
                line.passed();
            } else {
                let small = line.join(Priority::High, None, 1);
                assert_eq!(line.candidates(), [small, large]);
                line.serve(small);
            }
        }
        let late = line.join(Priority::High, None, 2);
        assert!(!line.may_be_passed());
        assert_eq!(line.candidates(), [large]);
        line.serve(large);
        assert_eq!(line.candidates(), [late]);
        assert!(line.may_be_passed());
    }

    #[test]
    fn who_leaves_leaves_no_trace() {
        let mut line = Line::new();
        let first = line.join(Priority::Normal, None, 0);
        for _ in 0..PASSES_MAX {
            line.passed();
        }
        line.leave(first);
        assert!(line.may_be_passed() && line.is_empty() && line.candidates().is_empty());
    }

    #[test]
    fn deadlines_pass_when_they_are_told() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut line = Line::new();
        line.join(Priority::High, Some(at(30)), 'a');
        line.join(Priority::Low, None, 'b');
        line.join(Priority::Normal, Some(at(10)), 'c');
        line.join(Priority::Normal, Some(at(20)), 'd');
        assert!(line.expire(at(9)).is_empty());
        assert_eq!(line.expire(at(20)), ['c', 'd']);
        assert_eq!(line.expire(at(1000)), ['a']);
        assert_eq!(line.clear(), ['b']);
    }

    /// Random programs: nobody is passed more often than the bound, and whoever stays is served in the end.
    #[test]
    fn nobody_starves() {
        for seed in 0..200 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut line = Line::new();
            // Arrival number and passes seen, for each waiter.
            let mut waiting: Vec<(Ticket, u64, u32)> = Vec::new();
            for arrival in 0..500 {
                match rng.random_range(0..10u32) {
                    0..4 => {
                        let priority = [Priority::Low, Priority::Normal, Priority::High][rng.random_range(0..3usize)];
                        waiting.push((line.join(priority, None, arrival), arrival, 0));
                    }
                    4..8 => {
                        let candidates = line.candidates();
                        if !candidates.is_empty() {
                            // Any of them may be the first that fits.
                            let ticket = candidates[rng.random_range(0..candidates.len())];
                            let arrived = line.serve(ticket).unwrap();
                            waiting.retain(|waiter| waiter.0 != ticket);
                            waiting.iter_mut().filter(|waiter| waiter.1 < arrived).for_each(|waiter| waiter.2 += 1);
                        }
                    }
                    _ if line.may_be_passed() => {
                        line.passed();
                        waiting.iter_mut().for_each(|waiter| waiter.2 += 1);
                    }
                    _ => {}
                }
                assert_eq!(line.len(), waiting.len());
                // Several may come to the bound at once, and each then waits for those before it, which came earlier.
                assert!(waiting.iter().all(|waiter| waiter.2 <= PASSES_MAX), "seed {seed}: {waiting:?}");
            }
        }
    }
}
