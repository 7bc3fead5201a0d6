//! Lifetimes with the names of their buffers, and how they come from allocations and frees.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::Hash;

use super::Lifetime;
use crate::error::{Error, ErrorKind, Result};

/// Lifetimes, with the names of their buffers and the alignments that these need. Derefs to the slice of lifetimes, which is what
/// [`solve`](super::solve) takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes<Id = u64> {
    ids: Vec<Id>,
    lifetimes: Vec<Lifetime>,
    aligns: Vec<u64>,
}

impl<Id> Lifetimes<Id> {
    /// None.
    pub fn new() -> Self {
        Self { ids: Vec::new(), lifetimes: Vec::new(), aligns: Vec::new() }
    }

    /// Adds one. Two may have the same id, as when a program uses a number again.
    pub fn push(&mut self, id: Id, lifetime: Lifetime) {
        self.push_aligned(id, lifetime, 1);
    }

    /// Adds one whose offset must be a multiple of `align_bytes`, a power of two, for plans of [`solve`](Self::solve).
    pub fn push_aligned(&mut self, id: Id, lifetime: Lifetime, align_bytes: u64) {
        self.ids.push(id);
        self.lifetimes.push(lifetime);
        self.aligns.push(align_bytes);
    }

    /// Of each lifetime, in the same order.
    pub fn ids(&self) -> &[Id] {
        &self.ids
    }

    /// The lifetimes.
    pub fn as_slice(&self) -> &[Lifetime] {
        &self.lifetimes
    }

    /// What each buffer's offset must be a multiple of, in bytes, in the same order.
    pub fn aligns(&self) -> &[u64] {
        &self.aligns
    }
}

impl<Id> std::ops::Deref for Lifetimes<Id> {
    type Target = [Lifetime];

    fn deref(&self) -> &[Lifetime] {
        &self.lifetimes
    }
}

/// Makes lifetimes of allocations and frees, in the order in which they happen. Each event is one tick of the clock.
///
/// ```
/// use tensorpool::plan::{Lifetime, LifetimesBuilder};
///
/// let mut builder = LifetimesBuilder::new();
/// builder.alloc("weights", 400)?;
/// builder.begin_step();
/// builder.alloc("x", 100)?;
/// builder.alloc("y", 50)?;
/// builder.free(&"x")?;
/// let lifetimes = builder.finish();
/// assert_eq!(lifetimes.ids(), ["weights", "x", "y"]);
/// assert_eq!(lifetimes[..2], [Lifetime::new(0, 4, 400), Lifetime::new(1, 3, 100)]);
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LifetimesBuilder<Id = u64> {
    now: u64,
    /// In the order of allocation; the upper end of what is live is not known yet.
    lifetimes: Lifetimes<Id>,
    /// Where those that are live stand.
    live: HashMap<Id, usize>,
}

impl<Id: Clone + Debug + Eq + Hash> LifetimesBuilder<Id> {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self { now: 0, lifetimes: Lifetimes::new(), live: HashMap::new() }
    }

    /// A buffer is allocated.
    ///
    /// # Errors
    ///
    /// A buffer of this id is live; nothing has changed then.
    pub fn alloc(&mut self, id: Id, bytes: u64) -> Result<()> {
        match self.live.entry(id) {
            Entry::Occupied(entry) => {
                let message = format!("buffer {:?} is allocated, and it is live already", entry.key());
                Err(Error::new(ErrorKind::Invalid, message))
            }
            Entry::Vacant(entry) => {
                let id = entry.key().clone();
                entry.insert(self.lifetimes.len());
                self.lifetimes.push(id, Lifetime::new(self.now, u64::MAX, bytes));
                self.now += 1;
                Ok(())
            }
        }
    }

    /// A buffer is freed.
    ///
    /// # Errors
    ///
    /// No buffer of this id is live; nothing has changed then.
    pub fn free(&mut self, id: &Id) -> Result<()> {
        let Some(index) = self.live.remove(id) else {
            return Err(Error::new(ErrorKind::Invalid, format!("buffer {id:?} is freed, and it is not live")));
        };
        self.lifetimes.lifetimes[index].upper = self.now;
        self.now += 1;
        Ok(())
    }

    /// A step begins: what has ended is forgotten, and what is live counts as allocated just now. Called at the
    /// beginning of each step, it leaves the lifetimes of the last one.
    pub fn begin_step(&mut self) {
        let mut kept = Lifetimes::new();
        for (id, lifetime) in std::mem::take(&mut self.lifetimes.ids).into_iter().zip(&self.lifetimes.lifetimes) {
            if lifetime.upper == u64::MAX {
                self.live.insert(id.clone(), kept.len());
                kept.push(id, Lifetime { lower: 0, ..*lifetime });
            }
        }
        self.lifetimes = kept;
        self.now = u64::from(!self.lifetimes.is_empty());
    }

    /// The lifetimes, in the order of allocation. What is live still lives to the end.
    pub fn finish(mut self) -> Lifetimes<Id> {
        // At least one tick after the last allocation, so that no lifetime is empty.
        let end = self.now;
        for lifetime in &mut self.lifetimes.lifetimes {
            lifetime.upper = lifetime.upper.min(end);
        }
        self.lifetimes
    }
}

impl<Id: Clone + Debug + Eq + Hash> Default for LifetimesBuilder<Id> {
    fn default() -> Self {
        Self::new()
    }
}
