//! Kineto's traces: the JSON that `torch.profiler.profile(profile_memory=True).export_chrome_trace` writes.
//!
//! ```text
//! {"traceEvents": [{"name": "[memory]", "ts": µs, "args": {"Device Type", "Device Id", "Addr", "Bytes"}},
//!                  {"name": "ProfilerStep#1", "ts", "dur"}, ...]}
//! ```
//!
//! An event is an allocation if its bytes are positive, and a free if they are negative. Events stand by thread, so they are
//! put in the order of their times. `Total Reserved` is what PyTorch's allocator had from the device.

mod json;

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;

use self::json::{Event, Name};
use super::addresses::{Ends, Entry, add, with_steps};
use super::fault::Fault;
use super::{RESERVED_PEAK, Trace, TraceBuilder, history};
use crate::units::thousands;

pub(super) fn read(reader: &mut dyn BufRead, stem: &str) -> Result<Vec<Trace>, Fault> {
    let mut events = Events::default();
    json::read(reader, &mut |event| events.add(event)).map_err(|error| match error.line() {
        0 => Fault::whole(error.to_string()),
        line => Fault::line(line as u64, format!("expected a Kineto trace in JSON: {error}")),
    })?;
    let Events { devices, without_address, marks } = events;
    if without_address > 0 {
        let events = thousands(without_address);
        return Err(Fault::whole(match devices.is_empty() {
            true => {
                "expected \"Addr\" in [memory] events: PyTorch 1.9 writes them without, PyTorch 1.10 and newer with \
                     addresses"
                    .to_owned()
            }
            false => format!("expected \"Addr\" in every [memory] event, found {events} without"),
        }));
    }
    if devices.is_empty() {
        return Err(Fault::whole(
            "expected [memory] events in \"traceEvents\", and there are none: \
             torch.profiler.profile(profile_memory=True) records them",
        ));
    }
    let is_one = devices.len() == 1;
    let name = |device: Device| if is_one { stem.to_owned() } else { format!("{stem} {device}") };
    let steps = marks.steps();
    devices.into_iter().map(|(device, memory)| memory.trace(&name(device), device, &steps)).collect()
}

/// `c10::DeviceType` and the device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Device {
    kind: i128,
    index: i128,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            0 => f.write_str("cpu"),
            1 => write!(f, "cuda {}", self.index),
            kind => write!(f, "device {} of type {kind}", self.index),
        }
    }
}

/// What is kept of a file.
#[derive(Default)]
struct Events {
    devices: BTreeMap<Device, Memory>,
    without_address: u64,
    marks: Marks,
}

/// What happened to one device's memory.
#[derive(Default)]
struct Memory {
    rows: Vec<Row>,
    reserved_peak_bytes: u64,
}

#[derive(Clone, Copy)]
struct Row {
    time_us: f64,
    address: u64,
    /// Negative where they are freed.
    bytes: i64,
}

impl Memory {
    fn trace(mut self, name: &str, device: Device, steps: &[f64]) -> Result<Trace, Fault> {
        // Rows of one time stay in the order of the file.
        self.rows.sort_by(|a, b| a.time_us.total_cmp(&b.time_us));
        let mut builder = TraceBuilder::new(name);
        builder.header("trace", name);
        builder.header("framework", "torch, from a Kineto trace");
        builder.header("device", &device.to_string());
        let entries = with_steps(&self.rows, steps, |row| row.time_us, entry);
        let lacks = add(&mut builder, entries, &Ends::default())
            .map_err(|(entry, what)| Fault::whole(format!("{device}, [memory] event {entry}: {what}")))?;
        // The CPU's allocator reserves nothing.
        let is_reserved_known = self.reserved_peak_bytes >= builder.live_bytes().1.max(1);
        if is_reserved_known {
            builder.header(RESERVED_PEAK, &self.reserved_peak_bytes.to_string());
        }
        history::tell(&mut builder, &lacks);
        Ok(builder.finish())
    }
}

fn entry(row: &Row) -> Option<Entry> {
    let (address, bytes) = (row.address, row.bytes.unsigned_abs());
    Some(if row.bytes < 0 { Entry::Free { address, bytes } } else { Entry::Alloc { address, bytes } })
}

/// When steps begin and end, by what says so.
#[derive(Default)]
struct Marks {
    profiler: Vec<f64>,
    optimizer: Vec<f64>,
    zero_grad: Vec<f64>,
}

impl Marks {
    /// When steps end: where the profiler's begin, or else with the optimizer's own step, or else before its gradients are
    /// zeroed. Each time is the last of the step's events.
    fn steps(self) -> Vec<f64> {
        let starts = |starts: Vec<f64>| starts.into_iter().map(f64::next_down).collect();
        let mut steps: Vec<f64> = match (self.profiler.is_empty(), self.optimizer.is_empty()) {
            (false, _) => starts(self.profiler),
            (true, false) => self.optimizer,
            (true, true) => starts(self.zero_grad),
        };
        steps.sort_unstable_by(f64::total_cmp);
        steps
    }
}

impl Events {
    fn add(&mut self, event: &Event) -> Result<(), &'static str> {
        let Event { name, is_of_gpu, time_us, duration_us, args } = event;
        if *name == Name::Other || (*is_of_gpu && *name != Name::Memory) {
            return Ok(());
        }
        let time_us = time_us.ok_or("a number for \"ts\"")?;
        match name {
            Name::Memory => {
                let bytes = args.bytes.and_then(|bytes| i64::try_from(bytes).ok()).ok_or("a number for \"Bytes\"")?;
                let Some(address) = args.address else {
                    self.without_address += 1;
                    return Ok(());
                };
                // PyTorch writes addresses with a sign or without.
                let address = i64::try_from(address).map(|signed| signed as u64).or(u64::try_from(address));
                let address = address.map_err(|_| "an address for \"Addr\"")?;
                let device = Device { kind: args.device_kind.unwrap_or(0), index: args.device_index.unwrap_or(-1) };
                let memory = self.devices.entry(device).or_default();
                let reserved_bytes = args.reserved_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
                memory.reserved_peak_bytes = memory.reserved_peak_bytes.max(reserved_bytes);
                if bytes != 0 {
                    memory.rows.push(Row { time_us, address, bytes });
                }
            }
            Name::ProfilerStep => self.marks.profiler.push(time_us),
            Name::OptimizerStep => self.marks.optimizer.push(time_us + duration_us.unwrap_or(0.0)),
            Name::ZeroGrad => self.marks.zero_grad.push(time_us),
            Name::Other => {}
        }
        Ok(())
    }
}
