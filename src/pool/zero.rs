//! Memory without an owner is zeroed before another owner gets it, where the pool was told to (`Config::zero_on_free`).
//!
//! ```text
//!   drop ────► zero ──► done: a free list, or its space
//!                 └───► later: retired and dirty ──► zero, by whichever thread looks for memory
//! ```
//!
//! No caller has asked for this work: so an error of it, and a panic, only mean that it is to be done later.

use super::Shared;
use super::state::Home;
use crate::backend::{Backend, SpanMut};
use crate::sync::{PoisonError, caught, this_thread};
use crate::units::exact;

/// What came of [`Shared::zero`].
pub(super) enum Zeroed {
    Done,
    /// The place is dirty still. It stays retired, and is tried again.
    Later,
}

impl<B: Backend> Shared<B> {
    /// Zeroes all of a place that no block has. Does not unwind: the caller keeps the place, whatever the backend does.
    ///
    /// It waits for another thread that has the backend's stream only if it `may_block`.
    #[cold]
    pub(super) fn zero(&self, home: &Home<B::Slab>, may_block: bool) -> Zeroed {
        let Home { slab, extent } = home;
        let span = SpanMut::new(slab.serial, extent.offset(), extent.bytes());
        let zeroed = caught(|| {
            let zeroed = if may_block {
                self.backend.fill(&slab.memory, span, extent.bytes(), &[0]).map(|()| true)
            } else {
                self.backend.zero_if_free(&slab.memory, span, extent.bytes())
            };
            // An error is dropped inside: what it carries is the backend's, too.
            zeroed.unwrap_or(false)
        });
        match zeroed {
            Some(true) => Zeroed::Done,
            Some(false) => Zeroed::Later,
            None => {
                caught(|| {
                    let (name, bytes) = (self.backend.name(), exact(extent.bytes()));
                    log::error!(
                        "{name} panicked while it zeroed {bytes}: they are retired until a later call zeroes them"
                    );
                });
                Zeroed::Later
            }
        }
    }

    /// Zeroes the retired places that no hold keeps, as far as it can. Returns whether any is free now.
    pub(super) fn zero_retired(&self, may_block: bool) -> bool {
        // A thread that waits for the stream is not waited for: the stream's owner may be the one that would wait.
        let thread = (!may_block).then(this_thread);
        let dirty = self.state().take_dirty(thread);
        if dirty.is_empty() {
            return false;
        }
        let mut any = false;
        for retired in dirty {
            match self.zero(&retired.home, may_block) {
                Zeroed::Done => {
                    self.state().zeroed(retired, true);
                    any = true;
                }
                Zeroed::Later => self.state().zeroed(retired, false),
            }
        }
        if let Some(thread) = thread {
            self.state().has_zeroed(thread);
            self.gone.notify_all();
        }
        any
    }

