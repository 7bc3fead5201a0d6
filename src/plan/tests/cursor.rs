//! Schedules and cursors alone: random plans, and programs that keep to none of them.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::plan::{self, Cursor, Found, Lifetime, Options, Schedule};
use crate::sync::Arc;

const ALIGN: u64 = 64;

/// After how many allocations of the step each block is freed, as it was planned.
fn random_schedule(rng: &mut ChaCha8Rng, entries: u64) -> (Schedule, Vec<u64>) {
    let sizes: Vec<u64> = (0..rng.random_range(1..8)).map(|_| rng.random_range(1..2000)).collect();
    let longest = rng.random_range(1..40);
    let lifetimes: Vec<Lifetime> = (0..entries)
        .map(|index| {
            let lives = if rng.random_bool(0.95) || index == 0 { rng.random_range(1..=longest) } else { 0 };
            Lifetime::new(index, index + lives, sizes[rng.random_range(0..sizes.len())])
        })
        .collect();
    let plan = plan::solve(&lifetimes, &Options::new().align(ALIGN).steps(2_000)).unwrap();
    let schedule = Schedule::new(&lifetimes, &plan, ALIGN).unwrap();
    (schedule, lifetimes.iter().map(|lifetime| lifetime.upper).collect())
}

fn meet(one: (u64, u64), other: (u64, u64)) -> bool {
    one.0 < other.1 && other.0 < one.1
}

/// Whoever had a byte of the place, and nobody between had that byte.
fn predecessors(schedule: &Schedule, index: usize) -> Vec<u32> {
    let range = |index: usize| schedule.entries()[index].range();
    let mut left = vec![range(index)];
    let mut found = Vec::new();
    for before in (0..index).rev() {
        let taken = range(before);
        let parts: Vec<_> = left.iter().filter(|part| meet(**part, taken)).copied().collect();
        if parts.is_empty() || taken.0 == taken.1 {
            continue;
        }
        found.push(before as u32);
        left.retain(|part| !meet(*part, taken));
        for (start, end) in parts {
            left.extend([(start, taken.0.min(end)), (taken.1.max(start), end)].iter().filter(|part| part.0 < part.1));
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn predecessors_are_those_who_had_the_bytes_last() {
    let (mut entries, mut count) = (0, 0);
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let len = rng.random_range(1..200);
        let (schedule, _) = random_schedule(&mut rng, len);
        for index in (0..schedule.len()).filter(|index| schedule.entries()[*index].is_placed()) {
            let mut listed = schedule.predecessors(index).to_vec();
            listed.sort_unstable();
            assert_eq!(listed, predecessors(&schedule, index), "seed {seed}, entry {index}");
            (entries, count) = (entries + 1, count + listed.len());
        }
    }
    assert!(count < 3 * entries, "{count} predecessors of {entries} entries");
    assert!(count > entries, "{count} predecessors of {entries} entries: nothing is stacked");
}

/// A program that asks for what the schedules have, and for other things, in any order, and keeps blocks as long as it
/// likes.
#[test]
fn what_is_out_never_overlaps() {
    let (mut places, mut blocked, mut moved) = (0, 0, 0);
    for seed in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let schedules: Vec<(Arc<Schedule>, Vec<u64>)> = (0..3)
            .map(|_| {
                let len = rng.random_range(1..80);
                let (schedule, freed_at) = random_schedule(&mut rng, len);
                (Arc::new(schedule), freed_at)
            })
            .collect();
        let mut current = 0;
        let mut cursor = Cursor::new(Arc::clone(&schedules[0].0));
        // What is out: the entry it went out as, by where it begins; and where it ends.
        let mut out: HashMap<u64, (u32, u64)> = HashMap::new();
        let faithful = [0.5, 0.9, 0.99][rng.random_range(0..3)];
        for _ in 0..1000 {
            let (schedule, freed_at) = &schedules[current];
            let choice = rng.random_range(0..100);
            if choice < 50 {
                let next = cursor.allocations();
                let index = if rng.random_bool(faithful) { next } else { rng.random_range(0..schedule.len()) };
                let bytes = schedule.entries()[index.min(schedule.len() - 1)].bytes;
                let found = cursor.take_next(bytes).unwrap_or_else(|| {
                    moved += 1;
                    cursor.search(bytes)
                });
                match found {
                    Found::Place(index) => {
                        let (offset, held_bytes) = cursor.place(index);
                        assert!(held_bytes >= bytes && offset + held_bytes <= schedule.height_bytes());
                        let range = (offset, offset + held_bytes);
                        let is_free = out.iter().all(|(start, (_, end))| !meet((*start, *end), range));
                        assert!(is_free, "seed {seed}: {range:?} is in use");
                        out.insert(offset, (index, range.1));
                        places += 1;
                    }
                    Found::Blocked => blocked += 1,
                    Found::Kept | Found::Different => {}
                }
            } else if choice < 96 {
                // By the plan, or one that it likes.
                let next = cursor.allocations() as u64;
                let is_over = |index: u32| freed_at[index as usize] <= next;
                let planned = out.iter().find(|(_, (index, _))| (*index as usize) < schedule.len() && is_over(*index));
                let offset = match planned.map(|(offset, _)| *offset).filter(|_| rng.random_bool(faithful)) {
                    Some(offset) => Some(offset),
                    None if rng.random_bool(0.1) => out.keys().min().copied(),
                    None => None,
                };
                if let Some(offset) = offset {
                    let (index, _) = out.remove(&offset).unwrap();
                    assert!(cursor.put_back(index, offset));
                }
            } else {
                current = rng.random_range(0..schedules.len());
                cursor.begin(&schedules[current].0);
            }
            assert_eq!(cursor.out(), out.len(), "seed {seed}");
            cursor.check();
        }
    }
    assert!(places > 10_000 && blocked > 1000 && moved > 1000, "{places} places, {blocked} blocked, {moved} moved");
}
