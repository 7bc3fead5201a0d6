//! The race over several workloads, and its table.

use serde_json::{Value, json};

use crate::contest::{Bound, Contestant, UNIT_BYTES, budget_lowest_bytes, budget_safe_bytes};
use crate::plot::Bars;
use crate::sample::{geometric_mean, in_turn, median};
use crate::workload::Workload;

/// A budget that the smallest need should be within: failures are counted there, as live peak by hundred.
const TIGHT_PERCENT: u64 = 105;

/// What a device has at least where it is no matter how much.
const DEVICE_BYTES: u64 = 64 << 30;

const ROOMY_DOUBLINGS_MAX: u32 = 4;

/// How long is measured.
pub struct Effort {
    /// Events of one contestant on one workload, over all repeats.
    pub events: usize,
    pub repeats_least: usize,
    pub repeats_most: usize,
}

impl Effort {
    pub fn new(quick: bool) -> Self {
        if quick {
            Self { events: 60_000, repeats_least: 3, repeats_most: 15 }
        } else {
            Self { events: 600_000, repeats_least: 9, repeats_most: 101 }
        }
    }
}

/// One contestant on one workload.
struct Outcome {
    event_ns: f64,
    reserved_ratio: f64,
    /// Not a number where no budget up to twice the peak is safe, or none can be set.
    safe_ratio: f64,
    /// Not a number where no budget works, or none can be set.
    lowest_ratio: f64,
    metadata_bytes: Option<u64>,
    failures: u64,
}

/// Every contestant on every workload, printed; what a picture of it has.
pub fn run(
    contestants: &[Box<dyn Contestant>],
    workloads: &[Workload],
    effort: &Effort,
    as_json: bool,
    each: bool,
) -> Vec<Bars> {
    let results: Vec<Vec<Outcome>> = workloads.iter().map(|workload| race(contestants, workload, effort)).collect();
    if as_json {
        for (workload, results) in workloads.iter().zip(&results) {
            for (contestant, result) in contestants.iter().zip(results) {
                println!("{}", line(contestant.as_ref(), workload, result));
            }
        }
    } else {
        print_table(contestants, workloads, &results);
        if each {
            print_each(contestants, workloads, &results);
        }
    }
    let contestants = contestants.iter().enumerate();
    contestants.map(|(index, contestant)| bars(contestant.name(), &column(&results, index))).collect()
}

/// What the figures are of.
pub fn title(workloads: &[Workload]) -> String {
    let events: usize = workloads.iter().map(|workload| workload.events.len()).sum();
    match workloads {
        [only] => format!("{}, {} allocations and frees", only.name, thousands(events)),
        _ => format!("geometric means over {} workloads, {} allocations and frees", workloads.len(), thousands(events)),
    }
}

pub fn thousands(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", thousands(number / 1000), number % 1000),
    }
}

/// One contestant's results.
fn column(results: &[Vec<Outcome>], index: usize) -> Vec<&Outcome> {
    results.iter().map(|results| &results[index]).collect()
}

fn bars(name: &'static str, results: &[&Outcome]) -> Bars {
    Bars {
        name,
        safe_ratio: mean(results, |result| result.safe_ratio),
        lowest_ratio: mean(results, |result| result.lowest_ratio),
        reserved_ratio: mean(results, |result| result.reserved_ratio),
    }
}

fn mean(results: &[&Outcome], pick: impl Fn(&Outcome) -> f64) -> f64 {
    geometric_mean(&results.iter().map(|result| pick(result)).collect::<Vec<_>>())
}

fn print_table(contestants: &[Box<dyn Contestant>], workloads: &[Workload], results: &[Vec<Outcome>]) {
    println!("{}; failures summed\n", title(workloads));
    println!(
        "| allocator | ns an operation | peak reserved / peak live | safe budget / peak live | worst | lowest budget / peak live | worst | books, KiB | handle, B | failures at {TIGHT_PERCENT}% | workloads whole there |"
    );
    println!("|---|{}", "---:|".repeat(10));
    for (index, contestant) in contestants.iter().enumerate() {
        println!("{}", row(contestant.as_ref(), &column(results, index)));
    }
}

/// What it is timed with: of an arena twice the live peak, or more for one that needs more.
fn roomy_bytes(contestant: &dyn Contestant, workload: &Workload) -> u64 {
    match contestant.bound() {
        Bound::Arena => {
            let mut budgets = (1..=ROOMY_DOUBLINGS_MAX)
                .map(|doublings| workload.live_peak_bytes.next_multiple_of(1 << 20) << doublings);
            budgets.find(|bytes| contestant.fits(workload, *bytes)).unwrap_or(DEVICE_BYTES)
        }
        Bound::Device | Bound::None => DEVICE_BYTES.max(workload.live_peak_bytes << ROOMY_DOUBLINGS_MAX),
    }
}

/// Returns nanoseconds an event of each contestant, in every repeat.
fn event_samples(
    contestants: &[Box<dyn Contestant>],
    roomy_bytes: &[u64],
    workload: &Workload,
    effort: &Effort,
) -> Vec<Vec<f64>> {
    let repeats = (effort.events / workload.events.len()).clamp(effort.repeats_least, effort.repeats_most);
    in_turn(repeats, contestants.len(), |index| contestants[index].event_ns(workload, roomy_bytes[index]))
}

