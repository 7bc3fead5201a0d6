//! The errors of a pool that has no room, with all its numbers.

use std::time::Duration;

use super::line::PRIORITIES;
use super::sizes::Least;
use super::state::{Short, StateOf};
use super::{Fallback, Priority, Request, Shared, Stats};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Holder, Shortage};
use crate::units::exact;

/// How many of the largest holders an error names.
const HOLDERS_NAMED: usize = 5;

/// What a pool looks like when it cannot serve requests. It is found once for all that fail together.
pub(super) struct Situation {
    stats: Stats,
    /// The largest ones.
    holders: Vec<Holder>,
    /// Closed to each priority.
    reserve_bytes: [u64; PRIORITIES.len()],
    is_overdue: bool,
    arena_bytes: u64,
    /// What no block has of it.
    arena_idle_bytes: u64,
}

impl<B: Backend> Shared<B> {
    /// The budget had room, and the backend had none.
    pub(super) fn refused(&self, request: &Request, error: Error) -> Error {
        let stats = self.state().stats();
        let message = format!(
            "no memory for {} for {:?}: {} of the budget of {} are reserved, and {} has no more",
            exact(request.bytes),
            request.label,
            exact(stats.reserved_bytes),
            exact(stats.budget_bytes),
            self.backend.name()
        );
        Error::new(ErrorKind::OutOfMemory, message).with_source(error)
    }

    /// The error of requests that no fallback has helped.
    pub(super) fn no_room(&self, state: &StateOf<B>, requests: &[Request], short: &Short) -> Error {
        let (kind, needed_bytes) = match short {
            // What is left is kept for a waiter that is due.
            Short::Turn => (ErrorKind::Full, self.least_bytes(requests)),
            Short::Of(lack) if lack.is_left => (ErrorKind::Fragmented, lack.needed_bytes),
            Short::Of(lack) => (ErrorKind::Full, lack.needed_bytes),
        };
        self.shortage_of(&self.situation(state), requests, kind, Duration::ZERO, needed_bytes)
    }

    fn least_bytes(&self, requests: &[Request]) -> u64 {
        Least::new(&self.sizes, requests).bytes
    }

    /// The numbers of a pool that cannot serve these requests.
    pub(super) fn shortage(
        &self,
        state: &StateOf<B>,
        requests: &[Request],
        kind: ErrorKind,
        waited: Duration,
    ) -> Error {
        self.shortage_in(&self.situation(state), requests, kind, waited)
    }

    /// The numbers of the pool, whatever was asked for.
    pub(super) fn situation(&self, state: &StateOf<B>) -> Situation {
        let stats = state.stats();
        let mut holders = self.labels.holders(stats.used_bytes, stats.blocks);
        holders.truncate(HOLDERS_NAMED);
        let reserve_bytes = PRIORITIES.map(|priority| state.closed_bytes(priority));
        let planner = self.shards.planner();
        let (arena_bytes, arena_idle_bytes) = (planner.arena_bytes(), planner.arena_idle_bytes());
        drop(planner);
        Situation { stats, holders, reserve_bytes, is_overdue: state.is_due(), arena_bytes, arena_idle_bytes }
    }

    /// The error of requests that could not be served in such a situation.
    pub(super) fn shortage_in(
        &self,
        situation: &Situation,
        requests: &[Request],
        kind: ErrorKind,
        waited: Duration,
    ) -> Error {
        self.shortage_of(situation, requests, kind, waited, self.least_bytes(requests))
    }

    fn shortage_of(
        &self,
        situation: &Situation,
        requests: &[Request],
        kind: ErrorKind,
        waited: Duration,
        needed_bytes: u64,
    ) -> Error {
        let Situation { stats, holders, reserve_bytes, is_overdue, .. } = situation;
        let label = requests.iter().map(|request| &*request.label).find(|label| !label.is_empty());
        Error::shortage_of(
            kind,
            Shortage {
                asked_bytes: requests.iter().fold(0, |sum, request| sum.saturating_add(request.bytes)),
                needed_bytes,
                label: label.map(str::to_owned),
                budget_bytes: stats.budget_bytes,
                reserved_bytes: stats.reserved_bytes,
                live_bytes: stats.live_bytes,
                used_bytes: stats.used_bytes,
                cached_bytes: stats.cached_bytes,
                retired_bytes: stats.retired_bytes,
                free_bytes: stats.free_bytes,
                staging_bytes: stats.staging_bytes,
                largest_free_run_bytes: stats.largest_free_run_bytes,
                high_priority_reserve_bytes: match least_priority(requests) {
                    Priority::High => 0,
                    _ if kind == ErrorKind::OverBudget => self.reserve_bytes,
                    priority => reserve_bytes[priority as usize],
                },
                arena_bytes: situation.arena_bytes,
                arena_idle_bytes: situation.arena_idle_bytes,
                may_grow: requests.iter().all(|request| request.may(Fallback::Grow)),
                waited,
                waiting: stats.waiting,
                is_overdue: *is_overdue,
                holders: holders.clone(),
            },
        )
    }
}

fn least_priority(requests: &[Request]) -> Priority {
    requests.iter().map(|request| request.priority).min().unwrap_or_default()
}
