//! What is done with an allocator: one pattern, on one thread or on two.

use std::fmt;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Duration;

use super::shared::Shared;
use super::{crew, pipe};
use crate::random::Random;

/// Threads that a case can run on.
pub const THREADS_MAX: usize = 2;
/// Done before the time begins; where blocks are replaced, as many as there are, so that what fits in a cache is there.
const WARM_UNITS: u64 = 1000;
/// All are smaller than a page of every pool here.
pub const MIXED: Bytes = Bytes::Between { least: 16, most: 1024, unit: 1 };
/// Blocks that a [`Pattern::HandOver`] hands over at once, so that the channel's own cost is spread thin.
pub const BASKET_BLOCKS: usize = 256;

/// How many bytes a block has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bytes {
    Fixed(u64),
    /// Each multiple of `unit` from `least` is as likely.
    Between {
        least: u64,
        most: u64,
        unit: u64,
    },
}

/// What one pair of an allocation and a free is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Allocate and free at once, beside so many live blocks.
    AtOnce { live: usize },
    /// Free a random one of the live blocks, and allocate another in its place.
    Replace { live: usize },
    /// Allocate blocks, then free them in the same order: one thread both, or one thread the first and another the second.
    HandOver,
}

/// A pattern with its sizes, for each thread its own blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    pub bytes: Bytes,
    pub pattern: Pattern,
}

impl fmt::Display for Work {
    /// The name by which it is asked for, such as `64/at-once-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            Bytes::Fixed(bytes) => write!(f, "{bytes}/")?,
            MIXED => write!(f, "mixed/")?,
            Bytes::Between { least, most, .. } => write!(f, "{least}-{most}/")?,
        }
        match self.pattern {
            Pattern::AtOnce { live } => write!(f, "at-once-{live}"),
            Pattern::Replace { live } => write!(f, "replace-{live}"),
            Pattern::HandOver => write!(f, "hand-over"),
        }
    }
}

/// An allocator at some work; whatever allocator it is.
pub trait Case {
    fn allocator(&self) -> &'static str;

    fn work(&self) -> Work;

    /// Nanoseconds a pair on so many threads, measured for `time`.
    fn pair_ns(&self, threads: usize, time: Duration) -> f64;

    /// Exactly so many pairs, on this thread.
    fn pairs(&self, count: u64);
}

/// What one thread holds. On cache lines of its own, with the neighbour that a processor fetches along.
#[repr(align(128))]
struct Lane<H> {
    live: Vec<Option<H>>,
    random: Random,
}

pub struct CaseOf<S: Shared> {
    allocator: &'static str,
    work: Work,
    lanes: Vec<Mutex<Lane<S::Handle>>>,
    /// Dropped last.
    shared: S,
}

impl<S: Shared> CaseOf<S> {
    pub fn new(allocator: &'static str, work: Work, threads: usize, shared: S) -> Self {
        let live = match work.pattern {
            Pattern::AtOnce { live } | Pattern::Replace { live } => live,
            Pattern::HandOver => 0,
        };
        let lane = |thread: u64| {
            let mut random = Random::new(0x9e37_79b9_7f4a_7c15 + thread);
            let live = (0..live).map(|_| Some(shared.alloc(bytes_of(work.bytes, &mut random)))).collect();
            Mutex::new(Lane { live, random })
        };
        let lanes = (0..threads as u64).map(lane).collect();
        Self { allocator, work, lanes, shared }
    }

    fn do_pairs(&self, lane: &mut Lane<S::Handle>, count: u64) {
        let Lane { live, random } = lane;
        match self.work.pattern {
            Pattern::AtOnce { .. } => {
                for _ in 0..count {
                    self.shared.free(black_box(self.shared.alloc(black_box(bytes_of(self.work.bytes, random)))));
                }
            }
            Pattern::Replace { .. } => {
                for _ in 0..count {
                    let place = random.below(live.len());
                    let bytes = bytes_of(self.work.bytes, random);
                    if let Some(handle) = live[place].take() {
                        self.shared.free(handle);
                    }
                    live[place] = Some(black_box(self.shared.alloc(black_box(bytes))));
                }
            }
            Pattern::HandOver => {
                for _ in 0..count {
                    if live.len() >= BASKET_BLOCKS {
                        live.drain(..).flatten().for_each(|handle| self.shared.free(handle));
                    }
                    live.push(Some(self.shared.alloc(black_box(bytes_of(self.work.bytes, random)))));
                }
            }
        }
    }
}

fn bytes_of(bytes: Bytes, random: &mut Random) -> u64 {
    match bytes {
        Bytes::Fixed(bytes) => bytes,
        Bytes::Between { least, most, unit } => {
            least + unit * random.below(((most - least) / unit + 1) as usize) as u64
        }
    }
}

impl<S: Shared> Case for CaseOf<S> {
    fn allocator(&self) -> &'static str {
        self.allocator
    }

    fn work(&self) -> Work {
        self.work
    }

    fn pair_ns(&self, threads: usize, time: Duration) -> f64 {
        if self.work.pattern == Pattern::HandOver && threads == 2 {
            let mut random = Random::new(1);
            return pipe::block_ns(&self.shared, || bytes_of(self.work.bytes, &mut random), time);
        }
        let warm_pairs = match self.work.pattern {
            Pattern::Replace { live } => WARM_UNITS.max(live as u64),
            Pattern::AtOnce { .. } | Pattern::HandOver => WARM_UNITS,
        };
        // A lane's lock is taken once for 64 pairs, and no other thread wants it.
        crew::unit_ns(threads, warm_pairs, time, |thread, units| {
            self.do_pairs(&mut self.lanes[thread].lock().expect("no worker panicked"), units);
        })
    }

    fn pairs(&self, count: u64) {
        self.do_pairs(&mut self.lanes[0].lock().expect("no worker panicked"), count);
    }
}

/// Integer arithmetic in registers: what the second core is worth at the moment. Nanoseconds a step of about twenty.
pub fn compute_ns(threads: usize, time: Duration) -> f64 {
    crew::unit_ns(threads, WARM_UNITS, time, |_, units| {
        let mut random = Random::new(units);
        for _ in 0..units * 16 {
            random.next();
        }
        black_box(random.next());
    })
}
