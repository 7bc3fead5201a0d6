//! Backends that call their pool back, or panic: no call hangs, no drop panics, and no memory is lost.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use tensorpool::backend::{CopyDst, CopySrc, HostSlab, PageOptions, Point, Span, SpanMut};
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::{Backend, Config, Error, ErrorKind, Host, Limits, Pool, Request, Result, SlabPolicy};

const KIB: u64 = 1 << 10;
const LONG: Duration = Duration::from_secs(60);

/// The calls of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Name,
    CreateSlab,
    DropSlab,
    Commit,
    Decommit,
    Upload,
    Download,
    Fill,
    Zero,
    Copy,
    Check,
    Recorded,
    Completed,
    Flush,
    Complete,
}

/// The pool that a backend calls. Emptied at the end: a backend that has a handle of its own pool keeps it alive.
type Inside = Arc<Mutex<Option<Pool<Hooked>>>>;

fn pool_of(inside: &Inside) -> Option<Pool<Hooked>> {
    inside.lock().unwrap().clone()
}

type Hook = Arc<dyn Fn(Call) + Send + Sync>;

/// Host memory that says what it is called for.
struct Hooked {
    hook: Hook,
    /// Points only pass when this is set.
    is_done: Arc<AtomicBool>,
}

struct HookedSlab {
    slab: HostSlab,
    hook: Hook,
}

impl Drop for HookedSlab {
    fn drop(&mut self) {
        (self.hook)(Call::DropSlab);
    }
}

impl Backend for Hooked {
    type Slab = HookedSlab;

    fn name(&self) -> &str {
        (self.hook)(Call::Name);
        "hooked"
    }

    fn limits(&self) -> Limits {
        Host.limits()
    }

    fn create_slab(&self, bytes: u64) -> Result<HookedSlab> {
        (self.hook)(Call::CreateSlab);
        Ok(HookedSlab { slab: Host.create_slab(bytes)?, hook: Arc::clone(&self.hook) })
    }

    fn commit_granule_bytes(&self) -> Option<u64> {
        Host.commit_granule_bytes()
    }

    fn reserve_slab(&self, bytes: u64, pages: PageOptions) -> Result<HookedSlab> {
        Ok(HookedSlab { slab: Host.reserve_slab(bytes, pages)?, hook: Arc::clone(&self.hook) })
    }

    fn commit(&self, slab: &HookedSlab, span: SpanMut<'_>, touches: bool) -> Result<()> {
        (self.hook)(Call::Commit);
        Host.commit(&slab.slab, span, touches)
    }

    fn decommit(&self, slab: &HookedSlab, span: SpanMut<'_>) -> Result<()> {
        (self.hook)(Call::Decommit);
        Host.decommit(&slab.slab, span)
    }

    fn upload(&self, slab: &HookedSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        (self.hook)(Call::Upload);
        Host.upload(&slab.slab, span, at, bytes)
    }

    fn download(&self, slab: &HookedSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        (self.hook)(Call::Download);
        Host.download(&slab.slab, span, at, bytes)
    }

    fn fill(&self, slab: &HookedSlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
        (self.hook)(Call::Fill);
        Host.fill(&slab.slab, span, len, pattern)
    }

    fn zero_if_free(&self, slab: &HookedSlab, span: SpanMut<'_>, len: u64) -> Result<bool> {
        (self.hook)(Call::Zero);
        Host.fill(&slab.slab, span, len, &[0]).map(|()| true)
    }

    fn copy(&self, from: CopySrc<'_, HookedSlab>, to: CopyDst<'_, HookedSlab>, len: u64) -> Result<()> {
        (self.hook)(Call::Copy);
        let from = CopySrc { slab: &from.slab.slab, span: from.span, at: from.at };
        Host.copy(from, CopyDst { slab: &to.slab.slab, span: to.span, at: to.at }, len)
    }

    fn check(&self) -> Result<()> {
        (self.hook)(Call::Check);
        Ok(())
    }

    fn recorded(&self) -> Point {
        (self.hook)(Call::Recorded);
        1
    }

    fn completed(&self) -> Point {
        (self.hook)(Call::Completed);
        u64::from(self.is_done.load(Ordering::SeqCst))
    }

    fn flush(&self) -> Result<()> {
        (self.hook)(Call::Flush);
        Ok(())
    }

    fn complete(&self, _: Point) -> Result<()> {
        (self.hook)(Call::Complete);
        Ok(())
    }
}