/// Returns the same where each has as much as it is timed with in the race.
pub fn times(contestants: &[Box<dyn Contestant>], workload: &Workload, effort: &Effort) -> Vec<Vec<f64>> {
    let roomy_bytes: Vec<u64> = contestants.iter().map(|each| roomy_bytes(each.as_ref(), workload)).collect();
    event_samples(contestants, &roomy_bytes, workload, effort)
}

/// All of them on one workload: each has its turn in every repeat, and every repeat begins with another.
fn race(contestants: &[Box<dyn Contestant>], workload: &Workload, effort: &Effort) -> Vec<Outcome> {
    let roomy_bytes: Vec<u64> = contestants.iter().map(|each| roomy_bytes(each.as_ref(), workload)).collect();
    let samples = event_samples(contestants, &roomy_bytes, workload, effort);
    let indices = 0..contestants.len();
    indices.map(|i| outcome(contestants[i].as_ref(), workload, roomy_bytes[i], median(&samples[i]))).collect()
}

fn outcome(contestant: &dyn Contestant, workload: &Workload, roomy_bytes: u64, event_ns: f64) -> Outcome {
    let peak = workload.live_peak_bytes as f64;
    let tight_bytes = (workload.live_peak_bytes * TIGHT_PERCENT / 100).next_multiple_of(UNIT_BYTES);
    let ratio = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64 / peak);
    let roomy = contestant.needs(workload, roomy_bytes);
    let failures = match contestant.bound() {
        Bound::None => roomy.failures,
        Bound::Arena | Bound::Device => contestant.needs(workload, tight_bytes).failures,
    };
    let lowest_bytes = budget_lowest_bytes(contestant, workload);
    let safe_bytes = lowest_bytes.and_then(|bytes| budget_safe_bytes(contestant, workload, bytes));
    // An arena is reserved whole, so it is as large as it must be.
    let reserved_bytes = if contestant.bound() == Bound::Arena { lowest_bytes } else { roomy.reserved_peak_bytes };
    Outcome {
        event_ns,
        reserved_ratio: ratio(reserved_bytes.filter(|_| roomy.failures == 0)),
        safe_ratio: ratio(safe_bytes),
        lowest_ratio: ratio(lowest_bytes),
        metadata_bytes: roomy.metadata_bytes,
        failures,
    }
}

fn row(contestant: &dyn Contestant, results: &[&Outcome]) -> String {
    let mean = |pick: fn(&Outcome) -> f64| mean(results, pick);
    let Bars { safe_ratio, lowest_ratio, reserved_ratio, .. } = bars(contestant.name(), results);
    // Not a number stays so.
    let worst = |pick: fn(&Outcome) -> f64| {
        let ratios = results.iter().map(|result| pick(result));
        ratios.fold(0.0, |most: f64, ratio| if most.is_nan() || ratio.is_nan() { f64::NAN } else { most.max(ratio) })
    };
    let books = mean(|result| result.metadata_bytes.map_or(f64::NAN, |bytes| bytes.max(1) as f64 / 1024.0));
    let whole = results.iter().filter(|result| result.failures == 0).count();
    let (failures, whole) = if contestant.bound() != Bound::None {
        (results.iter().map(|result| result.failures).sum::<u64>().to_string(), format!("{whole} of {}", results.len()))
    } else {
        ("-".to_owned(), "-".to_owned())
    };
    format!(
        "| {} | {:.1} | {} | {} | {} | {} | {} | {} | {} | {failures} | {whole} |",
        contestant.name(),
        mean(|result| result.event_ns),
        shown(reserved_ratio, 3),
        shown(safe_ratio, 3),
        shown(worst(|result| result.safe_ratio), 3),
        shown(lowest_ratio, 3),
        shown(worst(|result| result.lowest_ratio), 3),
        shown(books, 1),
        contestant.handle_bytes(),
    )
}

fn print_each(contestants: &[Box<dyn Contestant>], workloads: &[Workload], results: &[Vec<Outcome>]) {
    type Figure = fn(&Outcome) -> f64;
    let tables: [(&str, Figure, usize); 4] = [
        ("ns an operation", |result| result.event_ns, 1),
        ("peak reserved / peak live", |result| result.reserved_ratio, 3),
        ("safe budget / peak live", |result| result.safe_ratio, 3),
        ("lowest budget / peak live", |result| result.lowest_ratio, 3),
    ];
    for (title, pick, digits) in tables {
        println!("\n| {title} | {} |", contestants.iter().map(|each| each.name()).collect::<Vec<_>>().join(" | "));
        println!("|---|{}", "---:|".repeat(contestants.len()));
        for (workload, results) in workloads.iter().zip(results) {
            let cells = results.iter().map(|result| shown(pick(result), digits)).collect::<Vec<_>>().join(" | ");
            println!("| {} | {cells} |", workload.name);
        }
    }
}

fn shown(number: f64, digits: usize) -> String {
    if number.is_finite() && number > 0.0 { format!("{number:.digits$}") } else { "-".to_owned() }
}

fn line(contestant: &dyn Contestant, workload: &Workload, result: &Outcome) -> Value {
    // What is not a number is null.
    json!({
        "allocator": contestant.name(), "workload": workload.name, "events": workload.events.len(),
        "live_peak_bytes": workload.live_peak_bytes, "ns_per_op": result.event_ns,
        "reserved_ratio": result.reserved_ratio, "safe_ratio": result.safe_ratio, "budget_ratio": result.lowest_ratio,
        "metadata_bytes": result.metadata_bytes, "handle_bytes": contestant.handle_bytes(),
        "failures_at_105": result.failures,
    })
}
