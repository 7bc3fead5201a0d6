//! A tensor's block, to write: everything but to exchange it for another, which would break the tensor's shape.

use std::fmt;
use std::ops::Deref;

use crate::backend::{Backend, HostMemory, SpanMut};
use crate::error::Result;
use crate::pool::Block;

/// A [`Block`] whose bytes may be written, but which stays where it is: from
/// [`Tensor::block_mut`](crate::Tensor::block_mut).
///
/// It reads as the block does. It gives out no `&mut Block`, so `std::mem::swap` cannot put a block of another size
/// under a tensor's shape.
///
/// ```
/// use tensorpool::{Config, Pool};
///
/// let pool = Pool::host(Config::new("1 MiB"))?;
/// let mut tensor = pool.zeros::<u32>([2])?;
/// tensor.block_mut().upload(4, &[1, 0, 0, 0])?;
/// assert_eq!(tensor.as_slice()?, [0, 1]);
/// # Ok::<(), tensorpool::Error>(())
/// ```
pub struct BlockMut<'a, B: Backend>(&'a mut Block<B>);

impl<B: Backend> BlockMut<'_, B> {
    /// Writes `bytes` at `at` bytes into the block.
    ///
    /// # Errors
    /// As [`Block::upload`].
    pub fn upload(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.0.upload(at, bytes)
    }

    /// Repeats `pattern` over the first `len` bytes.
    ///
    /// # Errors
    /// As [`Block::fill`].
    pub fn fill(&mut self, len: u64, pattern: &[u8]) -> Result<()> {
        self.0.fill(len, pattern)
    }

    /// Copies `len` bytes from `from_at` bytes into another block of the same pool to `at` bytes into this one.
    ///
    /// # Errors
    /// As [`Block::copy_from`].
    pub fn copy_from(&mut self, at: u64, from: &Block<B>, from_at: u64, len: u64) -> Result<()> {
        self.0.copy_from(at, from, from_at, len)
    }

    /// Returns the slab's memory and the range in it, for a backend to write. `None` for zero bytes.
    #[cfg_attr(not(feature = "nn"), allow(dead_code, reason = "the kernels are the only layer above that writes"))]
    pub(crate) fn place_mut(&mut self) -> Option<(&B, &B::Slab, SpanMut<'_>)> {
        self.0.place_mut()
    }
}

impl<B: HostMemory> BlockMut<'_, B> {
    /// Returns the bytes asked for, to write.
    ///
    /// # Errors
    /// As [`Block::as_bytes_mut`].
    pub fn as_bytes_mut(&mut self) -> Result<&mut [u8]> {
        self.0.as_bytes_mut()
    }
}

impl<'a, B: Backend> From<&'a mut Block<B>> for BlockMut<'a, B> {
    fn from(block: &'a mut Block<B>) -> Self {
        Self(block)
    }
}

impl<B: Backend> Deref for BlockMut<'_, B> {
    type Target = Block<B>;

    fn deref(&self) -> &Block<B> {
        self.0
    }
}

impl<B: Backend> fmt::Debug for BlockMut<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
