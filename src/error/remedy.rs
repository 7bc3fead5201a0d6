//! What would help against an error of a pool.

use std::fmt;

/// What a program can do about a request that a pool refused. From [`Error::remedies`](super::Error::remedies).
///
/// A *certain* remedy serves the request, as long as no other thread takes memory meanwhile and the backend does what it is
/// asked for. A *possible* one is a change of the program from its start, of which the pool cannot know the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remedy {
    /// Certain: an [alignment](crate::Request::align) that is a power of two up to so many bytes: every block has that anyway.
    /// Named for a request that is no part of a batch.
    Align(u64),
    /// Certain: the end of the planned steps that the program brought. Dropping its [`PlannedSteps`](crate::PlannedSteps) gives
    /// back what is idle in the arena.
    EndPlannedSteps,
    /// Certain: [`Pool::compact_for`](crate::Pool::compact_for) this request, lent all blocks of the pool. Named where no hold and no
    /// arena keeps a block in its place.
    Compact,
    /// Certain: the same request with [`Priority::High`](crate::Priority::High), which may use the reserve.
    HighPriority,
    /// Certain: the same request with all [fallbacks](crate::Fallback).
    AllFallbacks,
    /// Possible: [`SlabPolicy::Single`](crate::SlabPolicy::Single). The idle bytes of all slabs would do together.
    SingleSlab,
    /// Possible: [`Pool::auto_plan`](crate::Pool::auto_plan) or [`Pool::follow_plan`](crate::Pool::follow_plan), where steps
    /// repeat. A plan leaves no bytes between blocks that no block can use.
    PlanSteps,
}

impl Remedy {
    /// Returns whether this serves the request for certain.
    pub fn is_certain(self) -> bool {
        !matches!(self, Self::SingleSlab | Self::PlanSteps)
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Align(bytes) => write!(f, "an alignment of a power of two up to {bytes} bytes"),
            Self::EndPlannedSteps => f.write_str("the end of the planned steps, which gives the arena back"),
            Self::Compact => f.write_str("Pool::compact_for with all blocks"),
            Self::HighPriority => f.write_str("Priority::High"),
            Self::AllFallbacks => f.write_str("all fallbacks"),
            Self::SingleSlab => f.write_str("SlabPolicy::Single"),
            Self::PlanSteps => f.write_str("a plan, where steps repeat (Pool::auto_plan)"),
        }
    }
}

/// Writes the certain remedies, then the possible ones.
pub(super) fn write(remedies: &[Remedy], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (is_certain, title) in
        [(true, "this would serve it now"), (false, "from the start of the program this may help")]
    {
        let mut named = remedies.iter().filter(|remedy| remedy.is_certain() == is_certain);
        if let Some(first) = named.next() {
            write!(f, "; {title}: {first}")?;
            named.try_for_each(|remedy| write!(f, ", or {remedy}"))?;
        }
    }
    Ok(())
}