fn hooked(config: &Config, hook: impl Fn(Call) + Send + Sync + 'static) -> (Pool<Hooked>, Arc<AtomicBool>) {
    let is_done = Arc::new(AtomicBool::new(true));
    let backend = Hooked { hook: Arc::new(hook), is_done: Arc::clone(&is_done) };
    (Pool::with_backend(backend, config).unwrap(), is_done)
}

/// Runs on a thread of its own, and fails if that does not end.
fn in_time<R: Send + 'static>(what: &str, run: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(run()));
    receiver.recv_timeout(LONG).unwrap_or_else(|_| panic!("{what} hangs, or has panicked"))
}

thread_local! { static IS_INSIDE: Cell<bool> = const { Cell::new(false) } }

/// What a program does to a pool, so that every call of its backend is made.
fn everything(pool: &Pool<Hooked>, is_done: &AtomicBool) {
    let half = || Request::bytes(32 * KIB).label("half");
    let step: Vec<_> = (0..4).map(|index| Lifetime::new(index, 9, 4 * KIB)).collect();
    let plan = plan::solve(&step, &Options::new().align(64)).unwrap();
    for round in 0..4 {
        is_done.store(round % 2 == 0, Ordering::SeqCst);
        let planned_steps = if round < 2 { pool.follow_plan(&step, &plan) } else { pool.auto_plan() };
        for _ in 0..3 {
            pool.mark_step();
            let mut blocks: Vec<_> = (0..4).filter_map(|_| pool.alloc(Request::bytes(4 * KIB)).ok()).collect();
            if let [first, second, ..] = &mut blocks[..] {
                let _ = (first.upload(0, &[1; 8]), second.copy_from(0, first, 0, 8), first.fill(8, &[1]));
                let _ = second.download(0, &mut [0; 8]);
                drop(first.hold());
            }
            drop(blocks);
            let _ = pool.alloc(half().wait(Duration::from_millis(2))).map(drop);
        }
        drop(planned_steps);
        let small: Vec<_> = (0..8).filter_map(|_| pool.alloc(Request::bytes(4 * KIB)).ok()).collect();
        let mut kept = small.into_iter().skip(4).collect::<Vec<_>>();
        let _ = pool.compact(&mut kept);
        let _ = pool.alloc_all(&[half(), half()]).map(drop);
        drop(kept);
        let late = pool.alloc_async(half().wait(Duration::from_millis(2)));
        let _ = pollster::block_on(late).map(drop);
        let _ = (pool.alloc(Request::bytes(65 * KIB)).map(drop), pool.trim(), pool.stats());
    }
    is_done.store(true, Ordering::SeqCst);
    pool.trim();
}

fn configs() -> impl Iterator<Item = Config> {
    let policies = [
        SlabPolicy::Expanding,
        SlabPolicy::Growing,
        SlabPolicy::Fixed(16 * KIB),
        SlabPolicy::PerBlock,
        SlabPolicy::Single,
    ];
    policies
        .into_iter()
        .flat_map(|policy| [false, true].map(|zeroes| Config::new(64 * KIB).slabs(policy).zero_on_free(zeroes)))
}

/// A backend may call its pool from wherever its documentation says so: everywhere but in `recorded`.
#[test]
fn a_backend_may_call_its_pool() {
    for config in configs() {
        let cell: Inside = Arc::default();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (inside, seen) = (Arc::clone(&cell), Arc::clone(&calls));
        let (pool, is_done) = hooked(&config, move |call| {
            if call == Call::Recorded || IS_INSIDE.get() {
                return;
            }
            let Some(pool) = pool_of(&inside) else { return };
            IS_INSIDE.set(true);
            seen.lock().unwrap().push(call);
            let small = pool.alloc(Request::bytes(100).zeroed());
            let large = pool.alloc(Request::bytes(20 * KIB).label("large"));
            let errors = [&small, &large].map(|result| result.as_ref().err().map(Error::kind));
            let is_expected = |error: &ErrorKind| match error {
                ErrorKind::Full | ErrorKind::Fragmented => true,
                kind => matches!(call, Call::CreateSlab | Call::Commit) && *kind == ErrorKind::Invalid,
            };
            assert!(errors.iter().flatten().all(is_expected), "{call:?}: {errors:?}");
            drop((small, large));
            pool.trim();
            pool.stats();
            pool.mark_step();
            IS_INSIDE.set(false);
        });
        let pool = in_time(&format!("{config:?}"), move || {
            *cell.lock().unwrap() = Some(pool.clone());
            everything(&pool, &is_done);
            cell.lock().unwrap().take();
            pool
        });
        pool.check();
        assert_eq!((pool.stats().blocks, pool.stats().used_bytes), (0, 0));
        let calls = calls.lock().unwrap();
        use Call::*;
        let grows = if pool.slab_policy() == SlabPolicy::Expanding { Commit } else { CreateSlab };
        let wanted = [grows, Upload, Download, Fill, Copy, Check, Completed, Flush];
        assert_eq!(wanted.iter().find(|call| !calls.contains(call)), None, "{config:?}");
    }
}

