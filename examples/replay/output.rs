//! What goes to standard output: a table for people or, with `--json`, one object a trace.

use std::fmt;
use std::io::{self, Write};

use serde_json::Value;
use tensorpool::trace::{MinBudget, Replay, Trace};
use tensorpool::{ByteSize, PlanReport, SlabPolicy};

use crate::args::{Args, Room};

/// What is known of one trace.
pub struct Row {
    pub name: String,
    pub replay: Replay,
    /// The median of several replays.
    pub ns_per_op: f64,
    /// What has come of the steps that were planned.
    pub planning: Option<PlanReport>,
    /// Of the replay.
    pub slabs: SlabPolicy,
    pub found: Option<MinBudget>,
    pub recorded_reserved_peak_bytes: Option<u64>,
    pub recorded_failures: u64,
    pub recorded_largest_failure_bytes: u64,
    /// What the recorded history lacks.
    pub history: Option<String>,
    /// Something was served at a planned place.
    pub is_planned: bool,
    pub events_dropped: u64,
}

pub struct Output<'a> {
    args: &'a Args,
    /// Of the first column.
    width: usize,
    several: bool,
}

const MEANS: &str = "geometric mean";

impl<'a> Output<'a> {
    pub fn new(args: &'a Args, traces: &[Trace]) -> Self {
        let names = traces.iter().map(|trace| trace.name().chars().count());
        Self { args, width: names.chain([MEANS.len()]).max().unwrap_or(0), several: traces.len() > 1 }
    }

    pub fn head(&self, backend: &str) -> io::Result<()> {
        if self.args.json {
            return Ok(());
        }
        let (budget, slabs) = match self.args.room() {
            Room::Budget(budget, slabs) => (budget.to_string(), described(slabs)),
            Room::TwiceThePeak(slabs) => ("twice the peak".into(), described(slabs)),
            Room::Unlimited => ("as much as needed".into(), "slabs of 1/64 of the peak".into()),
        };
        let (placement, serving) = (self.args.placement.name(), self.args.serving());
        write(format_args!("backend {backend}, placement {placement}, budget {budget}, {slabs}{serving}\n"))?;
        let (mut above, mut below) = (String::new(), String::new());
        if let Some(slabs) = self.args.search_slabs() {
            let slabs = described(slabs);
            write(format_args!(
                "searched in {slabs}: every budget tried from safe to twice the peak works; lowest works, 1 KiB less fails\n"
            ))?;
            above = format!(" {:>10} {:>5} {:>10} {:>6}", "safe", "", "lowest", "");
            below = format!(" {:>10} {:>5} {:>10} {:>6}", "KiB", "ratio", "KiB", "ratio");
        }
        let width = self.width;
        write(format_args!(
            "\n{:<width$} {:>7} {:>10} {:>10} {:>6} {:>10} {:>6} {:>5}{above}\n\
             {:<width$} {:>7} {:>10} {:>10} {:>6} {:>10} {:>6} {:>5}{below}\n",
            "",
            "",
            "peak",
            "peak",
            "",
            "largest",
            "",
            "ns an",
            "trace",
            "events",
            "live",
            "reserved",
            "ratio",
            "free run",
            "failed",
            "op",
        ))
    }

    pub fn row(&self, row: &Row) -> io::Result<()> {
        if self.args.json { self.object(row) } else { self.line(row) }
    }

    fn line(&self, row: &Row) -> io::Result<()> {
        let Replay { events, live_peak_bytes, failures, .. } = row.replay;
        write(format_args!(
            "{:<width$} {events:>7} {:>10} {:>10} {:>6} {:>10} {failures:>6} {:>5.1}{}\n",
            row.name,
            size(live_peak_bytes),
            size(row.replay.reserved_peak_bytes),
            shown(row.replay.ratio()),
            size(row.replay.largest_free_run_bytes),
            row.ns_per_op,
            row.found.map_or(String::new(), budgets),
            width = self.width,
        ))?;
        for note in notes(row) {
            write(format_args!("{:<width$}  {note}\n", "", width = self.width))?;
        }
        Ok(())
    }

    /// The keys in this order.
    fn object(&self, row: &Row) -> io::Result<()> {
        let fields: [(&str, Value); 19] = [
            ("trace", row.name.as_str().into()),
            ("events", row.replay.events.into()),
            ("live_peak_bytes", row.replay.live_peak_bytes.into()),
            ("reserved_peak_bytes", row.replay.reserved_peak_bytes.into()),
            ("ratio", row.replay.ratio().into()),
            ("min_budget_bytes", row.found.map(|found| found.lowest_bytes).into()),
            ("min_ratio", row.found.and_then(|found| found.lowest_ratio()).into()),
            ("safe_bytes", row.found.and_then(|found| found.safe_bytes).into()),
            ("safe_ratio", row.found.and_then(|found| found.safe_ratio()).into()),
            ("search_slabs", self.args.search_slabs().map(option).into()),
            ("failures", row.replay.failures.into()),
            ("largest_failure_bytes", row.replay.largest_failure_bytes.into()),
            ("ns_per_op", row.ns_per_op.into()),
            ("placement", self.args.placement.name().into()),
            ("slabs", option(row.slabs).into()),
            ("planned", row.is_planned.into()),
            ("recorded_failures", row.recorded_failures.into()),
            ("recorded_largest_failure_bytes", row.recorded_largest_failure_bytes.into()),
            ("recorded_reserved_peak_bytes", row.recorded_reserved_peak_bytes.into()),
        ];
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
        write(format_args!("{{{}}}\n", fields.join(",")))
    }

