//! Compaction: blocks move, with their contents, and nothing else changes.

use std::sync::atomic::Ordering;

use crate::support::watched::{Watched, check, open};
use crate::support::{LONG, rounds, say, until};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::trace::{Event, Trace};
use tensorpool::{
    Block, Compaction, Config, ErrorKind, Hold, Holder, Movable, Placement, Pool, Request, SlabPolicy, Stats, Virtual,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A block, and what must be in it.
struct Shadowed {
    block: Block<Watched>,
    bytes: Vec<u8>,
}

impl Shadowed {
    fn new(pool: &Pool<Watched>, bytes: u64, first: u8) -> Self {
        Self::filled(pool.alloc(Request::bytes(bytes)).unwrap(), first)
    }

    /// No two neighbours of 251 bytes are alike.
    fn filled(mut block: Block<Watched>, first: u8) -> Self {
        let bytes: Vec<u8> =
            (0..block.bytes()).map(|at| (at % 251) as u8 ^ (at / 251) as u8 ^ first.wrapping_mul(37)).collect();
        block.upload(0, &bytes).unwrap();
        Self { block, bytes }
    }

    fn check(&self) {
        assert!(self.block.as_bytes().unwrap() == self.bytes, "{:?} has other contents", self.block);
    }
}

fn compact(pool: &Pool<Watched>, blocks: &mut [Shadowed]) -> tensorpool::Result<Compaction> {
    pool.compact(blocks.iter_mut().map(|shadowed| &mut shadowed.block))
}

fn one_slab(bytes: u64) -> (Watched, Pool<Watched>) {
    let backend = Watched::new();
    let pool = open(&backend, Config::new(bytes).slabs(SlabPolicy::Single));
    (backend, pool)
}

#[test]
fn a_fragmented_pool_serves_what_it_refused() {
    let (_, pool) = one_slab(MIB);
    let all: Vec<_> = (0..16).map(|number| Shadowed::new(&pool, 64 * KIB, number)).collect();
    let mut kept: Vec<_> = all.into_iter().step_by(2).collect();
    let before = pool.stats();
    assert!(pool.alloc(Request::bytes(128 * KIB)).unwrap_err().is_fragmented());
    let done = compact(&pool, &mut kept).unwrap();
    // The first is where it should be.
    assert_eq!((done.blocks_moved, done.bytes_moved, done.largest_free_run_bytes), (7, 7 * 64 * KIB, 512 * KIB));
    let after = pool.stats();
    assert_eq!((after.used_bytes, after.live_bytes, after.blocks), (before.used_bytes, before.live_bytes, 8));
    assert_eq!((after.used_peak_bytes, after.live_peak_bytes), (before.used_peak_bytes, before.live_peak_bytes));
    assert_eq!((after.allocations, after.slabs), (before.allocations, 1));
    let large = Shadowed::new(&pool, 512 * KIB, 99);
    kept.iter().chain([&large]).for_each(Shadowed::check);
    let offsets: Vec<u64> = kept.iter().map(|shadowed| shadowed.block.offset() / (64 * KIB)).collect();
    assert_eq!(offsets, (0..8).collect::<Vec<_>>());
    // Nothing is left to do.
    assert_eq!(compact(&pool, &mut kept).unwrap().to_string(), "0 blocks of 0 B moved, the largest free run is 0 B");
    drop((kept, large));
    check(&pool, MIB, 0);
    assert_eq!(pool.stats().largest_free_run_bytes, MIB);
}

#[test]
fn a_large_block_slides_into_a_hole_of_a_sixteenth() {
    for (hole_bytes, pieces) in [(64 * KIB, 9), (33 * KIB, 16), (32 * KIB, 0), (KIB, 0), (512 * KIB, 2), (520 * KIB, 1)]
    {
        let (backend, pool) = one_slab(2 * MIB);
        let hole = pool.alloc(Request::bytes(hole_bytes)).unwrap();
        // Not of whole pages.
        let mut block = [Shadowed::new(&pool, 513 * KIB - 5, 7)];
        // All the rest.
        let wall = pool.alloc(Request::bytes(2 * MIB - hole_bytes - 513 * KIB)).unwrap();
        drop(hole);
        let done = compact(&pool, &mut block).unwrap();
        block[0].check();
        assert_eq!(backend.seen.copies.load(Ordering::Relaxed), pieces, "{hole_bytes}");
        let is_moved = pieces > 0;
        assert_eq!(
            (done.blocks_moved, block[0].block.offset()),
            (is_moved.into(), if is_moved { 0 } else { hole_bytes })
        );
        // What it has left behind is free, and in one piece if it has slid.
        assert_eq!(pool.stats().used_bytes, 2 * MIB - hole_bytes);
        if pieces > 1 {
            let next = Shadowed::new(&pool, hole_bytes, 8);
            assert_eq!(next.block.offset(), 513 * KIB);
            block[0].check();
        }
        drop((block, wall));
        check(&pool, 2 * MIB, 0);
    }
}

/// The block that is being moved when a copy fails is where it was, as it was.
#[test]
fn a_copy_that_fails_is_undone() {
    for failing in 1..=9 {
        let (backend, pool) = one_slab(2 * MIB);
        let hole = pool.alloc(Request::bytes(64 * KIB)).unwrap();
        let mut blocks = [Shadowed::new(&pool, 512 * KIB + 100, 1), Shadowed::new(&pool, 64 * KIB, 2)];
        drop(hole);
        backend.fail_copies(failing..=failing);
        // The first slides in nine pieces.
        let error = compact(&pool, &mut blocks).unwrap_err();
        assert_eq!((error.kind(), blocks[0].block.offset()), (ErrorKind::Device, 64 * KIB), "{error}");
        blocks.iter().for_each(Shadowed::check);
        check(&pool, 2 * MIB, 576 * KIB + 100);
        let done = compact(&pool, &mut blocks).unwrap();
        assert_eq!((done.blocks_moved, blocks[0].block.offset()), (2, 0));
        blocks.iter().for_each(Shadowed::check);
        drop(blocks);
        check(&pool, 2 * MIB, 0);
    }
}

/// As on a device that is lost: the pool's books balance all the same, and the block can be written anew.
#[test]
fn contents_that_can_neither_move_on_nor_back_are_lost() {
    let (backend, pool) = one_slab(2 * MIB);
    let hole = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    let mut blocks = [Shadowed::new(&pool, 512 * KIB, 1)];
    drop(hole);
    backend.fail_copies(4..=u64::MAX);
    let error = compact(&pool, &mut blocks).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device);
    assert!(error.to_string().contains("the contents of a block of 524,288 bytes (512 KiB) are lost"), "{error}");
    assert_eq!((blocks[0].block.offset(), blocks[0].block.bytes()), (64 * KIB, 512 * KIB));
    backend.fail_copies(0..=0);
    let [block] = blocks;
    let mut blocks = [Shadowed::filled(block.block, 3)];
    compact(&pool, &mut blocks).unwrap();
    blocks[0].check();
    drop(blocks);
    check(&pool, 2 * MIB, 0);
}

