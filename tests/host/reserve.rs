//! The reserve for high priority: what is open to others, whichever blocks are held.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::space::Placement;
use tensorpool::{Block, Config, ErrorKind, Fallback, Hold, Host, Pool, Priority, Request, SlabPolicy};

const KIB: u64 = 1 << 10;
const LONG: Duration = Duration::from_secs(60);

fn high(bytes: u64) -> Request<'static> {
    Request::bytes(bytes).priority(Priority::High)
}

fn until(mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < LONG, "it never came to that");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What of the reserve is closed to others, as the error of a batch says that takes all there is. Where it is served nothing
/// is held.
fn closed_bytes(pool: &Pool<Host>, reserve_bytes: u64) -> u64 {
    let batch = [Request::bytes(pool.budget_bytes() - reserve_bytes), high(reserve_bytes)];
    match pool.alloc_all(&batch) {
        Ok(_) => reserve_bytes,
        Err(error) => {
            assert!(error.is_full(), "{error}");
            error.shortage().unwrap().high_priority_reserve_bytes
        }
    }
}

#[test]
fn what_high_priority_holds_counts_against_the_reserve() {
    for (high_kib, normal_kib) in [(0, 768), (128, 768), (256, 768), (512, 512)] {
        let config = Config::new(1024 * KIB).slabs(SlabPolicy::Single).high_priority_reserve(256 * KIB);
        let pool = Pool::host(config).unwrap();
        let _high = pool.alloc(high(high_kib * KIB)).unwrap();
        assert_eq!(closed_bytes(&pool, 256 * KIB), (256 - high_kib.min(256)) * KIB);
        let normal: Vec<_> = std::iter::from_fn(|| pool.alloc(Request::bytes(16 * KIB)).ok()).collect();
        assert_eq!(normal.len() as u64 * 16, normal_kib, "{high_kib} KiB are held by high priority");
        let rest: Vec<_> = std::iter::from_fn(|| pool.alloc(high(16 * KIB)).ok()).collect();
        assert_eq!(rest.len() as u64 * 16, 1024 - normal_kib - high_kib);
        pool.check();
    }
}

/// Where a KiB of the reserve is in use, a request still gets all that lies beyond the reserve.
#[test]
fn a_request_for_all_beyond_the_reserve_is_served_beside_it() {
    let config = Config::new(64 * KIB).high_priority_reserve(16 * KIB).slabs(SlabPolicy::Single);
    let pool = Pool::host(config).unwrap();
    let _kept = pool.alloc(high(KIB)).unwrap();
    let normal = pool.alloc(Request::bytes(48 * KIB)).unwrap();
    assert!(pool.alloc(Request::bytes(1)).unwrap_err().is_full());
    let _rest = pool.alloc(high(15 * KIB)).unwrap();
    drop(normal);
    pool.check();
}

