//! The pool: budget, order of attempts, what failed calls leave, and every kind of error.

mod support;

use std::sync::atomic::Ordering;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::rounds;
use support::watched::Watched;
use tensorpool::{
    Backend, Block, Config, ErrorKind, Host, Limit, Limits, Model, Placement, Pool, Request, SlabPolicy, Stats,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn open(backend: &Watched, config: Config) -> Pool<Watched> {
    Pool::with_backend(backend.clone(), &config).unwrap()
}

/// What a failed call must leave as it was.
fn untouched(stats: &Stats) -> (u64, u64, u64, u64, u64) {
    (stats.live_bytes, stats.used_bytes, stats.blocks, stats.budget_bytes, stats.staging_bytes)
}

/// Checks every equation between the pool, its backend and the blocks.
fn check<B: Backend>(pool: &Pool<B>, reserved: u64, live: u64) {
    pool.check();
    let stats = pool.stats();
    let parts = stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
    assert_eq!(parts, stats.reserved_bytes, "{stats:?}");
    assert_eq!(stats.reserved_bytes, reserved, "{stats:?}");
    assert!(stats.reserved_bytes <= stats.budget_bytes, "{stats:?}");
    assert_eq!(stats.live_bytes, live, "{stats:?}");
    assert!(stats.live_peak_bytes >= live && stats.reserved_peak_bytes >= reserved);
}

#[test]
fn random_programs_keep_the_books_at_every_step() {
    for seed in 0..rounds(60) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let budget = [100, 5_000, 64 * KIB, MIB + 1, 6 * MIB, 40 * MIB][rng.random_range(0..6)];
        let placement = if rng.random_bool(0.7) { Placement::Exact } else { Placement::PowerOfTwo };
        let policy = [SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::PerBlock][rng.random_range(0..3)];
        let limit = if rng.random_bool(0.3) { budget / 3 + 1 } else { u64::MAX >> 1 };
        let backend = Watched::new().slab_limit(limit);
        let pool = open(&backend, Config::new(budget).placement(placement).slabs(policy));
        let mut blocks: Vec<(Block<Watched>, u8)> = Vec::new();
        let mut live = 0;
        for step in 0..400u32 {
            let context = format!("seed {seed} step {step} {placement} {policy} budget {budget}");
            match rng.random_range(0..20) {
                0 => drop(pool.trim()),
                1 => {
                    // The next call of the backend fails.
                    let call = backend.calls() + 1;
                    backend.fail_calls(call..=call + rng.random_range(0..3));
                }
                2..=12 => {
                    let bytes = (budget as f64).powf(rng.random_range(0.0..1.02)) as u64;
                    let before = pool.stats();
                    match pool.alloc(Request::bytes(bytes).label(format!("size {}", bytes.ilog2()))) {
                        Ok(mut block) => {
                            assert!(block.bytes() == bytes && block.bytes_held() >= bytes, "{context}");
                            let pattern = step as u8;
                            block.as_bytes_mut().unwrap().fill(pattern);
                            live += bytes;
                            blocks.push((block, pattern));
                        }
                        Err(error) => {
                            assert_eq!(untouched(&before), untouched(&pool.stats()), "{context}: {error}");
                            if let Some(shortage) = error.shortage() {
                                assert_eq!(shortage.asked_bytes, bytes, "{context}");
                                assert_eq!(
                                    error.is_over_budget(),
                                    shortage.needed_bytes > budget,
                                    "{context}: {error}"
                                );
                                let buddy = placement == Placement::PowerOfTwo && policy != SlabPolicy::PerBlock;
                                let needed = if buddy { bytes.next_power_of_two().max(64) } else { bytes };
                                assert_eq!(shortage.needed_bytes, needed, "{context}: {error}");
                            }
                        }
                    }
                }
                _ if !blocks.is_empty() => {
                    let (block, pattern) = blocks.swap_remove(rng.random_range(0..blocks.len()));
                    let bytes = block.as_bytes().unwrap();
                    assert!(bytes.iter().all(|byte| *byte == pattern), "{context}: a block was overwritten");
                    live -= block.bytes();
                }
                _ => {}
            }
            check(&pool, backend.reserved(), live);
            assert!(backend.seen.peak.load(Ordering::SeqCst) <= budget, "{context}: over the budget");
        }
        drop(blocks);
        check(&pool, backend.reserved(), 0);
        pool.trim();
        assert_eq!(backend.reserved(), 0, "seed {seed}: {:?}", pool.stats());
    }
}

