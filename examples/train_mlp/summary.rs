//! What is told before and after training.

use std::fmt::Write;

use tensorpool::nn::{Allocator, StepKind};
use tensorpool::{AnyBackend, Backend, ByteSize, Pool, Stats};

use crate::checkpoint::{Checkpoint, Saver};
use crate::device;
use crate::failure::Failure;
use crate::output::Output;
use crate::plan::{Plan, WAYS};
use crate::shared::print;
use crate::training::{Outcome, Planned};

const ELEMENT_BYTES: u64 = size_of::<f32>() as u64;

/// Before any memory is taken.
pub fn start(output: Output, plan: &Plan, backend: &AnyBackend, why: Option<&str>) -> Result<(), Failure> {
    if let Some(why) = why {
        output.note(why);
    }
    let settings = &plan.settings;
    let widths: Vec<String> = settings.widths.iter().map(usize::to_string).collect();
    output.text(format_args!("device: {}", backend.name()))?;
    let parameters = print::thousands(settings.parameter_bytes() / ELEMENT_BYTES);
    output.line(&format!("model: {}, {parameters} parameters", widths.join("-")))?;
    let (batch, optimizer, rate) = (settings.batch, settings.optimizer, settings.learning_rate);
    output.text(format_args!("batch {batch}, {optimizer} at {rate}"))?;
    Ok(output.text(format_args!("{plan}\n"))?)
}

/// When all that lasts is in place.
pub fn started(output: Output, plan: &Plan, backend: &AnyBackend, plans: bool) -> Result<(), Failure> {
    let fields = [
        ("device", if device::is_gpu(backend) { "gpu" } else { "host" }.into()),
        ("adapter", backend.name().into()),
        ("allocator", plan.allocator.to_string().into()),
        ("step", plan.step.to_string().into()),
        ("plan", if plans { "auto" } else { "off" }.into()),
        ("budget_bytes", plan.budget_bytes.into()),
        ("parameters", (plan.settings.parameter_bytes() / ELEMENT_BYTES).into()),
        ("needed_bytes", plan.needs.budget_bytes.into()),
    ];
    Ok(output.event("start", &fields)?)
}

/// When a saved training is about to go on.
pub fn resumed(output: Output, saved: &Checkpoint, backend: &AnyBackend) -> Result<(), Failure> {
    if let Some(note) = saved.other_device(backend) {
        output.note(&note);
    }
    let steps = saved.progress.steps;
    output.text(format_args!("goes on after {} steps\n", print::thousands(steps)))?;
    Ok(output.event("resume", &[("steps", steps.into())])?)
}

/// When the last save is done.
pub fn saved(output: Output, saver: &Saver, outcome: &Outcome) -> Result<(), Failure> {
    let name = saver.name().display().to_string();
    output.text("")?;
    output.line(&format!("saved to {name}: --resume goes on from there"))?;
    Ok(output.event("save", &[("file", name.into()), ("steps", outcome.steps.into())])?)
}