#[test]
fn a_block_of_another_pool_is_refused_before_anything_moves() {
    let ((backend, pool), (_, other)) = (one_slab(MIB), one_slab(MIB));
    let hole = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    let mut blocks = [Shadowed::new(&pool, 64 * KIB, 1), Shadowed::new(&other, 64 * KIB, 2)];
    drop(hole);
    assert_eq!(compact(&pool, &mut blocks).unwrap_err().kind(), ErrorKind::Foreign);
    assert_eq!((blocks[0].block.offset(), backend.seen.copies.load(Ordering::Relaxed)), (64 * KIB, 0));
}

#[test]
fn tensors_of_several_types_and_blocks_move_together() {
    let (_, pool) = one_slab(MIB);
    let holes: Vec<_> = (0..4).map(|_| pool.alloc(Request::bytes(16 * KIB)).unwrap()).collect();
    let floats: Vec<f32> = (0..5000).map(|element| element as f32).collect();
    let words: Vec<u16> = (0..9001).collect();
    let mut a = pool.uninit::<f32>([50, 100]).unwrap();
    let mut b = pool.labelled("words").uninit::<u16>(words.len()).unwrap();
    let mut small = pool.zeros::<u8>([3]).unwrap();
    let mut nothing = pool.zeros::<u8>([0]).unwrap();
    let mut c = Shadowed::new(&pool, 20_000, 3);
    a.upload(&floats).unwrap();
    b.upload(&words).unwrap();
    drop(holes);
    let lent: [&mut dyn Movable<_>; 5] = [&mut a, &mut b, &mut small, &mut nothing, &mut c.block];
    let done = pool.compact(lent).unwrap();
    assert_eq!((done.blocks_moved, done.bytes_moved), (4, 20_000 + 18_002 + 20_000 + 3));
    let mut offsets = [a.block().offset(), b.block().offset(), c.block.offset()];
    offsets.sort_unstable();
    assert!(offsets[0] == 0 && offsets[2] <= 40 * KIB, "{offsets:?}");
    assert_eq!((a.as_slice().unwrap(), b.as_slice().unwrap()), (&floats[..], &words[..]));
    assert_eq!((a.shape(), b.block().label().text()), (&[50, 100][..], "words"));
    c.check();
    let mut weights = vec![a];
    assert_eq!(pool.compact(&mut weights).unwrap().blocks_moved, 0);
}

