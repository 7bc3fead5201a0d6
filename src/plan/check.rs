//! Looks at a plan with a sweep over time that shares no code with the solver: neither compression, nor sections, nor
//! units.

use std::collections::BTreeMap;

use super::{Lifetime, Options, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::units::exact;

impl Plan {
    /// Whether this is a plan for these lifetimes under these options: an offset for each, aligned, in one slab, no two
    /// live buffers in one place, and the height and the load what they are said to be.
    ///
    /// [`solve`](super::solve) has every plan looked at before it returns it. That a height above the load is the
    /// least is the only claim that is not looked at.
    ///
    /// # Errors
    ///
    /// The first fault that is found, with the buffers (by their place in the list, from 0) and the numbers.
    pub fn check(&self, lifetimes: &[Lifetime], options: &Options) -> Result<()> {
        let (top, load) = self.check_places(lifetimes, options)?;
        if top != u128::from(self.height) {
            return Err(fault(format!("the height is {top}, not {}", exact(self.height))));
        }
        if load != u128::from(self.load) {
            return Err(fault(format!("the load is {load}, not {}", exact(self.load))));
        }
        if !self.proved && self.height == self.load {
            return Err(fault(format!("the height is the load, {}, and not said to be the least", exact(self.load))));
        }
        Ok(())
    }

    /// As [`check`](Self::check), of the places alone: a plan may keep to more than is asked here, a larger alignment say.
    /// Returns the height and the load.
    pub(crate) fn check_places(&self, lifetimes: &[Lifetime], options: &Options) -> Result<(u128, u128)> {
        options.validate()?;
        if self.offsets.len() != lifetimes.len() {
            return Err(fault(format!("{} offsets for {} lifetimes", self.offsets.len(), lifetimes.len())));
        }
        let mut top = 0;
        for (index, (lifetime, offset)) in lifetimes.iter().zip(&self.offsets).enumerate() {
            top = top.max(end_of(index, lifetime, *offset, options)?);
        }
        Ok((top, sweep(lifetimes, &self.offsets, options.align_bytes)?))
    }
}

impl Plan {
    /// As [`check`](Self::check), for lifetimes on a circle of `period` ticks ([`solve_circle`](super::solve_circle)): what of a lifetime is
    /// past the circle's end is looked at as a lifetime of its own at the beginning, at the same offset. A fault names a buffer by twice its
    /// place in the list, and one more for that.
    ///
    /// # Errors
    /// As [`check`](Self::check), and for a lifetime that is none on the circle.
    pub fn check_circle(&self, period: u64, lifetimes: &[Lifetime], options: &Options) -> Result<()> {
        if self.offsets.len() != lifetimes.len() {
            return Err(fault(format!("{} offsets for {} lifetimes", self.offsets.len(), lifetimes.len())));
        }
        let (mut pieces, mut offsets) = (Vec::new(), Vec::new());
        for (index, (lifetime, offset)) in lifetimes.iter().zip(&self.offsets).enumerate() {
            let Lifetime { lower, upper, bytes } = *lifetime;
            if lower >= period || upper < lower || upper - lower > period {
                return Err(fault(format!(
                    "lifetime {index}, {lower} to {upper}, is none on a circle of {period} ticks"
                )));
            }
            let (end, rest) = if upper > period { (period, upper - period) } else { (upper, 0) };
            pieces.extend([Lifetime::new(lower, end, bytes), Lifetime::new(0, rest, bytes)]);
            offsets.extend([*offset; 2]);
        }
        Plan { offsets, ..*self }.check(&pieces, options)
    }
}

fn fault(message: String) -> Error {
    Error::new(ErrorKind::Invalid, format!("no plan for these lifetimes: {message}"))
}

/// What a buffer takes.
fn room(lifetime: &Lifetime, align_bytes: u64) -> u128 {
    if lifetime.lower == lifetime.upper {
        0
    } else {
        u128::from(lifetime.bytes).div_ceil(u128::from(align_bytes)) * u128::from(align_bytes)
    }
}

/// Where a buffer ends, if by itself it is where it may be.
fn end_of(index: usize, lifetime: &Lifetime, offset: u64, options: &Options) -> Result<u128> {
    if lifetime.lower > lifetime.upper {
        return Err(fault(format!("lifetime {index} ends before it begins")));
    }
    if !offset.is_multiple_of(options.align_bytes) {
        return Err(fault(format!("buffer {index} at {offset} is not aligned to {}", options.align_bytes)));
    }
    let bytes = room(lifetime, options.align_bytes);
    let (first, end) = (u128::from(offset), u128::from(offset) + bytes);
    if bytes == 0 {
        return Ok(0);
    }
    // Walk the slabs to the one that the buffer begins in.
    let Some(last) = options.slab_bytes.last() else { return Ok(end) };
    let (mut slab, mut slab_end) = (0u128, 0u128);
    for bytes in &options.slab_bytes {
        (slab, slab_end) = (slab_end, slab_end + u128::from(*bytes));
        if first < slab_end {
            break;
        }
    }
    if first >= slab_end {
        let last = u128::from(*last);
        slab = slab_end + (first - slab_end) / last * last;
        slab_end = slab + last;
    }
    if end > slab_end {
        return Err(fault(format!(
            "buffer {index} at {offset}..{end} straddles the end of the slab {slab}..{slab_end}"
        )));
    }
    Ok(end)
}

/// Goes through time with what is live, by offset; returns the largest sum of what is live.
fn sweep(lifetimes: &[Lifetime], offsets: &[u64], align_bytes: u64) -> Result<u128> {
    // Ends come before beginnings at the same time.
    let mut events = Vec::new();
    for (index, lifetime) in lifetimes.iter().enumerate() {
        if room(lifetime, align_bytes) > 0 {
            events.push((lifetime.lower, true, index));
            events.push((lifetime.upper, false, index));
        }
    }
    events.sort_unstable();
    let mut live: BTreeMap<u64, usize> = BTreeMap::new();
    let (mut sum, mut load) = (0u128, 0u128);
    for (time, begins, index) in events {
        let bytes = room(&lifetimes[index], align_bytes);
        let offset = offsets[index];
        if !begins {
            live.remove(&offset);
            sum -= bytes;
            continue;
        }
        let end = u128::from(offset) + bytes;
        let below = live.range(..=offset).next_back();
        let above = live.range(offset..).next();
        let meets_below =
            below.filter(|(at, other)| u128::from(**at) + room(&lifetimes[**other], align_bytes) > u128::from(offset));
        let meets_above = above.filter(|(at, _)| u128::from(**at) < end);
        if let Some((at, other)) = meets_below.or(meets_above) {
            let (own, of_other) = (room(&lifetimes[index], align_bytes), room(&lifetimes[*other], align_bytes));
            return Err(fault(format!(
                "at {time}, buffer {index} at {offset} ({own} bytes) and buffer {other} at {at} ({of_other} bytes) overlap"
            )));
        }
        live.insert(offset, index);
        sum += bytes;
        load = load.max(sum);
    }
    Ok(load)
}
