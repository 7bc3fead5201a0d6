//! Traces: what a program asked an allocator for, in order, as plain data.
//!
//! ```text
//!   text ────────────────────┐
//!   PyTorch's snapshot ──────┤
//!   Kineto's trace (JSON) ───┼─► Trace ───────┬─► replay against any pool
//!   RMM's log ───────────────┤      │         └─► text
//!   lifetimes (CSV) ─────────┘   [`Event`]
//! ```
//!
//! [`Trace::read`] and [`Trace::parse`] read every format, gzipped or not; which one it is follows from the content. A trace
//! that exists is whole: its ids count up from 0 in the order of allocation, nothing is freed twice or before it is
//! allocated, and what is alive never comes to more than 2^64 bytes. So code that uses one checks nothing.
//! [`read_csv`] and [`write_csv`] are for lifetimes without a trace: what a [plan](crate::plan) is made of.
//!
//! Files may be anyone's, and broken. An error names the file, the line or the byte, and what was expected there. No input
//! makes the reader panic. Files are streamed: what needs memory is what is read, and not the file.
//!
//! # The text format
//!
//! ```text
//! # key: value               header
//! a <id> <bytes> [<label>]   allocate; the label is the rest of the line
//! f <id>                     free
//! # step N                   before every step
//! # failure <bytes> [<label>]   an allocation that failed
//! ```
//!
//! In a label a backslash, a line feed and a carriage return are `\\`, `\n` and `\r`. Lines that start with `#` and are none
//! of these are comments. Ids need not count up in the file: it is enough that no two blocks alive have the same. What the
//! header says of `events`, `allocations`, `frees` and `max_live_bytes` must be so: that is how a file that was cut off shows.
//! A recording that had no room for events says how many are missing so far where they are: `# events_dropped: N`.

mod addresses;
mod budget;
mod build;
mod csv;
mod fault;
mod history;
mod kineto;
mod lifetimes;
mod limits;
mod parse;
mod record;
mod replay;
mod rmm;
mod source;
mod table;
mod text;
mod torch;

use std::path::Path;

pub use self::budget::{MinBudget, min_budget};
pub use self::build::TraceBuilder;
pub use self::csv::{read_csv, write_csv};
pub use self::record::{RecordOptions, Recorded, Recording};
pub use self::replay::{Progress, Replay, replay, replay_while};
use crate::error::Result;
use crate::plan::Lifetime;

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A block was allocated. The ids of a trace count up from 0.
    Alloc {
        /// Its number.
        id: u32,
        /// What was asked for.
        bytes: u64,
        /// Of [`Trace::label`].
        label: LabelId,
    },
    /// The block was freed.
    Free {
        /// As it was allocated.
        id: u32,
    },
    /// A step begins.
    Step {
        /// Its number.
        number: u64,
    },
    /// An allocation failed.
    Failure {
        /// What was asked for.
        bytes: u64,
        /// Of [`Trace::label`].
        label: LabelId,
    },
}

/// Which of a trace's labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelId(u32);

/// A recorded sequence of allocations and frees.
///
/// ```
/// use tensorpool::trace::{Event, Trace};
///
/// let text = "# trace: tiny\na 0 4096 weights\n# step 1\na 1 100\nf 1\n";
/// let trace = &Trace::parse(text.as_bytes(), "tiny.trace")?[0];
/// assert_eq!((trace.name(), trace.live_peak_bytes()), ("tiny", 4196));
/// assert_eq!(trace.events()[1], Event::Step { number: 1 });
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    name: String,
    header: Vec<(String, String)>,
    /// The first is empty, for those without.
    labels: Vec<String>,
    events: Vec<Event>,
    counts: Counts,
}

/// What follows from the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    allocations: u64,
    frees: u64,
    failures: u64,
    largest_failure_bytes: u64,
    live_bytes: u64,
    live_peak_bytes: u64,
    /// How many events there are up to the first at which most was live.
    live_peak_events: usize,
}

