//! Recording: what a program did, as it wrote it down itself, is what its pool's record says.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tensorpool::trace::{Event, RecordOptions, Recorded, Recording, Trace};
use tensorpool::{Backend, ErrorKind};

use super::Count;
use super::bombs::{Callback, caught};
use super::choices::Choices;
use super::disturbed::Ground;
use super::pool::{PATIENCE, Program};
use super::pool_events::quietly;
use super::pool_model::Facts;
use super::pool_requests::LABELS;
use super::pool_wakers::{Manner, Office, lock};

/// Writes of a slow paper that are slow.
const SLOW_WRITES: u64 = 20;

/// Writes in which a writer does something besides. Each may record an event, and where that takes more than one write there would
/// be no end.
const BUSY_WRITES: u64 = 1000;

/// What a record is written on.
#[derive(Clone, Copy, Debug)]
pub struct Paper {
    /// Bytes that it takes at once.
    most_bytes: usize,
    /// How long it takes for them, in microseconds.
    slowness: u64,
    /// What its writer does besides.
    manner: Manner,
    /// Bytes of events that may wait to be written.
    buffer_bytes: Option<usize>,
    is_lossy: bool,
}

impl Paper {
    pub fn draw(choices: &mut impl Choices) -> Self {
        Self {
            most_bytes: choices.pick(&[usize::MAX, usize::MAX, 1000, 7]),
            slowness: choices.pick(&[0, 0, 0, 100]),
            manner: if choices.chance(1, 4) { Manner::Allocs(choices.below(4096)) } else { Manner::Quiet },
            buffer_bytes: choices.pick(&[None, Some(0), Some(1000), Some(1 << 16)]),
            is_lossy: choices.chance(1, 4),
        }
    }

    /// Its writer does this besides.
    pub fn with(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }

    pub fn options(&self) -> RecordOptions {
        let options = RecordOptions::new().lossy(self.is_lossy);
        match self.buffer_bytes {
            Some(bytes) => options.buffer_bytes(bytes),
            None => options,
        }
    }
}

/// What has come of the paper.
#[derive(Default)]
pub struct Sheet {
    text: Mutex<Vec<u8>>,
    /// Its writer has failed or panicked.
    has_failed: AtomicBool,
    /// Its writer has panicked in its drop.
    may_have_failed: AtomicBool,
    is_dropped: AtomicBool,
}

impl Sheet {
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(SeqCst)
    }

    /// What was written; `None` if that failed.
    pub fn take_text(&self) -> Option<Vec<u8>> {
        (!self.has_failed()).then(|| std::mem::take(&mut *lock(&self.text)))
    }
}

/// A writer.
pub struct Pen<B: Backend> {
    paper: Paper,
    sheet: Arc<Sheet>,
    office: Arc<Office<B>>,
    /// How often it still takes its time.
    slow_writes: u64,
    /// And does something besides.
    busy_writes: u64,
}

impl<B: Backend> Pen<B> {
    pub fn new(paper: Paper, office: &Arc<Office<B>>) -> (Self, Arc<Sheet>) {
        let sheet = Arc::<Sheet>::default();
        let pen = Self {
            paper,
            sheet: Arc::clone(&sheet),
            office: Arc::clone(office),
            slow_writes: SLOW_WRITES,
            busy_writes: BUSY_WRITES,
        };
        (pen, sheet)
    }

    fn check(&self, callback: Callback) -> io::Result<()> {
        assert!(!self.sheet.has_failed.load(SeqCst), "a writer that has failed is called again");
        let trouble = &self.office.trouble;
        if let Some(payload) = trouble.due(callback) {
            self.sheet.has_failed.store(true, SeqCst);
            payload.throw();
        }
        if trouble.is_write_due() {
            self.sheet.has_failed.store(true, SeqCst);
            return Err(io::Error::other("the write fails, as the program wants"));
        }
        Ok(())
    }
}

