//! What has come of planned steps.

use std::fmt;

use crate::units::{ByteSize, exact, thousands};

/// An allocation that was not the one that the plan has next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deviation {
    /// In which step, from 1.
    pub step: u64,
    /// Which allocation of the step, from 0.
    pub allocation: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Bytes that the plan has there; `None` after its end.
    pub expected_bytes: Option<u64>,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, allocation, bytes, expected_bytes } = self;
        write!(f, "allocation {allocation} of step {step} is of {} where the plan has ", exact(*bytes))?;
        match expected_bytes {
            Some(bytes) => f.write_str(&exact(*bytes)),
            None => f.write_str("none"),
        }
    }
}

/// What has come of a pool's planned steps since they began.
///
/// An allocation that has no place in the plan, or whose place is still in use, is served by the pool as any other: it is
/// counted here, and nothing else is different for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanReport {
    /// Steps that have begun.
    pub steps: u64,
    /// Steps that followed their plan to the letter, until they ended.
    pub steps_exact: u64,
    /// Steps that were profiled, that is, written down.
    pub steps_profiled: u64,
    /// Steps without an arena: the pool had no room for it, or took it back because memory was short.
    pub steps_without_room: u64,
    /// Plans that are kept, one for each shape of a step.
    pub plans: u64,
    /// Bytes of the runs of the pool that the steps are in; 0 while there are none.
    pub arena_bytes: u64,
    /// Bytes of the arena that the last step's plan needs.
    pub height_bytes: u64,
    /// Allocations at the place that was planned for them.
    pub allocations_planned: u64,
    /// Allocations in another order than planned. They count as planned too, unless they were blocked.
    pub allocations_reordered: u64,
    /// Allocations that no plan had: of another size, or one more.
    pub allocations_unplanned: u64,
    /// Allocations whose place was still in use.
    pub allocations_blocked: u64,
    /// Allocations that were planned and never made.
    pub allocations_skipped: u64,
    /// An allocation has failed, and [`Pool::auto_plan`](crate::Pool::auto_plan) plans no more steps for it: everything is served
    /// as without it.
    pub is_over: bool,
    /// The last allocation that was not the one that the plan had next.
    pub last_deviation: Option<Deviation>,
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: u64| thousands(number);
        writeln!(
            f,
            "{} steps: {} exactly as planned, {} profiled, {} without room; {} plans, an arena of {}",
            number(self.steps),
            number(self.steps_exact),
            number(self.steps_profiled),
            number(self.steps_without_room),
            number(self.plans),
            ByteSize(self.arena_bytes)
        )?;
        write!(
            f,
            "{} allocations at planned places, {} in another order, {} unplanned, {} blocked, {} never asked for",
            number(self.allocations_planned),
            number(self.allocations_reordered),
            number(self.allocations_unplanned),
            number(self.allocations_blocked),
            number(self.allocations_skipped)
        )?;
        if self.is_over {
            f.write_str("\nan allocation has failed: no more steps are planned")?;
        }
        match self.last_deviation {
            Some(deviation) => write!(f, "\nlast deviation: {deviation}"),
            None => Ok(()),
        }
    }
}
