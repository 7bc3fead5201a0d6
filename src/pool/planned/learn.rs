//! What a step asks for, written down while it happens.
//!
//! The clock is the number of allocations so far: two blocks are live together if, and only if, one is live when the other
//! is allocated.

use std::collections::HashMap;

use crate::plan::Lifetime;
use crate::pool::tables::{map_bytes, vec_bytes};
use crate::units::round_up;

/// A block that is not back.
const LIVE: u32 = u32::MAX;

/// Allocations that are written down at most; a program that never marks a step would fill the memory.
const ALLOCATIONS_MAX: usize = 1 << 20;

/// Which slab, by its serial number, and where in it.
pub(in crate::pool) type At = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allocation {
    bytes: u64,
    freed_at: u32,
}

/// One allocation of a step that was written down: its bytes, and how long it lives, or that it outlives the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Learned {
    pub(super) bytes: u64,
    pub(super) freed_at: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Learner {
    allocations: Vec<Allocation>,
    live: HashMap<At, u32>,
    /// Bytes of blocks that were freed and are no allocations here, without those of [`alloc_beside`](Self::alloc_beside).
    gone_bytes: i128,
    /// How many allocations there were when each step began.
    marks: Vec<u32>,
}

impl Learner {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn alloc(&mut self, bytes: u64, at: At) {
        if self.is_full() {
            return;
        }
        self.live.insert(at, self.allocations.len() as u32);
        self.allocations.push(Allocation { bytes, freed_at: LIVE });
    }

    pub(super) fn free(&mut self, at: At, bytes: u64) {
        let now = self.allocations.len() as u32;
        match self.live.remove(&at) {
            Some(index) => self.allocations[index as usize].freed_at = now,
            None => self.gone_bytes += i128::from(bytes),
        }
    }

    /// A block that no plan is to have. Its free changes no balance.
    pub(super) fn alloc_beside(&mut self, bytes: u64) {
        self.gone_bytes -= i128::from(bytes);
    }

    /// Bytes that the step leaves alive more than it found, or fewer; and what it asks for.
    pub(super) fn balance(&self) -> (i128, i128) {
        let freed = self.allocations.iter().filter(|allocation| allocation.freed_at != LIVE);
        let asked_bytes = self.allocations.iter().map(|allocation| i128::from(allocation.bytes)).sum::<i128>();
        let freed_bytes = freed.map(|allocation| i128::from(allocation.bytes)).sum::<i128>();
        (asked_bytes - freed_bytes - self.gone_bytes, asked_bytes)
    }

    /// As [`free`](Self::free), for a block that is somewhere else now.
    pub(super) fn moved(&mut self, from: At, to: At) {
        if let Some(index) = self.live.remove(&from) {
            self.live.insert(to, index);
        }
    }

    /// A block of `from` bytes has `to` bytes now. If that is more than it was asked for with, rounded up to the alignment, it is kept
    /// from the plan: its place in an arena would not hold them. To the plan it outlives its step.
    pub(super) fn resized(&mut self, at: At, from: u64, to: u64, align_bytes: u64) {
        // The free of a block that is no allocation here, or not any more, counts what the block has then.
        let counted_bytes = match self.live.get(&at) {
            Some(index) => {
                let bytes = self.allocations[*index as usize].bytes;
                if round_up(bytes, align_bytes).is_none_or(|held_bytes| to <= held_bytes) {
                    return;
                }
                self.live.remove(&at);
                bytes
            }
            None => from,
        };
        self.gone_bytes -= i128::from(to) - i128::from(counted_bytes);
    }

    pub(super) fn mark(&mut self) {
        self.marks.push(self.allocations.len() as u32);
    }

    /// How many steps have begun.
    pub(super) fn marks(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.allocations.is_empty()
    }

    /// So much that it is no step.
    pub(super) fn is_full(&self) -> bool {
        self.allocations.len() >= ALLOCATIONS_MAX
    }

    /// Whether everything that was allocated from this one on is back.
    pub(super) fn is_all_back_since(&self, start: u32) -> bool {
        self.live.values().all(|index| *index < start)
    }

