//! What the pool leaves outside itself: the process's memory, and its words in the log. One test, because both belong to
//! the whole process.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tensorpool::{Config, Pool, Request, SlabPolicy};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// The logger panics.
static PANICS: AtomicBool = AtomicBool::new(false);

struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        assert!(!PANICS.load(Ordering::SeqCst), "as the test wants");
        LINES.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

/// Bytes of this process in memory, where the system tells.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

fn memory_is_touched_only_when_used_and_given_back() {
    const MIB: u64 = 1 << 20;
    let Some(before) = resident_bytes() else { return };
    let grown = || resident_bytes().unwrap().saturating_sub(before) / MIB;
    let pool = Pool::host(Config::new("1 GiB").slabs(SlabPolicy::Single)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 1 << 30);
    assert!(grown() < 16, "a slab is not touched when it is reserved: {} MiB", grown());
    let mut block = pool.alloc(Request::bytes(128 * MIB)).unwrap();
    assert!(grown() < 16, "nor when a block is handed out: {} MiB", grown());
    block.as_bytes_mut().unwrap().fill(1);
    // The kernel's counter may be short of some pages.
    assert!(grown() >= 127, "{} MiB", grown());
    drop(block);
    pool.trim();
    assert!(grown() < 16, "a slab that is given back is the system's again: {} MiB", grown());
}

/// As `touch` does, and `lock`, which this process may for so few bytes.
#[cfg(target_os = "linux")]
fn memory_is_there_where_it_is_touched() {
    const MIB: u64 = 1 << 20;
    let before = resident_bytes().unwrap();
    let grown = || resident_bytes().unwrap().saturating_sub(before) / MIB;
    let pool = Pool::host(Config::new("128 MiB").slabs(SlabPolicy::Single).touch(true)).unwrap();
    // The kernel's counter may be short of some pages.
    assert!(grown() >= 127, "{} MiB", grown());
    let block = pool.alloc(Request::bytes(1 << 20)).unwrap();
    assert!(block.as_bytes().unwrap().iter().all(|byte| *byte == 0), "touched pages are zero");
    drop(block);
    pool.trim();
    assert!(grown() < 16, "{} MiB", grown());

    let locked_kib = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap()
    };
    assert_eq!(locked_kib(), 0);
    let pool = Pool::host(Config::new("16 KiB").slabs(SlabPolicy::Single).lock(true)).unwrap();
    assert_eq!(locked_kib(), 16);
    pool.trim();
    assert_eq!(locked_kib(), 0, "a slab that is given back is not locked");
    drop(pool.alloc(Request::bytes(100)).unwrap());
    assert_eq!(locked_kib(), 16);
    drop(pool);
    assert_eq!(locked_kib(), 0);
}

/// The logger is there already.
#[cfg(target_os = "linux")]
fn a_budget_above_the_machine_is_logged() {
    let huge = || Config::new("1024 TiB");
    drop(Pool::host(huge()).unwrap());
    let lines = std::mem::take(&mut *LINES.lock().unwrap());
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let budget = "WARN a budget of 1,125,899,906,842,624 bytes (1024 TiB) is more than host has at the moment, ";
    let memory = line.strip_prefix(budget).unwrap_or_else(|| panic!("{line}"));
    let bytes: u64 = memory.split(' ').next().unwrap().replace(',', "").parse().unwrap();
    assert!(bytes > 1 << 20 && bytes < 1024 << 40, "{line}");
    let error = Pool::host(huge().touch(true)).unwrap_err();
    assert!(error.to_string().contains("1024 TiB") && error.to_string().contains("has at the moment"), "{error}");
    assert!(LINES.lock().unwrap().is_empty(), "an error is told once");
}

