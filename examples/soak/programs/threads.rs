//! A program on one pool and several threads, which hand each other blocks and wait for memory.
//!
//! Which thread comes first is not in the program's hands: so nothing is foretold. Each block carries a pattern that must
//! still be there when another thread gives it back, and in the end the books must balance.
//!
//! Who waits for long holds nothing, and who comes to his end leaves nothing on the table: so everybody is served.

use std::mem;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tensorpool::{Block, Config, ErrorKind, Hold, Placement, Pool, Priority, Request, Result, SlabPolicy};

use super::disturbed::Disturbed;
use super::pattern::{Content, Pattern};
use super::trouble::{Failure, Trouble};
use super::{Choices, Count, Done, Random};

/// Longer than anybody has to wait who can be served.
const PATIENCE: Duration = Duration::from_secs(100);
/// Blocks that a thread has at most.
const BLOCKS_MOST: usize = 40;

/// A block and what was written into it.
type Held = (Block<Disturbed>, Content);

/// What the threads share.
struct Table {
    pool: Pool<Disturbed>,
    trouble: Arc<Trouble>,
    budget_bytes: u64,
    /// Blocks for anyone to take.
    given: Mutex<Vec<Held>>,
    patterns: AtomicU64,
}

struct Worker<'a> {
    table: &'a Table,
    choices: Random,
    held: Vec<Held>,
    holds: Vec<Hold>,
}

/// Runs a program of so many events on each of several threads.
pub fn run(seed: u64, program: u64, events: u64) -> Done {
    let mut choices = Random::new(seed, program);
    let table = Table::open(&mut choices);
    let threads = 2 + choices.below(5);
    thread::scope(|scope| {
        let table = &table;
        let work = |index: u64| {
            let choices = Random::new(seed ^ (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), program);
            scope.spawn(move || Worker { table, choices, held: Vec::new(), holds: Vec::new() }.run(events))
        };
        let threads: Vec<_> = (0..threads).map(work).collect();
        // A panic goes on in this thread, when all others have ended.
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        ended.into_iter().for_each(|end| end.unwrap_or_else(|panic| resume_unwind(panic)));
    });
    table.end();
    let mut done = Done::operations(threads * events);
    done[Count::Faults] = table.trouble.faults();
    done
}

impl Table {
    fn open(choices: &mut impl Choices) -> Self {
        let budget_bytes = 4096 + choices.even_in_log(1 << 20);
        let config = Config::new(budget_bytes)
            .high_priority_reserve(if choices.chance(1, 4) { budget_bytes / 8 } else { 0 })
            .slabs(choices.pick(&[SlabPolicy::Growing, SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::PerBlock]))
            .placement(choices.pick(&[Placement::Exact, Placement::Exact, Placement::PowerOfTwo]));
        let backend = Disturbed::new(64, 1, u64::MAX >> 1);
        let trouble = Arc::clone(&backend.trouble);
        let pool = Pool::with_backend(backend, &config).expect("a pool on a backend that does not fail yet");
        trouble.be_late(choices.pick(&[0, 0, 5]));
        Self { pool, trouble, budget_bytes, given: Mutex::default(), patterns: AtomicU64::new(0) }
    }

    /// Another thread that panics here leaves the table as it was.
    fn given(&self) -> MutexGuard<'_, Vec<Held>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is held, and nothing is left behind.
    fn end(&self) {
        assert!(self.given().is_empty(), "blocks are left on the table");
        self.trouble.fail_creations(0, Failure::Device);
        self.trouble.be_late(0);
        let stats = self.pool.stats();
        let held = (stats.live_bytes, stats.used_bytes, stats.retired_bytes, stats.blocks, stats.waiting);
        assert_eq!(held, (0, 0, 0, 0, 0), "{stats:?}");
        self.pool.check();
        self.pool.trim();
        assert_eq!((self.pool.stats().reserved_bytes, self.trouble.reserved_bytes()), (0, 0));
        assert!(self.trouble.reserved_peak_bytes() <= self.budget_bytes, "over the budget, at some moment");
    }
}

