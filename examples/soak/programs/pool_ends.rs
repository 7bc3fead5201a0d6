//! How a program on a pool ends: nothing is left of it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tensorpool::{ErrorKind, Request};

use super::choices::Choices;
use super::disturbed::Ground;
use super::pool::{PATIENCE, Program};
use super::pool_events::quietly;
use super::{Count, Done};

impl<B: Ground> Program<B> {
    /// The pool ends in one of four ways; nothing is left of it.
    pub fn end(mut self, choices: &mut impl Choices) -> Done {
        self.calm_down();
        let stats = self.pool().stats();
        self.done[Count::Waited] = stats.allocations_waited;
        self.done[Count::Planned] = stats.allocations_planned;
        if choices.chance(1, 2) {
            self.end_steps();
        }
        match choices.below(4) {
            0 => self.end_empty(),
            1 => self.end_closed(),
            2 => self.end_without_handle(),
            _ => self.end_lost(),
        }
        let most_bytes = self.books.budget_peak_bytes() - self.setup.staging_bytes;
        let trouble = Arc::clone(&self.trouble);
        self.give_up_all();
        let mut done = self.done;
        done[Count::Operations] = self.trail.events();
        (done[Count::Faults], done[Count::Panics]) = (trouble.faults(), trouble.panics());
        drop(self);
        // The pool's own thread may still have it for a moment.
        let start = Instant::now();
        while trouble.reserved_bytes() > 0 {
            assert!(start.elapsed() < PATIENCE, "{} bytes are left behind", trouble.reserved_bytes());
            thread::sleep(Duration::from_micros(50));
        }
        assert!(trouble.reserved_peak_bytes() <= most_bytes, "over the budget, at some moment");
        done
    }

    /// Nothing fails any more.
    fn calm_down(&mut self) {
        self.trouble.calm_down();
        self.take_offered();
        self.collect();
        self.look();
        self.compare();
    }

    /// What the program has of the pool's goes, in any order.
    fn give_up_all(&mut self) {
        while !self.waiters.is_empty() {
            self.leave(0);
        }
        self.end_record(false);
        self.take_offered();
        self.collect();
        self.free_many(0, self.held.len());
        self.end_steps();
        let pool = self.set_pool(None);
        quietly(|| drop(pool));
    }

    /// All blocks are freed, all slabs go back.
    fn end_empty(&mut self) {
        for index in (0..self.waiters.len()).rev() {
            if !self.waiters[index].may_do_all() || self.setup.reserve_bytes > 0 {
                self.leave(index);
            }
        }
        self.free_all();
        self.serve_all();
        self.take_offered();
        self.free_all();
        self.end_record(true);
        self.collect();
        self.free_all();
        self.compare();
        self.pool().trim();
        let stats = self.pool().stats();
        assert_eq!(stats.reserved_bytes, stats.staging_bytes, "after the last block: {stats:?}");
        self.pool().check();
    }

    fn free_all(&mut self) {
        self.free_many(0, self.held.len());
        while !self.retired.is_empty() {
            self.end_hold(0);
        }
    }

    /// The pool is closed while blocks are held: they stay what they are.
    fn end_closed(&mut self) {
        let holders = self.pool().clone().close();
        if self.waiters.is_empty() {
            self.books.compare_holders(&holders, &self.setup).unwrap_or_else(|difference| panic!("{difference}"));
        }
        self.dismiss_all(ErrorKind::Closed);
        for bytes in [0, 1, u64::MAX] {
            let error = self.pool().alloc(Request::bytes(bytes)).map(drop).unwrap_err();
            let is_too_large = bytes > 0 && error.kind() == ErrorKind::TooLarge;
            assert!(error.kind() == ErrorKind::Closed || is_too_large, "{bytes} bytes: {error}");
        }
        self.compare();
        self.free_many(0, self.held.len());
        self.compare();
        self.pool().check();
    }

    /// Blocks outlive the last handle, and give a new one.
    fn end_without_handle(&mut self) {
        while !self.waiters.is_empty() {
            self.leave(0);
        }
        self.end_record(true);
        self.end_steps();
        if self.held.is_empty() {
            return;
        }
        self.orphan(0);
        self.free_many(0, self.held.len());
        self.compare();
    }

    /// The device is lost: nothing is served, everything is given back.
    fn end_lost(&mut self) {
        if !self.is_disturbed {
            return self.end_empty();
        }
        self.trouble.lose();
        for ask in [Request::bytes(0), Request::bytes(1), Request::bytes(1000).zeroed()] {
            let error = self.pool().alloc(ask).map(drop).unwrap_err();
            assert!(error.is_device_lost(), "{error}");
        }
        self.dismiss_all(ErrorKind::DeviceLost);
        self.free_many(0, self.held.len());
        self.compare();
        self.pool().check();
    }
}
