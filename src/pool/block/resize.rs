//! A block that grows or shrinks where it is: its first byte stays, and nothing is copied.
//!
//! ```text
//!   try_grow ──► pages behind it reserved (lock) ──► zeroed, if asked (stream) ──► the block's (lock)
//!   shrink ────► the span ends earlier ──► pages behind it zeroed, in some pools ──► free, or retired (lock)
//! ```

use super::{Block, Descriptor};
use crate::backend::{Backend, SpanMut};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::state::{Denied, Holds, Home};
use crate::pool::zero::Zeroed;
use crate::pool::{Request, Shared, planned};
use crate::space::Obstacle;
use crate::sync::{Arc, caught};
use crate::units::{exact, round_up};

/// What zeroes are written from.
const ZEROS: [u8; 4096] = [0; 4096];

impl<B: Backend> Block<B> {
    /// Grows the block to `bytes` bytes where it is, without a copy, if the memory right behind it is free. The block keeps its
    /// [`offset`](Self::offset), its slab and its contents. The new bytes are whatever was there, as those of a request that is not
    /// [zeroed](Request::zeroed).
    ///
    /// ```
    /// use tensorpool::{Config, Pool, Request, SlabPolicy};
    ///
    /// let pool = Pool::host(Config::new("128 KiB").slabs(SlabPolicy::Single))?;
    /// let mut cache = pool.alloc(Request::bytes(64 << 10).label("cache"))?;
    /// let next = pool.alloc(Request::bytes(64 << 10))?;
    /// let error = cache.try_grow(96 << 10).unwrap_err();
    /// assert!(error.is_not_in_place()); // "next" is in the way: take another block, and copy
    /// drop(next);
    /// let offset = cache.offset();
    /// cache.try_grow(96 << 10)?;
    /// assert_eq!((cache.bytes(), cache.offset()), (96 << 10, offset));
    /// cache.shrink(32 << 10)?; // the pages behind it are free at once
    /// assert_eq!(pool.stats().used_bytes, 32 << 10);
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// What a block [holds](Self::bytes_held) beyond its bytes it grows into for nothing. A block of at most half a page is a
    /// *piece*, which never holds more than it does. Any other grows by whole pages; with
    /// [`Placement::PowerOfTwo`](crate::Placement::PowerOfTwo) to the next power of two of pages. A block in the arena of planned
    /// steps grows within its place. No slab is reserved; an expanding one gets the memory that is missing. If pages behind the block
    /// are idle, in free lists, retired or in an arena without a block, they are reclaimed first. Other idle memory is where the bytes
    /// behind the block are free, and the budget has too few left.
    ///
    /// Memory behind a block is kept from waiters as any other: growing passes those in line, and waits for those that were passed
    /// too often. A block takes from the [reserve](crate::Config::high_priority_reserve) only if it was asked for with high priority.
    /// A recording has a block that grew as freed and allocated anew. Steps that plan themselves leave a block to the
    /// pool that grows beyond what it was asked for with, rounded up to the alignment.
    ///
    /// # Errors
    /// Then the block is as it was. Idle memory may have gone from `cached` to `free`.
    /// - [`ErrorKind::NotInPlace`] if what is behind the block is in use, or it is a piece, a planned place, the last block of its
    ///   slab, or of zero bytes, or the bytes behind it lack memory that the budget has none left for: the message says which, with
    ///   the numbers;
    /// - [`ErrorKind::Full`] if the bytes behind it are free, and the budget has less left, perhaps since an arena is kept, it is the
    ///   turn of a waiter, or they are kept for high priority: [`Error::shortage`] is about the bytes that it would take;
    /// - [`ErrorKind::OutOfMemory`] if the backend could not commit memory for them;
    /// - [`ErrorKind::TooLarge`] over a limit of the backend, [`ErrorKind::Closed`], [`ErrorKind::DeviceLost`];
    /// - [`ErrorKind::Invalid`] for fewer bytes than the block has.
    pub fn try_grow(&mut self, bytes: u64) -> Result<()> {
        self.grow(bytes, false)
    }

    /// Grows the block as [`try_grow`](Self::try_grow) does, and zeroes the new bytes.
    ///
    /// # Errors
    /// As there. The backend's, if it cannot zero: on a GPU [`ErrorKind::Shape`] for a block that is not of whole words of 4 bytes,
    /// [`ErrorKind::Recording`] inside the closure that records.
    pub fn try_grow_zeroed(&mut self, bytes: u64) -> Result<()> {
        self.grow(bytes, true)
    }

