//! What happens in a program on a pool, and how often.

use super::bombs::{Bomb, CALLBACKS, Payload};
use super::choices::Choices;
use super::disturbed::Ground;
use super::planned::Begin;
use super::pool::Program;
use super::pool_record::Paper;
use super::pool_requests::Ask;
use super::pool_wakers::Manner;
use super::trouble::Failure;

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Alloc(Ask),
    Batch {
        first: Ask,
        count: usize,
    },
    /// A future that is waited for, or looked at once and dropped.
    Async {
        ask: Ask,
        is_dropped: bool,
    },
    Free(usize),
    FreeMany {
        from: usize,
        count: usize,
    },
    Hold(usize),
    EndHold(usize),
    Write {
        index: usize,
        is_whole: bool,
    },
    Fill {
        index: usize,
        pattern: [u8; 4],
        len: usize,
    },
    Copy {
        from: usize,
        to: usize,
    },
    /// A block grows or shrinks in place.
    Resize {
        index: usize,
        bytes: u64,
        is_zeroed: bool,
    },
    Verify(usize),
    Trim,
    SetBudget(u64),
    Look,
    /// A part of the blocks is lent to the pool: each with this chance of 8.
    Compact {
        chance: u64,
        wanted: Option<u64>,
    },
    Fail {
        creations: u64,
        how: Failure,
        transfers: u64,
        zeroings: u64,
        write: u64,
    },
    Arm(Bomb),
    Late(u64),
    /// Planned steps begin.
    Begin(Begin),
    /// And end.
    End,
    /// The program says that a step begins.
    Mark,
    /// Repeats what it did in its last step, with so many deviations in a hundred events.
    Repeat {
        deviations: u64,
    },
    /// A future that waits in line, for one block or for `count` more.
    Join {
        ask: Ask,
        count: usize,
        manner: Manner,
    },
    Poll {
        index: usize,
        manner: Manner,
    },
    /// A future is dropped.
    Leave(usize),
    /// A future is not looked at any more until its time is over.
    Neglect(usize),
    /// A block for wakers to free.
    Offer(usize),
    Record(Paper),
    EndRecord {
        is_finished: bool,
    },
    /// The last handle goes, and a block gives another.
    Orphan {
        freed: usize,
    },
}

/// What a program has or has not: each program stresses something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    Core,
    Holds,
    Failures,
    Bombs,
    Lateness,
    Planned,
    Compaction,
    Budgets,
    Futures,
    Recording,
    Handles,
}

const FEATURES: usize = Feature::Handles as usize + 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Alloc,
    Batch,
    Async,
    Free,
    FreeMany,
    Hold,
    EndHold,
    Write,
    Fill,
    Copy,
    Resize,
    Verify,
    Trim,
    SetBudget,
    Look,
    Compact,
    Fail,
    Arm,
    Late,
    Begin,
    End,
    Mark,
    Repeat,
    Join,
    Poll,
    Leave,
    Neglect,
    Offer,
    Record,
    EndRecord,
    Orphan,
}

/// All kinds, and what the weights of a phase are multiplied with, so that common events are common.
const KINDS: [(Kind, u32, Feature); 31] = [
    (Kind::Alloc, 60, Feature::Core),
    (Kind::Batch, 4, Feature::Core),
    (Kind::Async, 1, Feature::Core),
    (Kind::Free, 50, Feature::Core),
    (Kind::FreeMany, 1, Feature::Core),
    (Kind::Hold, 4, Feature::Holds),
    (Kind::EndHold, 5, Feature::Holds),
    (Kind::Write, 6, Feature::Core),
    (Kind::Fill, 3, Feature::Core),
    (Kind::Copy, 4, Feature::Core),
    (Kind::Resize, 8, Feature::Core),
    (Kind::Verify, 4, Feature::Core),
    (Kind::Trim, 1, Feature::Core),
    (Kind::SetBudget, 2, Feature::Budgets),
    (Kind::Look, 1, Feature::Core),
    (Kind::Compact, 2, Feature::Compaction),
    (Kind::Fail, 2, Feature::Failures),
    (Kind::Arm, 3, Feature::Bombs),
    (Kind::Late, 1, Feature::Lateness),
    (Kind::Begin, 2, Feature::Planned),
    (Kind::End, 1, Feature::Planned),
    (Kind::Mark, 3, Feature::Planned),
    (Kind::Repeat, 6, Feature::Planned),
    (Kind::Join, 4, Feature::Futures),
    (Kind::Poll, 4, Feature::Futures),
    (Kind::Leave, 3, Feature::Futures),
    (Kind::Neglect, 1, Feature::Futures),
    (Kind::Offer, 2, Feature::Futures),
    (Kind::Record, 1, Feature::Recording),
    (Kind::EndRecord, 1, Feature::Recording),
    (Kind::Orphan, 1, Feature::Handles),
];

/// How often each kind happens; 0: never.
pub struct Weights([u32; KINDS.len()]);

/// The features of a program.
pub struct Features([bool; FEATURES]);

impl Features {
    pub fn draw(choices: &mut impl Choices) -> Self {
        let density = choices.pick(&[0, 1, 2, 2, 3, 4]);
        Self(std::array::from_fn(|feature| feature == Feature::Core as usize || choices.chance(density, 4)))
    }

    /// The weights of a phase.
    pub fn weights(&self, choices: &mut impl Choices) -> Weights {
        let mut weights = choices.swarm();
        for (weight, (_, common, feature)) in weights.iter_mut().zip(KINDS) {
            *weight *= if self.0[feature as usize] { common } else { 0 };
        }
        Weights(weights)
    }
}

