//! Pairs of an allocation and a free: by size and by live blocks, by the size of the slab, on two threads, and from one thread to
//! another.

use serde_json::Value;

use super::Effort;
use super::table::{Column, Table, ns, ratio};
use crate::sample::{in_turn, median, median_ratio};
use crate::threads::case::{Bytes, MIXED, Pattern, Work};
use crate::threads::{ALLOCATORS, ARENA_BYTES, HEAPS, NOTHING, OFFSET_GUARD, SYSTEM, gains, open_in};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Blocks of free lists, of several classes.
pub const SMALL: Bytes = Bytes::Between { least: 64, most: KIB, unit: 1 };
/// Runs of pages.
pub const RUNS: Bytes = Bytes::Between { least: 64 * KIB, most: MIB, unit: 256 };
const ALONE: Pattern = Pattern::AtOnce { live: 1 };

const fn at_once(bytes: u64) -> Work {
    Work { bytes: Bytes::Fixed(bytes), pattern: ALONE }
}

pub const fn replace(bytes: Bytes, live: usize) -> Work {
    Work { bytes, pattern: Pattern::Replace { live } }
}

const WORKS: [Work; 9] = [
    at_once(64),
    at_once(4 * KIB),
    at_once(MIB),
    replace(SMALL, 16),
    replace(SMALL, 1_000),
    replace(SMALL, 100_000),
    replace(RUNS, 16),
    replace(RUNS, 100),
    replace(RUNS, 1_000),
];

const SLAB_BYTES: [u64; 4] = [64 * MIB, GIB, 16 * GIB, 128 * GIB];
const SLAB_WORKS: [Work; 4] = [at_once(4 * KIB), at_once(16 * KIB), at_once(64 * KIB), at_once(MIB)];
/// One slab without memory behind it, the host's slab that expands, and what they are beside.
const SLAB_ALLOCATORS: [&str; 3] = ["pool-virtual", "pool-expanding", OFFSET_GUARD];

const GAIN_WORKS: [Work; 5] = [
    at_once(64),
    replace(MIXED, 500),
    at_once(256 * KIB),
    Work { bytes: Bytes::Between { least: 256 * KIB, most: MIB, unit: 256 }, pattern: ALONE },
    replace(Bytes::Between { least: 256 * KIB, most: MIB, unit: 256 }, 16),
];

const HAND_OVER: Work = Work { bytes: Bytes::Fixed(1000), pattern: Pattern::HandOver };

/// Blocks as small as a heap's usually are.
const HEAP_WORKS: [Work; 3] =
    [at_once(64), replace(Bytes::Fixed(64), 1_000), Work { bytes: Bytes::Fixed(64), pattern: Pattern::HandOver }];

/// The works of this module that are done on one thread.
pub fn works() -> Vec<Work> {
    [&WORKS[..], &SLAB_WORKS, &GAIN_WORKS, &[HAND_OVER], &HEAP_WORKS].concat()
}

fn all() -> Vec<&'static str> {
    ALLOCATORS.into_iter().chain([NOTHING]).collect()
}

fn place_of(names: &[&str], name: &str) -> usize {
    names.iter().position(|known| *known == name).expect("it is in every list")
}

pub fn run(effort: &Effort) -> Result<Vec<Table>, String> {
    let names = all();
    let columns = vec![ns("ns a pair"), ratio("/ offset-guard")];
    let mut table = Table::new("pairs", "one thread, 2 GiB", &["allocator", "work"], columns);
    for work in WORKS {
        let cases: Vec<_> = names.iter().map(|name| open_in(name, ARENA_BYTES, work, 1)).collect();
        let samples = in_turn(effort.turns.rounds, cases.len(), |index| cases[index].pair_ns(1, effort.turns.time));
        let guard = &samples[place_of(&names, OFFSET_GUARD)];
        for (name, samples) in names.iter().zip(&samples) {
            table.push([name, &work.to_string()], vec![median(samples), median_ratio(samples, guard)]);
        }
    }
    Ok(vec![table])
}