#[test]
fn a_block_with_a_hold_stays() {
    let (_, pool) = one_slab(MIB);
    let hole = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    let mut blocks = [Shadowed::new(&pool, 64 * KIB, 1)];
    drop(hole);
    let (one, other) = (blocks[0].block.hold(), blocks[0].block.hold());
    drop(one);
    assert_eq!(compact(&pool, &mut blocks).unwrap().blocks_moved, 0);
    drop(other);
    assert_eq!(compact(&pool, &mut blocks).unwrap().blocks_moved, 1);
    blocks[0].check();
}

/// The last page of such a slab has less bytes than others.
#[test]
fn a_block_in_a_partial_last_page_stays() {
    let (_, pool) = one_slab(MIB + 300);
    let below = pool.alloc(Request::bytes(512 * KIB)).unwrap();
    let mut blocks = [Shadowed::new(&pool, 512 * KIB + 300, 1)];
    drop(below);
    assert_eq!(blocks[0].block.bytes_held(), 512 * KIB + 300);
    assert_eq!(compact(&pool, &mut blocks).unwrap().blocks_moved, 0);
    blocks[0].check();
    check(&pool, MIB + 300, 512 * KIB + 300);
}

/// What a record says of a block that has moved, and of the next in its place.
#[test]
fn a_record_knows_blocks_that_have_moved() {
    let (_, pool) = one_slab(MIB);
    let path = std::env::temp_dir().join(format!("tensorpool-compact-{}.trace", std::process::id()));
    let recording = pool.record_to(std::fs::File::create(&path).unwrap()).unwrap();
    let a = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    let mut blocks = [Shadowed::new(&pool, 64 * KIB, 1)];
    drop(a);
    assert_eq!(compact(&pool, &mut blocks).unwrap().blocks_moved, 1);
    let c = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    drop(blocks);
    drop(c);
    recording.finish().unwrap();
    let trace = Trace::read(&path).unwrap().remove(0);
    std::fs::remove_file(&path).unwrap();
    let frees: Vec<u32> = trace
        .events()
        .iter()
        .filter_map(|event| if let Event::Free { id } = event { Some(*id) } else { None })
        .collect();
    assert_eq!(frees, [0, 1, 2]);
}

