//! A snapshot's pickle as data: protocols 0 to 5, read as a stream, and nothing in it executed.
//!
//! A pickle is a program for a small stack machine. This one knows all its instructions, and those that would look up a
//! name, call it or ask it to restore itself leave [`Value::Other`] where their result would be.
//!
//! Only what a snapshot is read for stays in memory. A text is a [`Word`] or forgotten. A dictionary keeps the keys that are
//! words, and becomes a row as soon as it has those of one: an entry, a block, an annotation. Rows side by side on the stack
//! become a run, so that a batch of millions, as C++ writes it, waits in little memory. The value of another key, call stacks
//! above all, is given up with everything in it. If such a thing is recalled later, [`Value::Other`] is in its place:
//! PyTorch's snapshots have call stacks in many places, and nothing else.

use std::collections::HashMap;
use std::io::BufRead;

use super::machine::Machine;
use super::words::Word;
use crate::trace::fault::Fault;

const _: () = assert!(size_of::<Value>() == 16 && size_of::<Row>() == 40 && size_of::<Contents>() == 56);

/// A value. What a container holds is in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// What is no plain data, or of no use here.
    Other,
    Int(i64),
    /// Over 2^63.
    Large(u64),
    Word(Word),
    /// The empty tuple.
    Empty,
    /// A list or a tuple.
    List(Container),
    Dict(Container),
    /// Rows that wait together on the stack for the list that they are of.
    Run(Container),
}

impl Value {
    pub(super) fn container(self) -> Option<Container> {
        match self {
            Self::List(container) | Self::Dict(container) | Self::Run(container) => Some(container),
            _ => None,
        }
    }
}

/// A container's place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Container(pub(super) u32);

/// A dictionary of a kind that there are many of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Row {
    Entry(EntryRow),
    Block(BlockRow),
    Annotation(AnnotationRow),
}

/// Something that the allocator did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct EntryRow {
    pub(super) action: Word,
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) time_us: i64,
}

/// A part of a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BlockRow {
    pub(super) address: Option<u64>,
    pub(super) bytes: u64,
    /// What was asked for, if the block is in use.
    pub(super) used_bytes: Option<u64>,
}

/// The start or the end of something that the program did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AnnotationRow {
    pub(super) name: Word,
    pub(super) is_end: bool,
    pub(super) time_us: i64,
    pub(super) device: i64,
}

/// A pickle's values.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) containers: Vec<Contents>,
    pub(super) root: Value,
}

#[derive(Debug)]
pub(super) struct Contents {
    /// Where in the file it begins.
    pub(super) byte: u64,
    pub(super) items: Items,
    /// It is in more than one place, or may be: it stays.
    pub(super) is_shared: bool,
    /// Its items were read.
    pub(super) is_taken: bool,
    /// Whether `memo` says what it is remembered under.
    pub(super) is_remembered: bool,
    pub(super) memo: u32,
}

#[derive(Debug)]
pub(super) enum Items {
    /// A list's items.
    Values(Vec<Value>),
    /// A list's items that are all of one kind.
    Entries(Vec<EntryRow>),
    Blocks(Vec<BlockRow>),
    Annotations(Vec<AnnotationRow>),
    /// A dictionary's keys and values.
    Fields(Vec<(Word, Value)>),
    /// What a dictionary is; `None` where it is a row of no use.
    Row(Option<Row>),
}

impl Items {
    /// Returns how much memory the items take, without the room that a growing vector has in reserve.
    pub(super) fn bytes(&self) -> usize {
        // The first item makes room for four.
        let of = |len: usize, bytes: usize| if len == 0 { 0 } else { len.max(4) * bytes };
        match self {
            Self::Values(values) => of(values.len(), size_of::<Value>()),
            Self::Entries(rows) => of(rows.len(), size_of::<EntryRow>()),
            Self::Blocks(rows) => of(rows.len(), size_of::<BlockRow>()),
            Self::Annotations(rows) => of(rows.len(), size_of::<AnnotationRow>()),
            Self::Fields(fields) => of(fields.len(), size_of::<(Word, Value)>()),
            Self::Row(_) => 0,
        }
    }
}

impl Pickle {
    pub(super) fn read(reader: &mut dyn BufRead) -> Result<Self, Fault> {
        Machine::new(reader).run()
    }

    pub(super) fn contents(&self, container: Container) -> &Contents {
        &self.containers[container.0 as usize]
    }
}

impl Contents {
    /// A dictionary's value for a key.
    pub(super) fn get(&self, key: Word) -> Option<Value> {
        let Items::Fields(fields) = &self.items else { return None };
        fields.iter().find(|(found, _)| *found == key).map(|(_, value)| *value)
    }

