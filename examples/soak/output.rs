//! What is told: to standard output the seed, the totals and what was found, as text or, with `--json`, one object a line;
//! to standard error the progress, if that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::kind::KINDS;
use crate::programs::{COUNTS, Count};
use crate::run::{Difference, Run, Total};
use crate::shared::{bar, print};

/// The time between two lines of progress for a program, and for a file or a pipe. A reader that has gone is noticed at the next line.
const MILESTONE: Duration = Duration::from_secs(1);
const MILESTONE_TEXT: Duration = Duration::from_secs(10);

pub struct Output {
    json: bool,
    bar: ProgressBar,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json, bar: bar::new("{spinner} {wide_msg}", None, json) }
    }

    /// Before anything can go wrong.
    pub fn start(&self, run: &Run, what: &str) -> io::Result<()> {
        let (seed, workers) = (run.seed, run.workers());
        self.line(
            &format!("seed {seed}, {what} on {workers} thread{}", plural(workers)),
            || json!({"event": "start", "seed": seed, "what": what, "threads": workers}),
        )
    }

    pub fn progress(&self, run: &Run) {
        self.bar.set_message(sentence(run));
        self.bar.tick();
    }

    /// Returns the time between two milestones. A terminal has a bar and needs none.
    pub fn milestone_after(&self) -> Option<Duration> {
        if self.json { Some(MILESTONE) } else { (!io::stdout().is_terminal()).then_some(MILESTONE_TEXT) }
    }

    /// Writes a line of progress.
    pub fn milestone(&self, run: &Run) -> io::Result<()> {
        self.write(&if self.json { event("progress", run, &run.sum()) } else { sentence(run) })
    }

    /// Leaves the terminal as it was.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// What there was of each kind, and of all.
    pub fn totals(&self, run: &Run) -> io::Result<()> {
        if self.json {
            return self.write(&event("end", run, &run.sum()));
        }
        for kind in KINDS {
            let Total { programs, done } = run.total(kind);
            if programs > 0 {
                let (operations, programs) = (print::thousands(done[Count::Operations]), print::thousands(programs));
                self.write(&format!("{kind:<8}{operations:>16} operations in {programs} programs"))?;
            }
        }
        for (count, name) in &COUNTS[1..] {
            self.write(&format!("{:<24}{:>16}", name.replace('_', " "), print::thousands(run.sum().done[*count])))?;
        }
        self.write(&print::wrapped(&sentence(run), 0, print::columns()))
    }

    /// What was found, and how to see it again.
    pub fn difference(&self, run: &Run, difference: &Difference) -> io::Result<()> {
        let Difference { kind, program, message } = difference;
        let again = format!("--what {kind} --seed {} --program {program}", run.seed);
        self.line(&format!("DIFFERENCE in {kind} program {program}: {message}\nsee it again with {again}"), || {
            json!({
                "event": "difference", "what": kind.to_string(), "seed": run.seed, "program": program,
                "message": message, "again": again,
            })
        })
    }

    fn line(&self, text: &str, json: impl Fn() -> Value) -> io::Result<()> {
        if self.json { self.write(&json().to_string()) } else { self.write(text) }
    }

    /// As `println!`, but a closed pipe is an error and no panic.
    fn write(&self, text: &str) -> io::Result<()> {
        self.bar.suspend(|| {
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{text}")?;
            stdout.flush()
        })
    }
}

fn event(name: &str, run: &Run, Total { programs, done }: &Total) -> String {
    let mut event = json!({
        "event": name, "seconds": run.elapsed().as_secs_f64(), "threads": run.workers(), "programs": programs,
    });
    for (count, name) in COUNTS {
        event[name] = done[count].into();
    }
    for kind in KINDS {
        event[format!("{kind}_operations")] = run.total(kind).done[Count::Operations].into();
    }
    event.to_string()
}

fn sentence(run: &Run) -> String {
    let (elapsed, workers) = (run.elapsed(), run.workers());
    let Total { done, .. } = run.sum();
    let rate = done[Count::Operations] as f64 / elapsed.as_secs_f64().max(1e-9);
    format!(
        "{} operations without a difference, {}/s, {} faults, {workers} thread{}, {}",
        print::thousands(done[Count::Operations]),
        print::thousands(rate as u64),
        print::thousands(done[Count::Faults]),
        plural(workers),
        hours(elapsed)
    )
}

/// `hours:minutes:seconds`.
fn hours(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02} h", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
