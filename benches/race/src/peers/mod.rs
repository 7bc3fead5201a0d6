//! The allocators, each set up as its own users set it up; what that means stands in each file and in benches/README.md.

mod buddy;
#[cfg(feature = "cubecl")]
mod cubecl;
mod fake_vulkan;
mod gpu_alloc;
mod gpu_allocator;
mod naive;
mod offset;
mod ours;
mod range;
mod vma;
#[cfg(feature = "gpu")]
mod wgpu_buffers;

pub use self::offset::{OFFSET, OFFSET_GUARDED};
pub use self::ours::ONE_SLAB;
use crate::contest::{Bound, Contestant, Entry};
use crate::workload::Workload;

/// An allocator as one thread uses it. Every block starts at a multiple of 256 bytes, as a GPU binding must.
pub trait Peer {
    type Handle;

    /// `None` if there is no room.
    fn alloc(&mut self, bytes: u64) -> Option<Self::Handle>;

    fn free(&mut self, handle: Self::Handle);

    /// The workload begins, for the first time or again; all is free.
    fn begin(&mut self) {}

    /// What it has from its device now, if it asks for memory piece by piece.
    fn reserved_bytes(&self) -> Option<u64> {
        None
    }

    /// How many of the heap's bytes that came with it are its books.
    fn metadata_bytes(&self, heap_bytes: u64) -> Option<u64> {
        Some(heap_bytes)
    }
}

/// All of them, this crate's first.
pub fn all() -> Vec<Box<dyn Contestant>> {
    let mut all = ours::contestants();
    all.extend(offset::contestants());
    all.extend(vma::contestants());
    all.extend(gpu_allocator::contestants());
    all.extend(gpu_alloc::contestants());
    all.extend(buddy::contestants());
    all.extend(range::contestants());
    #[cfg(feature = "cubecl")]
    all.extend(cubecl::contestants());
    all.extend(naive::contestants());
    #[cfg(feature = "gpu")]
    all.extend(wgpu_buffers::contestants());
    all
}

/// One that is given all its memory when it is opened, or is to make do with it.
fn arena<P: Peer + 'static>(
    name: &'static str,
    open: impl Fn(&Workload, u64) -> Option<P> + 'static,
) -> Box<dyn Contestant> {
    Box::new(Entry { name, bound: Bound::Arena, open })
}

/// One that asks a device for memory as it goes, until the device has no more.
fn device<P: Peer + 'static>(
    name: &'static str,
    open: impl Fn(&Workload, u64) -> Option<P> + 'static,
) -> Box<dyn Contestant> {
    Box::new(Entry { name, bound: Bound::Device, open })
}

/// One that takes what it takes.
fn unbounded<P: Peer + 'static>(
    name: &'static str,
    open: impl Fn(&Workload, u64) -> Option<P> + 'static,
) -> Box<dyn Contestant> {
    Box::new(Entry { name, bound: Bound::None, open })
}
