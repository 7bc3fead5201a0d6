//! Two fallbacks of an allocation: slabs come ([`Fallback::Grow`]), and go ([`Fallback::ReturnEmpty`]).
//!
//! Bytes are booked before a slab is created, and stay reserved until its memory is dropped: at no moment is more reserved
//! than the budget.

use super::state::{Slab, StateOf};
use super::wait::{Seat, wake};
use super::{Fallback, Request, Shared, SlabPolicy};
use crate::backend::{Backend, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::space::Placement;
use crate::sync::{MutexGuard, PoisonError, caught, this_thread};
use crate::units::{round_down, round_up};

/// What an attempt to add a slab came to.
pub(super) enum Grown<'a, B: Backend> {
    /// There is a new slab, large enough for the request; with the lock held since the last one was added.
    Slab(MutexGuard<'a, StateOf<B>>),
    /// The budget has no room for a slab of the size needed.
    NoBudget,
    /// The backend refused memory within the budget.
    Refused(Error),
}

/// Bytes booked for a slab; given back if the backend fails or panics.
struct Booking<'a, B: Backend> {
    shared: &'a Shared<B>,
    bytes: u64,
}

impl<B: Backend> Drop for Booking<'_, B> {
    fn drop(&mut self) {
        self.shared.state().unbook(self.bytes);
    }
}

/// Ends when the memory of slabs that left is gone.
struct Burial<'a, B: Backend> {
    shared: &'a Shared<B>,
    bytes: u64,
}

impl<B: Backend> Drop for Burial<'_, B> {
    fn drop(&mut self) {
        self.shared.state().buried(self.bytes, this_thread());
        self.shared.buried.notify_all();
    }
}