#[test]
fn a_growing_pool_follows_its_series() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("64 MiB"));
    assert_eq!(backend.calls(), 0, "nothing is reserved before the first request");
    let mut blocks = Vec::new();
    let mut sizes = Vec::new();
    while let Ok(block) = pool.alloc(Request::bytes(MIB)) {
        blocks.push(block);
        sizes.push(pool.stats().reserved_bytes / MIB);
    }
    sizes.dedup();
    assert_eq!(sizes, [8, 24, 56, 64]);
    assert_eq!(blocks.len(), 64);
    let pool = open(&Watched::new(), Config::new("64 MiB"));
    let _large = pool.alloc(Request::bytes(20 * MIB)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 20 * MIB, "the request is larger than the next of the series");
}

#[test]
fn any_request_up_to_the_budget_succeeds_from_an_empty_pool() {
    for budget in [1, 2, 63, 64, 65, 999, 1_000_001, 3 * MIB + 17] {
        for bytes in [1, budget / 2, budget - 1, budget].into_iter().filter(|bytes| *bytes > 0) {
            let backend = Watched::new();
            let pool = open(&backend, Config::new(budget));
            for first in [1, budget / 8 + 1] {
                // Idle slabs of another size must not stand in the way.
                drop(pool.alloc(Request::bytes(first.min(budget))).unwrap());
                let block = pool.alloc(Request::bytes(bytes)).unwrap_or_else(|e| panic!("{bytes} of {budget}: {e}"));
                check(&pool, backend.reserved(), bytes);
                drop(block);
            }
        }
    }
}

