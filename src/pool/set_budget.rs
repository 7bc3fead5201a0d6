//! A budget that changes while the pool is in use.

use super::{Budget, Pool, Shared, SlabPolicy, budget};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::caught;

impl<B: Backend> Shared<B> {
    fn set_budget(&self, budget: &Budget) -> Result<u64> {
        let budget_bytes = budget.bytes(&self.backend)?;
        let reserved_bytes = self.state().reserved_bytes();
        budget::check(budget, budget_bytes, reserved_bytes, &self.backend, self.pages.touch)?;
        budget::check_staging(budget_bytes, self.staging_bytes)?;
        let budget_bytes = self.sizes.usable_budget(budget_bytes, self.staging_bytes)?;
        budget::check_reserve(budget_bytes, self.staging_bytes, self.reserve_bytes)?;
        self.sizes.check_pages(budget_bytes)?;
        let before_bytes = {
            // Bytes that are booked now would be reserved above a lower budget.
            let Some(_growth) = self.lock_growth() else { return Err(self.creates_slab(budget_bytes)) };
            let mut state = self.state();
            state.check_open()?;
            state.set_budget(budget_bytes)
        };
        self.refuse_over_budget();
        if self.state().over_bytes() > 0 {
            // Before the backend is asked, which may panic: lists and arenas hand memory out without a look at the budget.
            self.empty_shards();
            self.yield_arena();
            self.trim_to(budget_bytes);
        } else if budget_bytes > before_bytes && self.policy == SlabPolicy::Single {
            self.reserve_more();
        }
        // What is left may serve those in line, or bring slabs for them.
        self.serve();
        Ok(self.state().over_bytes())
    }

    /// The error of a call from inside `create_slab` or `commit` of this pool.
    fn creates_slab(&self, budget_bytes: u64) -> Error {
        let (budget, name) = (super::exact(budget_bytes), self.backend.name());
        let message = format!("a budget of {budget} from inside create_slab or commit of {name} for the same pool");
        Error::new(ErrorKind::Invalid, message)
    }

    /// Waiters that the budget can never serve leave the line with an error.
    fn refuse_over_budget(&self) {
        self.fold_shards();
        let held = self.labels.held(self.shards);
        let (seats, situation) = {
            let mut state = self.state();
            let seats = state.leave_over_budget();
            if seats.is_empty() {
                return;
            }
            (seats, self.situation(&state, held, false))
        };
        for seat in &seats {
            let error = self.over_budget_in(&situation, seat.requests(), seat.waited());
            // As in `expire`.
            caught(|| seat.settle(Err(error)));
        }
        super::wait::wake(seats);
    }

    /// Reserves what a larger budget of [`SlabPolicy::Single`] has more, beside slabs in use. Where none is, the next request reserves
    /// the whole budget.
    fn reserve_more(&self) {
        self.trim();
        let Some(_growth) = self.lock_growth() else { return };
        if self.state().has_whole_slabs() {
            // What the device refuses now comes with a later request.
            let _ = self.reserve_rest();
        }
    }
}

impl<B: Backend> Pool<B> {
    /// Changes the budget while the pool is in use: to bytes, or to text such as `"64 MiB"` or `"80%"`, as in
    /// [`Config::new`](crate::Config::new). Returns the bytes that are still reserved above it: 0 unless it was lowered below what is in
    /// use.
    ///
    /// ```
    /// use tensorpool::{Config, Pool, Request, SlabPolicy};
    ///
    /// let pool = Pool::host(Config::new("64 MiB").slabs(SlabPolicy::Fixed(8 << 20)))?;
    /// let weights = pool.alloc(Request::bytes(8 << 20))?;
    /// let cache = pool.alloc(Request::bytes(8 << 20))?;
    /// assert_eq!(pool.set_budget("12 MiB")?, 4 << 20); // both blocks stay
    /// assert!(pool.alloc(Request::bytes(1 << 20)).unwrap_err().is_full());
    /// drop(cache); // its slab goes back at once
    /// assert_eq!(pool.stats().reserved_bytes, 8 << 20);
    /// let smaller = pool.alloc(Request::bytes(4 << 20))?;
    ///
    /// assert_eq!(pool.set_budget("64 MiB")?, 0);
    /// let cache = pool.alloc(Request::bytes(8 << 20))?;
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// *A larger budget* serves requests at once, also those that wait in line. Slabs that come later have the sizes of a pool that was
    /// opened with it. A pool of [`SlabPolicy::Single`] reserves the additional bytes now, in a slab of their own. What the backend
    /// refuses of that comes with a later request. If nothing is held, the pool gives its slab back instead, and the next request
    /// reserves the whole budget in one. A pool with an [expanding](SlabPolicy::Expanding) slab has no more bytes than that has addresses
    /// ([`Config::address_times`](crate::Config::address_times)), and in whole granules: less than one at the end of the new budget is
    /// not used, and [`budget_bytes`](Self::budget_bytes) is without it.
    ///
    /// *A smaller budget* takes no block from its owner. If more is reserved than it has, what is idle goes back as in
    /// [`trim_to`](Self::trim_to). The arena of [planned steps](Self::follow_plan) goes too, where it is idle or is learned, or where the
    /// budget has no room for it. While the pool is over its budget:
    ///
    /// - nothing more is reserved, so that what is reserved only falls;
    /// - a request gets idle memory only as far as the bytes in use stay within the budget; the others fail as in a pool that is full;
    /// - a slab goes back as soon as the last block in it is freed, or when the device is done with it, at a later call. So small
    ///   blocks do not go through free lists, and steps that plan themselves get no arena.
    ///
    /// In an expanding slab each granule goes as soon as no block is in it. Any other slab in which one block is left stays:
    /// [`compact`](Self::compact) moves blocks out of slabs. Waiters that the new budget can never serve get
    /// [`ErrorKind::OverBudget`] at once. Those that it can serve stay in line.
    ///
    /// Staging and the [reserve](crate::Config::high_priority_reserve) stay what they were, and are parts of the new budget. A percentage
    /// is of what [`Backend::memory_bytes`] tells now. On most backends memory that this pool has in use is not in that.
    ///
    /// # Errors
    /// Then nothing has changed.
    /// - [`ErrorKind::Invalid`] for a budget that does not parse, or is less than staging and the reserve together (of an expanding slab
    ///   once it is rounded to granules), for a percentage of memory whose size is not known, for more than an expanding slab has
    ///   addresses, for a budget with which the chosen [pages](crate::Config::page_bytes) would be out of range, and inside
    ///   [`Backend::create_slab`] or [`Backend::commit`] of this pool;
    /// - [`ErrorKind::OutOfMemory`] in a pool that [touches](crate::Config::touch) its slabs, if the machine has not what is still to be
    ///   reserved;
    /// - [`ErrorKind::Closed`]; what else the backend reports, such as [`ErrorKind::DeviceLost`].
    pub fn set_budget(&self, budget: impl Into<Budget>) -> Result<u64> {
        self.shared().set_budget(&budget.into())
    }
}
