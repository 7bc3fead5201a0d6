//! A program on one pool and one thread: a pattern in every block, and books that are compared after every event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tensorpool::{Backend, Block, ErrorKind, Hold, Host, Limit, Limits, Pool, Request, Virtual};

use super::disturbed::{Disturbed, Failure, Ground, Trouble};
use super::pattern::Content;
use super::planned::{Begin, Steps};
use super::pool_model::{Books, Place};
use super::pool_requests::{Ask, Setup};
use super::trail::Trail;
use super::{Choices, Done};

/// How often the pool checks itself.
const EVENTS_A_CHECK: u64 = 256;

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Alloc(Ask),
    Batch {
        first: Ask,
        count: usize,
    },
    Async {
        ask: Ask,
        is_dropped: bool,
    },
    Free(usize),
    FreeMany {
        from: usize,
        count: usize,
    },
    Hold(usize),
    EndHold(usize),
    Write {
        index: usize,
        is_whole: bool,
    },
    Fill {
        index: usize,
        pattern: [u8; 4],
        len: usize,
    },
    Copy {
        from: usize,
        to: usize,
    },
    Verify(usize),
    Trim,
    Fail {
        creations: u64,
        how: Failure,
        transfers: u64,
    },
    Late(u64),
    Look,
    /// Planned steps begin.
    Begin(Begin),
    /// And end.
    End,
    /// The program says that a step begins.
    Mark,
    /// Repeats what it did in its last step, with so many deviations in a hundred events.
    Repeat {
        deviations: u64,
    },
}

const KINDS: usize = 19;
/// What the weights of a phase are multiplied with, so that common events are common.
const COMMON: [u32; KINDS] = [60, 4, 1, 50, 1, 4, 5, 6, 3, 4, 4, 1, 2, 1, 1, 1, 1, 3, 4];

pub struct Held<B: Backend> {
    pub block: Block<B>,
    pub content: Option<Content>,
    pub label: usize,
    pub holds: Vec<Hold>,
}

/// A block that was dropped with holds on it.
pub struct Retired {
    pub place: Place,
    pub holds: Vec<Hold>,
}

pub struct Program<B: Ground> {
    pub pool: Pool<B>,
    pub limits: Limits,
    pub trouble: Option<Arc<Trouble>>,
    pub setup: Setup,
    pub books: Books,
    pub held: Vec<Held<B>>,
    pub retired: Vec<Retired>,
    /// The number of the last pattern.
    pub patterns: u64,
    pub trail: Trail<Event>,
    pub steps: Steps<B>,
}

/// Runs a program of so many events, or as many as there are choices for, on the host, a virtual backend or one that
/// fails.
pub fn run(choices: &mut impl Choices, events: u64) -> Done {
    match choices.below(8) {
        0..=2 => {
            let setup = Setup::draw(choices, 1 << 52);
            run_on(model_for(setup.budget_bytes), setup, choices, events)
        }
        3..=4 => run_on(Host, Setup::draw(choices, 4 << 20), choices, events),
        _ => {
            let mut setup = Setup::draw(choices, 1 << 20);
            setup.staging_bytes = if choices.chance(1, 4) { choices.below(setup.budget_bytes / 8 + 1) } else { 0 };
            setup.reserve_bytes = setup.reserve_bytes.min(setup.open_bytes());
            let (alignment, granule) = choices.pick(&[(64, 1), (64, 64), (256, 4), (32, 32)]);
            let limit = choices.pick(&[u64::MAX >> 1, u64::MAX >> 1, setup.budget_bytes / 3 + 1]);
            run_on(Disturbed::new(alignment, granule, limit.max(granule)), setup, choices, events)
        }
    }
}

/// Units grow with the budget: what takes gigabytes is not asked for in pieces of 64 bytes.
fn model_for(budget_bytes: u64) -> Virtual {
    let any = Limit { bytes: u64::MAX, name: "2^64" };
    let alignment_bytes = (budget_bytes >> 30).next_power_of_two().clamp(64, 1 << 24);
    Virtual::new(Limits { alignment_bytes, granule_bytes: 1, slab: any, block: any })
}

fn run_on<B: Ground>(backend: B, setup: Setup, choices: &mut impl Choices, events: u64) -> Done {
    let Some(mut program) = Program::open(backend, setup, choices) else {
        return Done { operations: 1, faults: 1 };
    };
    while program.trail.events() < events && !choices.is_over() {
        program.phase(choices, events);
    }
    program.end(choices)
}