#[test]
fn budgets_and_requests_at_the_edges() {
    let pool = open(&Watched::new(), Config::new(0));
    assert!(pool.alloc(Request::bytes(1)).unwrap_err().is_over_budget());
    assert_eq!(pool.alloc(Request::bytes(0)).unwrap().slab(), None);
    assert_eq!(pool.alloc(Request::default()).unwrap().bytes(), 0);
    assert_eq!(pool.stats().failures, 1, "a request over the budget is a failure too");
    assert_eq!(pool.stats().reserved_bytes, 0);
    let single = open(&Watched::new(), Config::new(0).slabs(SlabPolicy::Single));
    assert!(single.alloc(Request::bytes(1)).unwrap_err().is_over_budget());

    let pool = open(&Watched::new(), Config::new(u64::MAX));
    let block = pool.alloc(Request::bytes(3 * MIB)).unwrap();
    assert_eq!(block.bytes_held(), block.bytes().next_multiple_of(64), "{:?}", pool.stats());
    let error = pool.alloc(Request::bytes(u64::MAX)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    pool.check();

    for text in ["", "lots", "-1", "99999999999 TiB"] {
        let error = Pool::host(Config::new(text)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
    let error = Pool::host(Config::new(10).staging(11)).unwrap_err();
    assert!(error.to_string().contains("11 bytes") && error.to_string().contains("10 bytes"), "{error}");
}

#[test]
fn single_reserves_all_at_once_in_as_few_slabs_as_the_limits_allow() {
    let backend = Watched::new().slab_limit(3 * MIB);
    let pool = open(&backend, Config::new("10 MiB").slabs(SlabPolicy::Single));
    assert_eq!((backend.calls(), backend.reserved()), (4, 10 * MIB));
    assert_eq!(pool.stats().slabs, 4);
    // Given back and reserved again.
    assert_eq!(pool.trim(), 10 * MIB);
    let _block = pool.alloc(Request::bytes(MIB)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 3 * MIB);

    let backend = Watched::new().slab_limit(3 * MIB);
    backend.fail_calls(3..=3);
    let config = Config::new("10 MiB").slabs(SlabPolicy::Single);
    assert!(Pool::with_backend(backend.clone(), &config).unwrap_err().is_out_of_memory());
    assert_eq!(backend.reserved(), 0, "a pool that does not open keeps nothing");
}

#[test]
fn per_block_slabs_come_and_go_with_their_blocks() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("1 MiB").slabs(SlabPolicy::PerBlock));
    let a = pool.alloc(Request::bytes(1000)).unwrap();
    let b = pool.alloc(Request::bytes(5)).unwrap();
    check(&pool, 1005, 1005);
    assert_ne!(a.slab(), b.slab());
    drop(a);
    check(&pool, 5, 5);
    assert!(pool.alloc(Request::bytes(MIB)).unwrap_err().is_full());
    drop(b);
    assert!(pool.alloc(Request::bytes(MIB)).is_ok());
}

#[test]
fn a_refused_slab_is_halved_until_the_request_no_longer_fits() {
    let backend = Watched::new();
    backend.seen.refuse_over.store(3 * MIB, Ordering::SeqCst);
    let pool = open(&backend, Config::new("64 MiB"));
    let _block = pool.alloc(Request::bytes(MIB)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 2 * MIB, "8, 4, then 2 MiB");
    assert_eq!(backend.calls(), 3);
    // 3 MiB is the least that serves the request, and the device has it.
    let _block = pool.alloc(Request::bytes(3 * MIB)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 5 * MIB);
    let before = pool.stats();
    let error = pool.alloc(Request::bytes(4 * MIB)).unwrap_err();
    assert!(error.is_out_of_memory() && !error.is_no_room(), "{error}");
    assert_eq!(untouched(&before), untouched(&pool.stats()));
    check(&pool, backend.reserved(), 4 * MIB);
}

/// Runs one program with the n-th call of the backend failing, for every n, and with the device lost there.
#[test]
fn every_failing_call_leaves_the_pool_as_it_was() {
    let program = [3 * MIB, 700, 5 * MIB, 64, 9 * MIB, 2 * MIB, 14 * MIB, 30 * KIB];
    for lost in [0, 1] {
        for failing in 1..=12 {
            for length in 1..=8 {
                let backend = Watched::new();
                backend.seen.lost.store(lost, Ordering::SeqCst);
                backend.fail_calls(failing..=failing + length);
                let pool = open(&backend, Config::new("32 MiB"));
                let mut blocks = Vec::new();
                let mut live = 0;
                for (index, bytes) in program.into_iter().enumerate() {
                    let before = pool.stats();
                    match pool.alloc(Request::bytes(bytes)) {
                        Ok(block) => {
                            live += bytes;
                            blocks.push(block);
                        }
                        Err(error) => {
                            let right = if lost == 1 { error.is_device_lost() } else { error.is_out_of_memory() };
                            assert!(right || error.is_no_room(), "{error}");
                            assert_eq!(untouched(&before), untouched(&pool.stats()));
                        }
                    }
                    check(&pool, backend.reserved(), live);
                    if index % 3 == 2 && !blocks.is_empty() {
                        live -= blocks.remove(0).bytes();
                    }
                }
                blocks.clear();
                backend.fail_calls(0..=0);
                backend.seen.lost.store(0, Ordering::SeqCst);
                assert!(pool.alloc(Request::bytes(32 * MIB)).is_ok(), "the pool works again");
                check(&pool, backend.reserved(), 0);
            }
        }
    }
}

#[test]
fn attempts_come_in_the_order_of_the_design() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("8 MiB"));
    // 1: an idle piece of the class, before a fresh cut.
    let a = pool.alloc(Request::bytes(100)).unwrap();
    let b = pool.alloc(Request::bytes(100)).unwrap();
    let place = (a.slab(), a.offset());
    drop(a);
    let c = pool.alloc(Request::bytes(128)).unwrap();
    assert_eq!((c.slab(), c.offset()), place);
    // 2: the fullest slab, the lowest address.
    let full = pool.alloc(Request::bytes(900 * KIB)).unwrap();
    let next = pool.alloc(Request::bytes(600 * KIB)).unwrap();
    assert_ne!(full.slab(), next.slab(), "the second did not fit in the first slab");
    let small = pool.alloc(Request::bytes(50 * KIB)).unwrap();
    assert_eq!(small.slab(), full.slab());
    assert!(small.offset() > full.offset());
    // 3: idle pieces merge before a slab is reserved for want of them.
    drop((b, c, full, next, small));
    pool.trim();
    let pool = open(&backend, Config::new(2 * KIB).slabs(SlabPolicy::Single));
    let pieces: Vec<_> = (0..16).map(|_| pool.alloc(Request::bytes(1)).unwrap()).collect();
    let calls = backend.calls();
    drop(pieces);
    let _run = pool.alloc(Request::bytes(2 * KIB)).unwrap();
    assert_eq!(backend.calls(), calls);
    // 4: a slab within the budget before empty ones are given back; 5: those, when nothing else helps.
    let backend = Watched::new();
    let pool = open(&backend, Config::new("8 MiB"));
    drop(pool.alloc(Request::bytes(KIB)).unwrap());
    let _two = pool.alloc(Request::bytes(2 * MIB)).unwrap();
    assert_eq!((pool.stats().slabs, pool.stats().reserved_bytes), (2, 3 * MIB));
    let _six = pool.alloc(Request::bytes(6 * MIB)).unwrap();
    assert_eq!((pool.stats().slabs, pool.stats().reserved_bytes), (2, 8 * MIB));
    // 6: an error.
    assert!(pool.alloc(Request::bytes(1)).unwrap_err().is_full());
}