/// The request that a slab is created for is served; the one inside is served from what is there, or says what is wrong.
#[test]
fn an_allocation_inside_create_slab_that_needs_a_slab_is_an_error() {
    let cell: Inside = Arc::default();
    let inside = Arc::clone(&cell);
    let errors = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&errors);
    let (pool, _) = hooked(&Config::new(64 * KIB).slabs(SlabPolicy::Fixed(8 * KIB)), move |call| {
        if let (Call::CreateSlab, Some(pool)) = (call, pool_of(&inside)) {
            let mut seen = seen.lock().unwrap();
            for request in [
                Request::bytes(100),
                Request::bytes(5000).wait(LONG),
                Request::bytes(64).without(tensorpool::Fallback::Grow),
            ] {
                seen.push(pool.alloc(request).map(drop).map_err(|error| error.kind() == ErrorKind::Invalid));
            }
        }
    });
    *cell.lock().unwrap() = Some(pool.clone());
    let block = in_time("alloc inside create_slab", {
        let pool = pool.clone();
        move || pool.alloc(Request::bytes(1000)).unwrap()
    });
    assert_eq!(*errors.lock().unwrap(), [Err(true), Err(true), Err(false)]);
    errors.lock().unwrap().clear();
    let other = pool.alloc(Request::bytes(8000)).unwrap();
    assert_eq!(errors.lock().unwrap()[0], Ok(()), "there was room in the first slab");
    assert_eq!(errors.lock().unwrap()[1], Ok(()), "there was room in the first slab");
    drop((block, other));
    pool.check();
    cell.lock().unwrap().take();
}

/// The bytes of the slab are reserved until its drop has ended: an allocation inside does not wait for that.
#[test]
fn an_allocation_inside_the_drop_of_a_slab_does_not_wait_for_its_bytes() {
    let cell: Inside = Arc::default();
    let inside = Arc::clone(&cell);
    let found = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&found);
    let (pool, _) = hooked(&Config::new(64 * KIB).slabs(SlabPolicy::Single), move |call| {
        if let (Call::DropSlab, Some(pool)) = (call, pool_of(&inside)) {
            let all = pool.alloc(Request::bytes(64 * KIB));
            seen.lock().unwrap().push(all.unwrap_err().is_no_room());
        }
    });
    *cell.lock().unwrap() = Some(pool.clone());
    let pool = in_time("alloc inside the drop of a slab", move || {
        assert_eq!(pool.trim(), 64 * KIB);
        pool
    });
    assert_eq!(*found.lock().unwrap(), [true]);
    assert!(pool.alloc(Request::bytes(64 * KIB)).is_ok());
    pool.check();
    cell.lock().unwrap().take();
}

