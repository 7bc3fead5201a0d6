//! The numbers of a pool that had no room, and how they read.

use std::fmt;
use std::time::Duration;

use super::ErrorKind;
use crate::units::{ByteSize, exact, thousands};

/// What a label's blocks hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The label, or an empty text for the blocks that have none.
    pub label: String,
    /// Bytes held by its blocks.
    pub bytes: u64,
    /// How many blocks.
    pub blocks: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label.as_str() {
            "" => f.write_str("(no label)")?,
            label => write!(f, "{label:?}")?,
        }
        write!(f, " {} in {} block{}", ByteSize(self.bytes), self.blocks, if self.blocks == 1 { "" } else { "s" })
    }
}

/// The part of a pool that refused a request. From [`Shortage::refused_by`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedBy {
    /// The budget: fewer bytes of it are left than the request takes.
    Budget,
    /// The reserve: enough bytes are left, but some of them are kept for requests of high priority.
    Reserve,
    /// The slabs: enough bytes are left, but no slab has as many idle ones, and the pool can reserve no slab that has. With
    /// [`SlabPolicy::PerBlock`](crate::SlabPolicy::PerBlock) also where no empty slab is of the request's size.
    Slabs,
    /// Fragmentation: a slab has enough idle bytes, but not in one run.
    Fragmentation,
    /// What is kept idle: enough bytes are left, but only with those in the arena of planned steps, or in free lists that the
    /// request may not [reclaim](crate::Fallback::Reclaim).
    Kept,
    /// The queue: it is the turn of requests that wait in line.
    Queue,
    /// Time: what the request takes is there now, and came when the request waited no more.
    Time,
    /// The backend: it had no memory for a slab that the budget has room for.
    Backend,
}

impl fmt::Display for RefusedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Budget => "budget",
            Self::Reserve => "reserve",
            Self::Slabs => "slabs",
            Self::Fragmentation => "fragmentation",
            Self::Kept => "kept",
            Self::Queue => "queue",
            Self::Time => "time",
            Self::Backend => "backend",
        })
    }
}

/// The numbers of a pool at the moment when it refused a request. Those whose names end in `bytes` are in bytes.
///
/// They add up: `used + cached + retired + free + staging = reserved`, and `reserved + booked + left = budget + over`, where `over` is 0
/// unless the budget was lowered. Only `live` is no part of its own: it is what the owners of the used bytes asked for. All numbers are
/// of one moment, just after the request was refused: other threads may have freed memory in between.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortage {
    /// What the request asked for; of a batch, all its requests together.
    pub asked_bytes: u64,
    /// The largest [alignment](crate::Request::align) that was asked for, if it is more than every block has; else 1.
    pub align_bytes: u64,
    /// What that takes: more, if the placement rounds to powers of two, a slab to its pages, or the device to whole words.
    pub needed_bytes: u64,
    /// How many requests were refused together: 1 unless it was a batch.
    pub requests: u64,
    /// The request's label.
    pub label: Option<String>,
    /// What refused it.
    pub refused_by: RefusedBy,
    /// The largest request that would be served now, with the same priority and the same [fallbacks](crate::Fallback): one byte
    /// more would be refused. 0 where none would be.
    ///
    /// It is for the alignment that every block has. It is for [`Pool::alloc`](crate::Pool::alloc) on this thread, which may wait for the
    /// device unless it is recording work. What the arena of planned steps would serve by its plan does not count. Where the [backend](RefusedBy::Backend) had no memory, what
    /// another slab might serve does not count. Nothing is reclaimed for a request over the budget, so for that one the number may be
    /// too low.
    ///
    /// A request that may not [reclaim](crate::Fallback::Reclaim) gets idle memory of a free list in its own size alone, and each slab
    /// of [`SlabPolicy::PerBlock`](crate::SlabPolicy::PerBlock) serves one size. So such a request may be refused beside a larger
    /// one that would be served.
    pub largest_bytes: u64,
    /// The pool's budget.
    pub budget_bytes: u64,
    /// What the pool had from its backend, staging included.
    pub reserved_bytes: u64,
    /// What can still be reserved.
    pub left_bytes: u64,
    /// Slabs that other threads are creating.
    pub booked_bytes: u64,
    /// What is reserved above the budget, since [`Pool::set_budget`](crate::Pool::set_budget) lowered it. Then nothing is left to reserve.
    pub over_bytes: u64,
    /// What blocks' owners had asked for.
    pub live_bytes: u64,
    /// What blocks held.
    pub used_bytes: u64,
    /// Idle pieces in cut runs, in free lists and in the arena.
    pub cached_bytes: u64,
    /// Waiting for the device, for a hold to end, or to be zeroed.
    pub retired_bytes: u64,
    /// Free pages.
    pub free_bytes: u64,
    /// The staging ring.
    pub staging_bytes: u64,
    /// The longest run of free pages in any slab; in an expanding slab with or without memory, up to what is free and can still be
    /// reserved.
    pub largest_free_run_bytes: u64,
    /// What is idle in the slab that has most: free pages and idle pieces.
    pub most_idle_bytes: u64,
    /// How much memory comes and goes at once in an [expanding](crate::SlabPolicy::Expanding) slab; 0 for other slabs.
    pub granule_bytes: u64,
    /// Bytes of the budget kept for requests of high priority, if this one was of another: what they do not hold already of the
    /// reserve, or all of it where the request could never be served.
    pub high_priority_reserve_bytes: u64,
    /// The arena of [planned steps](crate::Pool::auto_plan): bytes that other requests do not get while a block is in it. 0 if
    /// there is none.
    pub arena_bytes: u64,
    /// The part of the arena that no block had, which counts as cached.
    pub arena_idle_bytes: u64,
    /// Whether the request let the pool reserve more ([`Fallback::Grow`](crate::Fallback::Grow)).
    pub may_grow: bool,
    /// How long the request waited in line.
    pub waited: Duration,
    /// Requests that were waiting in line, this one not counted.
    pub waiting: u64,
    /// Whether one of them had waited so long that whatever was left was kept for it.
    pub is_overdue: bool,
    /// The five labels that held most, largest first.
    pub holders: Vec<Holder>,
}