#[test]
fn slabs_wait_for_the_device_before_they_leave() {
    let backend = Watched::new();
    backend.seen.slow.store(1, Ordering::SeqCst);
    backend.seen.recorded.store(7, Ordering::SeqCst);
    let pool = open(&backend, Config::new("8 MiB"));
    drop(pool.alloc(Request::bytes(MIB)).unwrap());
    assert_eq!(pool.trim(), 0, "the device is not done");
    assert_eq!((pool.stats().retired_bytes, pool.stats().reserved_bytes, backend.reserved()), (MIB, MIB, MIB));
    check(&pool, MIB, 0);
    backend.seen.completed.store(7, Ordering::SeqCst);
    assert_eq!((pool.stats().retired_bytes, backend.reserved()), (0, 0));
    // A request that needs those bytes waits for the device.
    drop(pool.alloc(Request::bytes(MIB)).unwrap());
    backend.seen.recorded.store(9, Ordering::SeqCst);
    let _all = pool.alloc(Request::bytes(8 * MIB)).unwrap();
    assert_eq!(backend.seen.completed.load(Ordering::SeqCst), 9);
    check(&pool, 8 * MIB, 8 * MIB);
}

#[test]
fn a_held_block_is_retired_until_the_hold_ends() {
    let pool = Pool::host(Config::new("1 MiB").slabs(SlabPolicy::Single)).unwrap();
    let block = pool.alloc(Request::bytes(MIB).label("lent")).unwrap();
    let hold = block.hold();
    drop(block.hold());
    drop(block);
    let stats = pool.stats();
    assert_eq!((stats.used_bytes, stats.retired_bytes, stats.live_bytes, stats.free_bytes), (0, MIB, 0, 0));
    assert!(pool.holders().is_empty());
    let error = pool.alloc(Request::bytes(MIB)).unwrap_err();
    assert!(error.is_full() && error.shortage().unwrap().retired_bytes == MIB, "{error}");
    pool.check();
    drop(hold);
    assert_eq!((pool.stats().retired_bytes, pool.stats().free_bytes), (0, MIB));
    assert!(pool.alloc(Request::bytes(MIB)).is_ok());

    let backend = Watched::new();
    let pool = open(&backend, Config::new(MIB).slabs(SlabPolicy::PerBlock));
    let block = pool.alloc(Request::bytes(1000)).unwrap();
    let hold = block.hold();
    drop(block);
    check(&pool, 1000, 0);
    drop(hold);
    check(&pool, 0, 0);
    assert_eq!(backend.reserved(), 0);
}

