//! Allocators of a program's own memory, called as a global allocator is: `malloc` of the system, and with the feature `mallocs`
//! those that programs put in its place.

use std::alloc::{GlobalAlloc, Layout, System};
use std::marker::PhantomData;

use super::shared::Shared;

/// Which allocator it is.
pub trait Heap: Send + Sync + 'static {
    type Alloc: GlobalAlloc;
    const ALLOC: Self::Alloc;
}

pub struct SystemHeap;

impl Heap for SystemHeap {
    type Alloc = System;
    const ALLOC: System = System;
}

#[cfg(feature = "mallocs")]
pub struct Mimalloc;

#[cfg(feature = "mallocs")]
impl Heap for Mimalloc {
    type Alloc = mimalloc::MiMalloc;
    const ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;
}

#[cfg(feature = "mallocs")]
pub struct Snmalloc;

#[cfg(feature = "mallocs")]
impl Heap for Snmalloc {
    type Alloc = snmalloc_rs::SnMalloc;
    const ALLOC: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;
}

#[cfg(feature = "mallocs")]
pub struct Jemalloc;

#[cfg(feature = "mallocs")]
impl Heap for Jemalloc {
    type Alloc = tikv_jemallocator::Jemalloc;
    const ALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
}

/// A piece of a heap, freed when it is dropped, on any thread. Aligned as `malloc` does, to 16 bytes.
pub struct Piece<H: Heap> {
    start: *mut u8,
    bytes: usize,
    heap: PhantomData<H>,
}

// SAFETY: the piece is its owner's alone, and each of the heaps frees on any thread what it allocated on another.
unsafe impl<H: Heap> Send for Piece<H> {}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 16).expect("far below the largest layout")
}

impl<H: Heap> Drop for Piece<H> {
    fn drop(&mut self) {
        // SAFETY: the same heap made it, with the same layout, and it is freed once.
        unsafe { H::ALLOC.dealloc(self.start, layout(self.bytes)) };
    }
}

pub struct Malloc<H: Heap>(pub H);

impl<H: Heap> Shared for Malloc<H> {
    type Handle = Piece<H>;

    fn alloc(&self, bytes: u64) -> Piece<H> {
        let bytes = bytes as usize;
        assert_ne!(bytes, 0, "a heap has no piece of 0 bytes");
        // SAFETY: the layout has bytes.
        let start = unsafe { H::ALLOC.alloc(layout(bytes)) };
        assert!(!start.is_null(), "the system has {bytes} bytes");
        Piece { start, bytes, heap: PhantomData }
    }
}