    /// Where to cut a program that repeats a step into steps: before the allocation of this number after a mark, where what
    /// goes on over the cut, and ends, has the fewest bytes. For most training loops that is where the last step's gradients
    /// have just been freed. Told from two whole steps.
    pub(super) fn cut(&self) -> u32 {
        let &[.., first, second, third] = &self.marks[..] else { return 0 };
        let longest = (third - second).min(second - first);
        // For each cut, what crosses it: from the allocation on, until the free.
        let mut changes = vec![0i128; longest as usize + 2];
        for (index, allocation) in (0..).zip(&self.allocations).skip(first as usize) {
            if allocation.freed_at == LIVE && index < second {
                // For good: an optimizer's state, say.
                continue;
            }
            // It crosses a cut at `at` if it was allocated before and is freed after that.
            let from = (index + 1).saturating_sub(second).min(longest + 1);
            let to = if allocation.freed_at == LIVE { longest + 1 } else { allocation.freed_at.saturating_sub(second) };
            let to = to.min(longest + 1);
            if from < to {
                changes[from as usize] += i128::from(allocation.bytes);
                changes[to as usize] -= i128::from(allocation.bytes);
            }
        }
        let mut crossing = 0i128;
        let crossings = changes.iter().take(longest as usize + 1).map(|change| {
            crossing += change;
            crossing
        });
        (0..).zip(crossings).min_by_key(|(at, bytes)| (*bytes, *at)).map_or(0, |(at, _)| at)
    }

    /// The allocations of these numbers, as a step.
    pub(super) fn step(&self, start: u32, end: u32) -> Vec<Learned> {
        let allocations = &self.allocations[start as usize..end as usize];
        let learned = |allocation: &Allocation| Learned {
            bytes: allocation.bytes,
            freed_at: (allocation.freed_at <= end).then(|| allocation.freed_at - start),
        };
        allocations.iter().map(learned).collect()
    }

    /// How many allocations were written down.
    pub(super) fn len(&self) -> u32 {
        self.allocations.len() as u32
    }

    /// When the last steps began, three at most: how many allocations there were.
    pub(super) fn last_steps(&self) -> &[u32] {
        &self.marks[self.marks.len().saturating_sub(3)..]
    }

    /// Forgets the allocations before this one.
    pub(super) fn forget_before(&mut self, start: u32) {
        self.gone_bytes = 0;
        for allocation in self.allocations.drain(..start as usize) {
            if allocation.freed_at > start && allocation.freed_at != LIVE {
                self.gone_bytes += i128::from(allocation.bytes);
            }
        }
        for allocation in self.allocations.iter_mut().filter(|allocation| allocation.freed_at != LIVE) {
            allocation.freed_at -= start;
        }
        self.live.retain(|_, index| *index >= start);
        self.live.values_mut().for_each(|index| *index -= start);
        self.marks.clear();
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        vec_bytes(&self.allocations) + map_bytes(&self.live) + vec_bytes(&self.marks)
    }
}

/// Returns the lifetimes of a step. Blocks that outlive the step are never live in it.
pub(super) fn lifetimes(step: &[Learned]) -> Vec<Lifetime> {
    let lifetime = |(index, learned): (u64, &Learned)| match learned.freed_at {
        Some(freed_at) => Lifetime::new(index, u64::from(freed_at).max(index + 1), learned.bytes),
        None => Lifetime::new(index, index, learned.bytes),
    };
    (0..).zip(step).map(lifetime).collect()
}

#[cfg(test)]
mod tests {
    use super::Learner;

    /// Whatever a block was resized to on the way, what came is what went.
    #[test]
    fn resizes_leave_the_balance_of_a_step() {
        for sizes in [&[50, 200][..], &[120, 128, 60], &[129, 300, 20], &[1000]] {
            let mut learner = Learner::new();
            learner.alloc(100, (1, 0));
            learner.alloc(64, (1, 4096));
            let mut from = 100;
            for to in sizes {
                learner.resized((1, 0), from, *to, 64);
                from = *to;
            }
            learner.free((1, 0), from);
            learner.free((1, 4096), 64);
            let is_planned = sizes.iter().all(|bytes| *bytes <= 128);
            assert_eq!(learner.step(0, 2)[0].freed_at.is_some(), is_planned, "{sizes:?}");
            assert_eq!(learner.balance(), (0, 164), "{sizes:?}");
        }
    }
}
