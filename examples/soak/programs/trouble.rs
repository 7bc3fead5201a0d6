//! What goes wrong in a program because it wants that: calls that fail, panic, or are late.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use tensorpool::{Error, ErrorKind, Result};

use super::bombs::{Bomb, Callback, Payload};

/// How a creation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    OutOfMemory,
    Device,
    Panic,
}

const FAILURES: [Failure; 3] = [Failure::OutOfMemory, Failure::Device, Failure::Panic];

/// What goes wrong next, and what went wrong before.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Bytes of the slabs there are, and the most there were.
    reserved: AtomicU64,
    reserved_peak: AtomicU64,
    /// So many of the next creations fail, and how.
    creations: AtomicU64,
    how: AtomicU64,
    /// So many of the next transfers fail.
    transfers: AtomicU64,
    /// So many of the next zeroings would have to wait.
    zeroings: AtomicU64,
    /// So many writes of a record pass before one fails; 0: none does.
    writes: AtomicU64,
    /// Not 0: the device is lost.
    lost: AtomicU64,
    /// How much work is done each time the pool asks how far it is; 0: everything at once.
    pace: AtomicU64,
    recorded: AtomicU64,
    completed: AtomicU64,
    faults: AtomicU64,
    panics: AtomicU64,
    bomb: Mutex<Option<Bomb>>,
    is_armed: AtomicBool,
    /// So many looks at the pool are under way, which must not panic.
    pauses: AtomicU64,
}

/// As long as there is one, no bomb goes off.
pub struct Pause<'a>(&'a Trouble);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.pauses.fetch_sub(1, SeqCst);
    }
}