#[test]
fn errors_tell_the_three_cases_apart_and_say_the_numbers() {
    let pool = Pool::host(Config::new("1 MiB").slabs(SlabPolicy::Single)).unwrap();
    let error = pool.alloc(Request::bytes(MIB + 1)).unwrap_err();
    assert!(error.is_over_budget() && error.is_no_room());
    assert!(error.to_string().contains("1,048,577 bytes (1.00 MiB)"), "{error}");

    let labels = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut blocks: Vec<_> = labels
        .iter()
        .enumerate()
        .map(|(index, label)| pool.alloc(Request::bytes((128 - index as u64) * KIB).label(*label)).unwrap())
        .collect();
    let error = pool.alloc(Request::bytes(200 * KIB).label("one more")).unwrap_err();
    assert!(error.is_full(), "{error}");
    let shortage = error.shortage().unwrap();
    let names: Vec<_> = shortage.holders.iter().map(|holder| holder.label.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    for part in ["200 KiB", "\"one more\"", "1,048,576 bytes (1 MiB)", "\"a\" 128 KiB in 1 block", "largest free run"] {
        assert!(error.to_string().contains(part), "{part} is not in: {error}");
    }
    // Every other block goes: room enough, but not in one run.
    let mut index = 0;
    blocks.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    let error = pool.alloc(Request::bytes(200 * KIB)).unwrap_err();
    assert!(error.is_fragmented(), "{error}");
    assert_eq!(error.shortage().unwrap().largest_free_run_bytes, 128 * KIB);
    assert!(error.to_string().contains("fragmented, the largest free run is 131,072 bytes (128 KiB)"), "{error}");

    let error = pool.alloc(Request::bytes(10).align(128)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Alignment);
    assert!(error.to_string().contains("128") && error.to_string().contains("64 bytes"), "{error}");
    for align in [0, 3, u64::MAX] {
        assert_eq!(pool.alloc(Request::bytes(10).align(align)).unwrap_err().kind(), ErrorKind::Alignment);
    }
    let aligned = pool.alloc(Request::bytes(10).align(64)).unwrap();
    assert_eq!(aligned.offset() % 64, 0);
    pool.check();
}

#[test]
fn blocks_know_what_they_are() {
    let pool = Pool::host(Config::new("1 MiB")).unwrap();
    let block = pool.alloc(Request::bytes(1500).label("a \"label\"\n")).unwrap();
    assert_eq!((block.bytes(), block.label()), (1500, "a \"label\"\n"));
    assert!(block.bytes_held() >= 1500 && block.slab().is_some());
    assert!(block.pool().is_same(&pool));
    assert!(format!("{block:?}").contains("bytes: 1500"), "{block:?}");
    assert!(!pool.holders()[0].to_string().contains('\n'), "labels are printed escaped");
    let empty = pool.alloc(Request::bytes(0).label("nothing")).unwrap();
    assert_eq!((empty.bytes(), empty.bytes_held(), empty.slab(), empty.label()), (0, 0, None, "nothing"));
    assert_eq!(pool.stats().blocks, 1);
}

#[test]
fn zeroed_blocks_are_zero_whoever_had_the_memory() {
    let pool = Pool::host(Config::new("64 KiB").slabs(SlabPolicy::Single)).unwrap();
    for bytes in [1, 63, 64, 500, 5_000, 64 * KIB] {
        let mut dirty = pool.alloc(Request::bytes(64 * KIB)).unwrap();
        dirty.as_bytes_mut().unwrap().fill(0xAB);
        drop(dirty);
        let zeroed = pool.alloc(Request::bytes(bytes).zeroed()).unwrap();
        assert!(zeroed.as_bytes().unwrap().iter().all(|byte| *byte == 0), "{bytes}");
    }
}

#[test]
fn trim_gives_empty_slabs_back_and_keeps_the_others() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("8 MiB"));
    let keep = pool.alloc(Request::bytes(MIB)).unwrap();
    drop(pool.alloc(Request::bytes(2 * MIB)).unwrap());
    assert_eq!(pool.trim(), 2 * MIB);
    check(&pool, MIB, MIB);
    drop(keep);
    assert_eq!(pool.trim(), MIB);
    check(&pool, 0, 0);
}

