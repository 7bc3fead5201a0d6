//! Memory that comes before a program needs it.

use super::{Pool, Request, Shared, SlabPolicy};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

impl<B: Backend> Pool<B> {
    /// Brings the memory for blocks of these `sizes`, in bytes, that a program will hold at once: before its first step, say. A size
    /// counts as often as it stands there, and 0 needs nothing.
    ///
    /// Blocks of all sizes are allocated, one by one in this order, and freed. Slabs are created, or memory is committed, within the
    /// budget, and the memory stays. This is repeated, three times at most, until it brings nothing more. So a step of this thread that
    /// allocates these sizes in this order creates no slab and commits nothing, whether or not there are free lists. In another order, or
    /// as a batch, blocks may get other places, some of which need memory.
    ///
    /// The memory is for any request of any thread, and for waiters first. [`trim`](Self::trim) gives it back, as do `trim_to`,
    /// `trim_if_idle` and a lower budget. [`Stats`](super::Stats) and recordings have these blocks as allocations and frees, each time, and
    /// the peaks count them. Planned steps do not see them.
    ///
    /// Host memory may get its pages when it is first written, whatever was committed: [`Config::touch`](super::Config::touch) brings the
    /// pages now.
    ///
    /// ```
    /// use tensorpool::{Config, Pool, Request};
    ///
    /// let pool = Pool::host(Config::new("64 MiB"))?;
    /// pool.prewarm(&[10 << 20, 10 << 20, 100])?;
    /// let warm = pool.stats();
    /// let step = [10 << 20, 10 << 20, 100].map(|bytes| pool.alloc(Request::bytes(bytes)));
    /// let stats = pool.stats();
    /// assert_eq!(stats.reserved_bytes, warm.reserved_bytes);
    /// assert_eq!(stats.allocations_grown, warm.allocations_grown);
    /// # drop(step);
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc) without waiting, for the first size that there is no room for, or at once for sizes that are over the
    /// budget together. Then nothing is held, and idle memory goes back until no more is reserved than before.
    /// [`ErrorKind::Invalid`] for a pool of [`SlabPolicy::PerBlock`], which keeps no slab without its block.
    pub fn prewarm(&self, sizes: &[u64]) -> Result<()> {
        self.shared().prewarm(sizes)
    }
}

/// The first round learns the largest size, the second has places for it, and the third finds that nothing is missing.
const ROUNDS: usize = 3;

impl<B: Backend> Shared<B> {
    fn prewarm(self: &Arc<Self>, sizes: &[u64]) -> Result<()> {
        if self.policy == SlabPolicy::PerBlock {
            let message = format!("a pool of {} slabs keeps none without its block", self.policy);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let requests: Vec<Request> = sizes.iter().map(|bytes| Request::bytes(*bytes)).collect();
        self.check_batch(&requests)?;
        // What lies in the lists of other threads serves them too.
        self.gather();
        let before = self.state().numbers();
        let mut reserved_total_bytes = before.reserved_total_bytes;
        for _ in 0..ROUNDS {
            let blocks: Result<Vec<_>> = requests.iter().map(|request| self.alloc_in_pool(request)).collect();
            if let Err(error) = blocks {
                self.trim_to(before.reserved_bytes);
                return Err(error);
            }
            let total_bytes = self.state().numbers().reserved_total_bytes;
            if std::mem::replace(&mut reserved_total_bytes, total_bytes) == total_bytes {
                break;
            }
        }
        Ok(())
    }
}
