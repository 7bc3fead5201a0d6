//! A record of what a pool is asked for, event by event, and how its events reach the caller's writer.
//!
//! ```text
//!   allocation, free ──► Record: events in order (pool's lock) ──► Sink: the caller's writer (no lock)
//! ```
//!
//! While a record is on, the pool is direct: everything passes the pool's lock, where events get their order. While none is on,
//! it costs one look at a flag.
//!
//! A [`Sink`] runs the caller's code, which may be slow, or call the pool. So one thread at a time calls it, without a lock.
//! Allocations, resizes, step marks and the end of the record do. No drop of a block, a future or a hold does, nor waits for a thread
//! that does.
//!
//! [`Room`] bounds the events that are not written yet. A full record takes nothing but frees of blocks that it has: an
//! allocation is recorded together with the room for its free.

use std::borrow::Cow;
use std::collections::HashMap;

use super::state::{Home, Slot, State};
use super::tables::{keep_small_map, map_bytes};
use super::{Pool, Request, Shared};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Ordering, PoisonError, ThreadId, caught, this_thread};

/// Bytes of events that an allocation hands on at once.
const HAND_ON_BYTES: usize = 256 << 10;

/// Something that a pool did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PoolEvent {
    /// Ids count up from 0 in a record.
    Alloc { id: u64, bytes: u64, label: Cow<'static, str> },
    /// Of a block that was allocated in the record.
    Free { id: u64 },
    /// A step of the program begins.
    Step { number: u64 },
    /// An allocation failed.
    Failure { bytes: u64, label: Cow<'static, str> },
}

impl PoolEvent {
    /// Its memory in bytes, without what a growing vector holds in reserve.
    fn memory_bytes(&self) -> usize {
        let label_bytes = match self {
            Self::Alloc { label: Cow::Owned(label), .. } | Self::Failure { label: Cow::Owned(label), .. } => {
                label.len()
            }
            _ => 0,
        };
        size_of::<Self>() + label_bytes
    }
}

/// Writes a record's events down. One thread at a time calls it, without a lock of the pool. It must not panic.
pub(crate) trait Sink: Send {
    /// Writes events, in order. So many others are missing so far, because the record was full. False if the sink can take
    /// no more.
    fn write(&mut self, events: Vec<PoolEvent>, dropped: u64) -> bool;

    /// Ends the writing, after the last events.
    fn end(self: Box<Self>);
}

/// How many events a record keeps that are not written yet, and what happens when it is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// A record is full from so many bytes of events on.
    pub(crate) most_bytes: usize,
    /// A full record drops events and counts them. Otherwise allocations wait.
    pub(crate) is_lossy: bool,
}

pub(super) struct Record {
    /// Tells it from any other record of the process.
    serial: u64,
    room: Room,
    events: Vec<PoolEvent>,
    /// Bytes of `events`, and of those that a thread is writing.
    waiting_bytes: usize,
    writing_bytes: usize,
    /// Ids of the blocks that are alive, by where each begins.
    ids: HashMap<(Slot, u64), u64>,
    next_id: u64,
    steps: u64,
    /// Allocations, failures and steps that there was no room for.
    dropped: u64,
    sink: SinkAt,
    phase: Phase,
}

enum SinkAt {
    Here(Box<dyn Sink>),
    /// This thread opens it, or writes.
    With(ThreadId),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    On,
    /// Takes no more events: the sink has failed, or the record is about to end.
    Stopped,
    /// As `Stopped`, and the thread that has the sink ends the record.
    Abandoned,
}

impl Record {
    /// Returns a record whose sink this thread opens.
    fn new(room: Room) -> Self {
        static NEXT_SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Self {
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            room,
            events: Vec::new(),
            waiting_bytes: 0,
            writing_bytes: 0,
            ids: HashMap::new(),
            next_id: 0,
            steps: 0,
            dropped: 0,
            sink: SinkAt::With(this_thread()),
            phase: Phase::On,
        }
    }

    fn alloc<S>(&mut self, home: &Home<S>, request: &Request) {
        if self.admits() {
            let id = self.next_id;
            self.next_id += 1;
            self.ids.insert(home.place(), id);
            self.push(PoolEvent::Alloc { id, bytes: request.bytes, label: request.label.text().to_owned().into() });
        }
    }

    fn moved(&mut self, from: (Slot, u64), to: (Slot, u64)) {
        if let Some(id) = self.ids.remove(&from) {
            self.ids.insert(to, id);
        }
    }

    fn free<S>(&mut self, home: &Home<S>) {
        // Blocks from before the record are not in it, nor are those that it had no room for.
        if let Some(id) = self.ids.remove(&home.place())
            && self.phase == Phase::On
        {
            self.push(PoolEvent::Free { id });
        }
    }

