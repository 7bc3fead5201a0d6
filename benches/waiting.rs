//! What waiting costs, by the number of waiters: nanoseconds for each of them, or for each call beside them; and the processor time
//! that 100 blocking waiters use while nothing happens (on Linux).
//!
//!     cargo bench --no-default-features --bench waiting
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tensorpool::Host;
use tensorpool::{Block, Config, Pool, Request, Result, SlabPolicy};

type Waiting = Pin<Box<dyn Future<Output = Result<Block<Host>>> + Send>>;

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if stat.is_empty() {
        return Duration::ZERO;
    }
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn join(pool: &Pool<Host>, bytes: u64, wait: Duration) -> Waiting {
    let mut future: Waiting = Box::pin(pool.alloc_async(Request::bytes(bytes).wait(wait)));
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    future
}

const LONG: Duration = Duration::from_secs(1000);

fn costs(waiters: u64) {
    let mut ns = [0.0f64; 6];
    let rounds = if waiters <= 100 { 20 } else { 3 };
    for _ in 0..rounds {
        // 16 MiB: half is held in one block, 64 small ones of 4 KiB are held.
        let pool = Pool::host(Config::new("16 MiB").slabs(SlabPolicy::Single)).unwrap();
        let half = pool.alloc(Request::bytes(8 << 20)).unwrap();
        let mut small: Vec<_> = (0..64).map(|_| pool.alloc(Request::bytes(4 << 10)).unwrap()).collect();
        // Each wants more than there is, of a size of its own.
        let start = Instant::now();
        let waiting: Vec<_> = (0..waiters).map(|i| join(&pool, (15 << 20) - i * 8, LONG)).collect();
        ns[0] += start.elapsed().as_nanos() as f64 / waiters as f64;
        std::thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        let more: Vec<_> = (0..15).map(|_| pool.alloc(Request::bytes(4 << 10)).unwrap()).collect();
        ns[1] += start.elapsed().as_nanos() as f64 / 15.0;
        let start = Instant::now();
        small.clear();
        ns[2] += start.elapsed().as_nanos() as f64 / 64.0;
        drop(more);
        let start = Instant::now();
        drop(waiting);
        ns[3] += start.elapsed().as_nanos() as f64 / waiters as f64;
        // Each wants all but the half; they are served one after another.
        let rest = pool.alloc(Request::bytes(8 << 20)).unwrap();
        let mut waiting: Vec<_> = (0..waiters).map(|i| join(&pool, (8 << 20) - (i % 100) * 8, LONG)).collect();
        std::thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        drop(rest);
        for future in waiting.iter_mut() {
            let std::task::Poll::Ready(block) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                panic!("not served")
            };
            drop(block.unwrap());
        }
        ns[4] += start.elapsed().as_nanos() as f64 / waiters as f64;
        // All expire at once.
        let rest = pool.alloc(Request::bytes(8 << 20)).unwrap();
        let _one = join(&pool, 8 << 20, LONG);
        let start = Instant::now();
        let wait = Duration::from_millis(100 + waiters / 4);
        let waiting: Vec<_> =
            (0..waiters).map(|_| join(&pool, 8 << 20, wait.saturating_sub(start.elapsed()))).collect();
        while pool.stats().waiting > 1 {
            std::thread::sleep(Duration::from_micros(50));
        }
        ns[5] += (start.elapsed() - wait).as_nanos() as f64 / waiters as f64;
        drop((rest, half, waiting));
    }
    let [join, alloc, free, leave, serve, expire] = ns.map(|ns| ns / rounds as f64);
    println!(
        "{waiters:>6} waiters: join {join:.0} alloc {alloc:.0} free {free:.0} leave {leave:.0} serve {serve:.0} expire {expire:.0} ns"
    );
}

fn idle(seconds: u64, held: bool) {
    let pool = Pool::host(Config::new("1 MiB").slabs(SlabPolicy::Single)).unwrap();
    let all = pool.alloc(Request::bytes(1 << 20)).unwrap();
    let hold = held.then(|| all.hold());
    let mut all = Some(all);
    if held {
        all = None
    }
    std::thread::scope(|scope| {
        for _ in 0..100 {
            let pool = &pool;
            scope.spawn(move || pool.alloc(Request::bytes(1000).wait(Duration::from_secs(seconds + 2))).map(drop));
        }
        std::thread::sleep(Duration::from_secs(1));
        let before = cpu();
        std::thread::sleep(Duration::from_secs(seconds));
        println!("100 blocking waiters, held {held}: {:?} CPU in {seconds} s", cpu() - before);
        drop((all, hold));
    });
}

fn main() {
    for waiters in [1, 10, 100, 1_000, 10_000] {
        costs(waiters);
    }
    idle(5, false);
    idle(5, true);
}
