//! Figures about threads and small blocks: the median over many short rounds, every case in each, begun at another
//! case every time, so that whatever else the machine does meets all of them.

pub mod case;
pub mod crew;
mod heaps;
mod pipe;
pub mod shared;

use std::time::Duration;

use serde_json::{Value, json};
use tensorpool::{Host, SlabPolicy, Virtual};

use self::case::{Bytes, Case, CaseOf, MIXED, Pattern, THREADS_MAX, Work, compute_ns};
use self::shared::{Nothing, OffsetBare, OffsetGuarded, open_pool};
use crate::sample::{in_turn, median};

pub const ALLOCATORS: [&str; 5] = ["pool-virtual", "pool-host", "pool-expanding", OFFSET_GUARD, "offset-bare"];
/// The allocator that the others are measured by.
pub const OFFSET_GUARD: &str = "offset-guard";
pub const NOTHING: &str = "nothing";
/// The `malloc` of the system, glibc's on most.
pub const SYSTEM: &str = "system malloc";
/// Heaps of the program.
#[cfg(feature = "mallocs")]
pub const HEAPS: &[&str] = &[SYSTEM, "mimalloc", "snmalloc", "jemalloc"];
#[cfg(not(feature = "mallocs"))]
pub const HEAPS: &[&str] = &[SYSTEM];
/// What all of them carve.
pub const ARENA_BYTES: u64 = 2 << 30;
/// Numbers of live blocks between which the cost should not change.
const LIVE: [usize; 5] = [16, 100, 1_000, 10_000, 100_000];
/// What `flat_works` are, in words.
const FLAT: [&str; 3] = ["16 to 1,024 B, at once", "64 B, replace a random one", "16 to 1,024 B, replace a random one"];
/// A compute loop that gains less had no second core.
const COMPUTE_GAIN_LEAST: f64 = 1.5;
/// Its rounds are fewer by so much: warming 100,000 blocks takes its time.
const FLAT_ROUNDS_BY: usize = 4;
const FLAT_ROUNDS_LEAST: usize = 9;
/// Bytes of the blocks that go from one thread to another.
const PIPE_BYTES: u64 = 1000;

/// How long is measured.
pub struct Effort {
    pub rounds: usize,
    /// Of one case in one round.
    pub time: Duration,
}

impl Effort {
    pub fn new(quick: bool, rounds: Option<usize>) -> Self {
        let (usual, time) = if quick { (15, Duration::from_millis(1)) } else { (121, Duration::from_millis(2)) };
        Self { rounds: rounds.unwrap_or(usual), time }
    }
}

/// Everything, as a table or as one line of JSON.
pub fn run(effort: &Effort, as_json: bool) {
    let (gains, flat, pipe) = (gains(gain_works(), effort), flat(effort), pipes(effort));
    if as_json {
        println!("{}", json!({ "rounds": effort.rounds, "gains": gains, "flat": flat, "pipe": pipe }));
        return;
    }
    println!("ns a pair of allocation and free, medians of {} rounds of {:?} a case", effort.rounds, effort.time);
    print_gains(&gains);
    print_flat(&flat);
    println!("\n| allocator | {PIPE_BYTES} B allocated on one thread, freed on another |\n|---|---:|");
    for row in &pipe {
        println!("| {} | {:.1} |", text(row, "allocator"), number(row, "ns"));
    }
}

fn print_gains(rows: &[Value]) {
    println!(
        "\n| allocator | work | one thread | two threads | gain | gain / compute loop's | rounds with a second core |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|");
    for row in rows {
        let (allocator, work) = (text(row, "allocator"), text(row, "work"));
        let (one, two) = (number(row, "one_ns"), number(row, "two_ns"));
        let (gain, relative) = (number(row, "gain"), number(row, "relative_gain"));
        let rounds = &row["parallel_rounds"];
        println!("| {allocator} | {work} | {one:.1} | {two:.1} | {gain:.2} | {relative:.2} | {rounds} |");
    }
}

