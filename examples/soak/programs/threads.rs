//! A program on one pool and several threads, which do everything that a pool can do, to the same pool at the same time.
//!
//! Which thread comes first is not in the program's hands: so nothing is foretold. Each block carries a pattern that must
//! still be there when another thread gives it back, and in the end the books must balance.
//!
//! A thread that waits for long holds nothing, and one that comes to its end leaves nothing behind: so every thread is
//! served. Where none gets on, a watchdog ends the process, and says what each was at.

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::pool_wakers::lock;
use super::threads_table::Table;
use super::threads_worker::{Event, Worker};
use super::{Choices, Count, Done, Random};

/// A program of which no thread has ended an event for so long is stuck. It is longer than any thread may have to wait.
const STUCK_AFTER: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_secs(1);

/// What a thread is at.
pub struct Desk {
    event: Mutex<Event>,
    /// Events that it has begun.
    begun: AtomicU64,
}

impl Desk {
    fn new() -> Self {
        Self { event: Mutex::new(Event::Begin), begun: AtomicU64::new(0) }
    }

    pub fn begin(&self, event: Event) {
        *lock(&self.event) = event;
        self.begun.fetch_add(1, SeqCst);
    }
}

/// Runs a program of so many events on each of several threads.
pub fn run(seed: u64, program: u64, events: u64) -> Done {
    let mut choices = Random::new(seed, program);
    let table = Table::open(&mut choices);
    let desks: Vec<Desk> = (0..2 + choices.below(5)).map(|_| Desk::new()).collect();
    let mut done = thread::scope(|scope| {
        let (table, desks) = (&table, &desks);
        let work = |(index, desk): (u64, _)| {
            let choices = Random::new(seed ^ (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), program);
            scope.spawn(move || Worker::new(table, desk, choices).run(events))
        };
        let threads: Vec<_> = (0..).zip(desks).map(work).collect();
        let (all, ended) = mpsc::channel();
        scope.spawn(move || watch(&ended, desks, &format!("seed {seed}, program {program}, {table:?}")));
        // A panic goes on in this thread, when all others have ended.
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        drop(all);
        ended.into_iter().fold(Done::default(), |mut sum, end| {
            sum += end.unwrap_or_else(|panic| resume_unwind(panic));
            sum
        })
    });
    done[Count::Operations] = desks.len() as u64 * events;
    table.end(&mut done);
    done
}

/// Ends the process if no thread gets on, until all have ended.
fn watch(ended: &Receiver<()>, desks: &[Desk], heading: &str) {
    let (mut before, mut since) = (0, Instant::now());
    while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        let begun = desks.iter().map(|desk| desk.begun.load(SeqCst)).sum();
        if begun != before {
            (before, since) = (begun, Instant::now());
        } else if since.elapsed() > STUCK_AFTER {
            eprintln!("STUCK: no thread of the program has got on in {} s ({heading})", STUCK_AFTER.as_secs());
            for (index, desk) in desks.iter().enumerate() {
                eprintln!("  thread {index}: event {}, {:?}", desk.begun.load(SeqCst), *lock(&desk.event));
            }
            std::process::exit(1);
        }
    }
}