    /// Waits for other threads that are zeroing retired places. Returns whether there were any.
    fn wait_for_zeroing(&self) -> bool {
        let this_thread = this_thread();
        let mut state = self.state();
        let any = state.is_zeroing_for(this_thread);
        while state.is_zeroing_for(this_thread) {
            state = self.gone.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        any
    }

    /// Zeroes what is dirty, in the pool and in arenas, and waits for the backend's stream, and for other threads that are zeroing.
    /// The waiters have what comes of that first. Returns whether there was any.
    ///
    /// For a request that fails otherwise: what was freed while another thread had the stream is as good as free.
    pub(super) fn zero_all(&self) -> bool {
        let any = self.zero_on_free && (self.end_holds(true) | self.zero_retired(true) | self.wait_for_zeroing());
        if any {
            self.serve();
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::task::{Context, Poll, Waker};
    use std::thread;
    use std::time::Duration;

    use crate::backend::{CopyDst, CopySrc, HostSlab, Limits, Span, SpanMut};
    use crate::plan::{self, Lifetime, Options};
    use crate::{
        Backend, Block, Config, Error, ErrorKind, Host, HostMemory, PlannedSteps, Pool, Request, Result, SlabPolicy,
    };

    const KIB: u64 = 1 << 10;
    const FAILS: u8 = 1;
    const PANICS: u8 = 2;
    const IS_BUSY: u8 = 3;
    const IS_SLOW: u8 = 4;
    /// It zeroes, slowly, until this is something else.
    const HAS_BEGUN: u8 = 5;
    /// Another thread has the stream, and a thread that may block gets it.
    const IS_OTHERS: u8 = 6;

    /// Host memory whose next zeroing goes wrong in some way.
    #[derive(Clone, Default)]
    struct Odd(Arc<AtomicU8>);

    impl Odd {
        fn zero(&self, slab: &HostSlab, span: SpanMut<'_>, len: u64) -> Result<bool> {
            match self.0.swap(0, Ordering::Relaxed) {
                FAILS => return Err(Error::new(ErrorKind::Device, "as the test wants")),
                PANICS => panic!("as the test wants"),
                IS_BUSY => return Ok(false),
                IS_SLOW => {
                    self.0.store(HAS_BEGUN, Ordering::Relaxed);
                    while self.0.load(Ordering::Relaxed) == HAS_BEGUN {
                        thread::yield_now();
                    }
                    Host.fill(slab, span, len, &[0])?;
                }
                _ => Host.fill(slab, span, len, &[0])?,
            }
            Ok(true)
        }
    }

    impl Backend for Odd {
        type Slab = HostSlab;

        fn name(&self) -> &str {
            "odd"
        }

        fn limits(&self) -> Limits {
            Host.limits()
        }

        fn create_slab(&self, bytes: u64) -> Result<HostSlab> {
            Host.create_slab(bytes)
        }

        fn upload(&self, slab: &HostSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
            Host.upload(slab, span, at, bytes)
        }

        fn download(&self, slab: &HostSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
            Host.download(slab, span, at, bytes)
        }

        fn fill(&self, slab: &HostSlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
            if pattern == [0] { self.zero(slab, span, len).map(drop) } else { Host.fill(slab, span, len, pattern) }
        }

        fn zero_if_free(&self, slab: &HostSlab, span: SpanMut<'_>, len: u64) -> Result<bool> {
            if self.0.load(Ordering::Relaxed) == IS_OTHERS { Ok(false) } else { self.zero(slab, span, len) }
        }

        fn copy(&self, from: CopySrc<'_, HostSlab>, to: CopyDst<'_, HostSlab>, len: u64) -> Result<()> {
            Host.copy(from, to, len)
        }
    }

    impl HostMemory for Odd {
        fn bytes<'a>(&self, slab: &'a HostSlab, span: Span<'a>) -> Result<&'a [u8]> {
            Host.bytes(slab, span)
        }

        fn bytes_mut<'a>(&self, slab: &'a HostSlab, span: SpanMut<'a>) -> Result<&'a mut [u8]> {
            Host.bytes_mut(slab, span)
        }
    }

    /// A pool of 64 KiB, in planned steps of eight blocks of 4 KiB if wanted.
    fn pool(is_planned: bool) -> (Odd, Pool<Odd>, Option<PlannedSteps<Odd>>) {
        let odd = Odd::default();
        let config = Config::new(64 * KIB).slabs(SlabPolicy::Single).zero_on_free(true);
        let pool = Pool::with_backend(odd.clone(), &config).unwrap();
        let planning = is_planned.then(|| {
            let step: Vec<_> = (0..8).map(|index| Lifetime::new(index, 100, 4 * KIB)).collect();
            pool.follow_plan(&step, &plan::solve(&step, &Options::new().align(64)).unwrap()).unwrap()
        });
        (odd, pool, planning)
    }

    fn dirty(pool: &Pool<Odd>, bytes: u64) -> Block<Odd> {
        let mut block = pool.alloc(Request::bytes(bytes).label("dirty")).unwrap();
        block.as_bytes_mut().unwrap().fill(0xa5);
        block
    }

    /// How a place comes to be zeroed. All do so with one block, and keep seven others out.
    const WAYS: [&str; 6] = ["dropped", "held", "moved", "planned, dropped", "planned, held", "unwinding"];

    /// The block's place is zeroed, which goes wrong in this way. Returns where it was.
    fn zero_one(odd: &Odd, pool: &Pool<Odd>, way: &str, wrong: u8) -> (u64, Vec<Block<Odd>>) {
        let mut blocks: Vec<_> = (0..8).map(|_| dirty(pool, 4 * KIB)).collect();
        let mut block = blocks.remove(3);
        let place = block.offset();
        match way {
            "held" | "planned, held" => {
                let hold = block.hold();
                drop(block);
                drop(hold);
                odd.0.store(wrong, Ordering::Relaxed);
                pool.stats();
            }
            "moved" => {
                drop(blocks.remove(0));
                odd.0.store(wrong, Ordering::Relaxed);
                assert_eq!(pool.compact([&mut block]).unwrap().blocks_moved, 1);
                assert_ne!(block.offset(), place);
                blocks.push(block);
            }
            "unwinding" => {
                odd.0.store(wrong, Ordering::Relaxed);
                let caller = catch_unwind(AssertUnwindSafe(|| {
                    let _block = block;
                    panic!("the caller, while the block is held");
                }));
                assert!(caller.is_err());
            }
            _ => {
                odd.0.store(wrong, Ordering::Relaxed);
                drop(block);
            }
        }
        assert_eq!(odd.0.load(Ordering::Relaxed), 0, "{way}: nothing was zeroed");
        (place, blocks)
    }

    /// Neither an error, nor a panic, nor a stream that another thread has loses memory, or shows what was there.
    #[test]
    fn a_place_that_cannot_be_zeroed_now_is_zeroed_later() {
        for (way, wrong) in WAYS.into_iter().flat_map(|way| [FAILS, PANICS, IS_BUSY].map(|wrong| (way, wrong))) {
            let (odd, pool, planning) = pool(way.starts_with("planned"));
            let (_, blocks) = zero_one(&odd, &pool, way, wrong);
            assert_eq!(pool.stats().blocks, blocks.len() as u64);
            assert_eq!(pool.holders()[0].bytes, blocks.len() as u64 * 4 * KIB, "{way}: {:?}", pool.holders());
            drop((blocks, planning));
            let whole = pool.alloc(Request::bytes(64 * KIB)).unwrap();
            assert!(whole.as_bytes().unwrap().iter().all(|byte| *byte == 0), "{way} {wrong}");
            pool.check();
        }
    }

    /// What a block takes behind it is zeroed, or what it leaves there, and that goes wrong. The block stays whole.
    #[test]
    fn a_block_that_grows_or_shrinks_survives_what_goes_wrong() {
        for (wrong, grows) in [FAILS, PANICS, IS_BUSY].into_iter().flat_map(|wrong| [(wrong, false), (wrong, true)]) {
            let (odd, pool, _) = pool(false);
            let mut block = dirty(&pool, if grows { 8 * KIB } else { 16 * KIB });
            odd.0.store(wrong, Ordering::Relaxed);
            let resize =
                AssertUnwindSafe(|| if grows { block.try_grow_zeroed(16 * KIB) } else { block.shrink(8 * KIB) });
            let result = catch_unwind(resize);
            assert_eq!(odd.0.load(Ordering::Relaxed), 0, "{wrong} {grows}: nothing was zeroed");
            let has_failed = grows && wrong != IS_BUSY;
            assert_eq!(!matches!(result, Ok(Ok(()))), has_failed, "{wrong} {grows}");
            pool.check();
            assert!(block.as_bytes().unwrap()[..8 * KIB as usize].iter().all(|byte| *byte == 0xa5), "{wrong} {grows}");
            drop(block);
            pool.check();
            let rest: Vec<_> = std::iter::from_fn(|| pool.alloc(Request::bytes(KIB)).ok()).collect();
            assert_eq!(rest.len(), 64, "{wrong} {grows}");
            assert!(
                rest.iter().all(|block| block.as_bytes().unwrap().iter().all(|byte| *byte == 0)),
                "{wrong} {grows}"
            );
            pool.check();
        }
    }

    /// A block that grows zeroes what is in its way, and a waiter that has room then is served before that returns.
    #[test]
    fn a_growth_that_zeroes_serves_waiters() {
        let (odd, pool, _) = pool(false);
        let mut block = dirty(&pool, 16 * KIB);
        let (behind, wall) = (dirty(&pool, 16 * KIB), dirty(&pool, 32 * KIB));
        odd.0.store(IS_OTHERS, Ordering::Relaxed);
        drop(behind);
        let mut waiter = pin!(pool.alloc_async(Request::bytes(8 * KIB).wait(Duration::from_secs(120))));
        let mut look = || waiter.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(look().is_pending());
        // Whether or not there is room for both.
        let _ = block.try_grow(24 * KIB);
        let Poll::Ready(served) = look() else { panic!("it waits beside {:?}", pool.stats()) };
        assert!(served.unwrap().as_bytes().unwrap().iter().all(|byte| *byte == 0));
        drop((block, wall));
        pool.check();
    }

    /// What another thread is zeroing is as good as free, also where it was a place of an arena.
    #[test]
    fn an_allocation_waits_for_a_thread_that_zeroes() {
        for is_planned in [false, true] {
            let (odd, pool, planning) = pool(is_planned);
            let mut blocks: Vec<_> = (0..8).map(|_| dirty(&pool, 4 * KIB)).collect();
            let block = blocks.remove(3);
            let hold = block.hold();
            drop((block, blocks));
            drop(hold);
            odd.0.store(IS_SLOW, Ordering::Relaxed);
            thread::scope(|scope| {
                scope.spawn(|| pool.stats());
                while odd.0.load(Ordering::Relaxed) != HAS_BEGUN {
                    thread::yield_now();
                }
                drop(planning);
                let other = scope.spawn(|| pool.alloc(Request::bytes(64 * KIB)).map(|block| block.bytes()));
                thread::sleep(Duration::from_millis(50));
                odd.0.store(0, Ordering::Relaxed);
                assert_eq!(other.join().unwrap().unwrap(), 64 * KIB, "planned: {is_planned}");
            });
            pool.check();
        }
    }
}
