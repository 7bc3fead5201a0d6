//! How one allocator goes through one workload: for the time, for what it needs, and for the budgets that are enough.

use std::time::Instant;

use crate::heap;
use crate::peers::Peer;
use crate::workload::{Event, Workload};

/// Every budget is a multiple of this, the alignment of all peers.
pub const UNIT_BYTES: u64 = 256;
/// Budgets are found to this part of the live peak, or to a unit.
const BUDGET_STEPS: u64 = 1 << 15;
/// A peer that needs more than so many times the live peak has no budget that is enough.
const BUDGET_TIMES_MAX: u64 = 64;

/// What a budget is to an allocator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// All that it gets, when it is opened.
    Arena,
    /// What a device has, which it asks piece by piece.
    Device,
    /// Nothing: it cannot be held to one.
    None,
}

/// What an untimed run shows.
#[derive(Debug, Default)]
pub struct Needs {
    /// Allocations that found no room; their frees are left out.
    pub failures: u64,
    /// Of one that asks a device piece by piece.
    pub reserved_peak_bytes: Option<u64>,
    /// Of the program's heap, at the moment of most live bytes.
    pub metadata_bytes: Option<u64>,
}

/// An allocator in the race, whatever its types are.
pub trait Contestant {
    fn name(&self) -> &'static str;

    fn bound(&self) -> Bound;

    /// Bytes of the handle that a caller keeps for a block.
    fn handle_bytes(&self) -> usize;

    /// Nanoseconds an event, the second time that an allocator goes through the workload: a training run has many steps,
    /// and the first is not what it is like.
    fn event_ns(&self, workload: &Workload, budget_bytes: u64) -> f64;

    fn needs(&self, workload: &Workload, budget_bytes: u64) -> Needs;

    /// Whether all allocations succeed.
    fn fits(&self, workload: &Workload, budget_bytes: u64) -> bool;
}

/// A contestant from how it is opened.
pub struct Entry<O> {
    pub name: &'static str,
    pub bound: Bound,
    /// With a workload and a budget. `None` if it cannot be that small.
    pub open: O,
}

impl<P: Peer, O: Fn(&Workload, u64) -> Option<P>> Entry<O> {
    /// Goes through the events until `seen`, which is told whether there was room, says stop; then frees what is held.
    /// Returns the failures.
    fn go(&self, workload: &Workload, peer: &mut P, mut seen: impl FnMut(usize, &P, bool) -> bool) -> u64 {
        let mut table: Vec<Option<P::Handle>> = (0..workload.slot_count).map(|_| None).collect();
        let mut failures = 0;
        peer.begin();
        for (index, event) in workload.events.iter().enumerate() {
            match *event {
                Event::Alloc { slot, bytes } => {
                    let handle = peer.alloc(bytes);
                    failures += u64::from(handle.is_none());
                    let goes_on = seen(index, peer, handle.is_some());
                    table[slot as usize] = handle;
                    if !goes_on {
                        break;
                    }
                }
                Event::Free { slot } => {
                    if let Some(handle) = table[slot as usize].take() {
                        peer.free(handle);
                    }
                }
            }
        }
        table.into_iter().flatten().for_each(|handle| peer.free(handle));
        failures
    }
}

impl<P: Peer, O: Fn(&Workload, u64) -> Option<P>> Contestant for Entry<O> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn bound(&self) -> Bound {
        self.bound
    }

    fn handle_bytes(&self) -> usize {
        size_of::<P::Handle>()
    }

    fn event_ns(&self, workload: &Workload, budget_bytes: u64) -> f64 {
        let mut peer = (self.open)(workload, budget_bytes).expect("twice the peak is enough to open");
        self.go(workload, &mut peer, |_, _, _| true);
        let mut table: Vec<Option<P::Handle>> = (0..workload.slot_count).map(|_| None).collect();
        peer.begin();
        let start = Instant::now();
        for event in &workload.events {
            match *event {
                Event::Alloc { slot, bytes } => table[slot as usize] = peer.alloc(bytes),
                Event::Free { slot } => {
                    if let Some(handle) = table[slot as usize].take() {
                        peer.free(handle);
                    }
                }
            }
        }
        let elapsed = start.elapsed();
        table.into_iter().flatten().for_each(|handle| peer.free(handle));
        elapsed.as_nanos() as f64 / workload.events.len() as f64
    }

    fn needs(&self, workload: &Workload, budget_bytes: u64) -> Needs {
        let mut needs = Needs::default();
        let before_bytes = heap::held_bytes();
        let Some(mut peer) = (self.open)(workload, budget_bytes) else {
            needs.failures = workload.events.len() as u64;
            return needs;
        };
        // The table of handles is not the peer's.
        let table_bytes = (workload.slot_count * size_of::<Option<P::Handle>>()) as u64;
        needs.failures = self.go(workload, &mut peer, |index, peer, _| {
            needs.reserved_peak_bytes = needs.reserved_peak_bytes.max(peer.reserved_bytes());
            if index == workload.peak_at {
                let held_bytes = heap::held_bytes().zip(before_bytes).map(|(now, before)| now.saturating_sub(before));
                needs.metadata_bytes =
                    held_bytes.and_then(|held_bytes| peer.metadata_bytes(held_bytes.saturating_sub(table_bytes)));
            }
            true
        });
        needs
    }

    fn fits(&self, workload: &Workload, budget_bytes: u64) -> bool {
        let Some(mut peer) = (self.open)(workload, budget_bytes) else { return false };
        self.go(workload, &mut peer, |_, _, found| found) == 0
    }
}

