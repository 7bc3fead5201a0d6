//! Blocks of arenas that are gone: each keeps the pages that it has a part of, and nothing else.

use std::collections::BTreeMap;

use super::learn::At;
use crate::pool::state::Home;
use crate::space::Extent;

/// A block that is not back.
#[derive(Clone, Copy, Debug)]
struct Out {
    end: u64,
    /// The page size of its slab.
    page_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Late {
    out: BTreeMap<At, Out>,
}

/// Returns the pages of a run of which no range has a part. The ranges are counted from its start, and sorted.
pub(super) fn free_runs(run: Extent, ranges: &[(u64, u64)], page_bytes: u64) -> Vec<Extent> {
    let (start, end) = (run.offset(), run.offset() + run.bytes());
    let (mut free, mut at) = (Vec::new(), start);
    for (from, to) in ranges {
        let page = (start + from) / page_bytes * page_bytes;
        if at < page {
            free.push(Extent::run(at, page - at));
        }
        at = at.max((start + to).next_multiple_of(page_bytes).min(end));
    }
    if at < end {
        free.push(Extent::run(at, end - at));
    }
    free
}

impl Late {
    /// Notes the blocks of an arena that is given up, by their ranges in it, sorted. Returns the runs that are free now: all pages
    /// that no block has a part of.
    pub(super) fn leave<S>(&mut self, arena: &Home<S>, ranges: &[(u64, u64)], page_bytes: u64) -> Vec<Extent> {
        let start = arena.extent.offset();
        for (from, to) in ranges {
            self.out.insert((arena.slab.serial, start + from), Out { end: start + to, page_bytes });
        }
        free_runs(arena.extent, ranges, page_bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes a block back. Returns the run that is free with it, if there are pages that no other block has a part of. `None` if
    /// the block is none of these.
    pub(super) fn put_back<S>(&mut self, home: &Home<S>) -> Option<Option<Extent>> {
        let (serial, offset) = (home.slab.serial, home.extent.offset());
        let Out { end, page_bytes } = self.out.remove(&(serial, offset))?;
        let below = self.out.range((serial, 0)..(serial, offset)).next_back();
        let above = self.out.range((serial, end)..=(serial, u64::MAX)).next();
        let up = |at: u64| at.next_multiple_of(page_bytes).min(home.slab.bytes);
        let down = |at: u64| at / page_bytes * page_bytes;
        let from = below.map_or(0, |(_, out)| up(out.end)).max(down(offset));
        let to = above.map_or(u64::MAX, |((_, at), _)| down(*at)).min(up(end));
        Some((from < to).then(|| Extent::run(from, to - from)))
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        (self.out.len() * size_of::<(At, Out)>()) as u64
    }
}
