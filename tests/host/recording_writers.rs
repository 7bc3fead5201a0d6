//! Recordings whose writers are slow, panic, fail, or call the pool.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::trace::{RecordOptions, Recording, Trace};
use tensorpool::{Block, Config, ErrorKind, Host, Movable, Pool, Request, SlabPolicy};

use crate::support::until;

/// Longer than anything here takes, and short enough that a test that hangs fails.
const LONG: Duration = Duration::from_secs(60);

fn pool(budget_bytes: u64) -> Pool<Host> {
    Pool::host(Config::new(budget_bytes).slabs(SlabPolicy::Single)).unwrap()
}

/// A small record, of about 40 events, that waits or drops.
fn small(is_lossy: bool) -> RecordOptions {
    RecordOptions::new().buffer_bytes(2000).lossy(is_lossy)
}

/// What was written.
type Text = Arc<Mutex<Vec<u8>>>;

/// Keeps what is written, and calls a closure before each piece.
struct Writer<F> {
    text: Text,
    before: F,
}

impl<F: FnMut() + Send> Writer<F> {
    fn new(before: F) -> (Self, Text) {
        let text = Text::default();
        (Self { text: Arc::clone(&text), before }, text)
    }
}

impl<F: FnMut() + Send> Write for Writer<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.before)();
        self.text.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn trace(text: &Mutex<Vec<u8>>) -> Trace {
    Trace::parse(&text.lock().unwrap(), "paper.trace").unwrap().remove(0)
}

/// A writer that says when it is called, and returns when it is told to, or when the other ends are dropped.
fn gated() -> (Writer<impl FnMut() + Send>, Text, Receiver<()>, Sender<()>) {
    let (says, called) = channel();
    let (opens, gate) = channel::<()>();
    let (writer, text) = Writer::new(move || {
        let _ = says.send(());
        let _ = gate.recv();
    });
    (writer, text, called, opens)
}

/// Allocates and frees until the writer is called, on a thread that then sits in the writer.
fn occupy<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    pool: &'scope Pool<Host>,
    called: &Receiver<()>,
) -> thread::ScopedJoinHandle<'scope, u64> {
    let (stops, stopped) = channel();
    let handle = scope.spawn(move || {
        let mut pairs = 0;
        while stopped.try_recv().is_err() {
            drop(pool.alloc(Request::bytes(100)).unwrap());
            pairs += 1;
        }
        pairs
    });
    called.recv_timeout(LONG).unwrap();
    stops.send(()).unwrap();
    handle
}

/// Two lifetimes of 64 KiB as planned steps, or none.
fn planned(pool: &Pool<Host>, is_planned: bool) -> Option<impl Sized> {
    is_planned.then(|| {
        let step = [Lifetime::new(0, 1, 65536)];
        let plan = plan::solve(&step, &Options::new().align(64)).unwrap();
        pool.follow_plan(&step, &plan).unwrap()
    })
}

#[test]
fn a_writer_that_panics_ends_the_record_and_nothing_else() {
    for is_planned in [false, true] {
        let pool = pool(1 << 20);
        let planning = planned(&pool, is_planned);
        let (writer, _) = Writer::new(|| panic!("the disk is gone"));
        let recording = pool.record_to(writer).unwrap();
        let mut most_bytes = 0;
        for _ in 0..100_000 {
            pool.mark_step();
            drop(pool.alloc(Request::bytes(65536).label("x")).unwrap());
            most_bytes = most_bytes.max(pool.stats().metadata_bytes);
        }
        assert!(most_bytes < 1 << 20, "{most_bytes} bytes for a record of nothing");
        let error = recording.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::File);
        assert!(error.to_string().contains("panicked"), "{error}");
        drop(planning);
        let stats = pool.stats();
        assert_eq!((stats.blocks, stats.used_bytes, stats.live_bytes, stats.cached_bytes), (0, 0, 0, 0));
        pool.alloc(Request::bytes(1 << 20)).unwrap();
        pool.check();
    }
}