pub fn end(output: Output, plan: &Plan, pool: &Pool<AnyBackend>, outcome: &Outcome) -> Result<(), Failure> {
    let Outcome { steps, loss, test_accuracy, is_stopped, seconds, steps_now, step_median, stats, planned } = outcome;
    let stopped = is_stopped.then(|| "stopped by Ctrl-C".to_owned());
    let accuracy = test_accuracy.map(|share| format!("test accuracy {:.2}%", 100.0 * share));
    let what: Vec<String> = stopped.into_iter().chain(accuracy).collect();
    let now =
        if steps_now < steps { format!(", {} of them now,", print::thousands(*steps_now)) } else { String::new() };
    let (what, steps_text) = (what.join(", "), print::thousands(*steps));
    output.text("")?;
    output.line(&format!("{what} after {steps_text} steps{now} in {seconds:.1} s"))?;
    if let Some(median) = step_median {
        output.text(format_args!("a step: median {:.2} ms", median.as_secs_f64() * 1e3))?;
    }
    output.text("")?;
    output.text(ways(plan, pool.backend(), outcome))?;
    output.text(format_args!("the pool at the end\n{stats}\n"))?;
    output.text(outside(pool.backend()))?;
    let wgpu = device::wgpu_bytes(pool.backend());
    let naive = plan.needs_of(pool.backend(), (StepKind::Ordinary, Allocator::Naive));
    let fields = [
        ("steps", (*steps).into()),
        ("loss", (*loss).into()),
        ("test_accuracy", (*test_accuracy).into()),
        ("stopped", (*is_stopped).into()),
        ("budget_bytes", stats.budget_bytes.into()),
        ("reserved_peak_bytes", stats.reserved_peak_bytes.into()),
        ("live_peak_bytes", stats.live_peak_bytes.into()),
        ("planned_peak_bytes", planned.as_ref().map(|planned| planned.after.live_peak_bytes).into()),
        ("naive_peak_bytes", naive.map(|needs| needs.live_peak_bytes).into()),
        ("seconds", (*seconds).into()),
        ("step_median_ms", step_median.map(|median| median.as_secs_f64() * 1e3).into()),
        ("wgpu_allocated_bytes", wgpu.map(|(allocated, _)| allocated).into()),
        ("wgpu_reserved_bytes", wgpu.map(|(_, reserved)| reserved).into()),
    ];
    Ok(output.event("end", &fields)?)
}

/// The four ways, and what this run measured beside what was computed for it.
fn ways(plan: &Plan, backend: &AnyBackend, outcome: &Outcome) -> String {
    let mut table = format!(
        "the four ways, computed (> is this run)\n  {:<9}{:<10}{:>11}{:>11}{:>16}\n",
        "step", "allocator", "live peak", "held peak", "smallest budget"
    );
    for way in WAYS {
        let (step, allocator) = way;
        let this = way == (plan.step, plan.allocator);
        let peaks = match plan.needs_of(backend, way) {
            Some(needs) => [needs.live_peak_bytes, needs.used_peak_bytes, needs.budget_bytes].map(size),
            None => ["over", "a device's", "limit"].map(String::from),
        };
        let [live, held, budget] = peaks;
        let mark = if this { '>' } else { ' ' };
        // Writing to a string does not fail.
        let _ = writeln!(table, "{mark} {step:<9}{allocator:<10}{live:>11}{held:>11}{budget:>16}");
        if this {
            let mut measured = |what: &str, stats: &Stats| {
                let (live, held) = (size(stats.live_peak_bytes), size(stats.used_peak_bytes));
                let _ = writeln!(table, "  {what:<19}{live:>11}{held:>11}");
            };
            match &outcome.planned {
                None => measured(" measured", &outcome.stats),
                Some(Planned { before, after, .. }) => {
                    measured(" measured, no plan", before);
                    measured(" measured, planned", after);
                }
            }
        }
    }
    if let Some(Planned { report, .. }) = &outcome.planned {
        let _ = writeln!(table, "\nplanned");
        for line in report.to_string().lines() {
            let _ = writeln!(table, "{}", print::wrapped(line, 0, print::columns()));
        }
    }
    table
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// What the budget does not cover.
fn outside(backend: &AnyBackend) -> String {
    let resident = resident_peak_bytes().map_or_else(|| "unknown".into(), size);
    let mut text = format!("process: peak resident memory {resident}");
    if device::is_gpu(backend) {
        let _ = match device::wgpu_bytes(backend) {
            Some((allocated, reserved)) => {
                write!(text, "\nwgpu: allocated {}, reserved {}", size(allocated), size(reserved))
            }
            None => write!(text, "\nwgpu: allocated unknown, reserved unknown"),
        };
    }
    text
}

/// The most memory that this process ever had in RAM, where the system tells.
fn resident_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
