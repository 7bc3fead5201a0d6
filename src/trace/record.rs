//! Writing down what a live pool is asked for.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::EVENTS_DROPPED;
use super::parse::failed;
use super::text::escaped;
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::{Pool, PoolEvent, Room, Sink};
use crate::sync::{Arc, Mutex, caught, lock};

/// Bytes of events that wait to be written, unless [`RecordOptions::buffer_bytes`] says otherwise.
const BUFFER_BYTES: usize = 4 << 20;

/// How a pool is recorded, for [`Pool::record_with`].
#[derive(Clone, Debug)]
pub struct RecordOptions {
    room: Room,
}

impl RecordOptions {
    /// Returns the default: 4 MiB of events wait to be written at most, and allocations wait when there are more.
    pub fn new() -> Self {
        Self { room: Room { most_bytes: BUFFER_BYTES, is_lossy: false } }
    }

    /// Sets how many bytes of events may wait to be written before the record is full. An event has 48 bytes, and its label's
    /// text unless that is static. Their table may have room for twice as many.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.room.most_bytes = bytes;
        self
    }

    /// Sets what a full record does: if `true`, it drops events and counts them; if `false`, allocations wait for the writer.
    #[must_use]
    pub fn lossy(mut self, is_lossy: bool) -> Self {
        self.room.is_lossy = is_lossy;
        self
    }
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What a [`Recording`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded {
    /// Events in the trace: allocations, frees, steps and failures.
    pub events: u64,
    /// Allocations, steps and failures that are missing, because the record was full. The free of such an allocation is missing
    /// too, and not counted. The trace's header says this number, as `events_dropped`, if it is not 0.
    pub events_dropped: u64,
}

/// A trace that is being written; ends when it is [finished](Recording::finish) or dropped.
///
/// A drop writes what is left, and logs an error of the writer. It does not wait for another thread that is writing: that thread
/// writes what is left, and ends the recording.
#[must_use = "a recording ends when it is dropped"]
pub struct Recording<B: Backend> {
    pool: Pool<B>,
    serial: u64,
    outcome: Arc<Mutex<Outcome>>,
}

impl<B: Backend> fmt::Debug for Recording<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Before anything is written: the formatter may be the caller's own.
        let recorded = lock(&self.outcome).recorded;
        f.debug_struct("Recording").field("recorded", &recorded).finish_non_exhaustive()
    }
}

/// What has come of a recording so far.
#[derive(Debug, Default)]
struct Outcome {
    recorded: Recorded,
    /// What the writer reported first.
    error: Option<String>,
    /// `finish` reports the error.
    is_reported: bool,
}

/// A writer that can say whether its last bytes have arrived.
trait Paper: Write + Send {
    fn finish(self: Box<Self>) -> std::io::Result<()>;
}

