//! Logs of addresses: what PyTorch and RMM write down, where an address names a block from its allocation to its free, and
//! the log may begin when many blocks are already alive.

use std::collections::HashMap;

use super::{Trace, TraceBuilder};
use crate::error::{Error, Result};

/// A line of such a log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    Alloc { address: u64, bytes: u64 },
    Free { address: u64, bytes: u64 },
    Failure { bytes: u64 },
}

/// A log, and what is known beside it.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) entries: Vec<Entry>,
    /// Address and bytes of blocks that are alive at the end, where the log's writer says.
    pub(super) alive_at_end: Vec<(u64, u64)>,
}

impl Log {
    /// First the blocks that must have been alive before, by address, then the entries. An address that is allocated
    /// while it is alive was freed unseen; a free of one that is not alive, but was, is left out. Both are counted in
    /// the header: several threads write one log, and allocators that are reset write nothing.
    ///
    /// # Errors
    /// As [`TraceBuilder::alloc`], with the index of the entry.
    pub(super) fn trace(&self, mut builder: TraceBuilder) -> Result<Trace, (usize, String)> {
        let at = |index| move |error: Error| (index, error.to_string());
        let mut alive = HashMap::new();
        for (address, bytes) in self.alive_before() {
            alive.insert(address, builder.alloc(bytes, "").map_err(at(0))?);
        }
        // The recording begins: what was alive stands before its first step.
        builder.step(1);
        let (mut freed_unseen, mut frees_left_out) = (0u64, 0u64);
        for (index, entry) in self.entries.iter().enumerate() {
            match *entry {
                Entry::Alloc { address, bytes } => {
                    if let Some(id) = alive.remove(&address) {
                        builder.free(id).map_err(at(index))?;
                        freed_unseen += 1;
                    }
                    alive.insert(address, builder.alloc(bytes, "").map_err(at(index))?);
                }
                Entry::Free { address, .. } => match alive.remove(&address) {
                    Some(id) => builder.free(id).map_err(at(index))?,
                    None => frees_left_out += 1,
                },
                Entry::Failure { bytes } => builder.failure(bytes, ""),
            }
        }
        for (key, count) in [("freed_unseen", freed_unseen), ("frees_left_out", frees_left_out)] {
            if count > 0 {
                builder.header(key, &count.to_string());
            }
        }
        Ok(builder.finish())
    }

    /// What is freed before it is allocated, and what is alive at the end and in no entry.
    fn alive_before(&self) -> Vec<(u64, u64)> {
        let mut before = HashMap::new();
        for entry in &self.entries {
            match *entry {
                Entry::Alloc { address, .. } => before.entry(address).or_insert(None),
                Entry::Free { address, bytes } => before.entry(address).or_insert(Some(bytes)),
                Entry::Failure { .. } => continue,
            };
        }
        for (address, bytes) in &self.alive_at_end {
            before.entry(*address).or_insert(Some(*bytes));
        }
        let mut before: Vec<_> =
            before.into_iter().filter_map(|(address, bytes)| bytes.map(|bytes| (address, bytes))).collect();
        before.sort_unstable();
        before
    }
}
