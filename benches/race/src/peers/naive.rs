//! What a program has without any of them: a `Vec` for every tensor, from glibc, its memory never touched. And what the
//! race itself costs: no allocator at all.

use super::{Peer, unbounded};
use crate::contest::Contestant;
use crate::heap;

struct Vecs {
    /// What the program held of the heap before.
    held_before_bytes: Option<u64>,
}

impl Peer for Vecs {
    type Handle = Vec<u8>;

    fn alloc(&mut self, bytes: u64) -> Option<Vec<u8>> {
        let mut vec = Vec::new();
        vec.try_reserve_exact(usize::try_from(bytes).ok()?).ok()?;
        Some(vec)
    }

    fn free(&mut self, handle: Vec<u8>) {
        drop(handle);
    }

    /// The pieces of the heap that are held; what the heap has from the system is more.
    fn reserved_bytes(&self) -> Option<u64> {
        heap::held_bytes().zip(self.held_before_bytes).map(|(now, before)| now.saturating_sub(before))
    }

    /// The tensors are in the same heap.
    fn metadata_bytes(&self, _: u64) -> Option<u64> {
        None
    }
}

struct Nothing;

impl Peer for Nothing {
    type Handle = u64;

    fn alloc(&mut self, bytes: u64) -> Option<u64> {
        Some(std::hint::black_box(bytes))
    }

    fn free(&mut self, handle: u64) {
        std::hint::black_box(handle);
    }

    fn metadata_bytes(&self, _: u64) -> Option<u64> {
        None
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    vec![
        unbounded("a Vec for every tensor", |_, _| Some(Vecs { held_before_bytes: heap::held_bytes() })),
        unbounded("(the race alone)", |_, _| Some(Nothing)),
    ]
}
