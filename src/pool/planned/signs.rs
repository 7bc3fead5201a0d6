//! What an allocation or a free must know of planned steps before anything is locked.

use std::ops::BitOr;

use crate::sync::{AtomicBool, AtomicU8, Ordering};

/// Looked at without a lock: a thread that is late is served as if nothing were planned.
pub(in crate::pool) struct Signs {
    /// Changed with the planner locked.
    planner: AtomicU8,
    /// What is asked for is recorded. Changed with the pool's lock held.
    records: AtomicBool,
    /// Idle memory is wanted back. Changed with the pool's lock held.
    wants: AtomicBool,
}

/// What others see of the planner.
#[derive(Clone, Copy)]
pub(super) struct Sign(u8);

impl Sign {
    /// Steps are planned: it matters where they begin.
    pub(super) const STEPS: Self = Self(1);
    /// Allocations are looked for in a schedule, or counted.
    pub(super) const LOOKS: Self = Self(2);
    /// What is allocated and freed is written down.
    pub(super) const LEARNS: Self = Self(4);
    /// There is an arena, or something of one is on its way home. Until it is cleared, the books may not know of all blocks in
    /// arenas. It is cleared with the pool's lock held, and set so for an arena that was learned.
    pub(super) const ARENA: Self = Self(8);

    /// Steps plan themselves.
    pub(super) const AUTO: Self = Self(16);

    pub(super) fn when(self, is_so: bool) -> Self {
        if is_so { self } else { Self(0) }
    }
}

impl BitOr for Sign {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Signs {
    pub(in crate::pool) fn new() -> Self {
        Self { planner: AtomicU8::new(0), records: AtomicBool::new(false), wants: AtomicBool::new(false) }
    }

    pub(super) fn set(&self, sign: Sign) {
        self.planner.store(sign.0, Ordering::Relaxed);
    }

    #[inline]
    fn is(&self, sign: Sign) -> bool {
        self.planner.load(Ordering::Relaxed) & sign.0 != 0
    }

    #[inline]
    pub(in crate::pool) fn has_steps(&self) -> bool {
        self.is(Sign::STEPS)
    }

    #[inline]
    pub(super) fn are_auto(&self) -> bool {
        self.is(Sign::AUTO)
    }

    #[inline]
    pub(in crate::pool) fn looks(&self) -> bool {
        self.is(Sign::LOOKS)
    }

    #[inline]
    pub(in crate::pool) fn is_learning(&self) -> bool {
        self.is(Sign::LEARNS)
    }

    #[inline]
    pub(in crate::pool) fn has_arena(&self) -> bool {
        self.is(Sign::ARENA)
    }

    #[inline]
    pub(in crate::pool) fn is_recording(&self) -> bool {
        self.records.load(Ordering::Relaxed)
    }

    /// Whether a request waits in line, or more is reserved than the budget has: then the arena goes home as soon as nothing in it is
    /// in use.
    #[inline]
    pub(in crate::pool) fn is_wanted(&self) -> bool {
        self.wants.load(Ordering::Relaxed)
    }

    pub(in crate::pool) fn set_wanted(&self, wants: bool) {
        self.wants.store(wants, Ordering::Relaxed);
    }

    pub(in crate::pool) fn set_recording(&self, records: bool) {
        self.records.store(records, Ordering::Relaxed);
    }
}