/// The backend panics in its nth call, or in every nth one, also while blocks are dropped by a caller that panics: what unwinds
/// reaches the caller, but never out of a drop, and all memory is there afterwards.
#[test]
fn a_backend_that_panics_loses_nothing() {
    let once = (1..30).chain((30..1500).step_by(31)).map(|nth| (nth, false));
    let all: Vec<_> = once.chain((1..60).map(|nth| (nth, true))).collect();
    for (config, &(nth, is_again)) in configs().flat_map(|config| all.iter().map(move |which| (config.clone(), which)))
    {
        let name = format!("{config:?}, call {nth}, again: {is_again}");
        // Not while the pool is opened.
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let counter = Arc::clone(&left);
        let (pool, is_done) = hooked(&config, move |call| {
            let is_it = counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1);
            if is_it {
                counter.store(if is_again { nth } else { 0 }, Ordering::SeqCst);
                panic!("{call:?} panics, as the test wants");
            }
        });
        let mut blocks: Vec<_> = (0..3).map(|_| pool.alloc(Request::bytes(4 * KIB).label("a")).unwrap()).collect();
        for _ in 0..if is_again { 10 } else { 1 } {
            let moving = blocks.pop();
            left.store(nth, Ordering::SeqCst);
            let caller = catch_unwind(AssertUnwindSafe(|| {
                let _dropped_by_the_panic = moving;
                everything(&pool, &is_done);
                panic!("the caller's own");
            }));
            assert!(caller.is_err());
        }
        left.store(1, Ordering::SeqCst);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(blocks)));
        assert!(dropped.is_ok(), "{name}: a drop has panicked");
        left.store(0, Ordering::SeqCst);
        is_done.store(true, Ordering::SeqCst);
        pool.trim();
        let stats = pool.stats();
        assert_eq!((stats.blocks, stats.used_bytes, stats.retired_bytes), (0, 0, 0), "{name}: {stats:?}");
        pool.check();
        assert_eq!(pool.alloc(Request::bytes(64 * KIB)).unwrap().bytes(), 64 * KIB, "{name}");
    }
}

/// Free lists tell the books later what went through them. A panic in between loses none of it.
#[test]
fn a_backend_that_panics_loses_no_counts() {
    for at in 0.. {
        let checks = AtomicU64::new(0);
        let is_due = move |call| call == Call::Check && checks.fetch_add(1, Ordering::SeqCst) == at;
        let (pool, _) = hooked(&Config::new(64 * KIB), move |call| assert!(!is_due(call), "as the test wants"));
        let run = || [100, 100, 5000, 100, 5000].into_iter().for_each(|bytes| drop(pool.alloc(Request::bytes(bytes))));
        let has_panicked = catch_unwind(AssertUnwindSafe(run)).is_err();
        let stats = pool.stats();
        assert_eq!((stats.live_bytes, stats.used_bytes, stats.blocks), (0, 0, 0), "at check {at}: {stats:?}");
        pool.check();
        if !has_panicked {
            assert!(at >= 5, "each allocation asks the backend");
            break;
        }
    }
}

/// Each slab's drop panics: the others are dropped, and the process does not end.
#[test]
fn slabs_whose_drop_panics_are_dropped_all() {
    let dropped = Arc::new(AtomicU64::new(0));
    for is_trimmed in [false, true] {
        let count = Arc::clone(&dropped);
        let (pool, _) = hooked(&Config::new(64 * KIB).slabs(SlabPolicy::Fixed(16 * KIB)), move |call| {
            if call == Call::DropSlab {
                count.fetch_add(1, Ordering::SeqCst);
                panic!("as the test wants");
            }
        });
        drop((0..4).map(|_| pool.alloc(Request::bytes(16 * KIB)).unwrap()).collect::<Vec<_>>());
        if is_trimmed {
            assert_eq!((pool.trim(), pool.stats().reserved_bytes), (64 * KIB, 0));
        }
        drop(pool);
        assert_eq!(dropped.swap(0, Ordering::SeqCst), 4);
    }
}

/// What `trim` says is what went back, also where an earlier call had only begun to give it back.
#[test]
fn trim_counts_what_an_earlier_trim_began() {
    let (pool, is_done) = hooked(&Config::new(64 * KIB).slabs(SlabPolicy::Single), |_| {});
    is_done.store(false, Ordering::SeqCst);
    assert_eq!((pool.trim(), pool.stats().reserved_bytes), (0, 64 * KIB));
    is_done.store(true, Ordering::SeqCst);
    assert_eq!((pool.trim(), pool.stats().reserved_bytes), (64 * KIB, 0));
    assert_eq!(pool.trim(), 0);
}

/// An idle arena goes home in `trim`, which may give its slab back at once.
#[test]
fn trim_counts_the_slab_of_an_arena() {
    let (pool, _) = hooked(&Config::new(64 * KIB).slabs(SlabPolicy::PerBlock), |_| {});
    let step = [Lifetime::new(0, 1, 4 * KIB)];
    let _steps = pool.follow_plan(&step, &plan::solve(&step, &Options::new().align(64)).unwrap()).unwrap();
    let reserved_bytes = pool.stats().reserved_bytes;
    assert!(reserved_bytes > 0);
    assert_eq!((pool.trim(), pool.stats().reserved_bytes), (reserved_bytes, 0));
}
