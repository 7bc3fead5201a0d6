//! Random programs whose budget is changed: what must hold of the pool and its backend after every call.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::watched::{Watched, open};
use crate::support::{LONG, rounds, until};
use tensorpool::{Block, Config, ErrorKind, Hold, Placement, Pool, Priority, Request, Result, SlabPolicy};

const KIB: u64 = 1 << 10;

type Waiter = Pin<Box<dyn Future<Output = Result<Block<Watched>>>>>;

struct Program {
    backend: Watched,
    pool: Pool<Watched>,
    reserve_bytes: u64,
    blocks: Vec<Block<Watched>>,
    holds: Vec<Hold>,
    /// With the bytes that each asks for.
    waiters: Vec<(u64, Waiter)>,
    /// How often the pool was over its budget after a call.
    overs: u64,
}

impl Program {
    fn open(rng: &mut ChaCha8Rng) -> Self {
        let backend = Watched::new();
        let budget_bytes = rng.random_range(1..=256) * KIB;
        let policies = [
            SlabPolicy::Growing,
            SlabPolicy::Single,
            SlabPolicy::PerBlock,
            SlabPolicy::Fixed(rng.random_range(1..=32) * KIB),
        ];
        let reserve_bytes = if rng.random_bool(0.2) { budget_bytes / 8 } else { 0 };
        let config = Config::new(budget_bytes)
            .slabs(policies[rng.random_range(0..4)])
            .placement(if rng.random_bool(0.7) { Placement::Exact } else { Placement::PowerOfTwo })
            .high_priority_reserve(reserve_bytes)
            .zero_on_free(rng.random_bool(0.2))
            .free_lists(rng.random_bool(0.7));
        let pool = open(&backend, config);
        let (blocks, holds, waiters) = (Vec::new(), Vec::new(), Vec::new());
        Self { backend, pool, reserve_bytes, blocks, holds, waiters, overs: 0 }
    }