/// The text of a writer's error is the caller's code: it may panic, and the pool can be recorded again.
#[test]
fn an_error_that_panics_when_it_is_told_ends_the_record_and_nothing_else() {
    #[derive(Debug)]
    struct Untold;
    impl std::fmt::Display for Untold {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("as the test wants")
        }
    }
    impl std::error::Error for Untold {}
    struct Bad;
    impl Write for Bad {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other(Untold))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let pool = pool(1 << 20);
    for is_finished in [false, true] {
        let recording = pool.record_to(Bad).unwrap();
        drop(pool.alloc(Request::bytes(1000)).unwrap());
        if is_finished {
            let error = recording.finish().unwrap_err();
            assert!(error.to_string().contains("the writer's error has panicked"), "{error}");
        } else {
            drop(recording);
        }
    }
    pool.record_to(io::sink()).unwrap().finish().unwrap();
    pool.check();
}

/// The writer of a recording that is refused may panic in its drop: the caller gets the error.
#[test]
fn a_refused_writer_that_panics_in_its_drop_is_an_error() {
    struct Bad;
    impl Write for Bad {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Drop for Bad {
        fn drop(&mut self) {
            std::panic::panic_any(());
        }
    }
    let pool = pool(1 << 20);
    let recording = pool.record_to(io::sink()).unwrap();
    assert_eq!(pool.record_to(Bad).unwrap_err().kind(), ErrorKind::Invalid);
    drop(pool.alloc(Request::bytes(1000)).unwrap());
    assert_eq!(recording.finish().unwrap().events, 2);
    pool.check();
}

/// A payload that panics when it is dropped, a writer that does, and a recording that is dropped instead of finished.
#[test]
fn whatever_panics_in_a_writer_stays_there() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                // It takes no memory, so none is leaked with it.
                std::panic::panic_any(());
            }
        }
    }
    struct Bad;
    impl Write for Bad {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            std::panic::panic_any(Bomb)
        }
        fn flush(&mut self) -> io::Result<()> {
            panic!("flush")
        }
    }
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("drop");
        }
    }
    let pool = pool(1 << 20);
    for events in [0, 100, 10_000] {
        let recording = pool.record_to(Bad).unwrap();
        for _ in 0..events {
            drop(pool.alloc(Request::bytes(1000)).unwrap());
        }
        if events == 100 {
            drop(recording);
        } else {
            assert_eq!(recording.finish().unwrap_err().kind(), ErrorKind::File);
        }
    }
    pool.check();
    assert_eq!(pool.stats().used_bytes, 0);
}

/// While a thread sits in the writer, drops of a full record go through at once, and allocations do if it is lossy.
#[test]
fn drops_never_wait_for_the_writer() {
    for is_planned in [false, true] {
        let pool = pool(4 << 20);
        let planning = planned(&pool, is_planned);
        let (writer, text, called, opens) = gated();
        let recording = pool.record_with(writer, &small(true)).unwrap();
        let recorded = thread::scope(|scope| {
            let held: Vec<_> = (0..10).map(|_| pool.alloc(Request::bytes(1000)).unwrap()).collect();
            let writes = occupy(scope, &pool, &called);
            let before_bytes = pool.stats().metadata_bytes;
            drop(held);
            for _ in 0..100_000 {
                pool.mark_step();
                drop(pool.alloc(Request::bytes(65536)).unwrap());
                assert!(pool.alloc(Request::bytes(1 << 30)).is_err());
            }
            // 48 bytes for each free, and what a vector has in reserve.
            let grown_bytes = pool.stats().metadata_bytes.saturating_sub(before_bytes);
            assert!(grown_bytes < 200_000, "{grown_bytes}");
            drop(opens);
            writes.join().unwrap();
            recording.finish().unwrap()
        });
        let trace = trace(&text);
        assert!(recorded.events_dropped > 250_000, "{recorded:?}");
        assert_eq!(trace.events_dropped(), recorded.events_dropped);
        assert_eq!(trace.events().len() as u64, recorded.events);
        // What is in the trace is whole.
        assert_eq!((trace.frees(), trace.live_at_end_bytes()), (trace.allocations(), 0));
        drop(planning);
        pool.check();
    }
}

