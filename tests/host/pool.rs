//! The pool: budget, order of attempts, what failed calls leave, and every kind of error.

use std::sync::atomic::Ordering;

use crate::support::rounds;
use crate::support::watched::{Watched, check, open, untouched};
use ndarray::Ix2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{Block, Config, ErrorKind, Host, Placement, Pool, Request, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

#[test]
fn random_programs_keep_the_books_at_every_step() {
    for seed in 0..rounds(60) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let budget = [100, 5_000, 64 * KIB, MIB + 1, 6 * MIB, 40 * MIB][rng.random_range(0..6)];
        let placement = if rng.random_bool(0.7) { Placement::Exact } else { Placement::PowerOfTwo };
        let policy = [SlabPolicy::Expanding, SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::PerBlock]
            [rng.random_range(0..4)];
        let limit = if rng.random_bool(0.3) { budget / 3 + 1 } else { u64::MAX >> 1 };
        let backend = Watched::new().slab_limit(limit).expanding(4 * KIB);
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
                                if pool.slab_policy() == SlabPolicy::Expanding {
                                    // In whole pages, or as a piece.
                                    assert!(shortage.needed_bytes >= needed, "{context}: {error}");
                                } else {
                                    assert_eq!(shortage.needed_bytes, needed, "{context}: {error}");
                                }
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
    for part in ["200 KiB", "\"one more\"", "1,048,576 bytes (1 MiB)", "\"a\" 128 KiB in 1 block", "28,672 free"] {
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
    // What "a" had, and the 28 KiB beside it that nobody had.
    assert_eq!(error.shortage().unwrap().largest_free_run_bytes, 156 * KIB);
    assert!(error.to_string().contains("fragmented, a slab has 540,672 bytes (528 KiB) not in use, but the largest free run is 159,744 bytes (156 KiB)"), "{error}");

    let error = pool.alloc(Request::bytes(10).align(4 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Alignment);
    assert!(error.to_string().contains("4194304") && error.to_string().contains("2 MiB"), "{error}");
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
    assert_eq!((block.bytes(), block.label().text()), (1500, "a \"label\"\n"));
    assert!(block.bytes_held() >= 1500 && block.slab().is_some());
    assert!(block.pool().is_same(&pool));
    assert!(format!("{block:?}").contains("bytes: 1500"), "{block:?}");
    assert!(!pool.holders()[0].to_string().contains('\n'), "labels are printed escaped");
    let empty = pool.alloc(Request::bytes(0).label("nothing")).unwrap();
    assert_eq!((empty.bytes(), empty.bytes_held(), empty.slab(), empty.label().text()), (0, 0, None, "nothing"));
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
    let run = |slabs| {
        let pool = Pool::host(Config::new("16 MiB").slabs(slabs)).unwrap();
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
        assert!(places.len() > 500);
        (slabs.len(), places)
    };
    for (policy, slabs_least) in [(SlabPolicy::Expanding, 1), (SlabPolicy::Growing, 3)] {
        let (slabs, places) = run(policy);
        assert!(slabs >= slabs_least, "{slabs}");
        assert_eq!(places, run(policy).1);
    }
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
fn a_tensor_that_cannot_be_reinterpreted_comes_back() {
    let pool = Pool::host(Config::new(64 * KIB)).unwrap();
    let wide = |values: Tensor<f32, Host>| -> tensorpool::Result<Tensor<f64, Host>> { Ok(values.reinterpret()?) };
    let boxed = |values: Tensor<f32, Host>| -> Result<Tensor<f64, Host>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(values.reinterpret()?)
    };
    let values = pool.zeros::<f32>([10, 3]).unwrap();
    let used_bytes = pool.stats().used_bytes;
    let returned = values.reinterpret::<f64>().unwrap_err();
    assert_eq!(
        returned.to_string(),
        "shape [10, 3] of f32 (4 bytes each) does not end in whole elements of f64 (8 bytes each)"
    );
    assert_eq!((pool.stats().blocks, pool.stats().used_bytes), (1, used_bytes));
    let (values, error) = returned.into_parts();
    assert_eq!((values.elements(), error.kind()), (30, ErrorKind::Shape));

    // What `?` drops goes home.
    assert_eq!(wide(values).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(pool.stats().blocks, 0);
    let error = boxed(pool.zeros::<f32>([3]).unwrap()).unwrap_err();
    assert!(error.to_string().contains("shape [3] of f32"), "{error}");
    assert_eq!(pool.stats().blocks, 1, "the box has the tensor");
    drop(error);
    assert_eq!(pool.stats().blocks, 0);
}

#[test]
fn bytes_are_seen_as_wider_elements_and_back() {
    let pool = Pool::host(Config::new(64 * KIB)).unwrap();
    let mut bytes = pool.zeros::<u8>([2, 12]).unwrap();
    bytes.upload(&(0..24).collect::<Vec<u8>>()).unwrap();
    let words = bytes.reinterpret::<u32>().unwrap();
    assert_eq!(words.shape(), [2, 3]);
    assert_eq!(words.as_slice().unwrap()[1], u32::from_ne_bytes([4, 5, 6, 7]));
    let halves = words.reinterpret::<u16>().unwrap();
    assert_eq!(halves.shape(), [2, 6]);
    let floats = halves.reinterpret::<f32>().unwrap();
    assert_eq!(floats.view::<Ix2>().unwrap().dim(), (2, 3));
    let bytes = floats.reinterpret::<u8>().unwrap();
    assert_eq!((bytes.shape(), bytes.as_slice().unwrap()[23]), (&[2, 12][..], 23));
    let bits = pool.zeros::<f64>([2, 2]).unwrap().reinterpret::<u64>().unwrap();
    assert_eq!(bits.elements(), 4);

    let empty = pool.zeros::<f64>([3, 0]).unwrap().reinterpret::<u8>().unwrap();
    assert_eq!(empty.shape(), [3, 0]);
    let scalar = pool.zeros::<f64>([]).unwrap().reinterpret::<u64>().unwrap();
    assert_eq!(scalar.shape(), [0; 0]);
    assert_eq!(scalar.reinterpret::<u8>().unwrap_err().error().kind(), ErrorKind::Shape);
    let none = pool.zeros::<u8>([4]).unwrap().reinterpret::<()>().unwrap_err();
    assert_eq!(none.error().kind(), ErrorKind::Type);
    // More bytes than a `usize` counts, in no elements at all.
    let vast = pool.zeros::<u64>([0, usize::MAX >> 2]).unwrap();
    assert_eq!(vast.reinterpret::<u8>().unwrap_err().error().kind(), ErrorKind::Shape);
}

/// Free lists tell the books later what went through them, but before an error says what is held.
#[test]
fn an_error_says_what_is_held_also_where_free_lists_have_more_to_tell() {
    let pool = Pool::host(Config::new(64 << 10)).unwrap();
    let small = || Request::bytes(100);
    let _held = pool.alloc(small()).unwrap();
    drop(pool.alloc(small()).unwrap());
    for batch in [vec![Request::bytes(65 << 10)], vec![Request::bytes(60 << 10), Request::bytes(5 << 10)]] {
        let error = pool.alloc_all(&batch).unwrap_err();
        assert!(error.is_over_budget());
        let shortage = error.shortage().unwrap();
        assert_eq!((shortage.live_bytes, shortage.used_bytes), (100, 128), "{error}");
    }
}