impl Worker<'_> {
    fn run(mut self, events: u64) {
        let mut weights = self.choices.swarm::<9>();
        let common = [60, 4, 40, 20, 20, 6, 2, 4, 1];
        weights.iter_mut().zip(common).for_each(|(weight, common)| *weight = (*weight + 1) * common);
        for _ in 0..events {
            let kind = if self.held.len() < BLOCKS_MOST { self.choices.weighted(&weights) } else { 2 };
            match kind {
                0 => self.alloc(),
                1 => self.alloc_patiently(),
                2 => self.free(),
                3 => self.give(),
                4 => self.take(),
                5 => self.hold(),
                6 => drop(self.table.pool.trim()),
                7 => self.look(),
                _ => self
                    .table
                    .trouble
                    .fail_creations(self.choices.below(3), self.choices.pick(&[Failure::OutOfMemory, Failure::Device])),
            }
        }
        self.leave();
    }

    /// Gives everything back, also what others have put on the table for somebody who may be waiting.
    fn leave(&mut self) {
        self.holds.clear();
        while !self.held.is_empty() {
            self.free();
        }
        let given = mem::take(&mut *self.table.given());
        given.iter().for_each(|held| verify(held, true));
    }

    /// Some bytes, now or soon; one block, or a few.
    fn alloc(&mut self) {
        let most_bytes = self.table.budget_bytes / 2;
        let bytes = self.choices.even_in_log(most_bytes);
        let mut request = Request::bytes(bytes).priority(self.priority());
        if self.choices.chance(1, 16) {
            request = request.wait(Duration::from_micros(self.choices.below(300)));
        }
        if self.choices.chance(1, 4) {
            request = request.label("some");
        }
        let result = match self.choices.below(16) {
            0 => self.table.pool.alloc_all(&[request, Request::bytes(bytes / 2), Request::bytes(1)]),
            1 => pollster::block_on(self.table.pool.alloc_async(request)).map(|block| vec![block]),
            _ => self.table.pool.alloc(request).map(|block| vec![block]),
        };
        self.receive(result, bytes, false);
    }

    /// Holds nothing, and waits until he is served.
    fn alloc_patiently(&mut self) {
        self.leave();
        let bytes = self.choices.even_in_log(self.table.budget_bytes / 8);
        let request = Request::bytes(bytes).priority(self.priority()).wait(PATIENCE);
        let result = match self.choices.below(3) {
            0 => self.table.pool.alloc_all(&[request.clone(), request]),
            1 => pollster::block_on(self.table.pool.alloc_async(request)).map(|block| vec![block]),
            _ => self.table.pool.alloc(request).map(|block| vec![block]),
        };
        self.receive(result, bytes, true);
    }

    fn priority(&mut self) -> Priority {
        self.choices.pick(&[Priority::Low, Priority::Normal, Priority::Normal, Priority::High])
    }

    fn receive(&mut self, result: Result<Vec<Block<Disturbed>>>, bytes: u64, must_be_served: bool) {
        match result {
            Ok(blocks) => {
                assert!(blocks[0].bytes() == bytes, "{:?} for {bytes} bytes", blocks[0]);
                for mut block in blocks {
                    let pattern = Pattern::Unique(self.table.patterns.fetch_add(1, Ordering::Relaxed));
                    let is_whole = block.bytes() <= 4096;
                    let content = Content::write(&mut block, pattern, is_whole).expect("a transfer that does not fail");
                    self.held.push((block, content));
                }
            }
            Err(error) => {
                let is_no_room = error.is_no_room() && !must_be_served;
                let is_fault = matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::Device);
                assert!(is_no_room || is_fault, "{:?}: {error}", error.kind());
            }
        }
    }

    fn free(&mut self) {
        let Some(index) = self.held.len().checked_sub(1) else { return };
        let index = self.choices.below(index as u64 + 1) as usize;
        verify(&self.held.swap_remove(index), self.choices.chance(1, 4));
    }

    fn give(&mut self) {
        if let Some(held) = self.held.pop() {
            self.table.given().push(held);
        }
    }

    fn take(&mut self) {
        let taken = self.table.given().pop();
        self.held.extend(taken.inspect(|held| verify(held, false)));
    }

    fn hold(&mut self) {
        match self.held.last() {
            Some((block, _)) if self.holds.len() < 8 => self.holds.push(block.hold()),
            _ => self.holds.clear(),
        }
    }

    fn look(&self) {
        let stats = self.table.pool.stats();
        let parts_bytes =
            stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
        assert_eq!(parts_bytes, stats.reserved_bytes, "the parts: {stats:?}");
        assert!(stats.reserved_bytes <= stats.budget_bytes, "{stats:?}");
    }
}

fn verify((block, content): &Held, is_whole: bool) {
    content.verify(block, is_whole).expect("a transfer that does not fail");
}
