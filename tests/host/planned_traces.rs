//! Planned steps on the recorded training runs: the whole run planned ahead, and a step that repeats.

use crate::support::say;
use crate::support::traces::{NAMES, bundled, geometric_mean};
use tensorpool::plan::{self, Options};
use tensorpool::trace::{Event, Trace, TraceBuilder, replay};
use tensorpool::{Block, Config, Pool, Request, SlabPolicy, Virtual};

/// The first of the names.
const ALIKE: usize = 10;

fn open(budget_bytes: u64) -> tensorpool::Result<Pool<Virtual>> {
    Pool::with_backend(Virtual::default(), &Config::new(budget_bytes).slabs(SlabPolicy::Single))
}

#[test]
fn a_run_that_is_known_ahead_needs_what_it_has_alive() {
    let ratios: Vec<f64> = NAMES
        .iter()
        .map(|name| {
            let trace = bundled(name).without_steps();
            let lifetimes = trace.lifetimes();
            let plan = plan::solve(&lifetimes, &Options::new().align(256)).unwrap();
            let budget_bytes = plan.height + (3 << 10);
            let pool = open(budget_bytes).unwrap().follow_plan(&lifetimes, &plan).unwrap();
            let done = replay(&trace, pool.as_ref()).unwrap();
            assert_eq!(done.failures, 0, "{name}: in {budget_bytes}, {:?}", done.first_failure);
            budget_bytes as f64 / trace.live_peak_bytes() as f64
        })
        .collect();
    let mean = geometric_mean(&ratios);
    say(&format!("planned ahead, a budget that works by peak live: {mean:.4}, {ratios:.4?}"));
    // 1.0003 (2026-11). What the search finds is in README, and held there.
    assert!(mean < 1.001, "{mean}: {ratios:?}");
}

/// The last but one of a run's steps, again and again: what a step frees of the one before it, it frees of the one before.
fn repeated(trace: &Trace, times: u64) -> Trace {
    let marks: Vec<usize> =
        (0..).zip(trace.events()).filter(|(_, event)| matches!(event, Event::Step { .. })).map(|(at, _)| at).collect();
    let &[.., before, start, end] = &marks[..] else { panic!("{}: {} steps", trace.name(), marks.len()) };
    let events = trace.events();
    let ids = |part: &[Event]| -> Vec<u32> {
        part.iter().filter_map(|event| if let Event::Alloc { id, .. } = event { Some(*id) } else { None }).collect()
    };
    let (ids_before, ids_now) = (ids(&events[before..start]), ids(&events[start..end]));
    assert_eq!(ids_before.len(), ids_now.len(), "{}: its steps differ", trace.name());
    let mut builder = TraceBuilder::new(trace.name());
    // Everything up to the step, as it was.
    let mut numbers = vec![None; trace.allocations() as usize];
    for event in &events[..start] {
        match *event {
            Event::Alloc { id, bytes, .. } => numbers[id as usize] = Some(builder.alloc(bytes, "").unwrap()),
            Event::Free { id } => builder.free(numbers[id as usize].take().unwrap()).unwrap(),
            Event::Step { number } => builder.step(number),
            _ => {}
        }
    }
    let mut last: Vec<Option<u32>> = ids_before.iter().map(|id| numbers[*id as usize]).collect();
    for time in 0..times {
        let mut now = vec![None; ids_now.len()];
        for event in &events[start..end] {
            match *event {
                Event::Alloc { id, bytes, .. } => {
                    now[ids_now.binary_search(&id).unwrap()] = Some(builder.alloc(bytes, "").unwrap());
                }
                Event::Free { id } => {
                    let found = match (ids_now.binary_search(&id), ids_before.binary_search(&id)) {
                        (Ok(index), _) => now[index].take(),
                        (_, Ok(index)) => last[index].take(),
                        // From before all that: once.
                        _ => numbers[id as usize].take(),
                    };
                    found.into_iter().for_each(|number| builder.free(number).unwrap());
                }
                Event::Step { .. } => builder.step(1000 + time),
                _ => {}
            }
        }
        last = now;
    }
    builder.finish()
}

