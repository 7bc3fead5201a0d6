//! Planned steps in a program on a pool: what it did between two marks it does again, more or less, while the pool plans it.
//!
//! Nothing is asked of the plan: its blocks are looked at as all others, and the books are the same.

use std::collections::HashMap;
use std::mem;

use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::{Backend, PlannedSteps};

use super::Choices;
use super::bombs::caught;
use super::disturbed::Ground;
use super::pool::Program;
use super::pool_choose::Event;
use super::pool_events::quietly;
use super::pool_model::Place;
use super::pool_requests::Ask;

/// Events of a step that are repeated at most.
const EVENTS_MOST: usize = 100;

/// A step is repeated so often at most: eight alike are enough for a plan of the pool's own, unless an earlier plan did not pay.
const TIMES_MOST: u64 = 12;

/// What planned steps begin with.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    /// They plan themselves.
    Auto,
    /// The last step of the program, as far as the pool can have it.
    LastStep,
}

/// What a step did: asked for a block, or freed the one of this number.
#[derive(Clone, Copy, Debug)]
enum Did {
    Alloc(Ask),
    Free(usize),
}

pub struct Steps<B: Backend> {
    /// Something of the last call is at a planned place. Of a reserve that was not touched when the arena was taken.
    pub is_planned: bool,
    /// Steps were planned at some time: there may be an arena.
    pub were_planned: bool,
    planning: Option<PlannedSteps<B>>,
    now: Vec<Did>,
    last: Vec<Did>,
    allocations: usize,
    /// Whose places are whose, in this step.
    numbers: HashMap<Place, usize>,
}

impl<B: Backend> Default for Steps<B> {
    fn default() -> Self {
        Self {
            is_planned: false,
            were_planned: false,
            planning: None,
            now: Vec::new(),
            last: Vec::new(),
            allocations: 0,
            numbers: HashMap::new(),
        }
    }
}

impl<B: Backend> Steps<B> {
    /// The program asks for a block.
    pub fn alloc(&mut self, ask: Ask) {
        self.now.push(Did::Alloc(ask));
        self.allocations += 1;
    }

    /// It has one.
    pub fn served(&mut self, place: Option<Place>) {
        if let (Some(place), Some(number)) = (place, self.allocations.checked_sub(1)) {
            self.numbers.insert(place, number);
        }
    }

    /// And frees it.
    pub fn freed(&mut self, place: Option<Place>) {
        if let Some(number) = place.and_then(|place| self.numbers.remove(&place)) {
            self.now.push(Did::Free(number));
        }
    }

    /// Blocks have moved from the first place to the second, all at once.
    pub fn moved(&mut self, moves: &[(Place, Place)]) {
        let left: Vec<_> = moves.iter().map(|(from, to)| (*to, self.numbers.remove(from))).collect();
        self.numbers.extend(left.into_iter().filter_map(|(to, number)| Some((to, number?))));
    }

    fn end(&mut self) {
        let now = mem::take(&mut self.now);
        if (1..=EVENTS_MOST).contains(&now.len()) {
            self.last = now;
        }
        self.allocations = 0;
        self.numbers.clear();
    }

    /// The last step as lifetimes, those that it did not end without a place.
    fn lifetimes(&self) -> Vec<Lifetime> {
        let (mut lifetimes, mut ends) = (Vec::new(), HashMap::new());
        for (time, did) in (0..).zip(&self.last) {
            match did {
                Did::Alloc(ask) => lifetimes.push(Lifetime::new(time, time, ask.bytes)),
                Did::Free(number) => drop(ends.insert(*number, time)),
            }
        }
        for (number, lifetime) in lifetimes.iter_mut().enumerate() {
            lifetime.upper = ends.get(&number).copied().unwrap_or(lifetime.lower);
        }
        lifetimes
    }
}

impl<B: Ground> Program<B> {
    /// A batch may be given places, and then be served without them: only the peaks remember.
    pub fn has_planned_batch(&self, asks: &[Ask]) -> bool {
        self.is_planning() && asks.len() > 1
    }

    pub fn is_planning(&self) -> bool {
        self.steps.planning.is_some()
    }

    /// Allocations that had planned places.
    pub fn planned_so_far(&self) -> u64 {
        let _pause = self.trouble.pause();
        if self.is_planning() { self.pool().stats().allocations_planned } else { 0 }
    }

    /// A backend that is to fail may refuse the arena; so may a budget that is used, or steps that are planned already.
    pub fn begin_steps(&mut self, how: Begin) {
        let planning = match how {
            Begin::Auto => caught(|| self.pool().auto_plan()),
            Begin::LastStep => {
                let lifetimes = self.steps.lifetimes();
                let options = Options::new().align(self.limits.alignment_bytes).steps(2_000);
                let Ok(plan) = plan::solve(&lifetimes, &options) else { return };
                caught(|| self.pool().follow_plan(&lifetimes, &plan))
            }
        };
        if let Some(Ok(planning)) = planning {
            assert!(!self.is_planning(), "planned twice");
            self.steps.planning = Some(planning);
            self.steps.were_planned = true;
        }
    }

    pub fn end_steps(&mut self) {
        if let Some(planning) = self.steps.planning.take() {
            assert!(!planning.report().to_string().is_empty());
            quietly(|| drop(planning));
        }
    }

    pub fn mark_step(&mut self) {
        let is_over = caught(|| self.pool().mark_step()).is_some();
        self.record_step(is_over);
        self.steps.end();
    }

    /// The last step again, and if it is the same without deviations, sometimes so often that the pool follows a plan of its own.
    pub fn repeat_step(&mut self, deviations: u64, choices: &mut impl Choices) {
        let times = if deviations == 0 { choices.pick(&[1, TIMES_MOST]) } else { 1 };
        for _ in 0..times {
            self.repeat_once(deviations, choices);
        }
    }

    /// The last step again, and its end. A block is freed if it is there.
    fn repeat_once(&mut self, deviations: u64, choices: &mut impl Choices) {
        self.mark_step();
        let mut places = Vec::new();
        for did in self.steps.last.clone() {
            if choices.chance(deviations, 100) {
                continue;
            }
            match did {
                Did::Alloc(mut ask) => {
                    if choices.chance(deviations, 100) {
                        ask.bytes = choices.even_in_log(ask.bytes.min(self.setup.budget_bytes));
                    }
                    let before = self.held.len();
                    if before < self.setup.blocks_most {
                        self.trail.add(Event::Alloc(ask));
                        self.alloc(ask);
                    }
                    places.push(self.held.get(before..).and_then(|held| held.first()?.facts.place));
                }
                Did::Free(number) => {
                    let place = places.get(number).copied().flatten();
                    let index = self.held.iter().rposition(|held| place.is_some() && held.facts.place == place);
                    if let Some(index) = index {
                        self.trail.add(Event::Free(index));
                        self.free(index);
                    }
                }
            }
            self.poll_rung();
            self.compare_now_and_then();
        }
    }
}
