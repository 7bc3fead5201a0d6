//! The line beside a plain search: after each event, every waiter in turn is tried, and the first that fits is served, until
//! none fits.

use std::sync::LazyLock;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::place::Memory;
use super::*;
use crate::backend::{Limit, Limits};
use crate::pool::line::{Need, PRIORITIES, Ticket};
use crate::pool::wait::Seat;
use crate::pool::{Placement, Priority};

/// Shared by all states: only a planner changes what a state reads of them, and there is none.
static DIRECT: LazyLock<AtomicBool> = LazyLock::new(|| AtomicBool::new(true));
static HAS_RUNS: LazyLock<AtomicBool> = LazyLock::new(|| AtomicBool::new(false));
static RUNS_BYTES_MOST: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(0));
static SIGNS: LazyLock<Signs> = LazyLock::new(Signs::new);

/// A state, and the blocks that are out.
struct Program {
    state: State<()>,
    /// By arrival.
    waiting: Vec<(Ticket, Arc<Seat<()>>)>,
    held: Vec<(Home<()>, u64)>,
}

impl Program {
    fn new(state: State<()>) -> Self {
        Self { state, waiting: Vec::new(), held: Vec::new() }
    }

    fn join(&mut self, requests: &[Request]) {
        let seat = Arc::new(Seat::new(requests, vec![0; requests.len()], Duration::MAX, None));
        let ticket = self.state.join(Arc::clone(&seat));
        self.waiting.push((ticket, seat));
    }

    /// The tickets of those that are served. What they got is held.
    fn serve(&mut self) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        for seat in self.state.serve().seats {
            let index = self.waiting.iter().position(|(_, other)| Arc::ptr_eq(&seat, other)).expect("it waited");
            tickets.push(self.waiting.remove(index).0);
            let homes = seat.take().expect("it was served").expect("with homes");
            let bytes = seat.requests().iter().map(|request| request.bytes);
            self.held.extend(homes.into_iter().zip(bytes));
        }
        tickets
    }
}

/// The tickets of those that a plain search serves in a copy of the state.
fn serve_plainly(state: &mut State<()>) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    state.gather();
    while let Some(ticket) = turns(state).into_iter().find(|ticket| fits(state, *ticket)) {
        state.line.serve(ticket);
        tickets.push(ticket);
    }
    tickets
}

/// Takes homes for a waiter, if there are. To try leaves no trace.
fn fits(state: &mut State<()>, ticket: Ticket) -> bool {
    let before: Vec<_> = state.entries.iter().map(copy_of).collect();
    let order = (state.order.clone(), state.unmerged.clone());
    let seat = state.line.get(ticket).cloned().expect("it waits");
    let fits = state.take_batch(seat.requests(), Memory::Elsewhere).is_ok();
    if !fits {
        (state.entries, (state.order, state.unmerged)) = (before, order);
    }
    fits
}

fn copy_of(entry: &Option<Entry<()>>) -> Option<Entry<()>> {
    entry.as_ref().map(|Entry { slab, space, is_unmerged }| Entry {
        slab: Arc::clone(slab),
        space: space.clone(),
        is_unmerged: *is_unmerged,
    })
}

/// Those that may be served, in the order in which they are to be tried.
fn turns(state: &State<()>) -> Vec<Ticket> {
    let of = |priority| state.line.of_priority(priority).into_iter();
    match state.line.first_due(Need::Room) {
        None => PRIORITIES.into_iter().rev().flat_map(of).collect(),
        Some((due, ..)) => {
            let may_pass =
                |ticket: &Ticket| state.line.get(*ticket).is_some_and(|seat| state.may_pass_due(seat.requests()));
            // One of high priority that is due is passed by no other.
            let high_due = state.line.first_due_of(Priority::High, Need::Room).map(|(ticket, _)| ticket);
            let high = of(Priority::High).filter(|ticket| high_due.is_none_or(|due| due == *ticket)).filter(may_pass);
            std::iter::once(due).chain(high).collect()
        }
    }
}

/// A kind of pool.
struct Case {
    policy: SlabPolicy,
    placement: Placement,
    budget_bytes: u64,
    reserve_bytes: u64,
    batches: bool,
}

