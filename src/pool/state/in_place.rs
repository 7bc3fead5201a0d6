//! Blocks that grow and shrink where they are: the pages behind them, and what that does to the books.

use super::place::Lack;
use super::{Holds, Home, Retired, Short, Slot, State};
use crate::error::RefusedBy;
use crate::pool::{Priority, Request};
use crate::space::{Extent, Obstacle};
use crate::sync::Arc;

/// Why a block cannot have the bytes behind it.
pub(in crate::pool) enum Denied {
    /// The block's place does not allow it.
    Obstacle { obstacle: Obstacle, first: First },
    /// So many bytes are behind it, and others are to have them. `may_come_home`: enough bytes count as held that may be in no use.
    Short { more_bytes: u64, short: Short, may_come_home: bool },
    /// So many free bytes are behind it without memory, and the budget has only so many left to reserve.
    Memory { more_bytes: u64, left_bytes: u64 },
}

/// What is right behind the free pages behind a block, if that was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::pool) struct First {
    /// Where it begins.
    pub(in crate::pool) place: (Slot, u64),
    /// The bytes of it, if it is a block without an owner.
    pub(in crate::pool) retired_bytes: Option<u64>,
    /// It is to be zeroed and then free. Or another thread zeroes places, and that may be one.
    pub(in crate::pool) is_dirty: bool,
}

impl<S> State<S> {
    /// Takes the pages that a block needs behind it to hold `bytes` bytes. Until [`grew`](Self::grew) or
    /// [`unreserve`](Self::unreserve) they count as cached. `None` if they are free, and some have no memory.
    pub(in crate::pool) fn reserve_behind(&mut self, home: &Home<S>, bytes: u64) -> Result<Option<Home<S>>, Denied> {
        let more_bytes = self.bytes_behind(home, bytes)?;
        let slot = home.slab.slot;
        let Some(extent) = self.space_mut(slot).take_behind(home.extent, more_bytes) else { return Ok(None) };
        self.settle(slot);
        self.books.take_listed(extent.bytes());
        Ok(Some(Home { slab: Arc::clone(&home.slab), extent }))
    }

    /// Memory that a block needs behind it has come.
    pub(in crate::pool) fn reserved_behind(&mut self, behind: &Home<S>) {
        self.books.list(behind.extent.bytes());
    }

    /// Returns why a block does not get so many bytes behind it, though they are free: no memory can be committed for them.
    pub(in crate::pool) fn denied_memory(&self, more_bytes: u64) -> Denied {
        Denied::Memory { more_bytes, left_bytes: self.left_bytes() }
    }

    /// Returns the bytes that a block takes behind it to hold `bytes` bytes, if it may have them.
    pub(in crate::pool) fn bytes_behind(&self, home: &Home<S>, bytes: u64) -> Result<u64, Denied> {
        let (slot, extent) = (home.slab.slot, home.extent);
        let space = &self.entry(slot).space;
        let more_bytes = space.bytes_behind(extent, bytes).map_err(|obstacle| self.denied(slot, extent, obstacle))?;
        // What a block was asked for with is not kept, but for its part of a reserve.
        let priority = if extent.is_marked() { Priority::High } else { Priority::Normal };
        if !self.may_be_served(&[Request::bytes(more_bytes).priority(priority)]) {
            return Err(Denied::Short { more_bytes, short: Short::Turn, may_come_home: false });
        }
        if more_bytes > self.open_bytes(priority) {
            let refused_by = match more_bytes {
                _ if more_bytes <= self.books.left_bytes() => RefusedBy::Reserve,
                // The arena and free lists have the rest.
                _ if more_bytes <= self.books.unused_bytes() => RefusedBy::Kept,
                _ => RefusedBy::Budget,
            };
            let lack = Lack { index: 0, needed_bytes: more_bytes, refused_by, is_left: false };
            let idle_bytes = self.books.listed_bytes().saturating_add(self.books.retired_bytes());
            let may_come_home = more_bytes - self.open_bytes(priority) <= idle_bytes;
            return Err(Denied::Short { more_bytes, short: Short::Of(lack), may_come_home });
        }
        Ok(more_bytes)
    }

    /// Finds what is right behind the free pages, where pages in use are.
    #[cold]
    fn denied(&self, slot: Slot, extent: Extent, obstacle: Obstacle) -> Denied {
        let Obstacle::Pages { free_bytes, .. } = obstacle else {
            return Denied::Obstacle { obstacle, first: First::default() };
        };
        let place = (slot, extent.offset() + extent.bytes() + free_bytes);
        let retired = self.retired.iter().find(|retired| retired.home.place() == place);
        let first = First {
            place,
            retired_bytes: retired.map(|retired| retired.home.extent.bytes()),
            is_dirty: retired.map_or(!self.zeroing.is_empty(), Retired::waits_to_be_zeroed),
        };
        Denied::Obstacle { obstacle, first }
    }

    /// A block has grown from so many bytes asked, to others. `behind` is its own from now on, if it has taken pages for that.
    pub(in crate::pool) fn grew(
        &mut self,
        home: &mut Home<S>,
        behind: Option<Home<S>>,
        from: u64,
        (to, label): (u64, &str),
    ) {
        if let Some(behind) = behind {
            let held_bytes = behind.extent.bytes();
            self.books.unlist(held_bytes);
            if home.extent.is_marked() {
                self.books.take_high(held_bytes);
            }
            home.extent = home.extent.joined(behind.extent);
            self.passed();
        }
        self.books.grew(to - from);
        self.record_resize(home, to, label);
    }

    /// Returns the parts of a block that is to hold `bytes` bytes: what it keeps, and the pages behind that, if there are any.
    pub(in crate::pool) fn shortened(&self, home: &Home<S>, bytes: u64) -> Option<(Extent, Home<S>)> {
        let (kept, extent) = self.entry(home.slab.slot).space.shortened(home.extent, bytes)?;
        Some((kept, Home { slab: Arc::clone(&home.slab), extent }))
    }

    /// A block has shrunk from so many bytes asked, to others. What it had `behind` is free, as a block is that was freed: at once, if no hold
    /// is left on it and it is not to be zeroed first.
    pub(in crate::pool) fn shrank(
        &mut self,
        home: &Home<S>,
        behind: Option<(Home<S>, Option<Holds>, bool)>,
        from: u64,
        (to, label): (u64, &str),
    ) {
        self.books.shrank(from - to);
        self.record_resize(home, to, label);
        if let Some((behind, holds, is_dirty)) = behind {
            self.give_back(Retired::new(behind, holds, is_dirty));
        }
    }
}