/// Pairs in one slab of ever more bytes.
pub fn run_slab_bytes(effort: &Effort) -> Result<Vec<Table>, String> {
    let names = SLAB_BYTES.map(|bytes| if bytes < GIB { "64 MiB".to_owned() } else { format!("{} GiB", bytes / GIB) });
    let mut columns: Vec<_> = names.iter().map(|name| ns(format!("{name}, ns"))).collect();
    columns.extend(names[1..].iter().map(|name| ratio(format!("{name} / 64 MiB"))));
    columns.push(ratio("128 GiB / offset-guard"));
    let mut table = Table::new("slab-bytes", "ns a pair in one slab of so much", &["allocator", "work"], columns);
    for work in SLAB_WORKS {
        let cases = SLAB_ALLOCATORS.map(|name| SLAB_BYTES.map(|bytes| open_in(name, bytes, work, 1))).into_iter();
        let cases: Vec<_> = cases.flatten().collect();
        let samples = in_turn(effort.turns.rounds, cases.len(), |index| cases[index].pair_ns(1, effort.turns.time));
        let rows: Vec<&[Vec<f64>]> = samples.chunks(SLAB_BYTES.len()).collect();
        let guard = &rows[place_of(&SLAB_ALLOCATORS, OFFSET_GUARD)][SLAB_BYTES.len() - 1];
        for (name, samples) in SLAB_ALLOCATORS.iter().zip(&rows) {
            let mut figures: Vec<f64> = samples.iter().map(|samples| median(samples)).collect();
            figures.extend(samples[1..].iter().map(|larger| median_ratio(larger, &samples[0])));
            figures.push(median_ratio(&samples[SLAB_BYTES.len() - 1], guard));
            table.push([name, &work.to_string()], figures);
        }
    }
    Ok(vec![table])
}

fn figure(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
}

/// Measures works on one thread and on two, and adds a row for each allocator and work: `pick` says what comes after the two times,
/// of a row and the gain in it.
fn add_gains(table: &mut Table, works: &[Work], effort: &Effort, pick: fn(&Value, f64) -> Vec<f64>) {
    for work in works {
        let rows = gains(vec![*work], &effort.turns);
        let guard = rows.iter().find(|row| row["allocator"] == OFFSET_GUARD);
        let guard_ns = guard.map_or(f64::NAN, |row| figure(row, "two_ns"));
        for row in &rows {
            let (one_ns, two_ns) = (figure(row, "one_ns"), figure(row, "two_ns"));
            let mut figures = vec![one_ns, two_ns];
            figures.extend(pick(row, figure(row, "gain")));
            figures.extend([two_ns / guard_ns, figure(row, "parallel_rounds")]);
            // The loop stands beside each work.
            table.push([row["allocator"].as_str().unwrap_or_default(), &work.to_string()], figures);
        }
    }
}

fn second_core() -> Column {
    Column { head: "rounds with a second core".to_owned(), digits: 0 }
}

/// Two threads by one, beside what the second core is worth.
pub fn run_gains(effort: &Effort) -> Result<Vec<Table>, String> {
    let columns = vec![
        ns("one thread, ns"),
        ns("two threads, ns"),
        ratio("gain"),
        ratio("gain / compute loop's"),
        ratio("two threads / offset-guard's"),
        second_core(),
    ];
    let mut table = Table::new("gains", "two threads by one thread", &["allocator", "work"], columns);
    add_gains(&mut table, &GAIN_WORKS, effort, |row, gain| vec![gain, figure(row, "relative_gain")]);
    Ok(vec![table])
}

/// Blocks that are freed on another thread, beside blocks that are freed on their own.
pub fn run_hand_over(effort: &Effort) -> Result<Vec<Table>, String> {
    let columns = vec![
        ns("freed on the same thread, ns"),
        ns("freed on another, ns"),
        ratio("another / same"),
        ratio("another / offset-guard's"),
        second_core(),
    ];
    let title = "1,000 B, 256 blocks allocated and then freed";
    let mut table = Table::new("hand-over", title, &["allocator", "work"], columns);
    add_gains(&mut table, &[HAND_OVER], effort, |_, gain| vec![1.0 / gain]);
    Ok(vec![table])
}

/// Small blocks beside those of the program's own heaps, which the race does not write to either.
pub fn run_mallocs(effort: &Effort) -> Result<Vec<Table>, String> {
    let names: Vec<&str> = all().into_iter().chain(HEAPS.iter().copied()).collect();
    let columns = vec![ns("ns a pair"), ratio("/ offset-guard"), ratio("/ system malloc")];
    let mut table = Table::new("mallocs", "one thread, 64 B", &["allocator", "work"], columns);
    for work in HEAP_WORKS {
        let cases: Vec<_> = names.iter().map(|name| open_in(name, ARENA_BYTES, work, 1)).collect();
        let samples = in_turn(effort.turns.rounds, cases.len(), |index| cases[index].pair_ns(1, effort.turns.time));
        let bases = [OFFSET_GUARD, SYSTEM].map(|name| &samples[place_of(&names, name)]);
        for (name, samples) in names.iter().zip(&samples) {
            let ratios = bases.map(|base| median_ratio(samples, base));
            table.push([name, &work.to_string()], [&[median(samples)][..], &ratios].concat());
        }
    }
    Ok(vec![table])
}
