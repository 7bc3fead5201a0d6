//! The order beside a plain search: every request is tried in each slab in turn, fullest first.

use std::sync::LazyLock;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::order::Key;
use super::place::Memory;
use super::*;
use crate::backend::{Limit, Limits};
use crate::pool::{Placement, Priority};

/// Shared by all states: only a planner changes what a state reads of them, and there is none.
static DIRECT: LazyLock<AtomicBool> = LazyLock::new(|| AtomicBool::new(true));
static HAS_RUNS: LazyLock<AtomicBool> = LazyLock::new(|| AtomicBool::new(false));
static RUNS_BYTES_MOST: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(0));
static SIGNS: LazyLock<Signs> = LazyLock::new(Signs::new);

/// Where a request is placed: slot, offset and bytes. `Err` as of [`State::place`].
type Place = std::result::Result<(Slot, u64, u64), Option<u64>>;

fn open(rng: &mut ChaCha8Rng) -> (State<()>, u64) {
    let policies = [SlabPolicy::Fixed(4096), SlabPolicy::Fixed(5000), SlabPolicy::Growing, SlabPolicy::PerBlock];
    let placements = [Placement::Exact, Placement::PowerOfTwo];
    let any = Limit { bytes: 1 << 40, name: "any" };
    let limits = Limits { alignment_bytes: 64, alignment_bytes_max: 4096, granule_bytes: 1, slab: any, block: any };
    let (policy, placement) = (policies[rng.random_range(0..4)], placements[rng.random_range(0..2)]);
    let budget_bytes = [20_000, 1 << 17, 1 << 20][rng.random_range(0..3)];
    let reserve_bytes = if rng.random_range(0..3) == 0 { rng.random_range(0..budget_bytes / 2) } else { 0 };
    let state = State::new(&Opening {
        budget_bytes,
        staging_bytes: 0,
        reserve_bytes,
        sizes: SlabSizes::new(policy, placement, limits, None),
        direct: &DIRECT,
        runs_bytes_most: &RUNS_BYTES_MOST,
        has_runs: &HAS_RUNS,
        signs: &SIGNS,
        has_free_lists: false,
    });
    (state, budget_bytes)
}

fn request(rng: &mut ChaCha8Rng) -> Request<'static> {
    let bits = rng.random_range(0..13);
    let bytes = (1 << bits) + rng.random_range(0..1 << bits);
    let align_bytes = if rng.random_range(0..6) == 0 { 1 << rng.random_range(0..12) } else { 1 };
    let priority = [Priority::Normal, Priority::High][rng.random_range(0..2)];
    let request = Request::bytes(bytes).align(align_bytes).priority(priority);
    if rng.random_range(0..20) == 0 { request.for_the_pool() } else { request }
}

/// Where a look at every slab in turn finds a place, in copies of their spaces.
fn place_plainly(state: &State<()>, request: &Request) -> Place {
    let mut slabs: Vec<(Slot, u64, Space)> =
        state.entries.iter().flatten().map(|entry| (entry.slab.slot, entry.slab.bytes, entry.space.clone())).collect();
    slabs.sort_by_key(|(slot, _, space)| (space.is_empty(), space.bytes() - space.used_bytes(), *slot));
    if state.sizes.policy == SlabPolicy::PerBlock {
        let least_bytes = state.sizes.least_for(request);
        slabs.retain(|(_, slab_bytes, space)| Some(*slab_bytes) == least_bytes && space.is_empty());
    }
    let (Request { bytes, align_bytes, .. }, open_bytes) = (request.clone(), state.open_bytes(request.priority));
    let mut refused_bytes: Option<u64> = None;
    for is_cached in [true, false] {
        for (slot, _, space) in &mut slabs {
            let found = match is_cached {
                true if request.for_the_pool => None,
                false if request.for_the_pool => space.alloc_pages(bytes),
                true if state.sizes.policy == SlabPolicy::PerBlock => None,
                true => space.alloc_cached_aligned(bytes, align_bytes),
                false => space.alloc_aligned(bytes, align_bytes),
            };
            match found {
                Some(extent) if extent.bytes() <= open_bytes => return Ok((*slot, extent.offset(), extent.bytes())),
                Some(extent) => {
                    space.release(extent);
                    if !request.for_the_pool {
                        refused_bytes = Some(refused_bytes.map_or(extent.bytes(), |least| least.min(extent.bytes())));
                    }
                }
                None => {}
            }
        }
    }
    Err(refused_bytes)
}

