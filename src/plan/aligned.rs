//! Plans for buffers that need alignments of their own.
//!
//! The solver knows one alignment, to which it rounds all sizes up. With the largest of all its plan is right for every
//! buffer, and wastes what was rounded. So that plan's buffers are let down, each to the lowest place at its own alignment
//! that those below it leave free, and simple orders are tried at the buffers' own alignments too. The lowest plan wins.

use std::time::Instant;

use super::effort::{Effort, UNITS_PER_STEP};
use super::fit::{Fitter, Rule};
use super::order::Key;
use super::problem::Problem;
use super::slabs::Slabs;
use super::{Lifetimes, Options, Plan, solve};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{exact, round_up};

/// Orders that are tried, each also with the largest alignment first.
const KEYS: [Key; 4] = [Key::BareSize, Key::BareArea, Key::Duration, Key::Time];

impl<Id> Lifetimes<Id> {
    /// Plans the lifetimes as [`solve`] does, with each offset a multiple of the buffer's own alignment
    /// ([`push_aligned`](Self::push_aligned)) and of that of the options.
    ///
    /// Where a buffer needs a larger alignment than the options have, the plan is no higher than one with the largest
    /// alignment for all. Its load, the lower bound, has sizes rounded up to the alignment of the options alone, and the plan
    /// is proved optimal only if its height is the load.
    ///
    /// # Errors
    /// The errors of [`solve`] with the largest alignment for all, and an alignment that is no power of two.
    pub fn solve(&self, options: &Options) -> Result<Plan> {
        let aligns = self.aligns();
        let largest_bytes = aligns.iter().copied().fold(options.align_bytes, u64::max);
        if let Some(index) = aligns.iter().position(|align| !align.is_power_of_two()) {
            let message = format!("lifetime {index} has an alignment of {}, no power of two", exact(aligns[index]));
            return Err(Error::new(ErrorKind::Alignment, message));
        }
        let started = Instant::now();
        let rough = solve(self, &options.clone().align(largest_bytes))?;
        if largest_bytes == options.align_bytes {
            return Ok(rough);
        }
        // In bytes, and not in the units of `Scaled`: an alignment may be no multiple of them. No sum is over 2^62, or the plan
        // above would be an error.
        let rounded = |bytes: u64, align_bytes| round_up(bytes, align_bytes).unwrap_or(u64::MAX);
        let placed: Vec<usize> = (0..self.len()).filter(|index| self[*index].takes_room()).collect();
        let sizes: Vec<u64> = placed.iter().map(|index| rounded(self[*index].bytes, options.align_bytes)).collect();
        let own: Vec<u64> = placed.iter().map(|index| aligns[*index]).collect();
        let sum_bytes = placed.iter().map(|index| rounded(self[*index].bytes, largest_bytes)).sum();
        let largest = sizes.iter().copied().max().unwrap_or(0);
        let slabs = &Slabs::new(&options.slab_bytes, placed.len(), largest, sum_bytes)?;
        let times = placed.iter().map(|index| (self[*index].lower, self[*index].upper)).collect();
        let problem = &Problem::new(times, sizes);

        let units_max = options.steps_max.saturating_sub(rough.steps).saturating_mul(UNITS_PER_STEP);
        let deadline = options.time_limit.and_then(|limit| started.checked_add(limit));
        let mut effort = Effort::new(units_max, deadline, None);
        effort.is_sure = true;
        let mut best = Best { height: u64::MAX, offsets: vec![0; placed.len()] };
        if let Some(mut fitter) = Fitter::new(problem, slabs, &mut effort) {
            fitter.aligns = Some(&own);
            let mut order: Vec<u32> = (0..placed.len() as u32).collect();
            order.sort_by_key(|id| rough.offsets[placed[*id as usize]]);
            best.try_order(&mut fitter, &order, Rule::First, &mut effort);
            effort.is_sure = false;
            for key in KEYS {
                let bare = key.sort_all(problem);
                let mut largest_first = bare.clone();
                largest_first.sort_by_key(|id| std::cmp::Reverse(own[*id as usize]));
                for order in [bare, largest_first] {
                    best.try_order(&mut fitter, &order, Rule::First, &mut effort);
                    best.try_order(&mut fitter, &order, Rule::Best, &mut effort);
                }
            }
        }

        let mut offsets = vec![0; self.len()];
        for (index, offset) in placed.iter().zip(&best.offsets) {
            offsets[*index] = *offset;
        }
        let height = if placed.is_empty() { 0 } else { best.height };
        let load = problem.load();
        let plan = Plan { offsets, height, load, proved: height == load, steps: rough.steps + effort.steps() };
        self.check(&plan, options)?;
        Ok(plan)
    }

    /// Looks at a plan as [`Plan::check`] does, and at each buffer's own alignment.
    fn check(&self, plan: &Plan, options: &Options) -> Result<()> {
        plan.check(self, options)?;
        let misplaced = plan.offsets.iter().zip(self.aligns()).position(|(offset, align)| offset % align > 0);
        misplaced.map_or(Ok(()), |index| {
            let (offset, align) = (plan.offsets[index], self.aligns()[index]);
            let message = format!("no plan for these lifetimes: buffer {index} at {offset} is not aligned to {align}");
            Err(Error::new(ErrorKind::Invalid, message))
        })
    }
}

/// The lowest plan so far.
struct Best {
    height: u64,
    offsets: Vec<u64>,
}

impl Best {
    fn try_order(&mut self, fitter: &mut Fitter<'_>, order: &[u32], rule: Rule, effort: &mut Effort<'_>) {
        if !fitter.begin(&[], effort) {
            return;
        }
        if let Some(height) = fitter.pass(order, rule, self.height, effort) {
            self.height = height;
            self.offsets.clone_from(&fitter.offsets);
        }
    }
}