impl Trace {
    /// Reads a file in any of the formats, gzipped or not: one trace, or one for every device of a snapshot or a Kineto
    /// trace.
    ///
    /// # Errors
    /// [`ErrorKind::File`](crate::ErrorKind::File) with the file's name, and the line or the byte that is wrong.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        parse::read(path.as_ref())
    }

    /// Reads what was in a file called `name`: the name decides where the content does not, says what errors are about,
    /// and names a trace that has no name of its own.
    ///
    /// # Errors
    /// As [`read`](Trace::read).
    pub fn parse(bytes: &[u8], name: &str) -> Result<Vec<Self>> {
        parse::parse(bytes, name)
    }

    /// Writes the text format, gzipped if the name ends in `.gz`.
    ///
    /// # Errors
    /// [`ErrorKind::File`](crate::ErrorKind::File) with the file's name and what the system says.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        text::write_file(self, path.as_ref())
    }

    /// The text format.
    pub fn to_text(&self) -> String {
        text::write(self)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known about it: keys and values, in order.
    pub fn header(&self) -> &[(String, String)] {
        &self.header
    }

    /// The value of a key of the header.
    pub fn header_of(&self, key: &str) -> Option<&str> {
        self.header.iter().find(|(found, _)| found == key).map(|(_, value)| &**value)
    }

    /// All that happened, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// When each block is alive, counted in events, in the order of allocation: what a plan for the whole trace is made of.
    ///
    /// ```
    /// use tensorpool::plan::{self, Options};
    /// use tensorpool::trace::Trace;
    ///
    /// let trace = &Trace::parse(b"a 0 4096\nf 0\na 1 8192\n", "tiny.trace")?[0];
    /// let plan = plan::solve(&trace.lifetimes(), &Options::new().align(256))?;
    /// assert_eq!(plan.height, 8192);
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    pub fn lifetimes(&self) -> Vec<Lifetime> {
        let end = self.events.len() as u64;
        let mut lifetimes: Vec<Lifetime> = Vec::with_capacity(self.counts.allocations as usize);
        for (now, event) in (0..).zip(&self.events) {
            match *event {
                Event::Alloc { bytes, .. } => lifetimes.push(Lifetime::new(now, end, bytes)),
                Event::Free { id } => lifetimes[id as usize].upper = now,
                Event::Step { .. } | Event::Failure { .. } => {}
            }
        }
        lifetimes
    }

    /// The same as one step: for a plan of the whole trace, which a [replay] would begin anew with every step.
    #[must_use]
    pub fn without_steps(&self) -> Self {
        let mut whole = self.clone();
        let steps = |event: &&Event| matches!(event, Event::Step { .. });
        whole.counts.live_peak_events -= self.events[..self.counts.live_peak_events].iter().filter(steps).count();
        whole.events.retain(|event| !steps(&event));
        whole
    }

    /// The text of a label, empty for those without.
    pub fn label(&self, label: LabelId) -> &str {
        self.labels.get(label.0 as usize).map_or("", |label| label)
    }

    /// How many allocations there are. Their ids are the numbers below this.
    pub fn allocations(&self) -> u64 {
        self.counts.allocations
    }

    /// How many of them are freed.
    pub fn frees(&self) -> u64 {
        self.counts.frees
    }

    /// How many allocations failed when it was recorded.
    pub fn failures(&self) -> u64 {
        self.counts.failures
    }

    /// The largest of the allocations that failed when it was recorded, in bytes; 0 where none did.
    pub fn largest_failure_bytes(&self) -> u64 {
        self.counts.largest_failure_bytes
    }

    /// The most bytes that are alive at one time, as they were asked for: no pool needs less.
    pub fn live_peak_bytes(&self) -> u64 {
        self.counts.live_peak_bytes
    }

    /// Bytes that are alive at the end.
    pub fn live_at_end_bytes(&self) -> u64 {
        self.counts.live_bytes
    }

    /// The most that the recorded allocator had reserved, where the recording says: a snapshot of PyTorch's does, if its
    /// history is whole enough, and a Kineto trace of a GPU. It is never less than what was alive.
    pub fn recorded_reserved_peak_bytes(&self) -> Option<u64> {
        self.header_of(RESERVED_PEAK)?.parse().ok()
    }

    /// What the recorded history lacks, in words that follow "the history": that it begins with blocks alive, is cut off, or
    /// is missing. `None` where it lacks nothing, or the format does not tell.
    pub fn history(&self) -> Option<&str> {
        self.header_of(HISTORY)
    }

    /// How many allocations, steps and failures are missing, because a [recording](Recording) had no room for them. The program
    /// needed more than such a trace says.
    pub fn events_dropped(&self) -> u64 {
        self.header_of(EVENTS_DROPPED).and_then(|dropped| dropped.parse().ok()).unwrap_or(0)
    }
}

/// The key of the header for what a recorded history lacks.
const HISTORY: &str = "history";

/// The key of the header for what the recorded allocator had reserved at most.
const RESERVED_PEAK: &str = "reserved_peak_bytes";

/// The key of the header for events that a recording had no room for.
const EVENTS_DROPPED: &str = "events_dropped";