    /// Shrinks the block to its first `bytes` bytes, at least 1, where it is. Whole pages behind them are free at once, for any
    /// other block, or as soon as the [holds](Self::hold) on this block are over. A piece, and a block in the arena of planned
    /// steps, hold as much as before.
    ///
    /// In a pool that [zeroes what is freed](crate::Config::zero_on_free) those pages are zeroed before another block has them. On a GPU
    /// a bind group that was made before still reaches them: it must not be used again.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for more bytes than the block has, and for none: a block that is not needed is dropped. Then the block
    /// is as it was.
    pub fn shrink(&mut self, bytes: u64) -> Result<()> {
        let from = self.bytes();
        if bytes == from {
            return Ok(());
        }
        if bytes > from || bytes == 0 {
            let rule = if bytes == 0 { "drop it instead" } else { "that is more" };
            return Err(self.refused(ErrorKind::Invalid, "shrink", bytes, rule));
        }
        self.check_place("shrink", bytes)?;
        let shared = Arc::clone(self.shared());
        shared.make_room_in_record();
        self.write_down(&shared, bytes);
        self.descriptor_mut().asked.resize(bytes);
        let behind = self.part_with(&shared, bytes);
        // Before the pool's lock: a thread that has the labels' table may wait for a shard, whose thread waits for the pool's lock.
        let label = self.label();
        let tally = shared.shards.tally();
        if shared.shards.signs.has_arena() {
            shared.fold_planned();
        }
        let (served, gives_back) = {
            let mut state = shared.state();
            state.fold(tally);
            if let Some(home) = self.home() {
                state.shrank(home, behind, from, (bytes, label.text()));
            }
            let gives_back = state.gives_back_at_once();
            if gives_back {
                shared.detach_empty(&mut state);
            }
            (state.serve(), gives_back)
        };
        shared.tell(served);
        if gives_back {
            caught(|| shared.settle_completed());
        }
        Ok(())
    }

    fn grow(&mut self, bytes: u64, is_zeroed: bool) -> Result<()> {
        let from = self.bytes();
        if bytes == from {
            return Ok(());
        }
        if bytes < from {
            return Err(self.refused(ErrorKind::Invalid, "grow", bytes, "that is less: shrink it instead"));
        }
        self.check_place("grow", bytes)?;
        let shared = Arc::clone(self.shared());
        shared.check_request(&Request::bytes(bytes), true)?;
        shared.state().check_open()?;
        shared.make_room_in_record();
        let behind = self.take_behind(&shared, bytes)?;
        if is_zeroed {
            self.zero_from(&shared, from, bytes)?;
        }
        self.write_down(&shared, bytes);
        self.take_over(behind, bytes);
        Ok(())
    }

    /// Refuses a block that has no place.
    fn check_place(&self, verb: &str, bytes: u64) -> Result<()> {
        if self.home().is_some() {
            return Ok(());
        }
        Err(self.refused(ErrorKind::NotInPlace, verb, bytes, "a block of zero bytes has no place"))
    }

    #[cold]
    fn refused(&self, kind: ErrorKind, verb: &str, bytes: u64, reason: &str) -> Error {
        let label = if !self.label().is_empty() { format!(" for {:?}", self.label()) } else { String::new() };
        let (from, to) = (exact(self.bytes()), exact(bytes));
        Error::new(kind, format!("a block of {from}{label} cannot {verb} in place to {to}: {reason}"))
    }

    /// Reserves the pages behind the block, as many as it needs.
    fn take_behind(&self, shared: &Arc<Shared<B>>, bytes: u64) -> Result<Behind<B>> {
        let behind = |home| Behind { shared: Arc::clone(shared), home };
        let held_bytes = self.bytes_held();
        if bytes <= held_bytes {
            return Ok(behind(None));
        }
        let Some(home) = self.own_home() else {
            let reason = format!("its place in the arena of planned steps has {}", exact(held_bytes));
            return Err(self.refused(ErrorKind::NotInPlace, "grow", bytes, &reason));
        };
        match shared.clear_behind(home, bytes)? {
            Ok(home) => Ok(behind(Some(home))),
            Err(denied) => Err(self.in_the_way(shared, bytes, denied)),
        }
    }

