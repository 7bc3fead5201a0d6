//! Compaction: blocks that their owners lend move out of slabs that hold little, and to the ends of the others, so that slabs
//! become empty and free runs come together.
//!
//! ```text
//!   lent block ──► reserve a place (lock) ──► copy (stream) ──► the block is there, its old place goes home (lock)
//! ```
//!
//! [`passes`] has the order of moves: from slab to slab, then within each. [`target`] is one move.
//!
//! Within a slab a block goes to the lowest hole below it that has room. Where there is none it may slide into a smaller one directly below
//! it, part by part of the hole's size, lowest first: where a part goes to, nothing is that has not moved already. A small block
//! goes up instead, out of a cut run that stands between runs and into one at the high end. No copy is made with the pool's lock
//! held, and each is between two spans that do not meet.

mod passes;
mod target;

use std::fmt;

use self::passes::Passes;
use super::{Block, Pool, Request};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;
use crate::units::{ByteSize, exact};

/// What [`Pool::compact`] may move: blocks and tensors. Nothing else can implement it.
pub trait Movable<B: Backend> {
    /// Its block, for the pool alone.
    #[doc(hidden)]
    fn lend(&mut self, to: Lend) -> &mut Block<B>;
}

/// Only a pool has one, so only a pool is lent blocks.
#[derive(Debug)]
pub struct Lend(());

impl<B: Backend> Movable<B> for Block<B> {
    fn lend(&mut self, _: Lend) -> &mut Block<B> {
        self
    }
}

/// What [`Pool::compact`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// Moves of blocks. One may move more than once.
    pub blocks_moved: u64,
    /// Their bytes: what was copied.
    pub bytes_moved: u64,
    /// The longest run of free pages in any slab, after it.
    pub largest_free_run_bytes: u64,
    /// Bytes of slabs without a block, after it: what [`Pool::trim`] gives back.
    pub empty_bytes: u64,
}

impl fmt::Display for Compaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks_moved, bytes_moved, largest_free_run_bytes, empty_bytes } = *self;
        write!(
            f,
            "{blocks_moved} block{} of {} moved, the largest free run is {}",
            if blocks_moved == 1 { "" } else { "s" },
            ByteSize(bytes_moved),
            ByteSize(largest_free_run_bytes)
        )?;
        if empty_bytes > 0 { write!(f, ", {} are in empty slabs", ByteSize(empty_bytes)) } else { Ok(()) }
    }
}

