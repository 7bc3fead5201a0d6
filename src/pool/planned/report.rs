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

impl PlanReport {
    /// Returns the steps that are in no other count: they differed from their plan, had none, or have not ended yet.
    pub fn steps_other(&self) -> u64 {
        let counted = [self.steps_exact, self.steps_profiled, self.steps_without_room];
        counted.iter().fold(self.steps, |steps, count| steps.saturating_sub(*count))
    }
}

/// A line for each count that is not 0.
impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>13} steps", thousands(self.steps))?;
        for (count, what) in [
            (self.steps_exact, "exactly as planned"),
            (self.steps_profiled, "profiled"),
            (self.steps_without_room, "without room for an arena"),
            (self.steps_other(), "otherwise, or not ended"),
        ] {
            if count > 0 {
                write!(f, "\n{:>13}   {what}", thousands(count))?;
            }
        }
        for (count, what) in [
            (self.allocations_planned, "allocations at planned places"),
            (self.allocations_reordered, "  in another order"),
            (self.allocations_unplanned, "allocations unplanned"),
            (self.allocations_blocked, "allocations whose place was in use"),
            (self.allocations_skipped, "allocations never made"),
            (self.plans, if self.plans == 1 { "plan" } else { "plans" }),
        ] {
            if count > 0 {
                write!(f, "\n{:>13} {what}", thousands(count))?;
            }
        }
        if self.arena_bytes > 0 {
            write!(f, "\n{:>13} in the arena", ByteSize(self.arena_bytes))?;
        }
        if self.is_over {
            f.write_str("\nan allocation has failed: no more steps are planned")?;
        }
        match self.last_deviation {
            Some(deviation) => write!(f, "\nlast deviation: {deviation}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PlanReport;

    #[test]
    fn every_step_is_in_one_line() {
        let report = PlanReport { steps: 620, steps_exact: 617, steps_profiled: 1, plans: 1, ..PlanReport::default() };
        let text = report.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        assert_eq!(
            lines,
            ["620 steps", "617   exactly as planned", "1   profiled", "2   otherwise, or not ended", "1 plan"]
        );
        let many = u64::MAX;
        let report = PlanReport { steps: many, steps_exact: many, steps_profiled: many, ..report };
        assert_eq!(report.steps_other(), 0);
        // No arena is no line.
        assert!(!text.contains("arena"), "{text}");
        let report = PlanReport { allocations_planned: 5, arena_bytes: 5 << 20, ..report };
        let text = report.to_string();
        assert!(text.contains(" 5 allocations at planned places\n") && text.ends_with(" 5 MiB in the arena"), "{text}");
    }
}
