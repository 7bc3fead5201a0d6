//! Which step comes next, and whether that may be relied on.
//!
//! A step is known by a number, which stands for the sizes that it asks for, in order. The next one is expected to be what came after
//! the last four when they came in this order before, or else the same again. A plan is followed only while steps come as expected:
//! a program whose steps vary is served as if nothing were planned.

use std::collections::VecDeque;

/// So many steps are what the next one is told from.
const HISTORY: usize = 4;

/// How many of these histories are remembered, with what came after them.
const HISTORIES_MAX: usize = 64;

/// Where steps have varied, so many in a row must be as expected before a plan is followed.
const WARY: u32 = 8;

/// A plan that was followed for fewer steps than so many times those has not paid: then it takes so many times as many.
const PAYS: u32 = 4;

#[derive(Debug)]
pub(super) struct Expectation {
    /// The last steps, the newest first.
    history: [u64; HISTORY],
    met: VecDeque<([u64; HISTORY], u64)>,
    next: Option<u64>,
    /// Steps in a row that were as expected.
    right: u32,
    /// Steps in a row that were not.
    wrong: u32,
    /// So many in a row make a plan worth following.
    needed: u32,
    /// Steps in a row that have followed one.
    followed: u32,
}

impl Expectation {
    pub(super) fn new() -> Self {
        let (history, met) = ([0; HISTORY], VecDeque::new());
        Self { history, met, next: None, right: 0, wrong: 0, needed: 1, followed: 0 }
    }

    /// Notes the number of the step that has ended, and tells the next one from it.
    pub(super) fn ended(&mut self, step: u64) {
        match self.next {
            Some(next) if next == step => (self.right, self.wrong) = (self.right.saturating_add(1), 0),
            Some(_) => {
                (self.right, self.wrong) = (0, self.wrong.saturating_add(1));
                self.needed = self.needed.max(WARY);
            }
            None => {}
        }
        self.met.retain(|(history, _)| *history != self.history);
        self.met.truncate(HISTORIES_MAX - 1);
        self.met.push_front((self.history, step));
        self.history.rotate_right(1);
        self.history[0] = step;
        let known = self.met.iter().find(|(history, _)| *history == self.history);
        self.next = Some(known.map_or(step, |(_, next)| *next));
    }

    /// Returns the step that is expected next, if enough steps came as expected to follow a plan for it.
    pub(super) fn trusted(&self) -> Option<u64> {
        self.next.filter(|_| self.right >= self.needed)
    }

    /// Returns whether enough steps came as expected to follow a plan even where steps have varied.
    pub(super) fn is_wary_enough(&self) -> bool {
        self.right >= self.needed.max(WARY)
    }

    /// Returns the step that is expected next, if that step coming would be enough.
    pub(super) fn nearly_trusted(&self) -> Option<u64> {
        // Where no two steps are alike not every one is written down.
        let is_hopeless = self.right == 0 && self.wrong > WARY;
        self.next.filter(|_| self.right.saturating_add(1) >= self.needed && !is_hopeless)
    }

    /// Returns whether a step was ever not as expected.
    pub(super) fn has_varied(&self) -> bool {
        self.needed > 1
    }

    /// Counts a step that has followed its plan.
    pub(super) fn followed(&mut self) {
        self.followed = self.followed.saturating_add(1);
    }

    /// Notes that a plan is given up, because a step is not as expected or memory is short.
    pub(super) fn given_up(&mut self) {
        let needed = self.needed.max(WARY);
        self.needed =
            if self.followed < self.needed.saturating_mul(PAYS) { needed.saturating_mul(PAYS) } else { needed };
        (self.right, self.followed) = (0, 0);
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        (self.met.capacity() * size_of::<([u64; HISTORY], u64)>()) as u64
    }
}
