//! How a trace comes to be, whatever it is read from: event by event, and only whole ones.

use std::collections::HashMap;

use super::{Counts, Event, LabelId, Trace};
use crate::error::{Error, ErrorKind, Result};
use crate::units::thousands;

/// Makes a [`Trace`] event by event.
///
/// ```
/// use tensorpool::trace::TraceBuilder;
///
/// let mut builder = TraceBuilder::new("by hand");
/// let weights = builder.alloc(4096, "weights")?;
/// builder.step(1);
/// builder.free(weights)?;
/// assert!(builder.free(weights).is_err());
/// assert_eq!(builder.finish().live_peak_bytes(), 4096);
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Debug)]
pub struct TraceBuilder {
    trace: Trace,
    /// Where each key stands in the header.
    header_places: HashMap<String, usize>,
    label_ids: HashMap<String, LabelId>,
    /// Bytes of each allocation that is alive, by its id.
    alive: HashMap<u32, u64>,
}

impl TraceBuilder {
    /// Nothing has happened yet.
    pub fn new(name: impl Into<String>) -> Self {
        let trace = Trace {
            name: name.into(),
            header: Vec::new(),
            labels: vec![String::new()],
            events: Vec::new(),
            counts: Counts::default(),
        };
        Self { trace, header_places: HashMap::new(), label_ids: HashMap::new(), alive: HashMap::new() }
    }

    /// Something to know about the trace. The key `trace` gives it its name.
    pub fn header(&mut self, key: &str, value: &str) {
        if key == "trace" {
            self.trace.name = value.to_owned();
        }
        match self.header_places.get(key) {
            Some(place) => self.trace.header[*place].1 = value.to_owned(),
            None => {
                self.header_places.insert(key.to_owned(), self.trace.header.len());
                self.trace.header.push((key.to_owned(), value.to_owned()));
            }
        }
    }

    /// An allocation; its id.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if more than 2^64 bytes would be alive, or more than 2^32 blocks were allocated. Then
    /// nothing changes.
    pub fn alloc(&mut self, bytes: u64, label: &str) -> Result<u32> {
        let Counts { live_bytes, .. } = self.trace.counts;
        let live_bytes = live_bytes.checked_add(bytes).ok_or_else(|| {
            invalid(format!("{} bytes more than the {} alive are over 2^64", thousands(bytes), thousands(live_bytes)))
        })?;
        let id =
            u32::try_from(self.trace.counts.allocations).map_err(|_| invalid("more than 2^32 allocations".into()))?;
        let label = self.label(label);
        self.trace.events.push(Event::Alloc { id, bytes, label });
        self.alive.insert(id, bytes);
        let counts = &mut self.trace.counts;
        counts.allocations += 1;
        counts.live_bytes = live_bytes;
        if live_bytes > counts.live_peak_bytes {
            counts.live_peak_bytes = live_bytes;
            counts.live_peak_events = self.trace.events.len();
        }
        Ok(id)
    }

    /// A free.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is no such block, or it was freed before. Then nothing changes.
    pub fn free(&mut self, id: u32) -> Result<()> {
        let Some(bytes) = self.alive.remove(&id) else {
            let was_there = u64::from(id) < self.trace.counts.allocations;
            let what = if was_there { "is freed a second time" } else { "is freed and was never allocated" };
            return Err(invalid(format!("block {id} {what}")));
        };
        self.trace.events.push(Event::Free { id });
        self.trace.counts.frees += 1;
        self.trace.counts.live_bytes -= bytes;
        Ok(())
    }

    /// A step begins.
    pub fn step(&mut self, number: u64) {
        self.trace.events.push(Event::Step { number });
    }

    /// An allocation that failed.
    pub fn failure(&mut self, bytes: u64, label: &str) {
        let label = self.label(label);
        self.trace.events.push(Event::Failure { bytes, label });
        let counts = &mut self.trace.counts;
        counts.failures += 1;
        counts.largest_failure_bytes = counts.largest_failure_bytes.max(bytes);
    }

    /// The trace.
    pub fn finish(mut self) -> Trace {
        self.trace.events.shrink_to_fit();
        self.trace
    }

    /// Bytes that are alive now, and the most that ever were.
    pub(super) fn live_bytes(&self) -> (u64, u64) {
        (self.trace.counts.live_bytes, self.trace.counts.live_peak_bytes)
    }

    fn label(&mut self, label: &str) -> LabelId {
        if label.is_empty() {
            return LabelId::default();
        }
        if let Some(id) = self.label_ids.get(label) {
            return *id;
        }
        // No more labels than events, which are fewer than 2^32.
        let id = LabelId(self.trace.labels.len() as u32);
        self.trace.labels.push(label.to_owned());
        self.label_ids.insert(label.to_owned(), id);
        id
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}