    fn step(&mut self, rng: &mut ChaCha8Rng) {
        let priority = if rng.random_bool(0.2) { Priority::High } else { Priority::Normal };
        let bytes = rng.random_range(1..=64 * KIB) >> rng.random_range(0..11);
        let request = Request::bytes(bytes.max(1)).priority(priority);
        match rng.random_range(0..20) {
            0..8 => {
                if let Ok(block) = self.pool.alloc(request) {
                    self.blocks.push(block);
                    self.is_within_budget();
                }
            }
            8 => {
                let batch = self.pool.alloc_all(&[request.clone(), request]);
                if let Ok(blocks) = batch {
                    self.blocks.extend(blocks);
                    self.is_within_budget();
                }
            }
            9..14 if !self.blocks.is_empty() => {
                drop(self.blocks.swap_remove(rng.random_range(0..self.blocks.len())));
            }
            14 if !self.blocks.is_empty() => {
                let block = self.blocks.swap_remove(rng.random_range(0..self.blocks.len()));
                self.holds.push(block.hold());
            }
            15 => drop(self.holds.pop()),
            16 if !self.blocks.is_empty() => {
                let index = rng.random_range(0..self.blocks.len());
                let held_bytes = self.blocks[index].bytes_held();
                let has_grown = self.blocks[index].try_grow(bytes * 4).is_ok();
                // Within what it holds it may grow in any pool.
                if has_grown && self.blocks[index].bytes_held() > held_bytes {
                    self.is_within_budget();
                }
            }
            17 => {
                let (bytes, request) = (bytes.max(1), request.wait(LONG));
                let mut waiter: Waiter = Box::pin(self.pool.alloc_async(request));
                if let Poll::Ready(block) = waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    self.blocks.extend(block);
                } else {
                    self.waiters.push((bytes, waiter));
                }
            }
            18 => drop(self.pool.trim()),
            _ => self.set_budget(rng),
        }
        self.poll();
    }

    fn set_budget(&mut self, rng: &mut ChaCha8Rng) {
        let bytes = match rng.random_range(0..8) {
            0 => rng.random_range(0..=2 * KIB),
            1 => rng.random_range(0..=u64::MAX),
            _ => rng.random_range(0..=256 * KIB),
        };
        let before = self.pool.stats();
        match self.pool.set_budget(bytes) {
            Ok(over_bytes) => {
                let stats = self.pool.stats();
                assert_eq!(stats.budget_bytes, bytes);
                // The pool's own thread may have given a slab back since.
                assert!(stats.over_budget_bytes() <= over_bytes, "{over_bytes} {stats:?}");
                assert!(bytes >= self.reserve_bytes);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                assert!(bytes < self.reserve_bytes, "{error}");
                assert_eq!(self.pool.stats().budget_bytes, before.budget_bytes);
            }
        }
        self.poll();
        for (bytes, _) in &self.waiters {
            assert!(*bytes <= self.pool.budget_bytes(), "{bytes} can never be served, and wait");
        }
    }

    /// A request was served: what is in use is within the budget.
    fn is_within_budget(&self) {
        let stats = self.pool.stats();
        assert!(stats.used_bytes <= stats.budget_bytes, "{stats:?}");
    }

    fn poll(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        let blocks = &mut self.blocks;
        self.waiters.retain_mut(|(_, waiter)| match waiter.as_mut().poll(cx) {
            Poll::Ready(Ok(block)) => {
                blocks.push(block);
                false
            }
            Poll::Ready(Err(error)) => {
                assert!(error.is_over_budget(), "{error}");
                false
            }
            Poll::Pending => true,
        });
    }

    /// Only what is in use keeps slabs above the budget.
    fn check(&mut self) {
        if !self.waiters.is_empty() {
            // The pool's own thread may be at work.
            return;
        }
        self.pool.check();
        // The pool's own thread may be at work still for a waiter that has left.
        until(|| self.pool.stats().reserved_bytes == self.backend.reserved());
        let stats = self.pool.stats();
        if stats.over_budget_bytes() > 0 {
            self.overs += 1;
            let in_use: BTreeSet<_> = self.blocks.iter().filter_map(Block::slab).collect();
            let most = in_use.len() + self.holds.len();
            assert!(in_use.len() as u64 <= stats.slabs && stats.slabs <= most as u64, "{most} in use: {stats:?}");
        }
    }
}

/// What is reserved rises only within the budget, also where the budget is lowered and raised again and again.
#[test]
fn what_is_reserved_only_falls_while_it_is_over_the_budget() {
    let mut overs = 0;
    for seed in 0..rounds(300) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut program = Program::open(&mut rng);
        for _ in 0..120 {
            // The pool's own thread may reserve a slab just before a budget is lowered.
            let (before_bytes, budget_bytes) = (program.backend.reserved(), program.pool.budget_bytes());
            program.backend.seen.peak.store(before_bytes, Ordering::SeqCst);
            program.step(&mut rng);
            let peak_bytes = program.backend.seen.peak.load(Ordering::SeqCst);
            let stats = program.pool.stats();
            assert!(
                peak_bytes <= stats.budget_bytes.max(budget_bytes).max(before_bytes),
                "seed {seed}: {before_bytes} to {peak_bytes}: {stats:?}"
            );
            program.check();
        }
        overs += program.overs;
        let Program { backend, pool, blocks, holds, waiters, .. } = program;
        drop((blocks, holds, waiters));
        // The pool's own thread may be dropping a slab: then that is over the budget for a moment.
        let _ = pool.set_budget(1 << 20);
        pool.trim();
        until(|| pool.stats().reserved_bytes == 0);
        assert_eq!(backend.reserved(), 0, "seed {seed}");
        let bytes = pool.budget_bytes();
        assert!(pool.alloc(Request::bytes(bytes).priority(Priority::High)).is_ok(), "seed {seed}: {:?}", pool.stats());
    }
    assert!(overs > 1000, "only {overs} calls were over the budget");
}
