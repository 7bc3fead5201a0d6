//! What happens on `pool.alloc(...)`, in order:
//!
//! 1. an idle piece of exactly the class;
//! 2. a place in a slab, fullest slab first, lowest address first;
//! 3. what is idle goes home (retired blocks whose work is done, idle pieces merge), and 1 and 2 again;
//! 4. a new slab, if the budget allows one;
//! 5. empty slabs go back to the device, and 4 again;
//! 6. wait in line, if the request says so ([`super::wait`]), or fail, with the numbers.
//!
//! Bytes are booked before a slab is created, and stay reserved until its memory is dropped: at no moment is more
//! reserved than the budget. No lock is held while the device is waited for, and none but `growth` while a slab is
//! created: a thread that records work for the device may allocate, and the device's callbacks may free.

use std::time::Duration;

use super::state::{Grant, Short, Slab, StateOf};
use super::wait::{Seat, wake};
use super::{Block, Priority, Request, Shared, SlabPolicy, Step};
use crate::backend::{Backend, Limit, Point};
use crate::error::{Error, ErrorKind, Result, Shortage};
use crate::space::Placement;
use crate::sync::{Arc, PoisonError, lock};
use crate::units::{exact, round_down, round_up};

/// How many of the largest holders an error names.
const HOLDERS_NAMED: usize = 5;

/// What an attempt to add a slab came to.
enum Grown {
    /// There is a new slab, large enough for the request.
    Slab,
    /// The budget has no room for a slab of the size needed.
    NoBudget,
    /// The backend refused memory within the budget.
    Refused(Error),
}

/// Why there are no blocks now, and how long the requests would wait for them.
pub(super) type NotNow = (Error, Option<Duration>);

/// Bytes booked for a slab; given back if the backend fails or panics.
struct Booking<'a, B: Backend> {
    shared: &'a Shared<B>,
    bytes: u64,
}

impl<B: Backend> Drop for Booking<'_, B> {
    fn drop(&mut self) {
        self.shared.state().booked_bytes -= self.bytes;
    }
}

/// Ends when the memory of slabs that left is gone.
struct Burial<'a, B: Backend> {
    shared: &'a Shared<B>,
    bytes: u64,
}

impl<B: Backend> Drop for Burial<'_, B> {
    fn drop(&mut self) {
        self.shared.state().buried(self.bytes);
        self.shared.buried.notify_all();
    }
}

impl<B: Backend> Shared<B> {
    pub(super) fn alloc(self: &Arc<Self>, request: &Request) -> Result<Block<B>> {
        self.check_request(request)?;
        if request.bytes == 0 {
            self.state().check_open()?;
            return Ok(Block::empty(Arc::clone(self), &request.label));
        }
        let at_once = {
            let mut state = self.state();
            state.check_open()?;
            state.take(request)
        };
        let grant = match at_once {
            Some(grant) => grant,
            None => self.obtain(request)?,
        };
        self.block(grant, request)
    }

    fn block(self: &Arc<Self>, grant: Grant<B::Slab>, request: &Request) -> Result<Block<B>> {
        let mut block = Block::new(Arc::clone(self), grant, request.bytes);
        if request.zeroed {
            block.fill(request.bytes, &[0])?;
        }
        Ok(block)
    }

    /// The blocks of a batch: `grants` are those of the requests that are not of zero bytes.
    pub(super) fn blocks(self: &Arc<Self>, grants: Vec<Grant<B::Slab>>, requests: &[Request]) -> Result<Vec<Block<B>>> {
        let mut grants = grants.into_iter();
        // First all are owned by blocks, so that an error loses none.
        let mut blocks: Vec<Block<B>> = requests
            .iter()
            .map(|request| match request.bytes {
                0 => Block::empty(Arc::clone(self), &request.label),
                bytes => Block::new(Arc::clone(self), grants.next().expect("a grant for each request"), bytes),
            })
            .collect();
        for (block, request) in blocks.iter_mut().zip(requests).filter(|(_, request)| request.zeroed) {
            block.fill(request.bytes, &[0])?;
        }
        Ok(blocks)
    }