/// Replays with steps that plan themselves; the most that was taken of the slab from this step on, free pages excluded, and
/// the most that was alive.
fn peaks(trace: &Trace, from_step: u64) -> (u64, u64) {
    // Large pools have large pages, whose rounding is no matter here; small ones need more room until a plan is there.
    let live_bytes = trace.live_peak_bytes();
    let pool = open(if live_bytes > 100 << 20 { live_bytes / 8 * 9 } else { 2 * live_bytes }).unwrap();
    let planning = pool.auto_plan().unwrap();
    let mut blocks: Vec<Option<Block<Virtual>>> = Vec::new();
    let (mut steps, mut live_bytes, mut peaks) = (0, 0, (0, 0));
    for event in trace.events() {
        match *event {
            Event::Alloc { bytes, .. } => {
                blocks.push(Some(pool.alloc(Request::bytes(bytes)).unwrap()));
                live_bytes += bytes;
                if steps >= from_step {
                    // What an arena has in it and nobody uses is taken too.
                    let stats = pool.stats();
                    peaks = (peaks.0.max(stats.used_bytes + stats.cached_bytes), peaks.1.max(live_bytes));
                }
            }
            Event::Free { id } => live_bytes -= blocks[id as usize].take().unwrap().bytes(),
            Event::Step { .. } => {
                pool.mark_step();
                steps += 1;
            }
            _ => {}
        }
    }
    let report = planning.report();
    assert_eq!((report.allocations_unplanned, report.allocations_blocked), (0, 0), "{}: {report}", trace.name());
    peaks
}

/// Allocations that were planned of those of the ten runs, each with its last step repeated, in a budget and slabs.
fn planned(slabs: SlabPolicy, budget: impl Fn(u64) -> u64) -> (u64, u64) {
    let count = |name: &&str| {
        let trace = repeated(&bundled(name), 4);
        let live_bytes = trace.live_peak_bytes();
        let slabs = match slabs {
            // 64 of them have room for what is alive.
            SlabPolicy::Fixed(_) => SlabPolicy::Fixed((live_bytes / 64).max(64 << 10).next_power_of_two()),
            slabs => slabs,
        };
        let pool = Pool::with_backend(Virtual::default(), &Config::new(budget(live_bytes)).slabs(slabs)).unwrap();
        let planning = pool.auto_plan().unwrap();
        replay(&trace, &pool).unwrap();
        (planning.report().allocations_planned, trace.allocations())
    };
    NAMES[..ALIKE].iter().map(count).fold((0, 0), |sum, (planned, all)| (sum.0 + planned, sum.1 + all))
}

#[test]
fn plans_are_followed_where_steps_are_alike() {
    let generous = |live_bytes: u64| if live_bytes > 100 << 20 { live_bytes / 8 * 9 } else { 2 * live_bytes };
    let rows = [
        ("one slab of 9/8 or 2 of the peak", planned(SlabPolicy::Single, generous)),
        ("growing to 1.5 of the peak", planned(SlabPolicy::Growing, |live_bytes| live_bytes / 2 * 3)),
        ("growing to twice the peak", planned(SlabPolicy::Growing, |live_bytes| 2 * live_bytes)),
        ("slabs of 1/64 of the peak", planned(SlabPolicy::Fixed(0), |live_bytes| 1000 * live_bytes)),
    ];
    for (what, (planned, all)) in rows {
        say(&format!("{what}: {planned} of {all} allocations planned"));
    }
    // 49,492 to 49,741 (2026-11), the last of which are all that can be: two steps are seen before a plan. Nine tenths of it.
    for (what, (planned, _)) in rows {
        assert!(planned >= 44_767, "{what}: {planned} planned");
    }
}

#[test]
fn a_step_that_repeats_needs_what_it_has_alive() {
    let ratios: Vec<f64> = NAMES[..ALIKE]
        .iter()
        .map(|name| {
            let trace = repeated(&bundled(name), 4);
            let steps = trace.events().iter().filter(|event| matches!(event, Event::Step { .. })).count() as u64;
            // The second but last is planned as a whole.
            let (taken_bytes, live_bytes) = peaks(&trace, steps - 1);
            say(&format!("{name}: {taken_bytes} taken for {live_bytes} live"));
            taken_bytes as f64 / live_bytes as f64
        })
        .collect();
    let mean = geometric_mean(&ratios);
    say(&format!("steps that plan themselves, peak taken by peak live: {mean:.4}, {ratios:.4?}"));
    // 1.009 (2026-11). In one run, 1.082, gradients go on over every cut: they are freed one by one as new ones come.
    assert!(mean < 1.015, "{mean}: {ratios:?}");
}
