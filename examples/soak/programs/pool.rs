//! A program on one pool and one thread: a pattern in every block, and books that are compared after every event.
//!
//! Futures wait in line, so the pool's own thread is at work too, and runs wakers of the program. What they do comes to the
//! books by mail (`pool_wakers`), and a comparison is repeated as long as that thread may be in between.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tensorpool::{Backend, Block, ErrorKind, Hold, Host, Limit, Limits, Pool, Virtual};

use super::bombs::{Bomb, Callback, Payload, caught};
use super::disturbed::{Disturbed, Ground};
use super::logger;
use super::pattern::Content;
use super::planned::Steps;
use super::pool_choose::{Event, Features};
use super::pool_futures::Waiter;
use super::pool_model::{Books, Facts, Known, Place, ensure};
use super::pool_record::{Entry, Record};
use super::pool_requests::{Ask, Setup};
use super::pool_wakers::{Offered, Office};
use super::trail::Trail;
use super::trouble::{Failure, Trouble};
use super::{Choices, Count, Done};

/// How often the pool checks itself.
const EVENTS_A_CHECK: u64 = 256;

/// How long the pool's own thread may take for what it is to do.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Held<B: Backend> {
    pub block: Block<B>,
    pub facts: Facts,
    pub content: Option<Content>,
    pub holds: Vec<Hold>,
    /// What it had behind it before it shrank, and is retired as long as there is a hold.
    pub left: Vec<Place>,
    /// What the record has of it.
    pub entry: Option<Entry>,
}

/// A block that was dropped with holds on it.
pub struct Retired {
    pub place: Place,
    pub holds: Vec<Hold>,
    pub left: Vec<Place>,
}

pub struct Program<B: Ground> {
    /// `None` only while the pool has no handle.
    pool: Option<Pool<B>>,
    pub limits: Limits,
    /// Of an expanding slab.
    pub address_bytes: u64,
    pub trouble: Arc<Trouble>,
    /// The backend is disturbed, too.
    pub is_disturbed: bool,
    /// With the budget as it is now.
    pub setup: Setup,
    /// The budget that the pool was opened with.
    pub first_budget_bytes: u64,
    /// A budget was lowered at some time.
    pub was_lowered: bool,
    features: Features,
    pub books: Books,
    pub held: Vec<Held<B>>,
    pub retired: Vec<Retired>,
    /// The number of the last pattern.
    pub patterns: u64,
    pub trail: Trail<Event>,
    pub done: Done,
    pub steps: Steps<B>,
    pub waiters: Vec<Waiter<B>>,
    pub office: Arc<Office<B>>,
    /// What wakers may free, by number.
    pub offered: Offered,
    pub record: Option<Record<B>>,
    /// A request has waited in line: the pool's own thread is or was at work.
    pub has_waited: bool,
    /// Faults when nothing was left to be zeroed.
    zeroed_faults: u64,
}