    /// What can be told from the request alone.
    fn check_request(&self, request: &Request) -> Result<()> {
        let Request { bytes, align_bytes, .. } = *request;
        if !align_bytes.is_power_of_two() || align_bytes > self.limits.alignment_bytes {
            let message = format!(
                "an alignment of {align_bytes} is not a power of two up to the {} that a slab has",
                exact(self.limits.alignment_bytes)
            );
            return Err(Error::new(ErrorKind::Alignment, message));
        }
        self.backend.check()?;
        let limit =
            if self.limits.block.bytes <= self.limits.slab.bytes { self.limits.block } else { self.limits.slab };
        if bytes > limit.bytes {
            return Err(self.too_large(bytes, bytes, limit));
        }
        match self.slab_bytes_least(bytes) {
            Some(least_bytes) if bytes > 0 && least_bytes > self.limits.slab.bytes => {
                Err(self.too_large(bytes, least_bytes, self.limits.slab))
            }
            _ => Ok(()),
        }
    }

    fn too_large(&self, bytes: u64, least_bytes: u64, limit: Limit) -> Error {
        let slab =
            if least_bytes > bytes { format!(" needs a slab of {}, which", exact(least_bytes)) } else { String::new() };
        let message = format!("a block of {}{slab} is over {limit} of {}", exact(bytes), self.backend.name());
        Error::new(ErrorKind::TooLarge, message)
    }

    #[cold]
    fn obtain(self: &Arc<Self>, request: &Request) -> Result<Grant<B::Slab>> {
        let requests = std::slice::from_ref(request);
        let mut grants = match self.try_obtain(requests, true) {
            Ok(grants) => grants,
            Err((_, Some(patience))) => self.wait(requests, patience)?,
            Err((error, None)) => return Err(error),
        };
        Ok(grants.pop().expect("a grant for the request"))
    }

    /// All steps but waiting. Unless it `may_block`, nothing waits for the device either.
    pub(super) fn try_obtain(&self, requests: &[Request], may_block: bool) -> Result<Vec<Grant<B::Slab>>, NotNow> {
        self.check_batch(requests).map_err(|error| (error, None))?;
        match self.attempt(requests, may_block) {
            Ok(Ok(grants)) => Ok(grants),
            Err(error) => Err((error, None)),
            Ok(Err(error)) => {
                let patience = requests.iter().map(|request| request.wait).min().flatten();
                if patience.is_none() {
                    self.state().failed();
                }
                Err((error, patience))
            }
        }
    }

    /// Refuses what can never be served.
    fn check_batch(&self, requests: &[Request]) -> Result<()> {
        requests.iter().try_for_each(|request| self.check_request(request))?;
        self.state().check_open()?;
        let staged_bytes = self.budget_bytes - self.staging_bytes;
        let most_bytes = round_down(staged_bytes, self.limits.granule_bytes);
        let mut sum_bytes = 0u64;
        for request in requests.iter().filter(|request| request.bytes > 0) {
            let bytes = request.bytes;
            sum_bytes = sum_bytes.saturating_add(bytes);
            let open_bytes = staged_bytes.saturating_sub(self.state().reserve_bytes(request.priority));
            if sum_bytes > open_bytes
                || self.slab_bytes_least(bytes).is_none_or(|least_bytes| least_bytes.max(bytes) > most_bytes)
            {
                let mut state = self.state();
                state.failed();
                return Err(self.shortage(&state, requests, ErrorKind::OverBudget, Duration::ZERO));
            }
        }
        Ok(())
    }

    /// Steps 1 to 5. The inner error is for want of room, the outer one for good.
    fn attempt(&self, requests: &[Request], may_block: bool) -> Result<Result<Vec<Grant<B::Slab>>>> {
        let (mut gave_back, mut grown) = (false, false);
        let may = |step| requests.iter().all(|request| request.may(step));
        loop {
            if may(Step::Gather) {
                self.settle_completed();
            }
            let growth = lock(&self.growth);
            let short = {
                let mut state = self.state();
                if may(Step::Gather) {
                    state.gather();
                }
                match state.take_all(requests) {
                    Ok(grants) => {
                        if gave_back || grown || may(Step::Gather) {
                            state.count(grants.len(), grown, gave_back);
                        }
                        return Ok(Ok(grants));
                    }
                    Err(Short::Of(index)) => &requests[index],
                    // They are served before, by whatever a new slab could give.
                    Err(Short::Turn) => return Ok(Err(self.no_room(&state, requests))),
                }
            };
            let refusal = match may(Step::Grow).then(|| self.grow(short)) {
                Some(Grown::Slab) => {
                    grown = true;
                    continue;
                }
                Some(Grown::Refused(error)) if error.kind() == ErrorKind::OutOfMemory => Some(error),
                Some(Grown::Refused(error)) => return Err(error),
                Some(Grown::NoBudget) | None => None,
            };
            drop(growth);
            if may_block && !gave_back && may(Step::Grow) && may(Step::GiveBack) && self.give_back_empty(short.bytes)? {
                gave_back = true;
                continue;
            }
            return Ok(Err(match refusal {
                Some(error) => self.refused(short, error),
                None => self.no_room(&self.state(), requests),
            }));
        }
    }

