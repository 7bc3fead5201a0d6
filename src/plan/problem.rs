//! Lifetimes with their times compressed into sections, and how loaded each section is.
//!
//! **Compression.** Walk the distinct times, ends before starts; close a section at an end when a start has occurred
//! since the last close. The buffers alive when a section closes are a maximal set of buffers that are alive together,
//! and every such set is some section's: a set stops being extendable just when one of its buffers ends. So two buffers
//! are alive at one time iff they share a section, and a buffer covers the consecutive sections `first..end`, at least
//! one. A time axis of 10^9 steps becomes at most as many sections as there are buffers.

use super::effort::sorting;
use super::stretches::{Span, Stretch, Stretches, merge_alike};

/// Units of a problem, whatever its size.
const PROBLEM_UNITS: u64 = 1_000;

/// Buffers to be packed. Everything is indexed by the buffer's place in this problem; sizes are in units.
#[derive(Debug)]
pub(super) struct Problem {
    pub sizes: Vec<u64>,
    /// `[lower, upper)`, not empty. In sections where a buffer is live several times.
    pub times: Vec<(u64, u64)>,
    /// From the first section to the last that the buffer covers: all of them, unless it is live several times.
    pub spans: Vec<Span>,
    /// The sections of each buffer, if any is live several times.
    stretches: Option<Stretches>,
    /// The largest load of any section that the buffer covers.
    pub peaks: Vec<u64>,
    /// Sum of the sizes that are alive in each section.
    pub loads: Vec<u64>,
    /// A time at which everything in the section is alive.
    pub moments: Vec<u64>,
}

impl Problem {
    /// Buffers that may be live several times, each in one place. Every buffer has a stretch, none is empty, and no two of one buffer
    /// overlap. Sizes are as in [`new`](Self::new).
    ///
    /// Sections with the same buffers become one: a run of many steps that are alike has as many sections as one of them. So two buffers
    /// are alive at one time iff they share a section, but the sections of a buffer are a set.
    pub fn of_stretches(stretches: &[Stretch], sizes: Vec<u64>) -> Self {
        let times: Vec<(u64, u64)> = stretches.iter().map(|stretch| (stretch.lower, stretch.upper)).collect();
        let (spans, moments) = compress(&times);
        let ids: Vec<u32> = stretches.iter().map(|stretch| stretch.id).collect();
        let (stretches, sections) = merge_alike(&ids, &spans, moments.len(), sizes.len());
        let of_all: Vec<u64> =
            (0..sizes.len()).flat_map(|id| stretches.of(id).iter().map(|_| sizes[id]).collect::<Vec<_>>()).collect();
        let loads = loads(stretches.all(), &of_all, sections);
        let peaks_of_all = peaks(stretches.all(), &loads);
        let peaks =
            (0..sizes.len()).map(|id| stretches.of_one(id, &peaks_of_all).iter().copied().max().unwrap_or(0)).collect();
        let spans: Vec<Span> = (0..sizes.len()).map(|id| stretches.hull(id)).collect();
        let times = spans.iter().map(|span| (u64::from(span.first), u64::from(span.end))).collect();
        let is_split = stretches.all().len() > sizes.len();
        let moments = (0..sections as u64).collect();
        Self { sizes, times, spans, stretches: is_split.then_some(stretches), peaks, loads, moments }
    }

    /// Returns whether a buffer is live several times.
    pub fn is_split(&self) -> bool {
        self.stretches.is_some()
    }

    /// Returns the sections that a buffer covers.
    #[inline]
    pub fn spans_of(&self, id: usize) -> &[Span] {
        match &self.stretches {
            None => std::slice::from_ref(&self.spans[id]),
            Some(stretches) => stretches.of(id),
        }
    }

    /// Returns how many sections a buffer covers.
    pub fn width(&self, id: usize) -> u32 {
        self.spans_of(id).iter().map(|span| span.end - span.first).sum()
    }

    /// Returns whether two buffers share a section.
    pub fn meet(&self, one: usize, other: usize) -> bool {
        let (mut ones, mut others) = (self.spans_of(one), self.spans_of(other));
        while let ([a, rest_a @ ..], [b, rest_b @ ..]) = (ones, others) {
            if a.meets(*b) {
                return true;
            }
            (ones, others) = if a.end <= b.first { (rest_a, others) } else { (ones, rest_b) };
        }
        false
    }

