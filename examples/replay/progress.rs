//! A bar for long work, and Ctrl-C, after which the program ends between two pieces of work.

use std::ops::ControlFlow;

use indicatif::ProgressBar;
use tensorpool::ByteSize;
use tensorpool::trace::{Progress, Trace};

use crate::args::Args;
use crate::failure::Failure;
use crate::shared::{bar, stop};

pub fn listen() -> Result<(), Failure> {
    stop::listen().map_err(|message| Failure::new("failed", message))
}

pub fn stop_if_told() -> Result<(), Failure> {
    if stop::is_asked() { Err(Failure::stopped()) } else { Ok(()) }
}

pub struct Bar(ProgressBar);

impl Bar {
    pub fn new(args: &Args, traces: &[Trace]) -> Self {
        let events = traces.iter().map(|trace| trace.events().len()).max().unwrap_or(0);
        Self(bar::new("{bar:20} {wide_msg}", Some(events as u64), args.json))
    }

    pub fn begin(&self, trace: &Trace) {
        self.0.set_length(trace.events().len() as u64);
        self.0.set_prefix(trace.name().to_owned());
    }

    /// Shows what is done now.
    pub fn say(&self, what: &str) {
        self.0.set_message(format!("{}: {what}", self.0.prefix()));
    }

    /// Shows how far it is, and says whether to go on.
    pub fn tell(&self, progress: Progress) -> ControlFlow<()> {
        match progress {
            Progress::Events(done) => self.0.set_position(done as u64),
            Progress::Try { budget_bytes } => self.say(&format!("trying {}", ByteSize(budget_bytes))),
            _ => {}
        }
        if stop::is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
