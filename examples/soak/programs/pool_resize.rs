//! Blocks that grow and shrink where they are.

use tensorpool::{Block, Error, ErrorKind, RefusedBy, Result};

use super::Count;
use super::bombs::caught;
use super::disturbed::Ground;
use super::pool::{Held, Program};
use super::pool_judge::slab_bytes_for;
use super::pool_model::{Facts, Place};

/// New bytes that are looked at, at either end of them.
const SAMPLE_BYTES: u64 = 256;

impl<B: Ground> Program<B> {
    /// A block is to have so many bytes, whatever it has.
    pub fn resize(&mut self, index: usize, bytes: u64, is_zeroed: bool) {
        self.verify(index, false);
        self.collect();
        let is_near = self.trouble.is_near();
        let mut held = self.held.swap_remove(index);
        let before = held.facts;
        let result = caught(|| match is_zeroed {
            _ if bytes < before.bytes => held.block.shrink(bytes),
            true => held.block.try_grow_zeroed(bytes),
            false => held.block.try_grow(bytes),
        });
        // What wakers have freed may be what the block has taken.
        self.collect_freed();
        let after = Facts::of(&held.block, before.label, before.is_high, before.align_bytes);
        assert_eq!(after.place, before.place, "a block that was to have {bytes} bytes has moved");
        match result {
            Some(Ok(())) => {
                assert_eq!(after.bytes, bytes);
                self.done[Count::Resized] += u64::from(bytes != before.bytes);
                self.resized(&mut held, &before, &after);
                self.look_at_new_bytes(&mut held, &before, is_zeroed);
            }
            Some(Err(error)) => {
                let is_same = (after.bytes, after.held_bytes) == (before.bytes, before.held_bytes);
                assert!(is_same, "{before:?} to {bytes}, in vain: {after:?}");
                self.judge_resize(&before, bytes, is_near, &error);
            }
            None => {
                // A shrink that has begun ends; it is told in the block.
                let is_same = (after.bytes, after.held_bytes) == (before.bytes, before.held_bytes);
                assert!(is_same || after.bytes == bytes, "{before:?} to {bytes}: {after:?}");
                self.resized(&mut held, &before, &after);
            }
        }
        held.facts = after;
        held.content = held.content.and_then(|content| content.within(after.bytes));
        self.held.push(held);
        self.collect_got();
        self.verify(self.held.len() - 1, false);
    }

    /// The books and the record are told.
    fn resized(&mut self, held: &mut Held<B>, before: &Facts, after: &Facts) {
        if before.bytes == after.bytes {
            return;
        }
        let left = self.books.resize(before, after, !held.holds.is_empty());
        held.left.extend(left);
        if after.held_bytes > before.held_bytes && !before.is_high {
            self.check_reserve(&format!("{before:?} to {after:?}"));
        }
        if let Some((number, _)) = held.entry
            && self.record_number() == Some(number)
        {
            self.record_free(held.entry);
            held.entry = self.record_alloc(after, Some(number));
        }
    }

    /// Those that were to be zeroed are, and so are those of another owner in a pool that zeroes.
    fn look_at_new_bytes(&self, held: &mut Held<B>, before: &Facts, is_zeroed: bool) {
        let from = match (is_zeroed, self.setup.zero_on_free) {
            (true, _) => before.bytes,
            (false, true) => before.held_bytes,
            _ => return,
        };
        if B::KEEPS_BYTES && held.block.bytes() > from {
            self.tolerate(|| are_zeros(&held.block, from));
        }
    }

    /// Panics if the error is not one that this growth, or shrinking, could have.
    fn judge_resize(&self, before: &Facts, bytes: u64, is_near: bool, error: &Error) {
        let is_right = match error.kind() {
            ErrorKind::NotInPlace => bytes > before.held_bytes,
            ErrorKind::Full => {
                let is_right = error.shortage().is_some_and(|shortage| match shortage.refused_by {
                    RefusedBy::Queue => !self.waiters.is_empty(),
                    RefusedBy::Reserve => self.setup.reserve_bytes > 0 && !before.is_high,
                    RefusedBy::Kept => shortage.cached_bytes > 0,
                    RefusedBy::Budget => {
                        let taken_bytes = shortage.used_bytes + shortage.retired_bytes;
                        // A slab may have more than a budget that was lowered.
                        shortage.needed_bytes > self.setup.open_bytes().saturating_sub(taken_bytes)
                    }
                    _ => false,
                });
                is_right && bytes > before.held_bytes
            }
            ErrorKind::Invalid => bytes == 0 && before.bytes > 0,
            ErrorKind::TooLarge => {
                let (bytes, saved) = slab_bytes_for((bytes, 1), &self.setup, &self.limits, self.address_bytes);
                bytes - saved > self.limits.slab.bytes
            }
            ErrorKind::OutOfMemory => self.address_bytes > 0 && is_near,
            ErrorKind::Device | ErrorKind::DeviceLost => is_near,
            _ => false,
        };
        assert!(is_right, "{:?} for {before:?} to {bytes} bytes: {error}", error.kind());
    }

    /// What a block has left behind it, with holds on it, is free as soon as they are over.
    pub fn vacate_all(&mut self, left: Vec<Place>) {
        left.into_iter().for_each(|place| self.books.vacate(place));
    }
}

/// Looks at the bytes from `from` on, at either end of them.
fn are_zeros<B: Ground>(block: &Block<B>, from: u64) -> Result<()> {
    let len = SAMPLE_BYTES.min(block.bytes() - from);
    for at in [from, block.bytes() - len] {
        let mut found = [0xff; SAMPLE_BYTES as usize];
        let found = &mut found[..len as usize];
        block.download(at, found)?;
        assert!(found.iter().all(|byte| *byte == 0), "{found:x?} at {at} of {block:?}, where zeros are new");
    }
    Ok(())
}