impl<B: Ground> Program<B> {
    /// `None` if there is nothing to do it with: then the phase is over.
    pub fn choose(&self, choices: &mut impl Choices, weights: &Weights, sizes: &[u32; 4]) -> Option<Event> {
        let most = self.held.len();
        let kind = if most < self.setup.blocks_most { KINDS[choices.weighted(&weights.0)].0 } else { Kind::FreeMany };
        let ask = |choices: &mut _| Ask::draw(choices, &self.setup, sizes);
        Some(match kind {
            Kind::Alloc => Event::Alloc(ask(choices)),
            Kind::Batch => Event::Batch { first: ask(choices), count: choices.below(6) as usize },
            Kind::Async => Event::Async { ask: ask(choices), is_dropped: choices.chance(1, 2) },
            Kind::EndHold => Event::EndHold(choices.below(self.retired.len().max(1) as u64) as usize),
            Kind::Trim => Event::Trim,
            Kind::SetBudget => Event::SetBudget(self.choose_budget(choices)),
            Kind::Look => Event::Look,
            Kind::Fail => Event::Fail {
                creations: choices.below(4),
                how: choices.pick(&[Failure::OutOfMemory, Failure::OutOfMemory, Failure::Device, Failure::Panic]),
                transfers: choices.below(3),
                zeroings: choices.pick(&[0, 0, 1, 5]),
                write: choices.pick(&[0, 0, 1, 2]),
            },
            Kind::Arm => Event::Arm(Bomb {
                callback: choices.pick(&CALLBACKS),
                fuse: choices.even_in_log(20),
                times: choices.pick(&[1, 1, 1, 3]),
                payload: choices.pick(&[Payload::Plain, Payload::Plain, Payload::Panics]),
            }),
            Kind::Late => Event::Late(choices.pick(&[0, 1, 7])),
            Kind::Begin => Event::Begin(choices.pick(&[Begin::Auto, Begin::Auto, Begin::LastStep])),
            Kind::End => Event::End,
            Kind::Mark => Event::Mark,
            Kind::Repeat => Event::Repeat { deviations: choices.pick(&[0, 0, 0, 2, 10, 40]) },
            Kind::Join => {
                Event::Join { ask: ask(choices), count: choices.pick(&[0, 0, 0, 1, 3]), manner: Manner::draw(choices) }
            }
            Kind::Poll | Kind::Leave | Kind::Neglect if self.waiters.is_empty() => return None,
            Kind::Poll => Event::Poll { index: self.choose_waiter(choices), manner: Manner::draw(choices) },
            Kind::Leave => Event::Leave(self.choose_waiter(choices)),
            Kind::Neglect => Event::Neglect(self.choose_waiter(choices)),
            Kind::Record => Event::Record(Paper::draw(choices)),
            Kind::EndRecord => Event::EndRecord { is_finished: choices.chance(1, 2) },
            _ if most == 0 => return None,
            _ => self.choose_block(choices, kind),
        })
    }

    fn choose_waiter(&self, choices: &mut impl Choices) -> usize {
        choices.below(self.waiters.len() as u64) as usize
    }

    /// Often what the pool was opened with, or little less.
    fn choose_budget(&self, choices: &mut impl Choices) -> u64 {
        let first_bytes = self.first_budget_bytes;
        match choices.below(8) {
            0..=2 => first_bytes,
            3..=4 => first_bytes - choices.below(first_bytes / 2 + 1),
            5 => choices.below(first_bytes.saturating_mul(2) + 1),
            6 => choices.even_in_log(first_bytes),
            _ => choices.pick(&[0, 1, self.setup.staging_bytes + self.setup.reserve_bytes]),
        }
    }

    /// What a block of so many bytes is to have.
    fn choose_size(&self, choices: &mut impl Choices, bytes: u64) -> u64 {
        match choices.below(8) {
            0..=2 => choices.below(bytes + 1),
            3..=5 => bytes + choices.even_in_log(4096),
            6 => bytes.saturating_mul(2),
            _ => choices.pick(&[0, 1, self.setup.budget_bytes, u64::MAX]),
        }
    }

    fn choose_block(&self, choices: &mut impl Choices, kind: Kind) -> Event {
        let most = self.held.len() as u64;
        // Often the youngest.
        let index = if choices.chance(1, 4) { most - 1 } else { choices.below(most) } as usize;
        match kind {
            Kind::Free => Event::Free(index),
            Kind::FreeMany => Event::FreeMany { from: index, count: 1 + choices.below(most) as usize },
            Kind::Hold => Event::Hold(index),
            Kind::Write => Event::Write { index, is_whole: choices.chance(1, 4) },
            Kind::Fill => Event::Fill {
                index,
                pattern: choices.below(1 << 32).to_le_bytes()[..4].try_into().expect("4"),
                len: 1 + choices.below(4) as usize,
            },
            Kind::Copy => Event::Copy { from: index, to: choices.below(most) as usize },
            Kind::Resize => Event::Resize {
                index,
                bytes: self.choose_size(choices, self.held[index].facts.bytes),
                is_zeroed: choices.chance(1, 4),
            },
            Kind::Compact => Event::Compact {
                chance: choices.pick(&[8, 8, 4, 1]),
                wanted: choices.chance(1, 4).then(|| choices.even_in_log(self.setup.budget_bytes)),
            },
            Kind::Offer => Event::Offer(index),
            Kind::Orphan => Event::Orphan { freed: choices.below(most.min(4)) as usize },
            _ => Event::Verify(index),
        }
    }
}
