//! Compaction: blocks move, with what they hold and what is known of them.

use tensorpool::{Compaction, ErrorKind, Request, Result};

use super::Count;
use super::bombs::caught;
use super::choices::Choices;
use super::disturbed::Ground;
use super::pool::{Held, Program};
use super::pool_events::WHOLE_BYTES_MOST;
use super::pool_model::Facts;

impl<B: Ground> Program<B> {
    /// Lends the pool each block with this chance of 8, until there is room for so many bytes, if any are given.
    pub fn compact(&mut self, chance: u64, wanted: Option<u64>, choices: &mut impl Choices) {
        let lent: Vec<bool> = self.held.iter().map(|_| choices.chance(chance, 8)).collect();
        let is_near = self.trouble.is_near();
        let pool = self.pool().clone();
        let movable = self.held.iter_mut().zip(&lent).filter(|(_, is_lent)| **is_lent);
        let movable = movable.map(|(held, _)| &mut held.block);
        let result = caught(|| match wanted {
            Some(bytes) => pool.compact_for(&Request::bytes(bytes), movable),
            None => pool.compact(movable),
        });
        drop(pool);
        if let Some(Err(error)) = &result {
            let is_right = match error.kind() {
                ErrorKind::OverBudget | ErrorKind::TooLarge => wanted.is_some(),
                kind => is_near && matches!(kind, ErrorKind::Device | ErrorKind::DeviceLost),
            };
            assert!(is_right, "{error}");
        }
        // Blocks go to places that wakers have freed meanwhile, and wakers get places that blocks have left.
        self.collect_freed();
        let moves = self.moves(&lent);
        self.done[Count::Compactions] += 1;
        self.done[Count::Moved] += moves.len() as u64;
        self.books.move_all(&moves);
        let places = moves.iter().filter_map(|(before, after)| Some((before.place?, after.place?)));
        self.steps.moved(&places.collect::<Vec<_>>());
        self.collect_got();
        self.verify_moved(&lent, lost_most(&result));
        if let Some(Ok(done)) = result {
            self.judge_compaction(&done, moves.len() as u64);
        }
    }

    /// What blocks were and are that went elsewhere. What is not lent, or held by others, stays.
    fn moves(&mut self, lent: &[bool]) -> Vec<(Facts, Facts)> {
        let mut moves = Vec::new();
        for (held, is_lent) in self.held.iter_mut().zip(lent) {
            let Held { block, facts, holds, .. } = held;
            let (before, after) = (*facts, Facts::of(block, facts.label, facts.is_high, facts.align_bytes));
            assert_eq!(after.bytes, before.bytes, "the bytes of a block, lent or not: {block:?}");
            if after.place == before.place {
                assert_eq!(after.held_bytes, before.held_bytes, "{before:?}");
                continue;
            }
            // Pages of another slab may be of another size, and the last page of a slab may be smaller.
            assert!(*is_lent && holds.is_empty(), "{block:?} has moved from {:?}", before.place);
            *facts = after;
            moves.push((before, after));
        }
        moves
    }

    /// At most so many of the lent blocks have lost what was in them.
    fn verify_moved(&mut self, lent: &[bool], lost_most: usize) {
        if !B::KEEPS_BYTES {
            return;
        }
        let trouble = std::sync::Arc::clone(&self.trouble);
        let _pause = trouble.pause();
        let mut lost = 0;
        for (index, is_lent) in lent.iter().copied().enumerate() {
            let Held { block, content: Some(content), .. } = &self.held[index] else { continue };
            let is_whole = is_lent && block.bytes() <= WHOLE_BYTES_MOST;
            if self.tolerate(|| content.differs(block, is_whole)).flatten().is_some() {
                lost += usize::from(is_lent);
                if lost > lost_most || !is_lent {
                    self.tolerate(|| content.verify(block, is_whole));
                }
                self.held[index].content = None;
            }
        }
    }

    fn judge_compaction(&self, done: &Compaction, moved: u64) {
        assert!(done.blocks_moved >= moved, "{moved} blocks are elsewhere: {done:?}");
        assert!(!done.to_string().is_empty());
        let _pause = self.trouble.pause();
        if !self.has_waited && !self.is_late() && !self.setup.zero_on_free {
            let largest_bytes = self.pool().stats().largest_free_run_bytes;
            assert_eq!(done.largest_free_run_bytes, largest_bytes, "the longest free run");
        }
    }
}

/// A copy that fails while a block slides, and cannot be undone, loses what was in that block; so may one that panics.
pub fn lost_most(result: &Option<Result<Compaction>>) -> usize {
    match result {
        Some(Ok(_)) => 0,
        Some(Err(error)) => usize::from(error.to_string().contains("lost")),
        None => 1,
    }
}
