//! A record of what a pool is asked for, event by event, for whoever writes it down.
//!
//! While it is on the pool is direct: everything passes the pool's lock, where events get their order. They are handed on
//! without the lock, in the same order, when enough have come together. While it is off it costs nothing.

use std::borrow::Cow;
use std::collections::HashMap;

use super::state::{Home, Slot, State};
use super::{Pool, Request, Shared};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::lock;

/// Events that come together before they are handed on.
const EVENTS_AT_ONCE: usize = 4096;

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

/// Who gets the events. Called from whichever thread allocates or frees.
pub(crate) type Sink = Box<dyn FnMut(Vec<PoolEvent>) + Send>;

#[derive(Debug, Default)]
pub(super) struct Record {
    events: Vec<PoolEvent>,
    /// Of the blocks alive: what begins where.
    ids: HashMap<(Slot, u64), u64>,
    next_id: u64,
    steps: u64,
}

impl Record {
    fn alloc<S>(&mut self, home: &Home<S>, request: &Request) {
        let id = self.next_id;
        self.next_id += 1;
        self.ids.insert(home.place(), id);
        self.events.push(PoolEvent::Alloc { id, bytes: request.bytes, label: request.label.clone() });
    }

    fn moved(&mut self, from: (Slot, u64), to: (Slot, u64)) {
        if let Some(id) = self.ids.remove(&from) {
            self.ids.insert(to, id);
        }
    }

    fn free<S>(&mut self, home: &Home<S>) {
        // Blocks from before the record are not in it.
        if let Some(id) = self.ids.remove(&home.place()) {
            self.events.push(PoolEvent::Free { id });
        }
    }
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
            let failure = |request: &Request| PoolEvent::Failure { bytes: request.bytes, label: request.label.clone() };
            record.events.extend(requests.iter().map(failure));
        }
    }

    #[inline]
    pub(super) fn has_much_recorded(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.events.len() >= EVENTS_AT_ONCE)
    }
}

impl<B: Backend> Shared<B> {
    /// Hands events on, unless another thread is doing so.
    #[cold]
    pub(super) fn hand_on_record(&self) {
        let Ok(mut sink) = self.sink.try_lock() else { return };
        let Some(sink) = sink.as_mut() else { return };
        let events = self.state().record.as_mut().map(|record| std::mem::take(&mut record.events));
        sink(events.unwrap_or_default());
    }
}

impl<B: Backend> Shared<B> {
    /// A step of the program begins.
    pub(super) fn record_step(&self) {
        if let Some(record) = &mut self.state().record {
            record.steps += 1;
            let number = record.steps;
            record.events.push(PoolEvent::Step { number });
        }
    }
}

impl<B: Backend> Pool<B> {
    /// Begins a record.
    #[cfg_attr(not(feature = "trace"), allow(dead_code, reason = "only traces are made of records"))]
    pub(crate) fn start_record(&self, sink: Sink) -> Result<()> {
        let shared = self.shared();
        {
            let mut current = lock(&shared.sink);
            if current.is_some() {
                return Err(Error::new(ErrorKind::Invalid, "the pool's allocations are being recorded already"));
            }
            *current = Some(sink);
            shared.state().set_record(Some(Record::default()));
        }
        shared.empty_lists();
        Ok(())
    }

    /// Ends the record, and hands on what is left of it.
    #[cfg_attr(not(feature = "trace"), allow(dead_code, reason = "only traces are made of records"))]
    pub(crate) fn end_record(&self) {
        let mut current = lock(&self.shared().sink);
        let record = self.shared().state().set_record(None);
        if let (Some(mut sink), Some(record)) = (current.take(), record) {
            sink(record.events);
        }
    }
}
