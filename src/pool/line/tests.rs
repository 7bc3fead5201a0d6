use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Joins as a waiter of its own kind that needs nothing.
fn join<T: Copy>(line: &mut Line<u64, T>, priority: Priority, deadline: Option<Instant>, item: T) -> Ticket {
    let kind = line.next_ticket;
    line.join(Entrant { priority, deadline, kind, needs: [0, 0], memory_bytes: 0 }, item)
}

/// Those that may be served, in the order in which they are to be tried.
fn order<T>(line: &Line<u64, T>) -> Vec<Ticket> {
    if let Some((due, ..)) = line.first_due(Need::Room) {
        return vec![due];
    }
    let mut order = Vec::new();
    for priority in PRIORITIES.into_iter().rev() {
        let mut after = None;
        while let Some(ticket) = line.first(Need::Room, priority, after, u64::MAX) {
            order.push(ticket);
            after = Some(ticket);
        }
    }
    order
}

#[test]
fn priority_goes_before_arrival() {
    let mut line = Line::new();
    let a = join(&mut line, Priority::Normal, None, 'a');
    let b = join(&mut line, Priority::Low, None, 'b');
    let c = join(&mut line, Priority::High, None, 'c');
    let d = join(&mut line, Priority::Normal, None, 'd');
    assert_eq!(order(&line), [c, a, d, b]);
    assert_eq!(line.serve(c), Some('c'));
    assert_eq!(order(&line), [a, d, b]);
    assert_eq!(line.leave(a), Some('a'));
    assert_eq!(line.leave(a), None);
    assert_eq!(line.serve(a), None);
    assert_eq!(order(&line), [d, b]);
}

#[test]
fn a_waiter_is_passed_a_bounded_number_of_times() {
    let mut line = Line::new();
    let large = join(&mut line, Priority::Low, None, 0);
    for pass in 0..PASSES_MAX {
        if pass % 2 == 0 {
            assert!(line.may_be_passed());
            line.passed();
        } else {
            let small = join(&mut line, Priority::High, None, 1);
            assert_eq!(order(&line), [small, large]);
            line.serve(small);
        }
    }
    let late = join(&mut line, Priority::High, None, 2);
    assert!(!line.may_be_passed());
    assert_eq!(order(&line), [large]);
    line.serve(large);
    assert_eq!(order(&line), [late]);
    assert!(line.may_be_passed());
}

#[test]
fn a_waiter_that_leaves_leaves_no_trace() {
    let mut line = Line::new();
    let first = join(&mut line, Priority::Normal, None, 0);
    for _ in 0..PASSES_MAX {
        line.passed();
    }
    line.leave(first);
    assert!(line.may_be_passed() && line.is_empty() && order(&line).is_empty());
}

#[test]
fn deadlines_pass_when_they_are_told() {
    let now = Instant::now();
    let at = |ms| now + Duration::from_millis(ms);
    let mut line = Line::new();
    join(&mut line, Priority::High, Some(at(30)), 'a');
    join(&mut line, Priority::Low, None, 'b');
    join(&mut line, Priority::Normal, Some(at(10)), 'c');
    join(&mut line, Priority::Normal, Some(at(20)), 'd');
    assert_eq!(line.deadline(), Some(at(10)));
    assert!(line.expire(at(9)).is_empty());
    assert_eq!(line.expire(at(20)), ['c', 'd']);
    assert_eq!(line.expire(at(1000)), ['a']);
    assert_eq!(line.deadline(), None);
    assert_eq!(line.clear(), ['b']);
}

/// The line as its rules say it, waiter by waiter.
#[derive(Default)]
struct Model(Vec<Passed>);

struct Passed {
    ticket: Ticket,
    priority: Priority,
    deadline: Option<Instant>,
    kind: u64,
    needs: [u64; 2],
    passes: u32,
}

impl Passed {
    fn is_due(&self) -> bool {
        self.passes >= PASSES_MAX
    }
}

