//! Allocators that threads share, behind one trait: this crate, and `offset-allocator` as a program has it that puts it
//! behind a lock.

use std::sync::{Arc, Mutex};

use offset_allocator::{Allocation, Allocator};
use tensorpool::{Backend, Block, Config, Host, Pool, Request, SlabPolicy, Virtual};

/// What all of them carve: no memory of it is ever touched.
const ARENA_BYTES: u64 = 2 << 30;
/// The smallest block and the alignment: the pool's on the host.
const UNIT_BYTES: u64 = 64;
/// More than any case holds at once, with the free ranges between them.
const ALLOCATIONS_MAX: u32 = 1 << 18;

/// An allocator for several threads.
pub trait Shared: Send + Sync + 'static {
    type Handle: Send;

    fn open() -> Self;

    /// # Panics
    /// If there is no room: the cases are all smaller than the arena.
    fn alloc(&self, bytes: u64) -> Self::Handle;

    fn free(&self, handle: Self::Handle) {
        drop(handle);
    }
}

impl Shared for Pool<Virtual> {
    type Handle = Block<Virtual>;

    fn open() -> Self {
        open_pool(Virtual::default())
    }

    fn alloc(&self, bytes: u64) -> Block<Virtual> {
        Pool::alloc(self, Request::bytes(bytes)).expect("room for all")
    }
}

impl Shared for Pool<Host> {
    type Handle = Block<Host>;

    fn open() -> Self {
        open_pool(Host)
    }

    fn alloc(&self, bytes: u64) -> Block<Host> {
        Pool::alloc(self, Request::bytes(bytes)).expect("room for all")
    }
}

fn open_pool<B: Backend>(backend: B) -> Pool<B> {
    let config = Config::new(ARENA_BYTES).slabs(SlabPolicy::Single);
    Pool::with_backend(backend, &config).expect("two GiB of address space")
}

fn open_offset() -> Mutex<Allocator<u32>> {
    Mutex::new(Allocator::with_max_allocs((ARENA_BYTES / UNIT_BYTES) as u32, ALLOCATIONS_MAX))
}

fn alloc_offset(allocator: &Mutex<Allocator<u32>>, bytes: u64) -> Allocation<u32> {
    let units = bytes.div_ceil(UNIT_BYTES) as u32;
    allocator.lock().expect("no holder panics").allocate(units).expect("room for all")
}

/// `offset-allocator` in a mutex, and nothing else: whoever forgets to free has lost the range, and whoever frees twice
/// gives it to two owners.
pub struct OffsetBare(Mutex<Allocator<u32>>);

impl Shared for OffsetBare {
    type Handle = Allocation<u32>;

    fn open() -> Self {
        Self(open_offset())
    }

    fn alloc(&self, bytes: u64) -> Allocation<u32> {
        alloc_offset(&self.0, bytes)
    }

    fn free(&self, handle: Allocation<u32>) {
        self.0.lock().expect("no holder panics").free(handle);
    }
}

/// The same with a handle that frees when it is dropped, on whichever thread: what a program needs that wants what a
/// block is.
pub struct OffsetGuarded(Arc<Mutex<Allocator<u32>>>);

pub struct Guard {
    allocation: Allocation<u32>,
    home: Arc<Mutex<Allocator<u32>>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.home.lock().expect("no holder panics").free(self.allocation);
    }
}

impl Shared for OffsetGuarded {
    type Handle = Guard;

    fn open() -> Self {
        Self(Arc::new(open_offset()))
    }

    fn alloc(&self, bytes: u64) -> Guard {
        Guard { allocation: alloc_offset(&self.0, bytes), home: Arc::clone(&self.0) }
    }
}

/// No allocator: what the loop, the random numbers and the table of handles cost by themselves.
pub struct Nothing;

impl Shared for Nothing {
    type Handle = [u64; 8];

    fn open() -> Self {
        Self
    }

    fn alloc(&self, bytes: u64) -> [u64; 8] {
        [bytes; 8]
    }
}
