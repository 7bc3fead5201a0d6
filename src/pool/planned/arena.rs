//! The runs of the pool that planned steps are in, and what blocks in them keep alive.

use super::late::{Late, free_runs};
use crate::backend::Backend;
use crate::plan::{Cursor, Schedule};
use crate::pool::Shared;
use crate::pool::block::{Descriptor, IdleBlock};
use crate::pool::state::{Home, Slot};
use crate::pool::tables::boxes_bytes;
use crate::space::Extent;
use crate::sync::Arc;

/// A schedule, and the runs that its places are in.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) schedule: Arc<Schedule>,
    /// For each run the offset that it begins at, and its bytes.
    pub(super) runs: Arc<[(u64, u64)]>,
}

impl Layout {
    /// In one run.
    pub(super) fn whole(schedule: Schedule) -> Self {
        let runs = [(0, schedule.height_bytes())].into();
        Self { schedule: Arc::new(schedule), runs }
    }

    /// In runs of so many bytes one behind the other, of which no block is in two. `None` if there are not enough of them.
    pub(super) fn in_runs(schedule: Schedule, sizes: &[u64]) -> Option<Self> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        for bytes in sizes {
            let used = schedule.end_before(at + bytes);
            if used > at {
                runs.push((at, used - at));
            }
            at += bytes;
        }
        (schedule.height_bytes() <= at).then(|| Self { schedule: Arc::new(schedule), runs: runs.into() })
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        self.schedule.metadata_bytes() + size_of_val(&*self.runs) as u64
    }
}

/// What blocks that are back kept alive. A thread drops it once the planner is not locked: that may end the pool. It comes
/// with memory that the planner has [left](Left).
#[must_use]
pub(super) struct Rest<B: Backend> {
    pub(super) pools: Vec<Arc<Shared<B>>>,
}

impl<B: Backend> Rest<B> {
    pub(super) fn new() -> Self {
        Self { pools: Vec::new() }
    }
}

/// What has left an arena and is not home yet. It stays in the planner until a thread takes it home with the pool's lock held: so
/// each thread that looks for memory finds it. A slab is always the arena's too; so the thread that takes the arena home has the
/// last of it, and may give the slab back.
pub(super) struct Left<S> {
    pub(super) homes: Vec<Home<S>>,
    /// There is an arena less, or a free that the books are not told of, whether or not anything goes home.
    pub(super) is_due: bool,
}

impl<S> Default for Left<S> {
    fn default() -> Self {
        Self { homes: Vec::new(), is_due: false }
    }
}

/// A run of the arena.
pub(super) struct Part<B: Backend> {
    /// The schedule's offset that it begins at.
    at: u64,
    /// The schedule's offset that it ends at. Its home may end later, and then later than the next part begins: it is of whole
    /// pages.
    end: u64,
    home: Home<B::Slab>,
    /// Blocks that came back. They go out again with another place.
    idle: Vec<IdleBlock<B>>,
}

impl<B: Backend> Part<B> {
    /// The schedule's offset of a place, if that is in this run.
    #[inline]
    fn offset_of(&self, home: &Home<B::Slab>) -> Option<u64> {
        let offset = self.at + home.extent.offset().checked_sub(self.home.extent.offset())?;
        (Arc::ptr_eq(&self.home.slab, &home.slab) && offset < self.end).then_some(offset)
    }

    /// Keeps the descriptor of a block that came back, for the next block.
    #[inline]
    pub(super) fn keep(&mut self, descriptor: IdleBlock<B>) {
        self.idle.push(descriptor);
    }
}

/// Its bytes count as cached where no block has them. It does not keep its pool alive.
pub(super) struct Arena<B: Backend> {
    parts: Vec<Part<B>>,
    /// The schedule that it was taken for.
    schedule: Arc<Schedule>,
}

impl<B: Backend> Arena<B> {
    /// Makes an arena of the homes that were taken for the runs of a layout.
    pub(super) fn new(layout: &Layout, homes: Vec<Home<B::Slab>>) -> Self {
        let part = |((at, bytes), home): (&(u64, u64), _)| Part { at: *at, end: at + bytes, home, idle: Vec::new() };
        Self { parts: layout.runs.iter().zip(homes).map(part).collect(), schedule: Arc::clone(&layout.schedule) }
    }