impl Case {
    fn draw(rng: &mut ChaCha8Rng, batches: bool) -> Self {
        let policies = [SlabPolicy::Single, SlabPolicy::Growing, SlabPolicy::PerBlock];
        let placements = [Placement::Exact, Placement::PowerOfTwo];
        let budget_bytes = [1 << 12, 40_000, 1 << 17][rng.random_range(0..3)];
        Self {
            policy: policies[rng.random_range(0..3)],
            placement: placements[rng.random_range(0..2)],
            budget_bytes,
            reserve_bytes: if rng.random_range(0..2) == 0 { 0 } else { rng.random_range(0..budget_bytes / 2) },
            batches,
        }
    }

    fn limits(&self) -> Limits {
        let any = Limit { bytes: 1 << 40, name: "any" };
        Limits { alignment_bytes: 64, alignment_bytes_max: 64, granule_bytes: 1, slab: any, block: any }
    }

    fn bytes(&self, rng: &mut ChaCha8Rng) -> u64 {
        let bits = rng.random_range(0..self.budget_bytes.ilog2());
        ((1 << bits) + rng.random_range(0..1 << bits)).min(self.budget_bytes / 2)
    }

    fn request(&self, rng: &mut ChaCha8Rng) -> Request<'static> {
        Request::bytes(self.bytes(rng)).priority(PRIORITIES[rng.random_range(0..3)])
    }

    fn open(&self) -> State<()> {
        let sizes = SlabSizes::new(self.policy, self.placement, self.limits(), None);
        State::new(&Opening {
            budget_bytes: self.budget_bytes,
            staging_bytes: 0,
            reserve_bytes: self.reserve_bytes,
            sizes,
            direct: &DIRECT,
            runs_bytes_most: &RUNS_BYTES_MOST,
            has_runs: &HAS_RUNS,
            signs: &SIGNS,
            has_free_lists: false,
        })
    }

    fn copy_of(&self, state: &State<()>) -> State<()> {
        let mut copy = self.open();
        copy.entries = state.entries.iter().map(copy_of).collect();
        (copy.order, copy.unmerged) = (state.order.clone(), state.unmerged.clone());
        (copy.slabs, copy.slab_bytes, copy.vacant) = (state.slabs, state.slab_bytes, state.vacant.clone());
        (copy.line, copy.books) = (state.line.clone(), state.books.clone());
        copy
    }

    fn step(&self, rng: &mut ChaCha8Rng, program: &mut Program) {
        let Program { state, waiting, held } = program;
        let left_bytes = state.left_bytes();
        match rng.random_range(0..10) {
            0..3 => {
                let count = if self.batches && rng.random_range(0..2) == 0 { rng.random_range(1..4) } else { 1 };
                // Often the same again.
                let same = waiting.first().filter(|_| rng.random_range(0..3) == 0);
                let same = same.map(|(_, seat)| seat.requests().to_vec());
                let requests = same.unwrap_or_else(|| (0..count).map(|_| self.request(rng)).collect());
                program.join(&requests);
            }
            3..5 => {
                let request = self.request(rng);
                held.extend(state.take(&request).map(|home| (home, request.bytes)));
            }
            5..8 if !held.is_empty() => {
                let (home, bytes) = held.swap_remove(rng.random_range(0..held.len()));
                state.give(home, bytes, None, false);
            }
            8 if !waiting.is_empty() => {
                let (ticket, _) = waiting.remove(rng.random_range(0..waiting.len()));
                state.leave(ticket).expect("it waited");
            }
            9 if left_bytes > 64 => {
                let wanted = waiting.first().map_or(0, |(_, seat)| seat.requests()[0].bytes);
                let bytes = if rng.random_range(0..2) == 0 { wanted } else { self.bytes(rng) };
                let bytes = bytes.clamp(1, left_bytes);
                state.book(bytes).unwrap();
                state.add_slab(Slab::new(bytes, ()));
            }
            _ => {}
        }
    }
}

#[test]
fn the_line_is_served_as_by_a_plain_search() {
    let mut served = 0;
    for seed in 0..200 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let case = Case::draw(&mut rng, seed % 2 == 0);
        let mut program = Program::new(case.open());
        for event in 0..400 {
            case.step(&mut rng, &mut program);
            let mut copy = case.copy_of(&program.state);
            let tickets = program.serve();
            assert_eq!(tickets, serve_plainly(&mut copy), "seed {seed}, event {event}");
            served += tickets.len();
        }
        program.state.check();
    }
    assert!(served > 5_000, "{served}");
}
