//! What the system gives: page faults and resident memory over a churn whose blocks are all written, for pools of host memory and
//! for one allocation a tensor. Each allocator has a process of its own: what one leaves would count for the next.

use std::process::Command;
use std::time::{Duration, Instant};

use tensorpool::{Block, Config, Host, Pool, Request, SlabPolicy};

use crate::random::Random;

const MIB: u64 = 1 << 20;
/// The most bytes that are live at once.
const LIVE_BYTES: u64 = 128 * MIB;
/// What a pool has: naive allocation has no cap.
const BUDGET_BYTES: u64 = LIVE_BYTES / 4 * 5;
/// The sizes change so often: what one phase leaves in pieces the next wants whole.
const PHASE_BLOCKS: u64 = 20_000;
/// Powers of two between which a phase's sizes are.
const PHASES: [(f64, f64); 4] = [(8.0, 22.0), (16.0, 23.0), (8.0, 14.0), (12.0, 20.0)];
/// The resident memory is looked at whenever so many blocks were allocated.
const SAMPLE_BLOCKS: u64 = 500;

const NAMES: [&str; 5] =
    ["pool, expanding", "pool, one slab", "pool, slabs as needed", "pool, a slab a block", "a Vec for every tensor"];

/// A block of either kind, written whole.
enum Held {
    Pooled(Block<Host>),
    Owned(Vec<u8>),
}

impl Held {
    fn bytes(&self) -> u64 {
        match self {
            Self::Pooled(block) => block.bytes(),
            Self::Owned(bytes) => bytes.len() as u64,
        }
    }
}

fn open(name: &str) -> Result<Option<Pool<Host>>, String> {
    let slabs = match NAMES.iter().position(|known| *known == name) {
        Some(0) => SlabPolicy::Expanding,
        Some(1) => SlabPolicy::Single,
        Some(2) => SlabPolicy::Growing,
        Some(3) => SlabPolicy::PerBlock,
        Some(_) => return Ok(None),
        None => return Err(format!("{name:?} is none of: {}", NAMES.join("; "))),
    };
    let pool = Pool::host(Config::new(BUDGET_BYTES).slabs(slabs)).map_err(|error| error.to_string())?;
    Ok(Some(pool))
}

/// Bytes that the process has in memory.
fn resident_bytes() -> Result<u64, String> {
    let read = || -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
        // SAFETY: it reads a constant of the system.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Some(pages * u64::try_from(page_bytes).ok()?)
    };
    read().ok_or_else(|| "resident memory is only known on Linux".to_owned())
}

/// Pages that the system gave without reading them from a disk.
fn page_faults() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: it writes the structure, all of whose bytes may be 0.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_minflt as u64
}

/// Runs one allocator in this process, and prints its row.
pub fn run_one(name: &str, seconds: u64) -> Result<(), String> {
    let pool = open(name)?;
    let alloc = |bytes: u64| match &pool {
        None => Ok(Held::Owned(vec![1; bytes as usize])),
        Some(pool) => {
            let mut block = pool.alloc(Request::bytes(bytes))?;
            block.fill(bytes, &[1]).map(|()| Held::Pooled(block))
        }
    };
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let mut held: Vec<Held> = Vec::new();
    let (mut live_bytes, mut written_bytes, mut failures) = (0, 0, 0);
    let (mut ratio_sum, mut ratio_most, mut samples) = (0.0, 0.0_f64, 0_u64);
    let (base_bytes, base_faults) = (resident_bytes()?, page_faults());
    let (start, span) = (Instant::now(), Duration::from_secs(seconds));
    let mut blocks = 0;
    // All allocators get the same blocks, however fast they are, until a request fails.
    while start.elapsed() < span {
        let (least, most) = PHASES[(blocks / PHASE_BLOCKS) as usize % PHASES.len()];
        let bytes = (least + random.fraction() * (most - least)).exp2() as u64;
        while live_bytes + bytes > LIVE_BYTES {
            let gone = held.swap_remove(random.below(held.len()));
            live_bytes -= gone.bytes();
        }
        match alloc(bytes) {
            Ok(block) => {
                held.push(block);
                live_bytes += bytes;
                written_bytes += bytes;
            }
            Err(_) => {
                failures += 1;
                // A program that goes on frees something: else most of its requests would fail from here on.
                if !held.is_empty() {
                    live_bytes -= held.swap_remove(random.below(held.len())).bytes();
                }
            }
        }
        blocks += 1;
        // Full from here on.
        if blocks % SAMPLE_BLOCKS == 0 && written_bytes > 4 * LIVE_BYTES {
            let ratio = resident_bytes()?.saturating_sub(base_bytes) as f64 / live_bytes as f64;
            (ratio_sum, ratio_most, samples) = (ratio_sum + ratio, ratio_most.max(ratio), samples + 1);
        }
    }
    let faults = page_faults() - base_faults;
    println!(
        "| {name} | {blocks} | {:.1} | {:.2} | {:.3} | {:.3} | {:.3} | {failures} |",
        written_bytes as f64 / (1 << 30) as f64,
        faults as f64 / (written_bytes as f64 / MIB as f64),
        ratio_sum / samples.max(1) as f64,
        ratio_most,
        resident_bytes()?.saturating_sub(base_bytes) as f64 / live_bytes as f64,
    );
    Ok(())
}

/// Runs all of them, each in a process of its own, one after the other.
pub fn run_all(seconds: u64) -> Result<(), String> {
    println!(
        "| allocator | blocks | GiB written | page faults a MiB written | resident / live, mean | most | at the end | failures |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    for name in NAMES {
        let status = Command::new(&program).args(["resident", "--seconds", &seconds.to_string(), name]).status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("{name}: {status}")),
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Ok(())
}