impl Shortage {
    /// Computes what of the budget no block holds, nor anything retired, nor staging: cached, free, and still to be reserved, without
    /// what is above the budget.
    pub fn unused_bytes(&self) -> u64 {
        let parts = [self.cached_bytes, self.free_bytes, self.booked_bytes, self.left_bytes];
        parts.into_iter().fold(0, u64::saturating_add).saturating_sub(self.over_bytes)
    }

    pub(super) fn write(&self, kind: ErrorKind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let room = if kind == ErrorKind::OutOfMemory { "memory" } else { "room" };
        write!(f, "no {room} for {}", exact(self.asked_bytes))?;
        if self.requests > 1 {
            write!(f, " in {} blocks", thousands(self.requests))?;
        }
        if self.align_bytes > 1 {
            write!(f, " at a multiple of {}", exact(self.align_bytes))?;
        }
        if let Some(label) = &self.label {
            write!(f, " for {label:?}")?;
        }
        if self.needed_bytes > self.asked_bytes {
            write!(f, ", which takes {}", exact(self.needed_bytes))?;
        }
        if kind == ErrorKind::Timeout {
            write!(f, " after waiting for {:?}", self.waited)?;
        }
        f.write_str(": ")?;
        self.write_reason(kind, f)?;
        match self.largest_bytes {
            0 => f.write_str("; no request would be served now")?,
            bytes if self.requests > 1 => {
                write!(f, "; the largest single request that would be served now is {}", exact(bytes))?;
            }
            bytes if self.align_bytes > 1 => {
                write!(f, "; the largest request that would be served now, wherever it begins, is {}", exact(bytes))?;
            }
            bytes if bytes >= self.asked_bytes && self.refused_by != RefusedBy::Time => {
                write!(f, "; a request of exactly {} would be served now", exact(bytes))?;
            }
            bytes => write!(f, "; the largest request that would be served now is {}", exact(bytes))?,
        }
        self.write_circumstances(f)?;
        self.write_parts(f)?;
        for (index, holder) in self.holders.iter().enumerate() {
            write!(f, "{}{holder}", if index == 0 { "; held by " } else { ", " })?;
        }
        Ok(())
    }