fn step(rng: &mut ChaCha8Rng, (state, budget_bytes): (&mut State<()>, u64), held: &mut Vec<(Home<()>, u64)>) -> bool {
    match rng.random_range(0..24) {
        0 => state.gather(),
        1 if rng.random_range(0..4) == 0 => {
            let down_to = if rng.random_range(0..2) == 0 { 0 } else { rng.random_range(0..budget_bytes) };
            state.detach_down_to(down_to, 0);
            for leaving in state.take_left(0, crate::sync::this_thread()) {
                state.buried(leaving.bytes());
            }
            state.has_buried(crate::sync::this_thread());
        }
        2..12 if !held.is_empty() => {
            let (home, bytes) = held.swap_remove(rng.random_range(0..held.len()));
            state.give(home, bytes, None, false);
        }
        _ => {
            let request = request(rng);
            let plainly = place_plainly(state, &request);
            let placed = state.place(&request, Memory::Committed);
            let place = |home: &Home<()>| (home.slab.slot, home.extent.offset(), home.extent.bytes());
            assert_eq!(placed.as_ref().map(place).map_err(|refused| *refused), plainly, "{request:?}");
            match placed {
                Ok(home) if request.for_the_pool => state.put_back([home]),
                Ok(home) => {
                    state.granted(std::slice::from_ref(&home), std::slice::from_ref(&request));
                    held.push((home, request.bytes));
                }
                Err(_) => {
                    if let Some(NextSlab { bytes, .. }) = state.next_slab(&request, false) {
                        state.book(bytes).unwrap();
                        state.add_slab(Slab::new(bytes, ()));
                    }
                    return false;
                }
            }
        }
    }
    true
}

/// Slabs in their order, by a look at all of them.
fn in_order(state: &State<()>) -> Vec<Slot> {
    let mut slots: Vec<(Key, Slot)> = state
        .entries
        .iter()
        .flatten()
        .filter(|entry| entry.space.used_bytes() < entry.space.bytes())
        .map(|entry| (Key::of(entry.slab.slot, &entry.space), entry.slab.slot))
        .collect();
    slots.sort_unstable();
    slots.into_iter().map(|(_, slot)| slot).collect()
}

#[test]
fn every_request_is_placed_as_by_a_plain_search() {
    let (mut refused, mut most_slabs) = (0, 0);
    for seed in 0..150 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let ((mut state, budget_bytes), mut held) = (open(&mut rng), Vec::new());
        for event in 0..600 {
            refused += usize::from(!step(&mut rng, (&mut state, budget_bytes), &mut held));
            assert!(state.is_single() || state.slots_with(1).eq(in_order(&state)), "seed {seed}, event {event}");
            let most = |of: &dyn Fn(&Space) -> u64| {
                state.entries.iter().flatten().map(|entry| of(&entry.space)).max().unwrap_or(0)
            };
            assert_eq!(state.most_of_slabs(Space::most_bytes), most(&Space::most_bytes), "seed {seed}, event {event}");
            let unassigned_bytes = most(&|space| space.bytes() - space.used_bytes());
            assert_eq!(state.most_unassigned_bytes(), unassigned_bytes, "seed {seed}, event {event}");
            most_slabs = most_slabs.max(state.slab_count());
            if event % 50 == 0 {
                state.check();
            }
        }
        held.into_iter().for_each(|(home, bytes)| state.give(home, bytes, None, false));
        state.check();
    }
    assert!(refused > 1_000 && most_slabs > 200, "{refused} refused, at most {most_slabs} slabs");
}
