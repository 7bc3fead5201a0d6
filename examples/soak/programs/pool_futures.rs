//! Futures that wait in line: looked at now and then, dropped half-way, or left alone until their time is over.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use tensorpool::{Block, Error, ErrorKind, Result};

use super::Count;
use super::bombs::caught;
use super::choices::Choices;
use super::disturbed::Ground;
use super::pool::{PATIENCE, Program};
use super::pool_events::quietly;
use super::pool_judge::Attempt;
use super::pool_requests::Ask;
use super::pool_wakers::{Manner, Office, Slot, lock};

/// Futures that wait at a time.
const WAITERS_MOST: usize = 8;

/// Longer than a program takes.
const HOUR: Duration = Duration::from_secs(3600);

/// A future that was looked at, and had nothing.
pub struct Waiter<B: Ground> {
    slot: Slot<B>,
    asks: Vec<Ask>,
    /// It has been woken since it was last looked at.
    bell: Arc<AtomicBool>,
    since: Instant,
    /// How long it waits.
    patience: Duration,
    is_neglected: bool,
    /// How much had gone wrong when it began to wait.
    faults: u64,
    /// The record that was on when it began to wait.
    record: Option<u64>,
    /// The least that blocks could have together since then.
    pub open_bytes: u64,
}

impl<B: Ground> Waiter<B> {
    pub fn may_do_all(&self) -> bool {
        self.asks.iter().all(Ask::may_do_all)
    }

    /// Whether the pool may let it go.
    fn is_late(&self) -> bool {
        self.since.elapsed() >= self.patience
    }
}

/// `None` if it panicked as the program wants, or is gone.
type Polled<B> = Option<Poll<Result<Vec<Block<B>>>>>;

/// Looks at a future, with a waker of this manner.
pub fn poll_slot<B: Ground>(
    office: &Arc<Office<B>>,
    slot: &Slot<B>,
    bell: &Arc<AtomicBool>,
    manner: Manner,
) -> Polled<B> {
    bell.store(false, SeqCst);
    let mut slot = lock(slot);
    let future = slot.as_mut()?;
    let waker = office.waker(manner, bell);
    let polled = caught(|| future.as_mut().poll(&mut Context::from_waker(&waker)));
    let ended = if matches!(polled, Some(Poll::Pending)) { None } else { slot.take() };
    drop(slot);
    quietly(|| drop(ended));
    caught(|| drop(waker));
    polled
}

impl<B: Ground> Program<B> {
    /// A future for one block or some, that waits if it has to.
    pub fn join(&mut self, asks: &[Ask], manner: Manner, choices: &mut impl Choices) {
        if self.waiters.len() == WAITERS_MOST {
            return;
        }
        self.has_waited = true;
        self.collect();
        let patience = choices.pick(&[HOUR, HOUR, HOUR, HOUR, Duration::from_millis(2), Duration::ZERO]);
        let asks: Vec<Ask> = asks.iter().map(|ask| Ask { wait: Some(patience), ..*ask }).collect();
        let requests: Vec<_> = asks.iter().map(|ask| ask.request(&self.setup)).collect();
        let future: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = match &requests[..] {
            [request] => {
                let future = self.pool().alloc_async(request.clone());
                Box::pin(async move { Ok(vec![future.await?]) })
            }
            requests => Box::pin(self.pool().alloc_all_async(requests)),
        };
        let waiter = Waiter {
            slot: Arc::new(Mutex::new(Some(future))),
            asks,
            bell: Arc::default(),
            since: Instant::now(),
            patience,
            is_neglected: false,
            faults: self.trouble.faults(),
            record: self.record_number(),
            open_bytes: self.setup.open_bytes(),
        };
        let attempt = Attempt::new(self, &waiter.asks, false);
        let polled = self.poll_slot(&waiter, manner);
        match polled {
            Some(Poll::Pending) => {
                self.office.watch(&waiter.slot);
                self.may_have_had(0);
                self.waiters.push(waiter);
            }
            // Refused at once, as any other request.
            Some(Poll::Ready(Err(error))) => {
                self.judge(&attempt, &error);
                self.may_have_had(waiter.asks.len());
            }
            Some(Poll::Ready(Ok(blocks))) => self.receive_all(blocks, &waiter.asks, waiter.record),
            None => self.give_up(waiter),
        }
    }

    fn poll_slot(&self, waiter: &Waiter<B>, manner: Manner) -> Polled<B> {
        poll_slot(&self.office, &waiter.slot, &waiter.bell, manner)
    }

    /// Looks at a future again, with another waker.
    pub fn poll(&mut self, index: usize, manner: Manner) {
        if self.waiters[index].is_neglected && !self.waiters[index].is_late() {
            return;
        }
        self.collect();
        match self.poll_slot(&self.waiters[index], manner) {
            Some(Poll::Pending) => {
                let waiter = &self.waiters[index];
                let late = waiter.since.elapsed().saturating_sub(waiter.patience);
                assert!(late < PATIENCE, "nothing came of {:?} in {:?}", waiter.asks, waiter.since.elapsed());
            }
            Some(Poll::Ready(result)) => {
                let waiter = self.remove_waiter(index);
                self.may_have_had(0);
                self.resolve(&waiter, result);
            }
            None => {
                let waiter = self.remove_waiter(index);
                self.give_up(waiter);
            }
        }
    }

