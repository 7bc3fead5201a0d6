//! Runs that grow and shrink, beside a bool for each page.

use rand::RngExt;

use super::super::{Extent, Obstacle, Placement, Space};
use super::{for_each_seed, with_page};

/// What must come of a run that is to hold `bytes` bytes: the bytes that it takes, or the obstacle without its numbers.
fn foretell(space: &Space, run: Extent, bytes: u64, is_buddies: bool) -> Result<u64, &'static str> {
    let page_bytes = space.page_bytes();
    let mut free = vec![false; space.bytes().div_ceil(page_bytes) as usize];
    for range in space.free_runs() {
        free[(range.start / page_bytes) as usize..range.end.div_ceil(page_bytes) as usize].fill(true);
    }
    let start = (run.offset() / page_bytes) as usize;
    let first = start + run.bytes().div_ceil(page_bytes) as usize;
    let free_end = (first..free.len()).find(|page| !free[*page]).unwrap_or(free.len());
    let in_the_way = if free_end == free.len() { "end" } else { "pages" };
    if bytes > space.bytes() - run.offset() {
        return Err(in_the_way);
    }
    let mut wanted = bytes.div_ceil(page_bytes) as usize;
    if is_buddies {
        wanted = wanted.next_power_of_two();
        if !start.is_multiple_of(wanted) {
            return Err("buddies");
        }
    }
    if start + wanted > free_end {
        return Err(in_the_way);
    }
    let end = ((start + wanted) as u64 * page_bytes).min(space.bytes());
    Ok(end - run.offset() - run.bytes())
}

#[test]
fn runs_grow_and_shrink_as_a_plain_map_has_it() {
    for_each_seed(60, |rng| {
        let is_buddies = rng.random_bool(0.3);
        let placement = if is_buddies { Placement::PowerOfTwo } else { Placement::Exact };
        // Several words, leaves and a partial page.
        let pages = [3, 64, 130, 1000, 5000][rng.random_range(0..5)];
        let bytes = pages * 1024 + if is_buddies { 0 } else { rng.random_range(0..2) * 300 };
        let mut space = with_page(bytes, 64, 1024, placement);
        let mut held: Vec<Extent> = Vec::new();
        for _ in 0..400 {
            let index = rng.random_range(0..held.len().max(1));
            match rng.random_range(0..4) {
                0 => held.extend(space.alloc(rng.random_range(1..=1024 * pages / 4))),
                1 if index < held.len() => space.release(held.swap_remove(index)),
                2 if index < held.len() => {
                    let wanted = held[index].bytes() + rng.random_range(1..=4096);
                    grow(&mut space, &mut held[index], wanted, is_buddies);
                }
                3 if index < held.len() => {
                    let wanted = rng.random_range(1..=held[index].bytes());
                    shrink(&mut space, &mut held[index], wanted, is_buddies);
                }
                _ => {}
            }
            assert_eq!(space.used_bytes(), held.iter().map(|extent| extent.bytes()).sum::<u64>());
            space.check();
        }
        held.into_iter().for_each(|extent| space.release(extent));
        assert_eq!(space.largest_free_run_bytes(), bytes);
    });
}

fn grow(space: &mut Space, extent: &mut Extent, wanted: u64, is_buddies: bool) {
    let result = space.bytes_behind(*extent, wanted);
    if extent.is_piece() {
        return assert_eq!(result, Err(Obstacle::Piece));
    }
    let named = result.map_err(|obstacle| match obstacle {
        Obstacle::Piece => "piece",
        Obstacle::End { .. } => "end",
        Obstacle::Pages { .. } => "pages",
        Obstacle::Buddies { .. } => "buddies",
    });
    assert_eq!(named, foretell(space, *extent, wanted, is_buddies), "{extent:?} to {wanted}");
    if let Ok(more) = result {
        let behind = space.take_behind(*extent, more).unwrap();
        *extent = extent.joined(behind);
        assert!(extent.bytes() >= wanted && behind.bytes() == more);
    }
}

fn shrink(space: &mut Space, extent: &mut Extent, wanted: u64, is_buddies: bool) {
    let Some((kept, behind)) = space.shortened(*extent, wanted) else {
        return assert!(extent.is_piece() || is_buddies || extent.bytes() < wanted + 1024);
    };
    assert!(kept.bytes() >= wanted && kept.bytes() + behind.bytes() == extent.bytes());
    assert!(is_buddies || kept.bytes() < wanted + 1024);
    assert_eq!(behind.offset(), kept.offset() + kept.bytes());
    space.release(behind);
    *extent = kept;
}

#[test]
fn pages_in_use_behind_a_run_are_measured() {
    let mut space = with_page(100 * 1024, 64, 1024, Placement::Exact);
    let run = space.alloc_at(0, 10 * 1024).unwrap();
    let hole = space.alloc_at(10 * 1024, 5 * 1024).unwrap();
    space.alloc_at(15 * 1024, 20 * 1024).unwrap();
    space.release(hole);
    let obstacle = Obstacle::Pages { needed_bytes: 6000, free_bytes: 5120, used_bytes: 20 * 1024, is_cut: false };
    assert_eq!(space.bytes_behind(run, 10 * 1024 + 6000), Err(obstacle));
    assert_eq!(space.bytes_behind(run, 10 * 1024 + 5000), Ok(5120));
    let far = Obstacle::Pages { needed_bytes: 1 << 20, free_bytes: 5120, used_bytes: 20 * 1024, is_cut: false };
    assert_eq!(space.bytes_behind(run, 10 * 1024 + (1 << 20)), Err(far));
}
