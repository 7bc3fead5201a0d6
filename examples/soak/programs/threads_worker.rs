//! One thread of a program of several: what it does, event by event.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tensorpool::{Block, Error, ErrorKind, Hold, Pool, Priority, Request, Result};

use super::bombs::caught;
use super::disturbed::Disturbed;
use super::pattern::{Content, Pattern};
use super::pool_compact::lost_most;
use super::pool_events::quietly;
use super::pool_model::place_of;
use super::pool_wakers::{Slot, lock};
use super::threads::Desk;
use super::threads_table::{Held, PATIENCE, Table};
use super::{Choices, Count, Done, Random, logger};

/// Blocks that a thread has at most.
const BLOCKS_MOST: usize = 40;
/// Blocks that are written and looked at as a whole.
const WHOLE_BYTES_MOST: u64 = 4096;

/// What a thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Begin,
    Alloc,
    AllocPatiently,
    Free,
    Give,
    Take,
    /// A block is offered to wakers to free.
    Offer,
    Hold,
    /// A block grows or shrinks in place.
    Resize,
    Trim,
    SetBudget,
    Look,
    Compact,
    Step,
    BeginSteps,
    EndSteps,
    BeginRecord,
    EndRecord,
    Join,
    Poll,
    Forsake,
    /// The table's handle goes, which may be the last, and a block gives another.
    Orphan,
    /// Something is going to go wrong.
    Disturb,
    End,
}

/// All events of a program, and how often each happens.
const EVENTS: [(Event, u32); 22] = [
    (Event::Alloc, 60),
    (Event::AllocPatiently, 4),
    (Event::Free, 40),
    (Event::Give, 20),
    (Event::Take, 20),
    (Event::Offer, 6),
    (Event::Hold, 6),
    (Event::Resize, 10),
    (Event::Trim, 2),
    (Event::SetBudget, 3),
    (Event::Look, 4),
    (Event::Compact, 4),
    (Event::Step, 6),
    (Event::BeginSteps, 1),
    (Event::EndSteps, 1),
    (Event::BeginRecord, 2),
    (Event::EndRecord, 2),
    (Event::Join, 8),
    (Event::Poll, 8),
    (Event::Forsake, 4),
    (Event::Orphan, 4),
    (Event::Disturb, 2),
];

/// A future on its way.
pub struct Waiting {
    pub slot: Slot<Disturbed>,
    pub bytes: u64,
    pub bell: Arc<AtomicBool>,
}

pub struct Worker<'a> {
    pub table: &'a Table,
    desk: &'a Desk,
    pub choices: Random,
    pub held: Vec<Held>,
    holds: Vec<Hold>,
    pub waiting: Vec<Waiting>,
    pub done: Done,
}

impl<'a> Worker<'a> {
    pub fn new(table: &'a Table, desk: &'a Desk, choices: Random) -> Self {
        let (held, holds, waiting) = (Vec::new(), Vec::new(), Vec::new());
        Self { table, desk, choices, held, holds, waiting, done: Done::default() }
    }

