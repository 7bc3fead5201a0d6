//! Threads that allocate, record work and free at once, while the device works on what they recorded before.
//!
//! A copy of every freed tensor must hold what was written to it: so memory that was freed too early would show. Some tensors are
//! lent to foreign command buffers, and dropped before those have run: their blocks are retired until then.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tensorpool::{Backend, Config, Gpu, Pool, Tensor};

use super::{Scale, open};
use crate::figure::{Figure, Figures};
use crate::large::Readable;

/// One round in so many lends its tensor.
const LENT_EVERY: u64 = 4;
/// The last work of the device may take so long.
const LAST: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Counts {
    rounds: AtomicU64,
    loans: AtomicU64,
    bytes_checked: AtomicU64,
    words_wrong: AtomicU64,
    retired_most: AtomicU64,
}

pub fn measure(scale: &Scale) -> Figures {
    let (threads, seconds) = scale.of((8, 20), (4, 2));
    let (budget, words_most) = scale.of((2 << 30, 4 << 20), (64 << 20, 1 << 18));
    let pool = Pool::with_backend(open()?, &Config::new(budget))?;
    let counts = Counts::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    let work = |thread: u64| -> Result<(), String> {
        let mut round = 0;
        while Instant::now() < end {
            round += 1;
            let value = (thread << 24 | round) as u32;
            let words = words_most - (round as usize).wrapping_mul(7_919) % (words_most / 2);
            free_under_load(&pool, value, words, round.is_multiple_of(LENT_EVERY), &counts)
                .map_err(|error| format!("thread {thread}, round {round}: {error}"))?;
            counts.rounds.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let results: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        all.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))).collect()
    });
    results.into_iter().collect::<Result<Vec<()>, String>>()?;
    pool.backend().complete(pool.backend().recorded())?;
    let start = Instant::now();
    while pool.stats().retired_bytes > 0 && start.elapsed() < LAST {
        pool.trim();
        thread::sleep(Duration::from_millis(1));
    }
    pool.check();
    let stats = pool.stats();
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let least = |name: &str, count: u64| Figure::new(name, count, "").at_least(1.0, true);
    Ok(vec![
        Figure::new("threads", threads, ""),
        least("rounds", count(&counts.rounds)),
        least("loans to foreign command buffers", count(&counts.loans)),
        Figure::new("contents checked", count(&counts.bytes_checked) >> 20, "MiB"),
        Figure::new("words that were wrong", count(&counts.words_wrong), "").exactly(0),
        Figure::new("retired at most", count(&counts.retired_most), "B"),
        Figure::new("retired at the end", stats.retired_bytes, "B").exactly(0),
        Figure::new("used at the end", stats.used_bytes, "B").exactly(0),
        Figure::new("failed allocations", stats.failures, "").exactly(0),
    ])
}

/// Frees one tensor before the device has done what was recorded for it, takes its memory for another, and checks a copy of it.
fn free_under_load(
    pool: &Pool<Gpu>,
    value: u32,
    words: usize,
    is_lent: bool,
    counts: &Counts,
) -> Result<(), Box<dyn Error>> {
    let mut first = pool.uninit::<u32>([words])?;
    first.fill(value)?;
    let seen = if is_lent {
        counts.loans.fetch_add(1, Ordering::Relaxed);
        lend_and_free(pool, first, counts)?
    } else {
        let mut copy = pool.uninit::<u32>([words])?;
        copy.copy_from(&first)?;
        drop(first);
        let mut next = pool.uninit::<u32>([words])?;
        next.fill(!value)?;
        drop(next);
        let mut seen = vec![0; words];
        copy.download(&mut seen)?;
        seen
    };
    let wrong = seen.iter().filter(|word| **word != value).count();
    counts.words_wrong.fetch_add(wrong as u64, Ordering::Relaxed);
    counts.bytes_checked.fetch_add(4 * words as u64, Ordering::Relaxed);
    Ok(())
}

/// Lends a tensor to a command buffer of this function's own, and drops it before that has run. Returns what the commands saw.
fn lend_and_free(pool: &Pool<Gpu>, tensor: Tensor<u32, Gpu>, counts: &Counts) -> Result<Vec<u32>, Box<dyn Error>> {
    let device = pool.backend().device();
    let (bytes, words) = (tensor.bytes(), tensor.elements());
    let loan = tensor.lend()?;
    let readable = Readable::new(device, bytes);
    let mut encoder = device.create_command_encoder(&Default::default());
    let binding = loan.binding();
    encoder.copy_buffer_to_buffer(binding.buffer, binding.offset, &readable.0, 0, bytes);
    drop(tensor);
    counts.retired_most.fetch_max(pool.stats().retired_bytes, Ordering::Relaxed);
    let mut next = pool.uninit::<u32>([words])?;
    next.fill(0)?;
    pool.submit_lent([encoder.finish()], [loan])?;
    drop(next);
    let mut seen = vec![0; words];
    readable.read(device, bytemuck::cast_slice_mut(&mut seen))?;
    Ok(seen)
}