impl Trouble {
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved.load(SeqCst)
    }

    pub fn reserved_peak_bytes(&self) -> u64 {
        self.reserved_peak.load(SeqCst)
    }

    pub fn reserve(&self, bytes: u64) {
        let reserved_bytes = self.reserved.fetch_add(bytes, SeqCst) + bytes;
        self.reserved_peak.fetch_max(reserved_bytes, SeqCst);
    }

    pub fn unreserve(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, SeqCst);
    }

    pub fn fail_creations(&self, count: u64, how: Failure) {
        self.creations.store(count, SeqCst);
        self.how.store(how as u64, SeqCst);
    }

    pub fn fail_transfers(&self, count: u64) {
        self.transfers.store(count, SeqCst);
    }

    pub fn postpone_zeroings(&self, count: u64) {
        self.zeroings.store(count, SeqCst);
    }

    /// The write of this number fails, counted from 1; 0: none does.
    pub fn fail_write(&self, number: u64) {
        self.writes.store(number, SeqCst);
    }

    pub fn lose(&self) {
        self.lost.store(1, SeqCst);
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(SeqCst) > 0
    }

    /// From now on work is done a little at a time, or at once if `pace` is 0.
    pub fn be_late(&self, pace: u64) {
        self.pace.store(pace, SeqCst);
    }

    pub fn is_late(&self) -> bool {
        self.pace.load(SeqCst) > 0
    }

    /// Calls panic from now on as the bomb says, and not as one said before.
    pub fn arm(&self, bomb: Option<Bomb>) {
        *self.bomb() = bomb;
        self.is_armed.store(bomb.is_some(), SeqCst);
    }

    /// No bomb goes off before the end of the pause.
    pub fn pause(&self) -> Pause<'_> {
        self.pauses.fetch_add(1, SeqCst);
        Pause(self)
    }

    /// Nothing goes wrong any more.
    pub fn calm_down(&self) {
        self.arm(None);
        self.fail_creations(0, Failure::Device);
        self.fail_transfers(0);
        self.postpone_zeroings(0);
        self.fail_write(0);
        self.be_late(0);
    }

    /// Whether anything is going to fail.
    pub fn is_near(&self) -> bool {
        let counts = [&self.lost, &self.creations, &self.transfers, &self.zeroings];
        self.is_armed.load(SeqCst) || counts.iter().any(|count| count.load(SeqCst) > 0)
    }

    /// How much went wrong so far.
    pub fn faults(&self) -> u64 {
        self.faults.load(SeqCst)
    }

    /// Whether a panic of the backend may have taken the waiters out of the line with this error. One of them may have come after the
    /// panic.
    pub fn has_cleared_line(&self, error: &Error) -> bool {
        error.to_string().contains("panicked while requests waited") && self.faults() > 0
    }

    /// Those of them that were panics.
    pub fn panics(&self) -> u64 {
        self.panics.load(SeqCst)
    }

    /// Panics if this call is to.
    pub fn pass(&self, callback: Callback) {
        if let Some(payload) = self.due(callback) {
            payload.throw();
        }
    }

    /// What this call is to panic with. No call panics while a thread unwinds: that would end the process.
    pub fn due(&self, callback: Callback) -> Option<Payload> {
        if !self.is_armed.load(SeqCst) || self.pauses.load(SeqCst) > 0 || thread::panicking() {
            return None;
        }
        let mut place = self.bomb();
        let bomb = place.as_mut().filter(|bomb| bomb.callback == callback)?;
        if bomb.fuse > 0 {
            bomb.fuse -= 1;
            return None;
        }
        let payload = bomb.payload;
        bomb.times = bomb.times.saturating_sub(1);
        if bomb.times == 0 {
            *place = None;
            self.is_armed.store(false, SeqCst);
        }
        self.faults.fetch_add(1, SeqCst);
        self.panics.fetch_add(1, SeqCst);
        Some(payload)
    }

    fn bomb(&self) -> MutexGuard<'_, Option<Bomb>> {
        self.bomb.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one of the planned failures down; whether this call fails.
    fn is_due(&self, planned: &AtomicU64) -> bool {
        let is_due = planned.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        self.faults.fetch_add(u64::from(is_due), SeqCst);
        is_due
    }

    pub fn check(&self) -> Result<()> {
        match self.is_lost() {
            true => Err(Error::new(ErrorKind::DeviceLost, "lost, as the program wants")),
            false => Ok(()),
        }
    }

    /// A transfer of the backend. What it was to write is spoilt if it fails.
    pub fn transfer(&self, callback: Callback, spoil: impl FnOnce()) -> Result<()> {
        self.check()?;
        if let Some(payload) = self.due(callback) {
            spoil();
            payload.throw();
        }
        if self.is_due(&self.transfers) {
            spoil();
            return Err(Error::new(ErrorKind::Device, "the transfer fails, as the program wants"));
        }
        self.recorded.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Whether a zeroing would have to wait.
    pub fn must_wait(&self) -> bool {
        self.is_due(&self.zeroings)
    }

    pub fn create(&self, bytes: u64, callback: Callback) -> Result<()> {
        self.check()?;
        self.pass(callback);
        let how = FAILURES[self.how.load(SeqCst) as usize];
        if !self.is_due(&self.creations) {
            return Ok(());
        }
        let kind = match how {
            Failure::OutOfMemory => ErrorKind::OutOfMemory,
            Failure::Device => ErrorKind::Device,
            Failure::Panic if thread::panicking() => ErrorKind::Device,
            Failure::Panic => {
                self.panics.fetch_add(1, SeqCst);
                Payload::Plain.throw()
            }
        };
        Err(Error::new(kind, format!("memory of {bytes} bytes fails, as the program wants")))
    }

    /// Whether this write of a record fails.
    pub fn is_write_due(&self) -> bool {
        let is_due = self.writes.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) == Ok(1);
        self.faults.fetch_add(u64::from(is_due), SeqCst);
        is_due
    }

    pub fn recorded(&self) -> u64 {
        self.recorded.load(SeqCst)
    }

    /// How far the work is. Some more of it is done each time.
    pub fn completed(&self) -> u64 {
        let recorded = self.recorded();
        let pace = self.pace.load(SeqCst);
        let step = |completed: u64| Some(if pace == 0 { recorded } else { recorded.min(completed + pace) });
        match self.completed.fetch_update(SeqCst, SeqCst, step) {
            Ok(before) => step(before).unwrap_or(before),
            Err(before) => before,
        }
    }

    pub fn complete(&self, point: u64) {
        self.completed.fetch_max(point, SeqCst);
    }
}
