//! Planned steps, records, futures, handles and trouble of one thread of several.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tensorpool::plan::{self, Options};
use tensorpool::{ErrorKind, Pool, Request};

use super::bombs::{Bomb, CALLBACKS, Payload};
use super::disturbed::Disturbed;
use super::pool_events::quietly;
use super::pool_futures::poll_slot;
use super::pool_record::{Paper, Pen};
use super::pool_wakers::{Manner, Slot, lock};
use super::threads_table::{Held, PATIENCE, STEP_BLOCKS, STEP_BYTES, step};
use super::threads_worker::{Waiting, Worker};
use super::trouble::Failure;
use super::{Choices, Count};

/// Futures that a thread has at most.
const FUTURES_MOST: usize = 4;

/// Bombs for each time that calls are to fail.
const BOMBS: u64 = 3;

impl Worker<'_> {
    /// The step that all threads repeat, as far as there is room.
    pub fn step(&mut self) {
        self.call(Pool::mark_step);
        let mut alive = VecDeque::new();
        for bytes in STEP_BYTES {
            if alive.len() == STEP_BLOCKS {
                self.end_of_step(&mut alive, STEP_BLOCKS - 1);
            }
            match self.call(|pool| pool.alloc(Request::bytes(bytes))) {
                Some(Ok(block)) => alive.push_back(self.fill(block)),
                result => self.receive(result.map(|result| result.map(|block| vec![block])), bytes, false),
            }
        }
        self.end_of_step(&mut alive, 0);
    }

    fn end_of_step(&self, alive: &mut VecDeque<Held>, left: usize) {
        while alive.len() > left
            && let Some(held) = alive.pop_front()
        {
            self.verify(&held, true);
            quietly(|| drop(held));
        }
    }

    pub fn begin_steps(&mut self) {
        let result = if self.choices.chance(1, 2) {
            self.call(Pool::auto_plan)
        } else {
            let step = step();
            let plan = plan::solve(&step, &Options::new().align(64)).expect("a plan of eight blocks");
            self.call(|pool| pool.follow_plan(&step, &plan))
        };
        match result {
            None => {}
            Some(Ok(planning)) => {
                let before = lock(&self.table.planning).replace(planning);
                assert!(before.is_none(), "planned twice");
            }
            Some(Err(error)) => {
                let is_right = error.kind() == ErrorKind::Invalid || error.is_no_room() || self.may_fail(&error);
                assert!(is_right, "{:?}: {error}", error.kind());
            }
        }
    }

    pub fn begin_record(&mut self) {
        let manner = self.choices.pick(&[Manner::Quiet, Manner::Borrows(100), Manner::Frees]);
        let paper = Paper::draw(&mut self.choices).with(manner);
        let (pen, sheet) = Pen::new(paper, &self.table.office);
        match self.call(|pool| pool.record_with(pen, &paper.options())) {
            None => {}
            Some(Ok(recording)) => {
                let before = lock(&self.table.record).replace((recording, sheet));
                assert!(before.is_none(), "recorded twice");
            }
            Some(Err(error)) => {
                let is_right = error.kind() == ErrorKind::Invalid || sheet.has_failed();
                assert!(is_right, "{:?}: {error}", error.kind());
            }
        }
    }

    fn manner(&mut self) -> Manner {
        match self.choices.below(6) {
            0 => Manner::Borrows(self.choices.even_in_log(4096)),
            1 => Manner::Frees,
            2 => Manner::Drops(self.choices.below(8) as usize),
            _ => Manner::Quiet,
        }
    }

    pub fn join(&mut self) {
        if self.waiting.len() == FUTURES_MOST {
            return self.poll();
        }
        let bytes = self.choices.even_in_log(self.table.budget_bytes / 2);
        let patience = self.choices.pick(&[Duration::ZERO, Duration::from_millis(1), PATIENCE, PATIENCE]);
        let request = Request::bytes(bytes).priority(self.priority()).wait(patience);
        let Some(future) = self.call(|pool| pool.alloc_async(request)) else { return };
        let slot: Slot<Disturbed> = Arc::new(Mutex::new(Some(Box::pin(async move { Ok(vec![future.await?]) }))));
        self.table.office.watch(&slot);
        self.waiting.push(Waiting { slot, bytes, bell: Arc::default() });
        self.poll_at(self.waiting.len() - 1);
    }

    pub fn poll(&mut self) {
        if let Some(most) = self.waiting.len().checked_sub(1) {
            let index = self.choices.below(most as u64 + 1) as usize;
            self.poll_at(index);
        }
    }

    fn poll_at(&mut self, index: usize) {
        let manner = self.manner();
        let Waiting { slot, bytes, bell } = &self.waiting[index];
        let (polled, bytes) = (poll_slot(&self.table.office, slot, bell, manner), *bytes);
        if let Some(Poll::Pending) = polled {
            return;
        }
        let waiting = self.waiting.swap_remove(index);
        self.table.office.unwatch(&waiting.slot);
        if let Some(Poll::Ready(result)) = polled {
            self.receive(Some(result), bytes, false);
        }
    }

    /// Drops a future half-way.
    pub fn forsake(&mut self) {
        if let Some(waiting) = self.waiting.pop() {
            self.table.office.unwatch(&waiting.slot);
            let future = lock(&waiting.slot).take();
            self.done[Count::FuturesDropped] += u64::from(future.is_some());
            quietly(|| drop(future));
        }
    }

    pub fn orphan(&mut self) {
        if let Some(held) = self.held.first() {
            let office = &self.table.office;
            quietly(|| office.set_pool(None));
            quietly(|| office.set_pool(Some(held.block.pool())));
            self.done[Count::LastHandles] += 1;
        }
    }

    pub fn disturb(&mut self) {
        if !self.table.is_troubled {
            return;
        }
        let trouble = &self.table.trouble;
        if self.choices.below(BOMBS + 1) > 0 {
            return trouble.arm(Some(Bomb {
                callback: self.choices.pick(&CALLBACKS),
                fuse: self.choices.even_in_log(20),
                times: self.choices.pick(&[1, 1, 1, 3]),
                payload: self.choices.pick(&[Payload::Plain, Payload::Plain, Payload::Panics]),
            }));
        }
        let how = self.choices.pick(&[Failure::OutOfMemory, Failure::OutOfMemory, Failure::Device, Failure::Panic]);
        trouble.fail_creations(self.choices.below(3), how);
        trouble.fail_transfers(self.choices.below(3));
        trouble.postpone_zeroings(self.choices.pick(&[0, 0, 1, 5]));
        trouble.fail_write(self.choices.pick(&[0, 0, 1, 2]));
    }
}