    /// Whether all places of a schedule are in it.
    pub(super) fn is_for(&self, schedule: &Arc<Schedule>) -> bool {
        Arc::ptr_eq(&self.schedule, schedule)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.home.extent.bytes()).sum()
    }

    /// Makes a block at a place of the schedule.
    #[inline(always)]
    pub(super) fn place(&mut self, (offset, bytes): (u64, u64), index: u32, shared: &Arc<Shared<B>>) -> IdleBlock<B> {
        let part = match &mut self.parts[..] {
            [only] => only,
            parts => {
                let after = parts.partition_point(|part| part.at <= offset);
                &mut parts[after - 1]
            }
        };
        let extent = part.home.extent.part(offset - part.at, bytes, index);
        match part.idle.pop() {
            Some(mut descriptor) => {
                if let Some(home) = descriptor.home_mut() {
                    home.extent = extent;
                }
                descriptor
            }
            None => Descriptor::new(Arc::clone(shared), Home { slab: Arc::clone(&part.home.slab), extent }),
        }
    }

    /// The part that a place which comes back is in, and the schedule's offset of the place. `None` if it is of another arena.
    #[inline]
    pub(super) fn find(&mut self, home: &Home<B::Slab>) -> Option<(&mut Part<B>, u64)> {
        match &mut self.parts[..] {
            [only] => only.offset_of(home).map(|offset| (only, offset)),
            parts => {
                let offset = self.schedule.entries().get(home.extent.index() as usize)?.range().0;
                let number = parts.partition_point(|part| part.at <= offset).checked_sub(1)?;
                let part = &mut parts[number];
                (part.offset_of(home)? == offset).then_some((part, offset))
            }
        }
    }

    /// Bytes of it that no block has.
    pub(super) fn idle_bytes(&self, cursor: Option<&Cursor>) -> u64 {
        self.bytes().saturating_sub(cursor.map_or(0, Cursor::out_bytes))
    }

    /// Gives the arena up. Blocks in it stay where they are. The pages that no block has a part of have `left`; each other page
    /// leaves with its last block.
    pub(super) fn leave(
        self,
        cursor: Option<&Cursor>,
        late: &mut Late,
        left: &mut Left<B::Slab>,
        page_bytes: impl Fn(u64) -> u64,
    ) -> Rest<B> {
        left.is_due = true;
        let mut rest = Rest::new();
        let ranges = ranges(cursor);
        for Part { at, end, home, idle } in self.parts {
            rest.pools.extend(idle.into_iter().map(|descriptor| descriptor.into_parts().1));
            let inside = inside((at, end), &ranges);
            if inside.is_empty() {
                left.homes.push(home);
                continue;
            }
            let free = late.leave(&home, &inside, page_bytes(home.slab.bytes));
            left.homes.extend(free.into_iter().map(|extent| Home { slab: Arc::clone(&home.slab), extent }));
        }
        rest
    }

    /// Returns the runs that would [leave](Self::leave) at once.
    #[cold]
    pub(super) fn idle_runs(&self, cursor: Option<&Cursor>, page_bytes: impl Fn(u64) -> u64) -> Vec<(Slot, Extent)> {
        let (ranges, mut runs) = (ranges(cursor), Vec::new());
        for Part { at, end, home, .. } in &self.parts {
            let free = free_runs(home.extent, &inside((*at, *end), &ranges), page_bytes(home.slab.bytes));
            runs.extend(free.into_iter().map(|extent| (home.place().0, extent)));
        }
        runs
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        let of_part = |part: &Part<B>| size_of::<Part<B>>() as u64 + boxes_bytes(&part.idle);
        self.parts.iter().map(of_part).sum()
    }
}

/// Returns the ranges of a schedule that blocks have, sorted.
fn ranges(cursor: Option<&Cursor>) -> Vec<(u64, u64)> {
    cursor.filter(|cursor| cursor.out() > 0).map_or_else(Vec::new, Cursor::ranges)
}

/// Returns the ranges between two offsets of the schedule, counted from the first.
fn inside((at, end): (u64, u64), ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let inside = ranges.iter().filter(|range| range.0 >= at && range.0 < end);
    inside.map(|range| (range.0 - at, range.1 - at)).collect()
}
