//! Buffers that are live several times, each in one place: the sections that they cover.

use std::collections::HashSet;

/// The consecutive sections `first..end` that a buffer covers; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub first: u32,
    pub end: u32,
}

impl Span {
    pub fn meets(self, other: Span) -> bool {
        self.first < other.end && other.first < self.end
    }

    pub fn sections(self) -> std::ops::Range<usize> {
        self.first as usize..self.end as usize
    }

    /// Units of going through its sections.
    pub fn units(self) -> u64 {
        2 + u64::from(self.end - self.first) / 4
    }
}

/// A stretch of time, `lower..upper`, in which a buffer is live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub id: u32,
    pub lower: u64,
    pub upper: u64,
}

/// For each buffer the spans that it covers, in their order, one list behind another.
#[derive(Debug)]
pub(super) struct Stretches {
    begins: Vec<u32>,
    spans: Vec<Span>,
}

impl Stretches {
    /// Returns the spans of all buffers, those of each in its place.
    pub fn all(&self) -> &[Span] {
        &self.spans
    }

    /// Returns the spans of a buffer.
    pub fn of(&self, id: usize) -> &[Span] {
        self.of_one(id, &self.spans)
    }

    /// Returns what belongs to a buffer's spans, of a list that has an entry for each span of all.
    pub fn of_one<'a, T>(&self, id: usize, list: &'a [T]) -> &'a [T] {
        &list[self.begins[id] as usize..self.begins[id + 1] as usize]
    }

    /// Returns the sections from the first to the last of a buffer.
    pub fn hull(&self, id: usize) -> Span {
        let spans = self.of(id);
        Span { first: spans[0].first, end: spans[spans.len() - 1].end }
    }
}

/// Makes one section of those in which the same buffers are alive. `ids` and `spans` are of the stretches. Returns the spans of each
/// buffer in what is left, and how many sections that is.
pub(super) fn merge_alike(ids: &[u32], spans: &[Span], sections: usize, buffers: usize) -> (Stretches, usize) {
    let (mut begins, mut ends) = (vec![Vec::new(); sections + 1], vec![Vec::new(); sections + 1]);
    for (id, span) in ids.iter().zip(spans) {
        begins[span.first as usize].push(*id);
        ends[span.end as usize].push(*id);
    }
    let mut alive = Alive { ids: Vec::new(), places: vec![None; buffers], hash: 0 };
    let (mut known, mut count) = (HashSet::new(), 0u32);
    let mut of_each: Vec<Vec<Span>> = vec![Vec::new(); buffers];
    for section in 0..sections {
        // A buffer may end and begin again in one section.
        ends[section].iter().for_each(|id| alive.remove(*id));
        begins[section].iter().for_each(|id| alive.insert(*id));
        if known.insert(alive.hash) {
            for id in &alive.ids {
                let spans = &mut of_each[*id as usize];
                match spans.last_mut() {
                    Some(span) if span.end == count => span.end = count + 1,
                    _ => spans.push(Span { first: count, end: count + 1 }),
                }
            }
            count += 1;
        }
    }
    let mut stretches = Stretches { begins: vec![0], spans: Vec::new() };
    for spans in of_each {
        stretches.spans.extend(spans);
        stretches.begins.push(stretches.spans.len() as u32);
    }
    (stretches, count as usize)
}

/// The buffers that are alive in a section.
struct Alive {
    ids: Vec<u32>,
    /// Where each buffer is in that.
    places: Vec<Option<usize>>,
    /// The numbers of these buffers, each mixed, in one by exclusive or: sets with the same hash are taken for the same. The check of a plan
    /// would see if two were not.
    hash: u128,
}

impl Alive {
    fn insert(&mut self, id: u32) {
        let place = &mut self.places[id as usize];
        if place.is_none() {
            *place = Some(self.ids.len());
            self.ids.push(id);
            self.hash ^= mixed(id);
        }
    }

    fn remove(&mut self, id: u32) {
        let Some(place) = self.places[id as usize].take() else { return };
        self.ids.swap_remove(place);
        if let Some(moved) = self.ids.get(place) {
            self.places[*moved as usize] = Some(place);
        }
        self.hash ^= mixed(id);
    }
}

/// Spreads a number over 128 bits.
fn mixed(id: u32) -> u128 {
    let mut bits = (u128::from(id) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    bits ^= bits >> 61;
    bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9_94d0_49bb_1331_11eb);
    bits ^ (bits >> 59)
}
