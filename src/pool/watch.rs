//! The watch: what those in line wait for, and no call of the pool brings.
//!
//! ```text
//!   free, trim, drop ──► serve the line ──► a slab may help, or the device has memory ──┐ hasten
//!   a waiter joins ──────────────────────────────────────────────────────── watch by ──┤
//!                                                                                       ▼
//!                              the pool's own thread: look ──► sleep until the next look, or until hastened
//! ```
//!
//! A look sends recorded work, takes home what the device is done with, serves the line, reserves slabs for it, and lets
//! those go whose time is over. One thread does that for all waiters. It sleeps until the next deadline, and for a shorter time
//! only while the device, a hold or an idle arena has memory. It ends soon after the last waiter has left.
//!
//! The thread keeps no pool alive between looks, and nothing waits for the thread: it may be in a waker, which is the caller's
//! code.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use super::grow::Grown;
use super::planned::Signs;
use super::shortage::Refusal;
use super::state::{Candidate, Growth, Look, Served, Terms};
use super::wait::{Seat, wake};
use super::{Fallback, Shared};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, RefusedBy, Result};
use crate::sync::{Arc, Condvar, Mutex, PoisonError, Weak, caught, lock};

/// How long it takes to the next look while the device or a hold has memory of the pool. No look follows another sooner.
const POLL_PERIOD: Duration = Duration::from_millis(1);

/// How long it takes to the next look while steps are planned: their arena may be idle.
const ARENA_PERIOD: Duration = Duration::from_millis(5);

/// How long it takes to the next look in any case: a device may be lost, and a backend that refused a slab may have one.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// The pool's own thread, which looks after those in line.
pub(super) struct Watch(Arc<Bell>);

/// What tells the thread when to look.
struct Bell {
    watch: Mutex<Next>,
    hastened: Condvar,
}

struct Next {
    /// There is a thread.
    is_watched: bool,
    /// It is at it.
    is_looking: bool,
    /// When it looks next, but not before `earliest`.
    at: Instant,
    earliest: Instant,
    /// It was hastened since it last looked.
    is_hastened: bool,
    /// The pool has gone.
    is_over: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let (is_watched, is_looking, is_hastened, is_over) = (false, false, false, false);
        let next = Next { is_watched, is_looking, at: now, earliest: now, is_hastened, is_over };
        Self(Arc::new(Bell { watch: Mutex::new(next), hastened: Condvar::new() }))
    }

    /// Whether the thread is at a look, where a waker may hold it up.
    pub(super) fn is_looking(&self) -> bool {
        lock(&self.0.watch).is_looking
    }

    /// The thread ends; it is not waited for.
    pub(super) fn end(&self) {
        lock(&self.0.watch).is_over = true;
        self.0.hastened.notify_one();
    }
}

impl Bell {
    /// The next look is at this time at the latest. Whether there is a thread.
    fn hasten(&self, at: Instant) -> bool {
        let mut next = lock(&self.watch);
        next.is_hastened = true;
        if at < next.at {
            next.at = at;
            self.hastened.notify_one();
        }
        next.is_watched
    }