/// The program may hold far more blocks than the record has room for events: their frees are all there.
#[test]
fn every_recorded_block_has_room_for_its_free() {
    let pool = pool(16 << 20);
    let (writer, text, called, opens) = gated();
    let recording = pool.record_with(writer, &small(true)).unwrap();
    thread::scope(|scope| {
        let writes = occupy(scope, &pool, &called);
        // From here on each call of the writer is let through.
        drop(opens);
        writes.join().unwrap();
    });
    let held: Vec<_> = (0..10_000).map(|_| pool.alloc(Request::bytes(1000)).unwrap()).collect();
    drop(held);
    let recorded = recording.finish().unwrap();
    let trace = trace(&text);
    assert!(trace.allocations() >= 10_000, "{}", trace.allocations());
    assert_eq!((trace.frees(), recorded.events_dropped), (trace.allocations(), 0));
}

/// An allocation waits while the record is full, a drop does not, and nothing is missing in the end.
#[test]
fn allocations_wait_for_room_and_drops_do_not() {
    let pool = pool(1 << 20);
    let (writer, text, called, opens) = gated();
    let recording = pool.record_with(writer, &small(false)).unwrap();
    let done = Mutex::new(0u64);
    thread::scope(|scope| {
        let held: Vec<_> = (0..10).map(|_| pool.alloc(Request::bytes(1000)).unwrap()).collect();
        let writes = occupy(scope, &pool, &called);
        let other = scope.spawn(|| {
            for _ in 0..1000 {
                drop(pool.alloc(Request::bytes(10)).unwrap());
                *done.lock().unwrap() += 1;
            }
        });
        // It stops after so many pairs as there is room for.
        let mut before = 0;
        until(|| {
            thread::sleep(Duration::from_millis(200));
            let now = *done.lock().unwrap();
            now > 0 && std::mem::replace(&mut before, now) == now
        });
        assert!(before < 50, "{before}");
        drop(held);
        thread::sleep(Duration::from_millis(100));
        assert_eq!(*done.lock().unwrap(), before, "only a write makes room");
        drop(opens);
        other.join().unwrap();
        writes.join().unwrap();
    });
    assert_eq!(recording.finish().unwrap().events_dropped, 0);
    let trace = trace(&text);
    assert_eq!(trace.allocations(), pool.stats().allocations);
    assert_eq!(trace.frees(), trace.allocations());
    pool.check();
}

#[test]
fn a_second_recording_is_not_ended_by_the_first() {
    struct SlowFlush(Sender<()>);
    impl Write for SlowFlush {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            let _ = self.0.send(());
            thread::sleep(Duration::from_millis(200));
            Ok(())
        }
    }
    let pool = pool(1 << 20);
    let (says, flushes) = channel();
    let first = pool.record_to(SlowFlush(says)).unwrap();
    drop(pool.alloc(Request::bytes(100)).unwrap());
    let ends = thread::spawn(move || first.finish().unwrap());
    flushes.recv_timeout(LONG).unwrap();
    let text = Text::default();
    let since = Instant::now();
    let second = loop {
        match pool.record_to(Writer { text: Arc::clone(&text), before: || {} }) {
            Ok(recording) => break recording,
            Err(error) => assert!(since.elapsed() < LONG, "{error}"),
        }
    };
    drop(pool.alloc(Request::bytes(200)).unwrap());
    assert_eq!(ends.join().unwrap().events, 2);
    for _ in 0..3 {
        drop(pool.alloc(Request::bytes(300)).unwrap());
    }
    assert_eq!(pool.record_to(io::sink()).map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(second.finish().unwrap().events, 8);
    assert_eq!(trace(&text).allocations(), 4);
    pool.record_to(io::sink()).unwrap().finish().unwrap();
}

