//! What programs did, by the number.

use std::ops::{AddAssign, Index, IndexMut};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Events, each compared with a model where there is one.
    Operations,
    /// Calls of the program's code that failed, panicked or would have had to wait because the program wanted it.
    Faults,
    /// Those of them that panicked.
    Panics,
    Batches,
    Holds,
    /// Allocations that waited in line.
    Waited,
    /// Futures that were dropped while they waited, or while they had what nothing had looked at.
    FuturesDropped,
    Compactions,
    /// Blocks that were somewhere else after a compaction.
    Moved,
    /// Blocks that grew or shrank in place.
    Resized,
    /// Times that the budget was changed.
    Budgets,
    /// Allocations at the place that a plan had for them.
    Planned,
    /// Events of records that were read again.
    Recorded,
    /// Drops of a last handle.
    LastHandles,
}

/// All counts, with the words for a JSON field.
pub const COUNTS: [(Count, &str); 14] = [
    (Count::Operations, "operations"),
    (Count::Faults, "faults"),
    (Count::Panics, "panics"),
    (Count::Batches, "batches"),
    (Count::Holds, "holds"),
    (Count::Waited, "allocations_waited"),
    (Count::FuturesDropped, "futures_dropped"),
    (Count::Compactions, "compactions"),
    (Count::Moved, "blocks_moved"),
    (Count::Resized, "blocks_resized"),
    (Count::Budgets, "budgets_set"),
    (Count::Planned, "allocations_planned"),
    (Count::Recorded, "events_recorded"),
    (Count::LastHandles, "last_handles_dropped"),
];

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done([u64; COUNTS.len()]);

impl Done {
    /// So many operations, and nothing else.
    pub fn operations(operations: u64) -> Self {
        let mut done = Self::default();
        done[Count::Operations] = operations;
        done
    }
}

impl Index<Count> for Done {
    type Output = u64;

    fn index(&self, count: Count) -> &u64 {
        &self.0[count as usize]
    }
}

impl IndexMut<Count> for Done {
    fn index_mut(&mut self, count: Count) -> &mut u64 {
        &mut self.0[count as usize]
    }
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}
