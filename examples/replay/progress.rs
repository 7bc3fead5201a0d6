//! A bar for long work, and Ctrl-C: the bar is taken off the screen and the program ends between two pieces of work.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tensorpool::ByteSize;
use tensorpool::trace::{Progress, Trace};

use crate::args::Args;
use crate::failure::Failure;

static TOLD_TO_STOP: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C asks the program to end, and the second ends it.
pub fn listen() -> Result<(), Failure> {
    let handler = || {
        if TOLD_TO_STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::new("failed", format!("Ctrl-C: {error}")))
}

pub fn stop_if_told() -> Result<(), Failure> {
    if TOLD_TO_STOP.load(Ordering::Relaxed) { Err(Failure::stopped()) } else { Ok(()) }
}

pub struct Bar(ProgressBar);

impl Bar {
    /// On standard error if that is a terminal and people watch it; else nothing is drawn.
    pub fn new(args: &Args, traces: &[Trace]) -> Self {
        let target = if args.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}").expect("the template is right");
        let events = traces.iter().map(|trace| trace.events().len()).max().unwrap_or(0);
        Self(ProgressBar::with_draw_target(Some(events as u64), target).with_style(style))
    }

    pub fn begin(&self, trace: &Trace) {
        self.0.set_length(trace.events().len() as u64);
        self.0.set_prefix(trace.name().to_owned());
    }

    /// What is done now.
    pub fn say(&self, what: &'static str) {
        self.0.set_message(what);
    }

    /// Shows how far it is, and says whether to go on.
    pub fn tell(&self, progress: Progress) -> ControlFlow<()> {
        match progress {
            Progress::Events(done) => self.0.set_position(done as u64),
            Progress::Try { budget_bytes } => self.0.set_message(format!("trying {}", ByteSize(budget_bytes))),
            _ => {}
        }
        if TOLD_TO_STOP.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}