    /// Waits until the next look, which begins. `false` if there is no pool any more.
    fn wait(&self) -> bool {
        let mut next = lock(&self.watch);
        while !next.is_over {
            let now = Instant::now();
            let left = next.at.max(next.earliest).saturating_duration_since(now);
            if left.is_zero() {
                (next.is_looking, next.is_hastened) = (true, false);
                (next.at, next.earliest) = (now + HEARTBEAT, now + POLL_PERIOD);
                return true;
            }
            next = self.hastened.wait_timeout(next, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// The look has ended; the next one is at this time at the latest. `None` and `may_end`: there is none any more, unless
    /// another thread asked for one meanwhile. Whether there is one.
    fn looked(&self, at: Option<Instant>, may_end: bool) -> bool {
        let mut next = lock(&self.watch);
        next.is_looking = false;
        if let Some(at) = at {
            next.at = at.min(next.at);
        } else if may_end && !next.is_hastened {
            next.is_watched = false;
        }
        next.is_watched
    }
}

/// What the thread does. It has the pool only while it looks, and does not look when nothing waits: otherwise the last owner
/// might drop the pool, and its memory would go a moment later, here.
fn watch<B: Backend>(pool: &Weak<Shared<B>>, bell: &Bell, signs: &Signs) {
    let mut was_idle = false;
    while bell.wait() {
        let shared = if signs.is_wanted() { pool.upgrade() } else { None };
        // A panic that ended the thread would leave the waiters in line for ever, past their deadlines.
        let at = caught(|| shared.as_ref().and_then(|shared| shared.look_for_all())).flatten();
        caught(|| drop(shared));
        if !bell.looked(at, was_idle) {
            return;
        }
        was_idle = at.is_none();
    }
}

impl<B: Backend> Shared<B> {
    /// Wakes those that were served, and hastens the next look if others wait for one.
    pub(super) fn tell(&self, served: Served<B::Slab>) {
        wake(served.seats);
        match served.look {
            None => {}
            Some(Look::Now) => drop(self.watch.0.hasten(Instant::now())),
            Some(Look::Soon) => drop(self.watch.0.hasten(Instant::now() + POLL_PERIOD)),
        }
    }

    /// From now on the pool's own thread looks after those in line.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] if there is no thread, and none could be started.
    pub(super) fn watch(self: &Arc<Self>) -> Result<()> {
        let at = self.next_look().unwrap_or_else(|| Instant::now() + HEARTBEAT);
        // The models have no clock: there, waiters are told of everything by others.
        if cfg!(loom) || self.watch.0.hasten(at) {
            return Ok(());
        }
        let mut next = lock(&self.watch.0.watch);
        if next.is_watched {
            return Ok(());
        }
        let (pool, bell, signs) = (Arc::downgrade(self), Arc::clone(&self.watch.0), &self.shards.signs);
        let run = move || watch(&pool, &bell, signs);
        thread::Builder::new().name("tensorpool waiters".into()).spawn(run).map_err(|error| {
            Error::new(ErrorKind::OutOfMemory, "no thread to wait with could be started").with_source(error)
        })?;
        next.is_watched = true;
        next.at = at;
        Ok(())
    }

    /// As [`look`](Self::look), and whatever panics there is an error of all in line.
    fn look_for_all(&self) -> Option<Instant> {
        let looked = caught(|| self.look());
        if looked.is_none() {
            let name = caught(|| self.backend.name().to_owned()).unwrap_or_default();
            self.dismiss(ErrorKind::Device, &format!("{name} panicked while requests waited in line"));
        }
        looked.unwrap_or_else(|| self.next_look())
    }

    /// Looks once at what no call of the pool brings. Returns when to look again, if anything waits.
    pub(super) fn look(&self) -> Option<Instant> {
        let is_lost = |error: &Error| error.kind() == ErrorKind::DeviceLost;
        // Other errors are for the threads that recorded: here they only mean that nothing was sent.
        let lost = self.backend.flush().and_then(|()| self.backend.check()).err().filter(is_lost);
        let brought = lost.map_or_else(|| self.bring_on(), Err);
        if let Err(error) = &brought {
            self.dismiss(ErrorKind::DeviceLost, &error.to_string());
        }
        self.expire();
        let next = self.next_look()?;
        // The thread that creates a slab now may need long for it.
        let is_busy = brought.unwrap_or(false);
        Some(if is_busy { next.max(Instant::now() + POLL_PERIOD) } else { next })
    }

    /// Serves the line with what came back, and with slabs. Returns whether another thread creates a slab, so that this is to be
    /// done again.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceLost`].
    fn bring_on(&self) -> Result<bool> {
        self.settle_completed();
        self.give_idle_arena();
        self.serve();
        let now = Instant::now();
        if self.state().may_grow(Some(now)) { self.grow_for_line(now) } else { Ok(false) }
    }

    /// Falls back to new slabs, and to returning empty ones, for each waiter in turn that they may help: a new slab serves the
    /// line. Nothing here waits for the device: the thread that has its stream may be waiting for this one. Nor does it wait for a
    /// thread that creates a slab: the deadlines of those in line would pass meanwhile. Returns whether there is one.
    ///
    /// A waiter gets what the backend reports, unless it has no memory: it may have some later.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceLost`].
    fn grow_for_line(&self, now: Instant) -> Result<bool> {
        let mut growth = Growth::new();
        loop {
            let Some(turn) = self.try_lock_growth() else { return Ok(true) };
            let Some(candidate) = self.next_candidate(&mut growth, now) else { return Ok(false) };
            let request = candidate.request();
            let requests = candidate.seat.requests();
            let mut slabs_left = growth.slabs_left(&candidate);
            let refused = match self.grow(requests, &mut slabs_left, growth.gave_back) {
                Grown::Slab(mut state) => {
                    let served = state.serve();
                    drop((state, turn));
                    growth.grew(&candidate, slabs_left);
                    self.tell(served);
                    continue;
                }
                Grown::Homes(homes) => {
                    let (seat, served) = {
                        let mut state = self.state();
                        (state.serve_with(&candidate, homes), state.serve())
                    };
                    drop(turn);
                    seat.into_iter().for_each(|seat| seat.wake());
                    self.tell(served);
                    continue;
                }
                Grown::NoBudget => None,
                Grown::Refused(error) if error.kind() == ErrorKind::OutOfMemory => Some(error),
                Grown::Refused(error) if error.kind() == ErrorKind::DeviceLost => return Err(error),
                Grown::Refused(error) => {
                    drop(turn);
                    if error.kind() == ErrorKind::Defect {
                        self.log_defect();
                    }
                    self.fail(&candidate, error);
                    continue;
                }
            };
            drop(turn);
            let may_return = requests.iter().all(|request| request.may(Fallback::ReturnEmpty));
            if !growth.gave_back && may_return && self.give_back_empty(requests, request, refused.is_some(), false)? {
                growth.gave_back = true;
                continue;
            }
            growth.refuse(&candidate);
            if let Some(error) = refused {
                growth.bound(self.sizes.least_for(request).unwrap_or(u64::MAX));
                candidate.seat.refuse(error);
            }
        }
    }

    fn next_candidate(&self, growth: &mut Growth, now: Instant) -> Option<Candidate<B::Slab>> {
        let mut state = self.state();
        let candidate = state.next_candidate(growth);
        if candidate.is_none() {
            state.grown(growth, now);
        }
        candidate
    }

    /// A waiter leaves the line with an error.
    fn fail(&self, candidate: &Candidate<B::Slab>, error: Error) {
        let served = {
            let mut state = self.state();
            // It may have been served meanwhile, or have left.
            let Some(seat) = state.leave(candidate.ticket) else { return };
            seat.settle(Err(error));
            state.serve()
        };
        candidate.seat.wake();
        self.tell(served);
    }

    /// Takes the waiters whose time is over out of the line.
    pub(super) fn expire(&self) {
        let now = Instant::now();
        if self.state().deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        self.fold_shards();
        let held = self.labels.held(self.shards);
        let (in_time, late, served, situation, refusals) = {
            let mut state = self.state();
            // There may be room that no thread has told the line of.
            let in_time = state.serve();
            let late = state.expire(now);
            let served = state.serve();
            // After that, so that the numbers hold for the next request.
            let (room, idle) = (state.room(), state.idle());
            // Waiters that are alike are refused for the same reason.
            let mut known = HashMap::new();
            let mut refusal = |seat: &Arc<_>| {
                let (requests, is_denied) = (Seat::requests(seat), seat.is_denied());
                let [request] = requests else { return state.refusal(requests, is_denied, &room, idle) };
                let key = (request.bytes, request.align_bytes, Terms::of(requests), is_denied);
                *known.entry(key).or_insert_with(|| state.refusal(requests, is_denied, &room, idle))
            };
            let refusals: Vec<_> = late.iter().map(&mut refusal).collect();
            let wants_compaction = refusals.iter().any(|(by, _)| *by == RefusedBy::Fragmentation);
            (in_time, late, served, self.situation(&state, held, wants_compaction), refusals)
        };
        for (seat, (by, needed_bytes)) in late.iter().zip(refusals) {
            let refusal = Refusal { kind: ErrorKind::Timeout, by, waited: seat.waited() };
            let error = self.shortage_in(&situation, seat.requests(), refusal, needed_bytes);
            // A waiter that has left meanwhile leaves the error here, and its drop is the backend's code.
            caught(|| seat.settle(Err(seat.caused(error))));
        }
        if !late.is_empty() {
            self.planning_failed();
        }
        wake(late);
        self.tell(in_time);
        self.tell(served);
    }

    /// All waiters leave the line with an error.
    pub(super) fn dismiss(&self, kind: ErrorKind, message: &str) {
        let seats = self.state().clear_line();
        seats.iter().for_each(|seat| seat.settle(Err(Error::new(kind, message))));
        wake(seats);
    }

    /// When to look again, if anything waits.
    fn next_look(&self) -> Option<Instant> {
        let state = self.state();
        let period = match state.look() {
            Some(Look::Now) => Duration::ZERO,
            Some(Look::Soon) => POLL_PERIOD,
            None if !state.is_waited_for() => return None,
            None if self.shards.signs.has_arena() => ARENA_PERIOD,
            None => HEARTBEAT,
        };
        let at = Instant::now() + period;
        Some(state.deadline().map_or(at, |deadline| deadline.min(at)))
    }
}