#[test]
fn closing_says_what_is_held_and_ends_allocation() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("8 MiB"));
    let mut block = pool.alloc(Request::bytes(100).label("kept")).unwrap();
    let other = pool.clone();
    let held = pool.close();
    assert_eq!((held.len(), held[0].label.as_str(), held[0].blocks), (1, "kept", 1));
    assert_eq!(other.alloc(Request::bytes(1)).unwrap_err().kind(), ErrorKind::Closed);
    block.as_bytes_mut().unwrap().fill(1);
    drop(other);
    assert!(backend.reserved() > 0);
    drop(block);
    assert_eq!(backend.reserved(), 0, "the last block gives the slabs back");
}

#[test]
fn statistics_print_as_a_table() {
    let pool = Pool::host(Config::new("6 MiB").slabs(SlabPolicy::Single)).unwrap();
    let _block = pool.alloc(Request::bytes(MIB)).unwrap();
    let text = pool.stats().to_string();
    for part in
        ["budget           6 MiB", "    live         1 MiB        1 MiB", "1 blocks in 1 slab, 1 allocations, 0 failed"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn many_threads_share_one_budget() {
    let backend = Watched::new();
    let pool = open(&backend, Config::new("4 MiB"));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = pool.clone();
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(thread);
                let mut blocks = Vec::new();
                for _ in 0..3_000 {
                    if rng.random_bool(0.55) {
                        let bytes = 2f64.powf(rng.random_range(0.0..21.0)) as u64;
                        if let Ok(mut block) = pool.alloc(Request::bytes(bytes)) {
                            block.as_bytes_mut().unwrap().fill(thread as u8);
                            blocks.push(block);
                        }
                    } else if !blocks.is_empty() {
                        let block: Block<Watched> = blocks.swap_remove(rng.random_range(0..blocks.len()));
                        assert!(block.as_bytes().unwrap().iter().all(|byte| *byte == thread as u8));
                    }
                    if rng.random_bool(0.01) {
                        pool.trim();
                    }
                }
            });
        }
    });
    assert!(backend.seen.peak.load(Ordering::SeqCst) <= 4 * MIB);
    check(&pool, backend.reserved(), 0);
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Pool<Host>>();
    is_send_and_sync::<Block<Host>>();
}

#[test]
fn the_same_calls_get_the_same_places() {
    let run = || {
        let pool = Pool::host(Config::new("16 MiB")).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut blocks = Vec::new();
        let mut places = Vec::new();
        // Serial numbers are counted in the whole process; what is the same is the order in which slabs come up.
        let mut slabs = Vec::new();
        for _ in 0..2_000 {
            if rng.random_bool(0.6) {
                if let Ok(block) = pool.alloc(Request::bytes(2f64.powf(rng.random_range(0.0..21.0)) as u64)) {
                    let serial = block.slab().unwrap();
                    if !slabs.contains(&serial) {
                        slabs.push(serial);
                    }
                    places.push((slabs.iter().position(|slab| *slab == serial), block.offset()));
                    blocks.push(block);
                }
            } else if !blocks.is_empty() {
                blocks.swap_remove(rng.random_range(0..blocks.len()));
            }
        }
        assert!(slabs.len() > 2 && places.len() > 500);
        places
    };
    assert_eq!(run(), run());
}

