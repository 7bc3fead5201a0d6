//! Two fallbacks of an allocation: memory comes ([`Fallback::Grow`]) and goes ([`Fallback::ReturnEmpty`]).
//!
//! Bytes are booked before a slab is created, and stay reserved until its memory is dropped: at no moment is more reserved
//! than the budget.

use super::expand::Decommitted;
use super::state::{Home, Leaving, NextSlab, Slab, Slot, StateOf};
use super::{Request, Shared, SlabPolicy};
use crate::backend::{Backend, PageOptions, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::space::Extent;
use crate::sync::{MutexGuard, Ordering, OwnedGuard, PoisonError, caught, this_thread};

/// What an attempt to add a slab came to.
pub(super) enum Grown<'a, B: Backend> {
    /// There are new slabs, with the lock held since the last one was added.
    Slab(MutexGuard<'a, StateOf<B>>),
    /// Places for the requests, in memory that was committed for them. They are granted by the caller.
    Homes(Vec<Home<B::Slab>>),
    /// The budget has no room for a slab of the size needed.
    NoBudget,
    /// The backend refused memory within the budget.
    Refused(Error),
}

/// The lock of all that brings memory. Waiters are served once it is free: their wakers may wait for a thread that wants it.
pub(super) struct Growing<'a, B: Backend> {
    shared: &'a Shared<B>,
    /// `None` only while this value is dropped.
    lock: Option<OwnedGuard<'a>>,
}

impl<B: Backend> Drop for Growing<'_, B> {
    fn drop(&mut self) {
        self.lock = None;
        if self.shared.serves_after_growth.swap(false, Ordering::Relaxed) {
            self.shared.serve();
        }
    }
}

/// What has left goes back. Those that wait for that are told when it ends.
struct Burial<'a, B: Backend> {
    shared: &'a Shared<B>,
}

impl<B: Backend> Drop for Burial<'_, B> {
    fn drop(&mut self) {
        self.shared.state().has_buried(this_thread());
        self.shared.gone.notify_all();
    }
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