/// A caller's writer.
struct Plain<W>(W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write + Send> Paper for Plain<W> {
    fn finish(mut self: Box<Self>) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Paper for GzEncoder<File> {
    fn finish(self: Box<Self>) -> std::io::Result<()> {
        Self::finish(*self).map(drop)
    }
}

/// Writes events to the caller's writer, and keeps what that reports. A writer that panics has failed.
struct Output {
    /// `None` once it has failed.
    writer: Option<BufWriter<Box<dyn Paper>>>,
    outcome: Arc<Mutex<Outcome>>,
}

impl Output {
    /// Calls the writer, unless it has failed.
    fn call(&mut self, call: impl FnOnce(&mut BufWriter<Box<dyn Paper>>) -> std::io::Result<()>) {
        let Some(mut writer) = self.writer.take() else { return };
        match caught(|| call(&mut writer)).unwrap_or_else(panicked) {
            Ok(()) => self.writer = Some(writer),
            Err(error) => {
                self.failed(error);
                // Without what it has not taken yet. To drop the writer is its owner's code too.
                caught(|| drop(writer.into_parts()));
            }
        }
    }

    /// Keeps what the writer reported first. The error is the caller's code: its text is taken, and it is dropped, without a lock.
    fn failed(&self, error: std::io::Error) {
        let text = caught(|| error.to_string()).unwrap_or_else(|| "the writer's error has panicked".to_owned());
        caught(|| drop(error));
        lock(&self.outcome).error.get_or_insert(text);
    }
}

impl Sink for Output {
    fn write(&mut self, events: Vec<PoolEvent>, dropped: u64) -> bool {
        let dropped_before = lock(&self.outcome).recorded.events_dropped;
        self.call(|writer| {
            events.iter().try_for_each(|event| write_event(writer, event))?;
            if dropped > dropped_before { writeln!(writer, "# {EVENTS_DROPPED}: {dropped}") } else { Ok(()) }
        });
        let recorded = &mut lock(&self.outcome).recorded;
        recorded.events_dropped = dropped;
        if self.writer.is_some() {
            recorded.events += events.len() as u64;
        }
        self.writer.is_some()
    }

    fn end(mut self: Box<Self>) {
        self.call(Write::flush);
        if let Some(writer) = self.writer.take() {
            let end = || writer.into_inner().map_err(|error| error.into_error()).and_then(|writer| writer.finish());
            if let Err(error) = caught(end).unwrap_or_else(panicked) {
                self.failed(error);
            }
        }
        let outcome = lock(&self.outcome);
        if !outcome.is_reported
            && let Some(message) = outcome.error.clone()
        {
            drop(outcome);
            // A logger is the caller's code too.
            caught(|| log::error!("a trace could not be written: {message}"));
        }
    }
}

fn panicked<T>() -> std::io::Result<T> {
    Err(std::io::Error::other("the writer has panicked"))
}

fn write_event(writer: &mut impl Write, event: &PoolEvent) -> std::io::Result<()> {
    let end = |label: &str| if label.is_empty() { String::new() } else { format!(" {}", escaped(label)) };
    match event {
        PoolEvent::Alloc { id, bytes, label } => writeln!(writer, "a {id} {bytes}{}", end(label)),
        PoolEvent::Free { id } => writeln!(writer, "f {id}"),
        PoolEvent::Step { number } => writeln!(writer, "# step {number}"),
        PoolEvent::Failure { bytes, label } => writeln!(writer, "# failure {bytes}{}", end(label)),
    }
}

impl<B: Backend> Pool<B> {
    /// Writes every allocation and free from now on to `writer`, in the [text format](super) of traces, with labels,
    /// failures and the steps that [`mark_step`](Pool::mark_step) marks, until the recording is finished or dropped.
    ///
    /// Blocks that are held already are not in the trace, nor are blocks of zero bytes. While a recording is on, no small
    /// block goes through the free lists of the CPUs: it is for learning what a program needs, not how fast it is.
    ///
    /// ```
    /// use tensorpool::trace::Trace;
    /// use tensorpool::{Config, Pool, Request};
    ///
    /// let path = std::env::temp_dir().join(format!("tensorpool-{}.trace.gz", std::process::id()));
    /// let pool = Pool::host(Config::new("1 MiB"))?;
    /// let recording = pool.record_to_file(&path)?;
    /// pool.mark_step();
    /// let block = pool.alloc(Request::bytes(5000).label("activation"))?;
    /// drop(block);
    /// recording.finish()?;
    /// assert_eq!(Trace::read(&path)?[0].live_peak_bytes(), 5000);
    /// # std::fs::remove_file(&path).unwrap();
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// # The writer
    /// One thread at a time calls the writer, with no lock of the pool held: a thread that allocates or marks a step, when some
    /// 256 KiB of events wait, or the thread that ends the recording. A drop of a block or a future never calls it, nor waits for it.
    ///
    /// When 4 MiB of events wait for a slow writer, the record is full. Then allocations and step marks of other threads wait until
    /// it has written, beyond a deadline of theirs; [`record_with`](Pool::record_with) can drop events instead. So the writer must not
    /// wait for a thread that may be allocating. It may call the pool itself: what it allocates is recorded, and dropped from a
    /// full record.
    ///
    /// A full record still takes the frees of blocks that are in it. So the pool keeps at most 4 MiB of events, 48 bytes for each
    /// recorded block that has not been freed when the record becomes full, and one event for each request of the calls that are
    /// under way. Besides, it keeps some 50 bytes for each recorded block that is alive.
    /// [`Stats::metadata_bytes`](crate::Stats::metadata_bytes) counts all of it.
    ///
    /// A writer that reports an error or panics is not called again. The program goes on without a record, and
    /// [`finish`](Recording::finish) says what happened.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the pool is being recorded already, also by the writer that calls this; what the writer reports
    /// for the first lines, as [`ErrorKind::File`]. Then nothing is recorded. What it reports later is
    /// [`finish`](Recording::finish)'s.
    pub fn record_to(&self, writer: impl Write + Send + 'static) -> Result<Recording<B>> {
        self.record_with(writer, &RecordOptions::new())
    }

    /// Records as [`record_to`](Pool::record_to) does, with options.
    ///
    /// ```
    /// use tensorpool::trace::RecordOptions;
    /// use tensorpool::{Config, Pool, Request};
    ///
    /// let pool = Pool::host(Config::new("1 MiB"))?;
    /// // Never waits for the writer: what there is no room for is missing in the trace.
    /// let recording = pool.record_with(std::io::sink(), &RecordOptions::new().lossy(true))?;
    /// drop(pool.alloc(Request::bytes(5000))?);
    /// let recorded = recording.finish()?;
    /// assert_eq!((recorded.events, recorded.events_dropped), (2, 0));
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`record_to`](Pool::record_to).
    pub fn record_with(&self, writer: impl Write + Send + 'static, options: &RecordOptions) -> Result<Recording<B>> {
        self.record(options, || Ok(Box::new(Plain(writer)) as Box<dyn Paper>))
    }

    /// Records as [`record_to`](Pool::record_to) does, to a new file, gzipped if its name ends in `.gz`.
    ///
    /// # Errors
    /// The errors of [`record_to`](Pool::record_to), and [`ErrorKind::File`] if the file cannot be created. A file is created
    /// only if the pool is not being recorded.
    pub fn record_to_file(&self, path: impl AsRef<Path>) -> Result<Recording<B>> {
        let path = path.as_ref();
        self.record(&RecordOptions::new(), || {
            let file =
                File::create(path).map_err(|error| failed(&format!("{} cannot be created", path.display()), error))?;
            let is_packed = path.extension().is_some_and(|extension| extension == "gz");
            Ok(if is_packed { Box::new(GzEncoder::new(file, Compression::default())) } else { Box::new(Plain(file)) })
        })
    }

    fn record(&self, options: &RecordOptions, open: impl FnOnce() -> Result<Box<dyn Paper>>) -> Result<Recording<B>> {
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let serial = self.start_record(options.room, || {
            let writer = Some(BufWriter::new(open()?));
            let mut output = Output { writer, outcome: Arc::clone(&outcome) };
            let (name, budget) = (escaped(self.backend().name()), self.budget_bytes());
            output.call(|writer| writeln!(writer, "# backend: {name}\n# budget_bytes: {budget}"));
            match lock(&outcome).error.take() {
                Some(error) => Err(unwritten(&error)),
                None => Ok(Box::new(output)),
            }
        })?;
        Ok(Recording { pool: self.clone(), serial, outcome })
    }
}

impl<B: Backend> Recording<B> {
    /// Ends the recording and writes what is left of it. Waits for another thread that is writing.
    ///
    /// # Errors
    /// [`ErrorKind::File`] with the first thing that the writer reported, or that it has panicked: what it was given after that
    /// is lost. [`ErrorKind::Invalid`] if the writer itself calls this: then the recording ends when the writer returns.
    pub fn finish(self) -> Result<Recorded> {
        lock(&self.outcome).is_reported = true;
        if let Err(error) = self.pool.end_record(self.serial) {
            lock(&self.outcome).is_reported = false;
            return Err(error);
        }
        let mut outcome = lock(&self.outcome);
        match outcome.error.take() {
            Some(error) => Err(unwritten(&error)),
            None => Ok(outcome.recorded),
        }
    }
}

impl<B: Backend> Drop for Recording<B> {
    fn drop(&mut self) {
        // Does nothing after `finish`: a record that began since has another number.
        self.pool.abandon_record(self.serial);
    }
}

fn unwritten(error: &str) -> Error {
    Error::new(ErrorKind::File, format!("the trace could not be written: {error}"))
}
