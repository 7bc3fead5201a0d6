//! Many blocks that are freed at once.

use super::{Block, Descriptor, IdleBlock};
use crate::backend::Backend;
use crate::pool::{Pool, Shared};
use crate::sync::{Arc, caught};

impl<B: Backend> Pool<B> {
    /// Frees blocks as their drops do, but enters the pool's lock once for all that go home to the slabs, and not once for each.
    ///
    /// Waiters are served when all are back. Blocks of other pools are dropped one by one.
    ///
    /// ```
    /// use tensorpool::{Config, Pool, Request};
    ///
    /// let pool = Pool::host(Config::new("64 MiB"))?;
    /// let layers = pool.alloc_all(&[Request::bytes(1 << 20), Request::bytes(3 << 20)])?;
    /// pool.free_all(layers);
    /// assert_eq!(pool.stats().blocks, 0);
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    pub fn free_all(&self, blocks: impl IntoIterator<Item = Block<B>>) {
        // The iterator is the caller's code: until it ends, all are blocks.
        let blocks: Vec<Block<B>> = blocks.into_iter().collect();
        let (mut left, mut others) = (Vec::new(), Vec::new());
        for mut block in blocks {
            let is_own = Arc::ptr_eq(block.shared(), self.shared());
            if is_own
                && block.own_home().is_some()
                && let Some(descriptor) = block.descriptor.take()
            {
                left.extend(descriptor.give_to_list().err());
            } else {
                others.push(block);
            }
        }
        if !left.is_empty() {
            self.shared().give_all_to_space(left);
        }
        // Their drops may run code of others, which may want the memory of the first.
        drop(others);
    }
}

impl<B: Backend> Shared<B> {
    /// Gives blocks of this pool home as [`Descriptor::give_to_space`] does one. Each says whether it is still to be zeroed.
    fn give_all_to_space(&self, blocks: Vec<(IdleBlock<B>, bool)>) {
        // Before any waiter is told: its waker may ask for the holders.
        blocks.iter().for_each(|(descriptor, _)| descriptor.uncount());
        let tally = self.shards.tally();
        if self.shards.signs.has_arena() {
            self.fold_planned();
        }
        let (served, gives_back) = {
            let mut state = self.state();
            state.fold(tally);
            let gives_back = state.gives_back_at_once();
            for (descriptor, is_dirty) in blocks {
                let (bytes, holds) = (descriptor.asked.bytes(), descriptor.take_holds());
                let Descriptor { home: Some(home), .. } = *descriptor else { continue };
                let place = (home.place().0, home.extent);
                state.give(home, bytes, holds, is_dirty);
                if gives_back {
                    self.detach_around(place, &mut state);
                }
            }
            state.look_at_room();
            (state.serve(), gives_back)
        };
        self.tell(served);
        if gives_back {
            caught(|| self.settle_completed());
        }
    }
}
