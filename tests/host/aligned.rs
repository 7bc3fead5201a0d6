//! Alignments above that of every block, and huge pages.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::backend::Limits;
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::{Backend, Block, Config, ErrorKind, Host, Placement, Pool, Remedy, Request, SlabPolicy, Virtual};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const POLICIES: [SlabPolicy; 5] = [
    SlabPolicy::Expanding,
    SlabPolicy::Single,
    SlabPolicy::Growing,
    SlabPolicy::PerBlock,
    SlabPolicy::Fixed(3 * MIB + 4096),
];

fn address_of(block: &Block<Host>) -> u64 {
    block.as_bytes().unwrap().as_ptr().addr() as u64
}

fn aligned(bytes: u64, align_bytes: u64) -> Request<'static> {
    Request::bytes(bytes).align(align_bytes)
}

/// In an empty pool, behind a block of one page, and behind one that ends nowhere in particular.
#[test]
fn every_alignment_up_to_2_mib_is_had() {
    for policy in POLICIES {
        for placement in [Placement::Exact, Placement::PowerOfTwo] {
            for align_bytes in (0..=21).map(|bits| 1 << bits) {
                let pool = Pool::host(Config::new(32 * MIB).slabs(policy).placement(placement)).unwrap();
                let mut blocks = Vec::new();
                for bytes in [1, 100, 4096, 5000, 65 * KIB, 2 * MIB] {
                    blocks.push(pool.alloc(Request::bytes(5000)).unwrap());
                    let block = pool.alloc(aligned(bytes, align_bytes)).unwrap();
                    assert_eq!(address_of(&block) % align_bytes, 0, "{bytes} at {align_bytes}, {policy}, {placement}");
                    assert!(block.bytes_held() >= bytes);
                    blocks.push(block);
                }
                let held_bytes: u64 = blocks.iter().map(Block::bytes_held).sum();
                assert_eq!(pool.stats().used_bytes, held_bytes, "{align_bytes}, {policy}, {placement}");
                pool.check();
                drop(blocks);
                pool.trim();
                pool.check();
                assert_eq!(pool.stats().used_bytes, 0);
            }
        }
    }
}