impl<B: Backend> Write for Pen<B> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check(Callback::Write)?;
        // A panic in there is the writer's, too.
        self.sheet.has_failed.store(true, SeqCst);
        if self.busy_writes > 0 {
            self.busy_writes -= 1;
            self.office.act(self.paper.manner);
        }
        self.sheet.has_failed.store(false, SeqCst);
        if self.paper.slowness > 0 && self.slow_writes > 0 {
            self.slow_writes -= 1;
            thread::sleep(Duration::from_micros(self.paper.slowness));
        }
        let bytes = &bytes[..bytes.len().min(self.paper.most_bytes)];
        lock(&self.sheet.text).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.check(Callback::FlushWriter)
    }
}

impl<B: Backend> Drop for Pen<B> {
    fn drop(&mut self) {
        self.sheet.is_dropped.store(true, SeqCst);
        if let Some(payload) = self.office.trouble.due(Callback::DropWriter) {
            self.sheet.may_have_failed.store(true, SeqCst);
            payload.throw();
        }
    }
}

/// What a record has of a block: which record, and the block's number in it.
pub type Entry = (u64, u64);

/// What the program did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    Alloc { id: u64, bytes: u64, label: usize },
    Free { id: u64 },
    Step,
}

/// A record of a pool, and the program's own.
pub struct Record<B: Backend> {
    number: u64,
    recording: Recording<B>,
    sheet: Arc<Sheet>,
    did: Vec<Did>,
    allocations: u64,
    /// The program knows the order of everything that is in the record, and nothing else is.
    is_exact: bool,
}

impl<B: Ground> Program<B> {
    pub fn begin_record(&mut self, paper: Paper) {
        let (pen, sheet) = Pen::new(paper, &self.office);
        let result = caught(|| self.pool().record_with(pen, &paper.options()));
        match result {
            None => {}
            Some(Err(error)) => {
                let is_right = match error.kind() {
                    ErrorKind::Invalid => self.record.is_some(),
                    ErrorKind::File => sheet.has_failed(),
                    _ => false,
                };
                assert!(is_right, "{error}");
            }
            Some(Ok(recording)) => {
                assert!(self.record.is_none(), "recorded twice");
                self.patterns += 1;
                let (number, is_exact) = (self.patterns, self.waiters.is_empty() && self.offered.is_empty());
                self.record = Some(Record { number, recording, sheet, did: Vec::new(), allocations: 0, is_exact });
            }
        }
    }

    /// The number of the record, if there is one.
    pub fn record_number(&self) -> Option<u64> {
        self.record.as_ref().map(|record| record.number)
    }

    /// A block has come, while the record of this number was on.
    pub fn record_alloc(&mut self, facts: &Facts, number: Option<u64>) -> Option<Entry> {
        let record = self.record.as_mut().filter(|record| facts.bytes > 0 && number == Some(record.number))?;
        let id = record.allocations;
        record.allocations += 1;
        record.did.push(Did::Alloc { id, bytes: facts.bytes, label: facts.label });
        Some((record.number, id))
    }

    /// It goes.
    pub fn record_free(&mut self, entry: Option<Entry>) {
        if let (Some(record), Some((number, id))) = (&mut self.record, entry)
            && record.number == number
        {
            record.did.push(Did::Free { id });
        }
    }

    /// A step was marked, perhaps.
    pub fn record_step(&mut self, is_certain: bool) {
        if let Some(record) = &mut self.record {
            record.did.push(Did::Step);
            record.is_exact &= is_certain;
        }
    }

    /// There may be more in the record than the program knows.
    pub fn blur_record(&mut self) {
        if let Some(record) = &mut self.record {
            record.is_exact = false;
        }
    }

    pub fn end_record(&mut self, is_finished: bool) {
        // What writers have allocated so far.
        self.collect();
        let Some(record) = self.record.take() else { return };
        let Record { recording, sheet, did, is_exact, .. } = record;
        let recorded = end_recording(recording, is_finished, &sheet);
        if let Some(text) = sheet.take_text() {
            let mail = self.patterns;
            self.collect();
            let is_exact = is_exact && mail == self.patterns;
            self.done[Count::Recorded] += self.compare_record(&text, &did, recorded, is_exact);
        }
    }