/// From its writer a recording cannot begin, nor be finished; allocations are recorded, and trimming works.
#[test]
fn a_writer_may_call_the_pool() {
    let pool = pool(1 << 20);
    let recording = Arc::new(Mutex::new(None::<Recording<Host>>));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (inner, sees, mine) = (pool.clone(), Arc::clone(&seen), Arc::clone(&recording));
    let (writer, text) = Writer::new(move || {
        let again = inner.record_to(io::sink()).map(drop).unwrap_err().kind();
        let to_file = inner.record_to_file("/nowhere/at/all").map(drop).unwrap_err().kind();
        for _ in 0..1000 {
            drop(inner.alloc(Request::bytes(77)).unwrap());
            inner.mark_step();
        }
        inner.trim();
        let taken = mine.lock().unwrap().take();
        let finished = taken.map(|recording| recording.finish().unwrap_err().kind());
        sees.lock().unwrap().push((again, to_file, finished));
    });
    *recording.lock().unwrap() = Some(pool.record_with(writer, &small(false)).unwrap());
    for _ in 0..1000 {
        drop(pool.alloc(Request::bytes(1000)).unwrap());
    }
    let invalid = ErrorKind::Invalid;
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], (invalid, invalid, Some(invalid)));
    // That ended it: the thread that was in the writer has written the rest.
    assert!(seen[1..].iter().all(|seen| *seen == (invalid, invalid, None)), "{seen:?}");
    let trace = trace(&text);
    assert!(trace.events_dropped() > 0 && trace.allocations() > 0);
    pool.record_to(io::sink()).unwrap().finish().unwrap();
    pool.check();
}

/// The thread that is in the writer ends a recording that is dropped meanwhile.
#[test]
fn dropping_a_recording_does_not_wait_for_the_writer() {
    let pool = pool(1 << 20);
    let (writer, text, called, opens) = gated();
    let recording = pool.record_to(writer).unwrap();
    let pairs = thread::scope(|scope| {
        let writes = occupy(scope, &pool, &called);
        drop(pool.alloc(Request::bytes(5)).unwrap());
        drop(recording);
        // Not recorded any more.
        drop(pool.alloc(Request::bytes(5)).unwrap());
        assert_eq!(pool.record_to(io::sink()).map(drop).unwrap_err().kind(), ErrorKind::Invalid);
        drop(opens);
        writes.join().unwrap()
    });
    let trace = trace(&text);
    // The last pair of that thread is after the end, or was under way.
    assert!((pairs..=pairs + 1).contains(&trace.allocations()), "{pairs}, {}", trace.allocations());
    pool.record_to(io::sink()).unwrap().finish().unwrap();
}

#[test]
fn finishing_waits_for_the_writer() {
    let pool = pool(1 << 20);
    let (writer, text, called, opens) = gated();
    let recording = pool.record_to(writer).unwrap();
    thread::scope(|scope| {
        let writes = occupy(scope, &pool, &called);
        let finishes = scope.spawn(|| recording.finish().unwrap());
        thread::sleep(Duration::from_millis(50));
        assert!(!finishes.is_finished());
        drop(opens);
        writes.join().unwrap();
        assert_eq!(finishes.join().unwrap().events, trace(&text).events().len() as u64);
    });
}

/// The last bytes of a packed file are written when it ends, and what becomes of them is not lost.
#[cfg(target_os = "linux")]
#[test]
fn finish_reports_what_the_end_of_a_file_reports() {
    let path = std::env::temp_dir().join(format!("tensorpool-full-{}.trace.gz", std::process::id()));
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let pool = pool(1 << 20);
    let recording = pool.record_to_file(&path).unwrap();
    let error = recording.finish().unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(error.kind(), ErrorKind::File);
}

