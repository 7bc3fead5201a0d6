//! Sets of slots against ordered sets.

use std::collections::BTreeSet;

use rand::RngExt;

use super::super::slots::SlotSets;
use super::for_each_seed;

const SETS: u32 = 3;

/// A row of the summary is for 4,096 slots, a word at the top for 262,144.
#[test]
fn sets_give_their_members_lowest_first() {
    for_each_seed(30, |random| {
        let mut sets = SlotSets::new(SETS);
        let mut models = [const { BTreeSet::new() }; SETS as usize];
        let mut slots = 1;
        for _ in 0..2000 {
            let index = random.random_range(0..SETS);
            let model: &mut BTreeSet<u32> = &mut models[index as usize];
            match random.random_range(0..10) {
                // As the slots of cut runs: more of them, or fewer if the last ones are in no set.
                0 => {
                    let most = [64, 4096, 4097, 262_144, 262_145, 600_000][random.random_range(0..6)];
                    let used = models.iter().filter_map(|model| model.last()).max().map_or(0, |last| last + 1);
                    slots = random.random_range(1..=most).max(used);
                    sets.resize(slots);
                }
                1..6 => {
                    let slot = if random.random_range(0..4) == 0 { slots - 1 } else { random.random_range(0..slots) };
                    sets.insert(index, slot);
                    model.insert(slot);
                }
                6 => {
                    // The highest half leaves.
                    let leaving: Vec<u32> = model.iter().copied().skip(model.len() / 2).collect();
                    leaving.iter().for_each(|slot| sets.remove(index, *slot));
                    model.retain(|slot| !leaving.contains(slot));
                }
                _ => {
                    if let Some(slot) = model.pop_first() {
                        sets.remove(index, slot);
                    }
                }
            }
            for (index, model) in models.iter().enumerate() {
                assert_eq!(sets.first(index as u32), model.first().copied(), "the lowest of {slots} slots");
                assert_eq!(sets.inhabited() >> index & 1 == 1, !model.is_empty());
                assert!(sets.members(index as u32).take(50).eq(model.iter().copied().take(50)), "members");
            }
        }
    });
}
