//! Where every byte is, at one moment.

use std::fmt;

use super::SlabPolicy;
use crate::units::{ByteSize, thousands};

/// A pool's numbers at one moment, in bytes unless the name says otherwise.
///
/// Always `used + cached + retired + free + staging = reserved <= budget`, but for a budget that was lowered below what is in use
/// ([`Pool::set_budget`](crate::Pool::set_budget)): then `reserved` only falls, until it is within the budget.
///
/// Small blocks go through free lists of the CPUs, whose counters are summed when somebody asks. So `used`, `cached`, `live`
/// and `blocks` are those of one moment only if no other thread is at work; then they may be off by what it does meanwhile.
/// `reserved` and its peak are always exact. The peaks of `live` and `used` are exact while one thread at a time is at
/// work; with several they may be off, either way, by the bytes in the free lists: at most 16 blocks and 64 KiB of each
/// class on each CPU, 383 KiB a CPU in all, and in a pool of up to 32 MiB, whose pages are of 1 KiB, 15 KiB a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The cap on everything the pool asks its backend for, as it is now.
    pub budget_bytes: u64,
    /// The slab policy that the pool works by: another than was asked for where the backend has no memory that
    /// [expands](SlabPolicy::Expanding), or the system refused the addresses.
    pub policy: SlabPolicy,
    /// What it has from its backend now: slabs and staging. Of an expanding slab only what is committed counts.
    pub reserved_bytes: u64,
    /// The addresses of an expanding slab, with or without memory. They are in no budget.
    pub address_bytes: u64,
    /// What the owners of blocks asked for.
    pub live_bytes: u64,
    /// What their blocks hold.
    pub used_bytes: u64,
    /// Idle pieces: in cut runs, in the free lists of the CPUs, and in the arena of planned steps; and the place that a block is
    /// moving to ([`Pool::compact`](crate::Pool::compact)) or growing into.
    pub cached_bytes: u64,
    /// Blocks and slabs that wait for the device, or to be zeroed.
    pub retired_bytes: u64,
    /// Free pages, those that have memory.
    pub free_bytes: u64,
    /// The staging ring.
    pub staging_bytes: u64,
    /// The longest run of free pages in any slab. In an expanding slab a page needs no memory to count, and the run counts up to what
    /// is free and what is left of the budget.
    pub largest_free_run_bytes: u64,
    /// Bookkeeping in the program's own memory, not part of the budget: all of the pool's tables, and the events of a recording
    /// that are not written yet. What the backend keeps for itself is not in it.
    pub metadata_bytes: u64,
    /// Blocks held by callers, without those of zero bytes.
    pub blocks: u64,
    /// Slabs reserved, without those on their way back to the device.
    pub slabs: u64,
    /// The most that was ever live.
    pub live_peak_bytes: u64,
    /// The most that was ever used.
    pub used_peak_bytes: u64,
    /// The most that was ever reserved.
    pub reserved_peak_bytes: u64,
    /// All that was ever reserved. What was given back and reserved again counts as often.
    pub reserved_total_bytes: u64,
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Those of them that came from a free list of a CPU.
    pub allocations_from_lists: u64,
    /// Those that planned steps served.
    pub allocations_planned: u64,
    /// Those that got a larger block, whole.
    pub allocations_oversized: u64,
    /// Those that found room only after idle memory had gone home.
    pub allocations_after_reclaim: u64,
    /// Those that a new slab was reserved for, or memory in an expanding one.
    pub allocations_grown: u64,
    /// Those that empty slabs, or spare memory, were given back for.
    pub allocations_after_return: u64,
    /// Those that waited in line.
    pub allocations_waited: u64,
    /// Times that a block grew or shrank in place.
    pub resizes: u64,
    /// Allocations that failed for want of room or memory.
    pub failures: u64,
    /// Those of them that had waited until their deadline.
    pub timeouts: u64,
    /// Requests waiting in line now.
    pub waiting: u64,
}

impl Stats {
    /// Computes what is left of the budget: neither used, nor waiting for the device, nor staging. It is 0 where the fields
    /// were changed so that these are more than the budget.
    pub fn available_bytes(&self) -> u64 {
        let taken = [self.staging_bytes, self.used_bytes, self.retired_bytes];
        taken.into_iter().fold(self.budget_bytes, u64::saturating_sub)
    }

    /// Computes what is reserved above the budget. It is 0 unless the budget was [lowered](crate::Pool::set_budget) below what was in
    /// use.
    pub fn over_budget_bytes(&self) -> u64 {
        self.reserved_bytes.saturating_sub(self.budget_bytes)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes| ByteSize(bytes).to_string();
        writeln!(f, "{:<10}{:>12}  most so far", "", "now")?;
        writeln!(f, "{:<10}{:>12}", "budget", size(self.budget_bytes))?;
        writeln!(f, "{:<10}{:>12}{:>13}", "reserved", size(self.reserved_bytes), size(self.reserved_peak_bytes))?;
        writeln!(f, "{:<10}{:>12}{:>13}", "  used", size(self.used_bytes), size(self.used_peak_bytes))?;
        writeln!(f, "{:<10}{:>12}{:>13}", "    live", size(self.live_bytes), size(self.live_peak_bytes))?;
        writeln!(f, "{:<10}{:>12}", "  cached", size(self.cached_bytes))?;
        writeln!(f, "{:<10}{:>12}", "  retired", size(self.retired_bytes))?;
        let largest = size(self.largest_free_run_bytes);
        writeln!(f, "{:<10}{:>12}  (largest run {largest})", "  free", size(self.free_bytes))?;
        writeln!(f, "{:<10}{:>12}", "  staging", size(self.staging_bytes))?;
        write!(
            f,
            "{} blocks in {} slab{}, {} allocations, {} failed",
            thousands(self.blocks),
            self.slabs,
            if self.slabs == 1 { "" } else { "s" },
            thousands(self.allocations),
            thousands(self.failures)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Stats;

    /// The fields are public: any combination of them has an answer.
    #[test]
    fn available_bytes_are_right_for_extreme_fields() {
        let values = [0, 1, 1000, u64::MAX / 2, u64::MAX - 1, u64::MAX];
        for budget_bytes in values {
            for staging_bytes in values {
                for used_bytes in values {
                    for retired_bytes in values {
                        let stats =
                            Stats { budget_bytes, staging_bytes, used_bytes, retired_bytes, ..Stats::default() };
                        let taken = u128::from(staging_bytes) + u128::from(used_bytes) + u128::from(retired_bytes);
                        let left = u128::from(budget_bytes).saturating_sub(taken);
                        assert_eq!(u128::from(stats.available_bytes()), left, "{stats:?}");
                    }
                }
            }
        }
    }
}
