//! One thread allocates, another frees: what a loader and a trainer do.

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use super::case::BASKET_BLOCKS;
use super::crew;
use super::shared::Shared;

/// Full baskets that may wait for the thread that frees.
const BASKETS: usize = 4;

/// Nanoseconds a block, from its allocation on one thread to its free on another, as a rate.
pub fn block_ns<S: Shared>(shared: &S, mut bytes: impl FnMut() -> u64 + Send, time: Duration) -> f64 {
    let (full, to_free) = sync_channel::<Vec<S::Handle>>(BASKETS);
    let (empty, to_fill) = sync_channel::<Vec<S::Handle>>(BASKETS + 2);
    for _ in 0..BASKETS + 2 {
        empty.send(Vec::with_capacity(BASKET_BLOCKS)).expect("the receiver is here");
    }
    thread::scope(|scope| {
        let freeing = scope.spawn(move || {
            crew::pin(1);
            let mut blocks = 0;
            for mut basket in to_free {
                blocks += basket.len();
                basket.drain(..).for_each(|handle| shared.free(handle));
                // The other side may have stopped.
                let _ = empty.send(basket);
            }
            (blocks, Instant::now())
        });
        let allocating = scope.spawn(move || {
            crew::pin(0);
            let start = Instant::now();
            while start.elapsed() < time {
                let mut basket = to_fill.recv().expect("every basket comes back");
                basket.extend((0..BASKET_BLOCKS).map(|_| shared.alloc(bytes())));
                full.send(basket).expect("the other side takes all");
            }
            start
        });
        let start = allocating.join().expect("allocating does not panic");
        let (blocks, end) = freeing.join().expect("freeing does not panic");
        (end - start).as_nanos() as f64 / blocks as f64
    })
}
