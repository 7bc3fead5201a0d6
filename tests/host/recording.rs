//! Recording: what a live pool is asked for comes back as a trace.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::trace::{Event, Trace};
use tensorpool::{Config, ErrorKind, Host, Pool, Request, SlabPolicy};

/// A file in memory; fails once it has taken so many bytes.
#[derive(Clone)]
struct Paper {
    text: Arc<Mutex<Vec<u8>>>,
    most_bytes: usize,
}

impl Paper {
    fn new(most_bytes: usize) -> Self {
        Self { text: Arc::default(), most_bytes }
    }

    fn bytes(&self) -> usize {
        self.text.lock().unwrap().len()
    }

    fn trace(&self) -> Trace {
        Trace::parse(&self.text.lock().unwrap(), "paper.trace").unwrap().remove(0)
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = self.text.lock().unwrap();
        if text.len() + bytes.len() > self.most_bytes {
            return Err(io::Error::other("the paper is full"));
        }
        text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pool(budget_bytes: u64) -> Pool<Host> {
    Pool::host(Config::new(budget_bytes).slabs(SlabPolicy::Single)).unwrap()
}

#[test]
fn everything_is_in_the_trace_in_order() {
    let (pool, paper) = (pool(16 << 10), Paper::new(usize::MAX));
    let before = pool.alloc(Request::bytes(100)).unwrap();
    let recording = pool.record_to(paper.clone()).unwrap();
    let weights = pool.alloc(Request::bytes(1000).label("weights\nof \\ layer 1")).unwrap();
    pool.mark_step();
    let small = pool.alloc(Request::bytes(7)).unwrap();
    assert!(pool.alloc(Request::bytes(1 << 20).label("too much")).is_err());
    assert!(pool.alloc(Request::bytes(16 << 10).wait(Duration::from_millis(1))).is_err());
    let nothing = pool.alloc(Request::bytes(0)).unwrap();
    drop((before, small, nothing));
    let both = pool.alloc_all(&[Request::bytes(2000), Request::bytes(0), Request::bytes(3)]).unwrap();
    pool.mark_step();
    drop(both);
    recording.finish().unwrap();
    drop(weights);
    let trace = paper.trace();
    let text: Vec<String> = trace
        .events()
        .iter()
        .map(|event| match *event {
            Event::Alloc { id, bytes, label } => format!("a {id} {bytes} {}", trace.label(label)),
            Event::Free { id } => format!("f {id}"),
            Event::Step { number } => format!("step {number}"),
            Event::Failure { bytes, label } => format!("failure {bytes} {}", trace.label(label)),
            _ => unreachable!(),
        })
        .collect();
    let expected = [
        "a 0 1000 weights\nof \\ layer 1",
        "step 1",
        "a 1 7 ",
        "failure 1048576 too much",
        "failure 16384 ",
        "f 1",
        "a 2 2000 ",
        "a 3 3 ",
        "step 2",
        "f 2",
        "f 3",
    ];
    assert_eq!(text, expected);
    assert_eq!(trace.header_of("backend"), Some("host"));
    pool.check();
}

/// A program with threads: whatever the order was, it is one that can be replayed, and has the pool's own peak.
#[test]
fn threads_record_one_order() {
    let (pool, paper) = (pool(4 << 20), Paper::new(usize::MAX));
    let recording = pool.record_to(paper.clone()).unwrap();
    let error = pool.record_to(io::sink()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    thread::scope(|scope| {
        for seed in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let mut blocks = Vec::new();
                for _ in 0..5000 {
                    if rng.random_bool(0.5) {
                        blocks.extend(pool.alloc(Request::bytes(rng.random_range(1..5000))));
                    } else if !blocks.is_empty() {
                        blocks.swap_remove(rng.random_range(0..blocks.len()));
                    }
                }
            });
        }
    });
    assert!(paper.bytes() > 10_000, "events are handed on while the recording goes on");
    let stats = pool.stats();
    recording.finish().unwrap();
    let trace = paper.trace();
    assert_eq!((trace.allocations(), trace.frees()), (stats.allocations, stats.allocations));
    assert_eq!(trace.live_peak_bytes(), stats.live_peak_bytes);
    // The lists are there again.
    drop(pool.alloc(Request::bytes(64)).unwrap());
    drop(pool.alloc(Request::bytes(64)).unwrap());
    assert_eq!(pool.stats().allocations_from_lists, 1);
    pool.check();
}

#[test]
fn a_writer_that_fails_harms_nobody() {
    let (pool, paper) = (pool(1 << 20), Paper::new(20_000));
    let recording = pool.record_to(paper.clone()).unwrap();
    for _ in 0..10_000 {
        pool.alloc(Request::bytes(1000)).unwrap();
    }
    let error = recording.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::File);
    assert!(error.to_string().contains("the paper is full"), "{error}");
    assert_eq!(pool.stats().allocations, 10_000);
    // And a new one may begin; dropping it ends it too.
    let paper = Paper::new(usize::MAX);
    drop(pool.record_to(paper.clone()).unwrap());
    pool.alloc(Request::bytes(1)).unwrap();
    assert_eq!(paper.trace().allocations(), 0);
    let error = pool.record_to_file("/nowhere/at/all.trace").map(drop).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all.trace"), "{error}");
    pool.check();
}
