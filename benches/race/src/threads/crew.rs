//! One thread or several at the same work for a set time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Units of work between two looks at the clock.
const UNITS_AT_ONCE: u64 = 64;

/// Lets `threads` threads work for `time`, after `warm_units` each that do not count; returns nanoseconds a unit: the time from the common start to the last one's
/// end, by all the units that were done in it. `work(thread, units)` does so many units.
///
/// Time during which a thread could not run, because something else had its core, counts: two threads that only took
/// turns gain nothing.
pub fn unit_ns(threads: usize, warm_units: u64, time: Duration, work: impl Fn(usize, u64) + Sync) -> f64 {
    let arrived = AtomicUsize::new(0);
    let start = OnceLock::new();
    let (work, arrived, start) = (&work, &arrived, &start);
    let one = move |thread: usize| {
        pin(thread);
        // Caches and branch predictors as they are in the middle of a run.
        work(thread, warm_units);
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            start.set(Instant::now()).expect("one thread is the last to arrive");
        }
        let start = loop {
            match start.get() {
                Some(start) => break *start,
                None => thread::yield_now(),
            }
        };
        let mut units = 0;
        // Some in any case: the thread may have been kept waiting for all of that time.
        loop {
            work(thread, UNITS_AT_ONCE);
            units += UNITS_AT_ONCE;
            if start.elapsed() >= time {
                break;
            }
        }
        (units, start.elapsed())
    };
    let done: Vec<(u64, Duration)> = thread::scope(|scope| {
        let crew: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        crew.into_iter().map(|thread| thread.join().expect("a worker panicked")).collect()
    });
    let units: u64 = done.iter().map(|(units, _)| units).sum();
    let longest = done.iter().map(|(_, elapsed)| *elapsed).max().expect("at least one thread");
    longest.as_nanos() as f64 / units as f64
}

/// Keeps this thread on the core of this number among those that the process may use. Without that, threads that live for
/// milliseconds stay on the core of their parent while the other is busy with something else, and only take turns.
#[cfg(target_os = "linux")]
pub fn pin(thread: usize) {
    // SAFETY: a set of cores is plain bits, and all zero is the empty one.
    let (mut allowed, mut one) =
        unsafe { (std::mem::zeroed::<libc::cpu_set_t>(), std::mem::zeroed::<libc::cpu_set_t>()) };
    // SAFETY: the sets are as large as is said, and the numbers are below what a set holds.
    unsafe {
        if libc::sched_getaffinity(0, size_of_val(&allowed), &mut allowed) != 0 {
            return;
        }
        let cores = (0..libc::CPU_SETSIZE as usize).filter(|core| libc::CPU_ISSET(*core, &allowed));
        if let Some(core) = cores.clone().nth(thread % cores.count().max(1)) {
            libc::CPU_SET(core, &mut one);
            // Where it is refused, the threads are where the system wants them.
            libc::sched_setaffinity(0, size_of_val(&one), &one);
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub fn pin(_: usize) {}