/// A step that is written down while its blocks move is served like any other.
#[test]
fn a_step_in_which_blocks_move_can_be_planned() {
    let (_, pool) = one_slab(2 * MIB);
    let planning = pool.auto_plan().unwrap();
    for step in 0..6 {
        let a = pool.alloc(Request::bytes(100 * KIB)).unwrap();
        let mut blocks = vec![Shadowed::new(&pool, 200 * KIB, step), Shadowed::new(&pool, 50 * KIB, step)];
        drop(a);
        let done = compact(&pool, &mut blocks).unwrap();
        // In the arena nothing moves.
        assert!(done.blocks_moved == 2 || planning.report().allocations_planned > 0, "{done}");
        let more = Shadowed::new(&pool, 300 * KIB, step);
        blocks.iter().chain([&more]).for_each(Shadowed::check);
        drop((blocks, more));
        pool.mark_step();
    }
    let report = planning.report();
    assert_eq!((report.allocations_unplanned, report.allocations_blocked, report.allocations_skipped), (0, 0, 0));
    assert!(report.allocations_planned >= 3 * 4, "{report}");
    // All of it was in the plan: nothing is thought to outlive its step.
    assert!(report.height_bytes < 600 * KIB && report.height_bytes >= 550 * KIB, "{report}");
}

fn config(rng: &mut ChaCha8Rng) -> (Config, bool) {
    let slabs = match rng.random_range(0..6) {
        0 => SlabPolicy::Growing,
        1 => SlabPolicy::Fixed(100 * KIB),
        2 => SlabPolicy::PerBlock,
        _ => SlabPolicy::Single,
    };
    let placement = if rng.random_range(0..4) == 0 { Placement::PowerOfTwo } else { Placement::Exact };
    let zeroes = rng.random_bool(0.3);
    let config = Config::new(rng.random_range(100 * KIB..800 * KIB)).slabs(slabs).placement(placement);
    (config.zero_on_free(zeroes).free_lists(rng.random_bool(0.5)), zeroes)
}

type Seen = (Stats, Vec<Holder>);

/// Compares what the pool said before a compaction, and after it, with each other and with the blocks.
fn check_after(before: &Seen, after: &Seen, done: Option<Compaction>, held: &[Shadowed], context: &str) {
    let ((before, holders_before), (after, holders)) = (before, after);
    let same = |stats: &Stats| (stats.live_bytes, stats.blocks, stats.allocations, stats.live_peak_bytes);
    assert_eq!(same(before), same(after), "{context}");
    // Slabs may have pages of different sizes, so that a block that goes from one to another holds more or less.
    let used_bytes: u64 = held.iter().map(|shadowed| shadowed.block.bytes_held()).sum();
    assert_eq!(after.used_bytes, used_bytes, "{context}");
    assert!(after.used_peak_bytes >= before.used_peak_bytes.max(used_bytes), "{context}");
    let mut of_labels: Vec<(&str, u64, u64)> = Vec::new();
    for label in ["", "a", "b"] {
        let of_label = held.iter().map(|shadowed| &shadowed.block).filter(|block| block.label() == label);
        let bytes: Vec<u64> = of_label.map(Block::bytes_held).collect();
        if !bytes.is_empty() {
            of_labels.push((label, bytes.iter().sum(), bytes.len() as u64));
        }
    }
    let mut told: Vec<_> = holders.iter().map(|holder| (&*holder.label, holder.bytes, holder.blocks)).collect();
    told.sort_unstable();
    assert_eq!(told, of_labels, "{context}");
    // Slabs in use never have more bytes than before. A new one stands beside a larger one that it has emptied.
    let empty_bytes = done.map_or(after.reserved_bytes, |done| done.empty_bytes);
    assert!(after.reserved_bytes - empty_bytes <= before.reserved_bytes, "{context}");
    assert!(after.reserved_peak_bytes <= after.budget_bytes, "{context}");
    if before.slabs <= 1 && after.slabs <= 1 {
        let all = |stats: &Stats| {
            let peaks = (stats.used_peak_bytes, stats.reserved_peak_bytes);
            (stats.used_bytes, stats.reserved_bytes, peaks)
        };
        assert_eq!((all(before), holders_before), (all(after), holders), "{context}");
    }
}

