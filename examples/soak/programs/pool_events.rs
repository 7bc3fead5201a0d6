//! The events of a program on a pool.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tensorpool::{Block, ErrorKind, Pool, Priority, Result};

use super::disturbed::{Failure, Ground, Planned};
use super::pattern::{Content, Pattern};
use super::pool::{Held, Program, Retired};
use super::pool_judge::Attempt;
use super::pool_model::place_of;
use super::pool_requests::Ask;

/// Blocks that are written and looked at as a whole, and not only in places.
const WHOLE_BYTES_MOST: u64 = 16 << 10;

impl<B: Ground> Program<B> {
    pub fn alloc(&mut self, ask: Ask) {
        self.steps.alloc(ask);
        let request = ask.request(&self.setup);
        self.attempt(&[ask], true, |pool| Ok(vec![pool.alloc(request)?]));
    }

    pub fn alloc_all(&mut self, asks: &[Ask]) {
        let requests: Vec<_> = asks.iter().map(|ask| ask.request(&self.setup)).collect();
        self.attempt(asks, true, |pool| pool.alloc_all(&requests));
    }

    /// A future that is waited for, or looked at once and dropped.
    pub fn alloc_async(&mut self, ask: Ask, is_dropped: bool) {
        let request = ask.request(&self.setup);
        if !is_dropped {
            return self.attempt(&[ask], false, |pool| Ok(vec![pollster::block_on(pool.alloc_async(request))?]));
        }
        let mut is_pending = false;
        self.attempt(&[ask], false, |pool| {
            let mut future = pin!(pool.alloc_async(request));
            match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(block) => Ok(vec![block?]),
                Poll::Pending => {
                    is_pending = true;
                    Ok(Vec::new())
                }
            }
        });
        if is_pending {
            assert!(ask.wait.is_some(), "a future that need not wait");
            self.recount(1);
        }
    }

    /// Whatever comes of a call is looked at: the blocks, the error, or the panic that the program wanted.
    fn attempt(&mut self, asks: &[Ask], may_block: bool, call: impl FnOnce(&Pool<B>) -> Result<Vec<Block<B>>>) {
        let attempt = Attempt::new(self, asks, may_block);
        let planned = self.pool.stats().allocations_planned;
        let result = catch_unwind(AssertUnwindSafe(|| call(&self.pool)));
        self.steps.is_planned = self.pool.stats().allocations_planned > planned;
        match result {
            Ok(Ok(blocks)) => {
                if self.has_planned_batch(asks) {
                    self.books.peaks_may_be_more();
                }
                // Fewer only if a future was given up.
                for (block, ask) in blocks.into_iter().zip(asks) {
                    self.receive(block, ask);
                }
            }
            Ok(Err(error)) => {
                self.judge(&attempt, &error);
                self.recount(asks.len() as u64);
            }
            Err(payload) if payload.is::<Planned>() => self.recount(asks.len() as u64),
            Err(payload) => resume_unwind(payload),
        }
    }

    /// Blocks that nobody has seen may have been handed out and taken back: they count, at most so many.
    fn recount(&mut self, most: u64) {
        let allocations = self.pool.stats().allocations;
        let range = self.books.allocations..=self.books.allocations + most;
        assert!(range.contains(&allocations), "{allocations} allocations, and not {range:?}");
        self.books.allocations = allocations;
        self.books.peaks_may_be_more();
    }

    fn receive(&mut self, mut block: Block<B>, ask: &Ask) {
        assert_eq!((block.bytes(), block.label()), (ask.bytes, self.setup.labels[ask.label].as_str()));
        assert!(ask.align_bytes.is_power_of_two() && ask.align_bytes <= self.limits.alignment_bytes, "{ask:?}");
        let is_high = ask.priority == Priority::High;
        self.books.add(&block, ask.label, is_high, self.limits.alignment_bytes);
        if !is_high && ask.bytes > 0 && !self.steps.is_planned {
            let left_bytes = self.setup.open_bytes() - self.books.used_bytes - self.books.retired_bytes;
            let closed_bytes = self.setup.reserve_bytes.saturating_sub(self.books.high_bytes);
            assert!(left_bytes >= closed_bytes, "{left_bytes} are left, {closed_bytes} are closed: {ask:?}");
        }
        let mut content = None;
        if B::KEEPS_BYTES {
            if ask.zeroed {
                let is_whole = ask.bytes <= WHOLE_BYTES_MOST;
                self.tolerate(|_| Content::zeros(&block).verify(&block, is_whole));
            }
            let is_whole = ask.bytes <= WHOLE_BYTES_MOST && self.patterns.is_multiple_of(8);
            content = self.write_pattern(&mut block, is_whole);
        }
        self.steps.served(place_of(&block));
        self.held.push(Held { block, content, label: ask.label, holds: Vec::new() });
    }

    fn write_pattern(&mut self, block: &mut Block<B>, is_whole: bool) -> Option<Content> {
        self.patterns += 1;
        let pattern = Pattern::Unique(self.patterns);
        self.tolerate(|_| Content::write(block, pattern, is_whole))
    }

    /// Transfers may fail only if they were to.
    fn tolerate<T>(&self, transfer: impl FnOnce(&Self) -> Result<T>) -> Option<T> {
        let is_near = self.trouble.as_ref().is_some_and(|trouble| trouble.is_near());
        match transfer(self) {
            Ok(value) => Some(value),
            Err(error) => {
                assert!(is_near && matches!(error.kind(), ErrorKind::Device | ErrorKind::DeviceLost), "{error}");
                None
            }
        }
    }

    pub fn write(&mut self, index: usize, is_whole: bool) {
        self.verify(index, false);
        let mut held = self.held.swap_remove(index);
        let is_whole = is_whole && held.block.bytes() <= WHOLE_BYTES_MOST;
        held.content = self.write_pattern(&mut held.block, is_whole);
        self.held.push(held);
    }

    pub fn fill(&mut self, index: usize, pattern: [u8; 4], len: usize) {
        self.verify(index, false);
        let mut held = self.held.swap_remove(index);
        held.content = self.tolerate(|_| Content::fill(&mut held.block, pattern, len));
        self.held.push(held);
    }

    pub fn copy(&mut self, from: usize, to: usize) {
        let Ok([from, to]) = self.held.get_disjoint_mut([from, to]) else { return };
        let Some(content) = from.content else { return };
        let is_near = self.trouble.as_ref().is_some_and(|trouble| trouble.is_near());
        to.content = match content.copy(&from.block, &mut to.block) {
            Ok(content) => content,
            Err(error) => {
                assert!(is_near && error.kind() == ErrorKind::Device, "{error}");
                None
            }
        };
    }

    pub fn verify(&self, index: usize, is_whole: bool) {
        let Held { block, content: Some(content), .. } = &self.held[index] else { return };
        if B::KEEPS_BYTES {
            let is_whole = is_whole && block.bytes() <= WHOLE_BYTES_MOST;
            self.tolerate(|_| content.verify(block, is_whole));
        }
    }

    pub fn free(&mut self, index: usize) {
        self.verify(index, self.patterns.is_multiple_of(8));
        let Held { block, label, holds, .. } = self.held.swap_remove(index);
        self.books.remove(&block, label, !holds.is_empty());
        let place = place_of(&block);
        self.steps.freed(place);
        drop(block);
        // Blocks of zero bytes take no place.
        self.retired.extend(place.filter(|_| !holds.is_empty()).map(|place| Retired { place, holds }));
    }

    pub fn free_many(&mut self, from: usize, count: usize) {
        for _ in 0..count.min(self.held.len()) {
            self.free(from % self.held.len());
        }
    }

    /// Ends a hold on a block that is dropped, or else on one that is not.
    pub fn end_hold(&mut self, index: usize) {
        let Some(retired) = self.retired.get_mut(index) else {
            if let Some(held) = self.held.get_mut(index) {
                held.holds.pop();
            }
            return;
        };
        retired.holds.pop();
        if retired.holds.is_empty() {
            let place = self.retired.swap_remove(index).place;
            self.books.vacate(place);
        }
    }

    /// Everything that may be asked of a pool without changing it.
    pub fn look(&mut self) {
        self.books.compare_holders(&self.pool.holders(), &self.setup);
        assert!(!format!("{:?} {}", self.pool, self.pool.stats()).is_empty());
        self.pool.check();
        if self.trail.events().is_multiple_of(2) {
            self.pool.reset_peaks();
            self.books.reset_peaks();
        }
    }

    /// A panic on the pool's own thread is not for this program to catch.
    pub fn may_panic(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.next_creation() == Some(Failure::Panic))
    }
}
