//! Budgets in percent of what a memory has, budgets above that, and slabs that are touched or locked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tensorpool::backend::{CopyDst, CopySrc, HostSlab, PageOptions, Span, SpanMut};
use tensorpool::{
    AnyBackend, Backend, Budget, Config, Error, ErrorKind, Host, Limits, Pool, Request, Result, SlabPolicy, Virtual,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Host memory of a machine with so many bytes, of which so many may be locked.
#[derive(Clone)]
struct Machine {
    memory_bytes: u64,
    lockable_bytes: u64,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    untouched: AtomicU64,
    touched_bytes: AtomicU64,
}

impl Machine {
    fn of(memory_bytes: u64) -> Self {
        Self { memory_bytes, lockable_bytes: u64::MAX, counts: Arc::default() }
    }

    fn touched_bytes(&self) -> u64 {
        self.counts.touched_bytes.load(Ordering::Relaxed)
    }
}

impl Backend for Machine {
    type Slab = HostSlab;

    fn name(&self) -> &str {
        "a machine"
    }

    fn limits(&self) -> Limits {
        Host.limits()
    }

    fn create_slab(&self, bytes: u64) -> Result<HostSlab> {
        self.counts.untouched.fetch_add(1, Ordering::Relaxed);
        Host.create_slab(bytes)
    }

    fn is_touchable(&self) -> bool {
        true
    }

    fn create_slab_with(&self, bytes: u64, mut pages: PageOptions) -> Result<HostSlab> {
        if pages.lock && self.touched_bytes() + bytes > self.lockable_bytes {
            // An error that only a system makes.
            return Host.create_slab(isize::MAX as u64);
        }
        self.counts.touched_bytes.fetch_add(bytes, Ordering::Relaxed);
        pages.lock = false;
        Host.create_slab_with(bytes, pages)
    }

    fn memory_bytes(&self) -> Result<u64> {
        Ok(self.memory_bytes)
    }

    fn upload(&self, slab: &HostSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        Host.upload(slab, span, at, bytes)
    }

    fn download(&self, slab: &HostSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        Host.download(slab, span, at, bytes)
    }

    fn fill(&self, slab: &HostSlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
        Host.fill(slab, span, len, pattern)
    }

    fn copy(&self, from: CopySrc<'_, HostSlab>, to: CopyDst<'_, HostSlab>, len: u64) -> Result<()> {
        Host.copy(from, to, len)
    }
}

fn open(machine: &Machine, config: Config) -> Result<Pool<Machine>> {
    Pool::with_backend(machine.clone(), &config)
}

#[track_caller]
fn refused<B: Backend>(pool: Result<Pool<B>>, kind: ErrorKind, parts: &[&str]) -> Error {
    let error = pool.expect_err("it is refused");
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    error
}

#[test]
fn a_percentage_is_of_what_the_memory_has() {
    let machine = Machine::of(1000 * MIB);
    for (text, bytes) in
        [("80%", 800 * MIB), ("12.5%", 125 * MIB), ("100%", 1000 * MIB), ("0%", 0), ("64 KiB", 64 * KIB)]
    {
        let pool = open(&machine, Config::new(text)).unwrap();
        assert_eq!((pool.budget_bytes(), pool.stats().budget_bytes), (bytes, bytes), "{text}");
        let config = Config::new(text.to_owned());
        assert_eq!((config.budget(), config.budget().bytes(&machine).unwrap()), (&Budget::from(text), bytes));
    }
    let odd = Machine::of(u64::MAX);
    assert_eq!(Budget::from("50%").bytes(&odd).unwrap(), u64::MAX / 2);
}

#[test]
fn a_percentage_of_an_unknown_memory_is_an_error() {
    let unknown = Pool::with_backend(Virtual::default(), &Config::new("80%"));
    refused(unknown, ErrorKind::Invalid, &["a budget of 80% has no size in bytes here", "virtual does not tell"]);
    let machine = Machine::of(MIB);
    refused(open(&machine, Config::new("120%")), ErrorKind::Invalid, &["\"120%\" is no budget: it is more than 100%"]);
    refused(open(&machine, Config::new("-5%")), ErrorKind::Invalid, &["it is negative"]);
}

/// The figures that Linux gives, each read by itself.
#[cfg(target_os = "linux")]
#[test]
fn the_host_has_no_more_than_linux_says() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total_bytes = total.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * KIB;
    let bytes = Host.memory_bytes().unwrap();
    assert!((MIB..=total_bytes).contains(&bytes), "{bytes} of {total_bytes}");
    assert!(AnyBackend::from(Host).memory_bytes().unwrap() <= total_bytes);
    let pool = Pool::host(Config::new("50%")).unwrap();
    assert!((MIB / 2..=total_bytes / 2).contains(&pool.budget_bytes()), "{}", pool.budget_bytes());
    drop(pool.alloc(Request::bytes(100)).unwrap());
}

