//! The events of a program on a pool: blocks come, are written and looked at, and go.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tensorpool::{Block, ErrorKind, Pool, Priority, Result};

use super::Count;
use super::bombs::caught;
use super::disturbed::Ground;
use super::pattern::{Content, Pattern};
use super::pool::{Held, Program, Retired};
use super::pool_judge::Attempt;
use super::pool_model::{Facts, ensure};
use super::pool_requests::Ask;

/// Blocks that are written and looked at as a whole, and not only in places.
pub const WHOLE_BYTES_MOST: u64 = 16 << 10;

impl<B: Ground> Program<B> {
    pub fn alloc(&mut self, ask: Ask) {
        self.steps.alloc(ask);
        let request = ask.request(&self.setup);
        self.attempt(&[ask], true, |pool| Ok(vec![pool.alloc(request)?]));
    }

    pub fn alloc_all(&mut self, asks: &[Ask]) {
        self.done[Count::Batches] += 1;
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
            self.done[Count::FuturesDropped] += 1;
            assert!(ask.wait.is_some(), "a future that need not wait");
            self.may_have_had(1);
        }
    }

    /// Whatever comes of a call is looked at: the blocks, the error, or the panic that the program wanted.
    fn attempt(&mut self, asks: &[Ask], may_block: bool, call: impl FnOnce(&Pool<B>) -> Result<Vec<Block<B>>>) {
        self.collect();
        self.has_waited |= asks.iter().any(|ask| ask.wait.is_some());
        let attempt = Attempt::new(self, asks, may_block);
        let planned = self.planned_so_far();
        let result = caught(|| call(self.pool()));
        self.steps.is_planned = self.planned_so_far() > planned;
        match result {
            Some(Ok(blocks)) => {
                if self.has_planned_batch(asks) {
                    self.may_have_had(0);
                }
                // Fewer only if a future was given up.
                self.receive_all(blocks, asks, self.record_number());
            }
            Some(Err(error)) => {
                self.judge(&attempt, &error);
                self.may_have_had(asks.len());
            }
            None => self.may_have_had(asks.len()),
        }
    }

    /// So many blocks may have been handed out and taken back before the program saw them.
    pub fn may_have_had(&mut self, blocks: usize) {
        self.books.may_have_had(blocks);
        self.blur_record();
    }

    /// Takes blocks that were handed out while this record was on, if one was.
    pub fn receive_all(&mut self, blocks: Vec<Block<B>>, asks: &[Ask], record: Option<u64>) {
        // What wakers have freed may be what has just been handed out.
        self.collect();
        for (block, ask) in blocks.into_iter().zip(asks) {
            self.receive(block, ask, record);
        }
    }

    fn receive(&mut self, block: Block<B>, ask: &Ask, record: Option<u64>) {
        assert_eq!((block.bytes(), block.label().text()), (ask.bytes, self.setup.labels[ask.label].as_str()));
        assert!(ask.align_bytes.is_power_of_two() && ask.align_bytes <= self.limits.alignment_bytes_max, "{ask:?}");
        let is_high = ask.priority == Priority::High;
        let facts = Facts::of(&block, ask.label, is_high, ask.align_bytes);
        self.books.add(&facts, self.limits.alignment_bytes);
        if !is_high && ask.bytes > 0 && !self.steps.is_planned {
            self.check_reserve(&format!("{ask:?}"));
        }
        self.steps.served(facts.place);
        self.keep(block, facts, ask.zeroed, record);
    }

    /// What was served, which is not of high priority, has left the reserve alone.
    pub fn check_reserve(&self, served: &str) {
        let taken_bytes = self.books.used_bytes + self.books.retired_bytes;
        // The budget may have been lowered since a future was served.
        if self.was_lowered && !self.waiters.is_empty() || taken_bytes > self.setup.open_bytes() {
            return assert!(self.was_lowered && self.has_waited, "above the budget: {served}");
        }
        let left_bytes = self.setup.open_bytes() - taken_bytes;
        let closed_bytes = self.setup.reserve_bytes.saturating_sub(self.books.high_bytes);
        assert!(left_bytes >= closed_bytes, "{left_bytes} are left, {closed_bytes} are closed: {served}");
    }

    /// The program has another block, which is in this record, if there is still that.
    pub fn keep(&mut self, mut block: Block<B>, facts: Facts, is_zeroed: bool, record: Option<u64>) {
        let mut content = None;
        if B::KEEPS_BYTES {
            if is_zeroed || self.setup.zero_on_free {
                let is_whole = facts.bytes <= WHOLE_BYTES_MOST;
                self.tolerate(|| Content::zeros(&block).verify(&block, is_whole));
            }
            let is_whole = facts.bytes <= WHOLE_BYTES_MOST && self.patterns.is_multiple_of(8);
            content = self.write_pattern(&mut block, is_whole);
        }
        let entry = self.record_alloc(&facts, record);
        self.held.push(Held { block, facts, content, holds: Vec::new(), left: Vec::new(), entry });
    }

    fn write_pattern(&mut self, block: &mut Block<B>, is_whole: bool) -> Option<Content> {
        self.patterns += 1;
        let pattern = Pattern::Unique(self.patterns);
        self.tolerate(|| Content::write(block, pattern, is_whole))
    }

    /// Transfers may fail, or panic, only if they were to.
    pub fn tolerate<T>(&self, transfer: impl FnOnce() -> Result<T>) -> Option<T> {
        let is_near = self.trouble.is_near();
        match caught(transfer)? {
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
        held.content = self.tolerate(|| Content::fill(&mut held.block, pattern, len));
        self.held.push(held);
    }

    pub fn copy(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let Some(content) = self.held[from].content else { return };
        let mut target = self.held.swap_remove(to);
        let from = if from == self.held.len() { to } else { from };
        let source = &self.held[from].block;
        target.content = self.tolerate(|| content.copy(source, &mut target.block)).flatten();
        self.held.push(target);
    }

    pub fn verify(&self, index: usize, is_whole: bool) {
        let Held { block, content: Some(content), .. } = &self.held[index] else { return };
        if B::KEEPS_BYTES {
            let is_whole = is_whole && block.bytes() <= WHOLE_BYTES_MOST;
            self.tolerate(|| content.verify(block, is_whole));
        }
    }

    pub fn free(&mut self, index: usize) {
        self.verify(index, self.patterns.is_multiple_of(8));
        let Held { block, facts, holds, left, entry, .. } = self.held.swap_remove(index);
        self.books.remove(&facts, !holds.is_empty());
        self.steps.freed(facts.place);
        self.record_free(entry);
        quietly(|| drop(block));
        // Blocks of zero bytes take no place.
        self.retired.extend(facts.place.filter(|_| !holds.is_empty()).map(|place| Retired { place, holds, left }));
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
                let left = if held.holds.is_empty() { std::mem::take(&mut held.left) } else { Vec::new() };
                if !left.is_empty() {
                    // The pool looks at it before there is another hold on the block, which would keep it.
                    caught(|| self.pool().stats());
                }
                self.vacate_all(left);
            }
            return;
        };
        retired.holds.pop();
        if retired.holds.is_empty() {
            let Retired { place, left, .. } = self.retired.swap_remove(index);
            self.books.vacate(place);
            self.vacate_all(left);
        }
    }

    pub fn trim(&mut self) {
        caught(|| self.pool().trim());
    }

    /// The budget changes, or is refused and stays. Where the pool panics, as the program wants, it says which.
    pub fn set_budget(&mut self, bytes: u64) {
        self.collect();
        let (before_bytes, is_near) = (self.setup.budget_bytes, self.trouble.is_near());
        let result = caught(|| self.pool().set_budget(bytes));
        let trouble = std::sync::Arc::clone(&self.trouble);
        let _pause = trouble.pause();
        let stats = self.pool().stats();
        let least_bytes = self.setup.staging_bytes + self.setup.reserve_bytes;
        // An expanding slab has whole granules of it, and no more than it has addresses.
        let is_expanding = self.address_bytes > 0;
        let is_set = |budget_bytes: u64| budget_bytes == bytes || is_expanding && budget_bytes < bytes;
        match result {
            Some(Ok(over_bytes)) => {
                assert!(is_set(stats.budget_bytes), "{bytes}: {stats:?}");
                assert!(stats.over_budget_bytes() <= over_bytes, "{over_bytes} are over it: {stats:?}");
            }
            Some(Err(error)) => {
                let is_invalid = error.kind() == ErrorKind::Invalid && (bytes < least_bytes || is_expanding);
                assert!(is_invalid || is_near && error.kind() == ErrorKind::Device, "{bytes}: {error}");
                assert_eq!(stats.budget_bytes, before_bytes, "{error}");
            }
            None => {
                let is_right = stats.budget_bytes == before_bytes || is_set(stats.budget_bytes);
                assert!(is_right, "{before_bytes} to {bytes}: {stats:?}");
            }
        }
        self.setup.budget_bytes = stats.budget_bytes;
        self.was_lowered |= stats.budget_bytes < before_bytes;
        let open_bytes = self.setup.open_bytes();
        self.waiters.iter_mut().for_each(|waiter| waiter.open_bytes = waiter.open_bytes.min(open_bytes));
        self.books.set_budget(&stats);
        self.done[Count::Budgets] += 1;
    }

    /// Everything that may be asked of a pool without changing it, and the peaks.
    pub fn look(&mut self) {
        caught(|| self.pool().stats());
        caught(|| self.pool().holders());
        caught(|| assert!(!format!("{:?} {}", self.pool(), self.pool().stats()).is_empty()));
        let trouble = std::sync::Arc::clone(&self.trouble);
        let _pause = trouble.pause();
        if self.waiters.is_empty() {
            self.compare_patiently(Self::try_compare_holders);
            self.pool().check();
        }
        if self.trail.events().is_multiple_of(2) {
            self.pool().reset_peaks();
            // Where another thread may be at work, something may have come or gone just before.
            self.books.reset_peaks(!self.has_waited);
        }
    }

    fn try_compare_holders(&mut self) -> Result<(), String> {
        self.collect();
        let activity = self.office.activity()?;
        let holders = self.pool().holders();
        ensure!(self.office.activity()? == activity, "a waker came in between");
        self.books.compare_holders(&holders, &self.setup)
    }

    /// The last handle goes while blocks are held, some of which are freed meanwhile; another one gives a new handle.
    pub fn orphan(&mut self, freed: usize) {
        if self.record.is_some() || self.is_planning() || freed >= self.held.len() {
            return;
        }
        self.done[Count::LastHandles] += 1;
        let last = self.set_pool(None);
        quietly(|| drop(last));
        self.free_many(0, freed);
        let pool = self.held[0].block.pool();
        self.set_pool(Some(pool));
    }
}

/// Drops something. A drop does not panic, whatever the program's own code does in it.
pub fn quietly(drop: impl FnOnce()) {
    assert!(caught(drop).is_some(), "a drop has panicked");
}