    /// A block of the record has another size from now on: it is freed and allocated anew, at the same place.
    fn resized<S>(&mut self, home: &Home<S>, bytes: u64, label: &str) {
        if self.ids.contains_key(&home.place()) {
            self.free(home);
            self.alloc(home, &Request::bytes(bytes).label(label.to_owned()));
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        if self.admits() {
            self.push(PoolEvent::Step { number: self.steps });
        }
    }

    fn failure(&mut self, request: &Request) {
        if self.admits() {
            self.push(PoolEvent::Failure { bytes: request.bytes, label: request.label.text().to_owned().into() });
        }
    }

    /// Whether an event other than a free is recorded. The caller of a record that is not lossy has waited for room; what
    /// the sink itself allocates cannot wait for the sink.
    fn admits(&mut self) -> bool {
        if self.phase != Phase::On {
            return false;
        }
        let is_dropped = self.is_full() && (self.room.is_lossy || self.is_with_this_thread());
        self.dropped += u64::from(is_dropped);
        !is_dropped
    }

    fn push(&mut self, event: PoolEvent) {
        self.waiting_bytes += event.memory_bytes();
        self.events.push(event);
    }

    fn is_full(&self) -> bool {
        self.waiting_bytes + self.writing_bytes >= self.room.most_bytes
    }

    fn has_much(&self) -> bool {
        self.waiting_bytes >= HAND_ON_BYTES.min(self.room.most_bytes / 2).max(1)
    }

    fn is_with_this_thread(&self) -> bool {
        matches!(&self.sink, SinkAt::With(thread) if *thread == this_thread())
    }

    /// Takes the sink and the events for this thread to write, unless a thread has the sink.
    fn take_batch(&mut self) -> Option<Batch> {
        let sink = match std::mem::replace(&mut self.sink, SinkAt::With(this_thread())) {
            SinkAt::Here(sink) => sink,
            with_another => {
                self.sink = with_another;
                return None;
            }
        };
        self.writing_bytes = std::mem::take(&mut self.waiting_bytes);
        self.keep_small();
        Some(Batch { sink, events: std::mem::take(&mut self.events), dropped: self.dropped })
    }

    /// The sink has failed: nothing more is kept for it.
    fn fail(&mut self) {
        (self.events, self.ids, self.waiting_bytes) = (Vec::new(), HashMap::new(), 0);
        self.stop();
    }

    fn stop(&mut self) {
        if self.phase == Phase::On {
            self.phase = Phase::Stopped;
        }
    }

    /// Gives back what the table of ids has in reserve.
    pub(super) fn keep_small(&mut self) {
        keep_small_map(&mut self.ids);
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        let label_bytes = self.waiting_bytes - self.events.len() * size_of::<PoolEvent>();
        let events_bytes = self.events.capacity() * size_of::<PoolEvent>() + label_bytes + self.writing_bytes;
        size_of::<Self>() as u64 + events_bytes as u64 + map_bytes(&self.ids)
    }
}

/// Events for a sink, on their way.
struct Batch {
    sink: Box<dyn Sink>,
    events: Vec<PoolEvent>,
    dropped: u64,
}

impl<S> State<S> {
    #[inline]
    pub(super) fn record_alloc(&mut self, home: &Home<S>, request: &Request) {
        if let Some(record) = &mut self.record {
            record.alloc(home, request);
        }
    }

    #[inline]
    pub(super) fn record_free(&mut self, home: &Home<S>) {
        if let Some(record) = &mut self.record {
            record.free(home);
        }
    }

    /// A block has so many bytes now.
    pub(super) fn record_resize(&mut self, home: &Home<S>, bytes: u64, label: &str) {
        if let Some(record) = &mut self.record {
            record.resized(home, bytes, label);
        }
    }

    /// A block is somewhere else now. Nothing about that is recorded.
    pub(super) fn record_move(&mut self, from: (Slot, u64), to: (Slot, u64)) {
        if let Some(record) = &mut self.record {
            record.moved(from, to);
        }
    }

    /// Counts a failed allocation.
    pub(super) fn failed(&mut self, requests: &[Request]) {
        self.totals().failures += 1;
        if let Some(record) = &mut self.record {
            requests.iter().for_each(|request| record.failure(request));
        }
    }

    fn record_of(&mut self, serial: u64) -> Option<&mut Record> {
        self.record.as_deref_mut().filter(|record| record.serial == serial)
    }
}

impl<B: Backend> Shared<B> {
    /// Hands events on if many wait and no other thread does so. Waits while the record is full, unless it is lossy. For
    /// calls that allocate, with no lock held and no memory that is not a block's: this runs the caller's code.
    #[inline]
    pub(super) fn make_room_in_record(&self) {
        if self.shards.signs.is_recording() {
            self.hand_on_record();
        }
    }

