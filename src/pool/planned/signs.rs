//! What whoever allocates or frees must know of planned steps before anything is locked.

use crate::sync::{AtomicBool, AtomicU8, Ordering};

/// Looked at without a lock: who is late is served as if nothing were planned.
pub(in crate::pool) struct Signs {
    /// Changed with the planner locked.
    planner: AtomicU8,
    /// What is asked for is recorded. Changed with the pool's lock held.
    records: AtomicBool,
    /// Somebody waits in line. Changed with the pool's lock held.
    waits: AtomicBool,
}

/// Allocations are looked for in a schedule, or written down.
const ON: u8 = 1;
/// Blocks of the pool that are freed are written down.
const LEARNS: u8 = 2;

impl Signs {
    pub(in crate::pool) fn new() -> Self {
        Self { planner: AtomicU8::new(0), records: AtomicBool::new(false), waits: AtomicBool::new(false) }
    }

    pub(super) fn set(&self, is_on: bool, is_learning: bool) {
        let signs = if is_on { ON } else { 0 } | if is_learning { LEARNS } else { 0 };
        self.planner.store(signs, Ordering::Relaxed);
    }

    #[inline]
    pub(in crate::pool) fn is_on(&self) -> bool {
        self.planner.load(Ordering::Relaxed) != 0
    }

    #[inline]
    pub(in crate::pool) fn is_learning(&self) -> bool {
        self.planner.load(Ordering::Relaxed) & LEARNS != 0
    }

    #[inline]
    pub(in crate::pool) fn is_recording(&self) -> bool {
        self.records.load(Ordering::Relaxed)
    }

    /// Then the arena is kept from nobody: it goes home as soon as nothing in it is in use.
    #[inline]
    pub(in crate::pool) fn is_waited_for(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    pub(in crate::pool) fn set_waited_for(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    pub(in crate::pool) fn set_recording(&self, records: bool) {
        self.records.store(records, Ordering::Relaxed);
    }
}