impl<B: Backend> Shared<B> {
    /// `None` inside a call of the backend that brings memory for this pool.
    pub(super) fn lock_growth(&self) -> Option<Growing<'_, B>> {
        self.growth.lock().map(|lock| Growing { shared: self, lock: Some(lock) })
    }

    /// `None` if any thread has it.
    pub(super) fn try_lock_growth(&self) -> Option<Growing<'_, B>> {
        self.growth.try_lock().map(|lock| Growing { shared: self, lock: Some(lock) })
    }

    /// `Fallback::Grow`: reserves slabs for the requests that have no place, as far as the budget goes and at most `slabs_left`.
    /// They are of the policy's series. Once empty slabs were given back for a batch, each is exactly as large as one request
    /// needs: the others need the rest.
    pub(super) fn grow(&self, requests: &[Request], slabs_left: &mut usize, gave_back: bool) -> Grown<'_, B> {
        if self.is_expanding() {
            return self.expand(requests, gave_back);
        }
        let mut state = self.state();
        if !state.are_left(requests) {
            return Grown::NoBudget;
        }
        let lacking = state.lacking(requests);
        if lacking.is_empty() {
            // Memory came back meanwhile.
            *slabs_left -= 1;
            return Grown::Slab(state);
        }
        let exactly = gave_back && requests.len() > 1;
        let (mut slab_bytes, mut room_bytes) = (0, 0);
        // One look for places after each slab would take time that grows with the cube of the batch.
        for request in lacking.into_iter().map(|index| &requests[index]) {
            if slab_bytes == 0 || self.sizes.taken(slab_bytes, request) > room_bytes {
                if *slabs_left == 0 {
                    break;
                }
                *slabs_left -= 1;
                drop(state);
                state = match self.grow_one(request, exactly) {
                    Ok((state, bytes)) => {
                        (slab_bytes, room_bytes) = (bytes, bytes);
                        state
                    }
                    // Those before may be enough.
                    Err(Grown::NoBudget) if slab_bytes > 0 => return Grown::Slab(self.state()),
                    Err(none) => return none,
                };
            }
            room_bytes = room_bytes.saturating_sub(self.sizes.taken(slab_bytes, request));
        }
        Grown::Slab(state)
    }

    /// Reserves a slab of [`State::next_slab`](super::state::State::next_slab), halved as long as the device refuses it and the
    /// request still fits.
    fn grow_one(&self, request: &Request, exactly: bool) -> Result<(MutexGuard<'_, StateOf<B>>, u64), Grown<'_, B>> {
        let sizes = self.state().next_slab(request, exactly);
        let Some(NextSlab { least_bytes, bytes: mut slab_bytes, exactly }) = sizes else { return Err(Grown::NoBudget) };
        loop {
            match self.create_slab(slab_bytes) {
                Ok(slab) => {
                    let mut state = self.state();
                    state.add_slab(slab);
                    if self.policy == SlabPolicy::Single && exactly {
                        state.set_divided(true);
                    } else if self.policy == SlabPolicy::Single {
                        drop(state);
                        // What the device refuses now comes with a later request.
                        let _ = self.reserve_rest();
                        state = self.state();
                    }
                    return Ok((state, slab_bytes));
                }
                Err(error) if error.kind() == ErrorKind::OutOfMemory && slab_bytes > least_bytes => {
                    slab_bytes = self.sizes.slab(slab_bytes / 2).max(least_bytes);
                }
                Err(error) => return Err(Grown::Refused(error)),
            }
        }
    }

    /// Reserves a slab for the blocks of another one that is much larger, and their places in it. `None` if the budget or the backend
    /// has no room for it.
    ///
    /// # Errors
    /// The backend's, other than [`ErrorKind::OutOfMemory`].
    pub(super) fn reserve_in_new_slab(
        &self,
        from: Slot,
        blocks: &[(u64, Extent)],
    ) -> Result<Option<Vec<Home<B::Slab>>>> {
        let Some(growth) = self.lock_growth() else { return Ok(None) };
        let Some(bytes) = self.state().new_slab_for(from, blocks) else { return Ok(None) };
        let slab = match self.create_slab(bytes) {
            Err(error) if error.kind() == ErrorKind::OutOfMemory => return Ok(None),
            created => created?,
        };
        let mut state = self.state();
        state.add_slab(slab);
        let homes = state.reserve_in_empty(bytes, blocks);
        if homes.is_none() {
            // Others have what was open before the slab was there: it is for nothing.
            self.detach_empty(&mut state);
            drop((state, growth));
            self.settle_completed();
        }
        Ok(homes)
    }

    /// Books the bytes, then asks the backend. They stay booked if that succeeds, until the slab is added.
    fn create_slab(&self, bytes: u64) -> Result<Slab<B::Slab>> {
        self.state().book(bytes)?;
        let booking = Booking { shared: self, bytes };
        let memory = if self.pages == PageOptions::default() {
            self.backend.create_slab(bytes)?
        } else {
            self.backend.create_slab_with(bytes, self.pages)?
        };
        std::mem::forget(booking);
        Ok(Slab::new(bytes, memory))
    }

    /// Reserves the whole budget, for [`SlabPolicy::Single`].
    pub(super) fn reserve_all(&self) -> Result<()> {
        let _growth = self.lock_growth();
        self.reserve_rest()
    }

    /// Reserves the whole budget again, where a pool of [`SlabPolicy::Single`] has no slab: it answers as one that was just
    /// opened, whatever a request may fall back on. Returns whether the pool has slabs now and had none before.
    #[cold]
    pub(super) fn reserve_again(&self) -> bool {
        if self.policy != SlabPolicy::Single || self.state().slab_count() > 0 {
            return false;
        }
        let Some(_growth) = self.lock_growth() else { return false };
        {
            let mut state = self.state();
            if state.slab_count() > 0 {
                return true;
            }
            state.set_divided(false);
        }
        // What the device refuses, `grow` asks for in smaller slabs.
        let _ = self.reserve_rest();
        self.state().slab_count() > 0
    }

    /// Reserves what is left of the budget, in slabs as large as the device allows. Called with `growth` locked.
    pub(super) fn reserve_rest(&self) -> Result<()> {
        loop {
            let bytes = self.sizes.slab(self.state().left_bytes());
            // A buddy system leaves less than a page, for which no slab is worth while.
            if bytes == 0 || bytes < self.sizes.page_bytes(self.state().largest_slab_bytes()) {
                return Ok(());
            }
            let slab = self.create_slab(bytes)?;
            self.state().add_slab(slab);
        }
    }

    /// `Fallback::ReturnEmpty` for requests, of which one has no place, or `is_denied` memory by the backend. Whether another attempt is
    /// worth while. Unless it `may_block`, the device is not waited for: slabs that it still uses leave when it is done, and a later
    /// look finds their bytes.
    pub(super) fn give_back_empty(
        &self,
        requests: &[Request],
        lacking: &Request,
        is_denied: bool,
        may_block: bool,
    ) -> Result<bool> {
        {
            let state = self.state();
            let possible_bytes = state.left_bytes_after(state.leaving_bytes() + state.empty_bytes());
            if self.sizes.least_for(lacking).is_none_or(|bytes| bytes > possible_bytes) || !state.are_left(requests) {
                return Ok(false);
            }
        }
        let mut is_enough = self.detach_for(requests, is_denied);
        loop {
            let point = self.state().last_leaving_point();
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
            if is_enough || point.is_none() {
                return Ok(true);
            }
            // The pages of what was leaving were in the way.
            is_enough = true;
            self.detach_for(requests, is_denied);
        }
    }

    /// Starts to give back what is empty: what requests need, where that comes in granules. Returns whether more of it would be of
    /// no use.
    fn detach_for(&self, requests: &[Request], is_denied: bool) -> bool {
        let mut state = self.state();
        if !self.is_expanding() {
            self.detach_empty(&mut state);
            return true;
        }
        let Some(point) = caught(|| self.backend.recorded()) else { return true };
        state.detach_spare_for(requests, is_denied, point)
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
            if (state.release_retired() | has_zeroed) && state.gives_back_at_once() {
                self.detach_empty(&mut state);
            }
        }
        self.bury(completed);
        self.serve();
    }

    /// Starts to give empty slabs back. Asks for the point with the pool's lock held, as `State::detach_down_to` wants it.
    pub(super) fn detach_empty(&self, state: &mut StateOf<B>) {
        self.detach_down_to(0, state);
    }

    /// The same after a place was freed: of an expanding slab only what is around that.
    pub(super) fn detach_around(&self, place: (Slot, Extent), state: &mut StateOf<B>) {
        if !self.is_expanding() {
            self.detach_empty(state);
        } else if let Some(point) = caught(|| self.backend.recorded()) {
            state.detach_spare_around(place, point);
        }
    }

    fn detach_down_to(&self, bytes: u64, state: &mut StateOf<B>) {
        // What is freed has been freed by now: a backend that panics here only keeps its slabs.
        if let Some(point) = caught(|| self.backend.recorded()) {
            state.detach_down_to(bytes, point);
        }
    }

    /// Gives back what has left by this point. Nothing here panics: whatever the backend does is caught.
    fn bury(&self, completed: Point) {
        let left = self.state().take_left(completed, this_thread());
        if left.is_empty() {
            return;
        }
        let _burial = Burial { shared: self };
        // Each by itself: a second panic while the first unwinds would end the process.
        for leaving in left {
            let came = self.decommit(&leaving);
            let Leaving { slab, spare, .. } = leaving;
            let bytes = slab.bytes;
            match spare {
                Some(extent) => {
                    let mut state = self.state();
                    match came {
                        Decommitted::Yes => state.decommitted(slab, extent, true),
                        Decommitted::No => state.decommitted(slab, extent, false),
                    }
                }
                None => {
                    caught(|| drop(slab));
                    self.state().buried(bytes);
                }
            }
        }
    }

    /// Logs that the pool's counters are wrong, the first time that they are. No lock is held: a logger may call the pool.
    pub(super) fn log_defect(&self) {
        let defect = self.state().defect_to_tell();
        if let Some(error) = defect {
            log::error!("{error}");
        }
    }

    /// Waits for other threads that are dropping slabs: their bytes are free, but not yet given back. A thread that is itself
    /// inside the drop of a slab does not wait.
    fn wait_for_burials(&self) {
        let this_thread = this_thread();
        let mut state = self.state();
        while state.is_burying_for(this_thread) {
            state = self.gone.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn trim(&self) -> u64 {
        self.trim_to(0)
    }

    pub(super) fn trim_to(&self, bytes: u64) -> u64 {
        let before_bytes = self.state().returned_bytes();
        self.settle_completed();
        self.empty_shards();
        {
            let mut state = self.state();
            state.gather();
            self.detach_down_to(bytes, &mut state);
        }
        self.settle_completed();
        self.keep_small();
        self.state().returned_bytes() - before_bytes
    }
}
