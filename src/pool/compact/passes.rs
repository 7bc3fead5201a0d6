//! Which block moves next, and when that is enough.

use super::Compaction;
use super::target::Target;
use crate::backend::Backend;
use crate::error::Result;
use crate::pool::block::Lent;
use crate::pool::state::{Home, Slot, Terms};
use crate::pool::{Request, Shared, SlabPolicy, planned};
use crate::space::Extent;
use crate::sync::caught;

/// Rounds within slabs are over when nothing moves any more, or after so many: what could still move stays.
const ROUNDS_MAX: usize = 8;

/// A compaction that is under way.
pub(super) struct Passes<'a, 's, B: Backend> {
    shared: &'s Shared<B>,
    lent: Vec<Lent<'a, B>>,
    /// It is over once this can be served.
    request: Option<&'s Request<'s>>,
    done: Compaction,
}

/// Where the blocks of a slab go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// To slabs that hold as much or more.
    Fuller,
    /// To an empty slab that is much smaller, or to a new one of just their size.
    New,
    /// To any slab in use.
    Any,
}

/// Places in other slabs for all blocks of one slab. Those that are not used are free again.
struct Places<'s, B: Backend> {
    shared: &'s Shared<B>,
    /// Each with the index of the block that it is for.
    homes: Vec<(usize, Home<B::Slab>)>,
}

impl<B: Backend> Drop for Places<'_, B> {
    fn drop(&mut self) {
        for (_, home) in self.homes.drain(..) {
            self.shared.state().unreserve(home, false);
        }
    }
}

/// Serves the waiters from what has moved until then: also on an error of the backend, and if it panics.
impl<B: Backend> Drop for Passes<'_, '_, B> {
    fn drop(&mut self) {
        let (served, gives_back) = {
            let mut state = self.shared.state();
            let gives_back = state.gives_back_at_once();
            if gives_back {
                self.shared.detach_empty(&mut state);
            }
            (state.serve(), gives_back)
        };
        self.shared.tell(served);
        if gives_back {
            caught(|| self.shared.settle_completed());
        }
    }
}

impl<'a, 's, B: Backend> Passes<'a, 's, B> {
    pub(super) fn new(shared: &'s Shared<B>, lent: Vec<Lent<'a, B>>, request: Option<&'s Request>) -> Self {
        Self { shared, lent, request, done: Compaction::default() }
    }

    /// Empties slabs into fuller ones, then compacts each, as long as that lets another be emptied. Where nothing else does, one is
    /// emptied into a new slab, or into one that holds less.
    pub(super) fn all(&mut self) -> Result<()> {
        // Since a slab was emptied.
        let mut is_compact = false;
        while !self.is_over() {
            if self.empty_one(Aim::Fuller)? || is_compact && (self.empty_one(Aim::New)? || self.empty_one(Aim::Any)?) {
                is_compact = false;
            } else if is_compact {
                break;
            } else {
                self.within(|_| true)?;
                is_compact = true;
            }
        }
        Ok(())
    }

    /// Compacts the slabs that may have room for the request, one after the other; then all.
    pub(super) fn for_request(&mut self) -> Result<()> {
        let Some(request) = self.request else { return Ok(()) };
        let slots = self.shared.state().slots_with_idle(request);
        for slot in slots {
            if self.is_over() {
                return Ok(());
            }
            self.within(|other| other == slot)?;
        }
        self.all()
    }

    /// Says what was done.
    pub(super) fn end(self, moved: Result<()>) -> Result<Compaction> {
        let (shared, mut done) = (self.shared, self.done);
        drop(self);
        moved?;
        let state = shared.state();
        done.largest_free_run_bytes = state.numbers().largest_free_run_bytes;
        done.empty_bytes = state.empty_bytes();
        Ok(done)
    }

    /// Returns whether the request can be served.
    fn is_over(&self) -> bool {
        self.request.is_some_and(|request| {
            let terms = Terms::of(std::slice::from_ref(request));
            self.shared.state().serves(request, terms)
        })
    }

    /// Returns whether the request can be served, after a move within this slab. That changes the room of no other, and to ask for the
    /// room in all slabs takes time that grows with them.
    fn is_over_in(&self, slot: Slot) -> bool {
        let may_be_over = |request: &Request| self.shared.state().may_have_room(slot, request.bytes);
        self.request.is_some_and(may_be_over) && self.is_over()
    }