fn what_outlives_its_pool_is_logged_by_label() {
    log::set_logger(&Recorder).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let pool = Pool::host(Config::new("1 MiB")).unwrap();
    let clone = pool.clone();
    let kept = [
        pool.alloc(Request::bytes(3000).label("weights")).unwrap(),
        pool.alloc(Request::bytes(3000).label("weights")).unwrap(),
        pool.alloc(Request::bytes(10)).unwrap(),
    ];
    drop(pool);
    assert!(LINES.lock().unwrap().is_empty(), "a handle is left");
    drop(clone);
    let lines = std::mem::take(&mut *LINES.lock().unwrap());
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("WARN") && lines[0].contains("\"weights\" 6 KiB in 2 blocks"), "{lines:?}");
    assert!(lines[1].contains("(no label) 64 B in 1 block"), "{lines:?}");
    drop(kept);

    // A pool that is closed says it to its closer instead; one with nothing held has nothing to say.
    let pool = Pool::host(Config::new("1 MiB")).unwrap();
    let kept = pool.alloc(Request::bytes(10).label("kept")).unwrap();
    assert_eq!(pool.close().len(), 1);
    drop(kept);
    drop(Pool::host(Config::new("1 MiB")).unwrap());
    assert!(LINES.lock().unwrap().is_empty());
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("as the test wants");
    }
}

/// A panic in the logger reaches neither the thread that drops a block or a handle, nor the other waiters.
fn a_logger_that_panics_harms_no_drop() {
    PANICS.store(true, Ordering::SeqCst);
    let pool = Pool::host(Config::new(1024).slabs(SlabPolicy::Single)).unwrap();
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    let request = || Request::bytes(512).wait(Duration::from_secs(100));
    let mut first = Box::pin(pool.alloc_async(request()));
    let mut second = Box::pin(pool.alloc_async(request()));
    let panics = Waker::from(Arc::new(Panics));
    assert!(first.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
    assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(held);
    let Poll::Ready(Ok(block)) = second.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("not served")
    };
    // The block outlives the last handle, which the pool reports.
    drop((first, second, pool));
    drop(block);
    PANICS.store(false, Ordering::SeqCst);
    assert!(LINES.lock().unwrap().is_empty());
}

/// The thread that sees to futures is there while one waits, and no longer.
#[cfg(target_os = "linux")]
fn the_thread_of_the_futures_goes_with_the_last_of_them() {
    // The system keeps 15 characters of "tensorpool waiters".
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?;
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        Some(names.filter(|name| name.trim_end() == "tensorpool wait").count())
    };
    let Some(0) = threads() else { return };
    let pool = Pool::host(Config::new("1 KiB")).unwrap();
    let held = pool.alloc(Request::bytes(1024)).unwrap();
    let request = || Request::bytes(1).wait(Duration::from_secs(100));
    let mut context = Context::from_waker(Waker::noop());
    let mut futures: Vec<_> = (0..3).map(|_| Box::pin(pool.alloc_async(request()))).collect();
    assert_eq!(threads(), Some(0), "a future that nobody polls waits for nothing");
    futures.iter_mut().for_each(|future| assert!(future.as_mut().poll(&mut context).is_pending()));
    // A thread takes its name when it first runs.
    while threads() != Some(1) {
        std::thread::yield_now();
    }
    futures.truncate(1);
    assert_eq!(threads(), Some(1));
    // Nothing waits for the thread.
    let ends = || {
        let start = Instant::now();
        while threads() != Some(0) {
            assert!(start.elapsed() < Duration::from_secs(10), "the thread does not end");
            std::thread::yield_now();
        }
    };
    futures.clear();
    ends();
    // It outlives neither the deadline of a future that was forgotten, nor the pool.
    let mut forgotten = Box::pin(pool.alloc_async(Request::bytes(1).wait(Duration::from_millis(10))));
    assert!(forgotten.as_mut().poll(&mut context).is_pending());
    std::mem::forget(forgotten);
    while pool.stats().waiting > 0 {
        std::thread::yield_now();
    }
    ends();
    let waiting = pool.alloc_async(request());
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..10).map(|_| scope.spawn(|| pool.alloc(request()).map(drop))).collect();
        while pool.stats().waiting < 10 || threads() != Some(1) {
            std::thread::yield_now();
        }
        drop(held);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap().unwrap());
    });
    drop((waiting, pool));
    ends();
}

#[test]
fn the_process_sees_what_it_should() {
    memory_is_touched_only_when_used_and_given_back();
    #[cfg(target_os = "linux")]
    the_thread_of_the_futures_goes_with_the_last_of_them();
    #[cfg(target_os = "linux")]
    memory_is_there_where_it_is_touched();
    what_outlives_its_pool_is_logged_by_label();
    #[cfg(target_os = "linux")]
    a_budget_above_the_machine_is_logged();
    a_logger_that_panics_harms_no_drop();
}
