//! Blocks that are freed at once leave the pool as single drops do.

use std::thread;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{Block, Config, Host, Pool, Request, SlabPolicy, Stats};

use crate::support::rounds;

const MIB: u64 = 1 << 20;

const POLICIES: [SlabPolicy; 5] =
    [SlabPolicy::Expanding, SlabPolicy::Single, SlabPolicy::Growing, SlabPolicy::Fixed(4 * MIB), SlabPolicy::PerBlock];

fn blocks(pool: &Pool<Host>, random: &mut ChaCha8Rng) -> Vec<Block<Host>> {
    let count = random.random_range(0..40);
    let block = |index: usize| {
        let bytes = if random.random_range(0..2) == 0 { 512 } else { MIB };
        let bytes = if index == 0 { 0 } else { random.random_range(1..=bytes) };
        pool.alloc(Request::bytes(bytes).label(["a", "b", ""][index % 3])).unwrap()
    };
    (0..count).map(block).collect()
}

/// What does not depend on when memory went home.
fn books(pool: &Pool<Host>) -> Stats {
    pool.check();
    let mut stats = pool.stats();
    stats.metadata_bytes = 0;
    stats
}

/// The same program, with `free_all` or with drops.
fn run(config: Config, seed: u64, at_once: bool) -> Vec<Stats> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let pool = Pool::host(config).unwrap();
    let step = |_| {
        let mut freed = blocks(&pool, &mut random);
        let kept = freed.split_off(freed.len() / 2);
        let holds: Vec<_> = freed.iter().step_by(3).map(Block::hold).collect();
        if at_once {
            pool.free_all(freed)
        } else {
            drop(freed)
        }
        let held = books(&pool);
        drop(holds);
        if at_once {
            pool.free_all(kept)
        } else {
            drop(kept)
        }
        assert_eq!(pool.holders().len(), 0);
        [held, books(&pool)]
    };
    (0..5).flat_map(step).collect()
}

#[test]
fn the_books_are_those_of_single_drops() {
    for seed in 0..rounds(10) {
        for policy in POLICIES {
            for zeroes in [false, true] {
                let config = Config::new(64 * MIB).slabs(policy).zero_on_free(zeroes);
                let (at_once, singly) = (run(config.clone(), seed, true), run(config, seed, false));
                assert_eq!(at_once, singly, "{seed} {policy} zeroes: {zeroes}");
            }
        }
    }
}

#[test]
fn a_waiter_is_served() {
    let pool = Pool::host(Config::new(8 * MIB).slabs(SlabPolicy::Single)).unwrap();
    let held = pool.alloc_all(&[Request::bytes(MIB), Request::bytes(MIB), Request::bytes(4 * MIB)]).unwrap();
    let waiter = {
        let pool = pool.clone();
        thread::spawn(move || pool.alloc(Request::bytes(8 * MIB).wait(Duration::from_secs(60))).map(drop))
    };
    while pool.stats().waiting == 0 {
        thread::yield_now();
    }
    pool.free_all(held);
    waiter.join().unwrap().unwrap();
    pool.check();
}

/// Planned blocks go to their arena, and blocks of another pool to theirs.
#[test]
fn planned_blocks_and_those_of_another_pool_go_home() {
    let [pool, other] = [(); 2].map(|()| Pool::host(Config::new(64 * MIB)).unwrap());
    let planned = pool.auto_plan().unwrap();
    for _ in 0..5 {
        pool.mark_step();
        let mut step: Vec<_> = [MIB, 2 * MIB].map(|bytes| pool.alloc(Request::bytes(bytes)).unwrap()).into();
        step.push(other.alloc(Request::bytes(MIB)).unwrap());
        step.push(pool.alloc(Request::bytes(0)).unwrap());
        pool.free_all(step);
        assert_eq!((pool.stats().blocks, other.stats().blocks), (0, 0));
    }
    assert!(planned.report().allocations_planned > 0);
    drop(planned);
    pool.check();
    other.check();
}

/// An iterator that panics has given blocks up: they go home as they would without the call.
#[test]
fn an_iterator_may_panic() {
    let pool = Pool::host(Config::new(8 * MIB)).unwrap();
    let blocks: Vec<_> = (0..4).map(|_| pool.alloc(Request::bytes(MIB)).unwrap()).collect();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.free_all(blocks.into_iter().enumerate().map(|(index, block)| {
            assert!(index < 2, "as the test wants");
            block
        }));
    }));
    assert!(result.is_err());
    assert_eq!(pool.stats().blocks, 0);
    pool.check();
}