/// A budget in which the workload goes through, by bisection: one unit or step less is too little. A lower one may work, and a
/// larger one may fail.
pub fn budget_lowest_bytes(contestant: &dyn Contestant, workload: &Workload) -> Option<u64> {
    let least = workload.live_peak_bytes.next_multiple_of(UNIT_BYTES);
    if contestant.bound() == Bound::None {
        return None;
    }
    if contestant.fits(workload, least) {
        return Some(least);
    }
    let (mut short, mut enough) = (least, 2 * least);
    while !contestant.fits(workload, enough) {
        (short, enough) = (enough, 2 * enough);
        if enough > BUDGET_TIMES_MAX * least {
            return None;
        }
    }
    let step = (workload.live_peak_bytes / BUDGET_STEPS).max(UNIT_BYTES);
    while enough - short > step {
        let middle = (short + (enough - short) / 2).next_multiple_of(UNIT_BYTES);
        if middle >= enough {
            break;
        }
        if contestant.fits(workload, middle) { enough = middle } else { short = middle }
    }
    Some(enough)
}

/// The lowest budget of a grid from which all of the grid are enough: from the live peak every 0.5% up to 1.5 times, then every
/// 5% up to twice. None if twice the peak is too little, or less than `lowest_bytes`.
pub fn budget_safe_bytes(contestant: &dyn Contestant, workload: &Workload, lowest_bytes: u64) -> Option<u64> {
    let per_mille = (1550..=2000).rev().step_by(50).chain((1000..=1500).rev().step_by(5));
    per_mille
        .map(|per_mille| (workload.live_peak_bytes * per_mille).div_ceil(1000).next_multiple_of(UNIT_BYTES))
        .take_while(|bytes| *bytes >= lowest_bytes && contestant.fits(workload, *bytes))
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers;

    /// The peers are other people's; what is tested is that each is called so that it does the work.
    #[test]
    fn every_contestant_goes_through_a_churn_in_the_budget_that_is_found_for_it() {
        let workload = Workload::churn(60, 600, 11);
        let contestants = peers::all();
        for contestant in contestants.iter().map(AsRef::as_ref) {
            let name = contestant.name();
            let roomy = contestant.needs(&workload, 64 << 30);
            assert_eq!(roomy.failures, 0, "{name}");
            // What the heap has for a `Vec` is the whole process's, whose other tests run meanwhile.
            if let Some(reserved_bytes) = roomy.reserved_peak_bytes.filter(|_| contestant.bound() != Bound::None) {
                assert!(reserved_bytes >= workload.live_peak_bytes, "{name}: {reserved_bytes}");
            }
            assert!(contestant.event_ns(&workload, 64 << 30) > 0.0, "{name}");
            let lowest_bytes = budget_lowest_bytes(contestant, &workload);
            assert_eq!(lowest_bytes.is_none(), contestant.bound() == Bound::None, "{name}");
            let Some(lowest_bytes) = lowest_bytes else { continue };
            assert!(lowest_bytes >= workload.live_peak_bytes, "{name}: {lowest_bytes}");
            let safe_bytes = budget_safe_bytes(contestant, &workload, lowest_bytes);
            assert!(safe_bytes.is_none_or(|bytes| bytes >= lowest_bytes), "{name}: {safe_bytes:?}");
            assert!(!contestant.fits(&workload, workload.live_peak_bytes / 2), "{name}");
            // One whose placement changes from run to run may fail there now and then.
            if !name.starts_with("gpu-allocator") {
                assert_eq!(contestant.needs(&workload, lowest_bytes).failures, 0, "{name}");
                if let Some(safe_bytes) = safe_bytes {
                    assert_eq!(contestant.needs(&workload, safe_bytes).failures, 0, "{name}");
                }
            }
        }
        assert!(contestants.len() >= 15, "{}", contestants.len());
    }
}