#[test]
fn random_programs() {
    let (mut moved, mut failed) = (0, 0);
    for seed in 0..rounds(150) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (config, zeroes) = config(&mut rng);
        let backend = Watched::new();
        let pool = open(&backend, config);
        let planning = rng.random_bool(0.3).then(|| pool.auto_plan().unwrap());
        let mut held: Vec<Shadowed> = Vec::new();
        let mut holds: Vec<Hold> = Vec::new();
        let bytes_max = pool.budget_bytes() as f64 / 4.0;
        for event in 0..300 {
            match rng.random_range(0..20) {
                0..=9 => {
                    let bytes = bytes_max.powf(rng.random_range(0.4..1.0)) as u64;
                    let label = ["", "a", "b"][rng.random_range(0..3)];
                    if let Ok(block) = pool.alloc(Request::bytes(bytes).label(label)) {
                        if zeroes {
                            assert!(block.as_bytes().unwrap().iter().all(|byte| *byte == 0), "seed {seed}: {block:?}");
                        }
                        held.push(Shadowed::filled(block, event as u8));
                    }
                }
                10 if !held.is_empty() => holds.push(held[rng.random_range(0..held.len())].block.hold()),
                11 => holds.clear(),
                12 => pool.mark_step(),
                13..=14 => {
                    let before = (pool.stats(), pool.holders());
                    if rng.random_bool(0.2) {
                        let call = rng.random_range(1..20);
                        backend.fail_copies(call..=call);
                    }
                    let lent = held.iter_mut().filter(|_| rng.random_bool(0.8)).map(|shadowed| &mut shadowed.block);
                    let result = pool.compact(lent);
                    match &result {
                        Ok(done) => {
                            moved += done.blocks_moved;
                            assert_eq!(done.largest_free_run_bytes, pool.stats().largest_free_run_bytes);
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Device, "seed {seed}: {error}");
                            failed += 1;
                        }
                    }
                    backend.fail_copies(0..=0);
                    let after = (pool.stats(), pool.holders());
                    check_after(&before, &after, result.ok(), &held, &format!("seed {seed}"));
                    held.iter().for_each(Shadowed::check);
                }
                _ if !held.is_empty() => drop(held.swap_remove(rng.random_range(0..held.len()))),
                _ => {}
            }
            // What holds kept is given back when somebody asks.
            pool.stats();
            check(&pool, backend.reserved(), held.iter().map(|shadowed| shadowed.block.bytes()).sum());
        }
        held.iter().for_each(Shadowed::check);
        drop((held, holds, planning));
        pool.trim();
        check(&pool, 0, 0);
    }
    assert!(moved > 1000 && failed > 10, "{moved} moved, {failed} failed");
}

#[test]
fn who_waits_in_line_is_served() {
    let (_, pool) = one_slab(MIB);
    let all: Vec<_> = (0..16).map(|number| Shadowed::new(&pool, 64 * KIB, number)).collect();
    let mut kept: Vec<_> = all.into_iter().step_by(2).collect();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(Request::bytes(256 * KIB).wait(LONG)).map(|block| block.offset()));
        until(|| pool.stats().waiting == 1);
        compact(&pool, &mut kept).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), 512 * KIB);
    });
    kept.iter().for_each(Shadowed::check);
}

/// Threads that move their own blocks in one slab, and one that only looks.
#[test]
fn threads_move_their_own() {
    for zeroes in [false, true] {
        let backend = Watched::new();
        let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::Single).zero_on_free(zeroes));
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let pool = &pool;
                scope.spawn(move || {
                    let mut rng = ChaCha8Rng::seed_from_u64(thread);
                    let mut held: Vec<Shadowed> = Vec::new();
                    for event in 0..rounds(400) {
                        match rng.random_range(0..6) {
                            0..=2 => {
                                if let Ok(block) = pool.alloc(Request::bytes(rng.random_range(1..50 * KIB))) {
                                    held.push(Shadowed::filled(block, event as u8));
                                }
                            }
                            3 if event % 4 == 0 => {
                                compact(pool, &mut held).unwrap();
                                held.iter().for_each(Shadowed::check);
                            }
                            _ if !held.is_empty() => held.swap_remove(rng.random_range(0..held.len())).check(),
                            _ => {}
                        }
                        let stats = pool.stats();
                        let parts = stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes;
                        assert_eq!(parts, MIB, "{stats:?}");
                    }
                    held.iter().for_each(Shadowed::check);
                });
            }
        });
        check(&pool, MIB, 0);
    }
}