    /// Of several traces; programs have the numbers.
    pub fn means(&self, rows: &[Row]) -> io::Result<()> {
        if self.args.json || !self.several {
            return Ok(());
        }
        // An empty trace has no ratio.
        let rows: Vec<&Row> = rows.iter().filter(|row| row.replay.live_peak_bytes > 0).collect();
        let mean = |pick: fn(&Row) -> Option<f64>| geometric_mean(rows.iter().map(|row| pick(row)).collect());
        let ns = mean(|row| Some(row.ns_per_op)).map_or("-".into(), |ns| format!("{ns:.1}"));
        let budgets = if self.args.min_budget {
            let safe = mean(|row| row.found?.safe_ratio());
            format!("{:>17}{:>18}", shown(safe), shown(mean(|row| row.found?.lowest_ratio())))
        } else {
            String::new()
        };
        let ratio = shown(mean(|row| row.replay.ratio()));
        write(format_args!("{MEANS:<width$}{:>30}{ratio:>7}{:>18}{ns:>6}{budgets}\n", "", "", width = self.width))
    }
}

/// The budgets in whole KiB, which is what they are: rounded ones may fail in `--budget`.
fn budgets(found: MinBudget) -> String {
    let kib = |bytes: Option<u64>| bytes.map_or("-".into(), |bytes| (bytes / 1024).to_string());
    let (safe, lowest) = (kib(found.safe_bytes), kib(Some(found.lowest_bytes)));
    format!(" {safe:>10} {:>5} {lowest:>10} {:>6}", shown(found.safe_ratio()), shown(found.lowest_ratio()))
}

/// What stands under a row.
fn notes(row: &Row) -> Vec<String> {
    let mut notes = Vec::new();
    if row.found.is_some_and(|found| found.safe_bytes.is_none()) {
        notes.push("no budget up to twice the peak is safe".to_owned());
    }
    if let Some(bytes) = row.recorded_reserved_peak_bytes {
        let reserved = size(bytes);
        notes.push(match row.replay.live_peak_bytes {
            0 => format!("the recorded program had {reserved} reserved"),
            live => {
                let ratio = bytes as f64 / live as f64;
                format!("the recorded program had {reserved} reserved, {ratio:.3} of that peak")
            }
        });
    }
    if let Some(PlanReport { steps, steps_exact, plans, arena_bytes, allocations_planned, .. }) = row.planning {
        let arena = size(arena_bytes);
        notes.push(format!(
            "{steps_exact} of {steps} steps exactly as planned ({plans} plans, an arena of {arena}), \
             {allocations_planned} allocations"
        ));
    }
    if row.recorded_failures > 0 {
        let largest = size(row.recorded_largest_failure_bytes);
        let failed = match row.recorded_failures {
            1 => format!("1 allocation of {largest} failed in the recording"),
            several => format!("{several} allocations failed in the recording, the largest of {largest}"),
        };
        let meaning = match row.found {
            Some(_) => "safe and lowest are budgets of the requests that succeeded",
            None => "the replay leaves out what failed",
        };
        notes.push(format!("{failed}: {meaning}"));
    }
    if let Some(history) = &row.history {
        notes.push(format!("the history {history}"));
    }
    if row.events_dropped > 0 {
        let dropped = row.events_dropped;
        notes.push(format!("the recording dropped {dropped} events: the program needed more than this"));
    }
    notes
}

fn described(slabs: SlabPolicy) -> String {
    match slabs {
        SlabPolicy::Fixed(_) => format!("slabs of {slabs}"),
        _ => format!("{slabs} slabs"),
    }
}

/// As `--slab` takes it, to the byte.
fn option(slabs: SlabPolicy) -> String {
    match slabs {
        SlabPolicy::Fixed(bytes) => bytes.to_string(),
        _ => slabs.to_string(),
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

fn shown(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{ratio:.3}"))
}

/// `None` if a number is missing, or there is none.
fn geometric_mean(numbers: Option<Vec<f64>>) -> Option<f64> {
    let numbers = numbers.filter(|numbers| !numbers.is_empty())?;
    Some((numbers.iter().map(|number| number.ln()).sum::<f64>() / numbers.len() as f64).exp())
}

/// As `print!`, but a closed pipe is an error and no panic.
fn write(text: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_fmt(text)?;
    stdout.flush()
}