    #[cold]
    fn in_the_way(&self, shared: &Shared<B>, bytes: u64, denied: Denied) -> Error {
        let (obstacle, retired_bytes) = match denied {
            Denied::Short { more_bytes, short, .. } => {
                // Marked as the pool's: what would serve a request elsewhere does not serve this one.
                let request = Request::bytes(more_bytes).label(self.label()).for_the_pool();
                return shared.no_room(std::slice::from_ref(&request), &short);
            }
            Denied::Memory { more_bytes, left_bytes } => {
                let (more, left) = (exact(more_bytes), exact(left_bytes));
                let reason =
                    format!("of {more} behind it some have no memory, and the budget has {left} left to reserve");
                return self.refused(ErrorKind::NotInPlace, "grow", bytes, &reason);
            }
            Denied::Obstacle { obstacle, first } => (obstacle, first.retired_bytes),
        };
        let held = exact(self.bytes_held());
        let reason = match obstacle {
            Obstacle::Piece => format!("it is a piece of {held}, and pieces keep their size"),
            Obstacle::End { bytes } => format!("it holds {held}, and its slab ends {} behind it", exact(bytes)),
            Obstacle::Buddies { run_bytes } => {
                let (run, offset) = (exact(run_bytes), exact(self.offset()));
                format!("a buddy system has runs of {run} at multiples of that, and it begins at {offset}")
            }
            Obstacle::Pages { needed_bytes, free_bytes, used_bytes, is_cut } => {
                let what = match retired_bytes {
                    Some(bytes) => format!(", the first {} of them retired", exact(bytes)),
                    None if is_cut == Some(true) => ", the first in a page of small blocks".to_owned(),
                    None => String::new(),
                };
                let [needed, free, used] = [needed_bytes, free_bytes, used_bytes].map(exact);
                format!("of the {needed} behind it {free} are free, and then come {used} in use{what}")
            }
        };
        self.refused(ErrorKind::NotInPlace, "grow", bytes, &reason)
    }

    /// Zeroes the bytes from `from` to `to`, which are the block's or reserved for it.
    fn zero_from(&mut self, shared: &Shared<B>, from: u64, to: u64) -> Result<()> {
        let Some(home) = self.home() else { return Ok(()) };
        let (slab, offset) = (&home.slab, home.extent.offset());
        // A span begins at a multiple of the alignment: what is before the first is written as a part of the block.
        let edge = round_up(from, shared.limits.alignment_bytes).unwrap_or(to).min(to);
        let mut written = from;
        while written < edge {
            let zeros = &ZEROS[..(edge - written).min(ZEROS.len() as u64) as usize];
            let span = SpanMut::new(slab.serial, offset, edge);
            shared.backend.upload(&slab.memory, span, written, zeros)?;
            written += zeros.len() as u64;
        }
        if edge < to {
            let rest = SpanMut::new(slab.serial, offset + edge, to - edge);
            shared.backend.fill(&slab.memory, rest, to - edge, &[0])?;
        }
        Ok(())
    }

    /// Takes what was reserved. The block has so many bytes from now on.
    fn take_over(&mut self, mut behind: Behind<B>, bytes: u64) {
        let (from, home_behind) = (self.bytes(), behind.home.take());
        let Descriptor { home, asked, label, .. } = self.descriptor_mut();
        let shared = &behind.shared;
        if let Some(home) = &home_behind {
            shared.count_more(*label, home.extent.bytes() as i64);
        }
        asked.resize(bytes);
        let label = shared.labels.of(*label);
        let tally = shared.shards.tally();
        if shared.shards.signs.has_arena() {
            shared.fold_planned();
        }
        let mut state = shared.state();
        state.fold(tally);
        if let Some(home) = home {
            state.grew(home, home_behind, from, (bytes, label.text()));
        }
    }

    /// Leaves the block with what it needs for so many bytes. The rest comes back, with the holds on it, and whether it is dirty.
    fn part_with(&mut self, shared: &Shared<B>, bytes: u64) -> Option<Parted<B>> {
        self.own_home()?;
        let Descriptor { home, asked, label, .. } = self.descriptor_mut();
        let home = home.as_mut()?;
        let (kept, behind) = shared.state().shortened(home, bytes)?;
        home.extent = kept;
        shared.count_more(*label, -(behind.extent.bytes() as i64));
        let holds = asked.has_holds().then(|| shared.holds.of(planned::at(home)));
        let is_dirty = shared.zero_on_free
            && match holds {
                Some(_) => true,
                None => matches!(shared.zero(&behind, false), Zeroed::Later),
            };
        Some((behind, holds, is_dirty))
    }

    /// Tells the learner of planned steps, which knows the blocks of the pool.
    fn write_down(&self, shared: &Shared<B>, bytes: u64) {
        if let Some(home) = self.own_home() {
            shared.write_down_resize(planned::at(home), self.bytes(), bytes);
        }
    }
}

/// What a block has parted with.
type Parted<B> = (Home<<B as Backend>::Slab>, Option<Holds>, bool);

/// Pages behind a block that are reserved for it. They are free again if the block does not take them.
struct Behind<B: Backend> {
    shared: Arc<Shared<B>>,
    /// `None` if it needs none.
    home: Option<Home<B::Slab>>,
}

/// On an error of the backend, and if it panics.
impl<B: Backend> Drop for Behind<B> {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // It may have been written to.
            self.shared.state().unreserve(home, self.shared.zero_on_free);
            self.shared.serve();
        }
    }
}