/// What a replay came to that compacts when it must.
#[derive(Debug, Default)]
struct Replayed {
    failures: u64,
    compactions: u64,
    bytes_moved: u64,
    bytes_allocated: u64,
}

/// What a run does when a request fails as fragmented.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Fails,
    Compacts,
    /// As far as the request needs.
    CompactsFor,
}

fn replay(trace: &Trace, budget_bytes: u64, way: Way) -> Replayed {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(budget_bytes).slabs(SlabPolicy::Single)).unwrap();
    let mut blocks: Vec<Option<Block<Virtual>>> = Vec::new();
    let mut replayed = Replayed::default();
    for event in trace.events() {
        match *event {
            Event::Alloc { bytes, .. } => {
                let request = Request::bytes(bytes);
                let mut block = pool.alloc(request.clone());
                if way != Way::Fails && block.as_ref().is_err_and(|error| error.is_fragmented()) {
                    replayed.compactions += 1;
                    let lent = blocks.iter_mut().flatten();
                    let done = if way == Way::Compacts { pool.compact(lent) } else { pool.compact_for(&request, lent) };
                    replayed.bytes_moved += done.unwrap().bytes_moved;
                    block = pool.alloc(request);
                }
                replayed.failures += u64::from(block.is_err());
                replayed.bytes_allocated += bytes;
                blocks.push(block.ok());
            }
            Event::Free { id } => blocks[id as usize] = None,
            _ => {}
        }
    }
    pool.check();
    replayed
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] }
}

/// All bundled runs, in so many times their peak: without compaction, and with it.
fn replay_all(times: f64, way: Way) -> Vec<(String, Replayed, Replayed)> {
    let folder = std::fs::read_dir(format!("{}/traces", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let runs: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .map(|path| {
            let trace = Trace::read(path).unwrap().remove(0);
            let budget_bytes = (trace.live_peak_bytes() as f64 * times) as u64;
            let (without, with) = (replay(&trace, budget_bytes, Way::Fails), replay(&trace, budget_bytes, way));
            (trace.name().to_owned(), without, with)
        })
        .collect();
    let of = |value: fn(&Replayed) -> f64| {
        let values: Vec<f64> = runs.iter().map(|(_, _, with)| value(with)).collect();
        let most = values.iter().copied().fold(0.0, f64::max);
        format!("{:.3} (most {most:.3})", median(values))
    };
    say(&format!(
        "{times} of the peak, {}: {} of {} runs have failures without, {} with; compactions, median: {}; bytes moved by bytes \
         allocated: {}",
        if way == Way::Compacts { "compact" } else { "compact_for" },
        runs.iter().filter(|(_, without, _)| without.failures > 0).count(),
        runs.len(),
        runs.iter().filter(|(_, _, with)| with.failures > 0).count(),
        of(|with| with.compactions as f64),
        of(|with| with.bytes_moved as f64 / with.bytes_allocated as f64)
    ));
    runs
}

#[test]
fn recorded_runs_are_served_in_little_more_than_they_have_alive() {
    for way in [Way::Compacts, Way::CompactsFor] {
        for times in [1.001, 1.005, 1.01, 1.05] {
            replay_all(times, way);
        }
        let runs = replay_all(1.02, way);
        for (name, without, with) in &runs {
            assert_eq!(with.failures, 0, "{name}: {without:?}, {with:?}");
        }
        // Where nothing fails without it, it shows nothing.
        for name in ["lenet_b64", "lstm_lm_varlen", "resnet18_b16_multiscale"] {
            let (_, without, with) = runs.iter().find(|(other, ..)| other == name).unwrap();
            assert!(without.failures > 0 && with.compactions > 0, "{name}: {without:?}, {with:?}");
        }
    }
}