    fn write_reason(&self, kind: ErrorKind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unused = exact(self.unused_bytes());
        let left = exact(self.left_bytes);
        let idle_bytes = self.cached_bytes.saturating_add(self.free_bytes);
        match self.refused_by {
            RefusedBy::Reserve if kind == ErrorKind::OverBudget => {
                let open = self.budget_bytes.saturating_sub(self.high_priority_reserve_bytes);
                write!(f, "more than the {} of the budget that are open below high priority", exact(open))
            }
            _ if kind == ErrorKind::OverBudget => {
                write!(f, "more than the budget of {} can ever give", exact(self.budget_bytes))
            }
            RefusedBy::Budget => {
                write!(f, "of the budget of {} only {unused} are not in use", exact(self.budget_bytes))
            }
            RefusedBy::Reserve => write!(f, "{unused} of the budget are not in use, and not all are open to it"),
            RefusedBy::Slabs if !self.may_grow && self.needed_bytes > idle_bytes => {
                write!(f, "the slabs have {} that are not in use, and the request may not grow", exact(idle_bytes))
            }
            RefusedBy::Slabs if !self.may_grow => write!(
                f,
                "the slabs have {} that are not in use, but none that serves it, and the request may not grow",
                exact(idle_bytes)
            ),
            RefusedBy::Slabs if self.most_idle_bytes >= self.needed_bytes => write!(
                f,
                "{unused} of the budget are not in use, but no empty slab is of its size, and {left} can still be reserved"
            ),
            RefusedBy::Slabs => write!(
                f,
                "{unused} of the budget are not in use, but no slab has more than {} of them, and {left} can still be reserved",
                exact(self.most_idle_bytes)
            ),
            RefusedBy::Fragmentation if self.align_bytes > 1 => write!(
                f,
                "fragmented, {unused} of the budget are not in use, but no free run has room at such a multiple, and {left} can \
                 still be reserved"
            ),
            RefusedBy::Fragmentation if self.granule_bytes > 0 && self.largest_free_run_bytes >= self.needed_bytes => {
                write!(
                    f,
                    "fragmented, {unused} of the budget are not in use, but no free run has as much memory, which comes and goes in granules of {}",
                    exact(self.granule_bytes)
                )
            }
            RefusedBy::Fragmentation if self.granule_bytes > 0 => write!(
                f,
                "fragmented, {unused} of the budget are not in use, but the longest run of free addresses is {}",
                exact(self.largest_free_run_bytes)
            ),
            RefusedBy::Fragmentation if self.largest_free_run_bytes >= self.needed_bytes => write!(
                f,
                "fragmented, the largest free run is {}, but none starts at a multiple of the size, and {left} can still be \
                 reserved",
                exact(self.largest_free_run_bytes)
            ),
            RefusedBy::Fragmentation => write!(
                f,
                "fragmented, a slab has {} not in use, but the largest free run is {}, and {left} can still be reserved",
                exact(self.most_idle_bytes),
                exact(self.largest_free_run_bytes)
            ),
            RefusedBy::Kept => write!(f, "{unused} of the budget are not in use, but some are kept idle for others"),
            RefusedBy::Queue => f.write_str("requests that waited in line came first"),
            RefusedBy::Time => f.write_str("what it takes is there now, and came too late"),
            RefusedBy::Backend if self.granule_bytes > 0 => {
                write!(f, "the budget has {left} left to reserve, and the backend has no memory")
            }
            RefusedBy::Backend => {
                write!(f, "the budget has room for another slab, {left}, and the backend has no memory")
            }
        }
    }

    fn write_circumstances(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.high_priority_reserve_bytes > 0 {
            let reserve = exact(self.high_priority_reserve_bytes);
            write!(f, "; {reserve} are kept for high priority")?;
        }
        if self.arena_bytes > 0 {
            let (idle, whole) = (exact(self.arena_idle_bytes), exact(self.arena_bytes));
            write!(f, "; the arena of planned steps has {whole}, of which {idle} are idle")?;
        }
        if self.waiting > 0 {
            write!(f, "; {} waiting in line", self.waiting)?;
            if self.is_overdue {
                f.write_str(", one of them first of all")?;
            }
        }
        Ok(())
    }

    /// Writes where every byte of the budget is, and what is above it: the parts add up to that as they are written.
    fn write_parts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [budget, over, used, live] =
            [self.budget_bytes, self.over_bytes, self.used_bytes, self.live_bytes].map(thousands);
        write!(f, "; the budget of {budget} bytes ")?;
        match self.over_bytes {
            0 => f.write_str("is ")?,
            _ => write!(f, "and {over} above it since it was lowered are ")?,
        }
        write!(f, "{used} used ({live} live)")?;
        let parts = [
            (self.cached_bytes, "cached"),
            (self.retired_bytes, "retired"),
            (self.free_bytes, "free"),
            (self.staging_bytes, "staging"),
            (self.booked_bytes, "being reserved"),
        ];
        for (bytes, name) in parts.into_iter().filter(|(bytes, _)| *bytes > 0) {
            write!(f, " + {} {name}", thousands(bytes))?;
        }
        write!(f, " + {} left to reserve", thousands(self.left_bytes))
    }
}
