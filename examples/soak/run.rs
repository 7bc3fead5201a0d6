//! Runs programs on several threads until it is time to stop, and counts what they did.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kind::{KINDS, Kind};
use crate::programs::{Count, Done, is_wanted};

/// A program that takes longer than this hangs. The slowest take seconds, on a busy machine.
const HANGS_AFTER: Duration = Duration::from_secs(300);

/// A program that found a difference, or did not end.
#[derive(Clone, Debug)]
pub struct Difference {
    pub kind: Kind,
    pub program: u64,
    pub message: String,
}

/// What the workers share.
pub struct Run {
    pub seed: u64,
    kinds: &'static [Kind],
    only: Option<u64>,
    ops: u64,
    end: Option<Instant>,
    start: Instant,
    /// Set by whoever wants to end.
    is_over: AtomicBool,
    /// Programs begun.
    begun: AtomicU64,
    totals: [Mutex<Total>; KINDS.len()],
    difference: Mutex<Option<Difference>>,
    /// What each worker is at, and since when.
    at_work: Vec<Mutex<Option<(Kind, u64, Instant)>>>,
}

/// What all programs of a kind did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    pub programs: u64,
    pub done: Done,
}

impl Run {
    pub fn new(seed: u64, kinds: &'static [Kind], workers: usize) -> Self {
        Self {
            seed,
            kinds,
            only: None,
            ops: u64::MAX,
            end: None,
            start: Instant::now(),
            is_over: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            totals: Default::default(),
            difference: Mutex::new(None),
            at_work: (0..workers).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Only this program.
    pub fn only(mut self, program: Option<u64>) -> Self {
        self.only = program;
        self
    }

    /// Until so many operations are done, or so many seconds are over.
    pub fn until(mut self, ops: Option<u64>, seconds: Option<u64>) -> Self {
        self.ops = ops.unwrap_or(u64::MAX);
        self.end = seconds.and_then(|seconds| self.start.checked_add(Duration::from_secs(seconds)));
        self
    }

    pub fn workers(&self) -> usize {
        self.at_work.len()
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Lets every worker end after its program.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// One worker's programs, each as it comes: the kinds in turn, the numbers upwards.
    pub fn work(&self, worker: usize) {
        while !self.is_over() && self.sum().done[Count::Operations] < self.ops {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            let kinds = self.kinds.len() as u64;
            let (kind, program) = match self.only {
                Some(program) if number < kinds => (self.kinds[number as usize], program),
                Some(_) => return,
                None => (self.kinds[(number % kinds) as usize], number / kinds),
            };
            self.set_at_work(worker, Some((kind, program, Instant::now())));
            let result = catch_unwind(AssertUnwindSafe(|| kind.run(self.seed, program)));
            self.set_at_work(worker, None);
            match result {
                Ok(done) => self.count(kind, done),
                Err(panic) => {
                    self.differs(Difference { kind, program, message: message_of(&*panic) });
                    if is_wanted(&*panic) {
                        // It has no bytes, and its drop may panic, here outside of any program.
                        mem::forget(panic);
                    }
                }
            }
        }
    }

    /// Looks whether time is up, and whether a worker hangs. Then the caller must end the process: it cannot be joined.
    pub fn watch(&self) -> Result<(), Difference> {
        if self.end.is_some_and(|end| end <= Instant::now()) {
            self.stop();
        }
        for at_work in &self.at_work {
            let at_work = *lock(at_work);
            if let Some((kind, program, _)) = at_work.filter(|(_, _, since)| since.elapsed() > HANGS_AFTER) {
                let message = format!("it has not ended in {} s", HANGS_AFTER.as_secs());
                return Err(Difference { kind, program, message });
            }
        }
        Ok(())
    }

    /// What was found, if anything was.
    pub fn difference(&self) -> Option<Difference> {
        lock(&self.difference).clone()
    }

    pub fn total(&self, kind: Kind) -> Total {
        *lock(&self.totals[kind as usize])
    }

    /// Of all kinds.
    pub fn sum(&self) -> Total {
        KINDS.into_iter().map(|kind| self.total(kind)).fold(Total::default(), |mut sum, total| {
            sum.programs += total.programs;
            sum.done += total.done;
            sum
        })
    }

    fn count(&self, kind: Kind, done: Done) {
        let mut total = lock(&self.totals[kind as usize]);
        total.programs += 1;
        total.done += done;
    }

    /// The first difference is the one that is told; everybody ends.
    fn differs(&self, difference: Difference) {
        lock(&self.difference).get_or_insert(difference);
        self.stop();
    }

    fn set_at_work(&self, worker: usize, at: Option<(Kind, u64, Instant)>) {
        *lock(&self.at_work[worker]) = at;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    if is_wanted(panic) {
        return "a panic that the program wanted came out of a call that does not panic".into();
    }
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}