/// A recording that is refused leaves a file of that name as it is.
#[test]
fn a_refused_recording_creates_no_file() {
    let path = std::env::temp_dir().join(format!("tensorpool-twice-{}.trace", std::process::id()));
    let pool = pool(1 << 20);
    let recording = pool.record_to_file(&path).unwrap();
    drop(pool.alloc(Request::bytes(9)).unwrap());
    assert_eq!(pool.record_to_file(&path).map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(recording.finish().unwrap().events, 2);
    let trace = Trace::read(&path).unwrap().remove(0);
    std::fs::remove_file(&path).unwrap();
    assert_eq!((trace.allocations(), trace.frees()), (1, 1));
    // Nor does one whose writer fails, or panics, leave the pool recorded.
    assert!(pool.record_to_file("/nowhere/at/all.trace").is_err());
    pool.record_to(io::sink()).unwrap().finish().unwrap();
}

/// Random programs with everything that may be recorded, on a record that is nearly always full: what is in the trace is a trace,
/// and the pool's books balance.
#[test]
fn a_full_record_of_any_program_is_whole() {
    for seed in 0..40 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let is_lossy = rng.random_bool(0.7);
        let pool = pool(1 << 20);
        let _planning = if rng.random_bool(0.5) { Some(pool.auto_plan().unwrap()) } else { None };
        let (writer, text) = Writer::new(|| thread::sleep(Duration::from_micros(100)));
        let options = RecordOptions::new().buffer_bytes(rng.random_range(0..3000)).lossy(is_lossy);
        let recording = pool.record_with(writer, &options).unwrap();
        thread::scope(|scope| {
            for thread in 0..3 {
                let (pool, mut rng) = (&pool, ChaCha8Rng::seed_from_u64(seed << 8 | thread));
                scope.spawn(move || any_program(pool, &mut rng));
            }
        });
        let (allocations, planned) = (pool.stats().allocations, pool.stats().allocations_planned);
        let recorded = recording.finish().unwrap();
        let trace = trace(&text);
        assert_eq!((trace.frees(), trace.live_at_end_bytes()), (trace.allocations(), 0), "seed {seed}");
        assert_eq!((trace.events().len() as u64, trace.events_dropped()), (recorded.events, recorded.events_dropped));
        // Planned blocks of a batch that are taken back are in the trace with their frees.
        assert!(is_lossy || trace.allocations() >= allocations, "seed {seed}: {planned} planned");
        assert!(is_lossy || recorded.events_dropped == 0, "seed {seed}: {recorded:?}");
        pool.check();
        assert_eq!(pool.stats().used_bytes, 0);
    }
}

fn any_program(pool: &Pool<Host>, rng: &mut ChaCha8Rng) {
    let mut blocks: Vec<Block<Host>> = Vec::new();
    for step in 0..200 {
        let mut request = || {
            let request =
                Request::bytes(rng.random_range(0..20_000)).wait(Duration::from_micros(rng.random_range(0..300)));
            if rng.random_bool(0.5) { request.label(format!("label {step}")) } else { request }
        };
        let (one, other, third) = (request(), request(), request());
        match rng.random_range(0..10) {
            0..3 => blocks.extend(pool.alloc(one)),
            3 => blocks.extend(pool.alloc_all(&[one, other, third]).into_iter().flatten()),
            4 => blocks.extend(pollster::block_on(pool.alloc_async(one))),
            5 => {
                // Polled once, or never, and dropped.
                let mut future = Box::pin(pool.alloc_async(one));
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                if let std::task::Poll::Ready(Ok(block)) = future.as_mut().poll(&mut context) {
                    blocks.push(block);
                }
            }
            6 => drop(pool.compact(blocks.iter_mut().map(|block| block as &mut dyn Movable<Host>)).unwrap()),
            7 => pool.mark_step(),
            _ => {
                for _ in 0..rng.random_range(0..8) {
                    if !blocks.is_empty() {
                        blocks.swap_remove(rng.random_range(0..blocks.len()));
                    }
                }
            }
        }
    }
}

/// The pool may be dropped, and closed, while it is recorded.
#[test]
fn a_recording_outlives_its_pool() {
    let (writer, text) = Writer::new(|| {});
    let first = pool(1 << 20);
    let recording = first.record_to(writer).unwrap();
    let block = first.alloc(Request::bytes(9)).unwrap();
    drop(first.close());
    drop(block);
    assert_eq!(recording.finish().unwrap().events, 2);
    assert_eq!(trace(&text).frees(), 1);
    // What an unwinding program leaves behind is written too.
    let (writer, text) = Writer::new(|| {});
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let pool = pool(1 << 20);
        let _recording = pool.record_to(writer).unwrap();
        let _block = pool.alloc(Request::bytes(9)).unwrap();
        std::panic::resume_unwind(Box::new("the program"));
    }));
    assert!(unwound.is_err());
    assert_eq!((trace(&text).allocations(), trace(&text).frees()), (1, 1));
}