/// A block has just its pages, and what is before it serves others.
#[test]
fn what_is_skipped_stays_free() {
    let pool = Pool::host(Config::new(4 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let first = pool.alloc(Request::bytes(KIB)).unwrap();
    let second = pool.alloc(aligned(2 * MIB, 2 * MIB)).unwrap();
    assert_eq!((first.offset(), second.offset(), second.bytes_held()), (0, 2 * MIB, 2 * MIB));
    let rest = pool.alloc(Request::bytes(2 * MIB - KIB)).unwrap();
    assert_eq!(pool.stats().free_bytes, 0);
    drop((first, second, rest));
    // A small one is as large as its alignment up to a page, and has a page above that.
    let held = |align_bytes| pool.alloc(aligned(64, align_bytes)).unwrap().bytes_held();
    assert_eq!([64, 128, 512, 1024, 4096, 2 * MIB].map(held), [64, 128, 512, 1024, 1024, 1024]);
}

#[test]
fn what_is_no_alignment_is_told_what_is() {
    let pool = Pool::host(Config::new(4 * MIB)).unwrap();
    for align_bytes in [0, 3, 48, 4 * MIB, 1 << 63] {
        let error = pool.alloc(aligned(KIB, align_bytes)).unwrap_err();
        assert_eq!((error.kind(), error.remedies()), (ErrorKind::Alignment, &[Remedy::Align(64)][..]), "{error}");
        assert!(error.to_string().contains("is not a power of two up to the 2,097,152 bytes (2 MiB) that"), "{error}");
    }
    // What a backend says of itself holds.
    let limits = Limits { alignment_bytes_max: 4096, ..Virtual::default().limits() };
    let pool = Pool::with_backend(Virtual::new(limits), &Config::new(4 * MIB)).unwrap();
    assert!(pool.alloc(aligned(KIB, 4096)).is_ok());
    assert_eq!(pool.alloc(aligned(KIB, 8192)).unwrap_err().kind(), ErrorKind::Alignment);
    for alignment_bytes_max in [0, 32, 100, 1 << 47] {
        let limits = Limits { alignment_bytes_max, ..limits };
        let error = Pool::with_backend(Virtual::new(limits), &Config::new(4 * MIB)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

/// The bytes are there, and no place is at a multiple: another alignment would serve it, and the error names it.
#[test]
fn where_no_multiple_is_free_the_error_says_so() {
    let pool = Pool::host(Config::new(4 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let walls = [0, 2].map(|_| pool.alloc(aligned(KIB, 2 * MIB)).unwrap());
    assert_eq!(walls.each_ref().map(Block::offset), [0, 2 * MIB]);
    let error = pool.alloc(aligned(KIB, 2 * MIB)).unwrap_err();
    assert_eq!((error.kind(), error.remedies()[0]), (ErrorKind::Fragmented, Remedy::Align(64)), "{error}");
    let expected = "no room for 1,024 bytes (1 KiB) at a multiple of 2,097,152 bytes (2 MiB): fragmented, 4,192,256 bytes \
        (4.00 MiB) of the budget are not in use, but no free run has room at such a multiple, and 0 bytes can still be reserved; the largest request that \
        would be served now, wherever it begins, is 2,096,128 bytes (2.00 MiB)";
    assert!(error.to_string().starts_with(expected), "{error}");
    // Of 4 MiB of addresses.
    let pool = Pool::host(Config::new(2 * MIB)).unwrap();
    let _walls = [0, 2].map(|_| pool.alloc(aligned(KIB, 2 * MIB)).unwrap());
    let error = pool.alloc(aligned(KIB, 2 * MIB)).unwrap_err();
    assert!(error.is_fragmented() && error.to_string().contains("no free run has room at such a multiple"), "{error}");
    assert!(pool.alloc(aligned(KIB, MIB)).is_ok());
    pool.check();
}

/// Blocks of any alignment, with their contents, through allocations, growth, compaction and trims.
#[test]
fn blocks_stay_aligned_whatever_happens() {
    for (round, policy) in POLICIES.into_iter().cycle().take(30).enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(round as u64);
        let placement = if rng.random_bool(0.8) { Placement::Exact } else { Placement::PowerOfTwo };
        let budget_bytes = rng.random_range(2 * MIB..24 * MIB);
        let config = Config::new(budget_bytes).slabs(policy).placement(placement).free_lists(rng.random());
        let pool = Pool::host(config).unwrap();
        let mut held: Vec<(Block<Host>, u64, u8)> = Vec::new();
        for event in 0..400u32 {
            match rng.random_range(0..12) {
                0..6 => {
                    let bytes = 2f64.powf(rng.random_range(0.0..21.0)) as u64;
                    let align_bytes = 1 << rng.random_range(0..22);
                    if let Ok(mut block) = pool.alloc(aligned(bytes, align_bytes)) {
                        block.fill(bytes, &[event as u8]).unwrap();
                        held.push((block, align_bytes, event as u8));
                    }
                }
                6..10 if !held.is_empty() => drop(held.swap_remove(rng.random_range(0..held.len()))),
                10 if !held.is_empty() => {
                    let index = rng.random_range(0..held.len());
                    let (block, _, byte) = &mut held[index];
                    let bytes = rng.random_range(1..2 * block.bytes() + 1);
                    let resized = if bytes > block.bytes() { block.try_grow(bytes) } else { block.shrink(bytes) };
                    if resized.is_ok() {
                        block.fill(bytes, &[*byte]).unwrap();
                    }
                }
                _ if rng.random_bool(0.5) => {
                    pool.compact(held.iter_mut().map(|(block, ..)| block)).unwrap();
                }
                _ => _ = pool.trim(),
            }
            for (block, align_bytes, byte) in &held {
                assert_eq!(address_of(block) % align_bytes, 0, "round {round}, event {event}: {block:?}");
                let bytes = block.as_bytes().unwrap();
                assert!(bytes.first() == Some(byte) && bytes.last() == Some(byte), "round {round}, event {event}");
            }
        }
        pool.check();
        drop(held);
        pool.trim();
        pool.check();
        assert_eq!((pool.stats().used_bytes, pool.stats().blocks), (0, 0));
    }
}

/// 64 KiB are free all the time, and the waiter's place is not.
#[test]
fn a_waiter_for_a_multiple_is_served_when_its_place_comes() {
    let config = |bytes, policy| Config::new(bytes).slabs(policy);
    for config in [
        config(2 * MIB, SlabPolicy::Expanding).address_times(1),
        // As many multiples, and half the bytes.
        config(MIB, SlabPolicy::Expanding),
        config(2 * MIB, SlabPolicy::Single),
    ] {
        let pool = Pool::host(config).unwrap();
        let walls: Vec<_> = (0..2).map(|_| pool.alloc(aligned(64 * KIB, MIB)).unwrap()).collect();
        let asked = || aligned(64 * KIB, MIB).wait(Duration::from_secs(60));
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..2).map(|_| scope.spawn(|| pool.alloc(asked()).unwrap().offset())).collect();
            // A larger request that may begin anywhere does not wait behind them: they were passed.
            while pool.stats().waiting < 2 {
                std::thread::yield_now();
            }
            assert!(pool.alloc(Request::bytes(100 * KIB)).is_ok());
            drop(walls);
            let mut offsets: Vec<u64> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
            offsets.sort_unstable();
            assert!(offsets.iter().all(|offset| offset % MIB == 0), "{offsets:?}");
        });
        pool.check();
    }
}

/// A waiter that is refused for its multiple keeps none behind it from room that they can use.
#[test]
fn a_waiter_for_a_multiple_does_not_hide_others() {
    let pool = Pool::host(Config::new(2 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let walls: Vec<_> = (0..2).map(|_| pool.alloc(aligned(64 * KIB, MIB)).unwrap()).collect();
    let rest = [pool.alloc(Request::bytes(960 * KIB)).unwrap(), pool.alloc(Request::bytes(960 * KIB)).unwrap()];
    std::thread::scope(|scope| {
        let first = scope.spawn(|| pool.alloc(aligned(64 * KIB, MIB).wait(Duration::from_secs(60))).unwrap().offset());
        while pool.stats().waiting < 1 {
            std::thread::yield_now();
        }
        let second =
            scope.spawn(|| pool.alloc(Request::bytes(500 * KIB).wait(Duration::from_secs(60))).unwrap().bytes());
        while pool.stats().waiting < 2 {
            std::thread::yield_now();
        }
        drop(rest);
        assert_eq!(second.join().unwrap(), 500 * KIB);
        assert!(!first.is_finished());
        drop(walls);
        assert_eq!(first.join().unwrap() % MIB, 0);
    });
}

/// A block at a multiple does not go where the next hole is. So no compaction is named as certain, and one stops only when the request
/// has its place.
#[test]
fn a_compaction_keeps_multiples() {
    let pool = Pool::host(Config::new(8 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let mut blocks: Vec<_> = (0..4).map(|_| pool.alloc(aligned(512 * KIB, 2 * MIB)).unwrap()).collect();
    let error = pool.alloc(Request::bytes(3 * MIB)).unwrap_err();
    assert!(error.is_fragmented() && !error.remedies().contains(&Remedy::Compact), "{error}");
    blocks.remove(1);
    let done = pool.compact(&mut blocks).unwrap();
    assert_eq!(blocks.iter().map(Block::offset).collect::<Vec<_>>(), [0, 2 * MIB, 4 * MIB], "{done}");

    // In the way of one multiple lies a block that can move, and of the other one that cannot.
    let pool = Pool::host(Config::new(4 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let stays = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    let gap = pool.alloc(Request::bytes(MIB)).unwrap();
    let mut moves = pool.alloc(aligned(64 * KIB, 2 * MIB)).unwrap();
    let mut plain = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    drop(gap);
    let request = aligned(KIB, 2 * MIB);
    assert!(pool.alloc(request.clone()).unwrap_err().is_fragmented());
    let done = pool.compact_for(&request, [&mut moves, &mut plain]).unwrap();
    assert_eq!((moves.offset() % (2 * MIB), plain.offset()), (0, 64 * KIB), "{done}");
    drop(stays);
}

/// A block goes to free pages right below it where the lowest hole has no memory. It stays at multiples when it moves again.
#[test]
fn a_second_move_keeps_the_multiple() {
    let pool = Pool::host(Config::new(8 * MIB)).unwrap();
    let [low, gap, mut block] = [0, 1, 2].map(|_| pool.alloc(aligned(MIB, MIB)).unwrap());
    assert_eq!([&low, &gap, &block].map(Block::offset), [0, MIB, 2 * MIB]);
    drop(low);
    assert_eq!(pool.trim(), MIB);
    drop(gap);
    assert_eq!(pool.compact([&mut block]).unwrap().blocks_moved, 1);
    assert_eq!(block.offset(), MIB);
    // Free memory right below it, a sixteenth of it.
    let wall = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    let rest = pool.alloc(Request::bytes(960 * KIB)).unwrap();
    assert_eq!((wall.offset(), rest.offset()), (960 * KIB, 0));
    drop(wall);
    assert_eq!(pool.compact([&mut block]).unwrap().blocks_moved, 0);
    assert_eq!(block.offset(), MIB);
    drop(rest);
}

/// Nothing is served at once.
#[test]
fn nothing_moves_for_a_request_of_no_bytes() {
    for policy in POLICIES {
        let pool = Pool::host(Config::new(8 * MIB).slabs(policy)).unwrap();
        let mut block = pool.alloc(Request::bytes(MIB)).unwrap();
        let done = pool.compact_for(&aligned(0, 2 * MIB), [&mut block]).unwrap();
        assert_eq!((done.blocks_moved, pool.alloc(aligned(0, 2 * MIB)).unwrap().bytes_held()), (0, 0));
    }
}

/// In an empty pool a batch goes where its blocks fit: the one that holds most comes first.
#[test]
fn a_batch_of_buddies_is_placed_by_what_they_hold() {
    let config = Config::new(12_887).placement(Placement::PowerOfTwo);
    let pool = Pool::host(config).unwrap();
    assert!(pool.alloc_all(&[aligned(4295, 64), aligned(3591, 8192)]).is_ok());
    pool.check();
    // Beside a reserve, and whatever the reason: more is needed than there is.
    let pool = Pool::host(Config::new(273_408u64).high_priority_reserve(1000)).unwrap();
    let error = pool.alloc(aligned(273_408, 16_384)).unwrap_err();
    assert!(error.is_over_budget() && error.shortage().unwrap().needed_bytes > 273_408, "{error}");
}

/// What must stay at a multiple goes to another slab at one.
#[test]
fn a_slab_is_emptied_into_multiples() {
    let pool = Pool::host(Config::new(16 * MIB).slabs(SlabPolicy::Fixed(4 * MIB))).unwrap();
    let mut kept: Vec<_> = (0..3).map(|_| pool.alloc(Request::bytes(MIB)).unwrap()).collect();
    let wall = pool.alloc(Request::bytes(MIB)).unwrap();
    let moves = pool.alloc(aligned(KIB, MIB)).unwrap();
    assert_ne!(moves.slab(), kept[0].slab());
    drop(wall);
    kept.push(moves);
    pool.compact(&mut kept).unwrap();
    assert_eq!((kept[3].slab(), kept[3].offset()), (kept[0].slab(), 3 * MIB));
    assert_eq!(pool.trim(), 4 * MIB);
    pool.check();
}

/// The largest alignments get their places first, whatever the order of a batch.
#[test]
fn a_batch_is_served_in_any_order() {
    let pool = Pool::host(Config::new(8 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let mut requests = vec![
        Request::bytes(MIB),
        aligned(KIB, 2 * MIB),
        Request::bytes(1536 * KIB),
        aligned(64, 2 * MIB),
        aligned(MIB, MIB),
        aligned(100, 256),
    ];
    for _ in 0..6 {
        requests.rotate_left(1);
        let blocks = pool.alloc_all(&requests).unwrap();
        pool.check();
        drop(blocks);
    }
}

/// Many of a batch may need more room than their bytes: then each gets a slab of its own, where slabs are of single requests.
#[test]
fn a_batch_of_multiples_that_one_slab_cannot_hold() {
    let requests: Vec<_> = (0..5).map(|_| aligned(KIB, 2 * MIB)).collect();
    for policy in [SlabPolicy::Single, SlabPolicy::Growing, SlabPolicy::PerBlock, SlabPolicy::Fixed(MIB)] {
        let pool = Pool::host(Config::new(4 * MIB).slabs(policy)).unwrap();
        let blocks = pool.alloc_all(&requests).unwrap_or_else(|error| panic!("{policy}: {error}"));
        assert!(blocks.iter().all(|block| address_of(block).is_multiple_of(2 * MIB)));
        pool.check();
    }
    // Addresses are what an expanding slab has few of.
    let pool = Pool::host(Config::new(4 * MIB)).unwrap();
    assert!(pool.alloc_all(&requests[..4]).is_ok());
    let error = pool.alloc_all(&requests).unwrap_err();
    assert!(error.is_over_budget() && error.shortage().unwrap().needed_bytes == 10 * MIB, "{error}");
    pool.check();
}

/// A run at the last multiple may end in the partial last page.
#[test]
fn a_multiple_that_ends_with_the_slab_is_had() {
    for bytes in [(1 << 20) + 7, (4 << 20) + 100, (64 << 20) + 4097] {
        for align_bytes in [128, 4096, MIB, 2 * MIB] {
            for policy in POLICIES {
                let pool = Pool::host(Config::new(bytes).slabs(policy)).unwrap();
                let plain = pool.alloc(Request::bytes(bytes));
                let block = pool.alloc(aligned(bytes, align_bytes));
                assert!(plain.is_ok() && block.is_err(), "{policy}");
                drop(plain);
                match pool.alloc(aligned(bytes, align_bytes)) {
                    Ok(block) => assert_eq!(address_of(&block) % align_bytes, 0),
                    Err(error) => {
                        // Whole granules from a multiple on are more than there is.
                        let is_right = policy == SlabPolicy::Expanding && error.is_over_budget();
                        assert!(is_right && error.shortage().unwrap().needed_bytes > bytes, "{policy}: {error}");
                    }
                }
                pool.check();
            }
        }
    }
    let pool = Pool::host(Config::new((1 << 20) + 7)).unwrap();
    assert!(pool.alloc(aligned((1 << 20) + 7, 1 << 20)).is_ok());
}

/// A plan has no place for them, and is not hurt by them.
#[test]
fn beside_planned_steps_they_are_served_from_the_slabs() {
    let pool = Pool::host(Config::new(16 * MIB)).unwrap();
    let lifetimes = [Lifetime::new(0, 2, MIB), Lifetime::new(1, 3, MIB)];
    let plan = plan::solve(&lifetimes, &Options::new().align(pool.limits().alignment_bytes)).unwrap();
    let steps = pool.follow_plan(&lifetimes, &plan).unwrap();
    for _ in 0..3 {
        pool.mark_step();
        let first = pool.alloc(Request::bytes(MIB)).unwrap();
        let beside = pool.alloc(aligned(MIB, 2 * MIB)).unwrap();
        let second = pool.alloc(Request::bytes(MIB)).unwrap();
        assert_eq!(address_of(&beside) % (2 * MIB), 0);
        drop((first, second, beside));
    }
    let report = steps.report();
    assert_eq!(report.allocations_planned, 6, "{report}");
    drop(steps);

    let _auto = pool.auto_plan().unwrap();
    for _ in 0..8 {
        pool.mark_step();
        let both = pool.alloc_all(&[aligned(MIB, 2 * MIB), Request::bytes(MIB)]).unwrap();
        assert_eq!(address_of(&both[0]) % (2 * MIB), 0);
    }
    assert!(pool.stats().allocations_planned > 6, "{}", pool.stats());
    pool.check();
}

#[cfg(target_os = "linux")]
mod huge_pages {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;
    use crate::resident::bytes_of_mapping;

    /// The kernel tells of adjacent mappings with huge pages as of one: one test at a time has some.
    fn only_one() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn huge_bytes(address: u64) -> u64 {
        bytes_of_mapping(address as usize, "AnonHugePages:")
    }

    /// As far as the system has any, for all policies; and what is committed is whole huge pages.
    #[test]
    fn they_are_used_where_the_system_has_them() {
        let _only_one = only_one();
        let config = || Config::new(256 * MIB).huge_pages(true);
        let Ok(page_bytes) = Host.huge_page_bytes() else {
            let error = Pool::host(config()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            return;
        };
        for config in [
            config(),
            config().touch(true),
            config().slabs(SlabPolicy::Single),
            config().slabs(SlabPolicy::Single).touch(true),
            config().slabs(SlabPolicy::Growing),
        ] {
            let pool = Pool::host(config.clone()).unwrap();
            let mut block = pool.alloc(Request::bytes(8 * MIB)).unwrap();
            block.fill(8 * MIB, &[1]).unwrap();
            let small = pool.alloc(Request::bytes(100)).unwrap();
            let stats = pool.stats();
            assert_eq!(stats.reserved_bytes % page_bytes, 0, "{stats}");
            // The kernel may have none free, though it has had them on every machine of ours.
            let huge_bytes = huge_bytes(address_of(&block));
            assert!(
                huge_bytes <= stats.reserved_bytes && huge_bytes.is_multiple_of(page_bytes),
                "{huge_bytes}, {stats}"
            );
            println!("{}: {huge_bytes} bytes in huge pages, {stats}", pool.slab_policy());
            drop((block, small));
            pool.trim();
            pool.check();
        }
    }

    /// No page brings more than is counted, whatever the budget is.
    #[test]
    fn no_more_is_resident_than_is_reserved() {
        let _only_one = only_one();
        if Host.huge_page_bytes().is_err() {
            return;
        }
        for budget_bytes in [100_000, 3 * MIB + 7, 200 * MIB + 12_345] {
            let pool = Pool::host(Config::new(budget_bytes).huge_pages(true)).unwrap();
            let mut block = pool.alloc(Request::bytes(budget_bytes / 3)).unwrap();
            block.fill(budget_bytes / 3, &[1]).unwrap();
            let (huge_bytes, stats) = (huge_bytes(address_of(&block)), pool.stats());
            assert!(
                huge_bytes <= stats.reserved_bytes && stats.reserved_bytes <= budget_bytes,
                "{huge_bytes}, {stats}"
            );
            let all = pool.alloc(Request::bytes(budget_bytes));
            assert!(all.is_err());
            drop(block);
            assert!(pool.alloc(Request::bytes(budget_bytes)).is_ok(), "{budget_bytes}");
            pool.check();
        }
    }

    #[test]
    fn a_backend_that_has_none_says_so() {
        let error = Pool::with_backend(Virtual::default(), &Config::new("1 MiB").huge_pages(true)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("memory of virtual has no huge pages"), "{error}");
    }
}
