//! What goes to standard output: a table for people or, with `--json`, one object a trace.

use std::fmt;
use std::io::{self, Write};

use serde_json::Value;
use tensorpool::trace::{MinBudget, Replay, Trace};
use tensorpool::{ByteSize, PlanReport, SlabPolicy};

use crate::args::Args;

/// What is known of one trace.
pub struct Row {
    pub name: String,
    pub replay: Replay,
    /// The median of several replays.
    pub ns_per_op: f64,
    /// What has come of the steps that were planned.
    pub planning: Option<PlanReport>,
    pub smallest: Option<MinBudget>,
    pub recorded_reserved_peak_bytes: Option<u64>,
    pub recorded_failures: u64,
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
        let budget = self.args.budget.map_or("as much as needed".into(), |budget| budget.to_string());
        let slabs = match self.args.slab {
            Some(slabs @ SlabPolicy::Fixed(_)) => format!("slabs of {slabs}"),
            Some(slabs) => format!("{slabs} slabs"),
            None if self.args.budget.is_some() => "growing slabs".into(),
            None => "slabs of 1/64 of the peak".into(),
        };
        write(format_args!(
            "backend {backend}, placement {}, budget {budget}, {slabs}{}\n\n{:<width$}{:>10}{:>12}{:>12}{:>7}{:>12}{:>9}{:>7}{}\n",
            self.args.placement.name(),
            self.args.serving(),
            "",
            "events",
            "peak",
            "peak",
            "",
            "largest",
            "",
            "ns an",
            if self.args.min_budget { "    smallest" } else { "" },
            width = self.width,
        ))?;
        write(format_args!(
            "{:<width$}{:>10}{:>12}{:>12}{:>7}{:>12}{:>9}{:>7}{}\n",
            "trace",
            "",
            "live",
            "reserved",
            "ratio",
            "free run",
            "failures",
            "op",
            if self.args.min_budget { "      budget  ratio" } else { "" },
            width = self.width,
        ))
    }

    pub fn row(&self, row: &Row) -> io::Result<()> {
        if self.args.json { self.object(row) } else { self.line(row) }
    }

    fn line(&self, row: &Row) -> io::Result<()> {
        let Replay { events, live_peak_bytes, reserved_peak_bytes, largest_free_run_bytes, failures, .. } = row.replay;
        let size = |bytes| ByteSize(bytes).to_string();
        let smallest =
            row.smallest.map_or(String::new(), |found| format!("{:>12}{:>7.3}", size(found.bytes), found.ratio()));
        write(format_args!(
            "{:<width$}{events:>10}{:>12}{:>12}{:>7.3}{:>12}{failures:>9}{:>7.1}{smallest}\n",
            row.name,
            size(live_peak_bytes),
            size(reserved_peak_bytes),
            row.replay.ratio(),
            size(largest_free_run_bytes),
            row.ns_per_op,
            width = self.width,
        ))?;
        if let Some(bytes) = row.recorded_reserved_peak_bytes {
            let ratio = bytes as f64 / live_peak_bytes as f64;
            let reserved = size(bytes);
            write(format_args!(
                "{:<width$}  the recorded program had {reserved} reserved, {ratio:.3} of that peak\n",
                "",
                width = self.width
            ))?;
        }
        if let Some(report) = row.planning {
            let PlanReport { steps, steps_exact, plans, arena_bytes, allocations_planned, .. } = report;
            let arena = size(arena_bytes);
            write(format_args!(
                "{:<width$}  {steps_exact} of {steps} steps exactly as planned ({plans} plans, an arena of {arena}), \
                 {allocations_planned} allocations\n",
                "",
                width = self.width
            ))?;
        }
        if row.recorded_failures > 0 {
            let failures = row.recorded_failures;
            write(format_args!(
                "{:<width$}  it was recorded with {failures} failed allocation{}\n",
                "",
                if failures == 1 { "" } else { "s" },
                width = self.width
            ))?;
        }
        if row.events_dropped > 0 {
            let dropped = row.events_dropped;
            let note = format!("the recording dropped {dropped} events: the program needed more than this");
            write(format_args!("{:<width$}  {note}\n", "", width = self.width))?;
        }
        Ok(())
    }

    /// The keys in this order.
    fn object(&self, row: &Row) -> io::Result<()> {
        let fields: [(&str, Value); 11] = [
            ("trace", row.name.as_str().into()),
            ("events", row.replay.events.into()),
            ("live_peak_bytes", row.replay.live_peak_bytes.into()),
            ("reserved_peak_bytes", row.replay.reserved_peak_bytes.into()),
            ("ratio", row.replay.ratio().into()),
            ("min_budget_bytes", row.smallest.map(|found| found.bytes).into()),
            ("min_ratio", row.smallest.map(|found| found.ratio()).into()),
            ("failures", row.replay.failures.into()),
            ("ns_per_op", row.ns_per_op.into()),
            ("placement", self.args.placement.name().into()),
            ("planned", (self.args.planned || self.args.auto).into()),
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
        let ratio = geometric_mean(rows.iter().map(|row| row.replay.ratio()));
        let ns = geometric_mean(rows.iter().map(|row| row.ns_per_op));
        let smallest = rows.iter().map(|row| row.smallest.map(|found| found.ratio())).collect::<Option<Vec<_>>>();
        let smallest =
            smallest.map_or(String::new(), |ratios| format!("{:>12}{:>7.3}", "", geometric_mean(ratios.into_iter())));
        write(format_args!("{MEANS:<width$}{:>34}{ratio:>7.3}{:>21}{ns:>7.1}{smallest}\n", "", "", width = self.width))
    }
}

fn geometric_mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len() as f64;
    (numbers.map(f64::ln).sum::<f64>() / count).exp()
}

/// As `print!`, but a closed pipe is an error and no panic.
fn write(text: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_fmt(text)?;
    stdout.flush()
}
