//! A vector in chunks, so that growing moves no more than one of them: a pool's lock is held meanwhile.

use std::ops::{Index, IndexMut};

use super::slots::resize_exact;

/// Full chunks of 2^`shift` elements, and a last one that is as long as it needs to be.
#[derive(Debug, Clone)]
pub(super) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    shift: u32,
}

impl<T: Clone + Default> Chunks<T> {
    /// No elements, and room for so many, at most a chunk.
    pub(super) fn new(shift: u32, room: usize) -> Chunks<T> {
        debug_assert!(room <= 1 << shift, "room for {room} elements in a chunk of 2^{shift}");
        Chunks { chunks: vec![Vec::with_capacity(room)], shift }
    }

    pub(super) fn resize(&mut self, length: usize) {
        let count = length.div_ceil(1 << self.shift).max(1);
        if self.chunks.len() > count {
            self.chunks.truncate(count);
            self.chunks.shrink_to_fit();
        }
        let first_changed = self.chunks.len() - 1;
        self.chunks.resize_with(count, Vec::new);
        for (index, chunk) in self.chunks.iter_mut().enumerate().skip(first_changed) {
            resize_exact(chunk, (length - (index << self.shift)).min(1 << self.shift));
        }
    }

    /// So many elements from one on, which lie in one chunk.
    #[inline]
    pub(super) fn slice(&self, start: usize, count: usize) -> &[T] {
        &self.chunks[start >> self.shift][self.within(start)..][..count]
    }

    #[inline]
    pub(super) fn slice_mut(&mut self, start: usize, count: usize) -> &mut [T] {
        let within = self.within(start);
        &mut self.chunks[start >> self.shift][within..][..count]
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        let elements: usize = self.chunks.iter().map(Vec::capacity).sum();
        self.chunks.capacity() * size_of::<Vec<T>>() + elements * size_of::<T>()
    }

    #[inline]
    fn within(&self, index: usize) -> usize {
        index & ((1 << self.shift) - 1)
    }
}

impl<T: Clone + Default> Index<usize> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.chunks[index >> self.shift][self.within(index)]
    }
}

impl<T: Clone + Default> IndexMut<usize> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        let within = self.within(index);
        &mut self.chunks[index >> self.shift][within]
    }
}
