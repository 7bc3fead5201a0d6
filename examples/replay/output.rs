//! What goes to standard output: a table for people or, with `--json`, one object a trace.

use std::fmt;
use std::io::{self, Write};

use serde_json::Value;
use tensorpool::trace::{MinBudget, Replay, Trace};
use tensorpool::{ByteSize, PlanReport, SlabPolicy};

use crate::args::{Args, Room};
use crate::shared::print::{self, Column, Table};

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
    /// What the replay was to have.
    pub asked_slabs: SlabPolicy,
    /// Those that were searched.
    pub search_slabs: Option<SlabPolicy>,
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
    table: Table,
    columns: Option<usize>,
    several: bool,
}

const MEANS: &str = "geometric mean";

impl<'a> Output<'a> {
    pub fn new(args: &'a Args, traces: &[Trace]) -> Self {
        let names = traces.iter().map(|trace| trace.name().chars().count());
        let longest = names.chain([MEANS.len()]).max().unwrap_or(0);
        let column = |above, name, width, rank| Column { names: [above, name], width, rank };
        let mut columns = vec![
            column("", "events", 7, 4),
            column("peak", "live", 10, 0),
            column("peak", "reserved", 10, 2),
            column("", "ratio", 6, if args.min_budget { 3 } else { 0 }),
            column("largest", "free run", 10, 6),
            column("", "failed", 6, 1),
            column("ns an", "op", 5, 5),
        ];
        if args.min_budget {
            columns.extend([
                column("safe", "KiB", 10, 0),
                column("", "ratio", 5, 0),
                column("lowest", "KiB", 10, 1),
                column("", "ratio", 6, 1),
            ]);
        }
        let room = print::columns();
        let table = Table::new("trace", longest, columns, room);
        Self { args, table, columns: room, several: traces.len() > 1 }
    }

    pub fn head(&self, backend: &str, room: Room, searched: Option<SlabPolicy>) -> io::Result<()> {
        if self.args.json {
            return Ok(());
        }
        let (budget, slabs) = match room {
            Room::Budget(budget, slabs) => (budget.to_string(), described(slabs)),
            Room::TwiceThePeak(slabs) => ("twice the peak".into(), described(slabs)),
            Room::Unlimited => ("as much as needed".into(), "slabs of 1/64 of the peak".into()),
        };
        let (placement, serving) = (self.args.placement.name(), self.args.serving());
        self.text(&format!("backend {backend}, placement {placement}, budget {budget}, {slabs}{serving}"), 0)?;
        if let Some(slabs) = searched {
            let slabs = described(slabs);
            self.text(
                &format!(
                    "searched in {slabs}: every budget tried from safe to twice the peak works; lowest works, 1 KiB less fails"
                ),
                0,
            )?;
        }
        write(format_args!("\n{}\n", self.table.head()))
    }

    /// A line that may be longer than the terminal is wide.
    fn text(&self, line: &str, indent: usize) -> io::Result<()> {
        write(format_args!("{}\n", print::wrapped(line, indent, self.columns)))
    }

    pub fn row(&self, row: &Row) -> io::Result<()> {
        if self.args.json { self.object(row) } else { self.line(row) }
    }

    fn line(&self, row: &Row) -> io::Result<()> {
        let replay = &row.replay;
        let mut cells = vec![
            replay.events.to_string(),
            size(replay.live_peak_bytes),
            size(replay.reserved_peak_bytes),
            shown(replay.ratio()),
            size(replay.largest_free_run_bytes),
            replay.failures.to_string(),
            nanoseconds(row.ns_per_op),
        ];
        cells.extend(row.found.into_iter().flat_map(budgets));
        write(format_args!("{}\n", self.table.row(&row.name, &cells)))?;
        // Beside the names where that leaves a line worth reading.
        let beside = self.table.first_width() + 2;
        let indent = if self.columns.is_some_and(|columns| columns < 100) { 2 } else { beside };
        notes(row).iter().try_for_each(|note| self.text(note, indent))
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
            ("search_slabs", row.search_slabs.map(option).into()),
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
        let ns = mean(|row| Some(row.ns_per_op)).map_or("-".into(), nanoseconds);
        let (safe, lowest) = (mean(|row| row.found?.safe_ratio()), mean(|row| row.found?.lowest_ratio()));
        let none = String::new;
        let ratio = shown(mean(|row| row.replay.ratio()));
        let cells = [none(), none(), none(), ratio, none(), none(), ns, none(), shown(safe), none(), shown(lowest)];
        write(format_args!("{}\n", self.table.row(MEANS, &cells)))
    }
}

/// The budgets in whole KiB, which is what they are: rounded ones may fail in `--budget`.
fn budgets(found: MinBudget) -> [String; 4] {
    let kib = |bytes: Option<u64>| bytes.map_or("-".into(), |bytes| (bytes / 1024).to_string());
    let (safe, lowest) = (kib(found.safe_bytes), kib(Some(found.lowest_bytes)));
    [safe, shown(found.safe_ratio()), lowest, shown(found.lowest_ratio())]
}

/// What stands under a row.
fn notes(row: &Row) -> Vec<String> {
    let mut notes = Vec::new();
    if row.slabs != row.asked_slabs {
        let (asked, got) = (described(row.asked_slabs), described(row.slabs));
        notes.push(format!("the system refused the addresses of {asked}: the replay had {got}"));
    }
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
    if let Some(report) = row.planning {
        let PlanReport { steps, steps_exact, steps_profiled, steps_without_room, plans, allocations_planned, .. } =
            report;
        let plans = if plans == 1 { "1 plan".into() } else { format!("{plans} plans") };
        let arena = match report.arena_bytes {
            0 => "no arena at the end".into(),
            bytes => format!("an arena of {}", size(bytes)),
        };
        let other = report.steps_other();
        notes.push(format!(
            "{steps} steps: {steps_exact} exactly as planned, {steps_profiled} profiled, {steps_without_room} without room, \
             {other} otherwise ({plans}, {arena}), {allocations_planned} allocations at planned places"
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
        SlabPolicy::Expanding => "an expanding slab".to_owned(),
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

/// In five characters below 100 µs, however slow the machine.
fn nanoseconds(ns: f64) -> String {
    if ns < 999.95 { format!("{ns:.1}") } else { format!("{ns:.0}") }
}