    fn remove_waiter(&mut self, index: usize) -> Waiter<B> {
        let waiter = self.waiters.swap_remove(index);
        self.office.unwatch(&waiter.slot);
        waiter
    }

    fn resolve(&mut self, waiter: &Waiter<B>, result: Result<Vec<Block<B>>>) {
        match result {
            Ok(blocks) => {
                assert_eq!(blocks.len(), waiter.asks.len(), "blocks for {:?}", waiter.asks);
                self.receive_all(blocks, &waiter.asks, waiter.record);
            }
            Err(error) => {
                assert!(self.may_fail(waiter, &error), "{:?} for {:?}: {error}", error.kind(), waiter.asks);
                self.may_have_had(waiter.asks.len());
            }
        }
    }

    /// Whether a future that waited may have ended so.
    fn may_fail(&self, waiter: &Waiter<B>, error: &Error) -> bool {
        let had_trouble = self.trouble.is_near() || self.trouble.faults() > waiter.faults;
        match error.kind() {
            ErrorKind::Timeout => waiter.is_late(),
            ErrorKind::OverBudget => {
                let (asks, open_bytes) = (&waiter.asks, waiter.open_bytes);
                self.is_over_budget(asks, open_bytes) || self.may_lack_places(asks, open_bytes)
            }
            ErrorKind::Device => had_trouble || self.trouble.has_cleared_line(error),
            ErrorKind::OutOfMemory => had_trouble,
            ErrorKind::DeviceLost => self.trouble.is_lost(),
            _ => false,
        }
    }

    /// A future is gone, with what it had.
    fn give_up(&mut self, waiter: Waiter<B>) {
        self.done[Count::FuturesDropped] += 1;
        let future = lock(&waiter.slot).take();
        quietly(|| drop(future));
        self.may_have_had(waiter.asks.len());
    }

    /// Drops a future half-way.
    pub fn leave(&mut self, index: usize) {
        let waiter = self.remove_waiter(index);
        self.give_up(waiter);
    }

    /// As a future that is forgotten, as far as the pool can tell; until its time is over.
    pub fn neglect(&mut self, index: usize) {
        let waiter = &mut self.waiters[index];
        waiter.is_neglected = waiter.patience < HOUR;
    }

    /// Looks at all that were woken, and at the neglected ones whose time is over.
    pub fn poll_rung(&mut self) {
        for index in (0..self.waiters.len()).rev() {
            let waiter = &self.waiters[index];
            let is_rung = waiter.bell.load(SeqCst) && !waiter.is_neglected;
            if is_rung || waiter.is_neglected && waiter.is_late() {
                self.poll(index, Manner::Quiet);
            } else if lock(&waiter.slot).is_none() {
                let waiter = self.remove_waiter(index);
                self.may_have_had(waiter.asks.len());
            }
        }
    }

    /// Bytes and blocks that may have been handed to futures that are not looked at. `None` if there are no such futures.
    pub fn neglected(&self) -> Option<(u64, u64)> {
        let neglected = self.waiters.iter().filter(|waiter| waiter.is_neglected);
        neglected.fold(None, |sum, waiter| {
            let (bytes, blocks) = sum.unwrap_or((0, 0));
            let asked_bytes = waiter.asks.iter().fold(bytes, |sum, ask| sum.saturating_add(ask.bytes));
            Some((asked_bytes, blocks + waiter.asks.len() as u64))
        })
    }

    /// All futures are looked at until something has come of them. There must be room for each by itself.
    pub fn serve_all(&mut self) {
        let start = Instant::now();
        while !self.waiters.is_empty() {
            self.waiters.iter_mut().for_each(|waiter| waiter.is_neglected = false);
            for index in (0..self.waiters.len()).rev() {
                self.poll(index, Manner::Quiet);
            }
            // One that is served may have to be freed for the next.
            self.free_many(0, self.held.len());
            let left = self.waiters.first().map(|waiter| &waiter.asks);
            assert!(start.elapsed() < PATIENCE, "still in line, with nothing held: {left:?}");
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// All futures end with an error of this kind, if they were not served before.
    pub fn dismiss_all(&mut self, kind: ErrorKind) {
        let start = Instant::now();
        while !self.waiters.is_empty() {
            for index in (0..self.waiters.len()).rev() {
                match self.poll_slot(&self.waiters[index], Manner::Quiet) {
                    Some(Poll::Pending) => {}
                    Some(Poll::Ready(Err(error))) => {
                        let waiter = self.remove_waiter(index);
                        assert!(error.kind() == kind || self.may_fail(&waiter, &error), "{error}");
                        self.may_have_had(waiter.asks.len());
                    }
                    Some(Poll::Ready(Ok(blocks))) => {
                        let waiter = self.remove_waiter(index);
                        self.receive_all(blocks, &waiter.asks, waiter.record);
                    }
                    None => self.leave(index),
                }
            }
            assert!(start.elapsed() < PATIENCE, "still in line: {:?}", self.waiters[0].asks);
            thread::sleep(Duration::from_micros(50));
        }
    }
}