impl<B: Backend> Pool<B> {
    /// Moves blocks so that slabs become empty, which [`trim`](Self::trim) then gives back, and free runs come together, for requests
    /// that failed as [fragmented](Error::is_fragmented). It moves what it is lent, with the contents, and nothing else. The owner
    /// has the block as before, at another [`offset`](Block::offset), and perhaps in another [slab](Block::slab).
    ///
    /// ```
    /// use tensorpool::{Config, Movable, Pool, SlabPolicy};
    ///
    /// let pool = Pool::host(Config::new("1 MiB").slabs(SlabPolicy::Single))?;
    /// let a = pool.zeros::<u8>([256 << 10])?;
    /// let mut b = pool.zeros::<f32>([64 << 10])?;
    /// let c = pool.zeros::<u8>([256 << 10])?;
    /// let mut d = pool.zeros::<u8>([256 << 10])?;
    /// b.fill(0.5)?;
    /// drop((a, c));
    /// assert!(pool.zeros::<u8>([512 << 10]).unwrap_err().is_fragmented());
    ///
    /// let done = pool.compact([&mut b as &mut dyn Movable<_>, &mut d])?;
    /// assert_eq!(done.to_string(), "2 blocks of 512 KiB moved, the largest free run is 512 KiB");
    /// assert!(b.as_slice()?.iter().all(|element| *element == 0.5));
    /// let e = pool.zeros::<u8>([512 << 10])?;
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// A `Vec` of tensors of one type is lent as it is: `pool.compact(&mut weights)`.
    ///
    /// Idle memory goes home first, as before a new slab. Then come two parts, again and again as long as a slab becomes empty:
    ///
    /// 1. *From slab to slab.* The slab that holds fewest bytes is emptied into those that hold more, fullest first; then the next one.
    ///    A slab is only begun if all that it holds is lent and can move, and has room elsewhere.
    /// 2. *Within each slab* a block goes to the lowest hole below it that has room, or slides down into the free pages directly
    ///    below it, if they are at least 1/16 of it. Small blocks go up, to an idle piece of a higher cut run or to a piece of
    ///    a free run. That is repeated up to eight times, as long as anything moves.
    ///
    /// Where no slab in use has room for the blocks of another, a slab takes them that is half as large as theirs at most: an empty
    /// one, or a new one of just their bytes, if the budget has room for both until the larger one is given back. Else a slab that
    /// holds less takes them.
    ///
    /// What stays where it is, lent or not: blocks in the arena of planned steps, those whose [holds](Block::hold) are not over, and
    /// within its slab a block that ends in the partial last page. With [`Placement::PowerOfTwo`](crate::Placement::PowerOfTwo)
    /// nothing slides, and with [`SlabPolicy::PerBlock`](crate::SlabPolicy::PerBlock) nothing moves. On a GPU the copies are recorded
    /// in the stream, and nothing waits for them; but bind groups that were made before still say where the tensors were.
    ///
    /// Lend all there is: where a part is lent, a block may move next to one that cannot, and the longest free run may be shorter
    /// than before. It takes time that grows with the lent blocks, times the slabs where blocks go from slab to slab.
    ///
    /// What is live stays as it is. What is used may change by roundings: another slab may have pages of another size. To let it
    /// stop as soon as one request has room there is [`compact_for`](Self::compact_for).
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] for what is of another pool: then nothing has moved. [`ErrorKind::Recording`] inside the closure that
    /// records the stream. The backend's if a copy fails, or a new slab for another reason than that there is no memory for it: what
    /// has moved until then has moved, and that block is where it was.
    /// If it was sliding, and cannot slide back either, the error says that its contents are lost.
    ///
    /// # Panics
    /// If the backend does. Then every block is at one place, and the contents of the one that was sliding are undefined.
    pub fn compact<'a, M>(&self, movable: impl IntoIterator<Item = &'a mut M>) -> Result<Compaction>
    where
        M: Movable<B> + ?Sized + 'a,
    {
        let mut passes = self.passes(movable, None)?;
        let moved = passes.all();
        passes.end(moved)
    }

    /// Moves blocks as [`compact`](Self::compact) does, but stops as soon as this request can be served. Nothing moves if it can be
    /// served now. The request is not served: the caller allocates next.
    ///
    /// First each slab that has enough idle bytes in parts is compacted by itself, those first that then have them in one run for
    /// certain; then it goes on as `compact`. An error of a pool without room names this where it helps for
    /// [certain](crate::Remedy::Compact), lent all blocks.
    ///
    /// ```
    /// use tensorpool::{Config, Pool, Request, SlabPolicy};
    ///
    /// let pool = Pool::host(Config::new("1 MiB").slabs(SlabPolicy::Single))?;
    /// let mut all: Vec<_> = (0..8).map(|_| pool.zeros::<u8>([128 << 10])).collect::<Result<_, _>>()?;
    /// let mut index = 0;
    /// all.retain(|_| (index += 1, index % 2 == 0).1); // every other one goes
    /// let request = Request::bytes(256 << 10);
    /// assert!(pool.alloc(request.clone()).unwrap_err().is_fragmented());
    /// let done = pool.compact_for(&request, &mut all)?;
    /// assert_eq!(done.blocks_moved, 1); // four blocks are alive, and one is enough
    /// let block = pool.alloc(request)?;
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`compact`](Self::compact). As [`Pool::alloc`] for a request that can never be served ([`ErrorKind::OverBudget`],
    /// [`ErrorKind::TooLarge`], [`ErrorKind::Alignment`], [`ErrorKind::Closed`]): then nothing has moved.
    ///
    /// # Panics
    /// As [`compact`](Self::compact).
    pub fn compact_for<'a, M>(
        &self,
        request: &Request,
        movable: impl IntoIterator<Item = &'a mut M>,
    ) -> Result<Compaction>
    where
        M: Movable<B> + ?Sized + 'a,
    {
        self.shared().check_serves(request)?;
        let mut passes = self.passes(movable, Some(request))?;
        let moved = passes.for_request();
        passes.end(moved)
    }

    /// Takes what is lent, after idle memory has gone home.
    fn passes<'a, 's, M>(
        &'s self,
        movable: impl IntoIterator<Item = &'a mut M>,
        request: Option<&'s Request>,
    ) -> Result<Passes<'a, 's, B>>
    where
        M: Movable<B> + ?Sized + 'a,
    {
        let shared = self.shared();
        let mut lent = Vec::new();
        for movable in movable {
            let block = movable.lend(Lend(()));
            if !Arc::ptr_eq(block.shared(), shared) {
                let message = format!("a block of {} of another pool: {:?}", exact(block.bytes()), block.label());
                return Err(Error::new(ErrorKind::Foreign, message));
            }
            lent.extend(block.movable());
        }
        shared.backend.check()?;
        shared.gather();
        Ok(Passes::new(shared, lent, request))
    }
}