    #[cold]
    #[inline(never)]
    fn hand_on_record(&self) {
        let mut state = self.state();
        loop {
            let Some(record) = state.record.as_deref_mut().filter(|record| record.phase == Phase::On) else { return };
            let is_full = record.is_full();
            if !is_full && !record.has_much() {
                return;
            }
            if let Some(batch) = record.take_batch() {
                drop(state);
                let Batch { mut sink, events, dropped } = batch;
                let goes_on = sink.write(events, dropped);
                return self.return_sink(sink, goes_on);
            }
            if !is_full || record.room.is_lossy || record.is_with_this_thread() {
                return;
            }
            state = self.recorded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the record its sink back. Ends the record if it was abandoned meanwhile.
    fn return_sink(&self, sink: Box<dyn Sink>, goes_on: bool) {
        let mut state = self.state();
        // A record stays as long as a thread has its sink.
        let Some(record) = &mut state.record else { return };
        (record.sink, record.writing_bytes) = (SinkAt::Here(sink), 0);
        if !goes_on {
            record.fail();
        }
        let last = if record.phase == Phase::Abandoned { record.take_batch() } else { None };
        drop(state);
        self.recorded.notify_all();
        if let Some(last) = last {
            self.end_with(last);
        }
    }

    /// Writes the last events of a record that takes no more. Until they are written no other record may begin.
    fn end_with(&self, last: Batch) {
        let Batch { mut sink, events, dropped } = last;
        sink.write(events, dropped);
        sink.end();
        let record = self.state().set_record(None);
        drop(record);
        self.recorded.notify_all();
    }

    /// A step of the program begins.
    pub(super) fn record_step(&self) {
        if self.shards.signs.is_recording() {
            self.hand_on_record();
            if let Some(record) = &mut self.state().record {
                record.step();
            }
        }
    }
}

/// A record whose sink is being opened. It ends if that fails or panics.
struct Opening<'a, B: Backend>(&'a Shared<B>);

impl<B: Backend> Drop for Opening<'_, B> {
    fn drop(&mut self) {
        let record = self.0.state().set_record(None);
        self.0.recorded.notify_all();
        drop(record);
    }
}

#[cfg_attr(not(feature = "trace"), allow(dead_code, reason = "only traces are made of records"))]
impl<B: Backend> Pool<B> {
    /// Begins a record, with the sink that `open` returns; its serial number. What happens from before `open` is called is in the
    /// record.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is a record: then `open` is not called. As `open`.
    pub(crate) fn start_record(&self, room: Room, open: impl FnOnce() -> Result<Box<dyn Sink>>) -> Result<u64> {
        let shared = self.shared();
        let record = Box::new(Record::new(room));
        let serial = record.serial;
        {
            let mut state = shared.state();
            if state.record.is_some() {
                drop(state);
                // A sink is the caller's. If its drop panicked on the way out of this function, the error would leak.
                caught(|| drop(open));
                let message = "the pool's allocations are being recorded already, or a record is still being written";
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            state.set_record(Some(record));
        }
        let opening = Opening(&**shared);
        shared.empty_lists();
        let sink = open()?;
        std::mem::forget(opening);
        shared.return_sink(sink, true);
        Ok(serial)
    }

    /// Ends the record of this number and writes what is left. Waits for a thread that is writing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if that thread is this one. Then the record ends when it has written.
    pub(crate) fn end_record(&self, serial: u64) -> Result<()> {
        let shared = self.shared();
        let mut state = shared.state();
        while let Some(record) = state.record_of(serial) {
            record.stop();
            if record.is_with_this_thread() {
                record.phase = Phase::Abandoned;
                let message = "a recording cannot be finished by its own writer: it ends when the writer returns";
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            let last = record.take_batch();
            // The allocations that wait for room need not any more.
            shared.recorded.notify_all();
            if let Some(last) = last {
                drop(state);
                shared.end_with(last);
                return Ok(());
            }
            state = shared.recorded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// As [`end_record`](Self::end_record), without waiting: a thread that is writing ends the record.
    pub(crate) fn abandon_record(&self, serial: u64) {
        let shared = self.shared();
        let mut state = shared.state();
        let Some(record) = state.record_of(serial) else { return };
        record.phase = Phase::Abandoned;
        let last = record.take_batch();
        drop(state);
        shared.recorded.notify_all();
        if let Some(last) = last {
            shared.end_with(last);
        }
    }
}
