//! The last steps of recorded runs as circles: what is alive across their boundary has a place in every step.

use std::collections::HashMap;

use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::trace::{Event, Trace};

use super::bundled;

/// What a step does, without the numbers of its blocks: an allocation of so many bytes, or a free of the n-th allocation of this step, of the
/// last one, or of an older one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Alloc(u64),
    Free(usize, usize),
    FreeOlder,
}

/// The steps of a trace.
fn steps(trace: &Trace) -> Vec<Vec<Act>> {
    let (mut steps, mut born) = (vec![Vec::new()], HashMap::new());
    let mut allocations = 0;
    for event in trace.events() {
        let now = steps.len() - 1;
        let act = match *event {
            Event::Alloc { id, bytes, .. } => {
                born.insert(id, (now, allocations));
                allocations += 1;
                Act::Alloc(bytes)
            }
            Event::Free { id } => match born[&id] {
                (step, number) if now - step <= 1 => Act::Free(now - step, number),
                _ => Act::FreeOlder,
            },
            Event::Step { .. } => {
                steps.push(Vec::new());
                allocations = 0;
                continue;
            }
            _ => continue,
        };
        steps[now].push(act);
    }
    steps
}

/// The blocks of a step that repeats, on a circle of its events. Blocks that live longer than a step have no place on it.
fn circle(step: &[Act]) -> Vec<Lifetime> {
    let mut lifetimes: Vec<(u64, u64, Option<u64>)> = Vec::new();
    for (at, act) in (0..).zip(step) {
        if let Act::Alloc(bytes) = act {
            lifetimes.push((at, *bytes, None));
        }
    }
    for (at, act) in (0..).zip(step) {
        if let Act::Free(age, number) = act {
            lifetimes[*number].2 = Some(at + *age as u64 * step.len() as u64);
        }
    }
    let of_one = |(lower, bytes, upper): (u64, u64, Option<u64>)| upper.map(|upper| Lifetime::new(lower, upper, bytes));
    let is_short = |lifetime: &Lifetime| lifetime.upper - lifetime.lower <= step.len() as u64;
    lifetimes.into_iter().filter_map(of_one).filter(is_short).collect()
}

/// Ten of the runs repeat their step exactly. Each circle comes to its load within 200,000 steps of the solver.
#[test]
fn steps_that_repeat_need_no_more_than_their_load() {
    let mut repeated = 0;
    for path in bundled() {
        let trace = &Trace::read(&path).unwrap()[0];
        let steps = steps(trace);
        let [.., before, last] = &steps[..] else { panic!("{} has steps", trace.name()) };
        if before != last {
            continue;
        }
        repeated += 1;
        let (period, lifetimes) = (last.len() as u64, circle(last));
        let options = Options::new().align(512).steps(200_000);
        let plan = plan::solve_circle(period, &lifetimes, &options).unwrap();
        let crossing = lifetimes.iter().filter(|lifetime| lifetime.upper > period).count();
        println!("{}: {plan}, {} steps, {crossing} of {} cross", trace.name(), plan.steps, lifetimes.len());
        assert_eq!(plan.height, plan.load, "{}", trace.name());
        assert!(plan.proved);
    }
    assert!(repeated >= 9, "{repeated} runs repeat their last step");
}