    /// Steps 4 and 5 for one who waits in line and who may be served: a new slab serves the line in turn.
    pub(super) fn reserve_for(&self, seat: &Seat<B::Slab>) {
        let mut gave_back = false;
        loop {
            let growth = lock(&self.growth);
            let Some(short) = self.short_of(seat) else { return };
            let grown = short.may(Step::Grow) && matches!(self.grow(short), Grown::Slab);
            drop(growth);
            if grown {
                let seats = self.state().serve();
                wake(seats);
                continue;
            }
            if gave_back || !short.may(Step::Grow) || !short.may(Step::GiveBack) {
                return;
            }
            match self.give_back_empty(short.bytes) {
                Ok(true) => gave_back = true,
                _ => return,
            }
        }
    }

    /// The request of a waiter that no slab serves now. `None` if all of them are served, or he need not wait.
    fn short_of<'a>(&self, seat: &'a Seat<B::Slab>) -> Option<&'a Request> {
        let mut state = self.state();
        state.short_of(seat)
    }

    /// Step 4: a slab of the next size in the series or of the request, whichever is larger; halved as long as the
    /// device refuses it and the request still fits.
    fn grow(&self, request: &Request) -> Grown {
        let bytes = request.bytes;
        let Some(least_bytes) = self.slab_bytes_least(bytes) else { return Grown::NoBudget };
        let mut slab_bytes = {
            let state = self.state();
            let left_bytes = round_down(state.left_bytes(), self.limits.granule_bytes);
            if least_bytes > left_bytes || !state.may_use(bytes, request.priority) {
                return Grown::NoBudget;
            }
            let most_bytes = left_bytes.min(round_down(self.limits.slab.bytes, self.limits.granule_bytes));
            self.slab_bytes_next(state.slab_count(), left_bytes).max(least_bytes).min(most_bytes)
        };
        loop {
            match self.create_slab(slab_bytes) {
                Ok(slab) => {
                    let mut state = self.state();
                    state.booked_bytes -= slab_bytes;
                    state.add_slab(slab);
                    return Grown::Slab;
                }
                Err(error) if error.kind() == ErrorKind::OutOfMemory && slab_bytes > least_bytes => {
                    slab_bytes = round_down(slab_bytes / 2, self.limits.alignment_bytes).max(least_bytes);
                }
                Err(error) => return Grown::Refused(error),
            }
        }
    }

    /// Books the bytes, then asks the backend. They stay booked if that succeeds, until the slab is added.
    fn create_slab(&self, bytes: u64) -> Result<Slab<B::Slab>> {
        self.state().booked_bytes += bytes;
        let booking = Booking { shared: self, bytes };
        let memory = self.backend.create_slab(bytes)?;
        std::mem::forget(booking);
        Ok(Slab::new(bytes, memory))
    }

    /// The smallest slab that an empty space of this pool's placement serves the request from.
    fn slab_bytes_least(&self, bytes: u64) -> Option<u64> {
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
            SlabPolicy::Single => left_bytes,
            SlabPolicy::Growing => self.budget_bytes >> 3usize.saturating_sub(slab_count).max(1),
        };
        round_down(bytes, self.limits.alignment_bytes)
    }

    /// Reserves the whole budget, for [`SlabPolicy::Single`].
    pub(super) fn reserve_all(&self) -> Result<()> {
        let _growth = lock(&self.growth);
        loop {
            let left_bytes = self.state().left_bytes();
            let bytes = round_down(left_bytes.min(self.limits.slab.bytes), self.limits.granule_bytes);
            if bytes == 0 {
                return Ok(());
            }
            let slab = self.create_slab(bytes)?;
            let mut state = self.state();
            state.booked_bytes -= bytes;
            state.add_slab(slab);
        }
    }

    /// Step 5. Whether another attempt is worth while.
    fn give_back_empty(&self, bytes: u64) -> Result<bool> {
        let point = {
            let mut state = self.state();
            let possible_bytes = state.left_bytes() + state.leaving_bytes() + state.empty_bytes();
            if possible_bytes < bytes {
                return Ok(false);
            }
            state.detach_empty(self.backend.recorded());
            state.last_leaving_point()
        };
        if let Some(point) = point {
            match self.backend.complete(point) {
                Err(error) if error.kind() == ErrorKind::DeviceLost => return Err(error),
                // This thread is recording that very work, or the device has trouble of its own: what is done is done.
                _ => self.settle_completed(),
            }
        }
        self.wait_for_burials();
        Ok(true)
    }

    /// Gives back what the device is done with: retired blocks, and slabs that were leaving. The memory is dropped without a lock, and its
    /// bytes count as reserved until then.
    pub(super) fn settle_completed(&self) {
        if self.state().waits_for_device() {
            // Asked without the lock: this is where a device runs its callbacks, and these end holds.
            let completed = self.backend.completed();
            {
                let mut state = self.state();
                if state.release_retired() && self.policy == SlabPolicy::PerBlock {
                    state.detach_empty(self.backend.recorded());
                }
            }
            self.bury(completed);
            self.serve();
        }
    }

    /// Memory came back: serves the line.
    pub(super) fn serve(&self) {
        let seats = self.state().serve();
        wake(seats);
    }

    fn bury(&self, completed: Point) {
        let left = self.state().take_left(completed);
        if left.is_empty() {
            return;
        }
        // Also if dropping the memory panics.
        let _burial = Burial { shared: self, bytes: left.iter().map(|slab| slab.bytes).sum() };
        drop(left);
    }

    /// Waits for other threads that are dropping slabs: their bytes are free, but not yet given back.
    fn wait_for_burials(&self) {
        let mut state = self.state();
        while state.is_burying() {
            state = self.buried.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn trim(&self) -> u64 {
        self.settle_completed();
        let before_bytes = {
            let mut state = self.state();
            let before_bytes = state.reserved_bytes;
            state.gather();
            state.detach_empty(self.backend.recorded());
            before_bytes
        };
        self.settle_completed();
        before_bytes.saturating_sub(self.state().reserved_bytes)
    }

    /// The budget had room, and the backend had none.
    fn refused(&self, request: &Request, error: Error) -> Error {
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

    /// The error of step 6. Which of the two it is, is judged by what is left now.
    fn no_room(&self, state: &StateOf<B>, requests: &[Request]) -> Error {
        let asked_bytes = requests.iter().fold(0u64, |sum, request| sum.saturating_add(request.bytes));
        let fits = asked_bytes <= state.stats().available_bytes();
        let kind = if fits { ErrorKind::Fragmented } else { ErrorKind::Full };
        self.shortage(state, requests, kind, Duration::ZERO)
    }

    /// The numbers of a pool that cannot serve these requests.
    pub(super) fn shortage(
        &self,
        state: &StateOf<B>,
        requests: &[Request],
        kind: ErrorKind,
        waited: Duration,
    ) -> Error {
        let stats = state.stats();
        let mut holders = state.labels.holders();
        holders.truncate(HOLDERS_NAMED);
        let sum = |bytes: &dyn Fn(&Request) -> u64| {
            requests.iter().fold(0u64, |sum, request| sum.saturating_add(bytes(request)))
        };
        let label = requests.iter().map(|request| &*request.label).find(|label| !label.is_empty());
        let priority = requests.iter().map(|request| request.priority).min().unwrap_or(Priority::Normal);
        Error::shortage_of(
            kind,
            Shortage {
                asked_bytes: sum(&|request| request.bytes),
                needed_bytes: sum(&|request| self.slab_bytes_least(request.bytes).unwrap_or(u64::MAX)),
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
                reserve_bytes: state.reserve_bytes(priority),
                waited,
                waiting: stats.waiting,
                holders,
            },
        )
    }
}