    /// Compresses. No size is zero, no lifetime empty, and the sum of all sizes is below 2^63.
    pub fn new(times: Vec<(u64, u64)>, sizes: Vec<u64>) -> Self {
        let (spans, moments) = compress(&times);
        let loads = loads(&spans, &sizes, moments.len());
        let peaks = peaks(&spans, &loads);
        Self { sizes, times, spans, stretches: None, peaks, loads, moments }
    }

    /// The buffers `ids` alone, their lifetimes clipped to `window` (times). Where buffers are live several times nothing is clipped: three
    /// that meet pairwise need not have a section in common.
    pub fn part(&self, ids: &[u32], window: (u64, u64)) -> Self {
        if self.is_split() {
            let of_one = |(id, outer): (u32, &u32)| {
                let spans = self.spans_of(*outer as usize).iter();
                spans.map(move |span| Stretch { id, lower: u64::from(span.first), upper: u64::from(span.end) })
            };
            let stretches: Vec<Stretch> = (0..).zip(ids).flat_map(of_one).collect();
            return Self::of_stretches(&stretches, ids.iter().map(|id| self.sizes[*id as usize]).collect());
        }
        let clip = |(lower, upper): (u64, u64)| (lower.max(window.0), upper.min(window.1));
        let times = ids.iter().map(|id| clip(self.times[*id as usize])).collect();
        Self::new(times, ids.iter().map(|id| self.sizes[*id as usize]).collect())
    }

    /// Units that a problem of so many buffers takes to make.
    pub fn making(count: usize) -> u64 {
        PROBLEM_UNITS + 2 * sorting(count)
    }

    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    pub fn sections(&self) -> usize {
        self.loads.len()
    }

    /// The lower bound: the largest sum of sizes that are alive together.
    pub fn load(&self) -> u64 {
        self.loads.iter().copied().max().unwrap_or(0)
    }
}

/// The span of each lifetime, and a moment in each section.
fn compress(times: &[(u64, u64)]) -> (Vec<Span>, Vec<u64>) {
    let mut starts: Vec<(u64, u32)> = times.iter().zip(0..).map(|(time, id)| (time.0, id)).collect();
    let mut ends: Vec<(u64, u32)> = times.iter().zip(0..).map(|(time, id)| (time.1, id)).collect();
    starts.sort_unstable();
    ends.sort_unstable();
    let mut spans = vec![Span { first: 0, end: 0 }; times.len()];
    let mut moments = Vec::new();
    let mut starts = starts.into_iter().peekable();
    let mut opened = None;
    for (time, id) in ends {
        while let Some((start, id)) = starts.next_if(|(start, _)| *start < time) {
            spans[id as usize].first = moments.len() as u32;
            opened = Some(start);
        }
        // Since the last start, nothing has ended: all that covers the section is alive at that moment.
        if let Some(moment) = opened.take() {
            moments.push(moment);
        }
        spans[id as usize].end = moments.len() as u32;
    }
    (spans, moments)
}

fn loads(spans: &[Span], sizes: &[u64], sections: usize) -> Vec<u64> {
    let mut loads = vec![0u64; sections + 1];
    for (span, size) in spans.iter().zip(sizes) {
        loads[span.first as usize] = loads[span.first as usize].wrapping_add(*size);
        loads[span.end as usize] = loads[span.end as usize].wrapping_sub(*size);
    }
    loads.pop();
    let mut sum = 0u64;
    for load in &mut loads {
        sum = sum.wrapping_add(*load);
        *load = sum;
    }
    loads
}

/// The largest load in each span, from a sparse table: row k has the largest of the 2^k loads from each place on.
fn peaks(spans: &[Span], loads: &[u64]) -> Vec<u64> {
    let mut rows = vec![loads.to_vec()];
    let mut half = 1;
    while 2 * half <= loads.len() {
        let last = &rows[rows.len() - 1];
        let row = (0..=loads.len() - 2 * half).map(|at| last[at].max(last[at + half])).collect();
        rows.push(row);
        half *= 2;
    }
    let largest = |span: &Span| {
        let power = (span.end - span.first).ilog2() as usize;
        rows[power][span.first as usize].max(rows[power][span.end as usize - (1 << power)])
    };
    spans.iter().map(largest).collect()
}
