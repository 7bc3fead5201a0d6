//! Writing down what a live pool is asked for.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::parse::failed;
use super::text::escaped;
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::{Pool, PoolEvent};
use crate::sync::{Arc, Mutex, lock};

/// A trace that is being written; ends when it is [finished](Recording::finish) or dropped.
#[must_use = "a recording ends when it is dropped"]
pub struct Recording<B: Backend> {
    pool: Pool<B>,
    /// What is written to, or what went wrong.
    output: Arc<Mutex<Output>>,
}

struct Output {
    writer: Box<dyn Write + Send>,
    error: Option<std::io::Error>,
}

impl Output {
    fn events(&mut self, events: &[PoolEvent]) {
        if self.error.is_none() {
            self.error = events.iter().try_for_each(|event| self.event(event)).err();
        }
    }

    fn event(&mut self, event: &PoolEvent) -> std::io::Result<()> {
        let end = |label: &str| if label.is_empty() { String::new() } else { format!(" {}", escaped(label)) };
        match event {
            PoolEvent::Alloc { id, bytes, label } => writeln!(self.writer, "a {id} {bytes}{}", end(label)),
            PoolEvent::Free { id } => writeln!(self.writer, "f {id}"),
            PoolEvent::Step { number } => writeln!(self.writer, "# step {number}"),
            PoolEvent::Failure { bytes, label } => writeln!(self.writer, "# failure {bytes}{}", end(label)),
        }
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
    /// # Errors
    /// [`ErrorKind::Invalid`] if the pool is being recorded already; what the writer reports for the first lines, as
    /// [`ErrorKind::File`]. What it reports later is [`finish`](Recording::finish)'s.
    pub fn record_to(&self, writer: impl Write + Send + 'static) -> Result<Recording<B>> {
        let mut writer: Box<dyn Write + Send> = Box::new(BufWriter::new(writer));
        let (name, budget) = (escaped(self.backend().name()), self.budget_bytes());
        writeln!(writer, "# backend: {name}\n# budget_bytes: {budget}").map_err(|error| unwritten(&error))?;
        let output = Arc::new(Mutex::new(Output { writer, error: None }));
        let sink = Arc::clone(&output);
        self.start_record(Box::new(move |events| lock(&sink).events(&events)))?;
        Ok(Recording { pool: self.clone(), output })
    }

    /// As [`record_to`](Pool::record_to), to a new file, gzipped if its name ends in `.gz`.
    ///
    /// # Errors
    /// As [`record_to`](Pool::record_to), and [`ErrorKind::File`] if the file cannot be created.
    pub fn record_to_file(&self, path: impl AsRef<Path>) -> Result<Recording<B>> {
        let path = path.as_ref();
        let file =
            File::create(path).map_err(|error| failed(&format!("{} cannot be created", path.display()), error))?;
        if path.extension().is_some_and(|extension| extension == "gz") {
            self.record_to(GzEncoder::new(file, Compression::default()))
        } else {
            self.record_to(file)
        }
    }
}

impl<B: Backend> Recording<B> {
    /// Ends the recording and writes what is left of it.
    ///
    /// # Errors
    /// [`ErrorKind::File`] with the first thing that the writer reported: what it was given after that is lost.
    pub fn finish(self) -> Result<()> {
        self.end().map_err(|error| unwritten(&error))
    }

    fn end(&self) -> std::io::Result<()> {
        self.pool.end_record();
        let mut output = lock(&self.output);
        match output.error.take() {
            Some(error) => Err(error),
            None => output.writer.flush(),
        }
    }
}

impl<B: Backend> Drop for Recording<B> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::error!("a trace could not be written: {error}");
        }
    }
}

fn unwritten(error: &std::io::Error) -> Error {
    Error::new(ErrorKind::File, format!("the trace could not be written: {error}"))
}