/// A waiter that is overdue for bytes that others hold keeps requests of high priority from everything but the reserve.
#[test]
fn an_overdue_waiter_leaves_the_reserve_open() {
    let config = Config::new(64 * KIB).high_priority_reserve(16 * KIB).slabs(SlabPolicy::Single);
    let pool = Pool::host(config).unwrap();
    let rest = pool.alloc(Request::bytes(10 * KIB)).unwrap();
    thread::scope(|scope| {
        let normal = scope.spawn(|| pool.alloc(Request::bytes(48 * KIB).wait(LONG)));
        until(|| pool.stats().waiting == 1);
        for _ in 0..40 {
            pool.alloc(high(KIB)).unwrap();
        }
        // 54 KiB are left, and 16 of them are theirs.
        assert!(pool.alloc(Request::bytes(KIB)).unwrap_err().is_full());
        assert!(pool.alloc(high(17 * KIB)).unwrap_err().is_full());
        let some = pool.alloc(high(10 * KIB)).unwrap();
        assert!(pool.alloc(high(7 * KIB)).unwrap_err().is_full());
        assert!(pool.alloc_all(&[high(3 * KIB), high(4 * KIB)]).unwrap_err().is_full());
        drop(pool.alloc_all(&[high(3 * KIB), high(3 * KIB)]).unwrap());
        // In line, too.
        let all = pool.alloc(high(6 * KIB)).unwrap();
        let waiting = scope.spawn(|| pool.alloc(high(6 * KIB).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 2);
        drop(all);
        waiting.join().unwrap().unwrap();
        drop(some);
        drop(rest);
        let normal = normal.join().unwrap().unwrap();
        assert_eq!(normal.bytes_held(), 48 * KIB);
    });
    pool.check();
}

/// Also while a waiter that may not use the reserve is due.
#[test]
fn a_waiter_for_the_reserve_is_passed_a_bounded_number_of_times() {
    let config = Config::new(64 * KIB).high_priority_reserve(16 * KIB).slabs(SlabPolicy::Single);
    let pool = Pool::host(config).unwrap();
    let rest = pool.alloc(Request::bytes(47 * KIB)).unwrap();
    let mut small: VecDeque<_> = (0..15).map(|_| pool.alloc(high(KIB)).unwrap()).collect();
    thread::scope(|scope| {
        let normal = scope.spawn(|| pool.alloc(Request::bytes(48 * KIB).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 1);
        for _ in 0..16 {
            pool.alloc(Request::bytes(KIB / 2)).unwrap();
        }
        assert!(pool.alloc(Request::bytes(KIB / 2)).unwrap_err().is_full());
        let waiting = scope.spawn(|| pool.alloc(high(8 * KIB).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 2);
        let passes = (0..100).take_while(|_| {
            drop(small.pop_front());
            pool.alloc(high(KIB)).map(|block| small.push_back(block)).is_ok()
        });
        assert_eq!(passes.count(), 16);
        // It may use the reserve past the other, and goes first there.
        small.truncate(9);
        assert!(pool.alloc(high(KIB)).unwrap_err().is_full());
        small.clear();
        waiting.join().unwrap().unwrap();
        assert_eq!(pool.stats().waiting, 1);
        drop(pool.alloc(high(KIB)).unwrap());
        drop(rest);
        normal.join().unwrap().unwrap();
    });
    pool.check();
}

/// A request takes more than it asks for. Where that is closed to it, the pool is full and not fragmented, or serves it from a
/// slab of its size.
#[test]
fn a_request_that_whole_pages_would_take_past_the_reserve() {
    for policy in [SlabPolicy::Single, SlabPolicy::Growing, SlabPolicy::Fixed(1 << 20)] {
        let pool = Pool::host(Config::new(2_000_000).slabs(policy).high_priority_reserve(1_000_000)).unwrap();
        // A slab stands ready in whose pages the request would take 1,000,448 bytes.
        drop(pool.alloc(high(1_200_000)).unwrap());
        let request = || Request::bytes(1_000_000);
        assert_eq!(pool.alloc(request()).unwrap().bytes_held(), 1_000_000);
        pool.trim();
        let without = pool.alloc(request().without(Fallback::ReturnEmpty));
        // The slab that has all of the budget stands in its way.
        assert_eq!(without.is_ok(), policy != SlabPolicy::Single);
        drop(without);
        pool.trim();
        assert_eq!(pool.alloc(request().wait(LONG)).unwrap().bytes_held(), 1_000_000);
    }
    let pool = Pool::host(Config::new(2_000_000).slabs(SlabPolicy::Single).high_priority_reserve(1_000_000)).unwrap();
    let _held = pool.alloc(high(64)).unwrap();
    let error = pool.alloc(Request::bytes(1_000_000)).unwrap_err();
    assert!(error.is_full() && error.to_string().contains("which takes 1,000,448 bytes"), "{error}");
    // Next to nothing is open.
    let pool =
        Pool::host(Config::new(1 << 20).slabs(SlabPolicy::Growing).high_priority_reserve((1 << 20) - 100)).unwrap();
    assert_eq!(pool.alloc(Request::bytes(100)).unwrap().bytes_held(), 100);
    assert!(pool.alloc(Request::bytes(101)).unwrap_err().is_over_budget());
    pool.check();
}

/// A pool in which nothing is held has no fragments: less is reserved than a request needs that may not grow.
#[test]
fn a_request_that_may_not_grow_finds_no_fragments() {
    let pool = Pool::host(Config::new(1 << 20)).unwrap();
    let request = |bytes| Request::bytes(bytes).without(Fallback::Grow);
    let error = pool.alloc(request(100)).unwrap_err();
    assert!(error.is_full() && error.to_string().contains("may not grow"), "{error}");
    // 128 KiB, of which every other page is free.
    let mut pages: Vec<_> = (0..128).map(|_| Some(pool.alloc(Request::bytes(KIB)).unwrap())).collect();
    assert_eq!(pool.stats().slabs, 1);
    pages.iter_mut().step_by(2).for_each(|page| *page = None);
    pool.trim();
    assert!(pool.alloc(request(64 * KIB)).unwrap_err().is_fragmented());
    assert!(pool.alloc(request(64 * KIB + 1)).unwrap_err().is_full());
    assert!(pool.alloc(Request::bytes(64 * KIB + 1)).is_ok());
    pool.check();
}

/// A batch of several priorities gets the same whatever its order.
#[test]
fn a_batch_does_not_depend_on_its_order() {
    for held_kib in [0, 4, 16] {
        let pool = Pool::host(Config::new(64 * KIB).high_priority_reserve(16 * KIB).slabs(SlabPolicy::Single)).unwrap();
        let _held = pool.alloc(high(held_kib * KIB)).unwrap();
        let normal = |kib| Request::bytes(kib * KIB);
        let fits = [normal(20), high((16 - held_kib) * KIB), normal(28)];
        let too_much = [normal(20), high(KIB), normal(29)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let batch = |of: &[Request<'static>; 3]| order.map(|index| of[index].clone());
            let blocks = pool.alloc_all(&batch(&fits)).unwrap();
            for (block, index) in blocks.iter().zip(order) {
                assert_eq!(block.bytes(), [20, 16 - held_kib, 28][index] * KIB);
            }
            drop(blocks);
            assert!(pool.alloc_all(&batch(&too_much)).unwrap_err().is_over_budget());
        }
        pool.check();
    }
}

/// The arena of planned steps is of normal priority, also where a block of high priority is in it.
#[test]
fn a_planned_block_does_not_use_the_reserve() {
    let pool = Pool::host(Config::new(64 * KIB).high_priority_reserve(16 * KIB).slabs(SlabPolicy::Single)).unwrap();
    let step = [Lifetime::new(0, 2, 8 * KIB), Lifetime::new(1, 2, 8 * KIB)];
    let plan = plan::solve(&step, &Options::new().align(pool.limits().alignment_bytes)).unwrap();
    let steps = pool.follow_plan(&step, &plan).unwrap();
    let blocks = [pool.alloc(high(8 * KIB)).unwrap(), pool.alloc(high(8 * KIB)).unwrap()];
    assert_eq!(pool.stats().allocations_planned, 2);
    assert_eq!(closed_bytes(&pool, 16 * KIB), 16 * KIB);
    let normal = pool.alloc(Request::bytes(32 * KIB)).unwrap();
    assert!(pool.alloc(Request::bytes(1)).unwrap_err().is_full());
    let rest = pool.alloc(high(16 * KIB)).unwrap();
    drop((blocks, steps, normal, rest));
    assert_eq!(closed_bytes(&pool, 16 * KIB), 16 * KIB);
    pool.check();
}

/// What a random program holds of high priority.
struct Program {
    pool: Pool<Host>,
    held: Vec<(Block<Host>, bool)>,
    holds: Vec<(Hold, u64, bool)>,
}

impl Program {
    fn alloc(&mut self, request: Request, is_high: bool) {
        match self.pool.alloc(request) {
            Ok(block) => self.held.push((block, is_high)),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::Fragmented | ErrorKind::OverBudget))
            }
        }
    }

    fn free(&mut self, index: usize, is_held: bool) {
        let (block, is_high) = self.held.swap_remove(index);
        if is_held {
            self.holds.push((block.hold(), block.bytes_held(), is_high));
        }
    }

    fn step(&mut self, rng: &mut ChaCha8Rng) {
        let is_high = rng.random_bool(0.4);
        let mut draw = || {
            let bytes = if rng.random_bool(0.5) { rng.random_range(1..600) } else { rng.random_range(1..12 * KIB) };
            if is_high { high(bytes) } else { Request::bytes(bytes) }
        };
        let requests = [draw(), draw(), draw()];
        match rng.random_range(0..10u32) {
            0..4 => self.alloc(requests[0].clone(), is_high),
            4..6 if !self.held.is_empty() => self.free(rng.random_range(0..self.held.len()), rng.random_bool(0.3)),
            6 => drop(self.holds.pop()),
            7 => {
                if let Ok(blocks) = self.pool.alloc_all(&requests) {
                    self.held.extend(blocks.into_iter().map(|block| (block, is_high)));
                }
            }
            8 => {
                let blocks = self.held.iter_mut().filter(|_| rng.random_bool(0.8)).map(|(block, _)| block);
                self.pool.compact(blocks).unwrap();
            }
            _ => {
                // A future that is given up, before it is served or after.
                let requests = requests.map(|request| request.wait(LONG));
                let mut future = pin!(self.pool.alloc_all_async(&requests));
                let mut context = Context::from_waker(Waker::noop());
                match future.as_mut().poll(&mut context) {
                    Poll::Ready(Ok(blocks)) => self.held.extend(blocks.into_iter().map(|block| (block, is_high))),
                    Poll::Ready(Err(error)) => assert!(error.is_over_budget()),
                    Poll::Pending if !self.held.is_empty() => self.free(0, false),
                    Poll::Pending => {}
                }
            }
        }
    }

    fn check(&self, reserve_bytes: u64) {
        self.pool.trim();
        let held = self.held.iter().filter(|(_, is_high)| *is_high).map(|(block, _)| block.bytes_held());
        let retired = self.holds.iter().filter(|(_, _, is_high)| *is_high).map(|(_, bytes, _)| bytes);
        let high_bytes = held.sum::<u64>() + retired.sum::<u64>();
        assert_eq!(closed_bytes(&self.pool, reserve_bytes), reserve_bytes.saturating_sub(high_bytes));
        self.pool.check();
    }
}

/// The count stays right through batches, moves, holds, zeroing and futures that are given up.
#[test]
fn the_reserve_is_what_high_priority_does_not_hold() {
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let policies = [
            SlabPolicy::Expanding,
            SlabPolicy::Growing,
            SlabPolicy::Single,
            SlabPolicy::PerBlock,
            SlabPolicy::Fixed(20 * KIB),
        ];
        let config = Config::new(64 * KIB)
            .high_priority_reserve(32 * KIB)
            .slabs(policies[rng.random_range(0..4usize)])
            .placement(if rng.random_bool(0.7) { Placement::Exact } else { Placement::PowerOfTwo })
            .zero_on_free(rng.random_bool(0.3));
        let mut program = Program { pool: Pool::host(config).unwrap(), held: Vec::new(), holds: Vec::new() };
        for _ in 0..300 {
            program.step(&mut rng);
            program.check(32 * KIB);
        }
        program.held.clear();
        program.holds.clear();
        program.check(32 * KIB);
        let _normal = program.pool.alloc(Request::bytes(32 * KIB)).unwrap();
        assert_eq!(closed_bytes(&program.pool, 32 * KIB), 32 * KIB);
    }
}