impl<B: Ground> Program<B> {
    /// `None` if it is not opened, because the backend was to fail.
    fn open(backend: B, setup: Setup, choices: &mut impl Choices) -> Option<Self> {
        let trouble = backend.trouble();
        let is_refused = choices.chance(1, 16);
        if let Some(trouble) = trouble.as_ref().filter(|_| is_refused) {
            trouble.fail_creations(1, Failure::Device);
        }
        let heading = format!("{} {:?}, {setup}", backend.name(), backend.limits());
        let pool = match Pool::with_backend(backend, &setup.config()) {
            Ok(pool) => pool,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Device, "{heading}: {error}");
                let trouble = trouble.expect("a backend that fails");
                assert_eq!((trouble.faults(), trouble.reserved_bytes()), (1, 0), "{heading}");
                return None;
            }
        };
        let (limits, books, trail) = (pool.limits(), Books::default(), Trail::new(heading));
        Some(Self {
            pool,
            limits,
            trouble,
            setup,
            books,
            held: Vec::new(),
            retired: Vec::new(),
            patterns: 0,
            trail,
            steps: Steps::default(),
        })
    }

    /// Some events with the same weights and sizes.
    fn phase(&mut self, choices: &mut impl Choices, events: u64) {
        let mut weights = choices.swarm::<KINDS>();
        weights.iter_mut().zip(COMMON).for_each(|(weight, common)| *weight *= common);
        let sizes = choices.swarm::<4>();
        let end = events.min(self.trail.events() + 16 + choices.even_in_log(1000));
        while self.trail.events() < end && !choices.is_over() {
            match self.choose(choices, &weights, &sizes) {
                Some(event) => self.apply(event, choices),
                None => return,
            }
        }
    }

    /// `None` if there is nothing to do it with: then the phase is over.
    fn choose(&self, choices: &mut impl Choices, weights: &[u32; KINDS], sizes: &[u32; 4]) -> Option<Event> {
        let most = self.held.len();
        let kind = if most < self.setup.blocks_most { choices.weighted(weights) } else { 4 };
        let ask = |choices: &mut _| Ask::draw(choices, &self.setup, sizes);
        Some(match kind {
            0 => Event::Alloc(ask(choices)),
            1 => Event::Batch { first: ask(choices), count: choices.below(6) as usize },
            2 => Event::Async { ask: ask(choices), is_dropped: choices.chance(1, 2) },
            6 => Event::EndHold(choices.below(self.retired.len().max(1) as u64) as usize),
            11 => Event::Trim,
            12 => Event::Fail {
                creations: choices.below(4),
                how: choices.pick(&[Failure::OutOfMemory, Failure::OutOfMemory, Failure::Device, Failure::Panic]),
                transfers: choices.below(3),
            },
            13 => Event::Late(choices.pick(&[0, 1, 7])),
            14 => Event::Look,
            15 => Event::Begin(choices.pick(&[Begin::Auto, Begin::Auto, Begin::LastStep])),
            16 => Event::End,
            17 => Event::Mark,
            18 => Event::Repeat { deviations: choices.pick(&[0, 0, 0, 2, 10, 40]) },
            _ if most == 0 => return None,
            _ => self.choose_block(choices, kind),
        })
    }

    fn choose_block(&self, choices: &mut impl Choices, kind: usize) -> Event {
        let most = self.held.len() as u64;
        // Often the youngest.
        let index = if choices.chance(1, 4) { most - 1 } else { choices.below(most) } as usize;
        match kind {
            3 => Event::Free(index),
            4 => Event::FreeMany { from: index, count: 1 + choices.below(most) as usize },
            5 => Event::Hold(index),
            7 => Event::Write { index, is_whole: choices.chance(1, 4) },
            8 => Event::Fill {
                index,
                pattern: choices.below(1 << 32).to_le_bytes()[..4].try_into().expect("4"),
                len: 1 + choices.below(4) as usize,
            },
            9 => Event::Copy { from: index, to: choices.below(most) as usize },
            _ => Event::Verify(index),
        }
    }

    fn apply(&mut self, event: Event, choices: &mut impl Choices) {
        self.trail.add(event);
        match event {
            Event::Alloc(ask) => self.alloc(ask),
            Event::Batch { first, count } => {
                let sizes = [1, 3, 1, 0];
                let more = (0..count).map(|_| Ask::draw(choices, &self.setup, &sizes));
                let asks: Vec<Ask> = std::iter::once(first).chain(more).collect();
                self.alloc_all(&asks);
            }
            Event::Async { ask, is_dropped } => self.alloc_async(ask, is_dropped),
            Event::Free(index) => self.free(index),
            Event::FreeMany { from, count } => self.free_many(from, count),
            Event::Hold(index) => {
                let held = &mut self.held[index];
                held.holds.push(held.block.hold());
            }
            Event::EndHold(index) => self.end_hold(index),
            Event::Write { index, is_whole } => self.write(index, is_whole),
            Event::Fill { index, pattern, len } => self.fill(index, pattern, len),
            Event::Copy { from, to } => self.copy(from, to),
            Event::Verify(index) => self.verify(index, true),
            Event::Trim => drop(self.pool.trim()),
            Event::Fail { creations, how, transfers } => {
                if let Some(trouble) = &self.trouble {
                    trouble.fail_creations(creations, how);
                    trouble.fail_transfers(transfers);
                }
            }
            Event::Late(pace) => {
                if let Some(trouble) = &self.trouble {
                    trouble.be_late(pace);
                }
            }
            Event::Look => self.look(),
            Event::Begin(how) => self.begin_steps(how),
            Event::End => self.end_steps(),
            Event::Mark => self.mark_step(),
            Event::Repeat { deviations } => self.repeat_step(deviations, choices),
        }
        self.compare();
    }

    /// Whether the device takes its time.
    pub fn is_late(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.is_late())
    }

    pub fn compare(&self) {
        let mut stats = self.pool.stats();
        if let Some(trouble) = &self.trouble {
            // The pool's own thread may be dropping a slab: first the memory is gone, then the pool counts it.
            let start = Instant::now();
            while trouble.reserved_bytes() + stats.staging_bytes != stats.reserved_bytes {
                assert!(start.elapsed() < Duration::from_secs(10), "{} reserved: {stats:?}", trouble.reserved_bytes());
                std::thread::yield_now();
                stats = self.pool.stats();
            }
        }
        self.books.compare(&stats, &self.setup, self.is_late());
        if self.trail.events().is_multiple_of(EVENTS_A_CHECK) {
            self.pool.check();
        }
    }

    /// The pool ends in one of four ways; nothing is left of it.
    fn end(mut self, choices: &mut impl Choices) -> Done {
        self.calm_down();
        if choices.chance(1, 2) {
            self.end_steps();
        }
        match choices.below(4) {
            0 => self.end_empty(),
            1 => self.end_closed(),
            2 => self.end_without_handle(),
            _ => self.end_lost(),
        }
        let Self { pool, held, retired, trouble, trail, setup, steps, .. } = self;
        drop((held, retired, steps, pool));
        let mut done = Done { operations: trail.events(), faults: 0 };
        if let Some(trouble) = trouble {
            done.faults = trouble.faults();
            // The pool's own thread may still have been looking after a future.
            let start = Instant::now();
            while trouble.reserved_bytes() > 0 && start.elapsed() < Duration::from_secs(10) {
                std::thread::yield_now();
            }
            assert_eq!(trouble.reserved_bytes(), 0, "bytes are left behind");
            assert!(trouble.reserved_peak_bytes() <= setup.open_bytes(), "over the budget, at some moment");
        }
        done
    }

    /// Nothing fails any more.
    fn calm_down(&mut self) {
        if let Some(trouble) = &self.trouble {
            trouble.fail_creations(0, Failure::Device);
            trouble.fail_transfers(0);
            trouble.be_late(0);
        }
        self.look();
        self.compare();
    }

    /// All blocks are freed, all slabs go back.
    fn end_empty(&mut self) {
        self.free_many(0, self.held.len());
        while !self.retired.is_empty() {
            self.end_hold(0);
        }
        self.compare();
        self.pool.trim();
        let stats = self.pool.stats();
        assert_eq!(stats.reserved_bytes, stats.staging_bytes, "after the last block: {stats:?}");
        self.pool.check();
    }

    /// The pool is closed while blocks are held: they stay what they are.
    fn end_closed(&mut self) {
        self.books.compare_holders(&self.pool.clone().close(), &self.setup);
        for bytes in [0, 1, u64::MAX] {
            let error = self.pool.alloc(Request::bytes(bytes)).map(drop).unwrap_err();
            let is_too_large = bytes > 0 && error.kind() == ErrorKind::TooLarge;
            assert!(error.kind() == ErrorKind::Closed || is_too_large, "{bytes} bytes: {error}");
        }
        self.compare();
        self.free_many(0, self.held.len());
        self.compare();
        self.pool.check();
    }

    /// Blocks outlive the last handle, and give a new one.
    fn end_without_handle(&mut self) {
        let Some(held) = self.held.first() else { return };
        self.pool = held.block.pool();
        self.free_many(0, self.held.len());
        self.compare();
    }

    /// The device is lost: nothing is served, everything is given back.
    fn end_lost(&mut self) {
        let Some(trouble) = self.trouble.clone() else { return self.end_empty() };
        trouble.lose();
        for ask in [Request::bytes(0), Request::bytes(1), Request::bytes(1000).zeroed()] {
            let error = self.pool.alloc(ask).map(drop).unwrap_err();
            assert!(error.is_device_lost(), "{error}");
        }
        self.free_many(0, self.held.len());
        self.compare();
        self.pool.check();
    }
}
