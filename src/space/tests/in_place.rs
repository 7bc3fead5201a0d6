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
    if bytes > space.bytes() - run.offset() {
        return Err("end");
    }
    let mut wanted = bytes.div_ceil(page_bytes) as usize;
    if is_buddies {
        wanted = wanted.next_power_of_two();
        if !start.is_multiple_of(wanted) {
            return Err("buddies");
        }
    }
    if start + wanted > free_end {
        return Err(if start + wanted > free.len() { "end" } else { "pages" });
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
    let pages =
        |needed_bytes| Obstacle::Pages { needed_bytes, free_bytes: 5120, used_bytes: 20 * 1024, is_cut: Some(false) };
    assert_eq!(space.bytes_behind(run, 10 * 1024 + 6000), Err(pages(6000)));
    assert_eq!(space.bytes_behind(run, 10 * 1024 + 5000), Ok(5120));
    assert_eq!(space.bytes_behind(run, 100 * 1024), Err(pages(90 * 1024)));
    // More than the slab has, whatever is in use.
    let end = Obstacle::End { bytes: 90 * 1024 };
    assert_eq!(space.bytes_behind(run, 100 * 1024 + 1), Err(end));
    assert_eq!(space.bytes_behind(run, 10 * 1024 + (1 << 20)), Err(end));
}

/// Which pages are cut is known of as many cut runs as are looked at.
#[test]
fn cut_runs_behind_a_run_are_known_as_far_as_that_is_cheap() {
    let mut space = with_page(4000 * 1024, 64, 1024, Placement::Exact);
    let run = space.alloc_at(0, 1024).unwrap();
    let wall = space.alloc_at(1024, 1024).unwrap();
    let is_cut = |space: &Space| match space.bytes_behind(run, 2048) {
        Err(Obstacle::Pages { is_cut, .. }) => is_cut,
        other => panic!("{other:?}"),
    };
    // Two pieces a page.
    let mut pieces: Vec<_> = (0..2048).map(|_| space.alloc(512).unwrap()).collect();
    assert_eq!((space.cut_runs(), is_cut(&space)), (1024, Some(false)));
    while space.cut_runs() < 1025 {
        pieces.push(space.alloc(512).unwrap());
    }
    assert_eq!(is_cut(&space), None);
    pieces.into_iter().for_each(|piece| space.release(piece));
    space.gather();
    space.release(wall);
    // A run is cut there once all others are taken.
    let rest = space.alloc_at(2048, 3998 * 1024).unwrap();
    let piece = space.alloc(100).unwrap();
    assert_eq!((piece.offset(), is_cut(&space)), (1024, Some(true)));
    space.release(rest);
    space.check();
}