    /// Returns how many events the record has.
    fn compare_record(&self, text: &[u8], did: &[Did], recorded: Option<Recorded>, is_exact: bool) -> u64 {
        let trace = parse(text);
        let (events, dropped) = (trace.events().len() as u64, trace.events_dropped());
        if let Some(recorded) = recorded {
            let ours = (events, dropped);
            assert_eq!(ours, (recorded.events, recorded.events_dropped), "events, and those dropped");
        }
        if dropped > 0 {
            return events;
        }
        let its: Vec<Did> = trace.events().iter().filter_map(|event| self.as_did(&trace, *event)).collect();
        if is_exact {
            let first = did.iter().zip(&its).position(|(ours, its)| ours != its);
            let at = first.unwrap_or(did.len().min(its.len()));
            assert!(did == its, "event {at} of the record: {:?}, not {:?}", its.get(at), did.get(at));
            return events;
        }
        // All that the program had is there; besides it nothing but what was taken back, or is in the hands of others.
        let its = tally(&its);
        for ((bytes, label), ours) in tally(did) {
            let its = its.get(&(bytes, label)).copied().unwrap_or_default();
            let is_right = its.allocations >= ours.allocations && its.frees >= ours.frees;
            assert!(is_right, "blocks of {bytes} bytes and label {label}: {its:?} are recorded, and not {ours:?}");
        }
        events
    }

    fn as_did(&self, trace: &Trace, event: Event) -> Option<Did> {
        Some(match event {
            Event::Alloc { id, bytes, label } => {
                let text = trace.label(label);
                let label = (0..LABELS).find(|label| self.setup.labels[*label] == text);
                Did::Alloc { id: id.into(), bytes, label: label.unwrap_or_else(|| panic!("{text:?} is no label")) }
            }
            Event::Free { id } => Did::Free { id: id.into() },
            Event::Step { .. } => Did::Step,
            _ => return None,
        })
    }
}

/// Ends a recording, and waits until its writer is gone: what the pool says of it, if it is finished and not dropped.
pub fn end_recording<B: Backend>(recording: Recording<B>, is_finished: bool, sheet: &Sheet) -> Option<Recorded> {
    let mut recorded = None;
    if is_finished {
        let result = caught(|| recording.finish()).expect("the writer's panic is an error");
        match result {
            Ok(result) => {
                assert!(!sheet.has_failed(), "a writer has failed, and finish says {result:?}");
                recorded = Some(result);
            }
            Err(error) => {
                let may_fail = sheet.has_failed() || sheet.may_have_failed.load(SeqCst);
                assert!(may_fail && error.kind() == ErrorKind::File, "{error}");
            }
        }
    } else {
        quietly(|| drop(recording));
    }
    // Another thread may be writing, which then writes the rest.
    let start = Instant::now();
    while !sheet.is_dropped.load(SeqCst) {
        assert!(start.elapsed() < PATIENCE, "the record has no end");
        thread::sleep(Duration::from_micros(50));
    }
    recorded
}

/// Reads a record.
pub fn parse(text: &[u8]) -> Trace {
    match Trace::parse(text, "record.trace").as_deref() {
        Ok([trace]) => trace.clone(),
        other => panic!("{other:?} of {}", String::from_utf8_lossy(text)),
    }
}

/// What a record has of the blocks of a size and label.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    allocations: u64,
    frees: u64,
}

/// Counts the blocks of each size and label.
fn tally(did: &[Did]) -> HashMap<(u64, usize), Counts> {
    let mut alive = HashMap::new();
    let mut tally = HashMap::<_, Counts>::new();
    for did in did {
        match *did {
            Did::Alloc { id, bytes, label } => {
                alive.insert(id, (bytes, label));
                tally.entry((bytes, label)).or_default().allocations += 1;
            }
            Did::Free { id } => {
                let what = alive.remove(&id).expect("a block of the record");
                tally.entry(what).or_default().frees += 1;
            }
            Did::Step => {}
        }
    }
    tally
}