impl<B: Backend> Shared<B> {
    /// `Fallback::Grow`: a slab of the next size in the series or of the request, whichever is larger; halved as long
    /// as the device refuses it and the request still fits. `exactly` of the request, where others of its batch need
    /// the rest.
    pub(super) fn grow(&self, request: &Request, exactly: bool) -> Grown<'_, B> {
        let bytes = request.bytes;
        let Some(least_bytes) = self.slab_bytes_least(bytes) else { return Grown::NoBudget };
        let Some(mut slab_bytes) = self.slab_bytes_for(&self.state(), request, exactly) else { return Grown::NoBudget };
        loop {
            match self.create_slab(slab_bytes) {
                Ok(slab) => {
                    let mut state = self.state();
                    state.add_slab(slab);
                    if self.policy == SlabPolicy::Single {
                        drop(state);
                        // What the device refuses now comes with a later request.
                        let _ = self.reserve_rest();
                        state = self.state();
                    }
                    return Grown::Slab(state);
                }
                Err(error) if error.kind() == ErrorKind::OutOfMemory && slab_bytes > least_bytes => {
                    slab_bytes = round_down(slab_bytes / 2, self.limits.alignment_bytes).max(least_bytes);
                }
                Err(error) => return Grown::Refused(error),
            }
        }
    }

    /// The bytes of the slab that the request would get. `None` if the budget has no room for it.
    fn slab_bytes_for(&self, state: &StateOf<B>, request: &Request, exactly: bool) -> Option<u64> {
        let least_bytes = self.slab_bytes_least(request.bytes)?;
        let left_bytes = round_down(state.left_bytes(), self.limits.granule_bytes);
        if least_bytes > left_bytes || !state.may_use(request.bytes, request.priority) {
            return None;
        }
        let most_bytes = left_bytes.min(round_down(self.limits.slab.bytes, self.limits.granule_bytes));
        let is_least = exactly && self.policy != SlabPolicy::Single;
        let next_bytes = if is_least { 0 } else { self.slab_bytes_next(state.slab_count(), left_bytes) };
        Some(next_bytes.max(least_bytes).min(most_bytes))
    }

    /// Whether a slab for the request would be no more than was reserved before there was an arena.
    pub(super) fn may_grow_beside_arena(&self, request: &Request) -> bool {
        let mut state = self.state();
        self.slab_bytes_for(&state, request, false).is_some_and(|bytes| !state.would_be_more_than_ever(bytes))
    }

    /// Books the bytes, then asks the backend. They stay booked if that succeeds, until the slab is added.
    fn create_slab(&self, bytes: u64) -> Result<Slab<B::Slab>> {
        self.state().book(bytes);
        let booking = Booking { shared: self, bytes };
        let memory = self.backend.create_slab(bytes)?;
        std::mem::forget(booking);
        Ok(Slab::new(bytes, memory))
    }

    /// The smallest slab that an empty space of this pool's placement serves the request from.
    pub(super) fn slab_bytes_least(&self, bytes: u64) -> Option<u64> {
        match (self.policy, self.placement) {
            (SlabPolicy::PerBlock, _) | (_, Placement::Exact) => round_up(bytes, self.limits.granule_bytes),
            (_, Placement::PowerOfTwo) => {
                bytes.checked_next_power_of_two().map(|bytes| bytes.max(self.limits.alignment_bytes))
            }
        }
    }

    /// The next size in the policy's series.
    fn slab_bytes_next(&self, slab_count: usize, left_bytes: u64) -> u64 {
        let bytes = match self.policy {
            SlabPolicy::PerBlock => 0,
            SlabPolicy::Fixed(bytes) => bytes,
            // As the pool was opened, to the last granule.
            SlabPolicy::Single => return left_bytes,
            SlabPolicy::Growing => self.budget_bytes >> 3usize.saturating_sub(slab_count).max(1),
        };
        round_down(bytes, self.limits.alignment_bytes)
    }

    /// Reserves the whole budget, for [`SlabPolicy::Single`].
    pub(super) fn reserve_all(&self) -> Result<()> {
        let _growth = self.growth.lock();
        self.reserve_rest()
    }

    /// Reserves the whole budget again, where a pool of [`SlabPolicy::Single`] has no slab: it answers as one that was just
    /// opened, whatever a request may fall back on. Returns whether the pool has slabs now and had none before.
    #[cold]
    pub(super) fn reserve_again(&self) -> bool {
        if self.policy != SlabPolicy::Single || self.state().slab_count() > 0 {
            return false;
        }
        let Some(_growth) = self.growth.lock() else { return false };
        // What the device refuses, `grow` asks for in smaller slabs.
        let _ = self.reserve_rest();
        self.state().slab_count() > 0
    }

    /// Reserves what is left of the budget, in slabs as large as the device allows. Called with `growth` locked.
    fn reserve_rest(&self) -> Result<()> {
        loop {
            let left_bytes = self.state().left_bytes();
            let bytes = round_down(left_bytes.min(self.limits.slab.bytes), self.limits.granule_bytes);
            if bytes == 0 {
                return Ok(());
            }
            let slab = self.create_slab(bytes)?;
            self.state().add_slab(slab);
        }
    }

    /// `Fallback::Grow` and `Fallback::ReturnEmpty` for one who waits in line and who may be served: a new slab serves
    /// the line in turn. Nothing here waits for the device: whoever has its stream may be waiting for this thread.
    pub(super) fn reserve_for(&self, seat: &Seat<B::Slab>) {
        let is_batch = seat.requests().len() > 1;
        // As in `attempt`.
        let (mut gave_back, mut slabs_left) = (false, seat.requests().len());
        loop {
            let Some(growth) = self.growth.lock() else { return };
            let Some(short) = self.state().short_of(seat) else { return };
            if short.may(Fallback::Grow)
                && slabs_left > 0
                && let Grown::Slab(mut state) = self.grow(short, gave_back && is_batch)
            {
                let seats = state.serve();
                slabs_left -= 1;
                drop((state, growth));
                wake(seats);
                continue;
            }
            drop(growth);
            if gave_back || !short.may(Fallback::Grow) || !short.may(Fallback::ReturnEmpty) {
                return;
            }
            match self.give_back_empty(short, false) {
                Ok(true) => gave_back = true,
                _ => return,
            }
        }
    }

    /// `Fallback::ReturnEmpty`. Whether another attempt is worth while. Unless it `may_block`, the device is not waited
    /// for: slabs that it still uses leave when it is done, and who looks then finds their bytes.
    pub(super) fn give_back_empty(&self, request: &Request, may_block: bool) -> Result<bool> {
        let point = {
            let mut state = self.state();
            let possible_bytes = state.left_bytes() + state.leaving_bytes() + state.empty_bytes();
            if possible_bytes < request.bytes || !state.may_use(request.bytes, request.priority) {
                return Ok(false);
            }
            self.detach_empty(&mut state);
            state.last_leaving_point()
        };
        if let Some(point) = point {
            let waited = if may_block { self.backend.complete(point) } else { Ok(()) };
            match waited {
                Err(error) if error.kind() == ErrorKind::DeviceLost => return Err(error),
                // This thread is recording that very work, or the device has trouble of its own: what is done is done.
                _ => self.settle_completed(),
            }
        }
        if may_block {
            self.wait_for_burials();
        }
        Ok(true)
    }

    /// Gives back what the device is done with: retired blocks, and slabs that were leaving. The memory is dropped without
    /// a lock, and its bytes count as reserved until then.
    pub(super) fn settle_completed(&self) {
        self.end_holds(false);
        if !self.state().waits_for_device() {
            return;
        }
        // Asked without the lock: this is where a device runs its callbacks, and these end holds.
        let completed = self.backend.completed();
        let has_zeroed = self.zero_on_free && self.zero_retired(false);
        {
            let mut state = self.state();
            if (state.release_retired() | has_zeroed) && self.policy == SlabPolicy::PerBlock {
                self.detach_empty(&mut state);
            }
        }
        self.bury(completed);
        self.serve();
    }

    /// Starts to give empty slabs back. Asks for the point with the pool's lock held, as `State::detach_empty` wants it.
    pub(super) fn detach_empty(&self, state: &mut StateOf<B>) {
        // What is freed has been freed by now: a backend that panics here only keeps its slabs.
        if let Some(point) = caught(|| self.backend.recorded()) {
            state.detach_empty(point);
        }
    }

    fn bury(&self, completed: Point) {
        let left = self.state().take_left(completed, this_thread());
        if left.is_empty() {
            return;
        }
        let _burial = Burial { shared: self, bytes: left.iter().map(|slab| slab.bytes).sum() };
        // Each by itself: a second panic while the first unwinds would end the process.
        left.into_iter().for_each(|slab| {
            caught(|| drop(slab));
        });
    }

    /// Waits for other threads that are dropping slabs: their bytes are free, but not yet given back. A thread that is itself
    /// inside the drop of a slab does not wait.
    fn wait_for_burials(&self) {
        let this_thread = this_thread();
        let mut state = self.state();
        while state.is_burying_for(this_thread) {
            state = self.buried.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn trim(&self) -> u64 {
        let before_bytes = self.state().returned_bytes();
        self.settle_completed();
        self.empty_shards();
        {
            let mut state = self.state();
            state.gather();
            self.detach_empty(&mut state);
        }
        self.settle_completed();
        self.state().returned_bytes() - before_bytes
    }
}