    pub fn run(mut self, events: u64) -> Done {
        logger::attend(&self.table.trouble);
        let mut weights = self.choices.swarm::<{ EVENTS.len() }>();
        weights.iter_mut().zip(EVENTS).for_each(|(weight, (_, common))| *weight = (*weight + 1) * common);
        for _ in 0..events {
            let event = EVENTS[self.choices.weighted(&weights)].0;
            let event = if self.held.len() < BLOCKS_MOST { event } else { Event::Free };
            self.desk.begin(event);
            self.apply(event);
        }
        self.desk.begin(Event::End);
        self.leave();
        logger::forget();
        self.done
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Begin | Event::End => {}
            Event::Alloc => self.alloc(),
            Event::AllocPatiently => self.alloc_patiently(),
            Event::Free => self.free(),
            Event::Give => {
                if let Some(held) = self.held.pop() {
                    lock(&self.table.given).push(held);
                }
            }
            Event::Take => self.take(),
            Event::Offer => {
                if let Some(held) = self.held.pop() {
                    self.verify(&held, false);
                    self.table.office.offer(0, held.block);
                }
            }
            Event::Hold => self.hold(),
            Event::Resize => self.resize(),
            Event::Trim => drop(self.call(Pool::trim)),
            Event::SetBudget => self.set_budget(),
            Event::Look => self.look(),
            Event::Compact => self.compact(),
            Event::Step => self.step(),
            Event::BeginSteps => self.begin_steps(),
            Event::EndSteps => self.table.end_steps(),
            Event::BeginRecord => self.begin_record(),
            Event::EndRecord => {
                let is_finished = self.choices.chance(1, 2);
                self.done[Count::Recorded] += self.table.end_record(is_finished);
            }
            Event::Join => self.join(),
            Event::Poll => self.poll(),
            Event::Forsake => self.forsake(),
            Event::Orphan => self.orphan(),
            Event::Disturb => self.disturb(),
        }
    }

    /// A handle of the pool; `None` if the table has none at the moment, nor this thread a block.
    fn pool(&mut self) -> Option<Pool<Disturbed>> {
        let of_table = self.table.office.pool();
        of_table.or_else(|| self.held.first().map(|held| held.block.pool()))
    }

    /// What comes of a call, unless it panics as the program wants. Its handle may be the last.
    pub fn call<T>(&mut self, call: impl FnOnce(&Pool<Disturbed>) -> T) -> Option<T> {
        let Some(pool) = self.pool() else {
            // What the call would have had may panic in its drop.
            caught(|| drop(call));
            return None;
        };
        let result = caught(|| call(&pool));
        quietly(|| drop(pool));
        result
    }

    /// Gives everything back, also what others have left for a thread that may be waiting.
    fn leave(&mut self) {
        while !self.waiting.is_empty() {
            self.forsake();
        }
        self.holds.clear();
        while !self.held.is_empty() {
            self.free();
        }
        let given = mem::take(&mut *lock(&self.table.given));
        for held in given {
            self.verify(&held, true);
            quietly(|| drop(held));
        }
        quietly(|| drop(self.table.office.take_offered()));
    }

    /// Some bytes, now or soon; one block, or a few.
    fn alloc(&mut self) {
        let bytes = self.choices.even_in_log(self.table.budget_bytes / 2);
        let mut request = Request::bytes(bytes).priority(self.priority());
        if self.choices.chance(1, 16) {
            request = request.wait(Duration::from_micros(self.choices.below(300)));
        }
        if self.choices.chance(1, 4) {
            request = request.label("some");
        }
        let result = match self.choices.below(16) {
            0 => {
                self.done[Count::Batches] += 1;
                self.call(|pool| pool.alloc_all(&[request, Request::bytes(bytes / 2), Request::bytes(1)]))
            }
            1 => self.call(|pool| pollster::block_on(pool.alloc_async(request)).map(|block| vec![block])),
            _ => self.call(|pool| pool.alloc(request).map(|block| vec![block])),
        };
        self.receive(result, bytes, false);
    }

    /// Holds nothing, and waits until it is served.
    fn alloc_patiently(&mut self) {
        self.leave();
        let bytes = self.choices.even_in_log(self.table.budget_bytes / 8);
        let request = Request::bytes(bytes).priority(self.priority()).wait(PATIENCE);
        let result = match self.choices.below(3) {
            0 => self.call(|pool| pool.alloc_all(&[request.clone(), request])),
            1 => self.call(|pool| pollster::block_on(pool.alloc_async(request)).map(|block| vec![block])),
            _ => self.call(|pool| pool.alloc(request).map(|block| vec![block])),
        };
        self.receive(result, bytes, true);
    }

    pub fn priority(&mut self) -> Priority {
        self.choices.pick(&[Priority::Low, Priority::Normal, Priority::Normal, Priority::High])
    }

    pub fn receive(&mut self, result: Option<Result<Vec<Block<Disturbed>>>>, bytes: u64, must_be_served: bool) {
        match result {
            None => {}
            Some(Ok(blocks)) => {
                assert!(blocks[0].bytes() == bytes, "{:?} for {bytes} bytes", blocks[0]);
                for block in blocks {
                    let held = self.fill(block);
                    self.held.push(held);
                }
            }
            Some(Err(error)) => {
                let is_no_room = error.is_no_room() && !must_be_served;
                assert!(is_no_room || self.may_fail(&error), "{:?}: {error}", error.kind());
            }
        }
    }

    pub fn may_fail(&self, error: &Error) -> bool {
        self.table.is_troubled && matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::Device)
    }

    /// Looks at a new block, and writes into it.
    pub fn fill(&self, mut block: Block<Disturbed>) -> Held {
        let is_whole = block.bytes() <= WHOLE_BYTES_MOST;
        if self.table.zero_on_free {
            self.tolerate(|| Content::zeros(&block).verify(&block, is_whole));
        }
        let pattern = Pattern::Unique(self.table.next_pattern());
        let content = self.tolerate(|| Content::write(&mut block, pattern, is_whole));
        Held { block, content }
    }

    /// A transfer may fail, or panic, only where things go wrong.
    fn tolerate<T>(&self, transfer: impl FnOnce() -> Result<T>) -> Option<T> {
        match caught(transfer)? {
            Ok(value) => Some(value),
            Err(error) => {
                assert!(self.may_fail(&error), "{error}");
                None
            }
        }
    }

    pub fn verify(&self, Held { block, content }: &Held, is_whole: bool) {
        if let Some(content) = content {
            self.tolerate(|| content.verify(block, is_whole));
        }
    }

    fn free(&mut self) {
        let Some(index) = self.held.len().checked_sub(1) else { return };
        let index = self.choices.below(index as u64 + 1) as usize;
        let held = self.held.swap_remove(index);
        let is_whole = self.choices.chance(1, 4);
        self.verify(&held, is_whole);
        quietly(|| drop(held));
    }

    fn take(&mut self) {
        let taken = lock(&self.table.given).pop();
        if let Some(held) = taken {
            self.verify(&held, false);
            self.held.push(held);
        }
    }

    fn hold(&mut self) {
        match self.held.last() {
            Some(held) if self.holds.len() < 8 => {
                self.done[Count::Holds] += 1;
                self.holds.push(held.block.hold());
            }
            _ => self.holds.clear(),
        }
    }

    /// The block that came last grows or shrinks. It has what it had, as far as that goes.
    fn resize(&mut self) {
        let Some(mut held) = self.held.pop() else { return };
        let (before, place) = (held.block.bytes(), place_of(&held.block));
        let bytes = match self.choices.below(3) {
            0 => self.choices.below(before) + 1,
            1 => before + self.choices.even_in_log(4096),
            _ => before + self.choices.below(before + 1),
        };
        let is_zeroed = self.choices.chance(1, 4);
        let result = caught(|| match is_zeroed {
            _ if bytes < before => held.block.shrink(bytes),
            true => held.block.try_grow_zeroed(bytes),
            false => held.block.try_grow(bytes),
        });
        match &result {
            Some(Ok(())) => {
                assert_eq!(held.block.bytes(), bytes);
                self.done[Count::Resized] += 1;
            }
            Some(Err(error)) => {
                let is_refused = matches!(error.kind(), ErrorKind::NotInPlace | ErrorKind::Full);
                assert!(is_refused || self.may_fail(error), "{:?}: {error}", error.kind());
                assert_eq!(held.block.bytes(), before);
            }
            None => {}
        }
        assert_eq!(place_of(&held.block), place);
        held.content = held.content.and_then(|content| content.within(held.block.bytes()));
        let is_whole = held.block.bytes() <= WHOLE_BYTES_MOST;
        self.verify(&held, is_whole);
        self.held.push(held);
    }

    fn look(&mut self) {
        let Some(stats) = self.call(Pool::stats) else { return };
        let parts_bytes =
            stats.used_bytes + stats.cached_bytes + stats.retired_bytes + stats.free_bytes + stats.staging_bytes;
        assert_eq!(parts_bytes, stats.reserved_bytes, "the parts: {stats:?}");
        // The budget may be lower by now.
        assert!(stats.reserved_bytes <= self.table.budget_bytes, "{stats:?}");
        self.call(Pool::holders);
    }

    /// The budget changes, to what threads that wait can still be served in.
    fn set_budget(&mut self) {
        if self.table.keeps_budget {
            return;
        }
        let bytes = self.table.budget_bytes - self.choices.below(self.table.budget_bytes / 4);
        if let Some(Err(error)) = self.call(|pool| pool.set_budget(bytes)) {
            panic!("{error}");
        }
        self.done[Count::Budgets] += 1;
    }

    /// Lends the pool all blocks. They may move, and have what they had.
    fn compact(&mut self) {
        let Some(pool) = self.pool() else { return };
        let before: Vec<_> = self.held.iter().map(|held| place_of(&held.block)).collect();
        let result = caught(|| pool.compact(self.held.iter_mut().map(|held| &mut held.block)));
        quietly(|| drop(pool));
        if let Some(Err(error)) = &result {
            assert!(self.may_fail(error), "{error}");
        }
        let mut lost = 0;
        for (index, place) in before.into_iter().enumerate() {
            let Held { block, content } = &self.held[index];
            self.done[Count::Moved] += u64::from(place_of(block) != place);
            let Some(known) = content else { continue };
            match self.tolerate(|| known.differs(block, block.bytes() <= WHOLE_BYTES_MOST)) {
                Some(None) => continue,
                Some(Some(difference)) => {
                    lost += 1;
                    assert!(lost <= lost_most(&result), "{difference}");
                }
                // The look at it has failed. It may be the one that is lost.
                None if lost_most(&result) > 0 => {}
                None => continue,
            }
            self.held[index].content = None;
        }
        self.done[Count::Compactions] += 1;
    }
}