#[test]
fn touched_pools_have_touched_slabs_alone() {
    for (config, locks) in [(Config::new("8 MiB").touch(true), false), (Config::new("8 MiB").lock(true), true)] {
        let machine = Machine::of(8 * MIB);
        let pool = open(&machine, config).unwrap();
        assert_eq!(machine.touched_bytes(), 0, "a growing pool touches when it grows, {locks}");
        let mut block = pool.alloc(Request::bytes(100 * KIB)).unwrap();
        assert_eq!((machine.touched_bytes(), pool.stats().reserved_bytes), (MIB, MIB));
        block.upload(0, &[7; 1000]).unwrap();
        let large = pool.alloc(Request::bytes(3 * MIB)).unwrap();
        assert_eq!(machine.touched_bytes(), pool.stats().reserved_bytes);
        assert_eq!(machine.counts.untouched.load(Ordering::Relaxed), 0);
        drop((block, large));
        pool.check();
    }
    let machine = Machine::of(8 * MIB);
    let _single = open(&machine, Config::new("8 MiB").slabs(SlabPolicy::Single).touch(true)).unwrap();
    assert_eq!(machine.touched_bytes(), 8 * MIB, "the memory is there before the pool is");
    let _untouched = open(&machine, Config::new("8 MiB").slabs(SlabPolicy::Single).touch(true).touch(false)).unwrap();
    assert_eq!((machine.touched_bytes(), machine.counts.untouched.load(Ordering::Relaxed)), (8 * MIB, 1));
}

#[test]
fn a_budget_above_the_memory_is_refused_where_it_is_touched() {
    let machine = Machine::of(MIB);
    for config in [Config::new(MIB + 1).touch(true), Config::new(MIB + 1).lock(true).slabs(SlabPolicy::Single)] {
        let figures =
            ["a budget of 1,048,577 bytes (1.00 MiB)", "a machine has at the moment, 1,048,576 bytes (1 MiB)"];
        refused(open(&machine, config), ErrorKind::OutOfMemory, &figures);
    }
    assert_eq!(machine.touched_bytes(), 0);
    open(&machine, Config::new(MIB).touch(true)).unwrap();
    // Untouched it is a warning, which `tests/system.rs` reads.
    let pool = open(&machine, Config::new(4 * MIB)).unwrap();
    drop(pool.alloc(Request::bytes(2 * MIB)).unwrap());
}

#[test]
fn memory_without_pages_is_neither_touched_nor_locked() {
    for config in [Config::new("1 MiB").touch(true), Config::new("1 MiB").lock(true)] {
        let pool = Pool::with_backend(Virtual::default(), &config);
        refused(
            pool,
            ErrorKind::Invalid,
            &["pages of virtual cannot be touched or locked: only host memory has pages"],
        );
    }
    let refused = Virtual::default().create_slab_with(KIB, PageOptions::default());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    let pool = Pool::with_backend(AnyBackend::from(Host), &Config::new("1 MiB").touch(true)).unwrap();
    drop(pool.alloc(Request::bytes(100).zeroed()).unwrap());
}

/// The pool takes smaller slabs, and where none is locked the request fails with nothing reserved.
#[test]
fn what_cannot_be_locked_is_not_reserved() {
    let machine = Machine { lockable_bytes: 256 * KIB, ..Machine::of(8 * MIB) };
    let pool = open(&machine, Config::new("8 MiB").lock(true)).unwrap();
    let block = pool.alloc(Request::bytes(100 * KIB)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 256 * KIB, "1 MiB and 512 KiB are refused");
    let error = pool.alloc(Request::bytes(300 * KIB).label("large")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.cause().is_some(), "{error}");
    assert_eq!((pool.stats().reserved_bytes, machine.touched_bytes()), (256 * KIB, 256 * KIB));
    drop(block);
    assert_eq!(pool.trim(), 256 * KIB);
    assert_eq!(pool.stats().reserved_bytes, 0);
    pool.check();

    let machine = Machine { lockable_bytes: 0, ..Machine::of(8 * MIB) };
    let single = open(&machine, Config::new("8 MiB").lock(true).slabs(SlabPolicy::Single));
    refused(single, ErrorKind::OutOfMemory, &["the system refused"]);
    assert_eq!(machine.touched_bytes(), 0);
}