#[test]
fn threads_do_not_both_grow_for_want_of_the_same_room() {
    let backend = Watched::new();
    backend.seen.delay_ms.store(50, Ordering::SeqCst);
    let pool = open(&backend, Config::new("64 MiB"));
    let start = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                start.wait();
                let block = pool.alloc(Request::bytes(KIB)).unwrap();
                start.wait();
                drop(block);
            });
        }
    });
    assert_eq!(backend.calls(), 1);
}

#[test]
fn every_other_call_of_the_backend_may_fail_too() {
    let backend = Watched::new();
    let seen = &backend.seen;
    let pool = open(&backend, Config::new("8 MiB"));
    let mut kept = pool.alloc(Request::bytes(1000).zeroed()).unwrap();
    let other = pool.alloc(Request::bytes(1000)).unwrap();

    seen.fail_transfers.store(1, Ordering::SeqCst);
    let before = pool.stats();
    assert_eq!(pool.alloc(Request::bytes(500).zeroed()).unwrap_err().kind(), ErrorKind::Device);
    assert!(kept.upload(0, &[1]).is_err() && kept.download(0, &mut [0]).is_err());
    assert!(kept.fill(10, &[1]).is_err() && kept.copy_from(0, &other, 0, 10).is_err());
    assert_eq!(untouched(&before), untouched(&pool.stats()));
    seen.fail_transfers.store(0, Ordering::SeqCst);
    kept.upload(0, &[1]).unwrap();
    check(&pool, backend.reserved(), 2000);

    seen.lost.store(1, Ordering::SeqCst);
    seen.fail_check.store(1, Ordering::SeqCst);
    assert!(pool.alloc(Request::bytes(500)).unwrap_err().is_device_lost());
    seen.fail_check.store(0, Ordering::SeqCst);
    check(&pool, backend.reserved(), 2000);

    // An empty slab that the device does not let go: lost, then in trouble, then done.
    seen.slow.store(1, Ordering::SeqCst);
    seen.recorded.store(5, Ordering::SeqCst);
    drop(pool.alloc(Request::bytes(2 * MIB)).unwrap());
    seen.fail_complete.store(1, Ordering::SeqCst);
    assert!(pool.alloc(Request::bytes(6 * MIB)).unwrap_err().is_device_lost());
    check(&pool, backend.reserved(), 2000);
    seen.lost.store(0, Ordering::SeqCst);
    let error = pool.alloc(Request::bytes(6 * MIB)).unwrap_err();
    assert!(error.is_full() && error.shortage().unwrap().retired_bytes == 2 * MIB, "{error}");
    check(&pool, backend.reserved(), 2000);
    seen.fail_complete.store(0, Ordering::SeqCst);
    assert!(pool.alloc(Request::bytes(6 * MIB)).is_ok());

    seen.fail_staging.store(1, Ordering::SeqCst);
    assert_eq!(Pool::with_backend(backend.clone(), &Config::new("1 MiB")).unwrap_err().kind(), ErrorKind::Device);
}

#[test]
fn the_last_of_a_pool_waits_for_the_device() {
    let backend = Watched::new();
    backend.seen.slow.store(1, Ordering::SeqCst);
    let pool = open(&backend, Config::new("8 MiB"));
    let block = pool.alloc(Request::bytes(1000)).unwrap();
    backend.seen.recorded.store(3, Ordering::SeqCst);
    drop(pool);
    assert_eq!(backend.seen.completed.load(Ordering::SeqCst), 0);
    drop(block);
    assert_eq!((backend.seen.completed.load(Ordering::SeqCst), backend.reserved()), (3, 0));
}