/// Runs a program of so many events, or as many as there are choices for, on the host, a virtual backend or one that
/// fails.
pub fn run(choices: &mut impl Choices, events: u64) -> Done {
    match choices.below(8) {
        0..=1 => {
            let setup = Setup::draw(choices, 1 << 52);
            run_on(model_for(setup.budget_bytes), setup, choices, events)
        }
        2 => run_on(Host, Setup::draw(choices, 4 << 20), choices, events),
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
    Virtual::new(Limits {
        alignment_bytes,
        alignment_bytes_max: alignment_bytes.max(1 << 21),
        granule_bytes: 1,
        slab: any,
        block: any,
    })
}

fn run_on<B: Ground>(backend: B, setup: Setup, choices: &mut impl Choices, events: u64) -> Done {
    let Some(mut program) = Program::open(backend, setup, choices) else {
        let mut done = Done::operations(1);
        done[Count::Faults] = 1;
        return done;
    };
    while program.trail.events() < events && !choices.is_over() {
        program.phase(choices, events);
    }
    let done = program.end(choices);
    logger::forget();
    done
}

impl<B: Ground> Program<B> {
    /// `None` if it is not opened, because the backend was to fail.
    fn open(backend: B, setup: Setup, choices: &mut impl Choices) -> Option<Self> {
        let is_disturbed = backend.trouble().is_some();
        let trouble = backend.trouble().unwrap_or_default();
        let heading = format!("{} {:?}, {setup}", backend.name(), backend.limits());
        let refusal = choices.below(16);
        if refusal == 0 {
            trouble.fail_creations(1, Failure::Device);
        } else if refusal == 1 {
            let callback = choices.pick(&[Callback::Limits, Callback::OpenStaging, Callback::CreateSlab]);
            trouble.arm(Some(Bomb { callback, fuse: 0, times: 1, payload: Payload::Plain }));
        }
        let pool = match caught(|| Pool::with_backend(backend, &setup.config())) {
            Some(Ok(pool)) => pool,
            refused => {
                let kind = refused.map(|result| result.map(drop).unwrap_err().kind());
                assert!(kind.is_none_or(|kind| kind == ErrorKind::Device), "{heading}: {kind:?}");
                assert_eq!((trouble.faults(), trouble.reserved_bytes()), (1, 0), "{heading}");
                return None;
            }
        };
        logger::attend(&trouble);
        Some(Self {
            limits: pool.limits(),
            address_bytes: pool.stats().address_bytes,
            office: Office::open(&trouble, &pool),
            pool: Some(pool),
            trouble,
            is_disturbed,
            books: Books::new(setup.budget_bytes),
            first_budget_bytes: setup.budget_bytes,
            was_lowered: false,
            setup,
            features: Features::draw(choices),
            held: Vec::new(),
            retired: Vec::new(),
            patterns: 0,
            trail: Trail::new(heading),
            done: Done::default(),
            steps: Steps::default(),
            waiters: Vec::new(),
            offered: Offered::default(),
            record: None,
            has_waited: false,
            zeroed_faults: 0,
        })
    }

    pub fn pool(&self) -> &Pool<B> {
        self.pool.as_ref().expect("a handle")
    }

    /// Takes the handle away, or gives another.
    pub fn set_pool(&mut self, pool: Option<Pool<B>>) -> Option<Pool<B>> {
        self.office.set_pool(pool.clone());
        std::mem::replace(&mut self.pool, pool)
    }

    /// Some events with the same weights and sizes.
    fn phase(&mut self, choices: &mut impl Choices, events: u64) {
        let weights = self.features.weights(choices);
        let sizes = choices.swarm::<4>();
        let end = events.min(self.trail.events() + 16 + choices.even_in_log(1000));
        while self.trail.events() < end && !choices.is_over() {
            match self.choose(choices, &weights, &sizes) {
                Some(event) => self.apply(event, choices),
                None => return,
            }
        }
    }

    fn apply(&mut self, event: Event, choices: &mut impl Choices) {
        self.trail.add(event);
        match event {
            Event::Alloc(ask) => self.alloc(ask),
            Event::Batch { first, count } => self.alloc_all(&self.more(first, count, choices)),
            Event::Async { ask, is_dropped } => self.alloc_async(ask, is_dropped),
            Event::Free(index) => self.free(index),
            Event::FreeMany { from, count } => self.free_many(from, count),
            Event::Hold(index) => {
                let held = &mut self.held[index];
                held.holds.push(held.block.hold());
                self.done[Count::Holds] += 1;
            }
            Event::EndHold(index) => self.end_hold(index),
            Event::Write { index, is_whole } => self.write(index, is_whole),
            Event::Fill { index, pattern, len } => self.fill(index, pattern, len),
            Event::Copy { from, to } => self.copy(from, to),
            Event::Resize { index, bytes, is_zeroed } => self.resize(index, bytes, is_zeroed),
            Event::Verify(index) => self.verify(index, true),
            Event::Trim => self.trim(),
            Event::SetBudget(bytes) => self.set_budget(bytes),
            Event::Look => self.look(),
            Event::Compact { chance, wanted } => self.compact(chance, wanted, choices),
            Event::Fail { creations, how, transfers, zeroings, write } => {
                self.trouble.fail_write(write);
                if self.is_disturbed {
                    self.trouble.fail_creations(creations, how);
                    self.trouble.fail_transfers(transfers);
                    self.trouble.postpone_zeroings(zeroings);
                }
            }
            Event::Arm(bomb) => self.trouble.arm(Some(bomb)),
            Event::Late(pace) => self.trouble.be_late(if self.is_disturbed { pace } else { 0 }),
            Event::Begin(how) => self.begin_steps(how),
            Event::End => self.end_steps(),
            Event::Mark => self.mark_step(),
            Event::Repeat { deviations } => self.repeat_step(deviations, choices),
            Event::Join { ask, count, manner } => self.join(&self.more(ask, count, choices), manner, choices),
            Event::Poll { index, manner } => self.poll(index, manner),
            Event::Leave(index) => self.leave(index),
            Event::Neglect(index) => self.neglect(index),
            Event::Offer(index) => self.offer(index),
            Event::Record(paper) => self.begin_record(paper),
            Event::EndRecord { is_finished } => self.end_record(is_finished),
            Event::Orphan { freed } => self.orphan(freed),
        }
        self.poll_rung();
        self.compare_now_and_then();
    }

    /// Compares, unless that is left to a later event.
    pub fn compare_now_and_then(&mut self) {
        if self.trail.events().is_multiple_of(self.setup.events_a_look) {
            self.compare();
        }
    }

    /// A batch.
    fn more(&self, first: Ask, count: usize, choices: &mut impl Choices) -> Vec<Ask> {
        let more = (0..count).map(|_| Ask::draw(choices, &self.setup, &[1, 3, 1, 0]));
        std::iter::once(first).chain(more).collect()
    }

    /// Whether the device takes its time.
    pub fn is_late(&self) -> bool {
        self.trouble.is_late()
    }

    /// Nothing goes wrong in here that was not wrong before.
    pub fn compare(&mut self) {
        let trouble = Arc::clone(&self.trouble);
        let _pause = trouble.pause();
        self.compare_patiently(Self::try_compare);
        if self.trail.events().is_multiple_of(EVENTS_A_CHECK) && self.waiters.is_empty() {
            self.pool().check();
        }
    }

    /// Compares again as long as only the pool's own thread can be what makes a difference.
    pub fn compare_patiently(&mut self, compare: impl Fn(&mut Self) -> Result<(), String>) {
        let (start, mut looks) = (Instant::now(), 1);
        while let Err(difference) = compare(self) {
            // The look that zeroes what was held records that: its slab goes with the next one.
            let may_look_again = self.setup.zero_on_free && looks < 2;
            assert!(may_look_again || self.has_waited && start.elapsed() < PATIENCE, "{difference}");
            looks += 1;
            if !may_look_again {
                thread::sleep(Duration::from_micros(50));
            }
        }
    }

    fn try_compare(&mut self) -> Result<(), String> {
        self.poll_rung();
        self.collect();
        let activity = self.office.activity()?;
        let stats = self.pool().stats();
        ensure!(self.office.activity()? == activity, "a waker came in between");
        let has_left = stats.waiting < self.waiters.len() as u64;
        let faults = self.trouble.faults();
        let known = Known {
            // A device that is lost zeroes nothing any more.
            retired_is_least: self.is_late()
                || self.setup.zero_on_free && (self.trouble.is_lost() || faults != self.zeroed_faults),
            unseen: if has_left { self.neglected() } else { None },
            waiting: self.waiters.len() as u64,
        };
        self.books.compare(&stats, &self.setup, known)?;
        if self.is_disturbed {
            let its_bytes = self.trouble.reserved_bytes() + stats.staging_bytes;
            ensure!(its_bytes == stats.reserved_bytes, "the backend has given out {its_bytes}: {stats:?}");
        }
        if known.unseen.is_none() {
            self.books.allocations_are(stats.allocations);
        }
        if stats.retired_bytes == self.books.retired_bytes {
            self.zeroed_faults = faults;
        }
        Ok(())
    }
}