fn print_flat(rows: &[Value]) {
    println!("\n| allocator | work | {} live | most / 16 |", LIVE.map(|live| live.to_string()).join(" | "));
    println!("|---|---|{}", "---:|".repeat(LIVE.len() + 1));
    for row in rows {
        let cells: Vec<f64> = row["ns"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let shown = cells.iter().map(|ns| format!("{ns:.1}")).collect::<Vec<_>>().join(" | ");
        println!("| {} | {} | {shown} | {:.2} |", text(row, "allocator"), text(row, "work"), number(row, "ratio"));
    }
}

/// Does exactly `count` pairs of the case of this name on this thread, for a tool that counts instructions. The works of this module
/// have a case, and those in `more`.
pub fn instructions(name: &str, count: u64, more: Vec<Work>) -> Result<(), String> {
    let (allocator, work) = name.split_once('/').ok_or_else(|| format!("{name:?} is not ALLOCATOR/BYTES/PATTERN"))?;
    let mut works: Vec<Work> = gain_works().into_iter().chain(LIVE.into_iter().flat_map(flat_works)).collect();
    for work in more {
        if !works.contains(&work) {
            works.push(work);
        }
    }
    let names: Vec<&str> = ALLOCATORS.into_iter().chain([NOTHING]).collect();
    let found = works.iter().find(|known| known.to_string() == work);
    let (Some(work), Some(allocator)) = (found, names.iter().find(|known| **known == allocator)) else {
        let works: Vec<String> = works.iter().map(Work::to_string).collect();
        return Err(format!("no case {name:?}: {{{}}}/{{{}}}", names.join(","), works.join(",")));
    };
    open(allocator, *work, 1).pairs(count);
    Ok(())
}

/// The works of the table about threads.
fn gain_works() -> Vec<Work> {
    let alone = Pattern::AtOnce { live: 1 };
    vec![
        Work { bytes: Bytes::Fixed(64), pattern: alone },
        Work { bytes: Bytes::Fixed(1000), pattern: alone },
        Work { bytes: Bytes::Fixed(1 << 20), pattern: alone },
        Work { bytes: MIXED, pattern: Pattern::Replace { live: 1000 } },
    ]
}

/// The works of the table about numbers of live blocks.
fn flat_works(live: usize) -> [Work; 3] {
    [
        Work { bytes: MIXED, pattern: Pattern::AtOnce { live } },
        Work { bytes: Bytes::Fixed(64), pattern: Pattern::Replace { live } },
        Work { bytes: MIXED, pattern: Pattern::Replace { live } },
    ]
}

fn open(allocator: &'static str, work: Work, threads: usize) -> Box<dyn Case> {
    open_in(allocator, ARENA_BYTES, work, threads)
}

/// Opens an allocator of so many bytes for a work. A heap takes what it needs.
pub fn open_in(allocator: &'static str, bytes: u64, work: Work, threads: usize) -> Box<dyn Case> {
    /// Names the case's type once.
    fn case<S: shared::Shared>(allocator: &'static str, work: Work, threads: usize, shared: S) -> Box<dyn Case> {
        Box::new(CaseOf::new(allocator, work, threads, shared))
    }
    let single = SlabPolicy::Single;
    match allocator {
        "pool-virtual" => case(allocator, work, threads, open_pool(Virtual::default(), bytes, single)),
        "pool-host" => case(allocator, work, threads, open_pool(Host, bytes, single)),
        "pool-expanding" => case(allocator, work, threads, open_pool(Host, bytes, SlabPolicy::Expanding)),
        OFFSET_GUARD => case(allocator, work, threads, OffsetGuarded::open(bytes)),
        "offset-bare" => case(allocator, work, threads, OffsetBare::open(bytes)),
        NOTHING => case(allocator, work, threads, Nothing),
        SYSTEM => case(allocator, work, threads, heaps::Malloc(heaps::SystemHeap)),
        #[cfg(feature = "mallocs")]
        "mimalloc" => case(allocator, work, threads, heaps::Malloc(heaps::Mimalloc)),
        #[cfg(feature = "mallocs")]
        "snmalloc" => case(allocator, work, threads, heaps::Malloc(heaps::Snmalloc)),
        #[cfg(feature = "mallocs")]
        "jemalloc" => case(allocator, work, threads, heaps::Malloc(heaps::Jemalloc)),
        _ => unreachable!("{allocator} is in no list"),
    }
}

/// What one case did in one round.
#[derive(Clone, Copy)]
struct Sample {
    one_ns: f64,
    two_ns: f64,
    /// Of the compute loop in that round.
    compute_gain: f64,
}

impl Sample {
    fn gain(&self) -> f64 {
        self.one_ns / self.two_ns
    }
}

/// One thread and two, beside the compute loop in the same moments. Rounds in which the second core was not there are
/// left out of what two threads did, unless it never was.
pub fn gains(works: Vec<Work>, effort: &Effort) -> Vec<Value> {
    let mut rows = Vec::new();
    for work in works {
        let cases: Vec<_> = ALLOCATORS.iter().map(|allocator| open(allocator, work, THREADS_MAX)).collect();
        let samples = gain_samples(&cases, effort);
        let compute = ("compute loop", "registers".to_owned());
        let names = cases.iter().map(|case| (case.allocator(), case.work().to_string())).chain([compute]);
        for ((allocator, work), samples) in names.zip(&samples) {
            let parallel: Vec<Sample> =
                samples.iter().copied().filter(|s| s.compute_gain >= COMPUTE_GAIN_LEAST).collect();
            let used = if parallel.is_empty() { samples } else { &parallel };
            let of =
                |samples: &[Sample], pick: fn(&Sample) -> f64| median(&samples.iter().map(pick).collect::<Vec<_>>());
            rows.push(json!({
                "allocator": allocator, "work": work, "parallel_rounds": parallel.len(),
                "one_ns": of(samples, |s| s.one_ns), "two_ns": of(used, |s| s.two_ns),
                "gain": of(used, Sample::gain), "relative_gain": of(used, |s| s.gain() / s.compute_gain),
            }));
        }
    }
    rows
}

/// By case; the compute loop is the last.
fn gain_samples(cases: &[Box<dyn Case>], effort: &Effort) -> Vec<Vec<Sample>> {
    let times = in_turn(effort.rounds, cases.len() + 1, |index| {
        let ns = |threads| match cases.get(index) {
            Some(case) => case.pair_ns(threads, effort.time),
            None => compute_ns(threads, effort.time),
        };
        (ns(1), ns(2))
    });
    let compute_gains: Vec<f64> = times[cases.len()].iter().map(|(one_ns, two_ns)| one_ns / two_ns).collect();
    let sample = |(&(one_ns, two_ns), &compute_gain)| Sample { one_ns, two_ns, compute_gain };
    times.iter().map(|times| times.iter().zip(&compute_gains).map(sample).collect()).collect()
}

/// The same pattern beside ever more live blocks, on one thread.
fn flat(effort: &Effort) -> Vec<Value> {
    let names: Vec<&str> = ALLOCATORS.into_iter().chain([NOTHING]).collect();
    let mut rows = Vec::new();
    for (which, pattern) in FLAT.into_iter().enumerate() {
        let works = LIVE.map(|live| flat_works(live)[which]);
        let cases: Vec<_> = names.iter().flat_map(|name| works.map(|work| open(name, work, 1))).collect();
        let rounds = effort.rounds.div_ceil(FLAT_ROUNDS_BY).max(FLAT_ROUNDS_LEAST.min(effort.rounds));
        let samples = in_turn(rounds, cases.len(), |index| cases[index].pair_ns(1, effort.time));
        for (name, samples) in names.iter().zip(samples.chunks(LIVE.len())) {
            let ns: Vec<f64> = samples.iter().map(|samples| median(samples)).collect();
            let most = ns.iter().copied().fold(0.0, f64::max);
            rows.push(json!({ "allocator": name, "work": pattern, "live": LIVE, "ns": ns, "ratio": most / ns[0] }));
        }
    }
    rows
}

fn pipes(effort: &Effort) -> Vec<Value> {
    let names: Vec<&str> = ALLOCATORS.into_iter().chain([NOTHING]).collect();
    let work = Work { bytes: Bytes::Fixed(PIPE_BYTES), pattern: Pattern::HandOver };
    let cases: Vec<_> = names.iter().map(|name| open(name, work, 1)).collect();
    let samples = in_turn(effort.rounds, cases.len(), |index| cases[index].pair_ns(2, effort.time));
    names.iter().zip(&samples).map(|(name, samples)| json!({ "allocator": name, "ns": median(samples) })).collect()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}