    /// Moves blocks within their slabs, as far as these suit: runs go down, then pieces up, out of the pages that stand between runs;
    /// which lets others move.
    fn within(&mut self, suits: impl Fn(Slot) -> bool) -> Result<()> {
        self.lent.sort_unstable_by_key(|lent| lent.home.place());
        for _ in 0..ROUNDS_MAX {
            let before = self.done.blocks_moved;
            for pieces in [false, true] {
                for index in 0..self.lent.len() {
                    let home = &self.lent[index].home;
                    let slot = home.place().0;
                    if home.extent.is_piece() == pieces
                        && suits(slot)
                        && self.move_within(index)?
                        && self.is_over_in(slot)
                    {
                        return Ok(());
                    }
                }
            }
            if self.done.blocks_moved == before {
                break;
            }
        }
        Ok(())
    }

    /// Returns whether there was a place to go to.
    fn move_within(&mut self, index: usize) -> Result<bool> {
        let Lent { home, bytes, .. } = &self.lent[index];
        let mut state = self.shared.state();
        let place = if home.extent.is_piece() { state.reserve_above(home) } else { state.reserve_below(home) };
        drop(state);
        let Some(place) = place else { return Ok(false) };
        let (run, hole) = (home.extent, place.extent);
        let mut target = Target::new(self.shared, &home.slab, place);
        let (to, left) = if hole.bytes() < run.bytes() && !run.is_piece() {
            target.slide(run, *bytes)?;
            run.slid_onto(hole)
        } else {
            target.carry(run, *bytes)?;
            (hole, run)
        };
        let place = target.arrived();
        Ok(self.arrive(index, place, to, left))
    }

    /// Empties the slab that holds fewest bytes, of those that can be emptied. Returns whether there was one.
    fn empty_one(&mut self, aim: Aim) -> Result<bool> {
        let Some(mut places) = self.places_elsewhere(aim)? else { return Ok(false) };
        while let Some((index, place)) = places.homes.pop() {
            let Lent { home, bytes, .. } = &self.lent[index];
            let (from, to) = (home.extent, place.extent);
            let mut target = Target::new(self.shared, &home.slab, place);
            target.carry(from, *bytes)?;
            let place = target.arrived();
            self.arrive(index, place, to, from);
        }
        Ok(true)
    }

    /// Reserves places for all blocks of the first slab for which there are any.
    fn places_elsewhere(&self, aim: Aim) -> Result<Option<Places<'s, B>>> {
        if self.shared.policy == SlabPolicy::PerBlock {
            return Ok(None);
        }
        let lent: Vec<(Slot, u64)> =
            self.lent.iter().map(|lent| (lent.home.place().0, lent.home.extent.bytes())).collect();
        let candidates = self.shared.state().slots_of_lent(&lent);
        for slot in candidates {
            let indexes: Vec<usize> = (0..lent.len()).filter(|index| lent[*index].0 == slot).collect();
            let blocks: Vec<(u64, Extent)> =
                indexes.iter().map(|index| (self.lent[*index].bytes, self.lent[*index].home.extent)).collect();
            let mut homes = {
                let mut state = self.shared.state();
                match aim {
                    Aim::New => state.reserve_in_small(slot, &blocks),
                    _ => state.reserve_elsewhere(slot, &blocks, aim == Aim::Fuller),
                }
            };
            if homes.is_none() && aim == Aim::New {
                homes = self.shared.reserve_in_new_slab(slot, &blocks)?;
            }
            if let Some(homes) = homes {
                return Ok(Some(Places { shared: self.shared, homes: indexes.into_iter().zip(homes).collect() }));
            }
        }
        Ok(None)
    }

    /// A block has come to its place, or to that and a part of its own. What is `left` of its slab goes home.
    fn arrive(&mut self, index: usize, place: Option<Home<B::Slab>>, to: Extent, left: Extent) -> bool {
        let Some(place) = place else { return false };
        let Lent { home, bytes, label } = &mut self.lent[index];
        let held_bytes = home.extent.bytes();
        self.shared.write_down_move(planned::at(home), (place.slab.serial, to.offset()));
        self.shared.state().moved(home, place, to, left, self.shared.zero_on_free);
        self.shared.count_more(*label, to.bytes() as i64 - held_bytes as i64);
        self.done.blocks_moved += 1;
        self.done.bytes_moved += *bytes;
        if self.shared.zero_on_free {
            self.shared.zero_retired(false);
        }
        true
    }
}
