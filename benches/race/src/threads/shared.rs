//! Allocators that threads share, behind one trait: this crate, and `offset-allocator` as a program has it that puts it
//! behind a lock.

use std::sync::{Arc, Mutex};

use offset_allocator::{Allocation, Allocator};
use tensorpool::{Backend, Block, Config, Pool, Request, SlabPolicy};

/// The smallest block and the alignment: the pool's on the host.
const UNIT_BYTES: u64 = 64;
/// More than any case holds at once, with the free ranges between them.
const ALLOCATIONS_MAX: u32 = 1 << 18;

/// An allocator for several threads. No memory that it hands out is ever touched.
pub trait Shared: Send + Sync + 'static {
    type Handle: Send;

    /// # Panics
    /// If there is no room: the cases are all smaller than the arena.
    fn alloc(&self, bytes: u64) -> Self::Handle;

    fn free(&self, handle: Self::Handle) {
        drop(handle);
    }
}

impl<B: Backend> Shared for Pool<B> {
    type Handle = Block<B>;

    fn alloc(&self, bytes: u64) -> Block<B> {
        Pool::alloc(self, Request::bytes(bytes)).expect("room for all")
    }
}

/// Opens a pool of so many bytes.
///
/// # Panics
/// If the pool has another policy: its figures would stand under a wrong name.
pub fn open_pool<B: Backend>(backend: B, bytes: u64, slabs: SlabPolicy) -> Pool<B> {
    let pool = Pool::with_backend(backend, &Config::new(bytes).slabs(slabs)).expect("there are so many addresses");
    assert_eq!(pool.slab_policy(), slabs, "the system refused the addresses");
    pool
}

fn open_offset(bytes: u64) -> Mutex<Allocator<u32>> {
    let units = u32::try_from(bytes / UNIT_BYTES).expect("units are counted in 32 bits");
    Mutex::new(Allocator::with_max_allocs(units, ALLOCATIONS_MAX))
}

fn units(bytes: u64) -> u32 {
    bytes.div_ceil(UNIT_BYTES) as u32
}

/// `offset-allocator` in a mutex, and nothing else: what is not freed is lost, and what is freed twice has two owners.
pub struct OffsetBare(Mutex<Allocator<u32>>);

impl OffsetBare {
    pub fn open(bytes: u64) -> Self {
        Self(open_offset(bytes))
    }
}

impl Shared for OffsetBare {
    type Handle = Allocation<u32>;

    fn alloc(&self, bytes: u64) -> Allocation<u32> {
        self.0.lock().expect("no holder panics").allocate(units(bytes)).expect("room for all")
    }

    fn free(&self, handle: Allocation<u32>) {
        self.0.lock().expect("no holder panics").free(handle);
    }
}

/// The same with a handle that frees when it is dropped, on any thread: what a program needs that wants what a block is.
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

impl OffsetGuarded {
    pub fn open(bytes: u64) -> Self {
        Self(Arc::new(open_offset(bytes)))
    }

    pub fn new(allocator: Allocator<u32>) -> Self {
        Self(Arc::new(Mutex::new(allocator)))
    }

    /// Returns `None` if there is no room.
    pub fn try_alloc(&self, units: u32) -> Option<Guard> {
        let allocation = self.0.lock().expect("no holder panics").allocate(units)?;
        Some(Guard { allocation, home: Arc::clone(&self.0) })
    }
}

impl Shared for OffsetGuarded {
    type Handle = Guard;

    fn alloc(&self, bytes: u64) -> Guard {
        self.try_alloc(units(bytes)).expect("room for all")
    }
}

/// No allocator: what the loop, the random numbers and the table of handles cost by themselves.
pub struct Nothing;

impl Shared for Nothing {
    type Handle = [u64; 8];

    fn alloc(&self, bytes: u64) -> [u64; 8] {
        [bytes; 8]
    }
}
