//! What the threads of a program share, and how it ends.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tensorpool::plan::Lifetime;
use tensorpool::trace::Recording;
use tensorpool::{Block, Config, Placement, PlannedSteps, Pool, Stats};

use super::bombs::caught;
use super::disturbed::Disturbed;
use super::pattern::Content;
use super::pool_events::quietly;
use super::pool_record::{Sheet, end_recording, parse};
use super::pool_requests::POLICIES;
use super::pool_wakers::{Office, lock};
use super::trouble::Trouble;
use super::{Choices, Count, Done};

/// Longer than a thread has to wait that can be served.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// A block, and what was written into it, if that is known.
pub struct Held {
    pub block: Block<Disturbed>,
    pub content: Option<Content>,
}

pub struct Table {
    pub office: Arc<Office<Disturbed>>,
    pub trouble: Arc<Trouble>,
    pub budget_bytes: u64,
    pub keeps_budget: bool,
    pub zero_on_free: bool,
    /// Things go wrong in this program.
    pub is_troubled: bool,
    /// Blocks for any thread to take.
    pub given: Mutex<Vec<Held>>,
    pub planning: Mutex<Option<PlannedSteps<Disturbed>>>,
    pub record: Mutex<Option<(Recording<Disturbed>, Arc<Sheet>)>>,
    pub patterns: AtomicU64,
    heading: String,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.heading)
    }
}

impl Table {
    pub fn open(choices: &mut impl Choices) -> Self {
        let budget_bytes = 4096 + choices.even_in_log(1 << 20);
        let zero_on_free = choices.chance(1, 4);
        let config = Config::new(budget_bytes)
            .high_priority_reserve(if choices.chance(1, 4) { budget_bytes / 8 } else { 0 })
            .slabs(choices.pick(&POLICIES[1..]))
            .placement(choices.pick(&[Placement::Exact, Placement::Exact, Placement::PowerOfTwo]))
            .zero_on_free(zero_on_free);
        let backend = Disturbed::new(64, 1, u64::MAX >> 1);
        let trouble = Arc::clone(&backend.trouble);
        let pool = Pool::with_backend(backend, &config).expect("a pool on a backend that does not fail yet");
        trouble.be_late(choices.pick(&[0, 0, 5]));
        Self {
            office: Office::open(&trouble, &pool),
            trouble,
            budget_bytes: pool.budget_bytes(),
            // A slab of few granules has no other budget that would do.
            keeps_budget: pool.stats().address_bytes > 0 && budget_bytes < 64 << 10,
            zero_on_free,
            is_troubled: choices.chance(2, 3),
            given: Mutex::default(),
            planning: Mutex::default(),
            record: Mutex::default(),
            patterns: AtomicU64::new(0),
            heading: format!("{config:?}"),
        }
    }

    /// Another pattern each time.
    pub fn next_pattern(&self) -> u64 {
        self.patterns.fetch_add(1, SeqCst)
    }

    /// No steps are planned any more; whether they were.
    pub fn end_steps(&self) {
        let planning = lock(&self.planning).take();
        if let Some(planning) = planning {
            assert!(!planning.report().to_string().is_empty());
            quietly(|| drop(planning));
        }
    }

    /// The record ends, and is read. Returns how many events it has.
    pub fn end_record(&self, is_finished: bool) -> u64 {
        let record = lock(&self.record).take();
        let Some((recording, sheet)) = record else { return 0 };
        let recorded = end_recording(recording, is_finished, &sheet);
        let Some(text) = sheet.take_text() else { return 0 };
        let trace = parse(&text);
        let events = trace.events().len() as u64;
        if let Some(recorded) = recorded {
            let ours = (events, trace.events_dropped());
            assert_eq!(ours, (recorded.events, recorded.events_dropped), "events, and those dropped");
        }
        events
    }

    /// Nothing is held, and nothing is left behind.
    pub fn end(&self, done: &mut Done) {
        self.trouble.calm_down();
        self.end_steps();
        done[Count::Recorded] += self.end_record(true);
        (done[Count::Faults], done[Count::Panics]) = (self.trouble.faults(), self.trouble.panics());
        assert!(lock(&self.given).is_empty(), "blocks are left on the table");
        let pool = self.office.pool().expect("a handle");
        let held =
            |stats: &Stats| (stats.live_bytes, stats.used_bytes, stats.retired_bytes, stats.blocks, stats.waiting);
        until(|| format!("{:?}", pool.stats()), || held(&pool.stats()) == (0, 0, 0, 0, 0));
        let stats = pool.stats();
        done[Count::Waited] = stats.allocations_waited;
        done[Count::Planned] = stats.allocations_planned;
        pool.check();
        until(
            || format!("{:?}", pool.stats()),
            || {
                pool.trim();
                (pool.stats().reserved_bytes, self.trouble.reserved_bytes()) == (0, 0)
            },
        );
        self.office.set_pool(None);
        assert!(caught(|| drop(pool)).is_some(), "a drop has panicked");
        assert!(self.trouble.reserved_peak_bytes() <= self.budget_bytes, "over the budget, at some moment");
    }
}

/// Waits until it is so: the pool's own thread may still be at work.
fn until(what: impl Fn() -> String, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "something is left: {}", what());
        thread::sleep(Duration::from_micros(50));
    }
}

/// The step that all threads repeat: eight blocks, each freed three blocks later.
pub const STEP_BYTES: [u64; 8] = [64, 512, 200, 64, 448, 300, 128, 500];
/// Blocks of a step that are held at a time.
pub const STEP_BLOCKS: usize = 3;

pub fn step() -> Vec<Lifetime> {
    let lives = (0..).zip(STEP_BYTES);
    lives.map(|(time, bytes)| Lifetime::new(time, time + STEP_BLOCKS as u64, bytes)).collect()
}