impl Model {
    fn pass_before(&mut self, end: usize) {
        self.0[..end].iter_mut().for_each(|waiter| waiter.passes += 1);
    }

    fn first(&self, need: Need, priority: Priority, after: Option<Ticket>, most: u64) -> Option<Ticket> {
        let is_first_of_kind = |index: usize| self.0[..index].iter().all(|other| other.kind != self.0[index].kind);
        let fits = |(index, waiter): &(usize, &Passed)| {
            waiter.priority == priority
                && after.is_none_or(|after| waiter.ticket > after)
                && waiter.needs[need as usize] <= most
                && is_first_of_kind(*index)
        };
        self.0.iter().enumerate().find(fits).map(|(_, waiter)| waiter.ticket)
    }

    fn check(&self, line: &Line<u64, ()>, rng: &mut ChaCha8Rng) {
        assert_eq!(line.len(), self.0.len());
        let due = || self.0.iter().filter(|waiter| waiter.is_due());
        assert_eq!(line.due_priority(), due().map(|waiter| waiter.priority).max());
        for need in [Need::Room, Need::Slab] {
            let first = due().next().map(|waiter| (waiter.ticket, waiter.priority, waiter.needs[need as usize]));
            assert_eq!(line.first_due(need), first);
            for priority in PRIORITIES {
                let after = (rng.random_range(0..2) == 0).then(|| Ticket(rng.random_range(0..600)));
                let most = rng.random_range(0..40);
                assert_eq!(line.first(need, priority, after, most), self.first(need, priority, after, most));
            }
        }
        assert_eq!(line.deadline(), self.0.iter().filter_map(|waiter| waiter.deadline).min());
    }
}

/// Random programs beside the model. No waiter is passed more often than the bound.
#[test]
fn the_line_is_as_its_rules_say() {
    let start = Instant::now();
    for seed in 0..200 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut line, mut model) = (Line::new(), Model::default());
        let (joins, has_reserve) = ([2, 4, 6][seed as usize % 3], seed % 2 == 0);
        for now in 0..500 {
            let now = start + Duration::from_millis(now);
            let index = |rng: &mut ChaCha8Rng, model: &Model| rng.random_range(0..model.0.len());
            match rng.random_range(0..12u32) {
                choice if choice < joins || model.0.is_empty() => {
                    // The kind says all.
                    let kind = rng.random_range(0..60);
                    let priority = PRIORITIES[kind as usize % 3];
                    let (deadline, needs) =
                        ((kind % 7 == 0).then(|| now + Duration::from_millis(40)), [kind / 3, kind % 11]);
                    let ticket = line.join(Entrant { priority, deadline, kind, needs, memory_bytes: 0 }, ());
                    model.0.push(Passed { ticket, priority, deadline, kind, needs, passes: 0 });
                }
                6..9 => {
                    // The first that is due, or any: one that the reserve is for may be served past those that are due.
                    let is_any = line.may_be_passed() || (has_reserve && rng.random_range(0..4) == 0);
                    let index = if is_any { index(&mut rng, &model) } else { 0 };
                    line.serve(model.0[index].ticket).unwrap();
                    model.pass_before(index);
                    model.0.remove(index);
                }
                9 => {
                    let index = index(&mut rng, &model);
                    line.leave(model.0[index].ticket).unwrap();
                    model.0.remove(index);
                }
                10 => {
                    let late = line.expire(now).len();
                    let before = model.0.len();
                    model.0.retain(|waiter| waiter.deadline.is_none_or(|deadline| deadline > now));
                    assert_eq!(late, before - model.0.len());
                }
                _ if line.may_be_passed() => {
                    line.passed();
                    let end = model.0.len();
                    model.pass_before(end);
                }
                _ => {}
            }
            model.check(&line, &mut rng);
            // Several may come to the bound at once, and each then waits for those before it, which came earlier.
            assert!(has_reserve || model.0.iter().all(|waiter| waiter.passes <= PASSES_MAX), "seed {seed}");
        }
    }
}