    /// The number that a dictionary has for a key, from 0 to 2^64.
    pub(super) fn size(&self, key: Word) -> Result<u64, Fault> {
        match self.get(key) {
            Some(Value::Int(number)) if number >= 0 => Ok(number as u64),
            Some(Value::Large(number)) => Ok(number),
            Some(Value::Int(number)) => {
                Err(self.expected("a whole number from 0 to 2^64", key, &format!("found {number}")))
            }
            Some(_) => Err(self.expected("a whole number from 0 to 2^64", key, "found something else")),
            None => Err(self.expected("a whole number from 0 to 2^64", key, "and there is none")),
        }
    }

    /// The address that a dictionary has for a key. One that was written by C++ has a sign.
    pub(super) fn address(&self, key: Word) -> Result<u64, Fault> {
        match self.get(key) {
            Some(Value::Int(number)) => Ok(number as u64),
            _ => self.size(key),
        }
    }

    fn expected(&self, what: &str, key: Word, found: &str) -> Fault {
        self.fault(format!("expected {what} for {:?}, {found}", key.text()))
    }

    pub(super) fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::byte(self.byte, what)
    }

    /// Returns the row that a dictionary is, if it has what makes it one. `None` inside is a row of no use.
    pub(super) fn row(&self) -> Result<Option<Option<Row>>, Fault> {
        if let Items::Row(row) = self.items {
            return Ok(Some(row));
        }
        // Texts that are no words may have become `Other`.
        if let Some(action) = self.get(Word::Action) {
            return Ok(Some(self.entry(action)?.map(Row::Entry)));
        }
        if let Some(state) = self.get(Word::State) {
            return Ok(Some(Some(Row::Block(self.block(state)?))));
        }
        if let (Some(stage), Some(Value::Int(time_us))) = (self.get(Word::Stage), self.get(Word::TimeUs)) {
            return Ok(Some(self.annotation(stage, time_us).map(Row::Annotation)));
        }
        Ok(None)
    }

    fn entry(&self, action: Value) -> Result<Option<EntryRow>, Fault> {
        // `free_requested`, `snapshot`, and whatever later versions write are of no use.
        let Value::Word(action) = action else { return Ok(None) };
        let has_address = match action {
            Word::Oom => false,
            Word::Alloc | Word::FreeCompleted => true,
            Word::SegmentAlloc | Word::SegmentFree | Word::SegmentMap | Word::SegmentUnmap => true,
            _ => return Ok(None),
        };
        let address = if has_address { self.address(Word::Addr)? } else { 0 };
        let time_us = if let Some(Value::Int(time_us)) = self.get(Word::TimeUs) { time_us } else { 0 };
        Ok(Some(EntryRow { action, address, bytes: self.size(Word::Size)?, time_us }))
    }

    fn block(&self, state: Value) -> Result<BlockRow, Fault> {
        let address = self.get(Word::Address).map(|_| self.address(Word::Address)).transpose()?;
        let bytes = self.size(Word::Size)?;
        let used_bytes = match state {
            // Not every version writes what was asked for.
            Value::Word(Word::Active) if self.get(Word::RequestedSize).is_none() => Some(bytes),
            Value::Word(Word::Active) => Some(self.size(Word::RequestedSize)?),
            _ => None,
        };
        Ok(BlockRow { address, bytes, used_bytes })
    }

    fn annotation(&self, stage: Value, time_us: i64) -> Option<AnnotationRow> {
        let name = match self.get(Word::Name) {
            Some(Value::Word(name @ (Word::OptimizerStep | Word::ZeroGrad))) => name,
            _ => return None,
        };
        let Some(Value::Int(device)) = self.get(Word::Device) else { return None };
        Some(AnnotationRow { name, is_end: stage == Value::Word(Word::End), time_us, device })
    }
}

/// What values are remembered by: numbers that count up. Only what is of use is kept; all else that was remembered is
/// [`Value::Other`].
#[derive(Debug, Default)]
pub(super) struct Memo {
    kept: HashMap<u32, Value>,
    /// The number after the largest.
    end: u64,
    /// How many values were remembered.
    pub(super) count: u32,
}

impl Memo {
    /// How many values are kept.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn get(&self, key: u32) -> Option<Value> {
        self.kept.get(&key).copied().or_else(|| (u64::from(key) < self.end).then_some(Value::Other))
    }

    pub(super) fn remember(&mut self, key: u32, value: Value) {
        self.end = self.end.max(u64::from(key) + 1);
        self.count = self.count.wrapping_add(1);
        match value {
            Value::Other | Value::Word(Word::Other) | Value::Run(_) => drop(self.kept.remove(&key)),
            _ => drop(self.kept.insert(key, value)),
        }
    }

    pub(super) fn forget(&mut self, key: u32) {
        self.kept.remove(&key);
    }
}