#[test]
fn power_of_two_placement_serves_what_a_classic_buddy_does() {
    let pool = open(&Watched::new(), Config::new("6 MiB").placement(Placement::PowerOfTwo).slabs(SlabPolicy::Single));
    let block = pool.alloc(Request::bytes(3 * MIB)).unwrap();
    assert_eq!((block.offset(), block.bytes_held()), (0, 4 * MIB));
    let error = pool.alloc(Request::bytes(5 * MIB)).unwrap_err();
    assert!(error.is_over_budget(), "5 MiB would take 8: {error}");
    assert!(error.to_string().contains("which takes 8,388,608 bytes (8 MiB)"), "{error}");
    let next = pool.alloc(Request::bytes(2 * MIB)).unwrap();
    assert_eq!(next.offset(), 4 * MIB);
    assert!(pool.alloc(Request::bytes(1)).unwrap_err().is_full());
}

#[test]
fn slabs_that_another_thread_is_giving_back_are_waited_for() {
    let pool = Pool::host(Config::new("64 MiB")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let failures: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                pool.trim();
            }
        });
        // This thread holds nothing whenever it asks: nothing can be full.
        let round = |_| {
            let small = pool.alloc(Request::bytes(8 * MIB)).err();
            small.or_else(|| pool.alloc(Request::bytes(64 * MIB).zeroed()).err())
        };
        let failures: Vec<_> = (0..200).filter_map(round).collect();
        stop.store(true, Ordering::Relaxed);
        failures
    });
    assert!(failures.is_empty(), "{} failures: {}", failures.len(), failures[0]);
}

#[test]
fn odd_limits_are_errors_and_no_panics() {
    let limit = |bytes| Limit { bytes, name: "limit of the test" };
    let limits = |alignment_bytes, granule_bytes, slab| Limits {
        alignment_bytes,
        granule_bytes,
        slab: limit(slab),
        block: limit(u64::MAX),
    };
    let open = |limits, config: Config| Pool::with_backend(Model::new(limits), &config);
    // More than one slab can have, as no real device does.
    let pool = open(limits(64, 1, u64::MAX), Config::new(u64::MAX)).unwrap();
    assert!(pool.alloc(Request::bytes(1)).is_ok());
    assert_eq!(pool.alloc(Request::bytes(u64::MAX)).unwrap_err().kind(), ErrorKind::TooLarge);
    pool.check();
    // No slab at all, and one that is no whole number of granules.
    for (granule, slab, most) in [(1, 0, 0), (64, 10, 0), (4, 10, 8)] {
        let pool = open(limits(64, granule, slab), Config::new(1000)).unwrap();
        let error = pool.alloc(Request::bytes(most + 1)).unwrap_err();
        assert!(error.is_too_large() && error.to_string().contains("limit of the test"), "{error}");
        assert_eq!(pool.alloc(Request::bytes(most)).unwrap().bytes(), most);
        pool.check();
    }
    // The budget's last bytes are no granule.
    let pool = open(limits(64, 4, MIB), Config::new(1001)).unwrap();
    assert!(pool.alloc(Request::bytes(1001)).unwrap_err().is_over_budget());
    assert!(pool.alloc(Request::bytes(1000)).is_ok());
    let pool = open(limits(64, 1, 3 * MIB), Config::new(8 * MIB).placement(Placement::PowerOfTwo)).unwrap();
    let error = pool.alloc(Request::bytes(5 * MIB / 2)).unwrap_err();
    assert!(error.is_too_large() && error.to_string().contains("4 MiB"), "{error}");
    assert_eq!(pool.stats().reserved_bytes, 0);
    for (alignment, granule) in [(0, 1), (3, 1), (1 << 60, 1), (64, 0), (64, 128)] {
        let error = open(limits(alignment, granule, MIB), Config::new(MIB)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[test]
fn a_backend_that_panics_costs_no_budget() {
    let backend = Watched::new();
    backend.fail_calls(1..=1);
    backend.seen.panics.store(1, Ordering::SeqCst);
    let pool = open(&backend, Config::new(MIB));
    let alloc = std::panic::AssertUnwindSafe(|| pool.alloc(Request::bytes(1)));
    assert!(std::panic::catch_unwind(alloc).is_err());
    assert!(pool.alloc(Request::bytes(MIB)).is_ok(), "{}", pool.stats());
    pool.check();
}
